//! The subscribers: opens streams, waits until all are open, and measures the
//! ticks that follow.

mod grpc;
mod raw;
mod record;

use std::{net::SocketAddr, process, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use tokio::{
    runtime,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    INTERVAL, next_tick, now, print,
    process::{cpu_time, resident},
};
use record::Record;

/// What `load` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where the server listens
    #[arg(long)]
    address: SocketAddr,
    /// The server's process, whose cost is told
    #[arg(long, value_name = "PID")]
    server: u32,
    /// What the server speaks
    #[arg(long, value_enum, default_value_t = Speech::Grpc)]
    speech: Speech,
    /// Streams in all
    #[arg(long, value_name = "N", default_value_t = 1)]
    streams: u32,
    /// Connections that share them evenly
    #[arg(long, value_name = "N", default_value_t = 1)]
    connections: u32,
    /// Distinct choices of watches among the streams
    #[arg(long, value_name = "N", default_value_t = 1)]
    filters: u32,
    /// The watches to choose from
    #[arg(long = "watch-id", value_name = "ID")]
    watch_ids: Vec<String>,
    /// Ticks to measure
    #[arg(long, value_name = "N", default_value_t = 5)]
    ticks: u32,
}

/// How messages come.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Speech {
    /// As streams of a gRPC server
    Grpc,
    /// One after the other on a TCP connection
    Raw,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Outcome {
    /// Messages of the measured ticks that came.
    messages: u64,
    /// Messages, of whatever tick, that came while the CPU time was measured.
    arrived: u64,
    /// Messages of the measured ticks that did not come, over all streams.
    skipped_ticks: u64,
    /// Ticks that the server said were skipped.
    told_skipped_ticks: u64,
    /// Length of a message, with its prefix, on average.
    message_bytes: f64,
    /// From a tick's time to its arrival: half came sooner.
    p50_us: u32,
    /// 99 of 100 came sooner.
    p99_us: u32,
    /// The last one.
    max_us: u32,
    /// The server's CPU time for the measured ticks, in nanoseconds.
    server_cpu_ns: u64,
    /// This process's.
    load_cpu_ns: u64,
    /// The server's resident memory before the first stream.
    resident_before: u64,
    /// And after the measured ticks.
    resident_after: u64,
}

/// Connections that are being opened at a time: the queue of a listener is short.
const OPENING: usize = 32;
/// All must be open after this time.
const OPENING_PATIENCE: Duration = Duration::from_secs(90);
/// Ticks before the measured ones, in which buffers find their size.
const WARM_UP: u32 = 1;
/// The measurement begins and ends so long before a tick, when messages of the
/// tick before have come.
const BEFORE_TICK: Duration = Duration::from_millis(50);
/// How often it is tried to begin in time.
const ATTEMPTS: u32 = 10;
/// Messages that are later than this after the last measured tick's interval do
/// not count.
const STRAGGLERS: Duration = Duration::from_secs(3);
/// How often it is looked whether all have come.
const LOOK: Duration = Duration::from_millis(50);

/// Measures, on one thread: the load shall not compete with the server for more
/// than one CPU.
pub(crate) fn load(arguments: &Arguments) -> Result<()> {
    let range = 1..=arguments.streams;
    ensure!(
        range.contains(&arguments.connections) && arguments.filters > 0,
        "there must be at least one connection, one stream on each, and one filter"
    );
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(measure(arguments))?;
    runtime.shutdown_background();
    print(&outcome)
}

async fn measure(arguments: &Arguments) -> Result<Outcome> {
    let resident_before = resident(arguments.server)?;
    let record = Arc::new(Record::new(arguments.streams * arguments.ticks));
    timeout(OPENING_PATIENCE, open(arguments, &record))
        .await
        .with_context(|| format!("after {OPENING_PATIENCE:?} not all streams are open"))??;

    let start = begin().await?;
    let end = start + arguments.ticks * INTERVAL;
    record.measure(start..end);
    let [server, own] = [cpu_time(arguments.server)?, cpu_time(process::id())?];
    sleep(end.saturating_sub(now())).await;
    record.stop_counting();
    let server_cpu = cpu_time(arguments.server)?.saturating_sub(server);
    let load_cpu = cpu_time(process::id())?.saturating_sub(own);
    while !record.is_full() && now() < end + STRAGGLERS {
        sleep(LOOK).await;
    }

    let measured = record.measured();
    Ok(Outcome {
        messages: measured.messages(),
        arrived: measured.arrived,
        skipped_ticks: u64::from(arguments.streams) * u64::from(arguments.ticks)
            - measured.messages(),
        told_skipped_ticks: measured.told_skipped_ticks,
        message_bytes: measured.bytes as f64 / measured.messages().max(1) as f64,
        p50_us: measured.percentile(50),
        p99_us: measured.percentile(99),
        max_us: measured.percentile(100),
        server_cpu_ns: server_cpu.as_nanos().try_into()?,
        load_cpu_ns: load_cpu.as_nanos().try_into()?,
        resident_before,
        resident_after: resident(arguments.server)?,
    })
}

/// Waits for a while before a tick in which the measurement may begin. On a machine
/// that is very busy it may come to that too late.
async fn begin() -> Result<Duration> {
    for _ in 0..ATTEMPTS {
        let start = next_tick(now()) + WARM_UP * INTERVAL - BEFORE_TICK;
        sleep(start.saturating_sub(now())).await;
        if now() < start + BEFORE_TICK {
            return Ok(start);
        }
    }
    bail!("the machine is too busy: {ATTEMPTS} times the load did not run when it was to")
}

/// Opens all connections with all their streams, which go on by themselves.
async fn open(arguments: &Arguments, record: &Arc<Record>) -> Result<()> {
    let places = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    let mut first = 0;
    for connection in 0..arguments.connections {
        // The first connections have one more, if they cannot be even.
        let more = u32::from(connection < arguments.streams % arguments.connections);
        let streams = first..first + arguments.streams / arguments.connections + more;
        first = streams.end;
        let place = Arc::clone(&places).acquire_owned().await?;
        let record = Arc::clone(record);
        let address = arguments.address;
        match arguments.speech {
            Speech::Grpc => {
                let choices = streams.map(|stream| choice(arguments, stream)).collect();
                opening.spawn(async move {
                    let opened = grpc::open(address, choices, record).await;
                    drop(place);
                    opened
                });
            }
            Speech::Raw => {
                let streams = streams.end - streams.start;
                opening.spawn(async move {
                    let opened = raw::open(address, streams, record).await;
                    drop(place);
                    opened
                });
            }
        }
        // The first that cannot be opened is enough to know.
        while let Some(opened) = opening.try_join_next() {
            opened??;
        }
    }
    while let Some(opened) = opening.join_next().await {
        opened??;
    }
    Ok(())
}

/// The watches that a stream asks for: all, or in the second filter all but the
/// first, and so on, in the manner of binary numbers.
fn choice(arguments: &Arguments, stream: u32) -> Vec<String> {
    let left_out = stream % arguments.filters;
    if left_out == 0 {
        return Vec::new();
    }
    let chosen = |index: usize| {
        left_out
            .checked_shr(index as u32)
            .is_none_or(|bits| bits & 1 == 0)
    };
    let ids = arguments.watch_ids.iter().enumerate();
    ids.filter(|(index, _)| chosen(*index))
        .map(|(_, id)| id.clone())
        .collect()
}
