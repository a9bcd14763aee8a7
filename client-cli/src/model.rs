//! A tick as this client sees it: takes messages of the API, produces values
//! that views can show without another check. Names are fit for a terminal,
//! times valid, and the interval is never zero.

use std::time::Duration;

use jiff::Timestamp;
use netio::v1;

use crate::text;

/// A rate over less than this would say nothing: one packet would be gigabytes
/// per second.
const SHORTEST_COUNTED: Duration = Duration::from_millis(10);

/// One tick and the samples in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    /// Counts ticks of the collector.
    pub(crate) sequence: u64,
    /// When the counters were read.
    pub(crate) time: Timestamp,
    /// The measured time since the reading before; not zero.
    pub(crate) interval: Duration,
    /// Ticks since the last one shown that never arrived.
    pub(crate) skipped_ticks: u64,
    /// The samples.
    pub(crate) samples: Vec<Sample>,
}

/// What one watched process did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Names the watch.
    pub(crate) watch_id: String,
    /// The process.
    pub(crate) pid: u32,
    /// Its name, fit for a terminal.
    pub(crate) name: String,
    /// When counting began, by the collector's clock, where that is known.
    pub(crate) begin: Option<Timestamp>,
    /// Whether it is gone; then this is its last sample.
    pub(crate) exited: bool,
    /// What it sent.
    pub(crate) sent: Flow,
    /// What it received.
    pub(crate) received: Flow,
}

impl Tick {
    /// For how long the process of `sample` was counted in this tick: not all
    /// of it where counting began within. Never zero, and no more than the
    /// interval.
    pub(crate) fn counted(&self, sample: &Sample) -> Duration {
        let counted = sample
            .begin
            .and_then(|begin| Duration::try_from(self.time.duration_since(begin)).ok())
            // Not positive: the collector's wall clock was set back meanwhile.
            .filter(|counted| !counted.is_zero())
            .unwrap_or(self.interval);
        counted.max(SHORTEST_COUNTED).min(self.interval)
    }
}

/// One direction of traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Bytes in this interval.
    pub(crate) bytes: u64,
    /// Calls in this interval.
    pub(crate) calls: u64,
    /// Bytes since the watch began.
    pub(crate) bytes_total: u64,
    /// Calls since the watch began.
    pub(crate) calls_total: u64,
}

impl TryFrom<v1::SubscribeResponse> for Tick {
    type Error = &'static str;

    fn try_from(tick: v1::SubscribeResponse) -> Result<Self, &'static str> {
        let interval = tick.interval.and_then(|it| Duration::try_from(it).ok());
        Ok(Self {
            sequence: tick.sequence,
            time: tick
                .time
                .and_then(timestamp)
                .ok_or("a tick without a valid time")?,
            interval: interval
                .filter(|it| !it.is_zero())
                .ok_or("a tick without a valid interval")?,
            skipped_ticks: tick.skipped_ticks,
            samples: tick.samples.into_iter().map(Sample::from).collect(),
        })
    }
}

impl From<v1::NetIoSample> for Sample {
    fn from(sample: v1::NetIoSample) -> Self {
        let exited = sample.state() == v1::ProcessState::Exited;
        let process = sample.process.unwrap_or_default();
        Self {
            watch_id: text::line(&sample.watch_id),
            pid: process.pid,
            name: text::line(&process.name),
            // Told by the watch, not by its samples.
            begin: None,
            exited,
            sent: Flow {
                bytes: sample.sent_bytes,
                calls: sample.sent_calls,
                bytes_total: sample.sent_bytes_total,
                calls_total: sample.sent_calls_total,
            },
            received: Flow {
                bytes: sample.received_bytes,
                calls: sample.received_calls,
                bytes_total: sample.received_bytes_total,
                calls_total: sample.received_calls_total,
            },
        }
    }
}

/// A wall-clock time, if it is one.
pub(crate) fn timestamp(time: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tick of 12:00:0N UTC, one second long.
    pub(crate) fn tick(sequence: u64, samples: Vec<Sample>) -> Tick {
        let noon: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        Tick {
            sequence,
            time: noon + Duration::from_secs(sequence),
            interval: Duration::from_secs(1),
            skipped_ticks: 0,
            samples,
        }
    }

    /// An idle process.
    pub(crate) fn sample(watch_id: &str, pid: u32) -> Sample {
        Sample {
            watch_id: watch_id.to_owned(),
            pid,
            name: format!("process{pid}"),
            begin: None,
            exited: false,
            sent: Flow::default(),
            received: Flow::default(),
        }
    }

    fn message() -> v1::SubscribeResponse {
        v1::SubscribeResponse {
            sequence: 9,
            time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 5,
            }),
            interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 500,
            }),
            skipped_ticks: 2,
            instance: None,
            samples: vec![v1::NetIoSample {
                watch_id: "w-1".to_owned(),
                process: Some(v1::Process {
                    pid: 42,
                    start_time_ns: 1,
                    name: "evil\u{1b}[0m".to_owned(),
                }),
                state: v1::ProcessState::Exited.into(),
                sent_bytes: 1,
                received_bytes: 2,
                sent_calls: 3,
                received_calls: 4,
                sent_bytes_total: 5,
                received_bytes_total: 6,
                sent_calls_total: 7,
                received_calls_total: 8,
            }],
        }
    }

    #[test]
    fn every_field_arrives() {
        let tick = Tick::try_from(message()).unwrap();
        assert_eq!((tick.sequence, tick.skipped_ticks), (9, 2));
        assert_eq!(tick.time.to_string(), "2023-11-14T22:13:20.000000005Z");
        assert_eq!(tick.interval, Duration::new(1, 500));
        let sample = &tick.samples[0];
        assert_eq!((sample.watch_id.as_str(), sample.pid), ("w-1", 42));
        assert_eq!(sample.name, "evil\u{fffd}[0m");
        assert!(sample.exited);
        let Flow {
            bytes,
            calls,
            bytes_total,
            calls_total,
        } = sample.sent;
        assert_eq!((bytes, calls, bytes_total, calls_total), (1, 3, 5, 7));
        let Flow {
            bytes,
            calls,
            bytes_total,
            calls_total,
        } = sample.received;
        assert_eq!((bytes, calls, bytes_total, calls_total), (2, 4, 6, 8));
    }

    #[test]
    fn the_time_counted_begins_with_the_watch() {
        let mut tick = tick(5, vec![]);
        for (begin, counted_ms) in [
            (None, 1000),
            (Some(tick.time - Duration::from_secs(30)), 1000),
            (Some(tick.time - Duration::from_millis(250)), 250),
            (Some(tick.time - Duration::from_micros(3)), 10),
            (Some(tick.time), 1000),
            (Some(tick.time + Duration::from_secs(9)), 1000),
        ] {
            let sample = Sample {
                begin,
                ..sample("w-1", 7)
            };
            let counted = tick.counted(&sample);
            assert_eq!(counted, Duration::from_millis(counted_ms), "{begin:?}");
        }
        // No longer than a tick that is shorter than that.
        tick.interval = Duration::from_millis(1);
        let sample = Sample {
            begin: Some(tick.time - Duration::from_micros(3)),
            ..sample("w-1", 7)
        };
        assert_eq!(tick.counted(&sample), tick.interval);
    }

    #[test]
    fn broken_ticks_are_refused() {
        let break_it: [fn(&mut v1::SubscribeResponse); 5] = [
            |tick| tick.time = None,
            |tick| tick.time.as_mut().unwrap().seconds = i64::MAX,
            |tick| tick.interval = None,
            |tick| tick.interval = Some(prost_types::Duration::default()),
            |tick| tick.interval.as_mut().unwrap().seconds = -5,
        ];
        for (index, change) in break_it.into_iter().enumerate() {
            let mut tick = message();
            change(&mut tick);
            assert!(Tick::try_from(tick).is_err(), "case {index}");
        }
    }
}
