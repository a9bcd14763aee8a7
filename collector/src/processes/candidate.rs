//! Tells whether a process matches rules.
//!
//! Takes a process's folder and, one by one, rules; answers yes or no. Promises
//! to read only what the rules need, and each of it once: every exec on the host
//! passes through here.
#![forbid(unsafe_code)]

use std::{cell::OnceCell, collections::BTreeSet};

use super::{
    Selector,
    cgroup::{begins_with, cgroup_path, container_ids, is_of_unit, lies_in},
    entry::{Entry, file_name},
    listeners::{self, Listeners},
};

pub(super) struct Candidate<'a> {
    entry: &'a Entry,
    /// The sockets that listen, where they were looked for before.
    listeners: Option<&'a Listeners>,
    comm: OnceCell<Vec<u8>>,
    executable: OnceCell<Vec<u8>>,
    cgroups: OnceCell<String>,
    ports: OnceCell<BTreeSet<u16>>,
}

impl<'a> Candidate<'a> {
    pub(super) fn new(entry: &'a Entry) -> Self {
        Self {
            entry,
            listeners: None,
            comm: OnceCell::new(),
            executable: OnceCell::new(),
            cgroups: OnceCell::new(),
            ports: OnceCell::new(),
        }
    }

    /// A process of which only sockets among these matter.
    pub(super) fn among(entry: &'a Entry, listeners: &'a Listeners) -> Self {
        Self {
            listeners: Some(listeners),
            ..Self::new(entry)
        }
    }

    /// The ids of the containers that it is in, as far as they begin like this.
    pub(super) fn containers(&self, prefix: &str) -> impl Iterator<Item = &str> {
        container_ids(self.cgroups()).filter(move |id| begins_with(id, prefix))
    }

    /// What cannot be read matches nothing: mostly, the process has exited.
    pub(super) fn matches(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Pid(pid) => self.entry.pid == *pid,
            Selector::Name(name) => self.is_named(name),
            Selector::Port(port) => self.ports().contains(port),
            Selector::Cgroup(cgroup) => {
                cgroup_path(self.cgroups()).is_some_and(|path| lies_in(&path, cgroup))
            }
            Selector::Unit(unit) => is_of_unit(self.cgroups(), unit),
            Selector::Container(prefix) => self.containers(prefix).next().is_some(),
        }
    }

    fn is_named(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let comm = self
            .comm
            .get_or_init(|| self.entry.comm().unwrap_or_default());
        if comm == name {
            return true;
        }
        let executable = self
            .executable
            .get_or_init(|| self.entry.executable().unwrap_or_default());
        if name.starts_with(b"/") {
            executable == name
        } else {
            file_name(executable) == name
        }
    }

    fn cgroups(&self) -> &str {
        self.cgroups
            .get_or_init(|| self.entry.cgroups().unwrap_or_default())
    }

    /// The ports that it listens on; where nobody has looked for sockets before, in
    /// its own network namespace. (Sockets of another one are rare, and found by a
    /// scan.)
    fn ports(&self) -> &BTreeSet<u16> {
        self.ports.get_or_init(|| {
            if let Some(listeners) = self.listeners {
                if listeners.is_empty() {
                    return BTreeSet::new();
                }
                let sockets = self.entry.sockets().into_iter().flatten();
                return sockets
                    .filter_map(|socket| listeners.get(&socket).copied())
                    .collect();
            }
            // Most processes have just begun, and hold no socket at all.
            let mut sockets = self.entry.sockets().into_iter().flatten().peekable();
            if sockets.peek().is_none() {
                return BTreeSet::new();
            }
            let listeners = listeners::of(self.entry).unwrap_or_default();
            sockets
                .filter_map(|socket| listeners.get(&socket).copied())
                .collect()
        })
    }
}
