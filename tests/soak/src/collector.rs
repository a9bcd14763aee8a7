//! The collector under test, a process of its own, and what /proc tells of it.
#![forbid(unsafe_code)]

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    param::page_size,
    process::{Pid, Signal, kill_process},
};

use crate::{PATIENCE, Result, binary, site::Site};

/// So that the history is full, and grows no more, well within the first quarter.
const HISTORY: &str = "5s";
/// So that some of those that stall are dropped, and some are not.
const STALL: &str = "3s";
/// Lines of its log that are shown when something fails.
const TAIL: usize = 20;

/// Killed when dropped.
pub(crate) struct Collector {
    process: Child,
    folder: PathBuf,
    tls: SocketAddr,
}

impl Collector {
    /// On a Unix socket in that folder, and with TLS on loopback.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let program = binary("netio-collector");
        let certs = folder.join("tls");
        let made = Command::new(&program)
            .args(["certs", "init"])
            .arg(&certs)
            .args(["--host", "127.0.0.1"])
            .stdout(Stdio::null())
            .status()
            .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        if !made.success() {
            return Err(format!("no certificates: {made}").into());
        }
        // Free now; the collector has it a moment later.
        let tls = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let file = |name: &str| certs.join(name);
        let process = Command::new(&program)
            .arg("--listen")
            .arg(format!("unix://{}", folder.join("sock").display()))
            .arg("--listen")
            .arg(format!("tls://{tls}"))
            .arg("--tls-cert")
            .arg(file("server.pem"))
            .arg("--tls-key")
            .arg(file("server-key.pem"))
            .arg("--tls-client-ca")
            .arg(file("ca.pem"))
            .args(["--grant", "watch cn=netio-client", "--history", HISTORY])
            // Another collector may have what is pinned.
            .arg("--no-pin")
            .args(["--max-subscribers", "4096", "--stall-timeout", STALL])
            .env_remove("NETIO_CONFIG")
            .env("NETIO_LOG", "warn,audit=error")
            .stdin(Stdio::null())
            .stderr(File::create(folder.join("log"))?)
            .spawn()?;
        let mut collector = Self {
            process,
            folder: folder.to_owned(),
            tls,
        };
        let start = Instant::now();
        while UnixStream::connect(folder.join("sock")).is_err() {
            collector.must_run()?;
            if start.elapsed() > PATIENCE {
                return Err("the collector does not answer".into());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(collector)
    }

    pub(crate) fn site(&self) -> Result<Site> {
        Site::new(self.folder.join("sock"), self.tls, &self.folder.join("tls"))
    }

    pub(crate) fn must_run(&mut self) -> Result {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the collector has ended: {status}").into()),
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let file = format!("/proc/{}/statm", self.process.id());
        let statm = fs::read_to_string(file)?;
        let pages = statm.split_whitespace().nth(1).ok_or("a strange statm")?;
        Ok(pages.parse::<u64>()? * page_size() as u64)
    }

    /// Descriptors that are open.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count())
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(&mut self) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > PATIENCE {
                return Err("the collector does not end".into());
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Fails if it has told of a defect.
    pub(crate) fn check_log(&self) -> Result {
        let log = self.log();
        let is_bad = |line: &&str| line.contains("panicked") || line.contains(" ERROR ");
        match log.lines().find(is_bad) {
            None => Ok(()),
            Some(line) => Err(format!("the collector says: {line}").into()),
        }
    }

    /// The end of what it has said.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..);
        tail.unwrap_or_default().join("\n")
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
