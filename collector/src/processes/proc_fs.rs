//! The processes of this host, by /proc.
//!
//! What a scan promises: every process that runs, and matches, from its begin to
//! its end is found. A process that vanishes meanwhile, or that must not be
//! looked at, is passed over; what hinders looking at all is an error.
#![forbid(unsafe_code)]

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

use netio::{printable, v1};
use procfs::{ProcError, process::all_processes_with_root};

use crate::kernel::ProcessId;

use super::{
    Ancestry, FindError, Found, Matching, Processes, Search, Selector,
    candidate::Candidate,
    cgroup,
    databases::{self, Server, databases, forks_per_connection},
    entry::{Entry, file_name},
    exit::{Hold, HoldError},
    listeners::{self, Listeners},
    may_be_among,
};

/// A process that was seen: who has its pid now can be told from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) start_time_ns: u64,
    pub(super) pid: u32,
}

impl Seen {
    fn id(self) -> ProcessId {
        ProcessId {
            tgid: self.pid,
            start_time_ns: self.start_time_ns,
        }
    }
}

/// The processes that match one rule.
pub(super) type Selected = Result<BTreeSet<Seen>, FindError>;

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

    /// The processes that match each of these rules and are not known, before
    /// anything holds on to them.
    pub(super) fn select(&self, searches: &[Search]) -> Result<Vec<Selected>, FindError> {
        let listeners = self.listeners(searches)?;
        let mut selected: Vec<BTreeSet<Seen>> = vec![BTreeSet::new(); searches.len()];
        let mut containers: Vec<BTreeSet<String>> = vec![BTreeSet::new(); searches.len()];
        for entry in self.entries()? {
            let entry = entry?;
            let candidate = Candidate::among(&entry, &listeners);
            let now = OnceCell::new();
            let now = || *now.get_or_init(|| seen(&entry));
            for (index, Search { rule, known }) in searches.iter().enumerate() {
                if let Selector::Container(prefix) = rule {
                    // Also of those that are known: others' may be of another one.
                    containers[index].extend(candidate.containers(prefix).map(str::to_owned));
                }
                let is_known = || now().is_some_and(|now| known.contains(&now.id()));
                if may_be_among(entry.pid, known) && is_known() {
                    continue;
                }
                if candidate.matches(rule)
                    && let Some(now) = now()
                {
                    selected[index].insert(now);
                }
            }
        }
        let each = searches.iter().zip(selected).zip(containers);
        let unambiguous = each.map(|((search, selected), ids)| match &search.rule {
            Selector::Container(container) if ids.len() > 1 => Err(FindError::Ambiguous {
                container: container.clone(),
                ids: ids.into_iter().collect(),
            }),
            _ => Ok(selected),
        });
        Ok(unambiguous.collect())
    }

    /// The sockets that listen on ports that are searched for. They are looked for
    /// first: few namespaces to read, and without a socket there is no need to look
    /// at each process's many files.
    fn listeners(&self, searches: &[Search]) -> Result<Listeners, FindError> {
        let ports = searches.iter().filter_map(|search| match search.rule {
            Selector::Port(port) => Some(port),
            _ => None,
        });
        let ports: BTreeSet<u16> = ports.collect();
        if ports.is_empty() {
            return Ok(Listeners::new());
        }
        let mut listeners = listeners::of_all(self.entries()?)?;
        listeners.retain(|_, port| ports.contains(port));
        Ok(listeners)
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

    /// Every process below the roots of each of these, but those that are known,
    /// before anything holds on to them.
    pub(super) fn below(&self, of: &[Ancestry]) -> Result<Vec<BTreeSet<Seen>>, FindError> {
        let mut children: BTreeMap<u32, Vec<Seen>> = BTreeMap::new();
        let mut parents: Vec<Vec<u32>> = vec![Vec::new(); of.len()];
        for entry in self.entries()? {
            let entry = entry?;
            if let Ok(stat) = entry.stat() {
                let seen = Seen {
                    start_time_ns: stat.start_time_ns,
                    pid: entry.pid,
                };
                for (parents, ancestry) in parents.iter_mut().zip(of) {
                    // Its pid may be another's by now.
                    parents.extend(ancestry.roots.contains(&seen.id()).then_some(entry.pid));
                }
                children.entry(stat.parent).or_default().push(seen);
            }
        }
        let below = |(mut parents, ancestry): (Vec<u32>, &Ancestry)| {
            let (mut visited, mut below) = (BTreeSet::new(), BTreeSet::new());
            while let Some(parent) = parents.pop() {
                if !visited.insert(parent) {
                    continue;
                }
                for child in children.get(&parent).into_iter().flatten() {
                    parents.push(child.pid);
                    if !ancestry.known.contains(&child.id()) {
                        below.insert(*child);
                    }
                }
            }
            below
        };
        Ok(parents.into_iter().zip(of).map(below).collect())
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
            unit: printable::without_controls(
                cgroup::unit(&cgroups).unwrap_or_default().as_bytes(),
            ),
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

    fn search(&self, searches: &[Search]) -> Result<Vec<Matching>, FindError> {
        let selected = self.select(searches)?.into_iter();
        Ok(selected.map(|it| self.confirm_all(it?)).collect())
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

    fn descendants(&self, of: &[Ancestry]) -> Result<Vec<Vec<Found>>, FindError> {
        let below = self.below(of)?.into_iter();
        below.map(|it| self.confirm_all(it)).collect()
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
