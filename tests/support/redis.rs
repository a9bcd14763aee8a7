//! A Redis server of the test's own: temporary directory, loopback, nothing kept,
//! ended when dropped.
//!
//! Its name is always redis-server. Debian's program of that name is a link to
//! redis-check-rdb, which is told by its name what to be and comes without the
//! service; here the link is in the temporary directory.

use std::{
    fs::File,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{
    Result,
    servers::{await_listening, free_address, program},
};

/// The name that the kernel has for it.
pub const NAME: &str = "redis-server";

pub struct Server {
    process: Child,
    pub address: SocketAddr,
    _directory: TempDir,
}

impl Server {
    /// What is lacking to start one and to load it, if anything.
    pub fn lacks() -> Option<&'static str> {
        let there = executable().is_some() && program("redis-benchmark").is_some();
        (!there).then_some("a Redis server and redis-benchmark (apt-get install redis-tools)")
    }

    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let named = directory.path().join(NAME);
        symlink(executable().ok_or("no Redis")?, &named)?;
        let log = directory.path().join("log");
        let output = File::create(&log)?;
        let address = free_address()?;
        let process = Command::new(&named)
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let mut server = Self {
            process,
            address,
            _directory: directory,
        };
        await_listening(&mut server.process, address, &log)?;
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The load generator, which connects to `address`: the server's own or a
    /// relay's.
    pub fn benchmark(address: SocketAddr) -> Command {
        let mut command = Command::new("redis-benchmark");
        command
            .args(["-h", &address.ip().to_string()])
            .args(["-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn executable() -> Option<PathBuf> {
    let found = program(NAME).or_else(|| program("redis-check-rdb"))?;
    found.canonicalize().ok()
}
