//! `ticks`: how late a collector's ticks are.
//!
//! The service as it is shipped, ticking every 100 ms, tells it itself
//! (GetCollectorInfo): with nobody about, and with many subscribers on the same
//! machine. Beside it, with the same interval in this process: the runtime's own
//! timer; and, as the floor, a thread that sleeps until a time with the least slack
//! that the kernel allows. Each side has the machine for itself, in turn.

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use netio::v1::{
    GetCollectorInfoRequest, Percentiles, SubscribeRequest,
    net_io_service_client::NetIoServiceClient,
};
use rustix::thread::{ClockId, clock_nanosleep_absolute, set_current_timer_slack};
use tokio::task::JoinSet;

use crate::{
    report::{Goal, Report, Section},
    rounds::Rounds,
    service::Service,
};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The collector; else the one beside this program
    #[arg(long, value_name = "PROGRAM")]
    collector: Option<PathBuf>,
}

const INTERVAL: Duration = Duration::from_millis(100);
/// Rounds, and ticks of each side in a round.
const EXTENT: (usize, u32) = (5, 100);
const SHORT_EXTENT: (usize, u32) = (3, 20);
/// A collector serves so many by default, and a few more.
const CONNECTIONS: u32 = 4;
const STREAMS: u32 = 250;

/// The goals, in milliseconds.
const IDLE_P99: f64 = 1.0;
const BUSY_P99: f64 = 2.0;
/// The runtime's own timer, in multiples of the collector's lateness: the short
/// form's goal, which holds on any machine.
const TIMES_FINER: f64 = 2.0;

/// Milliseconds, a figure for each round.
#[derive(Default)]
struct Lateness {
    p50: Rounds,
    p99: Rounds,
    max: Rounds,
}

impl Lateness {
    fn round(&mut self, ticks: &Rounds) {
        self.p50.push(ticks.quantile(0.5));
        self.p99.push(ticks.quantile(0.99));
        self.max.push(ticks.quantile(1.0));
    }

    fn told(&mut self, told: Percentiles) -> Result<()> {
        let millis = |time: Option<prost_types::Duration>| {
            let time = Duration::try_from(time.context("no lateness")?)?;
            Ok::<_, anyhow::Error>(time.as_secs_f64() * 1e3)
        };
        self.p50.push(millis(told.p50)?);
        self.p99.push(millis(told.p99)?);
        self.max.push(millis(told.max)?);
        Ok(())
    }
}

pub(crate) fn run(arguments: &Arguments, short: bool) -> Result<Report> {
    let collector = match &arguments.collector {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("netio-collector"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let [mut floor, mut tokio, mut idle, mut busy, mut floor_again] =
        [(); 5].map(|()| Lateness::default());
    let (rounds, ticks) = if short { SHORT_EXTENT } else { EXTENT };
    for _ in 0..rounds {
        floor.round(&by_thread(ticks)?);
        tokio.round(&runtime.block_on(async { tokio::spawn(by_runtime(ticks)).await })?);
        idle.told(runtime.block_on(served(&collector, ticks, 0))?)?;
        busy.told(runtime.block_on(served(&collector, ticks, CONNECTIONS * STREAMS))?)?;
        floor_again.round(&by_thread(ticks)?);
    }
    let mut section = Section::new(
        format!("{ticks} ticks, {INTERVAL:?} apart: ms late"),
        &["p50, ms", "p99, ms", "worst, ms", "p50 ÷ the collector's"],
    );
    let subscribers = format!("the collector, {} subscribers", CONNECTIONS * STREAMS);
    for (side, late) in [
        ("the collector, nobody about", &idle),
        (subscribers.as_str(), &busy),
        ("tokio's sleep_until", &tokio),
        ("a thread, with 1 ns of slack", &floor),
    ] {
        let times = late.p50.times(&idle.p50);
        let cells = [&late.p50, &late.p99, &late.max, &times];
        section.row(side, &cells.map(Some));
    }
    let what = |who: &str| format!("ms, p99, {who}");
    section.goal(Goal::at_most(IDLE_P99, what("nobody about"), &idle.p99));
    section.goal(Goal::at_most(BUSY_P99, what(&subscribers), &busy.p99));
    let times = tokio.p50.times(&idle.p50);
    let what = "tokio's sleep_until ÷ the collector, p50";
    section.goal(Goal::at_least(TIMES_FINER, what, &times).gating());
    section.check_drift(&floor.p50, &floor_again.p50);
    Ok(Report::new("ticks", vec![section]))
}

/// How late a thread wakes that sleeps until a time.
fn by_thread(ticks: u32) -> Result<Rounds> {
    let slept = thread::spawn(move || {
        set_current_timer_slack(NonZeroU64::new(1)).context("set the timer slack")?;
        let monotonic = || rustix::time::clock_gettime(ClockId::Monotonic);
        let mut deadline = monotonic();
        let mut late = Rounds::default();
        for _ in 0..ticks {
            deadline = deadline
                .checked_add(rustix::time::Timespec::try_from(INTERVAL)?)
                .context("the end of time")?;
            clock_nanosleep_absolute(ClockId::Monotonic, &deadline).context("sleep")?;
            let after = monotonic()
                .checked_sub(deadline)
                .context("a clock that goes backwards")?;
            late.push(Duration::try_from(after)?.as_secs_f64() * 1e3);
        }
        Ok(late)
    });
    slept.join().map_err(|_| anyhow!("the thread panicked"))?
}

async fn by_runtime(ticks: u32) -> Rounds {
    let mut deadline = Instant::now();
    let mut late = Rounds::default();
    for _ in 0..ticks {
        deadline += INTERVAL;
        tokio::time::sleep_until(deadline.into()).await;
        late.push(deadline.elapsed().as_secs_f64() * 1e3);
    }
    late
}

/// What a new collector tells of its ticks after so many of them.
async fn served(collector: &Path, ticks: u32, subscribers: u32) -> Result<Percentiles> {
    let service = Service::start(collector)?;
    let mut readers = JoinSet::new();
    for _ in 0..subscribers / STREAMS {
        let channel = service.connect().await?;
        for _ in 0..STREAMS {
            let mut client = NetIoServiceClient::new(channel.clone());
            readers.spawn(async move {
                let request = SubscribeRequest::new(Vec::new());
                let mut ticks = client.subscribe(request).await?.into_inner();
                while ticks.message().await?.is_some() {}
                Ok::<_, tonic::Status>(())
            });
        }
    }
    tokio::time::sleep(INTERVAL * ticks).await;
    if let Some(ended) = readers.try_join_next() {
        ended??;
        return Err(anyhow!("a stream ended while ticks were counted"));
    }
    let mut client = NetIoServiceClient::new(service.connect().await?);
    let info = client
        .get_collector_info(GetCollectorInfoRequest {})
        .await?;
    let cost = info.into_inner().info.and_then(|info| info.own_cost);
    let cost = cost.context("the collector does not tell what it costs")?;
    cost.tick_lateness.context("no lateness of ticks")
}
