//! Samples for programs: takes a tick, produces one JSON object per line: one
//! per watch (scope "watch"), and after it, where they were asked for, one per
//! process ("process") and one for those without a line of their own
//! ("unlisted"). The keys are part of the command's interface.

use netio::printable;
use serde::Serialize;

use crate::{
    failure::Failure,
    model::{Flow, Part, Sample, Tick},
    process::Process,
};

/// What is the same in every line.
#[derive(Serialize)]
struct Head<'a> {
    time: String,
    sequence: u64,
    interval_s: f64,
    scope: &'static str,
    watch_id: &'a str,
}

impl<'a> Head<'a> {
    fn new(tick: &Tick, sample: &'a Sample, scope: &'static str) -> Self {
        Self {
            time: tick.time.to_string(),
            sequence: tick.sequence,
            interval_s: tick.interval.as_secs_f64(),
            scope,
            watch_id: &sample.watch_id,
        }
    }
}

#[derive(Serialize)]
struct Counters {
    sent_bytes: u64,
    received_bytes: u64,
    sent_calls: u64,
    received_calls: u64,
    sent_bytes_total: u64,
    received_bytes_total: u64,
    sent_calls_total: u64,
    received_calls_total: u64,
}

impl Counters {
    fn new(sent: &Flow, received: &Flow) -> Self {
        Self {
            sent_bytes: sent.bytes,
            received_bytes: received.bytes,
            sent_calls: sent.calls,
            received_calls: received.calls,
            sent_bytes_total: sent.bytes_total,
            received_bytes_total: received.bytes_total,
            sent_calls_total: sent.calls_total,
            received_calls_total: received.calls_total,
        }
    }
}

#[derive(Serialize)]
struct OfWatch<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    skipped_ticks: u64,
    target: &'a str,
    pid: Option<u32>,
    name: Option<&'a str>,
    state: &'static str,
    process_count: u32,
    #[serde(flatten)]
    counters: Counters,
    map_full_processes: u64,
}

impl<'a> OfWatch<'a> {
    fn new(tick: &Tick, sample: &'a Sample) -> Self {
        let process = sample.shown_process();
        Self {
            head: Head::new(tick, sample, "watch"),
            skipped_ticks: tick.skipped_ticks,
            target: &sample.target,
            pid: process.map(|it| it.pid),
            name: process.map(|it| it.name.as_str()),
            state: sample.state.word(),
            process_count: sample.process_count,
            counters: Counters::new(&sample.sent, &sample.received),
            map_full_processes: tick.map_full_processes,
        }
    }
}

#[derive(Serialize)]
struct OfProcess<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    pid: Option<u32>,
    start_time_ns: Option<u64>,
    name: Option<&'a str>,
    state: &'static str,
    #[serde(flatten)]
    counters: Counters,
}

impl<'a> OfProcess<'a> {
    fn new(tick: &Tick, sample: &'a Sample, part: &'a Part) -> Self {
        let process: Option<&Process> = part.process.as_ref();
        let scope = process.map_or("unlisted", |_| "process");
        Self {
            head: Head::new(tick, sample, scope),
            pid: process.map(|it| it.pid),
            start_time_ns: process.map(|it| it.start_time_ns),
            name: process.map(|it| it.name.as_str()),
            state: part.state.word(),
            counters: Counters::new(&part.sent, &part.received),
        }
    }
}

/// The lines of a tick.
pub(crate) fn lines(tick: &Tick) -> Result<String, Failure> {
    let mut lines = String::new();
    for sample in &tick.samples {
        lines += &line(&OfWatch::new(tick, sample))?;
        for part in &sample.parts {
            lines += &line(&OfProcess::new(tick, sample, part))?;
        }
    }
    Ok(lines)
}

/// One value as one line, newline included. What may not be shown is escaped.
pub(crate) fn line(value: &impl Serialize) -> Result<String, Failure> {
    match serde_json::to_string(value) {
        Ok(json) => Ok(printable::json(&json).into_owned() + "\n"),
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
    use crate::model::{State, tests};

    fn objects(tick: &Tick) -> Vec<Value> {
        let lines = lines(tick).unwrap();
        assert!(lines.ends_with('\n'));
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn one_object_per_line_and_sample_with_exactly_these_keys() {
        let mut tick = tests::tick(3, vec![tests::sample("w-1", 7), tests::sample("w-2", 8)]);
        tick.interval = Duration::from_millis(1500);
        tick.skipped_ticks = 4;
        tick.map_full_processes = 9;
        tick.samples[1].state = State::Exited;
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

        let objects = objects(&tick);
        assert_eq!(objects.len(), 2);
        assert_eq!(
            objects[0],
            json!({
                "time": "2026-03-01T12:00:03Z", "sequence": 3, "interval_s": 1.5,
                "scope": "watch", "skipped_ticks": 4, "watch_id": "w-1", "target": "pid 7",
                "pid": 7, "name": "process7", "state": "running", "process_count": 1,
                "sent_bytes": u64::MAX, "received_bytes": 5,
                "sent_calls": 1, "received_calls": 6, "sent_bytes_total": u64::MAX,
                "received_bytes_total": 7, "sent_calls_total": 2, "received_calls_total": 8,
                "map_full_processes": 9,
            })
        );
        assert_eq!(objects[1]["state"], "exited");
    }

    #[test]
    fn while_it_waits_pid_and_name_are_null() {
        let tick = tests::tick(3, vec![tests::waiting("w-1", "port 3306")]);
        let objects = objects(&tick);
        assert_eq!(objects[0]["target"], "port 3306");
        assert_eq!(objects[0]["state"], "waiting");
        assert_eq!(objects[0]["process_count"], 0);
        for key in ["pid", "name"] {
            assert_eq!(objects[0].get(key), Some(&Value::Null), "{key}");
        }
    }

    #[test]
    fn each_process_has_a_line_after_its_watch_with_exactly_these_keys() {
        let mut exited = tests::part(8, 100);
        exited.state = State::Exited;
        let idle = Part {
            sent: Flow::default(),
            ..tests::part(9, 0)
        };
        let others = Part {
            process: None,
            ..tests::part(0, 3)
        };
        let mut first = tests::sample("w-1", 8);
        first.parts = vec![exited, idle, others];
        let tick = tests::tick(3, vec![first, tests::sample("w-2", 5)]);

        let objects = objects(&tick);
        let scopes: Vec<_> = objects.iter().map(|it| it["scope"].clone()).collect();
        assert_eq!(scopes, ["watch", "process", "process", "unlisted", "watch"]);
        assert_eq!(
            objects[1],
            json!({
                "time": "2026-03-01T12:00:03Z", "sequence": 3, "interval_s": 1.0,
                "scope": "process", "watch_id": "w-1", "pid": 8, "start_time_ns": 8,
                "name": "process8", "state": "exited", "sent_bytes": 100, "received_bytes": 0,
                "sent_calls": 1, "received_calls": 0, "sent_bytes_total": 200,
                "received_bytes_total": 0, "sent_calls_total": 2, "received_calls_total": 0,
            })
        );
        for key in ["pid", "start_time_ns", "name"] {
            assert_eq!(objects[3].get(key), Some(&Value::Null), "{key}");
        }
        assert_eq!(objects[3]["sent_bytes"], 3);
    }
}
