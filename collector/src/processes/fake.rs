//! Processes that start, exec, listen and exit as a test says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
};

use netio::v1;
use tokio_util::sync::CancellationToken;

use crate::kernel::{ProcessId, fake::Gate};

use super::{
    Ancestry, FindError, Found, Matching, Processes, Search, Selector,
    cgroup::{begins_with, container_id, container_ids, is_of_unit, lies_in, unit},
    databases::{Server, databases, engine, forks_per_connection},
    listeners::Listeners,
};

/// Clones share the processes.
#[derive(Clone, Default)]
pub(crate) struct FakeProcesses {
    running: Arc<Mutex<BTreeMap<u32, FakeProcess>>>,
    /// How often all processes were looked at.
    pub(crate) looks: Arc<AtomicU32>,
    /// Looks take until it is open.
    pub(crate) looking: Gate,
    /// Looks that are under way, and the most that were.
    pub(crate) under_way: Arc<(AtomicU32, AtomicU32)>,
    /// How many processes were found.
    pub(crate) found: Arc<AtomicU32>,
}

struct FakeProcess {
    process: v1::Process,
    parent: u32,
    ports: BTreeSet<u16>,
    exited: CancellationToken,
}

impl FakeProcesses {
    /// Starts a process with the given pid, named "process-PID", a child of
    /// process 1; `start` tells one user of a pid from the next.
    pub(crate) fn start(&self, pid: u32, start: u64) -> v1::Process {
        self.start_as(pid, start, &format!("process-{pid}"), 1)
    }

    /// Starts a process with this name and parent.
    pub(crate) fn start_as(&self, pid: u32, start: u64, name: &str, parent: u32) -> v1::Process {
        let process = v1::Process {
            pid,
            start_time_ns: start,
            name: name.to_owned(),
            container_pid: pid,
            cgroup: String::new(),
        };
        let started = FakeProcess {
            process: process.clone(),
            parent,
            ports: BTreeSet::new(),
            exited: CancellationToken::new(),
        };
        self.running().insert(pid, started);
        process
    }

    /// The process executes another program.
    pub(crate) fn exec(&self, pid: u32, name: &str) {
        self.change(pid, |it| it.process.name = name.to_owned());
    }

    /// The process listens on this port, too.
    pub(crate) fn listen(&self, pid: u32, port: u16) {
        self.change(pid, |it| {
            it.ports.insert(port);
        });
    }

    /// The process moves to this cgroup.
    pub(crate) fn move_to(&self, pid: u32, cgroup: &str) {
        self.change(pid, |it| it.process.cgroup = cgroup.to_owned());
    }

    pub(crate) fn exit(&self, pid: u32) {
        let gone = self.running().remove(&pid).unwrap();
        gone.exited.cancel();
    }

    fn look(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let (now, most) = &*self.under_way;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.looking.pass();
        now.fetch_sub(1, Ordering::SeqCst);
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u32, FakeProcess>> {
        self.running.lock().unwrap()
    }

    fn change(&self, pid: u32, change: impl FnOnce(&mut FakeProcess)) {
        change(self.running().get_mut(&pid).unwrap());
    }

    /// Oldest first.
    fn found(&self, which: impl Fn(&FakeProcess) -> bool) -> Vec<Found> {
        let running = self.running();
        let mut found: Vec<_> = running
            .values()
            .filter(|it| which(it))
            .map(FakeProcess::found)
            .collect();
        found.sort_by_key(|it| (it.process.start_time_ns, it.process.pid));
        let count = u32::try_from(found.len()).unwrap();
        self.found.fetch_add(count, Ordering::Relaxed);
        found
    }

    fn below(&self, of: &Ancestry) -> Vec<Found> {
        let ids = |which: &dyn Fn(&FakeProcess) -> bool| -> BTreeSet<u32> {
            let running = self.running();
            let which = running.values().filter(|it| which(it));
            which.map(|it| it.process.pid).collect()
        };
        let mut parents = ids(&|it| of.roots.contains(&it.id()));
        let mut below = BTreeSet::new();
        loop {
            let children = ids(&|it| parents.contains(&it.parent));
            if children == below {
                let is_below = |pid| below.contains(&pid);
                return self.found(|it| is_below(it.process.pid) && !of.known.contains(&it.id()));
            }
            parents.extend(&children);
            below = children;
        }
    }
}

impl FakeProcess {
    fn id(&self) -> ProcessId {
        ProcessId {
            tgid: self.process.pid,
            start_time_ns: self.process.start_time_ns,
        }
    }

    fn found(&self) -> Found {
        Found {
            process: self.process.clone(),
            forks_per_connection: forks_per_connection(self.process.name.as_bytes(), b""),
            has_exited: {
                let exited = self.exited.clone();
                Box::new(move || exited.is_cancelled())
            },
            exited: Box::pin(self.exited.clone().cancelled_owned()),
        }
    }

    fn cgroups(&self) -> String {
        format!("0::{}\n", self.process.cgroup)
    }

    fn matches(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Pid(pid) => self.process.pid == *pid,
            Selector::Name(name) => self.process.name == *name,
            Selector::Port(port) => self.ports.contains(port),
            Selector::Cgroup(cgroup) => lies_in(&self.process.cgroup, cgroup),
            Selector::Unit(unit) => is_of_unit(&self.cgroups(), unit),
            Selector::Container(prefix) => {
                container_ids(&self.cgroups()).any(|id| begins_with(id, prefix))
            }
        }
    }
}

impl Processes for FakeProcesses {
    fn find(&self, pid: u32) -> Result<Found, FindError> {
        let running = self.running();
        let process = running.get(&pid).ok_or(FindError::NotFound(pid))?;
        Ok(process.found())
    }

    fn search(&self, searches: &[Search]) -> Result<Vec<Matching>, FindError> {
        self.look();
        let search = |Search { rule, known }: &Search| {
            Ok(self.found(|it| it.matches(rule) && !known.contains(&it.id())))
        };
        Ok(searches.iter().map(search).collect())
    }

    fn matches(&self, pid: u32, rules: &[Selector]) -> Option<(Vec<usize>, Found)> {
        let running = self.running();
        let process = running.get(&pid)?;
        let indices = 0..rules.len();
        let matched: Vec<_> = indices.filter(|i| process.matches(&rules[*i])).collect();
        (!matched.is_empty()).then(|| (matched, process.found()))
    }

    fn descendants(&self, of: &[Ancestry]) -> Result<Vec<Vec<Found>>, FindError> {
        self.look();
        Ok(of.iter().map(|it| self.below(it)).collect())
    }

    fn describe(&self, pid: u32, start_time_ns: u64) -> Option<v1::Process> {
        let running = self.running();
        let process = &running.get(&pid)?.process;
        (process.start_time_ns == start_time_ns).then(|| process.clone())
    }

    fn databases(&self) -> Result<Vec<v1::Database>, FindError> {
        self.look();
        // A socket for each port of each process.
        let socket = |pid: u32, port: u16| u64::from(pid) << 16 | u64::from(port);
        let mut listeners = Listeners::new();
        let mut servers = Vec::new();
        for (pid, it) in self.running().iter() {
            listeners.extend(it.ports.iter().map(|port| (socket(*pid, *port), *port)));
            let Some(engine) = engine(it.process.name.as_bytes(), b"") else {
                continue;
            };
            servers.push(Server {
                process: it.process.clone(),
                parent: it.parent,
                engine,
                sockets: it.ports.iter().map(|port| socket(*pid, *port)).collect(),
                container: container_id(&it.cgroups()).unwrap_or_default(),
                unit: unit(&it.cgroups()).unwrap_or_default(),
            });
        }
        Ok(databases(servers, &listeners))
    }
}
