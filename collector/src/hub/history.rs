//! The last ticks, for those who come late or come back.
//!
//! Takes each tick's message, encoded, and keeps it until it is too old or there
//! are too many bytes. Produces the tick after a given one. Parts of processes are
//! not kept. What several who come back want alike is kept for a while as encoded for
//! the first of them, up to [`MAX_ENCODED`] bytes.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{filter::Filter, prepared::Prepared};

/// Bytes of ticks that are kept as encoded for some.
const MAX_ENCODED: usize = 4 << 20;

/// A tick that is kept.
struct Kept {
    sequence: u64,
    time: SystemTime,
    /// On the monotonic clock, which no step of the wall clock makes older.
    kept_at: Instant,
    message: Prepared,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.message.0.len() + size_of::<Self>()
    }
}

/// See the module.
pub(super) struct History {
    ticks: VecDeque<Kept>,
    bytes: usize,
    max_bytes: usize,
    max_age: Duration,
    /// For whom ticks were encoded: the latest last.
    encoded: VecDeque<Encoded>,
    encoded_bytes: usize,
}

struct Encoded {
    sequence: u64,
    filter: Arc<Filter>,
    message: Prepared,
}

impl Encoded {
    fn bytes(&self) -> usize {
        self.message.0.len() + size_of::<Self>()
    }
}

impl History {
    pub(super) fn new(max_age: Duration, max_bytes: usize) -> Self {
        Self {
            ticks: VecDeque::new(),
            bytes: 0,
            max_bytes,
            max_age,
            encoded: VecDeque::new(),
            encoded_bytes: 0,
        }
    }

    /// A tick as it was encoded for another who wanted the same.
    pub(super) fn encoded(&self, sequence: u64, filter: &Arc<Filter>) -> Option<Prepared> {
        let mut latest = self.encoded.iter().rev();
        let it = latest.find(|it| it.sequence == sequence && Arc::ptr_eq(&it.filter, filter))?;
        Some(it.message.clone())
    }

    /// Keeps a tick as it was encoded, for the next who wants the same.
    pub(super) fn keep(&mut self, sequence: u64, filter: Arc<Filter>, message: Prepared) {
        let encoded = Encoded {
            sequence,
            filter,
            message,
        };
        self.encoded_bytes += encoded.bytes();
        self.encoded.push_back(encoded);
        while self.encoded_bytes > MAX_ENCODED
            && let Some(oldest) = self.encoded.pop_front()
        {
            self.encoded_bytes -= oldest.bytes();
        }
    }

    pub(super) fn push(&mut self, sequence: u64, time: SystemTime, message: Prepared) {
        let kept = Kept {
            sequence,
            time,
            kept_at: Instant::now(),
            message,
        };
        let now = kept.kept_at;
        self.bytes += kept.bytes();
        self.ticks.push_back(kept);
        while let Some(oldest) = self.ticks.front()
            && (self.bytes > self.max_bytes || now - oldest.kept_at > self.max_age)
        {
            self.bytes -= oldest.bytes();
            self.ticks.pop_front();
        }
    }

    /// The tick after the one with this sequence, if it is kept.
    pub(super) fn after(&self, sequence: u64) -> Option<(u64, Prepared)> {
        let oldest = self.oldest()?;
        let index = (sequence + 1).checked_sub(oldest)?;
        let kept = self.ticks.get(usize::try_from(index).ok()?)?;
        Some((kept.sequence, kept.message.clone()))
    }

    /// The sequence before the first tick that was read at this time or later.
    pub(super) fn before_time(&self, time: SystemTime) -> Option<u64> {
        let first = self.ticks.iter().find(|kept| kept.time >= time);
        first.map(|kept| kept.sequence - 1)
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.ticks.front().map(|kept| kept.sequence)
    }

    /// Ticks, and the bytes that they take.
    pub(super) fn size(&self) -> (u32, u64) {
        let ticks = u32::try_from(self.ticks.len()).unwrap_or(u32::MAX);
        (ticks, self.bytes as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Prepared {
        Prepared(vec![0; bytes].into())
    }

    #[test]
    fn what_was_encoded_serves_others_who_want_the_same() {
        let mut history = History::new(Duration::from_secs(10), 10_000);
        let [one, other] = [(), ()].map(|()| Arc::new(Filter::default()));
        let half = MAX_ENCODED / 2;
        history.keep(1, Arc::clone(&one), message(half));
        assert_eq!(history.encoded(1, &one).unwrap().0.len(), half);
        assert!(history.encoded(2, &one).is_none());
        assert!(history.encoded(1, &other).is_none());
        history.keep(1, Arc::clone(&other), message(half));
        assert!(history.encoded(1, &one).is_none(), "it is too much");
        history.keep(3, Arc::clone(&one), message(2 * MAX_ENCODED));
        assert!(history.encoded.is_empty());
        assert_eq!(history.encoded_bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_or_too_much_goes() {
        let mut history = History::new(Duration::from_secs(10), 10_000);
        for sequence in 1..=30 {
            history.push(sequence, SystemTime::now(), message(10));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(history.oldest(), Some(20));
        history.push(31, SystemTime::now(), message(9_500));
        let (_, bytes) = history.size();
        assert!(bytes <= 10_000, "{bytes}");
        assert!(history.oldest() > Some(25));
        // One that is larger than all the room is not kept either.
        history.push(32, SystemTime::now(), message(10_001));
        assert_eq!((history.oldest(), history.size()), (None, (0, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_is_found_by_the_one_before_and_by_time() {
        let mut history = History::new(Duration::from_secs(60), 10_000);
        let start = SystemTime::UNIX_EPOCH;
        for sequence in 5..=8 {
            let time = start + Duration::from_secs(sequence);
            history.push(sequence, time, message(1));
        }
        let after = |sequence| history.after(sequence).map(|(sequence, _)| sequence);
        assert_eq!(after(3), None);
        assert_eq!(after(4), Some(5));
        assert_eq!(after(7), Some(8));
        assert_eq!(after(8), None);
        let before = |seconds| history.before_time(start + Duration::from_secs(seconds));
        assert_eq!(before(0), Some(4));
        assert_eq!(before(7), Some(6));
        assert_eq!(before(9), None);
    }

    /// The order is that of the ticks, also where the wall clock is set back: what
    /// comes is all of that time or later, and what came in between.
    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_back_hides_no_tick() {
        let mut history = History::new(Duration::from_secs(60), 10_000);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (sequence, seconds) in [(1, 100), (2, 101), (3, 51), (4, 52), (5, 102), (6, 30)] {
            history.push(sequence, at(seconds), message(1));
        }
        for (seconds, before) in [
            (0, Some(0)),
            (52, Some(0)),
            (100, Some(0)),
            (101, Some(1)),
            (102, Some(4)),
            (103, None),
        ] {
            assert_eq!(history.before_time(at(seconds)), before, "{seconds}");
        }
        // Nor does it make one older.
        assert_eq!((history.oldest(), history.size().0), (Some(1), 6));
    }
}
