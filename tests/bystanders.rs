//! What some do must not cost others: readers that stall, peers that say nothing,
//! limits that are reached, pids that are used again.

mod support;

use std::{
    env,
    io::Write as _,
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use netio::v1::{
    ListWatchesRequest, ProcessState, Target, WatchRequest,
    net_io_service_client::NetIoServiceClient,
};
use support::{
    Collector, PATIENCE, Result, next_tick, program, puppets::Puppets, raw_http2, reason, request,
    sample, servers::free_address, settled, skip, subscribe, unwatch, watch,
};
use tonic::Code;
use tonic_types::StatusExt as _;

/// A collector on its Unix socket and at this address, with its log in a file.
fn on_tcp(address: std::net::SocketAddr, arguments: &[&str]) -> Result<Collector> {
    let mut command = program("netio-collector");
    command.arg("--listen").arg(format!("tcp://{address}"));
    command.args(arguments);
    let collector = Collector::start_logged(command, tempfile::tempdir()?)?;
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < PATIENCE, "nobody listens at {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(collector)
}

/// Half of them have taken no more than a little; half would take all, and never look.
/// For the ten minutes of a long run: NETIO_STALL_SECONDS=600.
#[tokio::test(flavor = "multi_thread")]
async fn fault_01_a_hundred_clients_that_never_read_cost_little_and_delay_nobody() -> Result {
    const STALLED: usize = 100;
    /// A tick of so many watches is long: 100 queues of them would show.
    const WATCHES: usize = 100;
    const SETTLE: Duration = Duration::from_secs(5);
    const MIB: u64 = 1 << 20;
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let stall: u64 = env::var("NETIO_STALL_SECONDS").map_or(Ok(15), |it| it.parse())?;
    let address = free_address()?;
    // The history is full, and grows no more, before the memory is looked at.
    // Nor is anybody dropped before.
    let quick = ["--interval", "100ms", "--history", "2s"];
    let patient = ["--stall-timeout", "1h"];
    let collector = on_tcp(address, &[&quick[..], &patient].concat())?;
    let mut client = collector.connect().await?;
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        watches.push(watch(&mut client, std::process::id()).await?);
    }
    let mut steady = client
        .subscribe(netio::v1::SubscribeRequest::default())
        .await?
        .into_inner();
    next_tick(&mut steady).await?;
    let before = collector.resident()?;

    let mut by_unix = Vec::new();
    let mut by_tcp = Vec::new();
    for number in 0..STALLED {
        let window = if number % 2 == 0 {
            1_000
        } else {
            raw_http2::ALL
        };
        let subscriber = raw_http2::subscriber(window);
        if number % 4 < 2 {
            let mut stream = UnixStream::connect(&collector.socket)?;
            stream.write_all(&subscriber)?;
            by_unix.push(stream);
        } else {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(&subscriber)?;
            by_tcp.push(stream);
        }
    }
    let mut last = None;
    let mut bytes = 0;
    let mut peak = 0;
    let mut settled = None;
    let start = Instant::now();
    while start.elapsed() < SETTLE + Duration::from_secs(stall) {
        let tick = next_tick(&mut steady).await?;
        assert_eq!(tick.skipped_ticks, 0);
        assert!(last.is_none_or(|last| tick.sequence == last + 1));
        assert_eq!(tick.samples.len(), WATCHES);
        last = Some(tick.sequence);
        if start.elapsed() > SETTLE {
            // No list of lengths: this is about what a message takes at least.
            bytes += (WATCHES * 60) as u64;
            let now = collector.resident()?;
            settled.get_or_insert(now);
            peak = peak.max(now);
        }
    }
    let settled = settled.ok_or("no tick came")?;
    println!(
        "{STALLED} stalled readers: {} KiB each; then {} KiB more in {stall} s, in which each \
         left {} KiB unread",
        settled.saturating_sub(before) / STALLED as u64 / 1024,
        peak.saturating_sub(settled) / 1024,
        bytes / 1024,
    );
    // Of what they leave unread, not a tenth is kept.
    let most = MIB.max(bytes * STALLED as u64 / 10);
    assert!(peak < settled + most.min(8 * MIB), "{settled}, then {peak}");
    assert!(
        peak < before + STALLED as u64 * MIB / 2,
        "{before}, then {peak}"
    );
    drop((by_unix, by_tcp));
    Ok(())
}

#[tokio::test]
async fn fault_04_a_stop_waits_for_no_mute_peer_and_no_stalled_reader() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let address = free_address()?;
    let mut collector = on_tcp(address, &["--interval", "100ms"])?;
    let mut client = collector.connect().await?;
    let watch = watch(&mut client, std::process::id()).await?;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = subscribe(&mut client, &watch).await?;
        next_tick(&mut stream).await?;
        streams.push(stream);
    }
    // One says nothing, one not all of its beginning, one asks and never reads.
    let mute = UnixStream::connect(&collector.socket)?;
    let mut slow = TcpStream::connect(address)?;
    slow.write_all(b"PRI * HTTP/2.0\r\n")?;
    let mut stalled = TcpStream::connect(address)?;
    stalled.write_all(&raw_http2::subscriber(1_000))?;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let begin = Instant::now();
    collector.signal(rustix::process::Signal::TERM)?;
    for stream in &mut streams {
        let status = loop {
            match stream.message().await {
                Ok(tick) => assert!(tick.is_some(), "it ended without a status"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let info = status.get_details_error_info().ok_or("no reason")?;
        assert_eq!(info.reason, "SHUTTING_DOWN", "{status}");
    }
    let ended = collector.end()?;
    let took = begin.elapsed();
    assert!(ended.success(), "{ended}");
    assert!(took <= Duration::from_secs(5), "{took:?}");
    println!("it ended {took:.2?} after SIGTERM");
    let log = collector.log()?;
    let told = "stopped: cut off the connections that did not close";
    assert_eq!(log.matches(told).count(), 1, "{log}");
    drop((mute, slow, stalled));
    Ok(())
}

#[tokio::test]
async fn fault_12_past_the_limits_watches_are_refused_and_the_others_count_on() -> Result {
    const OF_OWNER: usize = 6;
    const IN_ALL: usize = 8;
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let address = free_address()?;
    let limits = ["--max-watches", "8", "--max-watches-per-owner", "6"];
    // Each refusal would be a line.
    let quick = ["--interval", "100ms", "--log", "error"];
    let collector = on_tcp(address, &[&quick[..], &limits].concat())?;
    let mut client = collector.connect().await?;
    let mut other = NetIoServiceClient::connect(format!("http://{address}")).await?;
    let mut puppets = Puppets::new()?;
    let pid = puppets.start()?;
    let own = || WatchRequest::new(Target::pid(pid));
    let mut watches = Vec::new();
    for _ in 0..OF_OWNER {
        watches.push(request(&mut client, own()).await?);
    }
    for _ in 0..20 {
        let refused = client.watch(own()).await;
        assert_eq!(reason(refused)?, "TOO_MANY_WATCHES_OF_OWNER");
    }
    // One owner's quota is not the other's.
    for _ in OF_OWNER..IN_ALL {
        watches.push(request(&mut other, own()).await?);
    }
    for _ in 0..20 {
        let refused = other.watch(own()).await;
        let status = refused.as_ref().err().ok_or("it was not refused")?;
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(reason(refused)?, "TOO_MANY_WATCHES");
    }
    let list = client.list_watches(ListWatchesRequest {}).await?;
    let listed = list.into_inner().watches.into_iter().map(|it| it.watch_id);
    let ids: Vec<_> = watches.iter().map(|it| it.watch_id.clone()).collect();
    assert_eq!(listed.collect::<Vec<_>>(), ids);

    // Those that were made count as if nothing had been.
    let mut streams = Vec::new();
    for watch in &watches {
        streams.push(subscribe(&mut client, watch).await?);
    }
    puppets.send(pid, 4_711)?;
    for stream in &mut streams {
        assert_eq!(settled(stream).await?.sent_bytes_total, 4_711);
    }
    // And an end makes room for one.
    unwatch(&mut client, &watches[0]).await?;
    request(&mut other, own()).await?;
    Ok(())
}

/// The kernel hands a pid out again: here at once, as where `kernel.pid_max` is small.
#[tokio::test]
async fn fault_13_who_has_a_pid_next_inherits_nothing() -> Result {
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let collector = Collector::start(&["--interval", "100ms"])?;
    let mut client = collector.connect().await?;
    let mut puppets = Puppets::new()?;
    let parent = puppets.start()?;
    let mut pid = puppets.fork(parent, None)?;
    let mut before = 0;
    for round in 1..=5_u64 {
        let watch = watch(&mut client, pid).await?;
        let start = watch.processes.first().ok_or("no process")?.start_time_ns;
        assert!(start > before, "{start} is not after {before}");
        before = start;
        let mut ticks = subscribe(&mut client, &watch).await?;
        next_tick(&mut ticks).await?;
        puppets.send(pid, 1_000 + round)?;
        puppets.exit(pid)?;
        // Its parent lets the pid go after an order.
        let begin = Instant::now();
        while Path::new(&format!("/proc/{pid}")).exists() {
            puppets.send(parent, 1)?;
            assert!(begin.elapsed() < PATIENCE, "pid {pid} is not free");
        }
        // It is out of sight before it is free, which it is when the parent goes on.
        puppets.send(parent, 1)?;
        // Start times are told in steps of 10 ms.
        std::thread::sleep(Duration::from_millis(20));
        let successor = puppets.fork(parent, Some(pid))?;
        assert_eq!(successor, pid);
        puppets.send(successor, 50_000)?;
        // The watch ends with its own process, with that one's bytes.
        loop {
            let tick = next_tick(&mut ticks).await?;
            let last = sample(&tick)?;
            assert_eq!(
                last.process.as_ref().map(|it| it.start_time_ns),
                Some(start)
            );
            if last.state() == ProcessState::Exited {
                assert_eq!(last.sent_bytes_total, 1_000 + round);
                break;
            }
        }
        puppets.send(successor, 50_000)?;
        let after = next_tick(&mut ticks).await?;
        assert!(after.samples.is_empty(), "{after:?}");
        pid = successor;
    }
    Ok(())
}
