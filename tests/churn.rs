//! Watches that come and go by the ten thousand a second disturb nobody's count.
//!
//! How fast that went is printed and not judged: a busy machine is no defect.

mod support;

use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use netio::v1::{
    ListWatchesRequest, Target, UnwatchRequest, WatchRequest,
    net_io_service_client::NetIoServiceClient, unwatch_request::Selector,
};
use support::{Collector, Result, connection, optimised_collector, skip, transfer};
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Ten seconds of 10,000 calls.
const CALLS: usize = 100_000;
const CONNECTIONS: usize = 5;
/// Calls that are under way at a time on each.
const TASKS: usize = 10;
/// Each pair is a Watch and its Unwatch.
const PAIRS: usize = CALLS / 2 / CONNECTIONS / TASKS;
/// Processes that are watched again and again.
const SLEEPERS: usize = 4;
/// Of the process that is watched all the while.
const TRANSFER: usize = 1_237;

/// Processes that do nothing; ended when dropped, or by themselves.
struct Sleepers(Vec<Child>);

impl Sleepers {
    fn start() -> Result<Self> {
        let mut sleepers = Self(Vec::new());
        for _ in 0..SLEEPERS {
            let sleeper = Command::new("sleep")
                .arg("600")
                .stdin(Stdio::null())
                .spawn()?;
            sleepers.0.push(sleeper);
        }
        Ok(sleepers)
    }

    fn pid(&self, number: usize) -> u32 {
        self.0[number % SLEEPERS].id()
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for sleeper in &mut self.0 {
            let _ = sleeper.kill();
            let _ = sleeper.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_17_a_hundred_thousand_calls_disturb_no_other_watch() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let sleepers = Sleepers::start()?;
    let collector = Collector::start_program(&optimised_collector(), &["--interval", "200ms"])?;
    let mut client = collector.connect().await?;
    // This process: its calls go over a Unix socket, which does not count.
    let watch = support::watch(&mut client, std::process::id()).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let traffic = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let run = || -> Result<u64> {
                let mut link = connection()?;
                let mut bytes = 0;
                while !stop.load(Relaxed) {
                    transfer(&mut link, TRANSFER)?;
                    bytes += TRANSFER as u64;
                    thread::sleep(Duration::from_micros(200));
                }
                Ok(bytes)
            };
            run().map_err(|error| error.to_string())
        }
    });
    let start = Instant::now();
    let churned = churn(&collector, &sleepers).await;
    let elapsed = start.elapsed().as_secs_f64();
    stop.store(true, Relaxed);
    let bytes = traffic.join().map_err(|_| "the traffic panicked")??;
    let calls = churned?;
    println!(
        "{calls} calls of Watch and Unwatch in {elapsed:.1} s: {:.0} a second",
        calls as f64 / elapsed
    );
    assert_eq!(calls, PAIRS * 2 * CONNECTIONS * TASKS);
    assert!(bytes > 0, "nothing was sent meanwhile");
    let mut ticks = support::subscribe(&mut client, &watch).await?;
    let sample = support::settled(&mut ticks).await?;
    assert_eq!(sample.sent_bytes_total, bytes);
    assert_eq!(sample.received_bytes_total, bytes);
    // Nothing is left of all those.
    let list = client.list_watches(ListWatchesRequest {}).await?;
    let ids = list.into_inner().watches.into_iter().map(|it| it.watch_id);
    assert_eq!(ids.collect::<Vec<_>>(), [watch.watch_id]);
    Ok(())
}

/// All the calls; how many there were. Each must succeed.
async fn churn(collector: &Collector, sleepers: &Sleepers) -> Result<usize> {
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = collector.connect().await?;
        for task in 0..TASKS {
            tasks.spawn(come_and_go(client.clone(), sleepers.pid(task)));
        }
    }
    let mut calls = 0;
    while let Some(done) = tasks.join_next().await {
        calls += done??;
    }
    Ok(calls)
}

async fn come_and_go(
    mut client: NetIoServiceClient<Channel>,
    pid: u32,
) -> std::result::Result<usize, String> {
    let mut calls = 0;
    for _ in 0..PAIRS {
        let watched = client.watch(WatchRequest::new(Target::pid(pid))).await;
        let watched = watched.map_err(|status| format!("Watch: {status}"))?;
        calls += 1;
        let watch = watched.into_inner().watch.ok_or("Watch answered nothing")?;
        let request = UnwatchRequest {
            selector: Some(Selector::WatchId(watch.watch_id.clone())),
        };
        let ended = client.unwatch(request).await;
        let ended = ended.map_err(|status| format!("Unwatch: {status}"))?;
        calls += 1;
        if ended.into_inner().watch_ids != [watch.watch_id.as_str()] {
            return Err(format!("Unwatch ended others than {}", watch.watch_id));
        }
    }
    Ok(calls)
}
