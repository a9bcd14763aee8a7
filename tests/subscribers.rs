//! Many readers of one collector: a slow one costs nobody anything but itself.

mod support;

use std::time::Duration;

use netio::v1::net_io_service_client::NetIoServiceClient;
use support::{Collector, Result, connection, next_tick, sample, skip, subscribe, transfer};
use tonic::transport::Endpoint;

const STALL: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn fault_02_a_stalled_subscriber_is_told_what_it_skipped_and_delays_nobody() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "100ms"])?;
    let mut client = collector.connect().await?;
    let watch = support::watch(&mut client, std::process::id()).await?;
    let mut steady = subscribe(&mut client, &watch).await?;

    // A reader that accepts 2 KiB unread holds a few messages, not five seconds' worth.
    let narrow = Endpoint::from_shared(collector.endpoint())?
        .initial_stream_window_size(2048)
        .initial_connection_window_size(65_535);
    let mut narrow = NetIoServiceClient::new(narrow.connect().await?);
    let mut stalled = subscribe(&mut narrow, &watch).await?;
    next_tick(&mut stalled).await?;

    let traffic = std::thread::spawn(|| {
        let run = || -> Result {
            let mut link = connection()?;
            for _ in 0..100 {
                transfer(&mut link, 1_000)?;
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        };
        run().map_err(|error| error.to_string())
    });

    // The steady one reads all the while.
    let mut ticks = Vec::new();
    let deadline = tokio::time::Instant::now() + STALL;
    while tokio::time::Instant::now() < deadline {
        ticks.push(next_tick(&mut steady).await?);
    }
    for pair in ticks.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence + 1);
        assert_eq!(pair[1].skipped_ticks, 0);
    }
    assert!(ticks.len() > 40, "{} ticks in {STALL:?}", ticks.len());
    traffic.join().map_err(|_| "the traffic panicked")??;
    let last = support::settled(&mut steady).await?;
    assert_eq!(last.sent_bytes_total, 100_000);

    // The stalled one wakes: what it is sent next tells the gap, and adds up.
    let mut seen = 0;
    let mut skipped = 0;
    let mut previous = None;
    loop {
        let tick = next_tick(&mut stalled).await?;
        if let Some(previous) = previous {
            assert_eq!(tick.sequence, previous + 1 + tick.skipped_ticks);
        }
        previous = Some(tick.sequence);
        skipped += tick.skipped_ticks;
        seen += 1;
        let total = sample(&tick)?.sent_bytes_total;
        if let Some(same) = ticks.iter().find(|other| other.sequence == tick.sequence) {
            assert_eq!(total, sample(same)?.sent_bytes_total);
        }
        if total == 100_000 {
            break;
        }
    }
    assert!(skipped > 10, "told of {skipped} skipped ticks, seen {seen}");
    Ok(())
}
