//! What a watch counts of a slot.
#![forbid(unsafe_code)]

use crate::kernel::{Counters, Slot};

/// A watch's part in a slot.
#[derive(Clone, Copy)]
pub(super) struct Member {
    pub(super) slot: Slot,
    /// What the slot's counters stood at when it joined the watch.
    pub(super) baseline: Counters,
    /// The slot's counters up to which the watch has counted.
    pub(super) seen: Counters,
}

impl Member {
    pub(super) fn new(slot: Slot, baseline: Counters) -> Self {
        Self {
            slot,
            baseline,
            seen: baseline,
        }
    }

    /// Counts up to `reading`; gives what came since.
    pub(super) fn advance(&mut self, reading: Counters) -> Counters {
        let interval = reading - self.seen;
        self.seen = reading;
        interval
    }
}
