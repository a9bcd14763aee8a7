//! What the rest of the collector does with attached programs.
#![forbid(unsafe_code)]

use std::{fs, io, mem, sync::Arc, time::Duration};

use netio::v1;
use netio_abi::{
    FULL_PROCESSES, FULL_SOCKETS, MARK_SEQUENCE, MARK_STATE, MARK_TIME, NO_SLOT, WISH_CHANGES,
};

use super::{
    super::{
        AttachError, attach_again, changes,
        self_check::{SHORT, self_check},
    },
    Probes, note_sockets,
};
use crate::{
    keep::{State, Store},
    kernel::{
        AllowError, Attach, Birth, Changes, Counters, Kernel, KernelInfo, LifeNow, Mark, ProcessId,
        Slot, Taken,
    },
};

impl Probes {
    /// Notes where the reading of each of the process's sockets stands, if the
    /// mode needs to know.
    fn note_sockets(&mut self, tgid: u32) -> Result<(), AttachError> {
        let note = self.attached.note_program.as_deref();
        note_sockets(&self.attached.object, note, tgid)
    }

    fn prepare(&mut self, tgid: u32) -> Result<(), AllowError> {
        let max_pid = self.max_pid();
        if tgid >= max_pid {
            return Err(AllowError::PidBeyondAllowList { pid: tgid, max_pid });
        }
        self.note_sockets(tgid)
            .map_err(|error| AllowError::Sockets {
                pid: tgid,
                source: io::Error::other(error.to_string()),
            })
    }
}

impl Kernel for Probes {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn again(&self) -> Option<Attach> {
        let (mode, slots) = (self.info.hook_mode, self.attached.object.sizes.slots);
        let keeping = self.keeping.clone();
        let follows_children = self.info.follows_children;
        let attempts = self.info.attempts.clone();
        Some(Arc::new(move || {
            attach_again(mode, slots, follows_children, &attempts, &keeping)
        }))
    }

    fn check(&mut self) -> Result<(), AllowError> {
        if !self.can_try {
            return Ok(());
        }
        // A machine that is too busy to answer in time shows nothing either way.
        self_check(&self.attached, SHORT)
            .map(drop)
            .map_err(|why| AllowError::NotAttached(why.to_string()))
    }

    fn missed_events(&self) -> v1::MissedEvents {
        // Of what cannot be read, nothing is said: zero would be a claim.
        let recursion = self
            .attached
            .names()
            .map(|name| {
                let facts = self.attached.object.program_facts(name);
                facts.ok()?.recursion_misses()
            })
            .sum();
        let kretprobe = self
            .attached
            .kretprobes
            .iter()
            .map(|probe| probe.missed().ok())
            .sum();
        v1::MissedEvents {
            recursion,
            kretprobe,
        }
    }

    fn program_runs(&self) -> Option<(u64, Duration)> {
        let enabled = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").ok()?;
        if enabled.trim() == "0" {
            return None;
        }
        let facts = self.attached.names().filter_map(|name| {
            let facts = self.attached.object.program_facts(name);
            facts.ok()?.runs()
        });
        Some(
            facts.fold((0, Duration::ZERO), |(runs, time), (more, spent)| {
                (runs + more, time + spent)
            }),
        )
    }

    fn map_full(&self) -> v1::MapFull {
        let full = &self.attached.object.full;
        v1::MapFull {
            processes: full.get(FULL_PROCESSES),
            sockets: full.get(FULL_SOCKETS),
        }
    }

    fn max_pid(&self) -> u32 {
        self.attached.object.allow_list.pids()
    }

    fn take(&mut self) -> Option<Slot> {
        self.attached.object.lives.take()
    }

    fn give(&mut self, slot: Slot) {
        self.attached.object.lives.give(slot);
    }

    fn allow(
        &mut self,
        process: ProcessId,
        slot: Slot,
        family: Option<Slot>,
    ) -> Result<(), AllowError> {
        self.prepare(process.tgid)?;
        let object = &self.attached.object;
        object.lives.begin(process, slot, family);
        object.enter(process.tgid, slot)
    }

    fn share(&mut self, process: ProcessId, family: Slot) -> Result<(), AllowError> {
        self.prepare(process.tgid)?;
        let object = &self.attached.object;
        // Before the entry is there: its exit takes one off.
        object.lives.add_sharers(family, 1);
        object.enter(process.tgid, family).inspect_err(|_| {
            object.lives.add_sharers(family, u32::MAX);
        })
    }

    fn shares(&self, tgid: u32) -> Option<Slot> {
        let object = &self.attached.object;
        let slot = Slot(object.allow_list.entry(tgid));
        (slot.0 != NO_SLOT && object.lives.is_family(slot)).then_some(slot)
    }

    fn deny(&mut self, tgid: u32, slot: Slot) -> bool {
        self.attached
            .object
            .allow_list
            .replace(tgid, slot.0, NO_SLOT)
    }

    fn unshare(&mut self, tgid: u32, family: Slot) {
        if self.deny(tgid, family) {
            self.attached.object.lives.add_sharers(family, u32::MAX);
        }
    }

    fn take_born_into(&mut self, slot: Slot) -> Option<Slot> {
        self.attached.object.lives.take_born_into(slot)
    }

    fn close_family(&mut self, family: Slot) {
        let object = &self.attached.object;
        object.lives.close(family);
        if object.lives.sharers(family) > 0 {
            let swept = object.allow_list.sweep(family);
            object.lives.add_sharers(family, swept.wrapping_neg());
        }
    }

    fn set_family(&mut self, slot: Slot, family: Option<Slot>) {
        self.attached.object.lives.set_family(slot, family);
    }

    fn set_budget(&mut self, family: Slot, budget: u32) {
        self.attached.object.lives.set_budget(family, budget);
    }

    fn sharers(&self, family: Slot) -> u32 {
        self.attached.object.lives.sharers(family)
    }

    fn births(&mut self) -> Vec<Birth> {
        self.attached.object.lives.births()
    }

    fn life(&self, slot: Slot) -> LifeNow {
        self.attached.object.lives.now(slot)
    }

    fn name(&self, slot: Slot) -> Vec<u8> {
        self.attached.object.lives.name(slot)
    }

    fn read(&self, slot: Slot) -> Counters {
        self.attached.object.banks.read(slot)
    }

    fn changes(&mut self) -> Option<Changes> {
        self.attached
            .object
            .take_changes()
            .and_then(changes::stream)
            .inspect_err(|error| tracing::warn!(%error, "changes of processes cannot be read"))
            .ok()
    }

    fn wish_changes(&mut self, wish: bool) {
        self.attached.object.wishes.set(WISH_CHANGES, wish.into());
    }

    fn store(&mut self) -> Option<Store> {
        self.store.take()
    }

    fn left(&mut self) -> Option<State> {
        self.left.take()
    }

    fn taken(&mut self) -> Vec<Taken> {
        mem::take(&mut self.taken)
    }

    fn release(&mut self) {
        self.attached.unpin();
    }

    fn set_base(&mut self, slot: Slot, counters: Counters) {
        self.attached.object.kept.set_base(slot, counters);
    }

    fn base(&self, slot: Slot) -> Counters {
        self.attached.object.kept.base(slot)
    }

    fn set_told(&mut self, slot: Slot, counters: Counters) {
        self.attached.object.kept.set_told(slot, counters);
    }

    fn told(&self, slot: Slot) -> Counters {
        self.attached.object.kept.told(slot)
    }

    fn set_mark(&mut self, mark: Mark, number: u64) {
        self.attached.object.marks.set(cell_of(mark), number);
    }

    fn mark(&self, mark: Mark) -> u64 {
        self.attached.object.marks.get(cell_of(mark))
    }
}

fn cell_of(mark: Mark) -> u32 {
    match mark {
        Mark::Sequence => MARK_SEQUENCE,
        Mark::Time => MARK_TIME,
        Mark::State => MARK_STATE,
    }
}
