//! Clients that mean harm, or act as if they did, against a real collector: what they do
//! costs nobody else a tick, and the collector neither memory nor descriptors. Each attack
//! is bounded, and on this host only.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    reason = "all of this is a test"
)]

#[path = "hostile/descriptors.rs"]
mod descriptors;
#[path = "hostile/floods.rs"]
mod floods;
#[path = "hostile/handshakes.rs"]
mod handshakes;
#[path = "hostile/stalled.rs"]
mod stalled;
mod support;
#[path = "hostile/wire.rs"]
mod wire;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use netio::v1::{
    GetCollectorInfoRequest, SubscribeResponse, net_io_service_client::NetIoServiceClient,
};
use support::{Collector, PATIENCE, Result, next_tick, subscribe};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{Streaming, transport::Channel};

/// What memory may grow by in a test: caches, and what the allocator keeps.
const GROWTH: u64 = 24 << 20;

/// Open descriptors.
fn descriptors(collector: &Collector) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", collector.pid()))?.count())
}

/// Processor time so far.
fn cpu(collector: &Collector) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", collector.pid()))?;
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    // utime and stime, in ticks of a hundredth of a second.
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

async fn subscribers(client: &mut NetIoServiceClient<Channel>) -> Result<u32> {
    let info = client
        .get_collector_info(GetCollectorInfoRequest {})
        .await?;
    Ok(info.into_inner().info.ok_or("no info")?.subscribers)
}

/// A subscriber that reads all the while, and misses nothing.
struct Steady {
    stop: oneshot::Sender<()>,
    ticks: Arc<AtomicU64>,
    reading: JoinHandle<std::result::Result<(), String>>,
}

impl Steady {
    /// Watches this process.
    async fn start(collector: &Collector) -> Result<Self> {
        let mut client = collector.connect().await?;
        let watch = support::watch(&mut client, std::process::id()).await?;
        let ticks = subscribe(&mut client, &watch).await?;
        let (stop, stopped) = oneshot::channel();
        let count = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&count);
        let reading = tokio::spawn(async move {
            let read = Self::read(ticks, &counted, stopped).await;
            read.map_err(|error| error.to_string())
        });
        Ok(Self {
            stop,
            ticks: count,
            reading,
        })
    }

    async fn read(
        mut ticks: Streaming<SubscribeResponse>,
        count: &AtomicU64,
        mut stopped: oneshot::Receiver<()>,
    ) -> Result {
        let mut last = next_tick(&mut ticks).await?.sequence;
        loop {
            count.fetch_add(1, Ordering::Relaxed);
            let tick = tokio::select! {
                tick = next_tick(&mut ticks) => tick?,
                _ = &mut stopped => return Ok(()),
            };
            if tick.sequence != last + 1 {
                return Err(format!("tick {} after {last}", tick.sequence).into());
            }
            last = tick.sequence;
        }
    }

    /// The ticks that it has had so far.
    fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Fails if it missed a tick.
    async fn end(self) -> Result {
        // It may have failed by then.
        let _ = self.stop.send(());
        Ok(tokio::time::timeout(PATIENCE, self.reading).await???)
    }
}
