//! Real processes that a test starts, and ends when it ends.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::super::{Ancestry, Found, Processes};
use crate::kernel::ProcessId;

/// A process and its descendants, as long as they keep to its process group.
pub(super) struct Running(pub(super) Child);

impl Running {
    pub(super) fn start(command: &mut Command) -> Self {
        Self(command.process_group(0).spawn().unwrap())
    }

    /// A process that does nothing.
    pub(super) fn sleep() -> Self {
        Self::start(Command::new("sleep").arg("60"))
    }

    /// A shell's script, once it has run up to its first line of output.
    pub(super) fn script(script: &str) -> Self {
        let mut command = Command::new("sh");
        let mut running = Self::start(command.args(["-c", script]).stdout(Stdio::piped()));
        running.read_line();
        running
    }

    pub(super) fn read_line(&mut self) -> String {
        let mut line = String::new();
        let output = self.0.stdout.as_mut().unwrap();
        BufReader::with_capacity(1, output)
            .read_line(&mut line)
            .unwrap();
        line
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.0);
        // Gone already, mostly if the test itself ended it.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Makes a program of this name that sleeps.
pub(super) fn sleeper(path: &Path) {
    // Not copied by this process: were it forked meanwhile, the child would hold
    // the file open for writing, and it could not be executed.
    let copied = Command::new("cp").arg("/bin/sleep").arg(path).status();
    assert!(copied.unwrap().success());
}

pub(super) fn pids(found: &[Found]) -> Vec<u32> {
    found.iter().map(|it| it.process.pid).collect()
}

pub(super) fn set(pids: &[u32]) -> BTreeSet<u32> {
    pids.iter().copied().collect()
}

/// The descendants of these.
pub(super) fn below(processes: &dyn Processes, roots: BTreeSet<ProcessId>) -> Vec<Found> {
    let of = Ancestry {
        roots,
        ..Ancestry::default()
    };
    processes.descendants(&[of]).unwrap().remove(0)
}

/// Which processes they are that have these pids now.
pub(super) fn ids(processes: &dyn Processes, pids: &[u32]) -> BTreeSet<ProcessId> {
    pids.iter()
        .map(|pid| processes.find(*pid).unwrap().id())
        .collect()
}

/// Waits until something holds: a process that was spawned may still have to
/// execute its program.
pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
