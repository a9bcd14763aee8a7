//! What benchmarks start, and end when dropped: a collector as it is shipped, and
//! processes to watch.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// What may be waited for that should take moments.
const PATIENCE: Duration = Duration::from_secs(20);

/// A collector that ticks every 100 ms.
pub(crate) struct Service {
    process: Child,
    socket: PathBuf,
    _directory: TempDir,
}

impl Service {
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("collector.sock");
        let process = Command::new(program)
            .arg("--listen")
            .arg(format!("unix://{}", socket.display()))
            .args(["--interval", "100ms"])
            .env_remove("NETIO_CONFIG")
            .env("NETIO_NO_PIN", "true")
            .env("NETIO_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let mut service = Self {
            process,
            socket,
            _directory: directory,
        };
        let start = Instant::now();
        while UnixStream::connect(&service.socket).is_err() {
            if let Some(status) = service.process.try_wait()? {
                bail!("the collector ended at once: {status}");
            }
            if start.elapsed() > PATIENCE {
                bail!("the collector does not answer");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(service)
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display()))?;
        endpoint.connect().await.context("connect to the collector")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Processes that do nothing.
pub(crate) struct Sleepers(Vec<Child>);

impl Sleepers {
    pub(crate) fn start(count: usize) -> Result<Self> {
        let mut sleepers = Self(Vec::new());
        for _ in 0..count {
            let sleeper = Command::new("sleep")
                .arg("600")
                .stdin(Stdio::null())
                .spawn()
                .context("start a process to watch")?;
            sleepers.0.push(sleeper);
        }
        Ok(sleepers)
    }

    /// One of them, whatever the number.
    pub(crate) fn pid(&self, number: usize) -> u32 {
        let place = number % self.0.len().max(1);
        self.0.get(place).map_or(0, Child::id)
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for sleeper in &mut self.0 {
            let _ = sleeper.kill();
            let _ = sleeper.wait();
        }
    }
}
