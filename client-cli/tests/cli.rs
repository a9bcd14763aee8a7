//! The program as a user meets it: exit codes, signals, pipes and words,
//! against a collector on a Unix socket above a kernel made of a table.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may unwrap as tests do"
)]

mod support;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use netio_collector::{Listeners, Options, kernel::fake::FakeKernel};
use rustix::process::Signal;
use serde_json::Value;
use support::{Running, client, endpoint, stderr, stdout, until};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_millis(100);

/// A collector that runs until it is dropped.
struct Collector {
    kernel: FakeKernel,
    endpoint: String,
    // The runtime ends before the folder goes.
    _runtime: Runtime,
    _dir: TempDir,
}

impl Collector {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("collector.sock");
        let kernel = FakeKernel::new(4096);
        let runtime = Runtime::new().unwrap();
        let options = Options {
            interval: INTERVAL,
            ..Options::default()
        };
        let mut listeners = Listeners::new();
        listeners.bind_unix(&socket, None).unwrap();
        let never = CancellationToken::new();
        let run = netio_collector::run(Box::new(kernel.clone()), options, listeners, never);
        runtime.spawn(run);
        Self {
            kernel,
            endpoint: endpoint(&socket),
            _runtime: runtime,
            _dir: dir,
        }
    }

    fn client(&self, line: &str) -> Command {
        let mut command = client(line);
        command.args(["--endpoint", &self.endpoint]);
        command
    }

    fn watches(&self) -> usize {
        self.kernel.with(|state| state.allowed.len())
    }
}

#[test]
fn json_lines_from_the_tick_after_the_watch_on() {
    let collector = Collector::start();
    let idler = Running::idler();
    let line = format!("watch --pid {} --count 3 --output json", idler.pid());
    let output = collector.client(&line).output().unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
    let lines: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["name"], "sleep");
    assert!(lines[1]["interval_s"].as_f64().unwrap() > 0.01);
    assert_eq!(collector.watches(), 0);
}

#[test]
fn a_table_with_one_header_in_a_pipe() {
    let collector = Collector::start();
    let idler = Running::idler();
    let line = format!("watch --pid {} --count 2", idler.pid());
    let output = collector.client(&line).output().unwrap();
    let shown = stdout(&output);
    assert_eq!(shown.lines().count(), 3, "{shown}");
    assert!(shown.starts_with("TIME"), "{shown}");
    assert!(shown.contains("  0 B"), "{shown}");
}

#[test]
fn the_endpoint_may_come_from_the_environment() {
    let collector = Collector::start();
    let mut command = client("list");
    command.env("NETIO_ENDPOINT", &collector.endpoint);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_signal_ends_it_well_and_its_watch_with_it() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let collector = Collector::start();
        let idler = Running::idler();
        let line = format!("watch --pid {}", idler.pid());
        let mut watching = Running::start(collector.client(&line));
        until("it watches", || collector.watches() == 1);
        sleep(INTERVAL * 2);
        watching.signal(signal);
        assert_eq!(watching.code(), Some(0), "{signal:?}");
        assert_eq!(collector.watches(), 0, "{signal:?}");
    }
}

#[test]
fn a_signal_ends_it_though_nobody_reads_its_lines() {
    let collector = Collector::start();
    let idler = Running::idler();
    let line = format!("watch --pid {} --output json", idler.pid());
    let mut watching = Running::start(collector.client(&line));
    let stdout = watching.0.stdout.take().unwrap();
    // Holds some ten lines.
    rustix::pipe::fcntl_setpipe_size(&stdout, 4096).unwrap();
    sleep(INTERVAL * 25);
    watching.signal(Signal::TERM);
    let asked = Instant::now();
    assert_eq!(watching.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(3));
    assert_eq!(collector.watches(), 0);
}

#[test]
fn a_reader_that_leaves_ends_it_well_and_its_watch_with_it() {
    let collector = Collector::start();
    let idler = Running::idler();
    let line = format!("watch --pid {}", idler.pid());
    let mut watching = Running::start(collector.client(&line));
    let mut lines = BufReader::new(watching.0.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        lines.next().unwrap().unwrap();
    }
    drop(lines);
    assert_eq!(watching.code(), Some(0));
    let mut words = String::new();
    let mut stderr = watching.0.stderr.take().unwrap();
    stderr.read_to_string(&mut words).unwrap();
    assert_eq!(words, "");
    assert_eq!(collector.watches(), 0);
}

#[test]
fn a_collector_that_goes_away_is_waited_for_until_the_user_leaves() {
    let collector = Collector::start();
    let idler = Running::idler();
    let line = format!("watch --pid {}", idler.pid());
    let mut watching = Running::start(collector.client(&line));
    until("it watches", || collector.watches() == 1);
    sleep(INTERVAL * 2);
    drop(collector);
    let mut said = BufReader::new(watching.0.stderr.take().unwrap());
    let mut words = String::new();
    said.read_line(&mut words).unwrap();
    assert!(words.contains("trying again for up to 1m"), "{words}");
    sleep(INTERVAL * 10);
    watching.signal(Signal::INT);
    let asked = Instant::now();
    assert_eq!(watching.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(1), "it exits at once");
    said.read_to_string(&mut words).unwrap();
    assert_eq!(words.matches("trying again").count(), 1, "{words}");
}

#[test]
fn watches_are_listed_and_ended() {
    let collector = Collector::start();
    let idler = Running::idler();
    let mut watching = Running::start(collector.client(&format!("watch --pid {}", idler.pid())));
    until("it watches", || collector.watches() == 1);

    let listed = collector.client("list --output json").output().unwrap();
    let watch: Value = serde_json::from_str(&stdout(&listed)).unwrap();
    assert_eq!(watch["target"], format!("pid {}", idler.pid()));
    let id = watch["watch_id"].as_str().unwrap();
    let table = stdout(&collector.client("list").output().unwrap());
    let target = format!("  pid {}  ", idler.pid());
    assert!(table.contains(id) && table.contains(&target), "{table}");

    let ended = collector.client(&format!("unwatch {id}")).output().unwrap();
    assert_eq!(stdout(&ended), format!("ended {id}\n"));
    assert_eq!(watching.code(), Some(0), "the other command notices");

    let pid = format!("unwatch --pid {}", idler.pid());
    let again = collector.client(&pid).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(
        stderr(&again).contains("WATCH_NOT_FOUND"),
        "{}",
        stderr(&again)
    );
}

#[test]
fn info_tells_mode_and_limits() {
    let collector = Collector::start();
    let output = collector.client("info").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(
        shown.contains("tracepoint") && shown.contains("at most 1024"),
        "{shown}"
    );
    let output = collector.client("info --output json").output().unwrap();
    let info: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(info["hook_mode"], "tracepoint");
    assert!(info["missed_events"]["recursion"].is_null(), "{info}");
}

#[test]
fn failures_have_words_and_an_exit_code() {
    let collector = Collector::start();
    let mut gone = Running::idler();
    gone.signal(Signal::KILL);
    gone.code();
    for (line, code, words) in [
        (
            format!("watch --pid {}", gone.pid()),
            1,
            "PROCESS_NOT_FOUND",
        ),
        ("watch --pid 1 --hooks kprobe".to_owned(), 1, "--hooks"),
        ("unwatch w-nothing".to_owned(), 1, "WATCH_NOT_FOUND"),
        ("watch --pid 0".to_owned(), 2, "--pid"),
    ] {
        let output = collector.client(&line).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{line}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(words),
            "{line}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{line}");
    }
}

#[test]
fn a_named_endpoint_that_does_not_answer_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = endpoint(&dir.path().join("nobody.sock"));
    for line in [
        "watch --pid 1",
        "watch --port 1 --detach",
        "list",
        "info",
        "discover",
        "unwatch w-1",
    ] {
        let output = client(line)
            .args(["--endpoint", &endpoint])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        let words = stderr(&output);
        assert!(words.contains("no collector listens at"), "{line}: {words}");
        assert!(
            words.contains("what to do: start one there"),
            "{line}: {words}"
        );
    }
}
