//! Whether the hooks are attached, where they are only while something is watched.
//!
//! Takes how to attach them, and for how long nothing must have been watched before
//! they are let go of; gives the hooks that are asked for. Promises: hooks of before
//! have gone before others are attached, so that no two sets of them are in the
//! kernel at a time; and as both take up to about a second, threads for blocking work
//! do it, while the sampler ticks on.
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
    Attaching(JoinHandle<Option<Unused>>),
}

/// Hooks that were attached, and that nobody uses yet. Nobody is to take over later what
/// nobody has used: when this is dropped, they are not kept.
struct Unused(Option<Box<dyn Kernel>>);

impl Unused {
    fn take(mut self) -> Option<Box<dyn Kernel>> {
        self.0.take()
    }
}

impl Drop for Unused {
    fn drop(&mut self) {
        if let Some(kernel) = &mut self.0 {
            kernel.release();
        }
    }
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
            let attached = spawn_blocking(move || Unused(Some(attach()))).await;
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
        kernel.and_then(Unused::take)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::kernel::{
        AllowError, KernelInfo,
        fake::{FakeKernel, Gate},
        refusing::RefusingKernel,
    };

    const AFTER: Duration = Duration::from_secs(30);

    /// Goes slowly.
    struct Slow(Gate, Arc<AtomicBool>);

    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.pass();
            self.1.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn others_are_attached_once_those_of_before_have_gone() {
        let (going, gone) = (Gate::default(), Arc::new(AtomicBool::new(false)));
        let attach: Attach = {
            let gone = Arc::clone(&gone);
            Arc::new(move || {
                assert!(gone.load(Ordering::SeqCst), "two sets of hooks at a time");
                Box::new(FakeKernel::new(1))
            })
        };
        let mut attachment = Attachment::on_demand(attach, AFTER);
        let slow = Slow(going.clone(), gone);
        let closed = going.close();
        let kernel = RefusingKernel::new(KernelInfo::default(), move |pid| {
            let _ = &slow;
            AllowError::Listed(pid)
        });
        attachment.let_go(Box::new(kernel));
        attachment.wish();
        attachment.wish();
        let soon = timeout(Duration::from_millis(50), attachment.attached());
        assert!(soon.await.is_err());
        drop(closed);
        assert!(attachment.attached().await.is_some());
        // Unless they are put to use.
        assert!(!attachment.is_attached());
        attachment.wish();
        assert!(attachment.attached().await.is_some());
        attachment.use_them();
        assert!(attachment.is_attached());
        attachment.wish();
        assert!(
            timeout(Duration::ZERO, attachment.attached())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_no_kernel() {
        let attach: Attach = Arc::new(|| panic!("as the test has it"));
        let mut attachment = Attachment::on_demand(attach, AFTER);
        attachment.let_go(Box::new(FakeKernel::new(1)));
        attachment.wish();
        assert!(attachment.attached().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_runs_while_nothing_is_watched_and_hooks_are_attached() {
        let attach: Attach = Arc::new(|| Box::new(FakeKernel::new(1)));
        let mut attachment = Attachment::on_demand(attach, AFTER);
        let start = Instant::now();
        assert_eq!(attachment.deadline(false, start), None);
        assert_eq!(attachment.deadline(true, start), Some(start + AFTER));
        sleep(AFTER / 2).await;
        let later = Instant::now();
        assert_eq!(attachment.deadline(true, later), Some(start + AFTER));
        assert_eq!(attachment.deadline(false, later), None);
        assert_eq!(attachment.deadline(true, later), Some(later + AFTER));
        attachment.let_go(Box::new(FakeKernel::new(1)));
        assert_eq!(attachment.deadline(true, later), None);
        assert_eq!(Attachment::lasting().deadline(true, later), None);
    }
}
