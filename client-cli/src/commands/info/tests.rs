use super::*;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn millis(millis: i64) -> Option<prost_types::Duration> {
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap();
    let seconds = millis / 1000;
    Some(prost_types::Duration { seconds, nanos })
}

fn percentiles(of: [i64; 3]) -> Option<v1::Percentiles> {
    let [p50, p99, max] = of.map(millis);
    Some(v1::Percentiles { p50, p99, max })
}

fn info() -> v1::CollectorInfo {
    v1::CollectorInfo {
        version: "0.1.0".to_owned(),
        instance: None,
        kernel_release: "6.1.0".to_owned(),
        hook_mode: v1::HookMode::Fentry.into(),
        programs: vec![v1::AttachedProgram {
            name: "send".to_owned(),
            hook: "fexit/tcp_sendmsg".to_owned(),
            program_id: 12,
        }],
        blind_spots: vec![v1::BlindSpot {
            id: "ktls-receive".to_owned(),
            description: "counted as ciphertext".to_owned(),
            remedy: "Linux 6.3 or later".to_owned(),
        }],
        missed_events: Some(v1::MissedEvents {
            recursion: Some(0),
            kretprobe: Some(0),
        }),
        limits: Some(v1::Limits {
            max_watches: 101,
            max_subscribers: 102,
            max_watch_ids_per_subscription: 103,
            max_pid: 104,
            max_watches_per_owner: 105,
            max_processes: 106,
            max_processes_per_watch: 107,
            max_lease_ttl: seconds(108),
            default_lease_ttl: seconds(30),
            max_history: seconds(600),
            max_history_bytes: 16 << 20,
            max_connections: 109,
        }),
        interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 250_000_000,
        }),
        missed_ticks: 5,
        subscribers: 1,
        received_calls_meaning: "calls".to_owned(),
        attempts: vec![v1::ModeAttempt {
            mode: v1::HookMode::Tracepoint.into(),
            cause: "no such tracepoint\u{1b}".to_owned(),
            remedy: String::new(),
        }],
        map_full: Some(v1::MapFull {
            processes: 0,
            sockets: 0,
        }),
        watches: 2,
        processes: 3,
        follows_children: true,
        own_cost: Some(v1::OwnCost {
            program_runs: Some(2000),
            program_time: millis(3),
            tick_duration: percentiles([1, 2, 3]),
            tick_lateness: percentiles([4, 5, 6000]),
            sent_bytes: 201,
            sent_messages: 202,
            skipped_ticks: 203,
            resident_bytes: 12 << 20,
            history_bytes: 204,
            history_ticks: 205,
        }),
        probe_state: v1::ProbeState::Attached.into(),
        detach_when_idle: None,
        durable: true,
        not_durable_cause: String::new(),
    }
}

#[test]
fn people_see_everything() {
    let shown = for_people(&info(), &Origin::InProcess);
    assert_eq!(
        shown,
        "\
collector       netio-collector 0.1.0 within this process
kernel          6.1.0
hooks           fentry
probes          attached
received calls  calls
children        can be followed
if killed       the kernel counts on, and the next collector goes on with every watch
interval        250ms
missed ticks    5
missed events   none
without a line  none
watches         2 of at most 101; of one owner at most 105
processes       3 of at most 106; in one watch at most 107
subscribers     1 of at most 102; watch ids in one subscription at most 103
leases          30s by default, at most 1m 48s
connections     at most 109 over Unix sockets, as many over TCP, as many over TLS
pids            those below 104
program runs    2000 in 3.0ms, 1500ns each
tick duration   half below 1.0ms, 99 of 100 below 2.0ms, at most 3.0ms
tick lateness   half below 4.0ms, 99 of 100 below 5.0ms, at most 6.0s
sent            202 messages, 201 B; ticks that slow subscribers skipped: 203
memory          12.00 MiB
history         205 ticks in 204 B; at most 10m and 16.00 MiB

Programs in the kernel:
  send  fexit/tcp_sendmsg  id 12

Blind spots, traffic that these hooks do not count rightly:
  ktls-receive: counted as ciphertext
    what to do: Linux 6.3 or later

Hooks that do not work here:
  tracepoint: no such tracepoint\u{fffd}
"
    );
}

#[test]
fn probes_that_rest_are_no_fault() {
    let shown = shown_with(|info| {
        info.detach_when_idle = seconds(30);
    });
    assert!(
        shown.contains("probes          attached; detached when nothing was watched for 30s\n"),
        "{shown}"
    );
    let shown = shown_with(|info| {
        info.probe_state = v1::ProbeState::Resting.into();
        info.programs.clear();
    });
    assert!(
        shown.contains("probes          resting, since nothing is watched; "),
        "{shown}"
    );
    assert!(!shown.contains("Programs in the kernel"), "{shown}");
}

fn shown_with(change: impl FnOnce(&mut v1::CollectorInfo)) -> String {
    let mut info = info();
    change(&mut info);
    for_people(&info, &Origin::InProcess)
}

#[test]
fn missed_events_are_loud() {
    let shown = shown_with(|info| {
        info.missed_events = Some(v1::MissedEvents {
            recursion: None,
            kretprobe: Some(7),
        });
    });
    assert!(
        shown.contains(
            "WARNING: totals are not exact, mostly too low: \
             recursion unknown, kretprobe 7, sockets not followed 0\n"
        ),
        "{shown}"
    );
}

#[test]
fn sockets_that_are_not_followed_are_as_loud() {
    let shown = shown_with(|info| {
        info.map_full = Some(v1::MapFull {
            processes: 0,
            sockets: 3,
        });
    });
    assert!(shown.contains("WARNING: totals are not exact"), "{shown}");
    assert!(shown.contains("sockets not followed 3\n"), "{shown}");
}

#[test]
fn processes_without_a_line_are_told_and_no_warning() {
    let shown = shown_with(|info| {
        info.map_full = Some(v1::MapFull {
            processes: 2,
            sockets: 0,
        });
    });
    assert!(
        shown.contains("without a line  2 processes (counted in the sums)\n"),
        "{shown}"
    );
    assert!(!shown.contains("WARNING"), "{shown}");
}

#[test]
fn what_could_not_be_read_is_unknown_and_not_none() {
    let mut info = info();
    info.missed_events = Some(v1::MissedEvents {
        recursion: None,
        kretprobe: Some(0),
    });
    let shown = for_people(&info, &Origin::InProcess);
    assert!(
        shown.contains("missed events   recursion unknown, kretprobe 0, sockets not followed 0\n"),
        "{shown}"
    );
    let value = for_programs(&info, &Origin::InProcess);
    assert_eq!(
        value["missed_events"],
        json!({"recursion": null, "kretprobe": 0})
    );
    info.missed_events = None;
    info.map_full = None;
    let shown = for_people(&info, &Origin::InProcess);
    assert!(
        shown.contains("recursion unknown, kretprobe unknown, sockets not followed unknown"),
        "{shown}"
    );
    assert!(shown.contains("without a line  unknown\n"), "{shown}");
}

#[test]
fn runs_that_the_kernel_does_not_count_are_not_zero() {
    let mut info = info();
    let cost = info.own_cost.as_mut().unwrap();
    cost.program_runs = None;
    cost.program_time = None;
    let shown = for_people(&info, &Origin::InProcess);
    assert!(
        shown.contains("program runs    not counted by the kernel; to count them: sysctl"),
        "{shown}"
    );
    let value = for_programs(&info, &Origin::InProcess);
    assert_eq!(value["own_cost"].get("program_runs"), Some(&Value::Null));
    assert_eq!(value["own_cost"].get("program_time_s"), Some(&Value::Null));

    info.own_cost.as_mut().unwrap().program_runs = Some(0);
    info.own_cost.as_mut().unwrap().program_time = millis(0);
    let shown = for_people(&info, &Origin::InProcess);
    assert!(shown.contains("program runs    0 in 0.0ns\n"), "{shown}");
}

#[test]
fn a_cost_that_is_not_told_is_unknown() {
    let shown = shown_with(|info| info.own_cost = None);
    for row in [
        "program runs    unknown\n",
        "tick lateness   unknown\n",
        "memory          unknown\n",
        "history         at most 10m and 16.00 MiB\n",
    ] {
        assert!(shown.contains(row), "{row}: {shown}");
    }
    let shown = shown_with(|info| info.own_cost.as_mut().unwrap().tick_duration = None);
    assert!(shown.contains("tick duration   unknown\n"), "{shown}");
    let mut info = info();
    info.own_cost = None;
    let value = for_programs(&info, &Origin::InProcess);
    assert_eq!(value.get("own_cost"), Some(&Value::Null));
}

#[test]
fn hooks_that_cannot_follow_children_say_so() {
    let shown = shown_with(|info| info.follows_children = false);
    assert!(
        shown.contains("children        cannot be followed"),
        "{shown}"
    );
}

#[test]
fn programs_get_numbers() {
    let value = for_programs(&info(), &Origin::Remote("http://h:1".parse().unwrap()));
    assert_eq!(value["endpoint"], "http://h:1");
    assert_eq!(value["hook_mode"], "fentry");
    assert_eq!(value["probe_state"], "attached");
    assert_eq!(value["detach_when_idle_s"], json!(null));
    assert_eq!(value["interval_s"], 0.25);
    assert_eq!(value["programs"][0]["program_id"], 12);
    assert_eq!(value["attempts"][0]["cause"], "no such tracepoint\u{fffd}");
    assert_eq!(value["map_full"], json!({"processes": 0, "sockets": 0}));
    assert_eq!(value["follows_children"], true);
    assert_eq!(
        (&value["watches"], &value["processes"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(
        value["limits"],
        json!({
            "max_watches": 101, "max_subscribers": 102, "max_watch_ids_per_subscription": 103,
            "max_pid": 104, "max_watches_per_owner": 105, "max_processes": 106,
            "max_processes_per_watch": 107, "max_lease_ttl_s": 108.0,
            "default_lease_ttl_s": 30.0, "max_history_s": 600.0,
            "max_history_bytes": 16_777_216, "max_connections": 109,
        })
    );
    assert_eq!(
        value["own_cost"],
        json!({
            "program_runs": 2000, "program_time_s": 0.003,
            "tick_duration_s": {"p50": 0.001, "p99": 0.002, "max": 0.003},
            "tick_lateness_s": {"p50": 0.004, "p99": 0.005, "max": 6.0},
            "sent_bytes": 201, "sent_messages": 202, "skipped_ticks": 203,
            "resident_bytes": 12_582_912, "history_bytes": 204, "history_ticks": 205,
        })
    );
}

#[test]
fn what_would_be_lost_is_said_with_its_cause() {
    let info = v1::CollectorInfo {
        durable: false,
        not_durable_cause: "/x is in no BPF filesystem".to_owned(),
        ..info()
    };
    assert_eq!(
        if_killed(&info),
        "watches and totals are lost: /x is in no BPF filesystem"
    );
    let shown = for_programs(&info, &Origin::InProcess);
    assert_eq!(shown["durable"], false);
}
