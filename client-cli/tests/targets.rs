//! The program against a collector that does as a test says: everything that is
//! about other targets than a pid, about leases, and about databases.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may unwrap as tests do"
)]

mod support;

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    process::Command,
};

use netio::v1::{self, target::Selector, watch_request::Life};
use serde_json::{Value, json};
use support::{
    Running, client, endpoint, scripted,
    scripted::{Call, Scripted},
    stderr, stdout, until,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Code;

/// A collector that runs until it is dropped.
struct Collector {
    script: Scripted,
    endpoint: String,
    // The runtime ends before the folder goes.
    runtime: Runtime,
    dir: TempDir,
}

impl Collector {
    fn start() -> Self {
        Self::start_as(Scripted::default(), tempfile::tempdir().unwrap())
    }

    fn start_as(script: Scripted, dir: TempDir) -> Self {
        let socket = dir.path().join("collector.sock");
        let _ = std::fs::remove_file(&socket);
        let runtime = Runtime::new().unwrap();
        let serving = {
            let _within = runtime.enter();
            script.serve(&socket)
        };
        runtime.spawn(serving);
        Self {
            script,
            endpoint: endpoint(&socket),
            runtime,
            dir,
        }
    }

    /// Ends the process, so to speak: its connections break.
    fn kill(self) -> (Scripted, TempDir) {
        self.runtime.shutdown_background();
        (self.script, self.dir)
    }

    fn client(&self, line: &str) -> Command {
        let mut command = client(line);
        command.args(["--endpoint", &self.endpoint]);
        command
    }

    /// The standard output of a command that ends well and has nothing to say.
    fn answer(&self, line: &str) -> String {
        let output = self.client(line).output().unwrap();
        assert_eq!(stderr(&output), "", "{line}");
        assert_eq!(output.status.code(), Some(0), "{line}");
        stdout(&output)
    }

    fn objects(&self, line: &str) -> Vec<Value> {
        let answer = self.answer(line);
        let lines = answer.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The standard error of a command that fails.
    fn refusal(&self, line: &str) -> String {
        let output = self.client(line).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert_eq!(stdout(&output), "", "{line}");
        stderr(&output)
    }

    fn watches(&self) -> Vec<v1::Watch> {
        self.script
            .with(|script| script.watches.values().cloned().collect())
    }
}

fn mariadb(pid: u32) -> v1::Process {
    scripted::process(pid, "mariadbd")
}

#[test]
fn watches_have_a_lease_that_outlives_the_client_by_ten_seconds() {
    let collector = Collector::start();
    let mut watching =
        Running::start(collector.client("watch --port 3306 --unit a.service --wait"));
    until("it watches", || collector.watches().len() == 2);
    until("its stream names them", || {
        let streams = collector.script.streams();
        streams.last().is_some_and(|last| last == &["w-1", "w-2"])
    });
    collector.script.with(|script| {
        for request in &script.requests {
            let ttl = prost_types::Duration {
                seconds: 10,
                nanos: 0,
            };
            assert_eq!(request.life, Some(Life::LeaseTtl(ttl)));
            assert!(request.wait);
        }
    });
    watching.signal(rustix::process::Signal::INT);
    assert_eq!(watching.code(), Some(0));
    assert_eq!(collector.watches(), []);
}

#[test]
fn detached_watches_stand_when_the_command_has_ended() {
    let collector = Collector::start();
    for pid in [7, 8] {
        let selector = Selector::Port(3306);
        collector.script.start(selector, mariadb(pid));
    }
    let shown = collector.answer("watch --port 3306 --name later --wait --detach");
    assert_eq!(
        shown,
        "\
w-1  name later  no process yet
w-2  port 3306   2 processes: 7 mariadbd, 8 mariadbd
"
    );
    let watches = collector.watches();
    assert_eq!(watches.len(), 2);
    assert!(watches.iter().all(|watch| watch.lease.is_none()));

    let objects = collector.objects("watch --port 3306 --detach --output json");
    assert_eq!(objects[0]["watch_id"], "w-3");
    assert_eq!(objects[0]["lease"], Value::Null);
    assert_eq!(objects[0]["processes"][1]["pid"], 8);
}

#[test]
fn detached_watches_are_made_all_or_not_at_all() {
    let collector = Collector::start();
    collector.script.start(Selector::Pid(7), mariadb(7));
    let said = collector.refusal("watch --pid 7 --port 3306 --detach");
    assert!(said.contains("cannot watch port 3306"), "{said}");
    assert!(said.contains("add --wait"), "{said}");
    assert_eq!(collector.watches(), []);
    assert!(!said.contains("left behind"), "{said}");
    assert!(
        collector.script.streams().is_empty(),
        "it asks for no samples"
    );

    let why = (Code::Unavailable, "SOMETHING");
    let refuse = |script: &mut scripted::State| script.refused.insert(Call::Unwatch, why);
    collector.script.with(refuse);
    let said = collector.refusal("watch --pid 7 --port 3306 --detach");
    let to_type = format!("netio-client unwatch w-3 --endpoint {}", collector.endpoint);
    assert!(said.contains(&to_type), "{said}");
}

#[test]
fn detached_watches_are_named_though_they_cannot_be_printed() {
    let collector = Collector::start();
    let mut command = collector.client("watch --port 3306 --wait --detach");
    command.stdout(File::create("/dev/full").unwrap());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("netio-client unwatch w-1 "), "{said}");
}

#[test]
fn a_refused_rule_is_told_what_to_do() {
    let collector = Collector::start();
    let said = collector.refusal("watch --unit a.service");
    assert!(said.contains("cannot watch unit a.service"), "{said}");
    assert!(said.contains("PROCESS_NOT_FOUND"), "{said}");
    assert!(said.contains("add --wait"), "{said}");

    let why = (Code::FailedPrecondition, "CHILDREN_NOT_FOLLOWED");
    let refuse = |script: &mut scripted::State| script.refused.insert(Call::Watch, why);
    collector.script.with(refuse);
    let said = collector.refusal("watch --unit a.service --wait");
    assert!(said.contains("--no-follow-children"), "{said}");
}

#[test]
fn the_command_line_is_refused_before_anything_is_asked() {
    let collector = Collector::start();
    for (line, why) in [
        ("watch --pid 7 --wait", "--wait needs a --name"),
        ("watch --port 0", "a port is a number from 1 to 65535"),
        ("watch", "--container"),
    ] {
        let output = collector.client(line).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(stderr(&output).contains(why), "{line}: {}", stderr(&output));
    }
}

#[test]
fn the_list_tells_targets_processes_and_leases() {
    let collector = Collector::start();
    collector.script.start(Selector::Port(3306), mariadb(7));
    collector.answer("watch --port 3306 --name later --wait --detach");
    let shown = collector.answer("list");
    let cells: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| {
            let cells = line.split("  ").map(str::trim);
            cells.filter(|it| !it.is_empty()).collect()
        })
        .collect();
    assert_eq!(
        cells[0],
        [
            "WATCH_ID",
            "TARGET",
            "PROCESSES",
            "PID",
            "NAME",
            "OWNER",
            "AGE",
            "LEASE"
        ]
    );
    let told = |line: &[&str]| -> Vec<String> {
        let trimmed = line.iter().map(|cell| cell.trim().to_owned());
        trimmed.filter(|cell| !cell.contains(" d ")).collect()
    };
    assert_eq!(
        told(&cells[1]),
        ["w-1", "name later", "0", "-", "-", "uid:0", "standing"]
    );
    assert_eq!(
        told(&cells[2]),
        [
            "w-2",
            "port 3306",
            "1",
            "7",
            "mariadbd",
            "uid:0",
            "standing"
        ]
    );
    let objects = collector.objects("list --output json");
    assert_eq!(
        objects[1]["processes"],
        json!([{
            "pid": 7, "start_time_ns": 7, "name": "mariadbd", "container_pid": 7, "cgroup": "/",
        }])
    );
}

#[test]
fn watches_are_ended_by_what_they_are_for() {
    let collector = Collector::start();
    for (options, end) in [
        ("--port 3306", "--port 3306"),
        ("--unit a.service --follow-children", "--unit a.service"),
    ] {
        collector.answer(&format!("watch {options} --wait --detach"));
        let id = collector.watches()[0].watch_id.clone();
        let shown = collector.answer(&format!("unwatch {end}"));
        assert_eq!(shown, format!("ended {id}\n"));
        assert_eq!(collector.watches(), []);
    }
    let said = collector.refusal("unwatch --name nothing");
    assert!(
        said.contains("cannot end your watches of name nothing"),
        "{said}"
    );
}

#[test]
fn databases_are_shown_with_the_command_that_watches_them() {
    let collector = Collector::start();
    let mut none = collector.client("discover");
    let output = none.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains("no database server was found"));

    collector.script.with(|script| {
        script.databases = vec![v1::Database {
            process: Some(mariadb(7)),
            engine: "MariaDB".to_owned(),
            ports: vec![3306],
            container: String::new(),
            unit: "mariadb.service".to_owned(),
            target: Some(v1::Target::port(3306)),
        }];
    });
    let to_type = format!(
        "netio-client watch --port 3306 --endpoint {}",
        collector.endpoint
    );
    let shown = collector.answer("discover");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(
        shown.contains("  MariaDB  mariadbd  3306   mariadb.service"),
        "{shown}"
    );
    assert!(shown.ends_with(&format!("  {to_type}\n")), "{shown}");
    let objects = collector.objects("discover --output json");
    assert_eq!(objects[0]["command"], to_type);
    assert_eq!(objects[0]["pid"], 7);
}

#[test]
fn a_connection_that_breaks_is_made_again_and_no_tick_is_lost() {
    let collector = Collector::start();
    let line = "watch --port 3306 --wait --count 4 --output json";
    let mut watching = Running::start(collector.client(line));
    let is_narrow = |script: &Scripted| script.streams().last().is_some_and(|it| it == &["w-1"]);
    until("its stream names the watch", || {
        is_narrow(&collector.script)
    });
    let waiting = [scripted::waiting("w-1")];
    collector.script.tick(&waiting);
    let mut out = BufReader::new(watching.0.stdout.take().unwrap());
    let mut lines = String::new();
    out.read_line(&mut lines).unwrap();

    let (script, dir) = collector.kill();
    script.tick(&waiting);
    script.tick(&waiting);
    until("the stream is gone", || script.streams().is_empty());
    let collector = Collector::start_as(script, dir);
    until("there is one again", || is_narrow(&collector.script));
    collector.script.tick(&waiting);
    assert_eq!(watching.code(), Some(0));
    out.read_to_string(&mut lines).unwrap();
    let sequences = lines.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["sequence"].as_u64().unwrap()
    });
    assert_eq!(sequences.collect::<Vec<_>>(), [1, 2, 3, 4]);
    let mut said = String::new();
    let mut stderr = watching.0.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("was lost"), "{said}");
    assert_eq!(collector.watches(), []);
}

#[test]
fn the_history_of_a_watch_is_shown_and_the_watch_stays() {
    let collector = Collector::start();
    collector.answer("watch --port 3306 --wait --detach");
    for _ in 0..3 {
        collector.script.tick(&[scripted::waiting("w-1")]);
    }
    for which in ["--port 3306", "--watch-id w-1"] {
        let line = format!("watch {which} --since 2023-11-14T22:13:22Z --count 2 --output json");
        let objects = collector.objects(&line);
        assert_eq!(objects[0]["sequence"], 2, "{which}");
        assert_eq!(objects[1]["target"], "port 3306", "{which}");
    }
    assert_eq!(collector.watches().len(), 1);
    let said = collector.refusal("watch --port 1 --since 5m");
    assert!(said.contains("nothing watches port 1"), "{said}");
}
