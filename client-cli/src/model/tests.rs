use super::*;

/// A tick of 12:00:0N UTC, one second long.
pub(crate) fn tick(sequence: u64, samples: Vec<Sample>) -> Tick {
    let noon: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
    Tick {
        generation: 1,
        lineage: 1,
        sequence,
        ticks: 1,
        omits_idle: false,
        time: noon + Duration::from_secs(sequence),
        interval: Duration::from_secs(1),
        skipped_ticks: 0,
        samples,
        map_full_processes: 0,
    }
}

/// An idle process.
pub(crate) fn sample(watch_id: &str, pid: u32) -> Sample {
    Sample {
        watch_id: watch_id.to_owned(),
        target: format!("pid {pid}"),
        process: Some(process(pid)),
        process_count: 1,
        begin: None,
        state: State::Running,
        sent: Flow::default(),
        received: Flow::default(),
        parts: Vec::new(),
    }
}

/// A rule that nothing matches.
pub(crate) fn waiting(watch_id: &str, target: &str) -> Sample {
    Sample {
        target: target.to_owned(),
        process: None,
        process_count: 0,
        state: State::Waiting,
        ..sample(watch_id, 0)
    }
}

/// A process that started when its pid says.
pub(crate) fn process(pid: u32) -> Process {
    Process {
        pid,
        start_time_ns: pid.into(),
        name: format!("process{pid}"),
        ..Process::default()
    }
}

/// The part of such a process, which sent this many bytes.
pub(crate) fn part(pid: u32, sent: u64) -> Part {
    Part {
        process: Some(process(pid)),
        state: State::Running,
        sent: flow(sent),
        received: Flow::default(),
    }
}

/// This many bytes, in one call, and as many before.
pub(crate) fn flow(bytes: u64) -> Flow {
    Flow {
        bytes,
        calls: 1,
        bytes_total: 2 * bytes,
        calls_total: 2,
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
        missed_events: None,
        instance: Some(v1::CollectorInstance {
            boot_id: String::new(),
            generation: 3,
            lineage: 2,
        }),
        samples: vec![v1::NetIoSample {
            watch_id: "w-1".to_owned(),
            process: Some(v1::Process {
                pid: 42,
                start_time_ns: 1,
                name: "evil\u{1b}[0m".to_owned(),
                ..v1::Process::default()
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
            process_count: 9,
            processes: vec![v1::ProcessSample {
                process: Some(v1::Process {
                    pid: 43,
                    ..v1::Process::default()
                }),
                state: v1::ProcessState::Exited.into(),
                sent_bytes: 11,
                received_bytes: 12,
                sent_calls: 13,
                received_calls: 14,
                sent_bytes_total: 15,
                received_bytes_total: 16,
                sent_calls_total: 17,
                received_calls_total: 18,
            }],
            unlisted: Some(v1::ProcessSample {
                sent_bytes: 19,
                ..v1::ProcessSample::default()
            }),
        }],
        map_full: Some(v1::MapFull {
            processes: 20,
            sockets: 21,
        }),
        ticks: 4,
    }
}

/// Bytes, calls, and the totals of both.
fn numbers(flow: Flow) -> [u64; 4] {
    let Flow {
        bytes,
        calls,
        bytes_total,
        calls_total,
    } = flow;
    [bytes, calls, bytes_total, calls_total]
}

#[test]
fn every_field_arrives() {
    let tick = Tick::try_from(message()).unwrap();
    assert_eq!((tick.sequence, tick.skipped_ticks), (9, 2));
    assert_eq!((tick.generation, tick.lineage, tick.ticks), (3, 2, 4));
    assert_eq!(tick.first(), 6, "it sums up 6, 7, 8 and 9");
    assert_eq!(tick.time.to_string(), "2023-11-14T22:13:20.000000005Z");
    assert_eq!(tick.interval, Duration::new(1, 500));
    assert_eq!(tick.map_full_processes, 20);
    let sample = &tick.samples[0];
    let process = sample.process.as_ref().unwrap();
    assert_eq!((sample.watch_id.as_str(), process.pid), ("w-1", 42));
    assert_eq!(process.name, "evil\u{fffd}[0m");
    assert_eq!((sample.state, sample.process_count), (State::Exited, 9));
    assert_eq!(numbers(sample.sent), [1, 3, 5, 7]);
    assert_eq!(numbers(sample.received), [2, 4, 6, 8]);
}

#[test]
fn the_parts_arrive_and_the_others_last() {
    let tick = Tick::try_from(message()).unwrap();
    let [part, others] = tick.samples[0].parts.as_slice() else {
        panic!("{:?}", tick.samples[0].parts);
    };
    assert_eq!(part.process.as_ref().unwrap().pid, 43);
    assert_eq!(part.state, State::Exited);
    assert_eq!(numbers(part.sent), [11, 13, 15, 17]);
    assert_eq!(numbers(part.received), [12, 14, 16, 18]);
    assert_eq!((&others.process, others.state), (&None, State::Running));
    assert_eq!(others.sent.bytes, 19);
}

#[test]
fn a_watch_that_waits_shows_no_process() {
    let mut message = message();
    message.samples[0].state = v1::ProcessState::Waiting.into();
    let tick = Tick::try_from(message).unwrap();
    assert_eq!(tick.samples[0].state, State::Waiting);
    assert!(tick.samples[0].process.is_some(), "the last that ran");
    assert_eq!(tick.samples[0].shown_process(), None);
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
fn a_tick_that_tells_no_number_of_ticks_is_one() {
    let mut message = message();
    message.ticks = 0;
    assert_eq!(Tick::try_from(message).unwrap().first(), 9);
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
