//! Decides when to sample.
//!
//! Takes an interval, produces ticks at wall-clock multiples of it (at 1 s: on
//! the full second). Promises: no drift, because each deadline is computed anew
//! from the clocks; at least half an interval between two ticks, whatever the
//! wall clock does; ticks that had to be left out are counted.
#![forbid(unsafe_code)]

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

mod alarm;

pub(crate) use alarm::Alarm;

/// The two clocks of the host.
pub(crate) trait Clock: Send + Sync {
    /// Measures intervals; never steps.
    fn monotonic(&self) -> Instant;
    /// Tells the time of day; may step and be slewed.
    fn wall(&self) -> SystemTime;
    /// The time since boot, with the time that the machine was suspended.
    fn boot(&self) -> Duration;
    /// Wakes by the monotonic one. Called within a tokio runtime.
    fn alarm(&self) -> Alarm;
}

/// The real clocks.
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn monotonic(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn boot(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    fn alarm(&self) -> Alarm {
        Alarm::fine()
    }
}

/// The schedule.
pub(crate) struct Ticker {
    clock: Arc<dyn Clock>,
    alarm: Alarm,
    interval: Duration,
    deadline: Instant,
    missed: u64,
}

impl Ticker {
    /// The first tick comes half an interval from now at the earliest. The
    /// interval is not zero. Called within a tokio runtime.
    pub(crate) fn new(clock: Arc<dyn Clock>, interval: Duration) -> Self {
        let deadline = next_deadline(&*clock, interval);
        Self {
            alarm: clock.alarm(),
            clock,
            interval,
            deadline,
            missed: 0,
        }
    }

    /// Waits for the next tick, and tells how late it is. A call that is dropped
    /// while it waits loses nothing.
    pub(crate) async fn tick(&mut self) -> Duration {
        self.alarm.until(self.deadline).await;
        let late = self.clock.monotonic().duration_since(self.deadline);
        // Rounded, because a deadline that follows within half an interval is
        // left out as well.
        let missed = (late + self.interval / 2).as_nanos() / self.interval.as_nanos();
        self.missed += u64::try_from(missed).unwrap_or(u64::MAX);
        self.deadline = next_deadline(&*self.clock, self.interval);
        late
    }

    /// Tells when the counters were read for a tick, which may be long after it: no tick
    /// follows such a reading within half an interval, which would give a tiny one.
    pub(crate) fn was_read(&mut self, reading: Instant) {
        let too_near = reading + self.interval / 2;
        if self.deadline >= too_near {
            return;
        }
        let left_out = (too_near - self.deadline).as_nanos() / self.interval.as_nanos() + 1;
        self.missed += u64::try_from(left_out).unwrap_or(u64::MAX);
        self.deadline = next_deadline(&*self.clock, self.interval);
    }

    /// The interval that it was made with.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// Deadlines that passed without a tick of their own, since the start.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }
}

/// The next wall-clock multiple of the interval that is not too near. A wall
/// clock that is being slowed down has not reached the multiple yet for which
/// the present tick was made: without the rule it would give a second, tiny one.
fn next_deadline(clock: &dyn Clock, interval: Duration) -> Instant {
    let since_epoch = clock
        .wall()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let into = since_epoch.as_nanos() % interval.as_nanos();
    // Less than the interval, so it fits.
    let into = Duration::from_nanos(u64::try_from(into).unwrap_or(0));
    let mut wait = interval.saturating_sub(into);
    if wait < interval / 2 {
        wait += interval;
    }
    clock.monotonic() + wait
}

#[cfg(test)]
pub(crate) mod fake {
    //! A wall clock that steps and is slewed as a test says, above tokio's
    //! paused time.

    use std::sync::Mutex;

    use super::{Alarm, Clock, Duration, Instant, SystemTime, UNIX_EPOCH};

    pub(crate) struct FakeClock {
        /// The wall time at an instant, and its rate from then on.
        anchor: Mutex<(Instant, SystemTime, f64)>,
    }

    impl FakeClock {
        /// A clock that stands at this time since the epoch, and runs.
        pub(crate) fn at(since_epoch: Duration) -> Self {
            let anchor = (Instant::now(), UNIX_EPOCH + since_epoch, 1.0);
            Self {
                anchor: Mutex::new(anchor),
            }
        }

        pub(crate) fn set(&self, wall: SystemTime, rate: f64) {
            *self.anchor.lock().unwrap() = (Instant::now(), wall, rate);
        }
    }

    impl Clock for FakeClock {
        fn monotonic(&self) -> Instant {
            Instant::now()
        }

        fn wall(&self) -> SystemTime {
            let (instant, wall, rate) = *self.anchor.lock().unwrap();
            wall + instant.elapsed().mul_f64(rate)
        }

        fn boot(&self) -> Duration {
            self.wall().duration_since(UNIX_EPOCH).unwrap_or_default()
        }

        fn alarm(&self) -> Alarm {
            Alarm::coarse()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::{fake::FakeClock, *};

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    /// tokio's timers are this coarse.
    const TIMER: Duration = Duration::from_millis(2);

    fn past_the_second(clock: &FakeClock) -> Duration {
        let wall = clock.wall().duration_since(UNIX_EPOCH).unwrap();
        Duration::from_nanos(wall.subsec_nanos().into())
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_fall_on_the_full_second_without_drift() {
        let clock = Arc::new(FakeClock::at(Duration::from_millis(10_300)));
        let mut ticker = Ticker::new(clock.clone(), SECOND);
        let start = Instant::now();
        for _ in 0..1000 {
            ticker.tick().await;
            assert!(past_the_second(&clock) < TIMER);
            advance(Duration::from_millis(300)).await; // the work of a tick
        }
        assert_eq!(start.elapsed().as_secs(), 1000);
        assert_eq!(ticker.missed(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_tick_is_not_tiny() {
        let clock = Arc::new(FakeClock::at(Duration::from_millis(10_900)));
        let mut ticker = Ticker::new(clock.clone(), SECOND);
        let start = Instant::now();
        ticker.tick().await;
        assert!(start.elapsed() >= SECOND, "{:?}", start.elapsed());
        assert!(past_the_second(&clock) < TIMER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slewed_clock_gives_no_tiny_tick() {
        for rate in [0.9995, 1.0005] {
            let clock = Arc::new(FakeClock::at(10 * SECOND));
            clock.set(clock.wall(), rate);
            let mut ticker = Ticker::new(clock.clone(), SECOND);
            let mut last = Instant::now();
            for _ in 0..1000 {
                ticker.tick().await;
                let gap = last.elapsed();
                last = Instant::now();
                assert!(gap > SECOND / 2, "{gap:?} at rate {rate}");
                assert!(gap < SECOND * 3 / 2, "{gap:?} at rate {rate}");
            }
            assert_eq!(ticker.missed(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn fault_23_a_wall_clock_step_does_no_harm() {
        let clock = Arc::new(FakeClock::at(100 * HOUR));
        let mut ticker = Ticker::new(clock.clone(), SECOND);
        for step in 0..20 {
            ticker.tick().await;
            let last = Instant::now();
            let odd = Duration::from_millis(137 * step);
            let wall = clock.wall();
            let forward = step % 2 == 0;
            clock.set(
                if forward {
                    wall + HOUR + odd
                } else {
                    wall - HOUR - odd
                },
                1.0,
            );
            // The tick under way keeps its deadline, the one after it is aligned.
            ticker.tick().await;
            ticker.tick().await;
            assert!(past_the_second(&clock) < TIMER);
            assert!(last.elapsed() >= SECOND, "{:?}", last.elapsed());
            assert!(last.elapsed() <= SECOND * 3, "{:?}", last.elapsed());
        }
        assert_eq!(ticker.missed(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn missed_ticks_are_counted_and_not_made_up_for() {
        let clock = Arc::new(FakeClock::at(10 * SECOND));
        let mut ticker = Ticker::new(clock.clone(), SECOND);
        ticker.tick().await; // second 11
        advance(Duration::from_millis(3200)).await; // 12, 13 and 14 pass
        ticker.tick().await; // at 14.2, for 12
        assert_eq!(ticker.missed(), 2);
        let late = Instant::now();
        ticker.tick().await; // 15
        assert_eq!(ticker.missed(), 2);
        assert!(late.elapsed() >= Duration::from_millis(790));
        assert!(past_the_second(&clock) < TIMER);

        advance(Duration::from_millis(1600)).await;
        ticker.tick().await; // at 16.6, for 16
        let late = Instant::now();
        ticker.tick().await; // 17 would be too near
        assert_eq!(ticker.missed(), 3);
        assert!(late.elapsed() >= Duration::from_millis(1390));
    }

    #[tokio::test(start_paused = true)]
    async fn no_tick_follows_a_reading_that_was_held_up_at_once() {
        for (held_up, left_out) in [
            (0, 0),
            (400, 0),
            (700, 1),
            (1_000, 1),
            (1_700, 2),
            (3_200, 3),
        ] {
            let clock = Arc::new(FakeClock::at(10 * SECOND));
            let mut ticker = Ticker::new(clock.clone(), SECOND);
            ticker.tick().await; // second 11
            advance(Duration::from_millis(held_up)).await;
            let reading = Instant::now();
            ticker.was_read(reading);
            assert_eq!(ticker.missed(), left_out, "held up for {held_up} ms");
            ticker.tick().await;
            let interval = reading.elapsed();
            assert!(interval >= SECOND / 2, "{interval:?}");
            assert!(interval <= SECOND * 3 / 2 + TIMER, "{interval:?}");
            assert!(past_the_second(&clock) < TIMER);
            assert_eq!(ticker.missed(), left_out);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_wait_keeps_the_deadline() {
        let clock = Arc::new(FakeClock::at(10 * SECOND));
        let mut ticker = Ticker::new(clock.clone(), SECOND);
        for _ in 0..9 {
            let wait = tokio::time::timeout(Duration::from_millis(100), ticker.tick());
            assert!(wait.await.is_err());
        }
        ticker.tick().await;
        assert!(past_the_second(&clock) < TIMER);
        assert_eq!(
            clock.wall().duration_since(UNIX_EPOCH).unwrap().as_secs(),
            11
        );
    }

    #[tokio::test(start_paused = true)]
    async fn any_interval_is_aligned_to_its_own_multiples() {
        let interval = Duration::from_millis(700);
        let clock = Arc::new(FakeClock::at(Duration::from_millis(1_234_567)));
        let mut ticker = Ticker::new(clock.clone(), interval);
        for _ in 0..10 {
            ticker.tick().await;
            let wall = clock.wall().duration_since(UNIX_EPOCH).unwrap();
            let past = wall.as_nanos() % interval.as_nanos();
            assert!(past < TIMER.as_nanos(), "{past}");
        }
    }
}
