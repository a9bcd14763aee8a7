//! Who counts in which slot: processes and families.
//!
//! Promises: a slot has one process or names one family; a process is found by
//! its pid for as long as it runs. Invariant, kept by [`super::Watches`]: the
//! watches of a process's family are exactly those of its watches that follow
//! its children.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use netio::v1;

use super::{WatchId, exits::ExitGuard};
use crate::kernel::{Counters, ProcessId, Slot};

/// A process that counts in a slot of its own.
pub(super) struct Process {
    pub(super) id: ProcessId,
    pub(super) about: v1::Process,
    /// In order; never empty.
    pub(super) watches: Vec<WatchId>,
    /// What its children are born into.
    pub(super) family: Option<Slot>,
    pub(super) exited: bool,
    /// It left the allow-list by itself, and the kernel has not marked its slot
    /// yet.
    pub(super) awaits_exit: bool,
    /// Programs it has executed, as far as is known.
    pub(super) execs: u32,
    /// The slot's counters when it was listed.
    pub(super) beginning: Counters,
    /// The slot's counters at the last reading.
    pub(super) reading: Counters,
    /// None for a child, whose exit the kernel tells.
    pub(super) _exit: Option<ExitGuard>,
}

/// A set of watches with a slot in which processes of them count that found none
/// of their own.
pub(super) struct Family {
    /// In order; never empty.
    pub(super) watches: Vec<WatchId>,
    /// Those of them that follow the children of whoever counts in it.
    pub(super) following: Vec<WatchId>,
    /// What these are born into: itself, if all of them follow.
    pub(super) children: Option<Slot>,
    /// Processes, and other families, whose children are born into it.
    pub(super) parents: u32,
    /// Whoever counts in it and was found, not born.
    pub(super) guards: HashMap<ProcessId, ExitGuard>,
    /// Nobody counted in it, or could be born into it, before the last reading.
    pub(super) idle: bool,
    /// The same at the last rest.
    pub(super) rested: bool,
    /// The slot's counters at the last reading.
    pub(super) reading: Counters,
    /// Processes that counted in it at the last reading.
    pub(super) sharers: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    /// By slot.
    processes: Vec<Option<Box<Process>>>,
    running: HashMap<u32, Slot>,
    count: u32,
    pub(super) families: BTreeMap<Slot, Family>,
}

impl Table {
    /// Processes in it, those that have just exited included.
    pub(super) fn len(&self) -> u32 {
        self.count
    }

    pub(super) fn insert(&mut self, slot: Slot, process: Process) {
        let index = slot.0 as usize;
        if self.processes.len() <= index {
            self.processes.resize_with(index + 1, || None);
        }
        self.running.insert(process.id.tgid, slot);
        self.count += 1;
        self.join_family(process.family);
        self.processes[index] = Some(Box::new(process));
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Process> {
        let process = *self.processes.get_mut(slot.0 as usize)?.take()?;
        self.count -= 1;
        self.stops_running(process.id.tgid, slot);
        self.leave_family(process.family);
        Some(process)
    }

    /// The process with this pid is found by it no more.
    pub(super) fn stops_running(&mut self, tgid: u32, slot: Slot) {
        if self.running.get(&tgid) == Some(&slot) {
            self.running.remove(&tgid);
        }
    }

    /// The slot of the process that runs with this pid, as far as is known.
    pub(super) fn running(&self, tgid: u32) -> Option<Slot> {
        self.running.get(&tgid).copied()
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Process> {
        self.processes.get(slot.0 as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Process> {
        self.processes.get_mut(slot.0 as usize)?.as_deref_mut()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Process)> {
        self.processes
            .iter_mut()
            .zip(0..)
            .filter_map(|(process, slot)| Some((Slot(slot), process.as_deref_mut()?)))
    }

    /// The family of exactly these watches, if there is one.
    pub(super) fn family_of(&self, watches: &[WatchId], following: &[WatchId]) -> Option<Slot> {
        self.families
            .iter()
            .find(|(_, family)| family.watches == watches && family.following == following)
            .map(|(slot, _)| *slot)
    }

    /// Moves a process into another family, or none.
    pub(super) fn change_family(&mut self, slot: Slot, family: Option<Slot>) {
        let Some(process) = self.get_mut(slot) else {
            return;
        };
        let before = std::mem::replace(&mut process.family, family);
        self.join_family(family);
        self.leave_family(before);
    }

    pub(super) fn join_family(&mut self, family: Option<Slot>) {
        if let Some(family) = family.and_then(|slot| self.families.get_mut(&slot)) {
            family.parents += 1;
            family.idle = false;
            family.rested = false;
        }
    }

    pub(super) fn leave_family(&mut self, family: Option<Slot>) {
        if let Some(family) = family.and_then(|slot| self.families.get_mut(&slot)) {
            family.parents -= 1;
        }
    }
}
