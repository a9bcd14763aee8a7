//! TCP Fast Open: data that travels in the SYN.
#![forbid(unsafe_code)]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrAny, SocketFlags, SocketType, connect, getsockname, sendto,
    socket_with,
};

use crate::audit::Left;
use crate::driver::{Run, Unavailable};
use crate::link::{self, LinkOptions};
use crate::sys;
use crate::tally::Tally;

const SETTING: &str = "/proc/sys/net/ipv4/tcp_fastopen";
/// Bits of the setting: for clients, for servers.
const BOTH_SIDES: u32 = 3;

/// Switches Fast Open on for both sides, and back when dropped.
struct Enabled {
    restore: Option<String>,
}

impl Enabled {
    fn new() -> Result<Self> {
        let value = fs::read_to_string(SETTING)
            .map_err(|error| Unavailable(format!("cannot read {SETTING}: {error}")))?;
        let bits: u32 = value.trim().parse().context("parse tcp_fastopen")?;
        if bits & BOTH_SIDES == BOTH_SIDES {
            return Ok(Self { restore: None });
        }
        fs::write(SETTING, (bits | BOTH_SIDES).to_string()).map_err(|error| {
            Unavailable(format!("{SETTING} is {bits} and cannot be set: {error}"))
        })?;
        Ok(Self {
            restore: Some(value),
        })
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        if let Some(value) = &self.restore
            && let Err(error) = fs::write(SETTING, value)
        {
            eprintln!("netio-traffic: cannot set {SETTING} back to {value}: {error}");
        }
    }
}

pub(super) fn fast_open(run: &mut Run) -> Result<()> {
    let _enabled = Enabled::new()?;
    run.ready_alone()?;
    let listener = link::listener(LinkOptions::IPV4)?;
    set_tcp_option(&listener, libc::TCP_FASTOPEN, 16).context("set TCP_FASTOPEN")?;
    let address = getsockname(&listener)?;
    let mut in_syn = 0;
    // The first connection has no cookie yet and sends its data after the SYN.
    for round in 0..10 * run.scale {
        let near = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        link::bound(&near)?;
        let length = 100 + round % 1000;
        if round % 2 == 0 {
            send_by_sendto(&run.tally, &near, &address, length)?;
        } else {
            send_after_connect(&run.tally, &near, &address, length)?;
        }
        let far = link::accepted(&listener)?;
        let near = TcpStream::from(near);
        run.tally.recv_exact(&far, length)?;
        run.tally.send_all(&far, &[2; 3000])?;
        run.tally.recv_exact(&near, 3000)?;
        run.tally.send_all(&near, &[3; 500])?;
        run.tally.recv_exact(&far, 500)?;
        in_syn += usize::from(sys::tcp_info(&near)?.options & sys::OPTION_SYN_DATA != 0);
        run.audit.socket(&near, Left::default())?;
        run.audit.socket(&far, Left::default())?;
    }
    ensure!(in_syn > 0, "no connection carried data in its SYN");
    run.note = Some(format!("{in_syn} connections carried data in the SYN"));
    Ok(())
}

fn set_tcp_option(socket: impl AsFd, name: i32, value: i32) -> std::io::Result<()> {
    sys::set_option(socket, libc::IPPROTO_TCP, name, &value)
}

fn send_by_sendto(
    tally: &Tally,
    near: &OwnedFd,
    address: &SocketAddrAny,
    length: usize,
) -> Result<()> {
    let address = SocketAddr::try_from(address.clone()).context("the listener's address")?;
    let fast_open = SendFlags::from_bits_retain(libc::MSG_FASTOPEN as u32);
    let sent = sendto(near, &[1; 2000][..length], fast_open, &address)
        .context("send with MSG_FASTOPEN")?;
    ensure!(sent == length, "{sent} of {length} bytes were sent");
    tally.add_sent(sent);
    Ok(())
}

/// The connect only remembers the address; the first send makes the SYN.
fn send_after_connect(
    tally: &Tally,
    near: &OwnedFd,
    address: &SocketAddrAny,
    length: usize,
) -> Result<()> {
    set_tcp_option(near, libc::TCP_FASTOPEN_CONNECT, 1).context("set TCP_FASTOPEN_CONNECT")?;
    connect(near, address).context("connect")?;
    tally.send_all(near, &[1; 2000][..length])
}
