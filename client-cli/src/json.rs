//! Samples for programs: takes a tick, produces one JSON object per line and
//! sample. The keys are part of the command's interface.

use serde::Serialize;

use crate::{
    failure::Failure,
    model::{Sample, Tick},
};

#[derive(Serialize)]
struct Record<'a> {
    time: String,
    sequence: u64,
    interval_s: f64,
    skipped_ticks: u64,
    watch_id: &'a str,
    pid: u32,
    name: &'a str,
    state: &'static str,
    sent_bytes: u64,
    received_bytes: u64,
    sent_calls: u64,
    received_calls: u64,
    sent_bytes_total: u64,
    received_bytes_total: u64,
    sent_calls_total: u64,
    received_calls_total: u64,
}

impl<'a> Record<'a> {
    fn new(tick: &Tick, sample: &'a Sample) -> Self {
        Self {
            time: tick.time.to_string(),
            sequence: tick.sequence,
            interval_s: tick.interval.as_secs_f64(),
            skipped_ticks: tick.skipped_ticks,
            watch_id: &sample.watch_id,
            pid: sample.pid,
            name: &sample.name,
            state: if sample.exited { "exited" } else { "running" },
            sent_bytes: sample.sent.bytes,
            received_bytes: sample.received.bytes,
            sent_calls: sample.sent.calls,
            received_calls: sample.received.calls,
            sent_bytes_total: sample.sent.bytes_total,
            received_bytes_total: sample.received.bytes_total,
            sent_calls_total: sample.sent.calls_total,
            received_calls_total: sample.received.calls_total,
        }
    }
}

/// The lines of a tick.
pub(crate) fn lines(tick: &Tick) -> Result<String, Failure> {
    let records = tick.samples.iter().map(|it| line(&Record::new(tick, it)));
    records.collect()
}

/// One value as one line, newline included.
pub(crate) fn line(value: &impl Serialize) -> Result<String, Failure> {
    match serde_json::to_string(value) {
        Ok(json) => Ok(json + "\n"),
        Err(error) => Err(Failure::new(
            format!("cannot write as JSON: {error}"),
            "leave out --output json",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Flow, tests};

    #[test]
    fn one_object_per_line_and_sample_with_exactly_these_keys() {
        let mut tick = tests::tick(3, vec![tests::sample("w-1", 7), tests::sample("w-2", 8)]);
        tick.interval = Duration::from_millis(1500);
        tick.skipped_ticks = 4;
        tick.samples[1].exited = true;
        tick.samples[0].sent = Flow {
            bytes: u64::MAX,
            calls: 1,
            bytes_total: u64::MAX,
            calls_total: 2,
        };
        tick.samples[0].received = Flow {
            bytes: 5,
            calls: 6,
            bytes_total: 7,
            calls_total: 8,
        };

        let lines = lines(&tick).unwrap();
        assert!(lines.ends_with('\n'));
        let objects: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(objects.len(), 2);
        assert_eq!(
            objects[0],
            json!({
                "time": "2026-03-01T12:00:03Z", "sequence": 3, "interval_s": 1.5,
                "skipped_ticks": 4, "watch_id": "w-1", "pid": 7, "name": "process7",
                "state": "running", "sent_bytes": u64::MAX, "received_bytes": 5,
                "sent_calls": 1, "received_calls": 6, "sent_bytes_total": u64::MAX,
                "received_bytes_total": 7, "sent_calls_total": 2, "received_calls_total": 8,
            })
        );
        assert_eq!(objects[1]["state"], "exited");
    }
}
