use clap::CommandFactory as _;
use netio::v1::{self, watch_request::Life};

use super::*;

fn parse(line: &str) -> Result<Args, String> {
    let words = ["netio-client"].into_iter().chain(line.split(' '));
    Args::try_parse_from(words)
        .and_then(Args::checked)
        .map_err(|error| error.to_string())
}

fn watch(line: &str) -> Watch {
    match parse(line).unwrap().command {
        Command::Watch(watch) => watch,
        other => panic!("{other:?}"),
    }
}

fn existing(line: &str) -> Existing {
    match watch(line).subject() {
        Subject::Existing(existing) => existing,
        Subject::Made(wanted) => panic!("{wanted:?}"),
    }
}

/// The requests that a line makes.
fn requests(line: &str) -> Vec<v1::WatchRequest> {
    let wanted = watch(line).wanted();
    let requests = wanted.requests(Life::Standing(true));
    requests.map(|(_, request)| request).collect()
}

fn unwatch(line: &str) -> Unwatch {
    match parse(line).unwrap().command {
        Command::Unwatch(unwatch) => unwatch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn watch_in_full() {
    let watch = watch(
        "watch --pid 1,22 --pid 3 --count 4 --output json --hooks kprobe --interval 250ms \
         --per-process",
    );
    assert_eq!(watch.count, Some(4));
    assert_eq!(watch.output.format, Format::Json);
    assert!(watch.per_process && !watch.detach);
    let settings = watch.embed.settings();
    assert_eq!(settings.interval, Some(Duration::from_millis(250)));
    assert!(settings.hooks.is_some());
}

#[test]
fn what_exists_is_named_by_id_or_by_selector_with_a_time() {
    let by_id = existing("watch --watch-id w-1 --watch-id w-2");
    assert_eq!(by_id.watch_ids, ["w-1", "w-2"]);
    assert_eq!((by_id.targets.len(), by_id.since), (0, None));

    let noon = "2026-03-01T12:00:00Z";
    let by_port = existing(&format!("watch --port 3306 --name db --since {noon}"));
    let targets = [v1::Target::name("db"), v1::Target::port(3306)];
    assert_eq!(by_port.targets, targets);
    assert_eq!(by_port.since, Some(noon.parse().unwrap()));

    let before = Timestamp::now();
    let since = existing("watch --watch-id w-1 --since 5m").since.unwrap();
    let passed = since.duration_until(before) - jiff::SignedDuration::from_mins(5);
    assert!(
        passed.abs() < jiff::SignedDuration::from_secs(60),
        "{passed}"
    );
}

#[test]
fn the_shape_of_what_is_shown() {
    assert_eq!(watch("watch --pid 1").shape(), Shape::default());
    let shape = watch("watch --pid 1 --every 10s --only-changed --per-process").shape();
    assert_eq!(
        shape,
        Shape {
            per_process: true,
            interval: Some(Duration::from_secs(10)),
            only_changed: true,
        }
    );
}

#[test]
fn every_selector_makes_a_request_of_its_own() {
    let requests = requests(
        "watch --container 0123456789ab --unit m.service --cgroup /a --port 3306 --port 1 \
         --name a,b --name c --pid 1,22 --pid 3",
    );
    let told: Vec<_> = requests
        .iter()
        .map(|request| target::describe(request.target.as_ref().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            "pid 1",
            "pid 22",
            "pid 3",
            "name a,b",
            "name c",
            "port 3306",
            "port 1",
            "cgroup /a",
            "unit m.service",
            "container 0123456789ab"
        ]
    );
}

#[test]
fn children_are_followed_as_asked_or_as_the_collector_decides() {
    for (option, follow_children) in [
        ("", None),
        (" --follow-children", Some(true)),
        (" --no-follow-children", Some(false)),
    ] {
        let requests = requests(&format!("watch --pid 1 --port 2{option}"));
        for request in &requests {
            let target = request.target.as_ref().unwrap();
            assert_eq!(target.follow_children, follow_children, "{option}");
        }
    }
}

#[test]
fn what_can_wait_waits() {
    let waits = |line| {
        let requests = requests(line);
        requests.iter().map(|it| it.wait).collect::<Vec<_>>()
    };
    assert_eq!(
        waits("watch --pid 1 --unit m.service --wait"),
        [false, true]
    );
    assert_eq!(waits("watch --unit m.service"), [false]);
}

#[test]
fn the_largest_pid_and_many_watch_ids_are_taken() {
    let by_id = unwatch("unwatch w-1 w-2");
    assert_eq!(by_id.watch_ids, ["w-1", "w-2"]);
    assert_eq!(by_id.selector.target(), None);
    let by_pid = unwatch("unwatch --pid 2147483647");
    assert_eq!(
        by_pid.selector.target(),
        Some(v1::Target::pid(2_147_483_647))
    );
}

#[test]
fn watches_are_ended_by_the_selectors_that_made_them() {
    for options in [
        "--pid 7",
        "--name db",
        "--port 3306",
        "--cgroup /a",
        "--unit m.service",
        "--container 0123456789ab",
    ] {
        let made = requests(&format!("watch {options}"));
        let ended = unwatch(&format!("unwatch {options}")).selector.target();
        assert!(ended.is_some(), "{options}");
        assert_eq!(made[0].target, ended, "{options}");
    }
}

#[test]
fn bad_input_is_refused_with_a_reason() {
    const PIDS: &str = "a pid is a number from 1 to 2147483647";
    const PORTS: &str = "a port is a number from 1 to 65535";
    for (line, why) in [
        ("watch", "--pid"),
        ("watch", "--container"),
        ("watch --wait", "--unit"),
        ("watch --pid 1 --wait", "--wait needs a --name"),
        ("watch --pid 0", PIDS),
        ("watch --pid x", PIDS),
        ("watch --pid 1,,2", PIDS),
        ("watch --pid 2147483648", PIDS),
        ("watch --pid 4294967295", PIDS),
        ("watch --pid 99999999999999999999", PIDS),
        ("unwatch --pid 4294967295", PIDS),
        ("watch --port 0", PORTS),
        ("watch --port 65536", PORTS),
        ("unwatch --port mysql", PORTS),
        (
            "watch --pid 1 --follow-children --no-follow-children",
            "cannot be used with",
        ),
        ("watch --pid 1 --detach --count 1", "cannot be used with"),
        (
            "watch --pid 1 --detach --per-process",
            "cannot be used with",
        ),
        ("watch --pid 1 --detach --hooks auto", "cannot be used with"),
        (
            "watch --pid 1 --detach --interval 1s",
            "cannot be used with",
        ),
        ("watch --pid 1 --detach --since 5m", "cannot be used with"),
        ("watch --pid 1 --detach --every 5s", "cannot be used with"),
        (
            "watch --pid 1 --detach --only-changed",
            "cannot be used with",
        ),
        ("watch --watch-id w-1 --detach", "cannot be used with"),
        ("watch --watch-id w-1 --pid 1", "cannot be used with"),
        ("watch --watch-id w-1 --unit a", "cannot be used with"),
        ("watch --watch-id w-1 --wait", "cannot be used with"),
        ("watch --watch-id w-1 --interval 2s", "cannot be used with"),
        ("watch --since 5m", "--watch-id"),
        (
            "watch --port 1 --since 5m --every 10s",
            "cannot be used with",
        ),
        ("watch --port 1 --since 5m --wait", "cannot be used with"),
        (
            "watch --port 1 --since 5m --hooks auto",
            "cannot be used with",
        ),
        ("watch --port 1 --since 5", "such as 5m"),
        (
            "watch --port 1 --since 2126-03-01T12:00:00Z",
            "a time to come",
        ),
        ("watch --pid 1 --every 61m", "from 100ms to 3600s"),
        ("watch --pid 1 --every 0s", "from 100ms"),
        ("watch --pid 1 --count 0", "0"),
        ("watch --pid 1 --interval 99ms", "from 100ms to 60s"),
        ("watch --pid 1 --interval 61s", "from 100ms to 60s"),
        ("watch --pid 1 --interval 5", "such as 500ms"),
        ("watch --pid 1 --hooks uprobe", "tracepoint"),
        ("watch --pid 1 --endpoint /run/x", "unix:///PATH"),
        ("watch --pid 1 --output xml", "table, json"),
        ("unwatch", "WATCH_ID"),
        ("unwatch w-1 --pid 1", "cannot be used with"),
        ("unwatch --port 1 --pid 1", "cannot be used with"),
        ("unwatch --unit a --container b", "cannot be used with"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(why), "{line}: {error}");
    }
}
