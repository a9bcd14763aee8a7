//! How hooks come and go, and whether they count.
//!
//! The part of the sampler that deals with its kernel as a whole: lets go of it when
//! nothing is watched, takes another one for the watches that wait for it, and looks
//! now and then whether it counts. Promises: a watch that waits is made, or refused
//! with the reason, unless its caller has gone.
#![forbid(unsafe_code)]

use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use netio::v1;
use tracing::{error, info, warn};

use super::{Order, Sampler, commands::Reply};
use crate::{
    kernel::{AllowError, Kernel, KernelInfo, refusing::RefusingKernel},
    watches::WatchId,
};

/// Why there are no hooks, where attaching them ended by a fault of the collector.
const FAULT: &str =
    "attaching them ended unexpectedly; this is a defect, see the collector's log and report it";

/// How often it is looked at what takes some system calls to see: which events were
/// missed, and whether the hooks still count.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);

impl Sampler {
    /// Notes a watch that is to be made when there are hooks.
    pub(super) fn wait_for_hooks(&mut self, order: Order, reply: Reply<WatchId>) {
        // Who has gone needs none.
        self.waiting.retain(|(_, reply)| !reply.is_closed());
        self.waiting.push((order, reply));
        self.attachment.wish();
    }

    /// Lets go of the hooks, and of everything that was known by their slots: nobody
    /// counts in one, and the next hooks have others.
    pub(super) fn detach(&mut self) {
        let hooks = KernelInfo {
            programs: Vec::new(),
            ..self.watches.kernel().info().clone()
        };
        // Nobody asks it before there are hooks again.
        let why = |_| AllowError::NotAttached("nothing is watched".to_owned());
        let none = Box::new(RefusingKernel::new(hooks, why));
        self.let_go_of_kept();
        let kernel = self.watches.change_kernel(none);
        self.hand_over_changes();
        self.attachment.let_go(kernel);
        info!("nothing is watched: the probes are detached until something is");
    }

    /// Makes the watches that have waited for hooks; or tells why there are none, and
    /// the next watch tries again.
    pub(super) fn attached(&mut self, kernel: Option<Box<dyn Kernel>>) {
        let waiting = mem::take(&mut self.waiting);
        let refusal = || match &kernel {
            Some(kernel) => kernel.refusal(),
            None => Some(AllowError::NotAttached(FAULT.to_owned())),
        };
        if let Some(why) = refusal() {
            warn!(%why, watches = waiting.len(), "watches refused");
            self.can_count = false;
            for (_, reply) in waiting {
                if let Some(why) = refusal() {
                    let _ = reply.send(Err(why.into()));
                }
            }
            return;
        }
        if let Some(kernel) = kernel {
            self.watches.change_kernel(kernel);
            self.store = self.watches.kernel().store();
            self.mark_tick();
            self.hand_over_changes();
            self.attachment.use_them();
            self.can_count = true;
        }
        for (order, reply) in waiting {
            self.make(order, reply);
        }
    }

    pub(super) fn hand_over_changes(&mut self) {
        let changes = self.watches.kernel().changes();
        self.changes.send_replace(Arc::new(Mutex::new(changes)));
    }

    /// Half an interval after a tick, so that the next one is not held up.
    pub(super) fn look(&mut self) {
        let between = self.last_reading + LOOK_EVERY + self.ticker.interval() / 2;
        // Where ticks are rarer than looks, that may be long past.
        self.next_look = between.max(self.clock.monotonic() + LOOK_EVERY / 2);
        self.missed_events = self.watches.figures().missed_events;
        // Hooks that rest are found to count, or not, when they are attached.
        if !self.attachment.is_attached() {
            return;
        }
        let checked = self.watches.kernel().check();
        if let Err(why) = &checked
            && self.can_count
        {
            error!(%why, "the hooks do not count any more");
        }
        self.can_count = checked.is_ok();
    }

    pub(super) fn probe_state(&mut self) -> v1::ProbeState {
        if !self.attachment.is_attached() {
            v1::ProbeState::Resting
        } else if self.watches.kernel().refusal().is_some() {
            v1::ProbeState::Failed
        } else {
            v1::ProbeState::Attached
        }
    }
}
