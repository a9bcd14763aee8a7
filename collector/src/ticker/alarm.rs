//! Waits for a moment, to the microsecond where the kernel allows.
//!
//! tokio's own timers round up to the next millisecond, and the kernel lets their
//! wait be late by a slack on top of that. A timerfd has neither; the reactor waits
//! for it as for a socket.
#![forbid(unsafe_code)]

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};
use tracing::warn;

/// See the module.
pub(crate) struct Alarm {
    /// None: by tokio's timers.
    timer: Option<AsyncFd<OwnedFd>>,
}

impl Alarm {
    /// By a timerfd; by tokio's timers if the kernel gives none. Called within a
    /// tokio runtime.
    pub(super) fn fine() -> Self {
        timerfd().map_or_else(
            |error| {
                warn!(%error, "no timerfd: ticks may be some milliseconds late");
                Self::coarse()
            },
            |timer| Self { timer: Some(timer) },
        )
    }

    /// By tokio's timers, which a test may pause.
    pub(crate) fn coarse() -> Self {
        Self { timer: None }
    }

    /// Waits until then. A call that is dropped while it waits loses nothing.
    pub(super) async fn until(&self, deadline: Instant) {
        if let Some(timer) = &self.timer {
            match until(timer, deadline).await {
                Ok(()) => return,
                Err(error) => {
                    warn!(%error, "the timerfd failed: a tick may be some milliseconds late");
                }
            }
        }
        // Rounds up even what is past already.
        sleep_until(deadline).await;
    }
}

fn timerfd() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    // Its successor is unsafe, for the sake of types whose descriptor may change
    // or close while they are registered; an OwnedFd's does not.
    #[expect(deprecated)]
    AsyncFd::with_interest(timer, Interest::READABLE)
}

async fn until(timer: &AsyncFd<OwnedFd>, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let once = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(left),
        };
        // Whatever was set before is forgotten.
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
        let mut ready = timer.readable().await?;
        // Not yet, if this is about what was set before.
        let _ = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the real clock: how late it is, is not judged here.
    #[tokio::test]
    async fn an_alarm_is_never_early_and_a_dropped_wait_does_no_harm() {
        let alarm = Alarm::fine();
        assert!(alarm.timer.is_some());
        for _ in 0..20 {
            let deadline = Instant::now() + Duration::from_millis(3);
            // One goes off when nobody waits for it any more, one would much later.
            for other in [Duration::from_millis(1), Duration::from_secs(3600)] {
                let dropped = alarm.until(Instant::now() + other);
                let _ = tokio::time::timeout(Duration::ZERO, dropped).await;
                std::thread::sleep(Duration::from_millis(1));
            }
            alarm.until(deadline).await;
            assert!(Instant::now() >= deadline);
        }
        // What is past is not waited for.
        alarm.until(Instant::now()).await;
    }
}
