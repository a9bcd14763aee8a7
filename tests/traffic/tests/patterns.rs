//! Runs every pattern as its users do, over the line protocol.
#![allow(clippy::panic, clippy::unwrap_used)] // The helper is test code, too.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use clap::ValueEnum as _;
use netio_traffic::Pattern;
use netio_traffic::protocol::{Ready, Report};

/// Patterns that a kernel, or a user who is not root, may lack.
const OPTIONAL: [Pattern; 12] = [
    Pattern::FastOpen,
    Pattern::IoUring,
    Pattern::Ipv6,
    Pattern::Ktls,
    Pattern::KtlsOneWay,
    Pattern::KtlsSplice,
    Pattern::Mptcp,
    Pattern::MptcpFallback,
    Pattern::RawTcpAndUdp,
    Pattern::ReusedPid,
    Pattern::ZerocopyReceive,
    Pattern::ZerocopySend,
];

/// Patterns in which not all that is sent is received by a watched process.
const ONE_SIDED: [Pattern; 7] = [
    Pattern::ChildrenBefore,
    Pattern::HalfClose,
    Pattern::InheritedUnwatched,
    Pattern::OpenedBefore,
    Pattern::OpenedBeforeCollector,
    Pattern::SpliceQueued,
    Pattern::UrgentUnread,
];

/// Patterns over sockets whose TCP_INFO is not about what the process sees, or
/// that end without waiting for it.
const WITHOUT_TCP_INFO: [Pattern; 7] = [
    Pattern::ExitMidTick,
    Pattern::Ktls,
    Pattern::KtlsOneWay,
    Pattern::KtlsSplice,
    Pattern::Mptcp,
    Pattern::MptcpFallback,
    Pattern::Reconnected,
];

fn run(pattern: Pattern, scale: u32) -> (Ready, Report) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_netio-traffic"))
        .args(["run", &pattern.name(), "--scale", &scale.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let ready: Ready = serde_json::from_str(&line).unwrap();
    assert!(ready.ready);
    assert_eq!(ready.pid, child.id());
    assert!(stdout.buffer().is_empty(), "it did not wait for \"go\"");
    stdin.write_all(b"go\n").unwrap();
    line.clear();
    stdout.read_line(&mut line).unwrap();
    let report = serde_json::from_str(&line).unwrap_or_else(|error| {
        panic!("{pattern:?} reported {line:?}: {error}");
    });
    if !pattern.exits_by_itself() {
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "it did not wait for \"exit\""
        );
        stdin.write_all(b"exit\n").unwrap();
    }
    line.clear();
    stdout.read_to_string(&mut line).unwrap();
    assert_eq!(line, "", "it printed more than two lines");
    assert!(child.wait().unwrap().success(), "{pattern:?}");
    (ready, report)
}

#[test]
fn every_pattern_reports_a_truth_that_tcp_info_confirms() {
    for &pattern in Pattern::value_variants() {
        let (ready, report) = run(pattern, 1);
        match report {
            Report::Unavailable {
                pattern: name,
                unavailable,
            } => {
                assert_eq!(name, pattern.name());
                assert!(OPTIONAL.contains(&pattern), "{name}: {unavailable}");
                assert_ne!(unavailable, "");
            }
            Report::Truth {
                pattern: name,
                truth,
                tcp_info,
                ..
            } => {
                assert_eq!(name, pattern.name());
                let pids: Vec<_> = truth.iter().map(|truth| truth.pid).collect();
                assert_eq!(pids, ready.pids);
                for truth in &truth {
                    assert!(truth.bytes.sent > 0, "{name}");
                    assert!(truth.bytes.received > 0, "{name}");
                }
                let sent: u64 = truth.iter().map(|truth| truth.bytes.sent).sum();
                let received: u64 = truth.iter().map(|truth| truth.bytes.received).sum();
                if !ONE_SIDED.contains(&pattern) {
                    assert_eq!(sent, received, "{name}");
                }
                assert_eq!(
                    tcp_info.is_none(),
                    WITHOUT_TCP_INFO.contains(&pattern),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn scale_multiplies_the_traffic() {
    let sent = |scale| match run(Pattern::Vectored, scale).1 {
        Report::Truth { truth, .. } => truth[0].bytes.sent,
        Report::Unavailable { unavailable, .. } => panic!("{unavailable}"),
    };
    assert_eq!(3 * sent(1), sent(3));
}

/// Whether a process runs: one that nobody has waited for yet does not.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

#[test]
fn the_process_to_watch_is_the_generator_or_has_exited_when_the_report_comes() {
    for &pattern in Pattern::value_variants() {
        if !pattern.follows_children() && !pattern.watched_exits() {
            continue;
        }
        let (ready, report) = run(pattern, 1);
        assert_eq!(ready.pids.len(), 1, "{pattern:?}");
        assert_eq!(ready.pids[0] == ready.pid, !pattern.watched_exits());
        // The run's end is the end of its output, which every descendant holds.
        assert!(!runs(ready.pids[0]), "{pattern:?} left a process behind");
        if let Report::Truth { truth, .. } = report {
            assert_eq!(truth.len(), 1, "{pattern:?}");
        }
    }
}

#[test]
fn two_thousand_children_send_a_hundred_bytes_each() {
    match run(Pattern::ShortLivedChildren, 1).1 {
        Report::Truth { truth, .. } => {
            assert_eq!(truth[0].bytes.sent, 200_000);
            assert_eq!(truth[0].bytes.received, 200_000);
        }
        Report::Unavailable { unavailable, .. } => panic!("{unavailable}"),
    }
}

#[test]
fn a_wrong_command_is_an_error_that_names_the_right_one() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_netio-traffic"))
        .args(["run", "peek"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"gone\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("expected \"go\""), "{message}");
}
