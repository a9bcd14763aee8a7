//! A tick as this client sees it: takes messages of the API, produces values
//! that views can show without another check. Names are fit for a terminal,
//! times valid, and the interval is never zero.

use std::time::Duration;

use jiff::Timestamp;
use netio::v1;

use crate::{process::Process, text};

/// A rate over less than this would say nothing: one packet would be gigabytes
/// per second.
const SHORTEST_COUNTED: Duration = Duration::from_millis(10);

/// Names a tick: sequences begin anew with each run of the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// Which run of the collector.
    pub(crate) generation: u64,
    /// Which of its ticks.
    pub(crate) sequence: u64,
}

/// One tick, or several summed up, and the samples in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    /// Which run of the collector it is of.
    pub(crate) generation: u64,
    /// And of all that went on with the same watches: see [`lineage`].
    pub(crate) lineage: u64,
    /// Counts ticks of the collector; of several the last.
    pub(crate) sequence: u64,
    /// How many ticks are summed up; not zero.
    pub(crate) ticks: u32,
    /// Whether watches that were idle may be missing in it.
    pub(crate) omits_idle: bool,
    /// When the counters were read.
    pub(crate) time: Timestamp,
    /// The measured time since the reading before; not zero.
    pub(crate) interval: Duration,
    /// Ticks since the last one shown that never arrived.
    pub(crate) skipped_ticks: u64,
    /// The samples.
    pub(crate) samples: Vec<Sample>,
    /// Processes of the whole collector that have no line of their own, counted
    /// since its start.
    pub(crate) map_full_processes: u64,
}

/// What the processes of one watch did, in sum.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Names the watch.
    pub(crate) watch_id: String,
    /// What it is for, in words; told by the watch, not by its samples.
    pub(crate) target: String,
    /// Its process; where there are several, the oldest; none if there never was one.
    pub(crate) process: Option<Process>,
    /// Processes that ran in this interval.
    pub(crate) process_count: u32,
    /// When counting began, by the collector's clock, where that is known.
    pub(crate) begin: Option<Timestamp>,
    /// How it stands.
    pub(crate) state: State,
    /// What they sent.
    pub(crate) sent: Flow,
    /// What they received.
    pub(crate) received: Flow,
    /// The part of each process, if that was asked for.
    pub(crate) parts: Vec<Part>,
}

/// What one process of a watch did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    /// The process; none: the sum over those that have no line of their own.
    pub(crate) process: Option<Process>,
    /// How it stands; never waiting.
    pub(crate) state: State,
    /// What it sent.
    pub(crate) sent: Flow,
    /// What it received.
    pub(crate) received: Flow,
}

/// How a watch or a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs.
    Running,
    /// Nothing runs, but what matches later will be counted.
    Waiting,
    /// It is gone; this is its last sample.
    Exited,
}

impl State {
    /// As JSON and the table have it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Exited => "exited",
        }
    }
}

impl From<v1::ProcessState> for State {
    fn from(state: v1::ProcessState) -> Self {
        match state {
            v1::ProcessState::Unspecified | v1::ProcessState::Running => Self::Running,
            v1::ProcessState::Waiting => Self::Waiting,
            v1::ProcessState::Exited => Self::Exited,
        }
    }
}

impl Sample {
    /// Whether no byte moved.
    pub(crate) fn is_idle(&self) -> bool {
        self.sent.is_idle() && self.received.is_idle()
    }

    /// Its process, where there is one to be shown: none while it waits.
    pub(crate) fn shown_process(&self) -> Option<&Process> {
        self.process
            .as_ref()
            .filter(|_| self.state != State::Waiting)
    }
}

impl Tick {
    /// Its name.
    pub(crate) fn point(&self) -> Point {
        Point {
            generation: self.generation,
            sequence: self.sequence,
        }
    }

    /// The sequence of the first tick in it.
    pub(crate) fn first(&self) -> u64 {
        self.sequence
            .saturating_sub(u64::from(self.ticks).saturating_sub(1))
    }

    /// When its interval began, where that is a time.
    pub(crate) fn begin(&self) -> Option<Timestamp> {
        self.time.checked_sub(self.interval).ok()
    }

    /// For how long the processes of `sample` were counted in this tick: not all
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

/// What is the same for collectors that went on, one from the other, with the same
/// watches and the same sequence.
pub(crate) fn lineage(instance: &v1::CollectorInstance) -> u64 {
    match instance.lineage {
        // It does not know of that.
        0 => instance.generation,
        lineage => lineage,
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

impl Flow {
    /// Whether no byte moved in this interval.
    pub(crate) fn is_idle(&self) -> bool {
        self.bytes == 0
    }
}

impl TryFrom<v1::SubscribeResponse> for Tick {
    type Error = &'static str;

    fn try_from(tick: v1::SubscribeResponse) -> Result<Self, &'static str> {
        let interval = tick.interval.and_then(netio::time::duration);
        let instance = tick.instance.unwrap_or_default();
        Ok(Self {
            generation: instance.generation,
            lineage: lineage(&instance),
            sequence: tick.sequence,
            ticks: tick.ticks.max(1),
            omits_idle: false,
            time: tick
                .time
                .and_then(timestamp)
                .ok_or("a tick without a valid time")?,
            interval: interval
                .filter(|it| !it.is_zero())
                .ok_or("a tick without a valid interval")?,
            skipped_ticks: tick.skipped_ticks,
            samples: tick.samples.into_iter().map(Sample::from).collect(),
            map_full_processes: tick.map_full.map_or(0, |it| it.processes),
        })
    }
}

impl From<v1::NetIoSample> for Sample {
    fn from(sample: v1::NetIoSample) -> Self {
        let state = sample.state().into();
        let parts = sample.processes.into_iter().chain(sample.unlisted);
        Self {
            watch_id: text::line(&sample.watch_id),
            target: String::new(),
            process: sample.process.map(Process::from),
            process_count: sample.process_count,
            begin: None,
            state,
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
            parts: parts.map(Part::from).collect(),
        }
    }
}

impl From<v1::ProcessSample> for Part {
    fn from(part: v1::ProcessSample) -> Self {
        Self {
            state: part.state().into(),
            process: part.process.map(Process::from),
            sent: Flow {
                bytes: part.sent_bytes,
                calls: part.sent_calls,
                bytes_total: part.sent_bytes_total,
                calls_total: part.sent_calls_total,
            },
            received: Flow {
                bytes: part.received_bytes,
                calls: part.received_calls,
                bytes_total: part.received_bytes_total,
                calls_total: part.received_calls_total,
            },
        }
    }
}

/// A wall-clock time, if it is one.
pub(crate) fn timestamp(time: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

#[cfg(test)]
pub(crate) mod tests;
