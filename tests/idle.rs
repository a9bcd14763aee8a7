//! Probes that rest while nothing is watched: the kernel has no program of the
//! collector's then, and what is watched afterwards is exact to the byte, on
//! connections that lived through all of it.
//!
//! For modes that this kernel lacks, with the path of this test's program:
//!
//! ```sh
//! cargo xtask guest --kernel 6.1 --file target/debug/deps/idle-...:/bin/idle \
//!   --file target/debug/netio-collector:/bin/netio-collector -- idle --nocapture
//! ```

mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use netio::v1::{
    CollectorInfo, GetCollectorInfoRequest, HookMode, NetIoSample, ProbeState, Target,
    WatchRequest, net_io_service_client::NetIoServiceClient,
};
use support::{
    Collector, PATIENCE, Result, connection, copy_program, listed, settled, skip, subscribe,
    transfer, unwatch, watch,
};
use tonic::transport::Channel;

type Client = NetIoServiceClient<Channel>;

/// Times that the probes are let go of.
const ROUNDS: usize = 3;

#[tokio::test]
async fn probes_that_come_back_count_to_the_byte() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    for hooks in ["auto", "tracepoint", "fentry", "kprobe"] {
        let arguments = ["--interval", "200ms", "--hooks", hooks];
        let collector =
            Collector::start(&[&arguments[..], &["--detach-when-idle", "1s"]].concat())?;
        let mut client = collector.connect().await?;
        let first = info(&mut client).await?;
        let mode = first.hook_mode();
        if mode == HookMode::Unspecified {
            assert_ne!(hooks, "auto", "no mode attaches");
            eprintln!("skipping part of a test - lacks the mode {hooks}");
        } else if seen.insert(mode) {
            eprintln!("{mode:?}:");
            goes_and_comes(&collector, &mut client, first).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_rule_that_waits_keeps_them_and_hears_of_its_process() -> Result {
    const NAME: &str = "netio-idle-test";
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--detach-when-idle", "1s"])?;
    let mut client = collector.connect().await?;
    let first = info(&mut client).await?;
    rest(&collector, &mut client, &first).await?;
    let rule = WatchRequest::new(Target::name(NAME)).standing();
    let rule = support::request(&mut client, rule).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let attached = info(&mut client).await?;
    assert_eq!(attached.probe_state(), ProbeState::Attached);
    assert!(is_loaded(&attached));

    let folder = tempfile::tempdir()?;
    let program = folder.path().join(NAME);
    copy_program(Path::new("/bin/sleep"), &program)?;
    let started = Instant::now();
    let mut process = Command::new(&program).arg("60").spawn()?;
    let joined = async {
        loop {
            let listed = listed(&mut client, &rule).await?.ok_or("it is gone")?;
            if listed.process_count == 1 {
                return Ok(listed.processes[0].pid);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Before everything is looked at, whatever was told.
    let joined: Result<u32> = tokio::time::timeout(Duration::from_secs(5), joined).await?;
    eprintln!("joined {:?} after its start", started.elapsed());
    assert_eq!(joined?, process.id());
    process.kill()?;
    process.wait()?;
    unwatch(&mut client, &rule).await?;
    rest(&collector, &mut client, &attached).await?;
    Ok(())
}

async fn goes_and_comes(
    collector: &Collector,
    client: &mut Client,
    mut last: CollectorInfo,
) -> Result {
    let own = std::process::id();
    let mut old = connection()?;
    let mut queued = 0;
    let mut descriptors = BTreeSet::new();
    for round in 0..ROUNDS {
        // The probes rest, and nothing is left of them.
        descriptors.insert(rest(collector, client, &last).await?);

        // Meanwhile all goes on: what was queued is read, more is sent than read,
        // and a connection is made.
        receive(&mut old.1, queued)?;
        transfer(&mut old, 10_000 + round)?;
        let mut young = connection()?;
        transfer(&mut young, 2000)?;
        send(&mut old.0, 3000)?;
        receive(&mut old.1, 1000)?;
        send(&mut young.1, 500)?;

        let asked = Instant::now();
        let watched = watch(client, own).await?;
        eprintln!("  attached and watching after {:?}", asked.elapsed());
        let attached = info(client).await?;
        assert_eq!(attached.probe_state(), ProbeState::Attached);
        assert!(is_loaded(&attached), "{:?}", attached.programs);
        let mut ticks = subscribe(client, &watched).await?;

        // What was queued before the watch is received after it.
        receive(&mut old.1, 2000)?;
        receive(&mut young.0, 500)?;
        let sample = settled(&mut ticks).await?;
        assert_eq!(totals(&sample), (0, 2500), "round {round}");
        transfer(&mut old, 70_000)?;
        transfer(&mut young, 123)?;
        let mut newest = connection()?;
        transfer(&mut newest, 4567)?;
        queued = 1 + 777 * round;
        send(&mut old.0, queued)?;
        let sample = settled(&mut ticks).await?;
        let moved = 70_000 + 123 + 4567;
        let expected = (moved + queued as u64, moved + 2500);
        assert_eq!(totals(&sample), expected, "round {round}");
        let told = info(client).await?;
        let missed = told.missed_events.ok_or("no missed events")?;
        assert_eq!(missed.recursion.unwrap_or(0), 0);
        assert_eq!(missed.kretprobe.unwrap_or(0), 0);
        unwatch(client, &watched).await?;
        last = attached;
    }
    assert_eq!(descriptors.len(), 1, "they pile up: {descriptors:?}");
    Ok(())
}

/// Waits until the kernel has no program of the collector's, as it was told of
/// before; how many descriptors the collector has then.
async fn rest(collector: &Collector, client: &mut Client, before: &CollectorInfo) -> Result<usize> {
    let start = Instant::now();
    loop {
        let now = info(client).await?;
        let left = bpf_descriptors(collector)?;
        if now.probe_state() == ProbeState::Resting && !is_loaded(before) && left.is_empty() {
            assert_eq!(now.hook_mode(), before.hook_mode());
            assert_eq!(now.programs, []);
            return Ok(fs::read_dir(format!("/proc/{}/fd", collector.pid()))?.count());
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{left:?} of {:?}",
            now.probe_state()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn info(client: &mut Client) -> Result<CollectorInfo> {
    let answer = client
        .get_collector_info(GetCollectorInfoRequest {})
        .await?;
    Ok(answer.into_inner().info.ok_or("no info")?)
}

/// Whether the kernel has any of these programs.
fn is_loaded(info: &CollectorInfo) -> bool {
    let ours: BTreeSet<u32> = info.programs.iter().map(|it| it.program_id).collect();
    // One that goes while it is looked at is an error, and is not there.
    let mut all = loaded_programs().flatten();
    all.any(|program| ours.contains(&program.id()))
}

/// The collector's descriptors of programs, links, maps and events.
fn bpf_descriptors(collector: &Collector) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", collector.pid()))? {
        // Some close meanwhile.
        let Ok(link) = fs::read_link(entry?.path()) else {
            continue;
        };
        let link = link.to_string_lossy().into_owned();
        if link.contains("bpf") || link.contains("perf_event") || link.contains("btf") {
            found.push(link);
        }
    }
    Ok(found)
}

fn send(socket: &mut TcpStream, bytes: usize) -> Result {
    Ok(socket.write_all(&vec![7; bytes])?)
}

fn receive(socket: &mut TcpStream, bytes: usize) -> Result {
    Ok(socket.read_exact(&mut vec![0; bytes])?)
}

fn totals(sample: &NetIoSample) -> (u64, u64) {
    (sample.sent_bytes_total, sample.received_bytes_total)
}
