//! Peers that begin a handshake and do not go on.

use std::{
    io::Write as _,
    net::TcpStream,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use super::*;

/// The first bytes of a ClientHello, and no more.
const BEGINNING: [u8; 7] = [0x16, 3, 1, 1, 0, 1, 0];

fn begin(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&BEGINNING).unwrap();
    stream
}

/// More than there may be at once; the last is held until the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_07_half_open_handshakes_keep_nobody_out() {
    const HALF_OPEN: usize = 500;
    const { assert!(HALF_OPEN > handshakes::MOST) };
    let site = Site::new(&[("c", Role::Observe)], None);
    let good = site.with(&site.ca.client("c"), "c");
    list(&good).await.unwrap();
    let address = site.address;
    let held = tokio::task::spawn_blocking(move || {
        let begun = (0..HALF_OPEN).map(|_| begin(address));
        begun.collect::<Vec<_>>()
    });
    let held = held.await.unwrap();
    assert_eq!(held.len(), HALF_OPEN);
    // While all of them stand: well before the first of their deadlines.
    let before = Instant::now();
    for _ in 0..5 {
        list(&good).await.unwrap();
    }
    let took = before.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    // The oldest have made room, the newest are still under way.
    let is_open = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]);
        peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let open = held.iter().filter(|it| is_open(it)).count();
    assert!((1..=handshakes::MOST).contains(&open), "{open}");
    assert!(!is_open(&held[0]) && is_open(&held[HALF_OPEN - 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_06_resets_during_handshakes_leave_it_serving() {
    let resets: u32 = match std::env::var("NETIO_TEST_RESETS") {
        Ok(resets) => resets.parse().unwrap(),
        Err(_) => 10_000,
    };
    let site = Site::new(&[("c", Role::Observe)], None);
    let good = site.with(&site.ca.client("c"), "c");
    let reader = Reader::start(&mut site.client("c").await).await;
    let address = site.address;
    let flood = tokio::task::spawn_blocking(move || {
        for number in 0..resets {
            // Some before a byte, some within the ClientHello.
            let peer = match number % 3 {
                0 => TcpStream::connect(address).unwrap(),
                _ => begin(address),
            };
            // Closing it then sends RST.
            let at_once = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(peer.as_fd(), at_once).unwrap();
        }
    });
    flood.await.unwrap();
    let mut new = Client::new(good.channel().await.unwrap());
    reader.goes_on(&mut new).await;
    assert!(!site.rig.collector.is_finished());
}
