//! Longer intervals: sums of ticks.
//!
//! Takes each tick, and at the wall clock's multiples of its interval produces the
//! sum of those since the last: intervals, bytes and calls added up, totals and
//! states as of the last. Watches and processes that ended in between are in it.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use netio::v1;

use super::{newest::Newest, tick::Tick};

/// See the module.
pub(super) struct Slower {
    interval: Duration,
    pub(super) newest: Newest<Tick>,
    sum: Option<v1::SubscribeResponse>,
    /// The multiple of the interval that the last tick was in.
    multiple: Option<u128>,
}

impl Slower {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            newest: Newest::new(),
            sum: None,
            multiple: None,
        }
    }

    /// Adds a tick.
    pub(super) fn add(&mut self, tick: &v1::SubscribeResponse) {
        let sum = match self.sum.take() {
            None => tick.clone(),
            Some(sum) => added(sum, tick),
        };
        let multiple = self.multiple_of(tick);
        let passed = self.multiple.replace(multiple);
        // Where the wall clock stands still, by what was measured.
        let long_enough = interval(&sum) >= self.interval + self.interval / 2;
        if passed.is_some_and(|passed| passed != multiple) || long_enough {
            let before = self.newest.get();
            let tick = Tick::after(before.as_deref(), sum);
            self.newest.replace(Arc::new(tick));
        } else {
            self.sum = Some(sum);
        }
    }

    fn multiple_of(&self, tick: &v1::SubscribeResponse) -> u128 {
        let time = tick.time.unwrap_or_default();
        let seconds = u128::try_from(time.seconds).unwrap_or(0);
        let nanos = u128::try_from(time.nanos).unwrap_or(0);
        (seconds * 1_000_000_000 + nanos) / self.interval.as_nanos().max(1)
    }
}

fn interval(message: &v1::SubscribeResponse) -> Duration {
    let interval = message.interval.unwrap_or_default();
    Duration::try_from(interval).unwrap_or_default()
}

fn added(sum: v1::SubscribeResponse, tick: &v1::SubscribeResponse) -> v1::SubscribeResponse {
    let together = interval(&sum) + interval(tick);
    let ticks = sum.ticks + tick.ticks;
    // In order of watch id, which is that of their making: those that ended come
    // with those that go on.
    let mut earlier: HashMap<String, v1::NetIoSample> = sum
        .samples
        .into_iter()
        .map(|sample| (sample.watch_id.clone(), sample))
        .collect();
    let mut samples: Vec<_> = tick
        .samples
        .iter()
        .map(|sample| match earlier.remove(&sample.watch_id) {
            Some(before) => added_sample(before, sample),
            None => sample.clone(),
        })
        .collect();
    samples.extend(earlier.into_values());
    samples.sort_by_key(|sample| (sample.watch_id.len(), sample.watch_id.clone()));
    v1::SubscribeResponse {
        interval: together.try_into().ok(),
        ticks,
        samples,
        ..tick.clone()
    }
}

fn added_sample(before: v1::NetIoSample, now: &v1::NetIoSample) -> v1::NetIoSample {
    let mut parts: BTreeMap<(u64, u32), v1::ProcessSample> = BTreeMap::new();
    for part in before
        .processes
        .into_iter()
        .chain(now.processes.iter().cloned())
    {
        let key = part.process.as_ref().map(|it| (it.start_time_ns, it.pid));
        let key = key.unwrap_or_default();
        let whole = match parts.remove(&key) {
            Some(before) => added_part(&before, part),
            None => part,
        };
        parts.insert(key, whole);
    }
    let unlisted = match (before.unlisted, now.unlisted.clone()) {
        (Some(before), Some(now)) => Some(added_part(&before, now)),
        (before, now) => now.or(before),
    };
    v1::NetIoSample {
        sent_bytes: before.sent_bytes + now.sent_bytes,
        received_bytes: before.received_bytes + now.received_bytes,
        sent_calls: before.sent_calls + now.sent_calls,
        received_calls: before.received_calls + now.received_calls,
        process_count: before.process_count.max(now.process_count),
        processes: parts.into_values().collect(),
        unlisted,
        ..now.clone()
    }
}

fn added_part(before: &v1::ProcessSample, now: v1::ProcessSample) -> v1::ProcessSample {
    v1::ProcessSample {
        sent_bytes: before.sent_bytes + now.sent_bytes,
        received_bytes: before.received_bytes + now.received_bytes,
        sent_calls: before.sent_calls + now.sent_calls,
        received_calls: before.received_calls + now.received_calls,
        ..now
    }
}
