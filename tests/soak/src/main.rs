//! A soak: a collector, a thousand clients that connect, stall, reset and leave at
//! random, and ten that behave, for minutes.
//!
//! It starts the collector and the traffic by itself, from the programs that stand
//! beside it, and ends by itself. Contract:
//! - Each of the ten, half of them over TLS, gets every tick, with totals that grow by
//!   what the intervals tell and are in the end what the processes sent, to the byte.
//! - Whoever reads at all is told rightly how many ticks it skipped.
//! - The collector's memory is flat ([`judge`]), its descriptors go back to what they
//!   were, no watch is left of those that went, it does not panic, and ends in time.
//! - There was a load: clients of each kind, ticks, bytes.
//! - What the clients do is decided by the seed. When they do it is not.
//!
//! Prints progress and a summary. The exit code is 0 if all of that held.

#![forbid(unsafe_code)]

mod collector;
mod judge;
mod peers;
#[path = "../../support/puppets.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod puppets;
mod random;
#[path = "../../support/raw_http2.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod raw_http2;
mod site;
mod steady;
mod traffic;

use std::{
    env,
    error::Error,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::sleep;

use collector::Collector;
use judge::Samples;
use peers::Peers;
use site::Site;
use steady::Steady;
use traffic::Traffic;

type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The time that anything may take which should take moments.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the collector.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two lines of progress.
const LOOKS_PER_LINE: usize = 10;
/// Within so long a stop must be over.
const STOP: Duration = Duration::from_secs(5);
/// Clients that behave.
const STEADY: usize = 10;

/// Has a thousand clients come, stall, reset and leave, and ten that must not notice
#[derive(Parser)]
#[command(name = "netio-soak", version)]
struct Arguments {
    /// How long the clients keep at it
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(20..=7 * 24 * 3600))]
    seconds: u64,
    /// Clients that do not behave, at a time
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(200..=1000))]
    clients: u32,
    /// What decides what they do
    #[arg(long)]
    seed: u64,
}

fn main() -> ExitCode {
    match raise_file_limit().and_then(|()| soak(&Arguments::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "netio-soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A program that was built with this one.
fn binary(name: &str) -> PathBuf {
    env::current_exe().unwrap_or_default().with_file_name(name)
}

fn raise_file_limit() -> Result {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

fn soak(arguments: &Arguments) -> Result {
    println!(
        "{} clients for {} s, seed {}",
        arguments.clients, arguments.seconds, arguments.seed
    );
    let folder = tempfile::tempdir()?;
    let mut collector = Collector::start(folder.path())?;
    let done = run(arguments, &mut collector);
    // What it said is lost with the folder.
    done.map_err(|error| format!("{error}\n{}", collector.log_tail()).into())
}

fn run(arguments: &Arguments, collector: &mut Collector) -> Result {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let site = Arc::new(collector.site()?);
    let traffic = Traffic::start(arguments.seed)?;
    let (samples, steady) = runtime.block_on(load(arguments, collector, &site, traffic))?;
    runtime.shutdown_timeout(LOOK);
    samples.judge(arguments.clients)?;

    let stopping = Instant::now();
    let status = collector.terminate()?;
    let took = stopping.elapsed();
    if !status.success() || took > STOP {
        return Err(format!("the collector ended with {status} after {took:?}").into());
    }
    collector.check_log()?;
    println!(
        "well: {STEADY} clients had each of {} ticks and {} bytes, to the byte; {}; \
         the collector ended in {took:.1?}",
        steady.ticks, steady.bytes, samples
    );
    Ok(())
}

/// All that happens while the collector runs, up to the last look at it.
async fn load(
    arguments: &Arguments,
    collector: &mut Collector,
    site: &Arc<Site>,
    traffic: Traffic,
) -> Result<(Samples, steady::Told)> {
    let watches = site.watch_for_good(traffic.steady()).await?;
    traffic.begin();
    // Before the clients that behave, too, who leave first.
    let mut samples = Samples::new(collector.resident()?, collector.descriptors()?);
    let mut steady = Steady::start(site, &watches)?;
    steady.all_have_begun().await?;
    let mut peers = Peers::start(
        arguments.clients,
        arguments.seed,
        site,
        traffic.short_lived(),
    );

    let begin = Instant::now();
    let end = begin + Duration::from_secs(arguments.seconds);
    let mut looks = 0;
    while Instant::now() < end {
        sleep(LOOK.min(end.saturating_duration_since(Instant::now()))).await;
        collector.must_run()?;
        steady.must_be_well()?;
        traffic.must_be_well()?;
        peers.must_be_well()?;
        samples.take(collector.resident()?, collector.descriptors()?);
        looks += 1;
        if looks % LOOKS_PER_LINE == 0 {
            println!(
                "{:5} s: {}; {}",
                begin.elapsed().as_secs(),
                samples.now(),
                peers.summary()
            );
        }
    }
    // The truth is told while the others still are at it.
    let sent = traffic.stop()?;
    let told = steady.settle(&sent).await?;
    told.judge(arguments.seconds)?;
    println!("in all: {}", peers.summary());
    peers.stop().await?;
    samples.left_open(
        site.all_have_left(collector, &samples, watches.len())
            .await?,
    );
    drop(steady);
    Ok((samples, told))
}
