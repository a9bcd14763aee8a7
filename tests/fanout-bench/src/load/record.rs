//! What came, and how late. Shared by all streams, which are on one thread: the
//! lock is never contended.

use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::message::Head;

/// See the module.
pub(super) struct Record {
    expected: usize,
    measured: Mutex<Measured>,
}

/// What came of the ticks that are measured.
#[derive(Default)]
pub(super) struct Measured {
    ticks: Range<Duration>,
    lateness_us: Vec<u32>,
    /// Messages are counted, of whatever tick.
    counts: bool,
    /// So many were: what the server worked for meanwhile.
    pub(super) arrived: u64,
    /// Ticks that the server said were skipped.
    pub(super) told_skipped_ticks: u64,
    /// Bytes, prefixes included.
    pub(super) bytes: u64,
}

impl Record {
    /// Measures nothing yet.
    pub(super) fn new(expected: u32) -> Self {
        let expected = expected as usize;
        Self {
            expected,
            measured: Mutex::new(Measured {
                lateness_us: Vec::with_capacity(expected),
                ..Measured::default()
            }),
        }
    }

    /// The ticks of these times are to be measured, and messages counted.
    pub(super) fn measure(&self, ticks: Range<Duration>) {
        let mut measured = self.lock();
        measured.ticks = ticks;
        measured.counts = true;
    }

    /// Messages that come from now on are not counted.
    pub(super) fn stop_counting(&self) {
        self.lock().counts = false;
    }

    /// A message came.
    pub(super) fn take(&self, head: &Head, length: usize, arrival: Duration) {
        let time = head.time();
        let mut measured = self.lock();
        measured.arrived += u64::from(measured.counts);
        if !measured.ticks.contains(&time) {
            return;
        }
        let late = arrival.saturating_sub(time).as_micros();
        measured
            .lateness_us
            .push(late.try_into().unwrap_or(u32::MAX));
        measured.told_skipped_ticks += head.skipped_ticks;
        measured.bytes += length as u64;
    }

    /// Whether everything that can come has come.
    pub(super) fn is_full(&self) -> bool {
        self.lock().lateness_us.len() >= self.expected
    }

    /// Ends the measurement.
    pub(super) fn measured(&self) -> Measured {
        let mut measured = std::mem::take(&mut *self.lock());
        measured.lateness_us.sort_unstable();
        measured
    }

    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measured {
    /// How many messages.
    pub(super) fn messages(&self) -> u64 {
        self.lateness_us.len() as u64
    }

    /// So many of 100 were no later, in microseconds; 0 if nothing came.
    pub(super) fn percentile(&self, percent: usize) -> u32 {
        let rank = (self.lateness_us.len() * percent).div_ceil(100);
        self.lateness_us
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn ticks_out_of_the_window_do_not_count() {
        let record = Record::new(100);
        let second = Duration::from_secs;
        record.measure(second(10)..second(11));
        for (seconds, late_us) in (9..12).flat_map(|s| (1..=100).map(move |late| (s, late))) {
            let head = Head {
                time: Some(Timestamp { seconds, nanos: 0 }),
                skipped_ticks: 0,
            };
            let arrival = second(seconds.unsigned_abs()) + Duration::from_micros(late_us);
            record.take(&head, 7, arrival);
        }
        assert!(record.is_full());
        record.stop_counting();
        let head = Head::default();
        record.take(&head, 7, second(11));
        let measured = record.measured();
        assert_eq!((measured.messages(), measured.bytes), (100, 700));
        assert_eq!(measured.arrived, 300);
        let percentiles = [50, 99, 100].map(|percent| measured.percentile(percent));
        assert_eq!(percentiles, [50, 99, 100]);
    }

    #[test]
    fn nothing_came() {
        assert_eq!(Record::new(5).measured().percentile(99), 0);
    }
}
