//! The processes of this host, by /proc.
//!
//! What a scan promises: every process that runs, and matches, from its begin to
//! its end is found. A process that vanishes meanwhile, or that must not be
//! looked at, is passed over; what hinders looking at all is an error.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

use netio::v1;
use procfs::{ProcError, process::all_processes_with_root};

use crate::kernel::ProcessId;

use super::{
    FindError, Found, Processes, Selector,
    candidate::Candidate,
    cgroup,
    databases::{self, Server, databases, forks_per_connection},
    entry::{Entry, file_name},
    exit::{Hold, HoldError},
    listeners,
};

/// A process that was seen: who has its pid now can be told from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) start_time_ns: u64,
    pub(super) pid: u32,
}

/// The processes of this host (of the collector's pid namespace).
pub(crate) struct ProcFs {
    root: PathBuf,
}

impl ProcFs {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Every process, one after the other.
    fn entries(
        &self,
    ) -> Result<impl Iterator<Item = Result<Entry, FindError>> + use<'_>, FindError> {
        let unreadable = |error| FindError::ProcUnreadable {
            root: self.root.clone(),
            source: io::Error::other(error),
        };
        let processes = all_processes_with_root(&self.root).map_err(unreadable)?;
        Ok(processes.filter_map(move |process| match process {
            Ok(process) => Entry::of(process).map(Ok),
            Err(ProcError::NotFound(_) | ProcError::PermissionDenied(_)) => None,
            Err(error) => Some(Err(unreadable(error))),
        }))
    }

    /// The processes that match a rule, before anything holds on to them.
    pub(super) fn select(&self, rule: &Selector) -> Result<BTreeSet<Seen>, FindError> {
        match rule {
            Selector::Port(port) => self.select_by_port(*port),
            Selector::Container(prefix) => self.select_by_container(prefix),
            rule => self.select_by(|entry| Candidate::new(entry).matches(rule)),
        }
    }

    fn select_by(
        &self,
        mut matches: impl FnMut(&Entry) -> bool,
    ) -> Result<BTreeSet<Seen>, FindError> {
        let mut selected = BTreeSet::new();
        for entry in self.entries()? {
            let entry = entry?;
            if matches(&entry)
                && let Some(seen) = seen(&entry)
            {
                selected.insert(seen);
            }
        }
        Ok(selected)
    }

    /// Looks for the sockets first: few namespaces to read, and without a socket
    /// there is no need to look at each process's many files.
    fn select_by_port(&self, port: u16) -> Result<BTreeSet<Seen>, FindError> {
        let mut sockets = listeners::of_all(self.entries()?)?;
        sockets.retain(|_, listens_on| *listens_on == port);
        if sockets.is_empty() {
            return Ok(BTreeSet::new());
        }
        self.select_by(|entry| {
            let mut held = entry.sockets().into_iter().flatten();
            held.any(|socket| sockets.contains_key(&socket))
        })
    }

    fn select_by_container(&self, prefix: &str) -> Result<BTreeSet<Seen>, FindError> {
        let mut ids = BTreeSet::new();
        let selected = self.select_by(|entry| {
            let cgroups = entry.cgroups().unwrap_or_default();
            let found: Vec<_> = cgroup::container_ids(&cgroups)
                .filter(|id| cgroup::begins_with(id, prefix))
                .map(str::to_owned)
                .collect();
            let matches = !found.is_empty();
            ids.extend(found);
            matches
        })?;
        if ids.len() > 1 {
            return Err(FindError::Ambiguous {
                container: prefix.to_owned(),
                ids: ids.into_iter().collect(),
            });
        }
        Ok(selected)
    }

    /// Holds on to a process that was seen, if it still runs.
    fn confirm(&self, seen: Seen) -> Result<Option<Found>, FindError> {
        match self.find(seen.pid) {
            Ok(found) => Ok((found.process.start_time_ns == seen.start_time_ns).then_some(found)),
            Err(FindError::NotFound(_) | FindError::Thread { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn confirm_all(&self, seen: BTreeSet<Seen>) -> Result<Vec<Found>, FindError> {
        seen.into_iter()
            .filter_map(|seen| self.confirm(seen).transpose())
            .collect()
    }

    /// Every process below these, before anything holds on to them.
    pub(super) fn below(&self, of: &BTreeSet<ProcessId>) -> Result<BTreeSet<Seen>, FindError> {
        let mut children: BTreeMap<u32, Vec<Seen>> = BTreeMap::new();
        let mut parents = Vec::new();
        for entry in self.entries()? {
            let entry = entry?;
            if let Ok(stat) = entry.stat() {
                // Its pid may be another's by now.
                let id = ProcessId {
                    tgid: entry.pid,
                    start_time_ns: stat.start_time_ns,
                };
                parents.extend(of.contains(&id).then_some(entry.pid));
                children.entry(stat.parent).or_default().push(Seen {
                    start_time_ns: stat.start_time_ns,
                    pid: entry.pid,
                });
            }
        }
        let mut below = BTreeSet::new();
        while let Some(parent) = parents.pop() {
            // Taken out, so that each is looked at once.
            for child in children.remove(&parent).unwrap_or_default() {
                parents.push(child.pid);
                below.insert(child);
            }
        }
        Ok(below)
    }

    fn server(entry: &Entry) -> Option<Server> {
        let comm = entry.comm().ok()?;
        let executable = entry.executable().unwrap_or_default();
        let engine = databases::engine(&comm, file_name(&executable))?;
        let stat = entry.stat().ok().filter(|stat| stat.running)?;
        let cgroups = entry.cgroups().unwrap_or_default();
        Some(Server {
            process: entry.describe(&stat, &comm, &cgroups),
            parent: stat.parent,
            engine,
            sockets: entry.sockets().into_iter().flatten().collect(),
            container: cgroup::container_id(&cgroups).unwrap_or_default(),
            unit: cgroup::unit(&cgroups).unwrap_or_default(),
        })
    }

    /// What to answer when a pid is no process: is it at least a thread of one?
    fn not_a_process(&self, pid: u32) -> FindError {
        let leader = Entry::open(&self.root, pid)
            .ok()
            .and_then(|entry| entry.thread_group());
        match leader {
            Some(leader) if leader != pid => FindError::Thread { pid, leader },
            _ => FindError::NotFound(pid),
        }
    }
}

impl Processes for ProcFs {
    fn find(&self, pid: u32) -> Result<Found, FindError> {
        let unreadable = |source| FindError::Unreadable { pid, source };
        // The order is what defeats pid reuse: the hold is on one process; what
        // procfs tells is that process's as long as it has not exited afterwards.
        let hold = Hold::on(pid).map_err(|error| match error {
            HoldError::NoProcess => self.not_a_process(pid),
            HoldError::Failed(source) => unreadable(source),
        })?;
        let facts = Entry::open(&self.root, pid).and_then(|entry| Facts::of(&entry));
        if hold.has_exited().map_err(unreadable)? {
            return Err(FindError::NotFound(pid));
        }
        let facts = facts.map_err(unreadable)?;
        Ok(Found {
            process: facts.process,
            forks_per_connection: facts.forks_per_connection,
            has_exited: hold.watcher(),
            exited: hold.exit_signal().map_err(unreadable)?,
        })
    }

    fn matching(&self, selector: &Selector) -> Result<Vec<Found>, FindError> {
        match selector {
            Selector::Pid(pid) => Ok(vec![self.find(*pid)?]),
            rule => self.confirm_all(self.select(rule)?),
        }
    }

    fn matches(&self, pid: u32, rules: &[Selector]) -> Option<(Vec<usize>, Found)> {
        let entry = Entry::open(&self.root, pid).ok()?;
        let candidate = Candidate::new(&entry);
        let matched: Vec<_> = rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| candidate.matches(rule))
            .map(|(index, _)| index)
            .collect();
        if matched.is_empty() {
            return None;
        }
        let found = self.confirm(seen(&entry)?).ok()??;
        Some((matched, found))
    }

    fn descendants(&self, of: &BTreeSet<ProcessId>) -> Result<Vec<Found>, FindError> {
        self.confirm_all(self.below(of)?)
    }

    fn describe(&self, pid: u32, start_time_ns: u64) -> Option<v1::Process> {
        let entry = Entry::open(&self.root, pid).ok()?;
        let stat = entry.stat().ok()?;
        if !stat.running || !stat.started_at(start_time_ns) {
            return None;
        }
        let cgroups = entry.cgroups().unwrap_or_default();
        Some(entry.describe(&stat, &entry.comm().ok()?, &cgroups))
    }

    fn databases(&self) -> Result<Vec<v1::Database>, FindError> {
        let mut servers = Vec::new();
        for entry in self.entries()? {
            servers.extend(Self::server(&entry?));
        }
        if servers.is_empty() {
            return Ok(Vec::new());
        }
        let listeners = listeners::of_all(self.entries()?)?;
        Ok(databases(servers, &listeners))
    }
}

/// What is told of a process that is found.
struct Facts {
    process: v1::Process,
    forks_per_connection: bool,
}

impl Facts {
    fn of(entry: &Entry) -> io::Result<Self> {
        let (stat, comm) = (entry.stat()?, entry.comm()?);
        // Kernel threads have no executable, and some kernels no cgroups.
        let executable = entry.executable().unwrap_or_default();
        let cgroups = entry.cgroups().unwrap_or_default();
        Ok(Self {
            process: entry.describe(&stat, &comm, &cgroups),
            forks_per_connection: forks_per_connection(&comm, file_name(&executable)),
        })
    }
}

fn seen(entry: &Entry) -> Option<Seen> {
    Some(Seen {
        start_time_ns: entry.stat().ok()?.start_time_ns,
        pid: entry.pid,
    })
}
