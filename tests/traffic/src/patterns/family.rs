//! The address families beside plain IPv4.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::Result;

use super::exchange;
use crate::driver::{Run, Unavailable};
use crate::link::{Link, LinkOptions};

pub(super) fn ipv6(run: &mut Run) -> Result<()> {
    over(run, Ipv6Addr::LOCALHOST)
}

/// AF_INET6 sockets whose packets are IPv4.
pub(super) fn v4_mapped(run: &mut Run) -> Result<()> {
    over(run, Ipv4Addr::LOCALHOST.to_ipv6_mapped())
}

fn over(run: &mut Run, address: Ipv6Addr) -> Result<()> {
    let address = SocketAddr::new(IpAddr::V6(address), 0);
    TcpListener::bind(address)
        .map_err(|error| Unavailable(format!("cannot listen on {address}: {error}")))?;
    run.ready_alone()?;
    let link = Link::with(LinkOptions {
        address,
        ..LinkOptions::IPV4
    })?;
    exchange(&run.tally, &link, 10 * run.scale)?;
    run.audit.link(&link)
}
