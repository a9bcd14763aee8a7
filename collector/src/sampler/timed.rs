//! A reading and the time that it is of.
//!
//! The clocks are read just before the counters. Should the machine stand still in
//! between, the bytes of that while would seem to be of the time before it: so a
//! reading that took long is made again, which costs nothing, as counters only grow.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::ticker::Clock;

/// What takes longer is made again. Reading 65,536 processes takes a few
/// milliseconds.
const LONG: Duration = Duration::from_millis(50);
/// How often at most: a machine may be too slow for any haste.
const READINGS: u32 = 3;

/// Reads; tells when that was, on both clocks.
pub(super) fn timed(clock: &dyn Clock, mut read: impl FnMut()) -> (SystemTime, Instant) {
    let mut readings = 0;
    loop {
        let time = (clock.wall(), clock.monotonic());
        read();
        readings += 1;
        if readings == READINGS || clock.monotonic() - time.1 <= LONG {
            return time;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        sync::atomic::{AtomicU64, Ordering::Relaxed},
    };

    use super::*;
    use crate::ticker::Alarm;

    /// Stands still but for what a test does.
    struct Stopped {
        began: Instant,
        elapsed_ms: AtomicU64,
    }

    impl Clock for Stopped {
        fn monotonic(&self) -> Instant {
            self.began + Duration::from_millis(self.elapsed_ms.load(Relaxed))
        }

        fn wall(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + (self.monotonic() - self.began)
        }

        fn boot(&self) -> Duration {
            Duration::ZERO
        }

        fn alarm(&self) -> Alarm {
            Alarm::coarse()
        }
    }

    /// The time told of readings that take so many milliseconds, and their number.
    fn told(take: &[u64]) -> (u64, usize) {
        let clock = Stopped {
            began: Instant::now(),
            elapsed_ms: AtomicU64::new(7),
        };
        let readings = Cell::new(0);
        let (wall, monotonic) = timed(&clock, || {
            clock.elapsed_ms.fetch_add(take[readings.get()], Relaxed);
            readings.set(readings.get() + 1);
        });
        let told = monotonic - clock.began;
        assert_eq!(wall, SystemTime::UNIX_EPOCH + told);
        (told.as_millis() as u64, readings.get())
    }

    #[test]
    fn a_reading_that_was_held_up_is_made_again() {
        assert_eq!(told(&[5]), (7, 1));
        assert_eq!(told(&[50]), (7, 1));
        assert_eq!(told(&[3_600_000, 5]), (3_600_007, 2));
        assert_eq!(told(&[60, 70, 80]), (137, 3), "it comes to an end");
    }
}
