//! Slots that were used and may not be used by another process yet.
//!
//! A program that was running when its process left the allow-list may credit a
//! call a little later. So a slot rests for at least one full time between two
//! calls of [`RestingSlots::tick`] before it goes back to the pool: its next user
//! must not inherit those bytes. The same process may have it back at once.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use crate::kernel::{ProcessId, Slot};

struct Resting {
    slot: Slot,
    /// Who had it; none: a family.
    process: Option<ProcessId>,
    awaits: Awaits,
}

/// What must be before a slot is free, beside its rest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaits {
    Nothing,
    /// The kernel's mark that its process has exited.
    Exit,
    /// That nobody shares it.
    NoSharers,
}

/// See the module.
#[derive(Default)]
pub(super) struct RestingSlots {
    /// Were given before the last tick.
    rested: Vec<Resting>,
    /// Were given since the last tick.
    given: Vec<Resting>,
    /// Where a process's own slot is; only of those that may have it back.
    of_process: HashMap<ProcessId, Slot>,
}

impl RestingSlots {
    /// For the slot of a process that is gone. `awaits_exit`: its exit is known, but
    /// the kernel has not marked the slot yet.
    pub(super) fn give(&mut self, slot: Slot, process: Option<ProcessId>, awaits_exit: bool) {
        let awaits = if awaits_exit {
            Awaits::Exit
        } else {
            Awaits::Nothing
        };
        self.given.push(Resting {
            slot,
            process,
            awaits,
        });
    }

    /// The slots, and who had them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, Option<ProcessId>)> {
        let all = self.given.iter().chain(&self.rested);
        all.map(|resting| (resting.slot, resting.process))
    }

    /// For the slot of a family that has ended: a program may still be about to
    /// take a sharer off.
    pub(super) fn give_of_family(&mut self, slot: Slot) {
        self.given.push(Resting {
            slot,
            process: None,
            awaits: Awaits::NoSharers,
        });
    }

    /// Whether there is anything to wait for.
    pub(super) fn is_empty(&self) -> bool {
        self.given.is_empty() && self.rested.is_empty()
    }

    /// For the slot of a process that may be watched again.
    pub(super) fn give_of(&mut self, process: ProcessId, slot: Slot) {
        self.of_process.insert(process, slot);
        self.given.push(Resting {
            slot,
            process: Some(process),
            awaits: Awaits::Nothing,
        });
    }

    /// Takes back the slot that this process had.
    pub(super) fn take_back(&mut self, process: ProcessId) -> Option<Slot> {
        let slot = self.of_process.remove(&process)?;
        for places in [&mut self.given, &mut self.rested] {
            if let Some(index) = places.iter().position(|resting| resting.slot == slot) {
                places.swap_remove(index);
            }
        }
        Some(slot)
    }

    /// Some time has passed: the slots that are free now. `is_met` looks whether
    /// what a slot awaits has come.
    pub(super) fn tick(&mut self, is_met: impl Fn(Slot, Awaits) -> bool) -> Vec<Slot> {
        let mut free = Vec::new();
        for resting in self.rested.drain(..) {
            if resting.awaits != Awaits::Nothing && !is_met(resting.slot, resting.awaits) {
                self.given.push(resting);
                continue;
            }
            if let Some(process) = resting.process
                && self.of_process.get(&process) == Some(&resting.slot)
            {
                self.of_process.remove(&process);
            }
            free.push(resting.slot);
        }
        std::mem::swap(&mut self.rested, &mut self.given);
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: ProcessId = ProcessId {
        tgid: 7,
        start_time_ns: 1,
    };

    #[test]
    fn a_slot_rests_for_a_full_interval() {
        let mut resting = RestingSlots::default();
        resting.give(Slot(2), None, false);
        assert!(resting.tick(|_, _| false).is_empty()); // the rest of an interval
        resting.give(Slot(1), None, false);
        assert_eq!(resting.tick(|_, _| false), [Slot(2)]); // a full one
        assert_eq!(resting.tick(|_, _| false), [Slot(1)]);
        assert!(resting.tick(|_, _| false).is_empty());
    }

    #[test]
    fn its_own_process_may_have_it_back_until_it_is_free() {
        let mut resting = RestingSlots::default();
        resting.give_of(PROCESS, Slot(3));
        assert_eq!(resting.take_back(PROCESS), Some(Slot(3)));
        assert_eq!(resting.take_back(PROCESS), None);
        assert!(resting.tick(|_, _| false).is_empty());
        assert!(resting.tick(|_, _| false).is_empty());

        resting.give_of(PROCESS, Slot(3));
        resting.tick(|_, _| false);
        assert_eq!(resting.take_back(PROCESS), Some(Slot(3)));
        resting.give_of(PROCESS, Slot(3));
        resting.tick(|_, _| false);
        assert_eq!(resting.tick(|_, _| false), [Slot(3)]);
        assert_eq!(resting.take_back(PROCESS), None);
    }

    #[test]
    fn a_slot_that_the_kernel_is_about_to_mark_waits_for_the_mark() {
        let mut resting = RestingSlots::default();
        resting.give(Slot(4), None, true);
        for _ in 0..5 {
            assert!(resting.tick(|_, _| false).is_empty());
        }
        assert_eq!(resting.tick(|_, _| true), [Slot(4)]);
    }
}
