//! `churn`: how fast watches come and go, and how soon they count.
//!
//! A collector of its own, the service as it is shipped, is called over its Unix
//! socket. Beside Watch and Unwatch stands the least that a call over that socket
//! can be: gRPC's own health check, answered without asking anybody.

mod first_byte;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use netio::v1::{
    Target, UnwatchRequest, WatchRequest, net_io_service_client::NetIoServiceClient,
    unwatch_request::Selector,
};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    report::{Report, Section},
    rounds::Rounds,
    service::{Service, Sleepers},
};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The collector; else the one beside this program
    #[arg(long, value_name = "PROGRAM")]
    collector: Option<PathBuf>,
}

const ROUNDS: usize = 9;
/// Calls of each kind in a round, one after the other.
const CALLS: usize = 1_000;
const CONNECTIONS: usize = 5;
/// Calls that are under way at a time on each connection.
const TASKS: usize = 10;
/// Processes that are watched.
const SLEEPERS: usize = 4;

pub(crate) fn run(arguments: &Arguments, short: bool) -> Result<Report> {
    let collector = match &arguments.collector {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("netio-collector"),
    };
    let rounds = if short { 3 } else { ROUNDS };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let sections = runtime.block_on(async {
        let service = Service::start(&collector)?;
        let channel = service.connect().await?;
        Ok::<_, anyhow::Error>(vec![
            one_by_one(channel.clone(), rounds).await?,
            many_at_a_time(&service, rounds).await?,
            first_byte::section(channel, if short { 5 } else { 50 }).await?,
        ])
    })?;
    Ok(Report::new("churn", sections))
}

/// The time that single calls take.
async fn one_by_one(channel: Channel, rounds: usize) -> Result<Section> {
    let sleepers = Sleepers::start(1)?;
    let pid = sleepers.pid(0);
    let mut client = NetIoServiceClient::new(channel.clone());
    let mut health = HealthClient::new(channel);
    let [mut bare, mut watches, mut unwatches, mut bare_again] = [(); 4].map(|()| Calls::default());
    for _ in 0..rounds {
        bare.round(checks(&mut health).await?);
        let (mut made, mut ended) = (Rounds::default(), Rounds::default());
        for _ in 0..CALLS {
            let start = Instant::now();
            let id = watch(&mut client, pid).await?;
            made.push(micros(start));
            let start = Instant::now();
            unwatch(&mut client, id).await?;
            ended.push(micros(start));
        }
        watches.round(made);
        unwatches.round(ended);
        bare_again.round(checks(&mut health).await?);
    }
    let mut section = Section::new(
        "one call at a time: µs for each",
        &["p50, µs", "p99, µs", "p50 ÷ a health check's"],
    );
    for (side, calls) in [
        ("health check", &bare),
        ("Watch a pid", &watches),
        ("Unwatch", &unwatches),
    ] {
        let times = calls.p50.times(&bare.p50);
        section.row(side, &[Some(&calls.p50), Some(&calls.p99), Some(&times)]);
    }
    section.check_drift(&bare.p50, &bare_again.p50);
    Ok(section)
}

/// Quantiles of each round's calls.
#[derive(Default)]
struct Calls {
    p50: Rounds,
    p99: Rounds,
}

impl Calls {
    fn round(&mut self, calls: Rounds) {
        self.p50.push(calls.quantile(0.5));
        self.p99.push(calls.quantile(0.99));
    }
}

async fn checks(health: &mut HealthClient<Channel>) -> Result<Rounds> {
    let mut calls = Rounds::default();
    for _ in 0..CALLS {
        let start = Instant::now();
        check(health).await?;
        calls.push(micros(start));
    }
    Ok(calls)
}

/// Calls a second, with many under way.
async fn many_at_a_time(service: &Service, rounds: usize) -> Result<Section> {
    let sleepers = Sleepers::start(SLEEPERS)?;
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(service.connect().await?);
    }
    let [mut bare, mut churned, mut bare_again] = [(); 3].map(|()| Rounds::default());
    for _ in 0..rounds {
        bare.push(check_rate(&channels).await?);
        churned.push(churn_rate(&channels, &sleepers).await?);
        bare_again.push(check_rate(&channels).await?);
    }
    let mut section = Section::new(
        format!("{CONNECTIONS} connections with {TASKS} calls under way on each: calls a second"),
        &["calls/s", "times the health checks"],
    );
    for (side, rate) in [("health checks", &bare), ("Watch and Unwatch", &churned)] {
        section.row(side, &[Some(rate), Some(&rate.times(&bare))]);
    }
    section.check_drift(&bare, &bare_again);
    Ok(section)
}

async fn check_rate(channels: &[Channel]) -> Result<f64> {
    rate(channels, |channel, _| async move {
        let mut health = HealthClient::new(channel);
        for _ in 0..CALLS / TASKS {
            check(&mut health).await?;
        }
        Ok(CALLS / TASKS)
    })
    .await
}

async fn churn_rate(channels: &[Channel], sleepers: &Sleepers) -> Result<f64> {
    rate(channels, |channel, task| {
        let pid = sleepers.pid(task);
        async move {
            let mut client = NetIoServiceClient::new(channel);
            for _ in 0..CALLS / TASKS / 2 {
                let id = watch(&mut client, pid).await?;
                unwatch(&mut client, id).await?;
            }
            Ok(CALLS / TASKS / 2 * 2)
        }
    })
    .await
}

/// Runs [`TASKS`] tasks on each connection; each tells how many calls it made.
async fn rate<F>(channels: &[Channel], task: impl Fn(Channel, usize) -> F) -> Result<f64>
where
    F: Future<Output = Result<usize>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for channel in channels {
        for number in 0..TASKS {
            tasks.spawn(task(channel.clone(), number));
        }
    }
    let mut calls = 0;
    while let Some(done) = tasks.join_next().await {
        calls += done.context("a caller panicked")??;
    }
    Ok(calls as f64 / start.elapsed().as_secs_f64())
}

async fn check(health: &mut HealthClient<Channel>) -> Result<()> {
    let request = HealthCheckRequest {
        service: String::new(),
    };
    health.check(request).await.context("health check")?;
    Ok(())
}

/// The new watch's id.
async fn watch(client: &mut NetIoServiceClient<Channel>, pid: u32) -> Result<String> {
    let made = client.watch(WatchRequest::new(Target::pid(pid))).await;
    let watch = made.context("Watch")?.into_inner().watch;
    Ok(watch.context("Watch answered nothing")?.watch_id)
}

async fn unwatch(client: &mut NetIoServiceClient<Channel>, watch_id: String) -> Result<()> {
    let request = UnwatchRequest {
        selector: Some(Selector::WatchId(watch_id)),
    };
    client.unwatch(request).await.context("Unwatch")?;
    Ok(())
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}
