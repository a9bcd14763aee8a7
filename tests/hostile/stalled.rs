//! Subscribers that do not read.

use std::time::{Duration, Instant};

use netio::v1::SubscribeRequest;
use netio::v1::net_io_service_client::NetIoServiceClient;
use tonic::{Code, Request, transport::Endpoint};
use tonic_types::StatusExt as _;

use super::{
    GROWTH, Steady, descriptors, subscribers,
    support::{self, Collector, PATIENCE, Result, skip, subscribe},
    wire::{self, ALL, INITIAL_WINDOW_SIZE, Peer},
};

/// Streams of a connection whose peer takes everything by its windows, and reads nothing
/// (CVE-2019-9517); or opens no window.
fn never_reads(collector: &Collector, streams: u32, window: u32) -> Result<Peer> {
    let mut peer = Peer::connect(&collector.socket, &[(INITIAL_WINDOW_SIZE, window)])?;
    let mut frames = wire::take_all();
    for number in 0..streams {
        frames.extend(wire::subscribe(2 * number + 1));
    }
    assert!(peer.send(&frames)?);
    Ok(peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_01_readers_that_never_read_are_dropped_with_bounded_memory() -> Result {
    const CONNECTIONS: u32 = 4;
    const STREAMS: u32 = 120;
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "100ms", "--stall-timeout", "2s"])?;
    let steady = Steady::start(&collector).await?;
    let mut client = collector.connect().await?;
    // So that messages are of some size.
    let mut puppets = Vec::new();
    for _ in 0..20 {
        let puppet = Puppet::start()?;
        support::watch(&mut client, puppet.0.id()).await?;
        puppets.push(puppet);
    }
    let (before, open) = (collector.resident()?, descriptors(&collector)?);
    let mut peers = Vec::new();
    for connection in 0..CONNECTIONS {
        let window = if connection % 2 == 0 { ALL } else { 1_000 };
        peers.push(never_reads(&collector, STREAMS, window)?);
    }
    let begin = Instant::now();
    let mut most = 0;
    while subscribers(&mut client).await? != 1 + CONNECTIONS * STREAMS {
        assert!(begin.elapsed() < PATIENCE, "not all have subscribed");
    }
    while subscribers(&mut client).await? > 1 {
        assert!(begin.elapsed() < PATIENCE, "not all are dropped");
        most = most.max(collector.resident()?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = begin.elapsed();
    // The connections that took nothing are closed; the others took the streams' ends.
    while descriptors(&collector)? > open + CONNECTIONS as usize / 2 {
        assert!(begin.elapsed() < PATIENCE, "connections are not closed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("memory {before} B, at most {most} B; all dropped after {took:?}");
    assert!(
        most.saturating_sub(before) < 2 * GROWTH,
        "{before} to {most}"
    );
    drop(peers);
    steady.end().await?;
    Ok(())
}

/// A process to watch.
struct Puppet(std::process::Child);

impl Puppet {
    fn start() -> Result<Self> {
        let mut sleep = std::process::Command::new("sleep");
        Ok(Self(sleep.arg("60").spawn()?))
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two streams of one connection: one stalls, and is told so once it reads on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_01_a_stalled_stream_is_told_why_and_its_neighbour_reads_on() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "100ms", "--stall-timeout", "1s"])?;
    let narrow = Endpoint::from_shared(collector.endpoint())?.initial_stream_window_size(2048);
    let mut client = NetIoServiceClient::new(narrow.connect().await?);
    let watch = support::watch(&mut client, std::process::id()).await?;
    let mut stalled = subscribe(&mut client, &watch).await?;
    let mut neighbour = subscribe(&mut client, &watch).await?;
    let mut last = support::next_tick(&mut neighbour).await?.sequence;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        let tick = support::next_tick(&mut neighbour).await?;
        assert_eq!(tick.sequence, last + 1);
        last = tick.sequence;
    }
    assert_eq!(subscribers(&mut client).await?, 1);
    let mut messages = 0;
    let status = loop {
        match stalled.message().await {
            Ok(Some(_)) => messages += 1,
            Ok(None) => return Err("it ended without a status".into()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let info = status.get_details_error_info().ok_or("no reason")?;
    assert_eq!(info.reason, "READER_STALLED");
    assert!(messages > 2, "{messages}");
    support::next_tick(&mut neighbour).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_03_a_deadline_ends_a_stream_and_frees_its_lease() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "100ms", "--lease", "1s"])?;
    let mut client = collector.connect().await?;
    let watch = support::watch(&mut client, std::process::id()).await?;
    let mut request = Request::new(SubscribeRequest::new(vec![watch.watch_id.clone()]));
    request.set_timeout(Duration::from_secs(2));
    let begin = Instant::now();
    let mut ticks = client.subscribe(request).await?.into_inner();
    let status = loop {
        match ticks.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Err("it ended without a status".into()),
            Err(status) => break status,
        }
    };
    let took = begin.elapsed();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(3),
        "{took:?}"
    );
    while support::listed(&mut client, &watch).await?.is_some() {
        assert!(begin.elapsed() < PATIENCE, "the watch lives on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
