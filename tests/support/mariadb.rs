//! A MariaDB server of the test's own: temporary directory, loopback, ended
//! when dropped.
//!
//! [`Server::prepare`] makes its tables and chooses its port, so that it may be
//! watched before it runs; it may be killed and started again, at the same port
//! with the same data.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{
    Result,
    servers::{await_listening, free_address, program, text},
};

/// The name that the kernel has for it.
pub const NAME: &str = "mariadbd";

pub struct Server {
    process: Option<Child>,
    pub address: SocketAddr,
    directory: TempDir,
}

impl Server {
    /// What is lacking to start one, if anything.
    pub fn lacks() -> Option<&'static str> {
        program(NAME)
            .is_none()
            .then_some("mariadbd (apt-get install mariadb-server-core)")
    }

    /// All but the process.
    pub fn prepare() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("install.log");
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=root", "--skip-test-db"])
            .arg("--auth-root-authentication-method=normal")
            .arg(format!("--datadir={}", data(directory.path()).display()))
            .stdout(File::create(&log)?)
            .stderr(Stdio::null())
            .status()?;
        if !installed.success() {
            return Err(text(&log).into());
        }
        Ok(Self {
            process: None,
            address: free_address()?,
            directory,
        })
    }

    /// A server that listens.
    pub fn running() -> Result<Self> {
        let mut server = Self::prepare()?;
        server.start()?;
        Ok(server)
    }

    /// Starts the process and waits until it listens.
    pub fn start(&mut self) -> Result {
        self.launch()?;
        self.await_listening()
    }

    /// Starts the process.
    pub fn launch(&mut self) -> Result {
        self.kill();
        let inside = |name: &str| self.directory.path().join(name).display().to_string();
        let process = Command::new(NAME)
            .args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1"])
            .args([
                "--max-allowed-packet=64M",
                "--skip-log-bin",
                "--skip-name-resolve",
            ])
            .arg(format!("--port={}", self.address.port()))
            .arg(format!(
                "--datadir={}",
                data(self.directory.path()).display()
            ))
            .arg(format!("--socket={}", inside("socket")))
            .arg(format!("--pid-file={}", inside("pid")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.log())?)
            .spawn()?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until the process that was launched listens.
    pub fn await_listening(&mut self) -> Result {
        let log = self.log();
        let process = self.process.as_mut().ok_or("it does not run")?;
        await_listening(process, self.address, &log)
    }

    /// Ends the process with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Kills it and starts it anew, at the same port with the same data.
    pub fn restart(&mut self) -> Result {
        self.kill();
        self.start()
    }

    /// 0 if it does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}
