//! A PostgreSQL server of the test's own: temporary directory, loopback, no Unix
//! socket, ended with all its processes when dropped.
//!
//! It refuses to run as root, so that root starts it as the user that Debian's
//! package makes for it.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    PATIENCE, Result,
    servers::{await_listening, children, free_address, text},
    signal, wait,
};

/// Whom the server runs as.
const USER: &str = "postgres";
/// Where Debian has its releases, each with its programs.
const RELEASES: &str = "/usr/lib/postgresql";

pub struct Server {
    process: Child,
    pub address: SocketAddr,
    programs: PathBuf,
    _directory: TempDir,
}

impl Server {
    /// What is lacking to start one, if anything.
    pub fn lacks() -> Option<&'static str> {
        if programs().is_none() {
            return Some("a PostgreSQL server (apt-get install postgresql)");
        }
        let root = rustix::process::geteuid().is_root();
        (root && user().is_none()).then_some("the user postgres, as whom its server must run")
    }

    pub fn start() -> Result<Self> {
        let programs = programs().ok_or("no PostgreSQL")?;
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("log");
        let output = File::create(&log)?;
        let user = rustix::process::geteuid().is_root().then(user).flatten();
        let command = |program: &str| -> Result<Command> {
            let mut command = Command::new(programs.join(program));
            command.current_dir(&directory).stdin(Stdio::null());
            command
                .stdout(output.try_clone()?)
                .stderr(output.try_clone()?);
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            Ok(command)
        };
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid))?;
        }
        let made = command("initdb")?
            .args(["--pgdata=data", "--auth=trust", "--no-sync", "--locale=C"])
            .arg(format!("--username={USER}"))
            .status()?;
        if !made.success() {
            return Err(text(&log).into());
        }
        let address = free_address()?;
        let port = format!("port={}", address.port());
        let mut server = Self {
            process: command("postgres")?
                .args(["-D", "data", "-c", "listen_addresses=127.0.0.1"])
                .args(["-c", "unix_socket_directories="])
                .args(["-c", &port, "-c", "fsync=off", "-c", "max_connections=100"])
                .spawn()?,
            address,
            programs,
            _directory: directory,
        };
        await_listening(&mut server.process, address, &log)?;
        // It listens before it serves.
        let start = Instant::now();
        while !server.program("pg_isready", address).status()?.success() {
            if start.elapsed() > PATIENCE {
                return Err(text(&log).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        server.idle()?;
        Ok(server)
    }

    /// The postmaster's.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// One of its client programs, which connects to `address`: the server's own
    /// or a relay's.
    pub fn program(&self, name: &str, address: SocketAddr) -> Command {
        let mut command = Command::new(self.programs.join(name));
        // A user's own settings are not the test's.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PG") {
                command.env_remove(variable);
            }
        }
        command
            .args(["-h", &address.ip().to_string()])
            .args(["-p", &address.port().to_string()])
            .args(["-U", USER])
            .env("PGDATABASE", "postgres")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Waits until no process serves a client: a client that has left may still
    /// have one.
    pub fn idle(&self) -> Result {
        let start = Instant::now();
        while self.serves()? {
            if start.elapsed() > PATIENCE {
                return Err("a client of PostgreSQL's does not end".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Whether any child is one that serves a client: their titles tell whom.
    fn serves(&self) -> Result<bool> {
        let client = format!("{}(", self.address.ip());
        let serves = |pid: u32| {
            let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // A child that was just forked has its parent's still.
            let title = String::from_utf8_lossy(&title);
            title.contains(&client) || !title.starts_with("postgres: ")
        };
        Ok(children(self.pid())?.into_iter().any(serves))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ends its children too, at once; what it would have written is thrown
        // away with its directory.
        let _ = signal(&self.process, Signal::QUIT);
        if wait(&mut self.process, PATIENCE).is_err() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// The folder with the newest release's programs.
fn programs() -> Option<PathBuf> {
    let releases = fs::read_dir(Path::new(RELEASES)).ok()?;
    let release = |path: &Path| -> Option<u32> { path.file_name()?.to_str()?.parse().ok() };
    releases
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("bin/postgres").is_file() && path.join("bin/initdb").is_file())
        .max_by_key(|path| release(path))
        .map(|path| path.join("bin"))
}

/// The ids of user and group.
fn user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = users
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(USER)).then_some(fields))?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some((uid, gid))
}
