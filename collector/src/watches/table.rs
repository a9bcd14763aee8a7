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

/// What each tick looks at of a process that counts in a slot of its own. Apart
/// from the rest, so that a reading of many goes through little memory, in order.
pub(super) struct Pulse {
    pub(super) id: ProcessId,
    /// Programs it has executed, as far as is known.
    pub(super) execs: u32,
    pub(super) exited: bool,
    /// It left the allow-list by itself, and the kernel has not marked its slot
    /// yet.
    pub(super) awaits_exit: bool,
    /// The slot's counters at the last reading.
    pub(super) reading: Counters,
}

impl Pulse {
    /// Of a process that runs, and counts from this reading on.
    pub(super) fn new(id: ProcessId, execs: u32, reading: Counters) -> Self {
        Self {
            id,
            execs,
            exited: false,
            awaits_exit: false,
            reading,
        }
    }
}

/// The rest about it.
pub(super) struct Process {
    pub(super) about: v1::Process,
    /// In order; never empty.
    pub(super) watches: Vec<WatchId>,
    /// What its children are born into.
    pub(super) family: Option<Slot>,
    /// The slot's counters when it was listed.
    pub(super) beginning: Counters,
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

impl Family {
    /// Nobody counts in it yet, or is known to.
    pub(super) fn new(
        watches: Vec<WatchId>,
        following: Vec<WatchId>,
        children: Option<Slot>,
        reading: Counters,
    ) -> Self {
        Self {
            watches,
            following,
            children,
            parents: 0,
            guards: HashMap::new(),
            idle: false,
            rested: false,
            reading,
            sharers: 0,
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    /// By slot, as are the processes; both have the same ones.
    pulses: Vec<Option<Pulse>>,
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

    pub(super) fn insert(&mut self, slot: Slot, pulse: Pulse, process: Process) {
        let index = slot.0 as usize;
        if self.processes.len() <= index {
            self.processes.resize_with(index + 1, || None);
            self.pulses.resize_with(index + 1, || None);
        }
        self.running.insert(pulse.id.tgid, slot);
        self.count += 1;
        self.join_family(process.family);
        self.pulses[index] = Some(pulse);
        self.processes[index] = Some(Box::new(process));
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<(Pulse, Process)> {
        let index = slot.0 as usize;
        let process = *self.processes.get_mut(index)?.take()?;
        let pulse = self.pulses.get_mut(index)?.take()?;
        self.count -= 1;
        self.stops_running(pulse.id.tgid, slot);
        self.leave_family(process.family);
        Some((pulse, process))
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

    pub(super) fn pulse(&self, slot: Slot) -> Option<&Pulse> {
        self.pulses.get(slot.0 as usize)?.as_ref()
    }

    pub(super) fn pulse_mut(&mut self, slot: Slot) -> Option<&mut Pulse> {
        self.pulses.get_mut(slot.0 as usize)?.as_mut()
    }

    pub(super) fn pulses_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Pulse)> {
        let pulses = self.pulses.iter_mut().zip(0..);
        pulses.filter_map(|(pulse, slot)| Some((Slot(slot), pulse.as_mut()?)))
    }

    /// All of it, in order of slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Pulse, &Process)> {
        let both = self.pulses.iter().zip(&self.processes).zip(0..);
        both.filter_map(|((pulse, process), slot)| {
            Some((Slot(slot), pulse.as_ref()?, process.as_deref()?))
        })
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
