//! Whether the hooks are attached, where they are only while something is watched.
//!
//! Takes how to attach them, and for how long nothing must have been watched before
//! they are let go of; gives the hooks that are asked for. Promises: hooks of before
//! have gone before others are attached, so that no two sets of them are in the
//! kernel at a time; and as both take some tenths of a second, threads for blocking
//! work do it, while the sampler ticks on.
#![forbid(unsafe_code)]

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::Instant,
};
use tracing::error;

use crate::kernel::{Attach, Kernel};

/// See the module.
pub(super) struct Attachment {
    /// None: as long as the collector runs.
    on_demand: Option<OnDemand>,
    state: State,
}

struct OnDemand {
    attach: Attach,
    /// How long nothing must have been watched.
    after: Duration,
    /// Since when nothing was.
    idle_since: Option<Instant>,
}

enum State {
    Attached,
    /// With what lets go of them, until that is done.
    Detached(Option<JoinHandle<()>>),
    /// Gives nothing if attaching panicked.
    Attaching(JoinHandle<Option<Box<dyn Kernel>>>),
}

impl Attachment {
    /// Of hooks that stay attached.
    pub(super) fn lasting() -> Self {
        Self {
            on_demand: None,
            state: State::Attached,
        }
    }

    /// Of hooks that are attached now.
    pub(super) fn on_demand(attach: Attach, after: Duration) -> Self {
        let on_demand = OnDemand {
            attach,
            after,
            idle_since: None,
        };
        Self {
            on_demand: Some(on_demand),
            state: State::Attached,
        }
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(self.state, State::Attached)
    }

    /// Takes note whether anything is watched, and tells when the hooks are to be
    /// let go of.
    pub(super) fn deadline(&mut self, is_idle: bool, now: Instant) -> Option<Instant> {
        let is_attached = self.is_attached();
        let on_demand = self.on_demand.as_mut()?;
        if is_idle && is_attached {
            let since = *on_demand.idle_since.get_or_insert(now);
            Some(since + on_demand.after)
        } else {
            on_demand.idle_since = None;
            None
        }
    }

    /// Lets go of the hooks.
    pub(super) fn let_go(&mut self, kernel: Box<dyn Kernel>) {
        self.state = State::Detached(Some(spawn_blocking(move || drop(kernel))));
    }

    /// Begins to attach hooks, if there are none.
    pub(super) fn wish(&mut self) {
        let (State::Detached(going), Some(on_demand)) = (&mut self.state, &self.on_demand) else {
            return;
        };
        let (going, attach) = (going.take(), Arc::clone(&on_demand.attach));
        self.state = State::Attaching(tokio::spawn(async move {
            if let Some(going) = going {
                let _ = going.await;
            }
            let attached = spawn_blocking(move || attach()).await;
            attached
                .inspect_err(|fault| error!(%fault, "attaching the probes failed"))
                .ok()
        }));
    }

    /// Waits for the hooks that are being attached, for ever if none are. Unless they
    /// are put to use ([`Attachment::use_them`]), there are none again. A call that
    /// is dropped while it waits loses nothing.
    pub(super) async fn attached(&mut self) -> Option<Box<dyn Kernel>> {
        let State::Attaching(attaching) = &mut self.state else {
            return pending().await;
        };
        let kernel = attaching.await.unwrap_or_default();
        self.state = State::Detached(None);
        kernel
    }

    pub(super) fn use_them(&mut self) {
        self.state = State::Attached;
    }

    /// Waits until nothing is being attached or let go of.
    pub(super) async fn end(self) {
        match self.state {
            State::Detached(Some(going)) => drop(going.await),
            State::Attaching(attaching) => drop(attaching.await),
            State::Attached | State::Detached(None) => {}
        }
    }
}
