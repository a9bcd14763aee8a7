//! A MariaDB server of the test's own: temporary directory, loopback, ended
//! when dropped.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{PATIENCE, Result};

pub struct Server {
    process: Child,
    pub address: SocketAddr,
    _directory: TempDir,
}

impl Server {
    /// What is lacking to start one, if anything.
    pub fn lacks() -> Option<&'static str> {
        let found = Command::new("mariadbd")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok();
        (!found).then_some("mariadbd (apt-get install mariadb-server-core)")
    }

    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let data = directory.path().join("data");
        let log = |name: &str| File::create(directory.path().join(name));
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=root", "--skip-test-db"])
            .arg("--auth-root-authentication-method=normal")
            .arg(format!("--datadir={}", data.display()))
            .stdout(log("install.log")?)
            .stderr(Stdio::null())
            .status()?;
        if !installed.success() {
            return Err(text(directory.path(), "install.log").into());
        }
        // A port that is free now; the server has it a moment later.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let process = Command::new("mariadbd")
            .args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1"])
            .args([
                "--max-allowed-packet=64M",
                "--skip-log-bin",
                "--skip-name-resolve",
            ])
            .arg(format!("--port={port}"))
            .arg(format!("--datadir={}", data.display()))
            .arg(format!(
                "--socket={}",
                directory.path().join("socket").display()
            ))
            .arg(format!(
                "--pid-file={}",
                directory.path().join("pid").display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log("server.log")?)
            .spawn()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Self {
            process,
            address,
            _directory: directory,
        };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if server.process.try_wait()?.is_some() || start.elapsed() > PATIENCE {
                return Err(text(server._directory.path(), "server.log").into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(directory: &Path, log: &str) -> String {
    std::fs::read_to_string(directory.join(log)).unwrap_or_default()
}
