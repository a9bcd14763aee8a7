//! Traffic that is not TCP bytes, whatever its protocol number says.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto,
    socket_with,
};

use super::exchange;
use crate::driver::{Run, Unavailable};
use crate::link::{Link, TIMEOUT};

pub(super) fn raw_tcp_and_udp(run: &mut Run) -> Result<()> {
    // A raw socket with TCP's number: each packet for this host is copied to it.
    let raw = socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(ipproto::TCP),
    )
    .map_err(|error| Unavailable(format!("cannot make a raw socket: {error}")))?;
    run.ready_alone()?;
    for _ in 0..10 * run.scale {
        udp()?;
        unix()?;
    }
    let link = Link::new()?;
    exchange(&run.tally, &link, 1)?;
    let listener = link.far.local_addr()?;
    sendto(
        &raw,
        &stray_segment(listener),
        SendFlags::empty(),
        &listener,
    )
    .context("send on the raw socket")?;
    let mut packets = 0;
    let mut buffer = vec![0; 65_536];
    loop {
        match recv(&raw, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((_, length)) => packets += usize::from(length > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("receive on the raw socket"),
        }
    }
    ensure!(packets > 0, "the raw socket received nothing");
    run.note = Some(format!("the raw socket received {packets} packets"));
    run.audit.link(&link)
}

/// A TCP header without data, flags and checksum, which the receiver drops.
fn stray_segment(to: SocketAddr) -> [u8; 20] {
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&1_u16.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[12] = 5 << 4; // five words of header
    segment
}

fn udp() -> Result<()> {
    let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    far.set_read_timeout(Some(TIMEOUT))?;
    near.send_to(&[1; 3000], far.local_addr()?)
        .context("send by UDP")?;
    let length = far.recv(&mut [0; 4000]).context("receive by UDP")?;
    ensure!(length == 3000, "UDP delivered {length} of 3000 bytes");
    Ok(())
}

fn unix() -> Result<()> {
    let (mut near, mut far) = UnixStream::pair()?;
    near.write_all(&[1; 5000])?;
    far.set_read_timeout(Some(TIMEOUT))?;
    far.read_exact(&mut [0; 5000])
        .context("receive on a Unix socket")
}
