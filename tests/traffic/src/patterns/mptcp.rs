//! Multipath TCP, between two such sockets and with a plain TCP peer.
#![forbid(unsafe_code)]

use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, ipproto, socket_with};

use super::exchange;
use super::plain::join;
use crate::driver::{Run, Unavailable};
use crate::link::{Link, LinkOptions};
use crate::sys;
use crate::tally::end;

/// More than the buffers hold, so that both sides have to wait.
const BULK: usize = 500_000;

pub(super) fn both_ends(run: &mut Run) -> Result<()> {
    available()?;
    run.ready_alone()?;
    let link = Link::with(LinkOptions {
        listener: Some(ipproto::MPTCP),
        connector: Some(ipproto::MPTCP),
        ..LinkOptions::IPV4
    })?;
    ensure!(
        !sys::mptcp_fell_back(&link.near).context("read MPTCP_INFO")?,
        "the connection fell back to plain TCP"
    );
    traffic(run, &link)
}

/// One side asks for MPTCP, the other does not know it.
pub(super) fn fallback(run: &mut Run) -> Result<()> {
    available()?;
    run.ready_alone()?;
    let link = Link::with(LinkOptions {
        connector: Some(ipproto::MPTCP),
        ..LinkOptions::IPV4
    })?;
    ensure!(
        sys::mptcp_fell_back(&link.near).context("read MPTCP_INFO")?,
        "the connection did not fall back to plain TCP"
    );
    traffic(run, &link)?;
    // A plain peer makes an MPTCP listener accept a plain TCP socket.
    let link = Link::with(LinkOptions {
        listener: Some(ipproto::MPTCP),
        ..LinkOptions::IPV4
    })?;
    traffic(run, &link)
}

fn available() -> Result<()> {
    socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        Some(ipproto::MPTCP),
    )
    .map_err(|error| Unavailable(format!("cannot make an MPTCP socket: {error}")))?;
    Ok(())
}

fn traffic(run: &Run, link: &Link) -> Result<()> {
    let tally = &run.tally;
    exchange(tally, link, 5 * run.scale)?;
    let mut buffer = [0; 1000];
    for _ in 0..10 * run.scale {
        tally.send_all(&link.near, &[1; 1000])?;
        let peeked = tally
            .recv(&link.far, &mut buffer, RecvFlags::PEEK)
            .context("peek")?;
        ensure!(peeked > 0, "there was nothing to peek at");
        tally.recv_exact(&link.far, 1000)?;
    }
    for (sender, receiver) in [(&link.near, &link.far), (&link.far, &link.near)] {
        thread::scope(|scope| {
            let receiver = scope.spawn(|| tally.recv_to_end(receiver));
            let sent = tally
                .send_all(sender, &vec![2; BULK])
                .and_then(|()| end(sender));
            sent.and(join(vec![receiver]))
        })?;
    }
    Ok(())
}
