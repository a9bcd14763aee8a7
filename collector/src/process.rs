//! Finds the process behind a pid.
//!
//! Takes a pid, produces a [`Found`]: who the process is (pid, start time, name)
//! and a future that completes when it has exited. Promises that both belong to
//! the same process, even if the pid is reused meanwhile.
#![forbid(unsafe_code)]

use std::{fs, io, os::fd::OwnedFd, path::PathBuf, pin::Pin};

use netio::v1;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Completes when the process has exited, all of its threads included.
pub(crate) type ExitSignal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A running process.
pub(crate) struct Found {
    pub(crate) process: v1::Process,
    pub(crate) exited: ExitSignal,
}

/// Why a pid names no process that could be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    #[error(
        "there is no process {0}, or it has exited: check the pid, for instance with `ps -p {0}`"
    )]
    NotFound(u32),
    #[error(
        "{pid} is a thread of process {leader}: a watch covers a whole process, so ask for pid {leader}"
    )]
    Thread { pid: u32, leader: u32 },
    #[error(
        "cannot look at process {pid}: {source}; see the log of the collector's host for the cause and try again"
    )]
    Unreadable { pid: u32, source: io::Error },
}

/// Where processes are looked up.
pub(crate) trait Processes: Send + Sync {
    /// Finds a running process. Called within a tokio runtime.
    fn find(&self, pid: u32) -> Result<Found, FindError>;
}

/// The processes of this host (of the collector's pid namespace).
pub(crate) struct ProcFs {
    root: PathBuf,
}

impl ProcFs {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn read(&self, pid: u32, file: &str) -> io::Result<Vec<u8>> {
        fs::read(self.root.join(pid.to_string()).join(file))
    }

    /// What to answer when a pid is no process: is it at least a thread of one?
    fn not_a_process(&self, pid: u32) -> FindError {
        let leader = self
            .read(pid, "status")
            .ok()
            .and_then(|status| thread_group(&status));
        match leader {
            Some(leader) if leader != pid => FindError::Thread { pid, leader },
            _ => FindError::NotFound(pid),
        }
    }

    fn describe(&self, pid: u32) -> io::Result<v1::Process> {
        let stat = self.read(pid, "stat")?;
        let start_time_ns = start_time_ns(&stat, rustix::param::clock_ticks_per_second())
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "its stat file has no start time",
                )
            })?;
        Ok(v1::Process {
            pid,
            start_time_ns,
            name: printable_name(&self.read(pid, "comm")?),
        })
    }
}

impl Processes for ProcFs {
    fn find(&self, pid: u32) -> Result<Found, FindError> {
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(FindError::NotFound(pid))?;
        // The order is what defeats pid reuse: the pidfd holds on to one
        // process; what procfs tells is that process's as long as it has not
        // exited afterwards.
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|error| match error {
            // Kernels differ in what they answer for a thread that leads no group.
            Errno::SRCH | Errno::INVAL | Errno::NOENT => self.not_a_process(pid),
            error => FindError::Unreadable {
                pid,
                source: error.into(),
            },
        })?;
        let described = self.describe(pid);
        let unreadable = |source| FindError::Unreadable { pid, source };
        if has_exited(&pidfd).map_err(unreadable)? {
            return Err(FindError::NotFound(pid));
        }
        Ok(Found {
            process: described.map_err(unreadable)?,
            exited: exit_signal(pidfd).map_err(unreadable)?,
        })
    }
}

fn has_exited(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(poll(&mut fds, Some(&at_once))? > 0)
}

fn exit_signal(pidfd: OwnedFd) -> io::Result<ExitSignal> {
    // Its successor is unsafe, for the sake of types whose descriptor may change
    // or close while they are registered; an OwnedFd's does not.
    #[expect(deprecated)]
    let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
    Ok(Box::pin(async move {
        // Fails only when the runtime itself goes away.
        let _ = pidfd.readable().await;
    }))
}

/// Field 22 of /proc/PID/stat, in nanoseconds since boot. The name in field 2
/// may hold spaces and parentheses, so fields are counted from its last ')'.
fn start_time_ns(stat: &[u8], clock_ticks_per_second: u64) -> Option<u64> {
    let stat = String::from_utf8_lossy(stat);
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: u64 = after_name.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let nanoseconds = u128::from(ticks) * 1_000_000_000 / u128::from(clock_ticks_per_second.max(1));
    u64::try_from(nanoseconds).ok()
}

/// The `Tgid:` line of /proc/PID/status.
fn thread_group(status: &[u8]) -> Option<u32> {
    String::from_utf8_lossy(status)
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// A name that is safe to print: any process may choose its own, so it may hold
/// terminal escapes.
fn printable_name(comm: &[u8]) -> String {
    let comm = comm.strip_suffix(b"\n").unwrap_or(comm);
    String::from_utf8_lossy(comm)
        .chars()
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}

#[cfg(test)]
pub(crate) mod fake {
    //! Processes that start and exit as a test says.

    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use netio::v1;
    use tokio_util::sync::CancellationToken;

    use super::{FindError, Found, Processes};

    /// Clones share the processes.
    #[derive(Clone, Default)]
    pub(crate) struct FakeProcesses {
        running: Arc<Mutex<BTreeMap<u32, (v1::Process, CancellationToken)>>>,
    }

    impl FakeProcesses {
        /// Starts a process with the given pid; `start` tells one user of a pid
        /// from the next.
        pub(crate) fn start(&self, pid: u32, start: u64) -> v1::Process {
            let process = v1::Process {
                pid,
                start_time_ns: start,
                name: format!("process-{pid}"),
            };
            let entry = (process.clone(), CancellationToken::new());
            self.running.lock().unwrap().insert(pid, entry);
            process
        }

        pub(crate) fn exit(&self, pid: u32) {
            let (_, exited) = self.running.lock().unwrap().remove(&pid).unwrap();
            exited.cancel();
        }
    }

    impl Processes for FakeProcesses {
        fn find(&self, pid: u32) -> Result<Found, FindError> {
            let running = self.running.lock().unwrap();
            let (process, exited) = running.get(&pid).ok_or(FindError::NotFound(pid))?;
            Ok(Found {
                process: process.clone(),
                exited: Box::pin(exited.clone().cancelled_owned()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;

    /// A /proc whose only process is this one, with the given files.
    fn proc_with(stat: &str, comm: &[u8]) -> (tempfile::TempDir, ProcFs) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(std::process::id().to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("comm"), comm).unwrap();
        let proc = ProcFs::new(root.path());
        (root, proc)
    }

    const STAT: &str = "7 (a) b (c)) S 1 7 7 0 -1 4194560 10 0 0 0 1 2 0 0 20 0 1 0 4242 9 8 7\n";

    #[test]
    fn start_time_is_counted_from_the_last_parenthesis() {
        assert_eq!(start_time_ns(STAT.as_bytes(), 100), Some(42_420_000_000));
        assert_eq!(start_time_ns(b"7 (name) S 1 7", 100), None);
        assert_eq!(start_time_ns(b"", 100), None);
    }

    #[tokio::test]
    async fn a_hostile_name_is_made_printable() {
        let (_root, proc) = proc_with(STAT, b"\x1b[2J\nx\xff\n");
        let found = proc.find(std::process::id()).unwrap();
        assert_eq!(found.process.name, "\u{FFFD}[2J\u{FFFD}x\u{FFFD}");
        assert_eq!(
            found.process.start_time_ns,
            4242 * (1_000_000_000 / rustix::param::clock_ticks_per_second())
        );
    }

    #[tokio::test]
    async fn a_broken_stat_is_an_error_and_no_process() {
        let (_root, proc) = proc_with("nonsense", b"x\n");
        let error = proc.find(std::process::id()).err().unwrap();
        assert!(matches!(error, FindError::Unreadable { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_real_process_is_found_and_its_exit_noticed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let proc = ProcFs::new("/proc");
        let found = proc.find(child.id()).unwrap();
        assert_eq!(found.process.pid, child.id());
        assert!(found.process.start_time_ns > 0);

        let mut exited = found.exited;
        let still_running = tokio::time::timeout(Duration::from_millis(50), &mut exited).await;
        assert!(still_running.is_err());
        child.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(10), exited)
            .await
            .expect("the exit is noticed");

        // A zombie has exited already.
        let zombie = proc.find(child.id()).err().unwrap();
        assert!(matches!(zombie, FindError::NotFound(_)), "{zombie}");
        child.wait().unwrap();
        let gone = proc.find(child.id()).err().unwrap();
        assert!(matches!(gone, FindError::NotFound(_)), "{gone}");
    }

    #[tokio::test]
    async fn a_thread_is_told_from_its_process() {
        let (tell, told) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            wait.recv().unwrap_err();
        });
        let tid = told.recv().unwrap().as_raw_nonzero().get().unsigned_abs();
        let error = ProcFs::new("/proc").find(tid).err().unwrap();
        drop(done);
        thread.join().unwrap();
        match error {
            FindError::Thread { pid, leader } => {
                assert_eq!((pid, leader), (tid, std::process::id()));
            }
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn pids_out_of_range_are_not_found() {
        let proc = ProcFs::new("/proc");
        for pid in [0, u32::MAX, i32::MAX.unsigned_abs()] {
            let error = proc.find(pid).err().unwrap();
            assert!(matches!(error, FindError::NotFound(_)), "{error}");
        }
    }
}
