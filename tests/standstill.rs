//! A collector that stands still for seconds, as on a suspended or overloaded
//! machine: fewer ticks, the same bytes, and no rate that never was.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use netio::v1::{GetCollectorInfoRequest, SubscribeResponse};
use rustix::process::Signal;
use support::{Collector, Result, connection, next_tick, sample, skip, transfer};

const STANDSTILL: Duration = Duration::from_millis(3_300);
/// A transfer is made and then rested from.
const TRANSFER: usize = 1_013;
const REST: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread")]
async fn fault_23_a_stopped_collector_counts_on_and_tells_the_true_interval() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&[])?;
    let mut client = collector.connect().await?;
    let watch = support::watch(&mut client, std::process::id()).await?;
    let mut stream = support::subscribe(&mut client, &watch).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = thread::spawn({
        let stop = Arc::clone(&stop);
        move || send_until(&stop).map_err(|error| error.to_string())
    });

    let mut ticks = vec![next_tick(&mut stream).await?, next_tick(&mut stream).await?];
    collector.signal(Signal::STOP)?;
    let stopped = Instant::now();
    thread::sleep(STANDSTILL);
    let stood = stopped.elapsed();
    collector.signal(Signal::CONT)?;
    // A tick may have been under way before.
    let late = loop {
        let tick = next_tick(&mut stream).await?;
        ticks.push(tick.clone());
        if interval(&tick)? >= stood {
            break interval(&tick)?;
        }
        assert!(
            ticks.len() < 10,
            "no tick is as long as {stood:?}: {ticks:?}"
        );
    };
    let longest = stopped.elapsed() + Duration::from_secs(2);
    assert!(late < longest, "{late:?} and not {longest:?}");
    for _ in 0..3 {
        ticks.push(next_tick(&mut stream).await?);
    }
    stop.store(true, Relaxed);
    let sent = traffic.join().map_err(|_| "the traffic panicked")??;
    ticks.push(next_tick(&mut stream).await?);
    ticks.push(next_tick(&mut stream).await?);

    let mut before = None;
    let mut sum = 0;
    for tick in &ticks {
        assert!(before.is_none_or(|before| tick.sequence == before + 1));
        assert_eq!(tick.skipped_ticks, 0);
        before = Some(tick.sequence);
        let sample = sample(tick)?;
        sum += sample.sent_bytes;
        assert_eq!(sample.sent_bytes_total, sum);
        // More transfers than fit would be a rate that never was. One is under way
        // at each end, and the counters are read a moment after the clock.
        let most = interval(tick)?.as_millis() / REST.as_millis() + 4;
        assert!(
            u128::from(sample.sent_bytes) <= most * TRANSFER as u128,
            "{tick:?}"
        );
    }
    assert_eq!(sum, sent);
    let info = client
        .get_collector_info(GetCollectorInfoRequest {})
        .await?;
    let info = info.into_inner().info.ok_or("no info")?;
    // Up to half a second of it may have been before the next was due.
    assert!(info.missed_ticks >= 2, "{} missed ticks", info.missed_ticks);
    Ok(())
}

fn interval(tick: &SubscribeResponse) -> Result<Duration> {
    Ok(tick.interval.ok_or("a tick without interval")?.try_into()?)
}

/// How many bytes were sent.
fn send_until(stop: &AtomicBool) -> Result<u64> {
    let mut link = connection()?;
    let mut sent = 0;
    while !stop.load(Relaxed) {
        transfer(&mut link, TRANSFER)?;
        sent += TRANSFER as u64;
        thread::sleep(REST);
    }
    Ok(sent)
}
