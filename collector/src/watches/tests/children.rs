//! Children that the kernel lists itself.

use super::*;

fn child(tgid: u32) -> ProcessId {
    ProcessId {
        tgid,
        start_time_ns: u64::from(tgid) * 10,
    }
}

/// A watch of process 7 and its children.
fn following(bench: &mut Bench, owner: &str) -> WatchId {
    let id = bench
        .begin(Selector::Pid(7), Follow::Always, owner)
        .unwrap();
    bench.join(id, 7).unwrap();
    id
}

fn bench(limits: Limits) -> Bench {
    let bench = Bench::within(limits);
    bench.processes.start(7, 1);
    bench
}

/// Pid, sent in the interval, sent since it joined.
fn parts(sample: &v1::NetIoSample) -> Vec<(u32, u64, u64)> {
    let parts = sample.processes.iter();
    parts
        .map(|part| {
            let pid = part.process.as_ref().unwrap().pid;
            (pid, part.sent_bytes, part.sent_bytes_total)
        })
        .collect()
}

#[tokio::test]
async fn a_child_counts_from_its_first_byte_to_its_last() {
    let mut bench = bench(Limits::default());
    following(&mut bench, "a");
    bench.kernel.traffic(7, 1, 0);
    bench.kernel.fork(7, child(70));
    bench.kernel.traffic(70, 10, 0);
    bench.kernel.exit(70);
    bench.kernel.fork(7, child(71));
    bench.kernel.fork(71, child(72));
    bench.kernel.traffic(72, 100, 0);
    let sample = bench.tick().remove(0);
    assert_eq!(bytes(&sample), [111, 111, 0, 0]);
    assert_eq!(
        parts(&sample),
        [(7, 1, 1), (70, 10, 10), (71, 0, 0), (72, 100, 100)]
    );
    let exited: Vec<_> = sample.processes.iter().map(|it| it.state()).collect();
    use v1::ProcessState::{Exited, Running};
    assert_eq!(exited, [Running, Exited, Running, Running]);
    assert_eq!((sample.state(), sample.process_count), (Running, 4));
    let names: Vec<_> = sample
        .processes
        .into_iter()
        .map(|it| it.process.unwrap().name)
        .collect();
    assert_eq!(names, ["process-7", "child-70", "child-71", "child-72"]);

    bench.kernel.traffic(72, 5, 0);
    let sample = bench.tick().remove(0);
    assert_eq!(bytes(&sample), [5, 116, 0, 0]);
    assert_eq!(parts(&sample), [(7, 0, 1), (71, 0, 0), (72, 5, 105)]);
}

#[tokio::test]
async fn the_watch_of_a_pid_lives_as_long_as_its_family() {
    let mut bench = bench(Limits::default());
    following(&mut bench, "a");
    bench.kernel.fork(7, child(70));
    bench.exit(7).await;
    let sample = bench.tick().remove(0);
    assert_eq!(sample.state(), v1::ProcessState::Running);
    bench.kernel.traffic(70, 3, 0);
    bench.kernel.exit(70);
    let sample = bench.tick().remove(0);
    assert_eq!(sample.state(), v1::ProcessState::Exited);
    assert_eq!(bytes(&sample), [3, 3, 0, 0]);
    assert!(bench.tick().is_empty());
}

#[tokio::test]
async fn a_slot_that_is_used_again_begins_at_zero() {
    let mut bench = bench(Limits {
        max_processes: 2,
        max_watches: 1,
        ..Limits::default()
    });
    following(&mut bench, "a");
    let mut total = 0;
    for tgid in 100..150 {
        bench.kernel.fork(7, child(tgid));
        bench.kernel.traffic(tgid, 1000, 0);
        bench.kernel.exit(tgid);
        total += 1000;
        let sample = bench.tick().remove(0);
        assert_eq!(bytes(&sample), [1000, total, 0, 0]);
        for (pid, interval, since) in parts(&sample) {
            assert_eq!(interval, since, "{pid}");
        }
    }
}

#[tokio::test]
async fn children_past_the_limit_share_a_slot_and_the_sum_stays_exact() {
    let mut bench = bench(Limits {
        max_processes: 3,
        max_watches: 2,
        ..Limits::default()
    });
    following(&mut bench, "a");
    let not_following = bench.add(7, "b").unwrap().watch_id;
    for tgid in 100..110 {
        bench.kernel.fork(7, child(tgid));
    }
    for tgid in 100..110 {
        bench.kernel.traffic(tgid, 10, 0);
    }
    bench.kernel.traffic(7, 1, 0);
    assert_eq!(bench.watches.map_full().processes, 8);
    assert_eq!(bench.list()[0].process_count, 11);
    let samples = bench.tick();
    assert_eq!(bytes(&samples[0]), [101, 101, 0, 0]);
    assert_eq!(samples[0].process_count, 11);
    assert_eq!(samples[0].processes.len(), 3);
    let unlisted = samples[0].unlisted.as_ref().unwrap();
    assert_eq!((unlisted.sent_bytes, unlisted.sent_bytes_total), (80, 80));
    assert_eq!(unlisted.state(), v1::ProcessState::Running);
    // Whoever does not follow sees the process alone.
    assert_eq!(samples[1].watch_id, not_following);
    assert_eq!(bytes(&samples[1]), [1, 1, 0, 0]);
    assert!(samples[1].unlisted.is_none());

    for tgid in 100..110 {
        bench.kernel.traffic(tgid, 1, 0);
        bench.kernel.exit(tgid);
    }
    let sample = bench.tick().remove(0);
    assert_eq!(bytes(&sample), [10, 111, 0, 0]);
    let unlisted = sample.unlisted.unwrap();
    assert_eq!((unlisted.sent_bytes, unlisted.sent_bytes_total), (8, 88));
    bench.tick();
    let sample = bench.tick().remove(0);
    assert_eq!(bytes(&sample), [0, 111, 0, 0]);
}

#[tokio::test]
async fn the_budget_of_a_watch_leaves_room_for_others() {
    let mut bench = bench(Limits {
        max_processes_per_watch: 2,
        ..Limits::default()
    });
    following(&mut bench, "a");
    for tgid in 100..105 {
        bench.kernel.fork(7, child(tgid));
    }
    bench.tick();
    let sample = bench.tick().remove(0);
    assert_eq!((sample.processes.len(), sample.process_count), (2, 6));
    bench.processes.start(8, 1);
    bench.add(8, "b").unwrap();
}

#[tokio::test]
async fn watches_of_one_family_have_beginnings_of_their_own() {
    let mut bench = bench(Limits::default());
    following(&mut bench, "a");
    bench.kernel.fork(7, child(70));
    bench.kernel.traffic(70, 10, 0);
    let late = following(&mut bench, "b");
    // As a descendant that was there before.
    bench.processes.start_as(70, 700, "child-70", 7);
    let found = bench.processes.find(70).unwrap();
    let joined = bench.watches.join(late, found, true, Past::Refuse);
    assert!(joined.unwrap());
    bench.kernel.traffic(70, 1, 0);
    bench.kernel.fork(7, child(71));
    bench.kernel.traffic(71, 100, 0);
    bench.kernel.fork(70, child(72));
    bench.kernel.traffic(72, 1000, 0);
    let samples = bench.tick();
    assert_eq!(bytes(&samples[0]), [1111, 1111, 0, 0]);
    assert_eq!(bytes(&samples[1]), [1101, 1101, 0, 0]);
    assert_eq!(parts(&samples[1])[1], (70, 1, 1));

    // The first goes; those who are born are the second's alone.
    bench.remove("w-1", "a").unwrap();
    bench.kernel.fork(70, child(73));
    bench.kernel.traffic(73, 7, 0);
    let samples = bench.tick();
    assert_eq!(bytes(&samples[0]), [7, 1108, 0, 0]);
    bench.remove("w-2", "b").unwrap();
    assert!(bench.allowed().is_empty());
    bench.kernel.fork(7, child(74));
    assert!(bench.allowed().is_empty());
}

#[tokio::test]
async fn a_birth_that_crosses_the_end_of_its_watch_is_not_listed() {
    let mut bench = bench(Limits::default());
    following(&mut bench, "a");
    // The end looks for births first; this one comes right after.
    let family = bench.kernel.with(|it| it.lives[&it.allowed[&7]].family);
    bench.remove("w-1", "a").unwrap();
    bench.kernel.with(|it| {
        it.allowed.insert(7, Slot(1));
        it.lives.entry(Slot(1)).or_default().family = family;
        it.lives.entry(family.unwrap()).or_default().budget = 1;
    });
    bench.kernel.fork(7, child(70));
    bench.kernel.with(|it| it.allowed.remove(&7));
    assert_eq!(bench.allowed(), [70]);
    bench.tick();
    assert!(bench.allowed().is_empty());
}

#[tokio::test]
async fn sharers_of_an_ended_watch_are_not_counted_any_more() {
    let mut bench = bench(Limits {
        max_processes: 1,
        ..Limits::default()
    });
    following(&mut bench, "a");
    bench.kernel.fork(7, child(70));
    assert_eq!(bench.allowed(), [7, 70]);
    bench.remove("w-1", "a").unwrap();
    assert!(bench.allowed().is_empty());
}

#[tokio::test]
async fn a_process_that_shares_gets_a_slot_when_there_is_room_and_stays_in_its_watches() {
    let mut bench = bench(Limits {
        max_processes: 2,
        ..Limits::default()
    });
    let rule = bench
        .begin(Selector::Name("db".to_owned()), Follow::Never, "a")
        .unwrap();
    for pid in [8, 9] {
        bench.processes.start(pid, 1);
    }
    bench.join(rule, 7).unwrap();
    bench.join(rule, 8).unwrap();
    for _ in 0..3 {
        // As each look at all processes does.
        let found = bench.processes.find(9).unwrap();
        bench.watches.join(rule, found, false, Past::Share).unwrap();
    }
    assert_eq!(bench.watches.map_full().processes, 1);
    bench.kernel.traffic(9, 10, 0);
    let sample = bench.tick().remove(0);
    assert_eq!(bytes(&sample), [10, 10, 0, 0]);
    assert_eq!(sample.unlisted.unwrap().sent_bytes, 10);

    bench.exit(8).await;
    bench.tick();
    let found = bench.processes.find(9).unwrap();
    bench.watches.join(rule, found, false, Past::Share).unwrap();
    bench.kernel.traffic(9, 1, 0);
    let sample = bench.tick().remove(0);
    assert_eq!(bytes(&sample), [1, 11, 0, 0]);
    assert_eq!(parts(&sample), [(7, 0, 0), (9, 1, 1)]);
}

#[tokio::test]
async fn where_children_cannot_be_followed_that_is_said() {
    let kernel = FakeKernel::new(64).without_children();
    let mut bench = bench(Limits::default());
    bench.watches = Watches::new(Box::new(kernel), Limits::default());
    let target = v1::Target::pid(7).following_children(true);
    let new = NewWatch {
        target,
        selector: Selector::Pid(7),
        follow: Follow::Never,
        owner: "a".to_owned(),
        lease_ttl: None,
        create_time: Timestamp::default(),
    };
    let refused = bench.watches.begin(new, bench.now).unwrap_err();
    assert!(matches!(refused, WatchError::ChildrenNotFollowed));
}
