//! Hooks that are attached only while something is watched, with a paused clock
//! and a kernel made of a table.

use netio::v1::{self, ProbeState};
use tokio::time::{advance, sleep};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use super::SECOND;
use crate::{
    Options,
    kernel::{AllowError, KernelInfo, Mark, fake::FakeKernel, refusing::RefusingKernel},
    server::{
        Listeners,
        rig::{Client, Rig, watch},
    },
};

const AFTER: std::time::Duration = std::time::Duration::from_secs(30);

fn options() -> Options {
    Options {
        detach_when_idle: Some(AFTER),
        ..Options::default()
    }
}

async fn info(client: &mut Client) -> v1::CollectorInfo {
    let request = v1::GetCollectorInfoRequest {};
    let answer = client.get_collector_info(request).await.unwrap();
    answer.into_inner().info.unwrap()
}

async fn state(client: &mut Client) -> ProbeState {
    info(client).await.probe_state()
}

async fn unwatch(client: &mut Client, id: &str) {
    let selector = Some(v1::unwatch_request::Selector::WatchId(id.to_owned()));
    client
        .unwatch(v1::UnwatchRequest { selector })
        .await
        .unwrap();
}

/// A collector whose hooks rest.
async fn resting() -> (Rig, Client) {
    let rig = Rig::new(options());
    let mut client = rig.client();
    sleep(AFTER + SECOND).await;
    assert_eq!(state(&mut client).await, ProbeState::Resting);
    (rig, client)
}

fn attached_again(rig: &Rig) -> u32 {
    rig.kernel.with(|it| it.attached_again)
}

#[tokio::test(start_paused = true)]
async fn hooks_rest_once_nothing_was_watched_for_long_and_come_for_the_next_watch() {
    let rig = Rig::new(options());
    let mut client = rig.client();
    rig.processes.start(7, 1);
    assert_eq!(state(&mut client).await, ProbeState::Attached);
    sleep(AFTER - SECOND).await;
    assert_eq!(state(&mut client).await, ProbeState::Attached);
    sleep(2 * SECOND).await;
    let resting = info(&mut client).await;
    assert_eq!(resting.probe_state(), ProbeState::Resting);
    assert_eq!(resting.hook_mode(), v1::HookMode::Tracepoint);
    assert!(resting.follows_children);
    assert_eq!(resting.detach_when_idle.unwrap().seconds, 30);
    let request = HealthCheckRequest {
        service: "netio.v1.NetIoService".to_owned(),
    };
    let mut health = HealthClient::new(rig.memory.channel());
    let health = health.check(request).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    rig.kernel.traffic(7, 1000, 1000);

    let ticked = rig.kernel.with(|it| std::mem::take(&mut it.marks));
    watch(&mut client, 7).await;
    // For a collector that comes after a kill before the next tick.
    let marked = rig.kernel.with(|it| it.marks.clone());
    assert!(marked[&Mark::Sequence] > ticked[&Mark::Sequence]);
    assert!(marked[&Mark::Time] > ticked[&Mark::Time]);
    assert_eq!(state(&mut client).await, ProbeState::Attached);
    assert_eq!(attached_again(&rig), 1);
    rig.kernel.traffic(7, 30, 4);
    let request = v1::SubscribeRequest::default();
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    let sample = stream.message().await.unwrap().unwrap().samples.remove(0);
    let totals = (sample.sent_bytes_total, sample.received_bytes_total);
    assert_eq!(totals, (30, 4));
}

#[tokio::test(start_paused = true)]
async fn a_watch_in_time_keeps_them_and_the_time_begins_anew_when_it_ends() {
    let rig = Rig::new(options());
    let mut client = rig.client();
    rig.processes.start(7, 1);
    sleep(AFTER - SECOND).await;
    let id = watch(&mut client, 7).await;
    // Its lease is for longer.
    sleep(AFTER + 5 * SECOND).await;
    assert_eq!(state(&mut client).await, ProbeState::Attached);
    unwatch(&mut client, &id).await;
    sleep(AFTER - SECOND).await;
    assert_eq!(state(&mut client).await, ProbeState::Attached);
    let id = watch(&mut client, 7).await;
    unwatch(&mut client, &id).await;
    sleep(AFTER - SECOND).await;
    assert_eq!(state(&mut client).await, ProbeState::Attached);
    sleep(2 * SECOND).await;
    assert_eq!(state(&mut client).await, ProbeState::Resting);
    assert_eq!(attached_again(&rig), 0);
}

#[tokio::test(start_paused = true)]
async fn they_rest_after_the_last_watched_process_has_exited() {
    let (rig, mut client) = resting().await;
    rig.processes.start(7, 1);
    watch(&mut client, 7).await;
    rig.processes.exit(7);
    rig.kernel.exit(7);
    sleep(AFTER + 2 * SECOND).await;
    assert_eq!(state(&mut client).await, ProbeState::Resting);
}

#[tokio::test(start_paused = true)]
async fn a_rule_counts_as_watched_while_it_waits_and_hears_of_changes() {
    let (rig, mut client) = resting().await;
    let request = v1::WatchRequest::new(v1::Target::name("db")).standing();
    client.watch(request).await.unwrap();
    sleep(2 * AFTER).await;
    assert_eq!(state(&mut client).await, ProbeState::Attached);
    rig.processes.start_as(7, 1, "db", 1);
    rig.kernel.change(7);
    // Long before everything is looked at.
    sleep(std::time::Duration::from_millis(5)).await;
    let allowed: Vec<u32> = rig.kernel.with(|it| it.allowed.keys().copied().collect());
    assert_eq!(allowed, [7]);
}

#[tokio::test(start_paused = true)]
async fn where_they_do_not_attach_the_watch_is_refused_and_the_next_tries_again() {
    let (rig, mut client) = resting().await;
    rig.processes.start(7, 1);
    rig.kernel.with(|it| it.fails_to_attach = true);
    let request = v1::WatchRequest::new(v1::Target::pid(7));
    let refused = client.watch(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let reason = refused.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "PROBES_NOT_ATTACHED");
    assert!(refused.message().contains("as the test has it"));
    assert_eq!(state(&mut client).await, ProbeState::Resting);

    rig.kernel.with(|it| it.fails_to_attach = false);
    client.watch(request).await.unwrap();
    assert_eq!(state(&mut client).await, ProbeState::Attached);
}

#[tokio::test(start_paused = true)]
async fn ticks_go_on_while_they_are_attached_once_for_all_who_wait() {
    let (rig, mut client) = resting().await;
    for pid in [7, 8, 9] {
        rig.processes.start(pid, 1);
    }
    let request = v1::SubscribeRequest::default();
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    let attaching = rig.kernel.with(|it| it.attaching.close());
    let wait = |pid| {
        let mut client = rig.client();
        tokio::spawn(async move { watch(&mut client, pid).await })
    };
    let made = [wait(7), wait(8)];
    let gone = wait(9);
    let crowd: Vec<_> = (100..200)
        .map(|pid| {
            rig.processes.start(pid, 1);
            wait(pid)
        })
        .collect();
    for _ in 0..3 {
        advance(SECOND).await;
        let tick = stream.message().await.unwrap().unwrap();
        assert!(tick.samples.is_empty());
    }
    // However many wait, others are answered.
    assert_eq!(state(&mut client).await, ProbeState::Resting);
    assert!(made.iter().all(|it| !it.is_finished()));
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    advance(SECOND).await;
    drop(attaching);
    for made in made.into_iter().chain(crowd) {
        made.await.unwrap();
    }
    assert_eq!(attached_again(&rig), 1);
    let request = v1::ListWatchesRequest {};
    let watches = client.list_watches(request).await.unwrap().into_inner();
    assert_eq!(watches.watches.len(), 102, "{watches:?}");
}

#[tokio::test(start_paused = true)]
async fn figures_go_on_from_one_set_of_hooks_to_the_next() {
    let rig = Rig::new(options());
    let mut client = rig.client();
    rig.processes.start(7, 1);
    rig.kernel.with(|it| it.unlisted = 3);
    for state_then in [ProbeState::Attached, ProbeState::Resting] {
        let told = info(&mut client).await;
        assert_eq!(told.probe_state(), state_then);
        assert_eq!(told.map_full.unwrap().processes, 3);
        sleep(AFTER + SECOND).await;
    }
    let first = watch(&mut client, 7).await;
    rig.kernel.with(|it| it.unlisted += 2);
    assert_eq!(info(&mut client).await.map_full.unwrap().processes, 5);
    // And so do the ids of watches.
    unwatch(&mut client, &first).await;
    sleep(AFTER + SECOND).await;
    assert_ne!(watch(&mut client, 7).await, first);
}

#[tokio::test(start_paused = true)]
async fn without_the_option_they_stay() {
    let rig = Rig::new(Options::default());
    let mut client = rig.client();
    sleep(100 * AFTER).await;
    let told = info(&mut client).await;
    assert_eq!(told.probe_state(), ProbeState::Attached);
    assert_eq!(told.detach_when_idle, None);
}

#[tokio::test(start_paused = true)]
async fn hooks_that_never_attached_do_not_rest() {
    let why = |_| AllowError::NotAttached("no hooks".to_owned());
    let kernel = Box::new(RefusingKernel::new(KernelInfo::default(), why));
    let rig = Rig::on(kernel, FakeKernel::new(0), options(), Listeners::new());
    sleep(2 * AFTER).await;
    assert_eq!(state(&mut rig.client()).await, ProbeState::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_hooks_that_are_being_attached() {
    let (mut rig, _) = resting().await;
    rig.processes.start(7, 1);
    let attaching = rig.kernel.with(|it| it.attaching.close());
    let mut client = rig.client();
    let request = v1::WatchRequest::new(v1::Target::pid(7));
    let asked = tokio::spawn(async move { client.watch(request).await });
    // Asked, and begun.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    rig.shutdown.cancel();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!rig.collector.is_finished());
    drop(attaching);
    rig.ended().await.unwrap();
    let refused = asked.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}
