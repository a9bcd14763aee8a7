//! The API over real gRPC, in memory and with a paused clock.

use std::{collections::HashMap, io, time::Duration};

use netio::v1::{target, unwatch_request, watch_request::Life};
use tonic::{Code, Status, transport::Endpoint};
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    Listeners, Options,
    kernel::{AllowError, KernelInfo, fake::FakeKernel, refusing::RefusingKernel},
    processes::FindError,
    server::rig::{Client, Rig, pid, watch},
};

mod extremes;
mod subscribing;
mod targets;

/// Asserts code and ErrorInfo, and that the message is a sentence for people.
fn assert_refused(status: &Status, code: Code, reason: &str, metadata: &[(&str, &str)]) {
    assert_eq!(status.code(), code, "{status}");
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(
        (info.domain.as_str(), info.reason.as_str()),
        ("netio", reason)
    );
    let expected: HashMap<_, _> = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    assert_eq!(info.metadata, expected);
    assert!(status.message().len() > 20, "{status}");
}

fn options(max_watches: u32) -> Options {
    let mut options = Options::default();
    options.limits.max_watches = max_watches;
    options
}

async fn watch_error(client: &mut Client, target: Option<v1::Target>) -> Status {
    client
        .watch(v1::WatchRequest {
            target,
            ..Default::default()
        })
        .await
        .unwrap_err()
}

async fn unwatch_error(client: &mut Client, selector: Option<unwatch_request::Selector>) -> Status {
    let request = v1::UnwatchRequest { selector };
    client.unwatch(request).await.unwrap_err()
}

fn subscription(watch_ids: Vec<String>) -> v1::SubscribeRequest {
    v1::SubscribeRequest::new(watch_ids)
}

async fn subscribe_error(client: &mut Client, watch_ids: Vec<String>) -> Status {
    let request = subscription(watch_ids);
    client.subscribe(request).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn bad_targets_are_refused() {
    let rig = Rig::new(Options::default());
    let mut client = rig.client();
    let invalid = Code::InvalidArgument;
    for target in [None, Some(v1::Target::default())] {
        let status = watch_error(&mut client, target).await;
        assert_refused(&status, invalid, "TARGET_MISSING", &[]);
    }
    let status = watch_error(&mut client, pid(0)).await;
    assert_refused(&status, invalid, "PID_INVALID", &[("pid", "0")]);
    let status = watch_error(&mut client, pid(1 << 31)).await;
    assert_refused(&status, invalid, "PID_INVALID", &[("pid", "2147483648")]);
    let status = watch_error(&mut client, pid(7)).await;
    assert_refused(
        &status,
        Code::NotFound,
        "PROCESS_NOT_FOUND",
        &[("pid", "7")],
    );
}

#[tokio::test(start_paused = true)]
async fn fault_12_too_many_watches_are_refused() {
    let rig = Rig::new(options(2));
    rig.processes.start(7, 1);
    let mut client = rig.client();
    watch(&mut client, 7).await;
    watch(&mut client, 7).await;
    let status = watch_error(&mut client, pid(7)).await;
    let limit = [("limit", "2")];
    assert_refused(&status, Code::ResourceExhausted, "TOO_MANY_WATCHES", &limit);
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_refuses_is_told() {
    let not_attached = |_| AllowError::NotAttached("no tracepoints here".to_owned());
    let beyond = |pid| AllowError::PidBeyondAllowList { pid, max_pid: 5 };
    let sockets = |pid| AllowError::Sockets {
        pid,
        source: io::ErrorKind::PermissionDenied.into(),
    };
    let precondition = Code::FailedPrecondition;
    type Case = (
        fn(u32) -> AllowError,
        Code,
        &'static str,
        &'static [(&'static str, &'static str)],
    );
    let cases: [Case; 3] = [
        (not_attached, precondition, "PROBES_NOT_ATTACHED", &[]),
        (
            beyond,
            precondition,
            "PID_BEYOND_ALLOW_LIST",
            &[("pid", "7"), ("max_pid", "5")],
        ),
        (
            sockets,
            Code::Internal,
            "SOCKETS_UNREADABLE",
            &[("pid", "7")],
        ),
    ];
    for (why, code, reason, metadata) in cases {
        let kernel = Box::new(RefusingKernel::new(KernelInfo::default(), why));
        let table = FakeKernel::new(0);
        let rig = Rig::on(kernel, table, Options::default(), Listeners::new());
        rig.processes.start(7, 1);
        let status = watch_error(&mut rig.client(), pid(7)).await;
        assert_refused(&status, code, reason, metadata);
    }
}

#[test]
fn a_process_that_cannot_be_looked_at_is_no_caller_s_fault() {
    let unreadable = FindError::Unreadable {
        pid: 7,
        source: io::ErrorKind::PermissionDenied.into(),
    };
    let pid = [("pid", "7")];
    assert_refused(
        &unreadable.into(),
        Code::Internal,
        "PROCESS_UNREADABLE",
        &pid,
    );
    let thread = FindError::Thread { pid: 7, leader: 5 };
    let metadata = [("pid", "7"), ("process", "5")];
    assert_refused(
        &thread.into(),
        Code::NotFound,
        "PROCESS_NOT_FOUND",
        &metadata,
    );
}

#[tokio::test(start_paused = true)]
async fn bad_unwatches_are_refused() {
    use unwatch_request::Selector::{Target, WatchId};
    let rig = Rig::new(Options::default());
    let mut client = rig.client();
    let invalid = Code::InvalidArgument;
    for selector in [None, Some(Target(v1::Target::default()))] {
        let status = unwatch_error(&mut client, selector).await;
        assert_refused(&status, invalid, "SELECTOR_MISSING", &[]);
    }
    let status = unwatch_error(&mut client, pid(0).map(Target)).await;
    assert_refused(&status, invalid, "PID_INVALID", &[("pid", "0")]);
    let status = unwatch_error(&mut client, Some(WatchId("w-1".into()))).await;
    let id = [("watch_id", "w-1")];
    assert_refused(&status, Code::NotFound, "WATCH_NOT_FOUND", &id);
    let status = unwatch_error(&mut client, pid(7).map(Target)).await;
    let selector = [("selector", "pid 7")];
    assert_refused(&status, Code::NotFound, "WATCH_NOT_FOUND", &selector);
    // A status travels in headers.
    let long = "x".repeat(4000);
    let named = Target(v1::Target::name(&long));
    for selector in [named, WatchId(long)] {
        let status = unwatch_error(&mut client, Some(selector)).await;
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().len() < 300, "{status}");
        let metadata = status.get_error_details_vec();
        assert!(format!("{metadata:?}").len() < 500, "{metadata:?}");
    }
}

// On the real clock: with a paused one, time would leap while the sockets work.
#[tokio::test]
async fn fault_11_two_owners_have_their_own_watches() {
    use unwatch_request::Selector::{Target, WatchId};
    let mut listeners = Listeners::new();
    let address = listeners.bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let rig = Rig::listening(Options::default(), listeners);
    rig.processes.start(7, 1);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut here = rig.client();
    let mut there = Client::new(endpoint.connect().await.unwrap());
    let ours = watch(&mut here, 7).await;
    let theirs = watch(&mut there, 7).await;

    let list = v1::ListWatchesRequest {};
    let watches = here.list_watches(list).await.unwrap().into_inner().watches;
    let owners: Vec<_> = watches.iter().map(|it| it.owner.as_str()).collect();
    assert_eq!(owners, ["in-process", "ip:127.0.0.1"]);
    assert_eq!(watches[0].processes, watches[1].processes);
    assert_eq!(watches[0].target, pid(7));
    assert!(watches[0].create_time.is_some());

    let status = unwatch_error(&mut there, Some(WatchId(ours.clone()))).await;
    let metadata = [("watch_id", ours.as_str()), ("owner", "in-process")];
    assert_refused(&status, Code::PermissionDenied, "NOT_THE_OWNER", &metadata);

    let selector = pid(7).map(Target);
    let ended = there
        .unwatch(v1::UnwatchRequest { selector })
        .await
        .unwrap();
    assert_eq!(ended.into_inner().watch_ids, [theirs]);
    assert!(rig.kernel.with(|it| it.allowed.contains_key(&7)));
    let selector = Some(WatchId(ours.clone()));
    let ended = here.unwatch(v1::UnwatchRequest { selector }).await.unwrap();
    assert_eq!(ended.into_inner().watch_ids, [ours]);
    assert!(rig.kernel.with(|it| it.allowed.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn bad_subscriptions_are_refused() {
    let mut options = Options::default();
    options.limits.max_subscribers = 2;
    let rig = Rig::new(options);
    let mut client = rig.client();
    let status = subscribe_error(&mut client, vec!["w-1".into(); 1025]).await;
    let limit = [("limit", "1024")];
    assert_refused(&status, Code::InvalidArgument, "TOO_MANY_WATCH_IDS", &limit);
    let status = subscribe_error(&mut client, vec!["w-5".into()]).await;
    let id = [("watch_id", "w-5")];
    assert_refused(&status, Code::NotFound, "WATCH_NOT_FOUND", &id);

    let all = v1::SubscribeRequest::default();
    let first = client.subscribe(all.clone()).await.unwrap();
    let _second = client.subscribe(all.clone()).await.unwrap();
    let status = subscribe_error(&mut client, vec![]).await;
    let limit = [("limit", "2")];
    let reason = "TOO_MANY_SUBSCRIBERS";
    assert_refused(&status, Code::ResourceExhausted, reason, &limit);

    // A stream that is dropped makes room.
    drop(first);
    tokio::time::sleep(Duration::from_millis(10)).await;
    client.subscribe(all).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_gets_what_it_asked_for() {
    let rig = Rig::new(Options::default());
    let mut client = rig.client();
    for process in 1..=3 {
        rig.processes.start(process, 1);
        watch(&mut client, process).await;
    }
    let watch_ids = vec!["w-3".to_owned(), "w-1".to_owned()];
    let request = subscription(watch_ids);
    let mut some = client.subscribe(request).await.unwrap().into_inner();
    let request = v1::SubscribeRequest::default();
    let mut all = client.subscribe(request).await.unwrap().into_inner();
    rig.kernel.traffic(3, 10, 20);

    let tick = some.message().await.unwrap().unwrap();
    let ids: Vec<_> = tick.samples.iter().map(|it| it.watch_id.as_str()).collect();
    assert_eq!(ids, ["w-1", "w-3"]);
    let sample = &tick.samples[1];
    assert_eq!((sample.sent_bytes, sample.received_bytes_total), (10, 20));
    assert!(tick.time.is_some() && tick.interval.is_some());
    let instance = tick.instance.unwrap();
    assert_eq!(instance.boot_id.len(), 36);
    assert!(instance.generation > 0);
    let tick = all.message().await.unwrap().unwrap();
    assert_eq!(tick.samples.len(), 3);

    // Idle is zeros; gone is a last sample, then none.
    rig.processes.exit(3);
    let tick = some.message().await.unwrap().unwrap();
    let states: Vec<_> = tick.samples.iter().map(v1::NetIoSample::state).collect();
    assert_eq!(
        states,
        [v1::ProcessState::Running, v1::ProcessState::Exited]
    );
    assert_eq!(tick.samples[0].sent_bytes_total, 0);
    let tick = some.message().await.unwrap().unwrap();
    assert_eq!(tick.samples.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn fault_02_a_stalled_reader_is_told_what_it_skipped_and_delays_nobody() {
    let mut options = Options::default();
    options.limits.stall_timeout = Duration::from_secs(60);
    let rig = Rig::new(options);
    rig.processes.start(7, 1);
    watch(&mut rig.client(), 7).await;
    // A window of less than a message, so that little is under way unread.
    let endpoint = Endpoint::from_static("http://in-process").initial_stream_window_size(64);
    let mut stalled = Client::new(rig.memory.connect(&endpoint));
    let request = v1::SubscribeRequest::default();
    let mut stalled = stalled
        .subscribe(request.clone())
        .await
        .unwrap()
        .into_inner();
    let mut quick = rig.client().subscribe(request).await.unwrap().into_inner();

    for sequence in 1..=50 {
        rig.kernel.traffic(7, 100, 1);
        let tick = quick.message().await.unwrap().unwrap();
        assert_eq!((tick.sequence, tick.skipped_ticks), (sequence, 0));
    }
    let (mut last, mut skipped) = (0, 0);
    let mut newest = v1::SubscribeResponse::default();
    while last < 50 {
        newest = stalled.message().await.unwrap().unwrap();
        assert_eq!(newest.sequence, last + newest.skipped_ticks + 1);
        last = newest.sequence;
        skipped += newest.skipped_ticks;
    }
    assert!(skipped > 40, "{skipped}");
    assert_eq!(newest.samples[0].sent_bytes_total, 5000);
    assert_eq!(newest.samples[0].received_bytes_total, 50);
    // The interval's own bytes are of one interval, whatever was skipped.
    assert_eq!(newest.samples[0].sent_bytes, 100);
}

#[tokio::test(start_paused = true)]
async fn the_collector_tells_about_itself() {
    let mut options = options(9);
    options.interval = Duration::from_millis(250);
    options.limits.max_connections = 77;
    let rig = Rig::new(options);
    let mut client = rig.client();
    let request = v1::SubscribeRequest::default();
    let _stream = client.subscribe(request).await.unwrap();
    let request = v1::GetCollectorInfoRequest {};
    let info = client
        .get_collector_info(request)
        .await
        .unwrap()
        .into_inner();
    let info = info.info.unwrap();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.hook_mode(), v1::HookMode::Tracepoint);
    assert_eq!(info.interval.unwrap().nanos, 250_000_000);
    assert_eq!(info.missed_events, Some(v1::MissedEvents::default()));
    assert_eq!((info.missed_ticks, info.subscribers), (0, 1));
    let limits = info.limits.unwrap();
    assert_eq!((limits.max_watches, limits.max_subscribers), (9, 1024));
    assert_eq!(limits.max_connections, 77);
    assert_eq!(limits.max_pid, 1 << 22);
    assert!(!info.kernel_release.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_hooks_there_is_no_greatest_pid() {
    let kernel = RefusingKernel::new(KernelInfo::default(), |_| {
        AllowError::NotAttached(String::new())
    });
    let rig = Rig::on(
        Box::new(kernel),
        FakeKernel::new(0),
        Options::default(),
        Listeners::new(),
    );
    let request = v1::GetCollectorInfoRequest {};
    let answer = rig.client().get_collector_info(request).await.unwrap();
    let info = answer.into_inner().info.unwrap();
    assert_eq!(info.hook_mode(), v1::HookMode::Unspecified);
    assert_eq!(info.limits.unwrap().max_pid, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_collector_says_so() {
    let mut rig = Rig::new(Options::default());
    let mut client = rig.client();
    let request = v1::SubscribeRequest::default();
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    rig.shutdown.cancel();
    let status = stream.message().await.unwrap_err();
    assert_refused(&status, Code::Unavailable, "SHUTTING_DOWN", &[]);
    rig.ended().await.unwrap();
    let status = client
        .list_watches(v1::ListWatchesRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}
