//! Finds processes: behind a pid, by rules, below others, and database servers.
//!
//! Takes pids and [`Selector`]s, produces a [`Found`] for each process: who it is
//! (pid, start time, names), and a future that completes when it has exited.
//! Promises that both belong to the same process, even if the pid is reused
//! meanwhile.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, io, path::PathBuf};

use netio::v1;

use crate::kernel::ProcessId;

mod brief;
mod candidate;
mod cgroup;
mod databases;
mod entry;
mod exit;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod listeners;
mod proc_fs;
mod selector;
#[cfg(test)]
mod tests;

pub(crate) use brief::brief;
pub(crate) use exit::{ExitSignal, HasExited};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::fuzz_selector;
pub(crate) use proc_fs::ProcFs;
pub(crate) use selector::{Selector, SelectorError};

/// A running process.
pub(crate) struct Found {
    /// Who it is, everything filled.
    pub(crate) process: v1::Process,
    /// Whether it serves each connection by a child, as PostgreSQL does.
    pub(crate) forks_per_connection: bool,
    pub(crate) has_exited: HasExited,
    pub(crate) exited: ExitSignal,
}

impl Found {
    /// Which process it is.
    pub(crate) fn id(&self) -> ProcessId {
        ProcessId {
            tgid: self.process.pid,
            start_time_ns: self.process.start_time_ns,
        }
    }
}

/// A rule, and the processes that need not be found, as they are known.
pub(crate) struct Search {
    pub(crate) rule: Selector,
    pub(crate) known: BTreeSet<ProcessId>,
}

/// Processes whose descendants are looked for, and those of them that need not be
/// found.
#[derive(Clone, Default)]
pub(crate) struct Ancestry {
    pub(crate) roots: BTreeSet<ProcessId>,
    pub(crate) known: BTreeSet<ProcessId>,
}

/// Whether the process with this pid may be among these; its start time tells.
fn may_be_among(pid: u32, processes: &BTreeSet<ProcessId>) -> bool {
    let at = |start_time_ns| ProcessId {
        tgid: pid,
        start_time_ns,
    };
    processes.range(at(0)..=at(u64::MAX)).next().is_some()
}

/// What a search for one rule gave.
pub(crate) type Matching = Result<Vec<Found>, FindError>;

/// Why there is no process that could be watched.
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
    #[error(
        "no process matches {selector} now: check it, or set wait, so that the watch begins when the first one starts",
        selector = brief(&.0.to_string())
    )]
    NoMatch(Selector),
    #[error(
        "{container} fits {count} containers ({ids}{more}): give more digits of the id",
        count = .ids.len(),
        ids = .ids.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", "),
        more = if .ids.len() > MAX_NAMED { ", ..." } else { "" }
    )]
    Ambiguous { container: String, ids: Vec<String> },
    #[error(
        "cannot list the processes in {root}: {source}; see whether it is mounted there, and whether the collector is short of file descriptors (`ulimit -n`)"
    )]
    ProcUnreadable { root: PathBuf, source: io::Error },
}

/// Containers that are named in one message.
const MAX_NAMED: usize = 4;

/// Where processes are looked up. Every call blocks, for a few milliseconds with
/// some hundred processes on the host, and is made within a tokio runtime.
pub(crate) trait Processes: Send + Sync {
    /// Finds a running process.
    fn find(&self, pid: u32) -> Result<Found, FindError>;

    /// The running processes that match, oldest first (by start time, then pid).
    /// None, if nothing matches a rule; a pid must be found.
    fn matching(&self, selector: &Selector) -> Matching {
        if let Selector::Pid(pid) = selector {
            return Ok(vec![self.find(*pid)?]);
        }
        let search = Search {
            rule: selector.clone(),
            known: BTreeSet::new(),
        };
        self.search(&[search])?
            .pop()
            .unwrap_or_else(|| Ok(Vec::new()))
    }

    /// The same for each of these rules, by looking at all processes once, and
    /// without the processes that are known. What fails for one rule alone is that
    /// one's error.
    fn search(&self, searches: &[Search]) -> Result<Vec<Matching>, FindError>;

    /// Which of these rules a process matches (their indices), and the process;
    /// `None` if it matches none, or is gone. Reads only what the rules need:
    /// this is for each exec on the host.
    fn matches(&self, pid: u32, rules: &[Selector]) -> Option<(Vec<usize>, Found)>;

    /// For each of these the running descendants of its roots, as far as they still
    /// run, oldest first, without those that are known; a root only if it descends
    /// from another. Looks at all processes once.
    fn descendants(&self, of: &[Ancestry]) -> Result<Vec<Vec<Found>>, FindError>;

    /// What a process that was forked a moment ago is, if it still runs and has
    /// this start time.
    fn describe(&self, pid: u32, start_time_ns: u64) -> Option<v1::Process>;

    /// The database servers of the host, in order of pid; at most 1,024.
    fn databases(&self) -> Result<Vec<v1::Database>, FindError>;
}
