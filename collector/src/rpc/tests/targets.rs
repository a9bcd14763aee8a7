//! Watches by rules, children, leases: over real gRPC, on a kernel made of a
//! table.

use tonic::Streaming;

use super::*;
use crate::kernel::ProcessId;

async fn wish(client: &mut Client, request: v1::WatchRequest) -> Result<v1::Watch, Status> {
    let answer = client.watch(request).await?;
    Ok(answer.into_inner().watch.unwrap())
}

async fn list(client: &mut Client) -> Vec<v1::Watch> {
    let request = v1::ListWatchesRequest {};
    client
        .list_watches(request)
        .await
        .unwrap()
        .into_inner()
        .watches
}

fn name(name: &str) -> v1::WatchRequest {
    v1::WatchRequest::new(v1::Target::name(name))
}

fn pids(watch: &v1::Watch) -> Vec<u32> {
    watch.processes.iter().map(|it| it.pid).collect()
}

async fn next(stream: &mut Streaming<v1::SubscribeResponse>) -> v1::SubscribeResponse {
    stream.message().await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn all_that_match_are_counted_and_listed() {
    let rig = Rig::new(Options::default());
    for (pid, what) in [(8, "db"), (7, "db"), (9, "other")] {
        rig.processes.start_as(pid, u64::from(20 - pid), what, 1);
    }
    let mut client = rig.client();
    let watch = wish(&mut client, name("db")).await.unwrap();
    // The oldest first.
    assert_eq!(pids(&watch), [8, 7]);
    assert_eq!((watch.process_count, watch.follow_children), (2, false));
    let request = subscription(vec![watch.watch_id]);
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    for pid in [7, 8, 9] {
        rig.kernel.traffic(pid, 10, 1);
    }
    let sample = next(&mut stream).await.samples.remove(0);
    assert_eq!((sample.sent_bytes, sample.received_bytes_total), (20, 2));
    assert_eq!(sample.process.unwrap().pid, 8);
    assert!(sample.processes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_process_is_told_to_those_who_ask() {
    let rig = Rig::new(Options::default());
    for pid in [7, 8] {
        rig.processes.start_as(pid, u64::from(pid), "db", 1);
    }
    let mut client = rig.client();
    wish(&mut client, name("db")).await.unwrap();
    let request = v1::SubscribeRequest {
        per_process: true,
        ..v1::SubscribeRequest::default()
    };
    let mut each = client.subscribe(request).await.unwrap().into_inner();
    let request = v1::SubscribeRequest::default();
    let mut sums = client.subscribe(request).await.unwrap().into_inner();
    rig.kernel.traffic(8, 5, 0);
    let tick = next(&mut each).await;
    let parts = tick.samples[0].processes.iter();
    let parts: Vec<_> = parts
        .map(|it| (it.process.as_ref().unwrap().pid, it.sent_bytes))
        .collect();
    assert_eq!(parts, [(7, 0), (8, 5)]);
    assert_eq!(tick.map_full, Some(v1::MapFull::default()));
    let sum = next(&mut sums).await.samples.remove(0);
    assert!(sum.processes.is_empty());
    assert_eq!(sum.sent_bytes, 5);
}

#[tokio::test(start_paused = true)]
async fn nothing_matches_unless_one_waits() {
    let rig = Rig::new(Options::default());
    let mut client = rig.client();
    let status = wish(&mut client, name("db")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let reason = status.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "PROCESS_NOT_FOUND");
    assert!(status.message().contains("wait"), "{status}");
    assert!(list(&mut client).await.is_empty());

    let waiting = v1::WatchRequest {
        wait: true,
        ..name("db")
    };
    let watch = wish(&mut client, waiting).await.unwrap();
    assert_eq!(watch.process_count, 0);
    let request = v1::WatchRequest {
        wait: true,
        target: pid(7),
        life: None,
    };
    let status = wish(&mut client, request).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "WAIT_INVALID", &[]);
}

#[tokio::test(start_paused = true)]
async fn bad_selectors_and_leases_are_refused() {
    use target::Selector::{Cgroup, Container, Name, Port, Unit};
    let rig = Rig::new(Options::default());
    rig.processes.start(7, 1);
    let mut client = rig.client();
    for (selector, reason) in [
        (Name(String::new()), "NAME_INVALID"),
        (Port(0), "PORT_INVALID"),
        (Port(65536), "PORT_INVALID"),
        (Cgroup("relative".to_owned()), "CGROUP_INVALID"),
        (Unit("mariadb".to_owned()), "UNIT_INVALID"),
        (Container("xyz".to_owned()), "CONTAINER_INVALID"),
    ] {
        let status = watch_error(&mut client, Some(v1::Target::new(selector))).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let told = status.get_details_error_info().unwrap().reason;
        assert_eq!(told, reason, "{status}");
    }
    for (seconds, nanos) in [
        (0, 0),
        (0, 999_999_999),
        (-1, 0),
        (86_401, 0),
        (i64::MAX, 0),
    ] {
        let request = v1::WatchRequest {
            target: pid(7),
            wait: false,
            life: Some(Life::LeaseTtl(prost_types::Duration { seconds, nanos })),
        };
        let status = wish(&mut client, request).await.unwrap_err();
        assert_refused(&status, Code::InvalidArgument, "LEASE_INVALID", &[]);
    }
    assert!(list(&mut client).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_told_held_by_a_stream_and_runs_out_after_it() {
    let rig = Rig::new(Options::default());
    rig.processes.start(7, 1);
    let mut client = rig.client();
    let ttl = prost_types::Duration {
        seconds: 5,
        nanos: 0,
    };
    let request = v1::WatchRequest {
        life: Some(Life::LeaseTtl(ttl)),
        ..v1::WatchRequest::new(v1::Target::pid(7))
    };
    let leased = wish(&mut client, request.clone()).await.unwrap();
    let lease = leased.lease.unwrap();
    assert_eq!((lease.ttl, lease.held), (Some(ttl), false));
    let standing = v1::WatchRequest {
        life: Some(Life::Standing(true)),
        ..request
    };
    let standing = wish(&mut client, standing).await.unwrap();
    assert!(standing.lease.is_none());
    // A stream of everything holds nothing.
    let all = v1::SubscribeRequest::default();
    let _all = client.subscribe(all).await.unwrap();
    let request = subscription(vec![leased.watch_id.clone()]);
    let stream = client.subscribe(request).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let watches = list(&mut client).await;
    assert!(watches[0].lease.as_ref().unwrap().held);
    drop(stream);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(list(&mut client).await.len(), 2);
    let renewal = v1::RenewWatchesRequest {
        watch_ids: vec![leased.watch_id.clone(), standing.watch_id.clone()],
    };
    client.renew_watches(renewal.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(list(&mut client).await.len(), 2);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let left = list(&mut client).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].watch_id, standing.watch_id);
    let status = client.renew_watches(renewal).await.unwrap_err();
    let id = [("watch_id", leased.watch_id.as_str())];
    assert_refused(&status, Code::NotFound, "WATCH_NOT_FOUND", &id);
}

#[tokio::test(start_paused = true)]
async fn descendants_that_are_there_are_adopted_and_later_ones_born_into_the_watch() {
    let rig = Rig::new(Options::default());
    for (pid, name, parent) in [
        (7, "postgres", 1),
        (70, "postgres", 7),
        (700, "postgres", 70),
        (8, "other", 1),
        (80, "postgres", 8),
    ] {
        rig.processes.start_as(pid, u64::from(pid), name, parent);
    }
    let mut client = rig.client();
    // PostgreSQL serves each connection by a child: followed by default.
    let request = v1::WatchRequest::new(v1::Target::pid(7));
    let watch = wish(&mut client, request).await.unwrap();
    assert_eq!(pids(&watch), [7, 70, 700]);
    assert!(watch.follow_children);
    let born = ProcessId {
        tgid: 71,
        start_time_ns: 71,
    };
    rig.kernel.fork(7, born);
    rig.kernel.traffic(71, 10, 0);
    rig.kernel.traffic(700, 1, 0);
    let request = subscription(vec![watch.watch_id]);
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    let sample = next(&mut stream).await.samples.remove(0);
    assert_eq!((sample.sent_bytes, sample.process_count), (11, 4));

    let target = v1::Target::pid(7).following_children(false);
    let alone = wish(&mut client, v1::WatchRequest::new(target))
        .await
        .unwrap();
    assert_eq!(pids(&alone), [7]);
    assert!(!alone.follow_children);
    let request = v1::WatchRequest::new(v1::Target::pid(8));
    let other = wish(&mut client, request).await.unwrap();
    assert_eq!(pids(&other), [8]);
}

#[tokio::test(start_paused = true)]
async fn past_a_limit_nothing_is_left_behind() {
    let mut options = Options::default();
    options.limits.max_processes_per_watch = 2;
    options.limits.max_watches_per_owner = 2;
    let rig = Rig::new(options);
    for (pid, parent) in [(7, 1), (70, 7), (71, 7)] {
        rig.processes
            .start_as(pid, u64::from(pid), "postgres", parent);
    }
    let mut client = rig.client();
    let exhausted = Code::ResourceExhausted;
    let limit = [("limit", "2")];
    for target in [v1::Target::name("postgres"), v1::Target::pid(7)] {
        let status = watch_error(&mut client, Some(target)).await;
        assert_refused(&status, exhausted, "TOO_MANY_PROCESSES_OF_WATCH", &limit);
    }
    assert!(list(&mut client).await.is_empty());
    assert!(rig.kernel.with(|it| it.allowed.is_empty()));
    for _ in 0..2 {
        watch(&mut client, 70).await;
    }
    let status = watch_error(&mut client, pid(70)).await;
    assert_refused(&status, exhausted, "TOO_MANY_WATCHES_OF_OWNER", &limit);
}

#[tokio::test(start_paused = true)]
async fn children_that_cannot_be_followed_are_refused_if_asked_for() {
    let table = FakeKernel::new(4096).without_children();
    let kernel = Box::new(table.clone());
    let rig = Rig::on(kernel, table, Options::default(), Listeners::new());
    rig.processes.start_as(7, 1, "postgres", 1);
    rig.processes.start_as(70, 2, "postgres", 7);
    let mut client = rig.client();
    let target = v1::Target::pid(7).following_children(true);
    let status = watch_error(&mut client, Some(target)).await;
    assert_refused(
        &status,
        Code::FailedPrecondition,
        "CHILDREN_NOT_FOLLOWED",
        &[],
    );
    let request = v1::WatchRequest::new(v1::Target::pid(7));
    let watch = wish(&mut client, request).await.unwrap();
    assert_eq!((pids(&watch), watch.follow_children), (vec![7], false));
}

#[tokio::test(start_paused = true)]
async fn database_servers_are_discovered() {
    let rig = Rig::new(Options::default());
    rig.processes.start_as(7, 1, "mariadbd", 1);
    rig.processes.listen(7, 3306);
    rig.processes.start_as(8, 1, "bash", 1);
    let answer = rig.client().discover(v1::DiscoverRequest {}).await.unwrap();
    let found = answer.into_inner().databases;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].engine.as_str(), &found[0].ports[..]),
        ("MariaDB", &[3306][..])
    );
    assert_eq!(found[0].target, Some(v1::Target::port(3306)));
}

#[tokio::test(start_paused = true)]
async fn the_configurations_watches_are_there_from_the_start() {
    let options = Options {
        watches: vec![v1::Target::name("db")],
        ..Options::default()
    };
    let rig = Rig::new(options);
    let mut client = rig.client();
    let watches = list(&mut client).await;
    assert_eq!((watches.len(), watches[0].owner.as_str()), (1, "config"));
    assert!(watches[0].lease.is_none());
    let selector = Some(unwatch_request::Selector::WatchId("w-1".to_owned()));
    let status = unwatch_error(&mut client, selector).await;
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn one_that_has_just_exited_does_not_refuse_the_others() {
    let rig = Rig::new(Options::default());
    for pid in [7, 8] {
        rig.processes.start_as(pid, u64::from(pid), "db", 1);
    }
    let mut client = rig.client();
    watch(&mut client, 8).await;
    // It is found, and has exited when the watch is made.
    rig.kernel.exit(8);
    let watch = wish(&mut client, name("db")).await.unwrap();
    assert_eq!(pids(&watch), [7]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_the_cgroup_of_its_processes() {
    let rig = Rig::new(Options::default());
    rig.processes.start_as(7, 1, "db", 1);
    rig.processes.move_to(7, "/system.slice/db.service");
    let watch = wish(&mut rig.client(), name("db")).await.unwrap();
    assert_eq!(watch.processes[0].cgroup, "/system.slice/db.service");
}

#[tokio::test(start_paused = true)]
async fn without_hooks_nothing_waits_in_vain() {
    let kernel = RefusingKernel::new(KernelInfo::default(), |_| {
        AllowError::NotAttached("no hooks".to_owned())
    });
    let table = FakeKernel::new(1);
    let rig = Rig::on(
        Box::new(kernel),
        table,
        Options::default(),
        Listeners::new(),
    );
    let waiting = v1::WatchRequest {
        wait: true,
        ..name("db")
    };
    let status = wish(&mut rig.client(), waiting).await.unwrap_err();
    assert_refused(
        &status,
        Code::FailedPrecondition,
        "PROBES_NOT_ATTACHED",
        &[],
    );
}
