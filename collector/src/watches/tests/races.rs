//! What the kernel and the collector do at the same moment.

use super::*;

fn child(tgid: u32) -> ProcessId {
    ProcessId {
        tgid,
        start_time_ns: u64::from(tgid) * 10,
    }
}

fn bench(max_processes: u32) -> Bench {
    let bench = Bench::within(Limits {
        max_processes,
        ..Limits::default()
    });
    for pid in [7, 8] {
        bench.processes.start(pid, 1);
    }
    bench
}

/// A process forks and exits in the middle of a tick: the family goes on.
async fn forks_and_exits_within_a_tick(max_processes: u32) {
    let mut bench = bench(max_processes);
    let id = bench.begin(Selector::Pid(7), Follow::Always, "a").unwrap();
    bench.join(id, 7).unwrap();
    bench.tick();
    bench.kernel.at_next_look(|kernel| {
        kernel.fork(7, child(70));
        kernel.exit(7);
    });
    let sample = bench.tick().remove(0);
    assert_eq!(sample.state(), v1::ProcessState::Running);
    bench.kernel.traffic(70, 1000, 0);
    assert_eq!(bytes(&bench.tick()[0]), [1000, 1000, 0, 0]);
}

#[tokio::test]
async fn a_child_born_within_a_tick_keeps_its_watch_alive() {
    forks_and_exits_within_a_tick(10).await;
}

#[tokio::test]
async fn a_child_without_a_slot_born_within_a_tick_does_too() {
    forks_and_exits_within_a_tick(1).await;
}

#[tokio::test]
async fn who_shares_a_slot_is_heard_of_when_it_exits() {
    let mut bench = bench(1);
    let kernel = FakeKernel::new(4096).without_children();
    bench.kernel = kernel.clone();
    let limits = Limits {
        max_processes: 1,
        ..Limits::default()
    };
    bench.watches = Watches::new(Box::new(kernel), limits);
    let rule = bench
        .begin(Selector::Name("db".to_owned()), Follow::Never, "a")
        .unwrap();
    bench.join(rule, 7).unwrap();
    let found = bench.processes.find(8).unwrap();
    assert!(bench.watches.join(rule, found, false, Past::Share).unwrap());
    bench.tick();
    // No program in the kernel sees its exit; and its pid is used again.
    bench.processes.exit(8);
    let told = bench.watches.next_exit().await;
    bench.watches.exited(told);
    bench.kernel.traffic(8, 1000, 0);
    let sample = bench.tick().remove(0);
    assert_eq!((sample.sent_bytes, sample.process_count), (0, 1));
}

#[tokio::test]
async fn a_process_that_exits_before_it_is_listed_is_not_listed() {
    for max_processes in [10, 1] {
        let mut bench = bench(max_processes);
        let rule = bench
            .begin(Selector::Name("db".to_owned()), Follow::Never, "a")
            .unwrap();
        if max_processes == 1 {
            bench.join(rule, 7).unwrap();
        }
        let found = bench.processes.find(8).unwrap();
        bench.processes.exit(8);
        let refused = bench.watches.join(rule, found, false, Past::Share);
        assert!(matches!(
            refused.unwrap_err(),
            WatchError::Exited { pid: 8 }
        ));
        // Its pid's next user is nobody's.
        assert!(!bench.allowed().contains(&8));
    }
}

#[tokio::test]
async fn watches_that_follow_and_others_count_one_process_without_a_slot() {
    let mut bench = bench(1);
    let mut rule = |follow, owner| {
        let selector = Selector::Name("db".to_owned());
        bench.begin(selector, follow, owner).unwrap()
    };
    let (alone, follows) = (rule(Follow::Never, "a"), rule(Follow::Always, "b"));
    bench.join(alone, 7).unwrap();
    for id in [alone, follows] {
        let found = bench.processes.find(8).unwrap();
        bench.watches.join(id, found, false, Past::Share).unwrap();
    }
    assert_eq!(bench.watches.map_full().processes, 1);
    bench.kernel.traffic(8, 10, 0);
    bench.kernel.fork(8, child(80));
    bench.kernel.traffic(80, 100, 0);
    let samples = bench.tick();
    assert_eq!(bytes(&samples[0]), [10, 10, 0, 0]);
    assert_eq!(bytes(&samples[1]), [110, 110, 0, 0]);
    // The one that follows goes: nobody's child counts any more.
    bench.remove(&follows.to_string(), "b").unwrap();
    bench.kernel.fork(8, child(81));
    bench.kernel.traffic(81, 1000, 0);
    bench.kernel.traffic(8, 1, 0);
    assert_eq!(bytes(&bench.tick()[0]), [1, 11, 0, 0]);
}

#[tokio::test]
async fn a_child_that_is_found_before_its_birth_is_complete_has_all_its_watches() {
    let mut bench = bench(10);
    let follows = bench.begin(Selector::Pid(7), Follow::Always, "a").unwrap();
    bench.join(follows, 7).unwrap();
    let other = bench
        .begin(Selector::Name("x".to_owned()), Follow::Never, "b")
        .unwrap();
    bench.processes.start_as(70, 700, "x", 7);
    bench.join(other, 70).unwrap();
    let newborn = ProcessId {
        tgid: 70,
        start_time_ns: 700,
    };
    bench.kernel.fork(7, newborn);
    bench.kernel.traffic(70, 10, 0);
    let samples = bench.tick();
    assert_eq!(bytes(&samples[0]), [10, 10, 0, 0]);
    assert_eq!(bytes(&samples[1]), [10, 10, 0, 0]);
    bench.kernel.fork(70, child(71));
    bench.kernel.traffic(71, 5, 0);
    let samples = bench.tick();
    assert_eq!(bytes(&samples[0]), [5, 15, 0, 0]);
    assert_eq!(bytes(&samples[1]), [0, 10, 0, 0]);
}

#[tokio::test]
async fn what_had_no_line_stays_told() {
    let mut bench = bench(1);
    let rule = bench
        .begin(Selector::Name("db".to_owned()), Follow::Always, "a")
        .unwrap();
    bench.join(rule, 7).unwrap();
    bench.kernel.fork(7, child(70));
    bench.kernel.traffic(70, 10, 0);
    bench.kernel.exit(70);
    bench.exit(7).await;
    for _ in 0..4 {
        let sample = bench.tick().remove(0);
        assert_eq!(sample.sent_bytes_total, 10);
        assert_eq!(sample.unlisted.unwrap().sent_bytes_total, 10);
    }
}

#[tokio::test]
async fn watches_of_a_followed_process_may_come_and_go() {
    let mut bench = bench(10);
    let standing = bench.begin(Selector::Pid(7), Follow::Always, "b").unwrap();
    bench.join(standing, 7).unwrap();
    for round in 0..20_000 {
        let id = bench.begin(Selector::Pid(7), Follow::Always, "a").unwrap();
        bench.join(id, 7).unwrap();
        bench.remove(&id.to_string(), "a").unwrap();
        if round % 200 == 0 {
            bench.watches.rest();
        }
    }
    bench.kernel.traffic(7, 3, 0);
    assert_eq!(bytes(&bench.tick()[0]), [3, 3, 0, 0]);
}
