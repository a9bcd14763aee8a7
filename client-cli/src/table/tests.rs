use std::time::Duration;

use super::*;
use crate::model::tests::{flow, part, sample, tick, waiting};

fn table(on_terminal: bool) -> Table {
    Table::new(TimeZone::fixed(jiff::tz::offset(2)), on_terminal)
}

#[test]
fn a_line_per_sample_with_aligned_columns() {
    let mut busy = sample("w-1", 4_194_303);
    busy.process.as_mut().unwrap().name = "a-much-longer-name".to_owned();
    busy.sent = Flow {
        bytes: 3_000,
        calls: 1,
        bytes_total: 1_572_864,
        calls_total: 9,
    };
    busy.received = Flow {
        bytes: 30_720,
        calls: 1,
        bytes_total: u64::MAX,
        calls_total: 9,
    };
    let mut gone = sample("w-2", 7);
    gone.state = State::Exited;
    let mut tick = tick(1, vec![busy, gone]);
    tick.interval = Duration::from_millis(1500);
    assert_eq!(
        table(true).lines(&tick),
        "\
TIME          PID  NAME                  SENT/S   RECEIVED/S         SENT     RECEIVED
14:00:01  4194303  a-much-longer-…     2000 B      20.00 KiB     1.50 MiB    16.00 EiB
14:00:01        7  process7               0 B          0 B          0 B          0 B    exited
"
    );
}

#[test]
fn the_header_returns_on_a_terminal_only() {
    for (on_terminal, headers) in [(true, 3), (false, 1)] {
        let mut table = table(on_terminal);
        let text: String = (0..50)
            .map(|sequence| table.lines(&tick(sequence, vec![sample("w-1", 7)])))
            .collect();
        assert_eq!(text.matches("TIME").count(), headers);
        assert_eq!(text.lines().count(), 50 + headers);
    }
}

#[test]
fn the_first_rate_is_over_the_time_counted() {
    let mut sample = sample("w-1", 7);
    sample.sent.bytes = 1000;
    let mut tick = tick(1, vec![sample]);
    tick.samples[0].begin = Some(tick.time - Duration::from_millis(250));
    let text = table(true).lines(&tick);
    assert!(text.contains("   4000 B"), "{text}");
}

#[test]
fn no_step_of_a_clock_and_no_interval_makes_a_rate_that_is_none() {
    let hours = Duration::from_secs(5 * 3600);
    let intervals = [
        Duration::from_nanos(1),
        Duration::from_millis(3_500),
        hours,
        Duration::from_secs(u32::MAX.into()),
    ];
    for (interval, bytes) in intervals
        .into_iter()
        .flat_map(|interval| [0, 1, u64::MAX].map(|bytes| (interval, bytes)))
    {
        let mut sample = sample("w-1", 7);
        sample.sent.bytes = bytes;
        sample.received.bytes = bytes;
        sample.parts = vec![Part {
            sent: sample.sent,
            ..part(8, 1)
        }];
        let mut tick = tick(1, vec![sample]);
        tick.interval = interval;
        // The wall clock stood still, went back, or on by hours since it began.
        for begin in [tick.time, tick.time + hours, tick.time - hours] {
            tick.samples[0].begin = Some(begin);
            let seconds = tick.counted(&tick.samples[0]).as_secs_f64();
            assert!(seconds > 0.0 && seconds <= interval.as_secs_f64());
            let text = table(false).lines(&tick);
            for line in text.lines().skip(1) {
                assert!(
                    !line.contains('-') && !line.contains("inf") && !line.contains("NaN"),
                    "{line}"
                );
                let rate = units::bytes(bytes as f64 / seconds);
                assert!(line.contains(rate.trim()), "{line}: not {rate}");
            }
        }
    }
}

#[test]
fn a_tick_without_samples_is_no_line() {
    assert_eq!(table(true).lines(&tick(1, vec![])), "");
}

/// A table with room for a rule.
fn table_of_rules(on_terminal: bool) -> Table {
    let mut table = table(on_terminal);
    table.make_room("port 3306");
    table
}

#[test]
fn a_rule_shows_its_process_and_their_number_or_that_it_waits() {
    let mut several = sample("w-1", 42);
    several.process_count = 12;
    several.sent = flow(100);
    let mut table = table(true);
    table.make_room("unit mariadb.service");
    let waiting = waiting("w-2", "unit mariadb.service");
    assert_eq!(
        table.lines(&tick(1, vec![several, waiting])),
        "\
TIME          PID  NAME                  PROCS       SENT/S   RECEIVED/S         SENT     RECEIVED
14:00:01       42  process42                12      100 B          0 B        200 B          0 B
14:00:01        -  unit mariadb.service      0        0 B          0 B          0 B          0 B    waiting
"
    );
}

#[test]
fn what_a_rule_says_is_cut_where_it_would_push_the_rest_away() {
    let target = format!("cgroup /{}", "x".repeat(300));
    let mut table = table(true);
    table.make_room(&target);
    let text = table.lines(&tick(1, vec![waiting("w-1", &target)]));
    let is_short = |line: &str| line.chars().count() < 130;
    assert!(text.lines().all(is_short), "{text}");
    assert!(text.contains("xxx…"), "{text}");
}

#[test]
fn a_watch_that_waits_still_is_not_repeated_on_a_terminal() {
    let count = |on_terminal, ticks| {
        let mut table = table_of_rules(on_terminal);
        let text: String = (0..ticks)
            .map(|sequence| table.lines(&tick(sequence, vec![waiting("w-1", "port 3306")])))
            .collect();
        (
            text.matches("waiting").count(),
            text.matches("TIME").count(),
        )
    };
    assert_eq!(count(true, 20), (1, 1));
    assert_eq!(count(true, 21), (2, 2), "it stands under each header");
    assert_eq!(count(false, 21), (21, 1));
}

#[test]
fn a_watch_that_waits_again_or_moved_bytes_meanwhile_is_shown() {
    let mut table = table_of_rules(true);
    let idle = || tick(1, vec![waiting("w-1", "port 3306")]);
    assert!(table.lines(&idle()).contains("waiting"));
    assert_eq!(table.lines(&idle()), "");
    let mut moved = idle();
    moved.samples[0].received = flow(7);
    assert!(table.lines(&moved).contains("7 B"));
    assert_eq!(table.lines(&idle()), "");
    let runs = tick(2, vec![sample("w-1", 7)]);
    assert!(table.lines(&runs).contains("process7"));
    assert!(table.lines(&idle()).contains("waiting"), "it begins anew");
}

#[test]
fn processes_that_moved_bytes_or_exited_stand_under_their_watch() {
    let mut exited = part(8, 0);
    exited.state = State::Exited;
    let mut others = part(0, 300);
    others.process = None;
    let mut sum = sample("w-1", 7);
    sum.process_count = 4;
    sum.sent = flow(400);
    sum.parts = vec![part(7, 100), exited, part(9, 0), others];
    let mut table = table_of_rules(true);
    table.make_room_for_parts();
    assert_eq!(
        table.lines(&tick(1, vec![sum])),
        "\
TIME          PID  NAME               PROCS       SENT/S   RECEIVED/S         SENT     RECEIVED
14:00:01        7  process7               4      400 B          0 B        800 B          0 B
                7    process7                    100 B          0 B        200 B          0 B
                8    process8                      0 B          0 B          0 B          0 B    exited
                -    (others)                    300 B          0 B        600 B          0 B
"
    );
}

#[test]
fn lines_of_processes_count_towards_the_next_header() {
    let mut table = table(true);
    let mut sum = sample("w-1", 7);
    sum.parts = vec![part(7, 1); 19];
    table.lines(&tick(1, vec![sum]));
    let next = table.lines(&tick(2, vec![sample("w-1", 7)]));
    assert!(next.starts_with("TIME"), "{next}");
}
