//! A MariaDB server of the benchmark's own: temporary directory, loopback, ended
//! when dropped.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::bench::server::Server;

const NAME: &str = "sbtest";
/// So that reading takes the server's whole time: all of it fits into memory.
const ROWS: u32 = 10_000;
/// Clients that sysbench has.
const THREADS: u32 = 4;

/// See the module.
pub(super) struct Database {
    port: u16,
    /// Before the directory, which it writes to.
    _server: Server,
    _directory: TempDir,
}

impl Database {
    /// Returns when it can be connected to.
    pub(super) fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let inside = |name: &str| directory.path().join(name).display().to_string();
        let data = format!("--datadir={}", inside("data"));
        let log = directory.path().join("log");
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=root", "--skip-test-db"])
            .args(["--auth-root-authentication-method=normal", &data])
            .stdout(File::create(&log)?)
            .stderr(Stdio::null())
            .status()?;
        if !installed.success() {
            bail!(
                "cannot make a MariaDB's tables: {}",
                fs::read_to_string(&log)?
            );
        }
        let statements = directory.path().join("init.sql");
        fs::write(&statements, format!("CREATE DATABASE {NAME};\n"))?;
        // Free now; the server has it a moment later.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut server = Server::start(
            Command::new("mariadbd")
                .args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1"])
                .args(["--skip-log-bin", "--skip-name-resolve", &data])
                .arg(format!("--port={port}"))
                .arg(format!("--socket={}", inside("socket")))
                .arg(format!("--pid-file={}", inside("pid")))
                .arg(format!("--init-file={}", statements.display()))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(&log)?),
        )?;
        server.wait_until(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
        Ok(Self {
            port,
            _server: server,
            _directory: directory,
        })
    }

    /// The TCP port that it listens on.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// sysbench's reading load on it; to be completed by what to do.
    pub(super) fn sysbench(&self) -> Command {
        let mut command = Command::new("sysbench");
        command
            .args(["oltp_read_only", "--db-driver=mysql", "--mysql-user=root"])
            .arg("--mysql-host=127.0.0.1")
            .arg(format!("--mysql-port={}", self.port))
            .arg(format!("--mysql-db={NAME}"))
            .arg(format!("--table-size={ROWS}"))
            .arg(format!("--threads={THREADS}"));
        command
    }
}
