//! A process that a benchmark starts, and ends however the benchmark goes.

use std::fs;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::command::{output, shown};

/// The time that a start or an end may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it has happened.
const LOOK: Duration = Duration::from_millis(20);

/// Killed when dropped.
pub(super) struct Server {
    shown: String,
    pub(super) process: Child,
}

impl Server {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let shown = shown(command);
        let process = command
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        Ok(Self { shown, process })
    }

    /// Waits until it is `ready`, which it must be before it ends.
    pub(super) fn wait_until(&mut self, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.process.try_wait()? {
                bail!("`{}` ended at once: {status}", self.shown);
            }
            if start.elapsed() > PATIENCE {
                bail!("`{}` is not ready after {PATIENCE:?}", self.shown);
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Fails if it has ended.
    pub(super) fn must_run(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("`{}` has ended: {status}", self.shown),
        }
    }

    /// CPU time so far, in steps of the kernel's clock (10 ms).
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        let file = format!("/proc/{}/stat", self.process.id());
        let stat = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        let ticks = cpu_ticks(&stat).with_context(|| format!("{file} says {stat:?}"))?;
        let per_second: f64 = output(Command::new("getconf").arg("CLK_TCK"))?
            .trim()
            .parse()
            .context("getconf CLK_TCK printed no number")?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// User and system time of /proc/PID/stat: "pid (name) state ppid ...", and a
/// name may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn an_early_end_is_told() {
        let mut server = Server::start(&mut Command::new("true")).expect("it starts");
        let error = server.wait_until(|| false).expect_err("it ends");
        assert!(
            error.to_string().contains("`true` ended at once"),
            "{error}"
        );
    }
}
