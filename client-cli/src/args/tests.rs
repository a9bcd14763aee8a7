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
