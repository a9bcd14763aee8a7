//! What a collector that comes after this one goes on from.
//!
//! The part of the sampler that has it written down, by [`Store`] and with the hooks.
//! Promises: whatever has changed is written before anybody is told of it, and before
//! slots are free. What could not be written is tried again at each tick, and until it
//! is, `GetCollectorInfo` says so.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::Instant;

use super::Sampler;
use crate::{
    kernel::{Kernel, KernelInfo, Mark},
    ticker::Clock,
    watches::Now,
};

/// The last tick that was told by hooks that may have been taken over: its number, and
/// when it was read. 0 and now, if there was none.
pub(super) fn last_tick(kernel: &dyn Kernel, clock: &dyn Clock) -> (u64, Instant) {
    let (sequence, now) = (kernel.mark(Mark::Sequence), clock.monotonic());
    if sequence == 0 {
        return (sequence, now);
    }
    let since = match kernel.mark(Mark::Time) {
        0 => Duration::ZERO,
        read => clock.boot().saturating_sub(Duration::from_nanos(read)),
    };
    (sequence, now.checked_sub(since).unwrap_or(now))
}

impl Sampler {
    /// Has the hooks count on after the end, if they are pinned.
    pub(crate) fn kept_at_the_end(mut self, is_kept: bool) -> Self {
        self.is_kept = is_kept;
        self
    }

    /// At the end.
    pub(super) fn keep_or_let_go(&mut self) {
        if self.is_kept {
            self.save();
        } else {
            self.let_go_of_kept();
        }
    }

    /// Has the hooks go when they are dropped, and what is written down now.
    pub(super) fn let_go_of_kept(&mut self) {
        self.watches.kernel().release();
        if let Some(store) = self.store.take() {
            store.remove();
        }
    }

    /// Notes with the hooks which tick was read, and when.
    pub(super) fn mark_tick(&mut self) {
        let read = u64::try_from(self.clock.boot().as_nanos()).unwrap_or(u64::MAX);
        let kernel = self.watches.kernel();
        kernel.set_mark(Mark::Time, read);
        kernel.set_mark(Mark::Sequence, self.sequence);
    }

    /// Writes down what has changed; before anybody is told of it, and before slots
    /// are free.
    pub(super) fn save(&mut self) {
        let Some(store) = &mut self.store else {
            return;
        };
        let now = Now {
            monotonic: self.clock.monotonic(),
            boot: self.clock.boot(),
        };
        if let Some(mut state) = self.watches.changed_state(now) {
            state.lineage = self.instance.lineage;
            let number = store.write(state);
            self.watches.kernel().set_mark(Mark::State, number);
        }
    }

    /// The same, and also what could not be written before.
    pub(super) fn save_again(&mut self) {
        let failed = self.store.as_ref().and_then(|store| store.failure());
        if failed.is_some() {
            self.watches.write_again();
        }
        self.save();
    }

    /// What the hooks are, and whether they would be taken over now.
    pub(super) fn hooks_now(&mut self) -> KernelInfo {
        let mut hooks = self.watches.kernel().info().clone();
        if let Some(why) = self.store.as_ref().and_then(|store| store.failure()) {
            hooks.not_durable = format!("{why}; it is tried again at each tick");
        }
        hooks
    }
}
