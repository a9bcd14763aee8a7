//! One mode's programs as a [`Kernel`].
//!
//! Takes a mode; produces a kernel whose hooks have counted a byte. Whatever is
//! attached goes when it is dropped.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
    time::Duration,
};

use aya::programs::{Program, ProgramError};
use netio::v1;
use netio_abi::{FULL_PROCESSES, FULL_SOCKETS, NO_SLOT, WISH_CHANGES, WISH_TGID};

use super::{
    AttachError,
    attach::Attached,
    attach_again, blind_spots, changes, modes, preemption,
    self_check::{PATIENCE, SHORT, Tried, self_check},
    sys,
};
use crate::{
    btf::Btf,
    kernel::{
        AllowError, Attach, Birth, Changes, Counters, Kernel, KernelInfo, LifeNow, ProcessId, Slot,
    },
};

/// One mode's programs, attached.
pub(super) struct Probes {
    // Dropped first: nothing counts once the maps' memory goes.
    attached: Attached,
    pub(super) info: KernelInfo,
    slots: u32,
    /// Whether a byte over loopback can show that the hooks count.
    can_try: bool,
}

impl Probes {
    pub(super) fn attach(
        mode: v1::HookMode,
        btf: Option<&Btf>,
        slots: u32,
    ) -> Result<Self, AttachError> {
        let attached = modes::attach(mode, btf, slots)?;
        let mut can_try = true;
        if let Tried::Impossible(error) = self_check(&attached, PATIENCE)? {
            tracing::warn!(%error, "the hooks are not tried out: no TCP over loopback");
            can_try = false;
        }
        let info = KernelInfo {
            hook_mode: mode,
            programs: attached.programs.clone(),
            blind_spots: blind_spots::of(mode, &attached, btf, preemption::is_full()),
            attempts: Vec::new(),
            received_calls_meaning: blind_spots::received_calls(mode, &attached).to_owned(),
            follows_children: attached.follows_children,
        };
        Ok(Self {
            attached,
            info,
            slots,
            can_try,
        })
    }

    /// Notes where the reading of each of the process's sockets stands, if the
    /// mode needs to know.
    fn note_sockets(&mut self, tgid: u32) -> Result<(), AttachError> {
        let Some(note) = self.attached.note_program else {
            return Ok(());
        };
        self.attached.object.wishes.set(WISH_TGID, tgid.into());
        let program = self.attached.object.program(note)?;
        sys::iterate_files(program.fd()?.as_fd(), tgid)?;
        Ok(())
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
        let (mode, slots) = (self.info.hook_mode, self.slots);
        let follows_children = self.info.follows_children;
        let attempts = self.info.attempts.clone();
        Some(Arc::new(move || {
            attach_again(mode, slots, follows_children, &attempts)
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
            .filter_map(|name| self.attached.object.ebpf.program(name))
            .map(|program| recursion_misses(program).ok()?)
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
        let infos = self
            .attached
            .names()
            .filter_map(|name| self.attached.object.ebpf.program(name)?.info().ok());
        Some(infos.fold((0, Duration::ZERO), |(runs, time), info| {
            (runs + info.run_count(), time + info.run_time())
        }))
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
}

/// The kernel shows it among a program's file-descriptor facts since 5.12.
fn recursion_misses(program: &Program) -> Result<Option<u64>, AttachError> {
    let fd = program
        .fd()
        .map_err(|error: ProgramError| AttachError::from(error))?;
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    Ok(fact(&facts, "recursion_misses:"))
}

fn fact(facts: &str, key: &str) -> Option<u64> {
    facts
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_fact_of_a_program() {
        let facts = "pos:\t0\nprog_id:\t7\nrecursion_misses:\t12\n";
        assert_eq!(fact(facts, "recursion_misses:"), Some(12));
        assert_eq!(fact(facts, "run_cnt:"), None);
    }
}
