//! A collector that has no descriptors left.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{
    Steady, cpu, descriptors,
    handshakes::Site,
    support::{self, Result, skip},
    wire::Peer,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_05_fd_exhaustion_costs_no_ticks_and_no_cpu_and_passes() -> Result {
    const SPARE: u64 = 16;
    const PEERS: usize = 100;
    const TOLD: &str = "cannot accept a connection";
    const LASTS: Duration = Duration::from_secs(3);
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let site = Site::start()?;
    let collector = &site.collector;
    let steady = Steady::start(collector).await?;
    let limit = descriptors(collector)? as u64 + SPARE;
    let pid = Pid::from_raw(i32::try_from(collector.pid())?).ok_or("no pid")?;
    let limits = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    prlimit(Some(pid), Resource::Nofile, limits)?;

    // They wait in the socket's queue once there is no descriptor for them.
    let peers: Result<Vec<_>> = (0..PEERS)
        .map(|_| Peer::connect(&collector.socket, &[]))
        .collect();
    let peers = peers?;
    let begin = Instant::now();
    while !collector.log()?.contains(TOLD) {
        assert!(begin.elapsed() < support::PATIENCE, "nothing is told");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let tls_peers: std::io::Result<Vec<_>> =
        (0..5).map(|_| TcpStream::connect(site.address)).collect();
    let tls_peers = tls_peers?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = cpu(collector)?;
    tokio::time::sleep(LASTS).await;
    let open = descriptors(collector)? as u64;
    assert!(open >= limit - 1, "{open} of {limit} are open");
    let used = cpu(collector)? - used;
    eprintln!("{used:?} of processor time in {LASTS:?}");
    assert!(used < LASTS / 5, "{used:?} in {LASTS:?}");

    drop((peers, tls_peers));
    let begin = Instant::now();
    let mut client = tokio::time::timeout(support::PATIENCE, collector.connect()).await??;
    support::watch(&mut client, std::process::id()).await?;
    site.serves().await?;
    eprintln!("served again after {:?}", begin.elapsed());
    steady.end().await?;
    // By each of the two listeners.
    let log = collector.log()?;
    for told in [TOLD, "connections are accepted again"] {
        assert_eq!(log.matches(told).count(), 2, "{told}: {log}");
    }
    Ok(())
}
