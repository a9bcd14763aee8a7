//! Watches that are asked for in numbers, of many processes, and by callers who go
//! away; with a paused clock and a kernel made of a table.

use std::sync::atomic::Ordering;

use tokio::{
    task::yield_now,
    time::{advance, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::*;
use crate::{
    Limits, Options,
    hub::{Hub, HubOptions},
    kernel::fake::FakeKernel,
    processes::fake::FakeProcesses,
    sampler::Sampler,
    server::rig::Rig,
    ticker::fake::FakeClock,
    watches::Watches,
};

const SECOND: Duration = Duration::from_secs(1);

fn named(rig: &Rig, processes: u32) -> v1::WatchRequest {
    for pid in 1..=processes {
        rig.processes.start_as(pid, 1, "db", 1);
    }
    v1::WatchRequest::new(v1::Target::name("db"))
}

async fn list(rig: &Rig) -> Vec<v1::Watch> {
    let request = v1::ListWatchesRequest {};
    let answer = rig.client().list_watches(request).await.unwrap();
    answer.into_inner().watches
}

#[tokio::test(start_paused = true)]
async fn of_many_processes_all_join_and_others_get_their_turn_meanwhile() {
    const PROCESSES: u32 = 1000;
    let rig = Rig::new(Options::default());
    let request = named(&rig, PROCESSES);
    let mut client = rig.client();
    let asked = tokio::spawn(async move { client.watch(request).await });
    let mut seen = BTreeSet::new();
    while !asked.is_finished() {
        seen.extend(list(&rig).await.iter().map(|it| it.process_count));
        yield_now().await;
    }
    let watch = asked.await.unwrap().unwrap().into_inner().watch.unwrap();
    assert_eq!(watch.process_count, PROCESSES);
    let between = seen.iter().filter(|count| (1..PROCESSES).contains(count));
    assert!(between.count() > 0, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn of_many_processes_all_join_or_none() {
    let mut options = Options::default();
    let limit = u32::try_from(2 * MAX_JOINS + 1).unwrap();
    options.limits.max_processes_per_watch = limit;
    let rig = Rig::new(options);
    let request = named(&rig, limit + 1);
    let refused = rig.client().watch(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(list(&rig).await, []);
    assert!(rig.kernel.with(|it| it.allowed.is_empty()));
    rig.processes.exit(1);
    rig.client().watch(request).await.unwrap();
    assert_eq!(list(&rig).await[0].process_count, limit);
}

#[tokio::test(start_paused = true)]
async fn few_look_at_once_and_the_others_wait_while_their_callers_do() {
    let rig = Rig::new(Options::default());
    let request = named(&rig, 3);
    let most = u32::try_from(MAX_SCANS).unwrap();
    let (now, at_most) = &*rig.processes.under_way;
    let closed = rig.processes.looking.close();
    let calls: Vec<_> = (0..20)
        .map(|turn| {
            let (mut client, request) = (rig.client(), request.clone());
            tokio::spawn(async move {
                if turn % 2 == 0 {
                    client.watch(request).await.map(drop)
                } else {
                    client.discover(v1::DiscoverRequest {}).await.map(drop)
                }
            })
        })
        .collect();
    for _ in 0..10_000 {
        if now.load(Ordering::SeqCst) == most {
            break;
        }
        yield_now().await;
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(now.load(Ordering::SeqCst), most);
    // One waits for its turn no longer than it said.
    let mut hasty = Request::new(request);
    hasty.set_timeout(SECOND);
    let mut client = rig.client();
    let hasty = tokio::spawn(async move { client.watch(hasty).await });
    while !hasty.is_finished() {
        advance(SECOND / 4).await;
        yield_now().await;
    }
    let late = hasty.await.unwrap().unwrap_err();
    assert!(
        matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded),
        "{late}"
    );
    drop(closed);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(at_most.load(Ordering::SeqCst), most);
    assert_eq!(list(&rig).await.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_answer_goes_unheard_does_not_stay() {
    let processes = FakeProcesses::default();
    processes.start_as(7, 1, "db", 1);
    let hub = Hub::new(HubOptions {
        max_subscribers: 1,
        interval: SECOND,
        max_history: SECOND,
        max_history_bytes: 0,
        last_sequence: 0,
    });
    let kernel = FakeKernel::new(Limits::default().slots());
    let (sampler, commands) = Sampler::new(
        Watches::new(Box::new(kernel.clone()), Limits::default()),
        Arc::new(FakeClock::at(SECOND)),
        SECOND,
        Arc::new(hub),
        v1::CollectorInstance::default(),
    );
    tokio::spawn(sampler.run(CancellationToken::new()));
    let enrolment = Enrolment::new(Arc::new(processes), commands.clone(), true);
    let mut making = Box::pin(enrolment.make(Wish {
        target: v1::Target::name("db"),
        selector: Selector::Name("db".to_owned()),
        owner: "a".to_owned(),
        wait: false,
        lease_ttl: None,
    }));
    // Until it is made, and then its answer is on the way.
    while commands.list().await.unwrap().is_empty() {
        assert!(timeout(Duration::ZERO, &mut making).await.is_err());
        sleep(Duration::from_millis(1)).await;
    }
    sleep(SECOND).await;
    assert_eq!(commands.list().await.unwrap().len(), 1);
    drop(making);
    sleep(Duration::from_millis(1)).await;
    assert!(commands.list().await.unwrap().is_empty());
    assert!(kernel.with(|it| it.allowed.is_empty()));
}
