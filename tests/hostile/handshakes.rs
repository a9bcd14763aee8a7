//! TLS handshakes that are begun and not finished, or torn.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use netio::{
    Connect,
    v1::{ListWatchesRequest, net_io_service_client::NetIoServiceClient},
};
use tempfile::TempDir;

use super::{
    GROWTH, Steady, descriptors,
    support::{self, Collector, Result, program, servers::free_address, skip},
};

/// The first bytes of a ClientHello, and no more.
const BEGINNING: [u8; 7] = [0x16, 3, 1, 1, 0, 1, 0];

/// A collector on TLS too, with its log in a file, and how to reach it there.
pub struct Site {
    pub collector: Collector,
    pub address: SocketAddr,
    connect: Connect,
    _certs: TempDir,
}

impl Site {
    pub fn start() -> Result<Self> {
        let certs = tempfile::tempdir()?;
        let made = program("netio-collector")
            .args(["certs", "init"])
            .arg(certs.path())
            .args(["--host", "127.0.0.1"])
            .output()?;
        assert!(made.status.success(), "{made:?}");
        let at = |name: &str| certs.path().join(name).display().to_string();
        let address = free_address()?;
        let listen = format!("tls://{address}");
        let mut command = program("netio-collector");
        command.args([
            "--interval=100ms",
            "--listen",
            &listen,
            "--tls-cert",
            &at("server.pem"),
            "--tls-key",
            &at("server-key.pem"),
            "--tls-client-ca",
            &at("ca.pem"),
            "--grant",
            "watch cn=netio-client",
        ]);
        let collector = Collector::start_logged(command, tempfile::tempdir()?)?;
        let connect = Connect::to(listen)
            .tls_ca(at("ca.pem"))
            .tls_identity(at("client.pem"), at("client-key.pem"));
        Ok(Self {
            collector,
            address,
            connect,
            _certs: certs,
        })
    }

    /// A new client, with a handshake of its own; how long a call took it.
    pub async fn serves(&self) -> Result<Duration> {
        let begin = Instant::now();
        let call = async {
            let mut client = NetIoServiceClient::new(self.connect.channel().await?);
            client.list_watches(ListWatchesRequest {}).await?;
            Result::Ok(())
        };
        tokio::time::timeout(support::PATIENCE, call).await??;
        Ok(begin.elapsed())
    }
}

fn begin(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(&BEGINNING)?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_07_half_open_tls_handshakes_keep_nobody_out() -> Result {
    const HALF_OPEN: usize = 500;
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let site = Site::start()?;
    let steady = Steady::start(&site.collector).await?;
    site.serves().await?;
    let (before, open) = (site.collector.resident()?, descriptors(&site.collector)?);
    let held: Result<Vec<_>> = (0..HALF_OPEN).map(|_| begin(site.address)).collect();
    let held = held?;
    let took = site.serves().await?;
    // Before the first of them is given up for its age.
    assert!(took < Duration::from_secs(3), "{took:?}");
    let (most, held_in) = (descriptors(&site.collector)?, site.collector.resident()?);
    assert!(most <= open + 256 + 8, "{open}, then {most}");
    let begin = Instant::now();
    while descriptors(&site.collector)? > open {
        assert!(begin.elapsed() < support::PATIENCE, "they are not given up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = site.collector.resident()?;
    eprintln!("served after {took:?}; memory {before} B, {held_in} B, then {after} B");
    for memory in [held_in, after] {
        assert!(
            memory.saturating_sub(before) < GROWTH,
            "{before} to {memory}"
        );
    }
    drop(held);
    steady.end().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_06_resets_during_tls_handshakes_leave_it_serving() -> Result {
    const RESETS: u32 = 10_000;
    if skip(support::lacks_kernel()) {
        return Ok(());
    }
    let site = Site::start()?;
    let steady = Steady::start(&site.collector).await?;
    site.serves().await?;
    let (before, open) = (site.collector.resident()?, descriptors(&site.collector)?);
    let address = site.address;
    let flood = tokio::task::spawn_blocking(move || {
        let flood = || -> Result {
            for number in 0..RESETS {
                // Some before a byte, some within the ClientHello.
                let peer = match number % 3 {
                    0 => TcpStream::connect(address)?,
                    _ => begin(address)?,
                };
                // Closing it then sends RST.
                rustix::net::sockopt::set_socket_linger(peer.as_fd(), Some(Duration::ZERO))?;
            }
            Ok(())
        };
        flood().map_err(|error| error.to_string())
    });
    flood.await??;
    let took = site.serves().await?;
    let begin = Instant::now();
    while descriptors(&site.collector)? > open {
        assert!(
            begin.elapsed() < support::PATIENCE,
            "descriptors are not given back"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = site.collector.resident()?;
    eprintln!("served after {took:?}; memory {before} B, then {after} B");
    assert!(after.saturating_sub(before) < GROWTH, "{before} to {after}");
    steady.end().await?;
    Ok(())
}
