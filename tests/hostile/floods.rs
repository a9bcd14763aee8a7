//! The floods of HTTP/2 frames that servers have been brought down by.

use std::time::{Duration, Instant};

use super::{
    GROWTH, Steady,
    support::{self, Collector, Result, skip},
    wire::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING,
        PRIORITY, PROTOCOL_ERROR, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, call, frame, header,
    },
};

const WATCH: &str = "/netio.v1.NetIoService/Watch";
/// The most frames of one attack, and the time that it may go on.
const FRAMES: u32 = 200_000;
const LASTS: Duration = Duration::from_secs(10);
/// Each attack is made by at least so many connections, one after the other, and goes on
/// until the subscriber has had so many ticks meanwhile.
const CONNECTIONS: usize = 5;
const TICKS: u64 = 3;

/// What is sent over and over; gets the number of the round.
struct Flood {
    name: &'static str,
    /// Sent once before.
    begin: Vec<u8>,
    round: fn(u32) -> Vec<u8>,
    /// Rounds that go out in one write.
    at_once: u32,
}

fn stream_of(round: u32) -> u32 {
    2 * round + 1
}

fn reset(round: u32) -> Vec<u8> {
    let stream = stream_of(round);
    let mut frames = frame(HEADERS, END_HEADERS, stream, &call(WATCH));
    frames.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    frames
}

fn floods() -> Vec<Flood> {
    let open = frame(HEADERS, END_HEADERS, 1, &call(WATCH));
    let unended = frame(HEADERS, END_STREAM, 1, &call(WATCH));
    let flood = |name, begin: &[u8], at_once, round| Flood {
        name,
        begin: begin.to_vec(),
        round,
        at_once,
    };
    vec![
        // CVE-2023-44487
        flood("rapid reset, in bulk", &[], 100, reset),
        flood("rapid reset, one by one", &[], 1, reset),
        // CVE-2024-27316 and its kin
        flood("CONTINUATION without end", &unended, 100, |_| {
            frame(CONTINUATION, 0, 1, &header("x-more", "of the same"))
        }),
        flood("empty CONTINUATION without end", &unended, 100, |_| {
            frame(CONTINUATION, 0, 1, &[])
        }),
        // CVE-2019-9512
        flood("PING", &[], 100, |round| {
            frame(PING, 0, 0, &u64::from(round).to_be_bytes())
        }),
        flood("PING answers to nothing", &[], 100, |_| {
            frame(PING, ACK, 0, &[7; 8])
        }),
        // CVE-2019-9515
        flood("SETTINGS", &[], 100, |_| frame(SETTINGS, 0, 0, &[])),
        // CVE-2019-9518
        flood("empty DATA", &open, 100, |_| frame(DATA, 0, 1, &[])),
        flood("DATA of a byte", &open, 100, |_| frame(DATA, 0, 1, &[0])),
        flood("empty HEADERS", &[], 100, |round| {
            frame(HEADERS, END_HEADERS, stream_of(round), &[])
        }),
        flood("WINDOW_UPDATE", &[], 100, |_| {
            frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())
        }),
        // CVE-2019-9513
        flood("PRIORITY", &[], 100, |round| {
            frame(PRIORITY, 0, stream_of(round % 1000), &[0, 0, 0, 0, 7])
        }),
        flood("unknown frames", &[], 100, |_| frame(0xbe, 0, 0, &[])),
    ]
}

/// How it ends: the GOAWAY's reason, and after how many frames at most.
fn attack(collector: &Collector, flood: &Flood) -> Result<(Option<u32>, u32)> {
    let mut peer = Peer::connect(&collector.socket, &[])?;
    let begin = Instant::now();
    let mut goes_on = peer.send(&flood.begin)?;
    let mut round = 0;
    while goes_on {
        assert!(
            round < FRAMES && begin.elapsed() < LASTS,
            "{}: not ended after {round} rounds in {:?}",
            flood.name,
            begin.elapsed()
        );
        let rounds = round..round + flood.at_once;
        round = rounds.end;
        let frames: Vec<_> = rounds.flat_map(flood.round).collect();
        // Answers are never read meanwhile.
        goes_on = peer.send(&frames)?;
    }
    Ok((peer.end()?, round))
}

fn attack_in_every_way(collector: &Collector, steady: &Steady) -> Result {
    let first = collector.resident()?;
    for flood in floods() {
        let (before, ticks) = (collector.resident()?, steady.ticks());
        let begin = Instant::now();
        let (mut most, mut connections) = (before, 0);
        while connections < CONNECTIONS || steady.ticks() < ticks + TICKS {
            assert!(
                begin.elapsed() < LASTS,
                "{}: no ticks meanwhile",
                flood.name
            );
            let (reason, rounds) = attack(collector, &flood)?;
            let told = matches!(reason, Some(PROTOCOL_ERROR | ENHANCE_YOUR_CALM));
            assert!(told, "{}: GOAWAY {reason:?} after {rounds}", flood.name);
            most = most.max(collector.resident()?);
            connections += 1;
        }
        eprintln!(
            "{}: {connections} connections in {:?}, memory {before} B, at most {most} B",
            flood.name,
            begin.elapsed()
        );
        // In all attacks so far, not in each.
        let grown = most.saturating_sub(first);
        assert!(grown < GROWTH, "{}: {first} to {most}", flood.name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_08_http2_floods_end_in_goaway_with_flat_memory() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "100ms"])?;
    let steady = Steady::start(&collector).await?;
    let attacks = tokio::task::spawn_blocking(move || {
        let attacked = attack_in_every_way(&collector, &steady);
        (collector, steady, attacked.map_err(|it| it.to_string()))
    });
    let (collector, steady, attacked) = attacks.await?;
    attacked?;
    steady.end().await?;
    // And it serves on.
    collector.connect().await?;
    Ok(())
}
