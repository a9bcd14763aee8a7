//! Slots that were used and may not be used by another process yet.
//!
//! A send call that was in the kernel when its process left the allow-list may
//! be credited a little later. So a slot rests for at least one full interval
//! between ticks before it goes back to the pool: its next user must not inherit
//! those bytes. The same process may have it back at once.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use crate::kernel::{ProcessId, Slot};

struct Resting {
    slot: Slot,
    /// Who may have it back.
    process: Option<ProcessId>,
    /// The kernel must have told of the process's exit before the slot is free.
    awaits_exit: bool,
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
    /// For the slot of a process that is gone, or of a family. `awaits_exit`: its
    /// exit is known, but the kernel has not marked the slot yet.
    pub(super) fn give(&mut self, slot: Slot, awaits_exit: bool) {
        self.given.push(Resting {
            slot,
            process: None,
            awaits_exit,
        });
    }

    /// For the slot of a process that may be watched again.
    pub(super) fn give_of(&mut self, process: ProcessId, slot: Slot) {
        self.of_process.insert(process, slot);
        self.given.push(Resting {
            slot,
            process: Some(process),
            awaits_exit: false,
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

    /// A tick has passed: the slots that are free now. `has_exited` looks for the
    /// kernel's mark.
    pub(super) fn tick(&mut self, has_exited: impl Fn(Slot) -> bool) -> Vec<Slot> {
        let mut free = Vec::new();
        for resting in self.rested.drain(..) {
            if resting.awaits_exit && !has_exited(resting.slot) {
                self.given.push(resting);
                continue;
            }
            if let Some(process) = resting.process {
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
        resting.give(Slot(2), false);
        assert!(resting.tick(|_| false).is_empty()); // the rest of an interval
        resting.give(Slot(1), false);
        assert_eq!(resting.tick(|_| false), [Slot(2)]); // a full one
        assert_eq!(resting.tick(|_| false), [Slot(1)]);
        assert!(resting.tick(|_| false).is_empty());
    }

    #[test]
    fn its_own_process_may_have_it_back_until_it_is_free() {
        let mut resting = RestingSlots::default();
        resting.give_of(PROCESS, Slot(3));
        assert_eq!(resting.take_back(PROCESS), Some(Slot(3)));
        assert_eq!(resting.take_back(PROCESS), None);
        assert!(resting.tick(|_| false).is_empty());
        assert!(resting.tick(|_| false).is_empty());

        resting.give_of(PROCESS, Slot(3));
        resting.tick(|_| false);
        assert_eq!(resting.take_back(PROCESS), Some(Slot(3)));
        resting.give_of(PROCESS, Slot(3));
        resting.tick(|_| false);
        assert_eq!(resting.tick(|_| false), [Slot(3)]);
        assert_eq!(resting.take_back(PROCESS), None);
    }

    #[test]
    fn a_slot_that_the_kernel_is_about_to_mark_waits_for_the_mark() {
        let mut resting = RestingSlots::default();
        resting.give(Slot(4), true);
        for _ in 0..5 {
            assert!(resting.tick(|_| false).is_empty());
        }
        assert_eq!(resting.tick(|_| true), [Slot(4)]);
    }
}
