//! The sampler with a paused clock, no gRPC.

use prost::Message as _;
use tokio::{task::JoinHandle, time::advance};
use tokio_stream::StreamExt as _;

use super::*;
use crate::{
    Limits,
    hub::{HubOptions, Subscription, Wanted},
    kernel::fake::FakeKernel,
    processes::{Processes as _, Selector, fake::FakeProcesses},
    ticker::fake::FakeClock,
    watches::Follow,
};

mod clocks;
mod idle;

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(60);

struct Bench {
    kernel: FakeKernel,
    processes: FakeProcesses,
    commands: Commands,
    clock: Arc<FakeClock>,
    hub: Arc<Hub>,
    ticks: Subscription,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// Since the epoch: far enough for the wall clock to be set back by hours.
const START: Duration = Duration::from_millis(4 * 3_600_000 + 250);

/// A sampler that began a quarter of a second past the full one.
fn bench() -> Bench {
    let kernel = FakeKernel::new(64);
    let limits = Limits {
        max_watches: 32,
        ..Limits::default()
    };
    let hub = Arc::new(Hub::new(HubOptions {
        max_subscribers: 8,
        interval: SECOND,
        max_history: 60 * SECOND,
        max_history_bytes: 1 << 20,
        last_sequence: 0,
    }));
    let ticks = hub.subscribe(Wanted::default()).unwrap();
    let clock = Arc::new(FakeClock::at(START));
    let (sampler, commands) = Sampler::new(
        Watches::new(Box::new(kernel.clone()), limits),
        Arc::clone(&clock) as Arc<dyn Clock>,
        SECOND,
        Arc::clone(&hub),
        v1::CollectorInstance::default(),
    );
    let stop = CancellationToken::new();
    Bench {
        kernel,
        processes: FakeProcesses::default(),
        commands,
        clock,
        hub,
        ticks,
        running: tokio::spawn(sampler.run(stop.clone())),
        stop,
    }
}

impl Bench {
    async fn watch(&self, pid: u32) -> String {
        let watch = self.commands.watch(self.order(pid)).await;
        watch.unwrap().to_string()
    }

    fn order(&self, pid: u32) -> Order {
        Order {
            target: v1::Target::pid(pid),
            selector: Selector::Pid(pid),
            owner: "a".to_owned(),
            follow: Follow::Never,
            lease_ttl: Some(LEASE),
            wait: false,
            found: vec![self.processes.find(pid).unwrap()],
        }
    }

    async fn tick(&mut self) -> v1::SubscribeResponse {
        let message = self.ticks.next().await.unwrap();
        v1::SubscribeResponse::decode(message.encode_to_vec().as_slice()).unwrap()
    }
}

fn interval(tick: &v1::SubscribeResponse) -> Duration {
    tick.interval.unwrap().try_into().unwrap()
}

fn about(actual: Duration, milliseconds: u64) -> bool {
    actual.abs_diff(Duration::from_millis(milliseconds)) <= Duration::from_millis(2)
}

#[tokio::test(start_paused = true)]
async fn ticks_are_numbered_timed_and_measured() {
    let mut bench = bench();
    let first = bench.tick().await;
    assert_eq!(first.sequence, 1);
    assert_eq!(
        first.time.unwrap().seconds,
        START.as_secs().cast_signed() + 1
    );
    // Since the start.
    assert!(about(interval(&first), 750), "{first:?}");
    let second = bench.tick().await;
    assert_eq!(second.sequence, 2);
    assert_eq!(
        second.time.unwrap().seconds,
        START.as_secs().cast_signed() + 2
    );
    assert!(about(interval(&second), 1000), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_tick_tells_its_true_interval_and_is_counted() {
    let mut bench = bench();
    bench.tick().await;
    advance(Duration::from_millis(3200)).await;
    let late = bench.tick().await;
    assert_eq!(late.sequence, 2);
    assert!(about(interval(&late), 3200), "{late:?}");
    assert_eq!(bench.commands.vitals().await.unwrap().missed_ticks, 2);
    assert!(about(interval(&bench.tick().await), 800));
}

#[tokio::test(start_paused = true)]
async fn bytes_of_an_interval_and_in_all() {
    let mut bench = bench();
    bench.processes.start(7, 1);
    bench.tick().await;
    advance(Duration::from_millis(400)).await;
    bench.watch(7).await;
    bench.kernel.traffic(7, 30, 4);
    let sample = bench.tick().await.samples.remove(0);
    assert_eq!((sample.sent_bytes, sample.received_bytes), (30, 4));
    bench.kernel.traffic(7, 3, 0);
    let sample = bench.tick().await.samples.remove(0);
    assert_eq!((sample.sent_bytes, sample.sent_bytes_total), (3, 33));
    assert_eq!((sample.received_bytes, sample.received_bytes_total), (0, 4));
}

#[tokio::test(start_paused = true)]
async fn samples_come_in_the_order_of_their_watches() {
    let mut bench = bench();
    bench.processes.start(7, 1);
    let mut made = Vec::new();
    for _ in 0..12 {
        made.push(bench.watch(7).await);
    }
    let samples = bench.tick().await.samples;
    let sampled: Vec<_> = samples.into_iter().map(|it| it.watch_id).collect();
    assert_eq!(sampled, made);
}

#[tokio::test(start_paused = true)]
async fn an_exit_ends_counting_at_once_and_the_watch_at_the_tick() {
    let mut bench = bench();
    bench.processes.start(7, 1);
    bench.watch(7).await;
    bench.tick().await;
    bench.kernel.traffic(7, 5, 0);
    bench.processes.exit(7);
    // Long before the tick; any command is handled after the exit.
    tokio::time::sleep(Duration::from_millis(1)).await;
    bench.commands.vitals().await.unwrap();
    assert!(bench.kernel.with(|it| it.allowed.is_empty()));
    assert_eq!(bench.commands.list().await.unwrap().len(), 1);

    let last = bench.tick().await.samples.remove(0);
    assert_eq!(last.state(), v1::ProcessState::Exited);
    assert_eq!(last.sent_bytes, 5);
    assert!(bench.tick().await.samples.is_empty());
    assert!(bench.commands.list().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_caller_has_gone_does_not_stay() {
    let bench = bench();
    bench.processes.start(7, 1);
    let gone = bench.commands.watch(bench.order(7));
    let unanswered = tokio::time::timeout(Duration::ZERO, gone).await;
    assert!(unanswered.is_err());
    assert!(bench.commands.list().await.unwrap().is_empty());
    assert!(bench.kernel.with(|it| it.allowed.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_lease_runs_out_between_ticks_too() {
    let mut bench = bench();
    bench.processes.start(7, 1);
    bench.tick().await;
    let order = Order {
        lease_ttl: Some(Duration::from_millis(1_300)),
        ..bench.order(7)
    };
    let id = bench.commands.watch(order).await.unwrap().to_string();
    advance(Duration::from_millis(1_200)).await;
    let told = bench.commands.list().await.unwrap().remove(0);
    let left: Duration = told.lease.unwrap().remaining.unwrap().try_into().unwrap();
    assert!(about(left, 100), "{left:?}");
    let renewed = bench.commands.renew(vec![id], "a".to_owned()).await;
    renewed.unwrap();
    advance(Duration::from_millis(1_200)).await;
    assert_eq!(bench.commands.list().await.unwrap().len(), 1);
    advance(Duration::from_millis(110)).await;
    assert!(bench.commands.list().await.unwrap().is_empty());
    assert!(bench.kernel.with(|it| it.allowed.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_sampler_refuses_commands_and_lets_go_of_the_kernel() {
    let bench = bench();
    bench.stop.cancel();
    bench.running.await.unwrap();
    let refused = bench.commands.list().await.unwrap_err();
    assert!(matches!(refused, CommandError::ShuttingDown));
}

#[tokio::test(start_paused = true)]
async fn missed_events_are_in_the_ticks_soon_after() {
    let mut bench = bench();
    let missed = |tick: v1::SubscribeResponse| tick.missed_events.unwrap().recursion;
    assert_eq!(missed(bench.tick().await), None);
    bench.kernel.with(|state| state.missed.recursion = Some(5));
    let mut ticks = 1;
    while missed(bench.tick().await) != Some(5) {
        ticks += 1;
        assert!(ticks <= 12);
    }
}
