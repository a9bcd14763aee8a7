//! Rules that processes match later, with a paused clock and a kernel made of a
//! table.

use std::sync::atomic::{AtomicU32, Ordering};

use netio::v1;

use super::*;
use crate::{Options, server::rig::Rig};

async fn standing(rig: &Rig, target: v1::Target) -> String {
    let request = v1::WatchRequest::new(target).standing();
    let answer = rig.client().watch(request).await.unwrap().into_inner();
    // The first look at all processes is over.
    tokio::time::sleep(Duration::from_millis(1)).await;
    answer.watch.unwrap().watch_id
}

fn allowed(rig: &Rig) -> Vec<u32> {
    rig.kernel.with(|it| it.allowed.keys().copied().collect())
}

#[tokio::test(start_paused = true)]
async fn a_process_that_executes_the_program_joins_at_once() {
    let rig = Rig::new(Options::default());
    standing(&rig, v1::Target::name("db")).await;
    rig.processes.start_as(7, 1, "shell", 1);
    rig.kernel.change(7);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(allowed(&rig).is_empty());
    rig.processes.exec(7, "db");
    rig.kernel.change(7);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(allowed(&rig), [7]);
}

#[tokio::test(start_paused = true)]
async fn what_shows_a_moment_later_is_seen_by_the_second_look() {
    let rig = Rig::new(Options::default());
    standing(&rig, v1::Target::port(3306)).await;
    rig.processes.start(7, 1);
    rig.kernel.change(7);
    tokio::time::sleep(Duration::from_millis(5)).await;
    rig.processes.listen(7, 3306);
    tokio::time::sleep(SECOND_LOOK / 2).await;
    assert!(allowed(&rig).is_empty());
    tokio::time::sleep(SECOND_LOOK).await;
    assert_eq!(allowed(&rig), [7]);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_told_is_found_by_looking() {
    let rig = Rig::new(Options::default());
    standing(&rig, v1::Target::name("db")).await;
    rig.processes.start_as(7, 1, "db", 1);
    tokio::time::sleep(RESCAN + Duration::from_millis(10)).await;
    assert_eq!(allowed(&rig), [7]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_server_is_the_same_watchs_new_process() {
    let rig = Rig::new(Options::default());
    rig.processes.start_as(7, 1, "db", 1);
    standing(&rig, v1::Target::name("db")).await;
    assert_eq!(allowed(&rig), [7]);
    rig.kernel.traffic(7, 10, 0);
    rig.processes.exit(7);
    rig.kernel.exit(7);
    rig.processes.start_as(8, 2, "db", 1);
    rig.kernel.change(8);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(allowed(&rig), [8]);
    rig.kernel.traffic(8, 1, 0);
    let request = v1::SubscribeRequest::default();
    let mut stream = rig.client().subscribe(request).await.unwrap().into_inner();
    let sample = stream.message().await.unwrap().unwrap().samples.remove(0);
    assert_eq!(sample.sent_bytes_total, 11);
    assert_eq!(sample.process.unwrap().pid, 8);
}

#[tokio::test(start_paused = true)]
async fn one_process_joins_every_watch_that_it_matches() {
    let rig = Rig::new(Options::default());
    standing(&rig, v1::Target::name("db")).await;
    standing(&rig, v1::Target::port(3306)).await;
    standing(&rig, v1::Target::name("other")).await;
    rig.processes.start_as(7, 1, "db", 1);
    rig.processes.listen(7, 3306);
    rig.kernel.change(7);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let request = v1::ListWatchesRequest {};
    let answer = rig.client().list_watches(request).await.unwrap();
    let counts = answer.into_inner().watches;
    let counts: Vec<_> = counts.iter().map(|it| it.process_count).collect();
    assert_eq!(counts, [1, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn children_of_a_process_that_joins_later_are_followed() {
    let rig = Rig::new(Options::default());
    standing(&rig, v1::Target::name("postgres")).await;
    rig.processes.start_as(7, 1, "postgres", 1);
    rig.processes.start_as(70, 2, "worker", 7);
    rig.kernel.change(7);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(allowed(&rig), [7, 70]);
    let born = crate::kernel::ProcessId {
        tgid: 71,
        start_time_ns: 3,
    };
    rig.kernel.fork(70, born);
    assert_eq!(allowed(&rig), [7, 70, 71]);
}

#[tokio::test(start_paused = true)]
async fn without_rules_nobody_wishes_to_know() {
    let rig = Rig::new(Options::default());
    let id = standing(&rig, v1::Target::name("db")).await;
    assert!(rig.kernel.with(|it| it.wishes));
    let selector = Some(v1::unwatch_request::Selector::WatchId(id));
    let request = v1::UnwatchRequest { selector };
    rig.client().unwatch(request).await.unwrap();
    assert!(!rig.kernel.with(|it| it.wishes));
}

#[tokio::test(start_paused = true)]
async fn all_rules_are_looked_for_at_once_and_members_are_passed_over() {
    let rig = Rig::new(Options::default());
    for pid in 10..30 {
        rig.processes.start_as(pid, 1, "db", 1);
        rig.processes.listen(pid, 3306);
    }
    rig.processes.start_as(7, 1, "postgres", 1);
    rig.processes.start_as(70, 2, "worker", 7);
    for target in [
        v1::Target::name("db"),
        v1::Target::port(3306),
        v1::Target::name("postgres"),
        v1::Target::name("nobody"),
    ] {
        standing(&rig, target).await;
    }
    let count = |of: &AtomicU32| of.swap(0, Ordering::Relaxed);
    tokio::time::sleep(RESCAN).await;
    let _before = (count(&rig.processes.looks), count(&rig.processes.found));
    tokio::time::sleep(RESCAN).await;
    // For the rules, and for descendants.
    assert_eq!(count(&rig.processes.looks), 2);
    assert_eq!(count(&rig.processes.found), 0);

    // What is new is found, once for each of its watches.
    rig.processes.start_as(30, 1, "db", 1);
    rig.processes.listen(30, 3306);
    rig.processes.start_as(71, 2, "worker", 70);
    tokio::time::sleep(RESCAN).await;
    // Descendants until there are no new ones.
    assert_eq!(count(&rig.processes.looks), 3);
    assert_eq!(count(&rig.processes.found), 3);
    assert!(allowed(&rig).ends_with(&[29, 30, 70, 71]));
    // Another process with the pid of a member that exited unseen is no member.
    rig.processes.exit(30);
    rig.processes.start_as(30, 5, "db", 1);
    tokio::time::sleep(RESCAN).await;
    assert_eq!(count(&rig.processes.found), 1);
}

#[tokio::test(start_paused = true)]
async fn descendants_that_were_missed_are_found_by_looking_again() {
    let rig = Rig::new(Options::default());
    rig.processes.start_as(7, 1, "postgres", 1);
    standing(&rig, v1::Target::name("postgres")).await;
    assert_eq!(allowed(&rig), [7]);
    rig.processes.start_as(70, 2, "worker", 7);
    tokio::time::sleep(RESCAN + Duration::from_millis(10)).await;
    assert_eq!(allowed(&rig), [7, 70]);
}
