//! Which of the kernel's counter slots are free.
//!
//! A send call that was in the kernel when its process left the allow-list may
//! be credited a little later. So a slot that is given back rests for at least
//! one full interval between ticks before it is handed out again: its next user
//! must not inherit those bytes.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::kernel::Slot;

/// Every slot is in use, or in exactly one of these places.
pub(super) struct SlotPool {
    /// Slots from this one to `last` were never used.
    next_fresh: u32,
    last: u32,
    /// Have rested; the longest rested first.
    free: VecDeque<Slot>,
    /// Were given back before the last tick.
    resting: Vec<Slot>,
    /// Were given back since the last tick.
    given_back: Vec<Slot>,
}

impl SlotPool {
    /// Slots 1 to `count`.
    pub(super) fn new(count: u32) -> Self {
        Self {
            next_fresh: 1,
            last: count,
            free: VecDeque::new(),
            resting: Vec::new(),
            given_back: Vec::new(),
        }
    }

    pub(super) fn take(&mut self) -> Option<Slot> {
        self.free.pop_front().or_else(|| {
            let fresh = (self.next_fresh <= self.last).then_some(Slot(self.next_fresh))?;
            self.next_fresh += 1;
            Some(fresh)
        })
    }

    /// For a slot that was taken and then not used.
    pub(super) fn put_back(&mut self, slot: Slot) {
        self.free.push_front(slot);
    }

    /// For a slot that was used.
    pub(super) fn give_back(&mut self, slot: Slot) {
        self.given_back.push(slot);
    }

    /// A tick has passed.
    pub(super) fn tick(&mut self) {
        self.free.extend(self.resting.drain(..));
        std::mem::swap(&mut self.resting, &mut self.given_back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_rests_for_a_full_interval() {
        let mut slots = SlotPool::new(2);
        assert_eq!(slots.take(), Some(Slot(1)));
        assert_eq!(slots.take(), Some(Slot(2)));
        assert_eq!(slots.take(), None);
        slots.give_back(Slot(2));
        slots.tick(); // the rest of an interval
        assert_eq!(slots.take(), None);
        slots.give_back(Slot(1));
        slots.tick(); // a full one
        assert_eq!(slots.take(), Some(Slot(2)));
        assert_eq!(slots.take(), None);
        slots.tick();
        assert_eq!(slots.take(), Some(Slot(1)));
        assert_eq!(slots.take(), None);
    }
}
