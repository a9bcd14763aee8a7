//! Loopback connections: both ends in this process, every blocking call bounded.
//!
//! A [`Link`]'s `near` end connected and its `far` end was accepted. No call on
//! either blocks for longer than [`TIMEOUT`]: it fails instead.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size, set_socket_send_buffer_size, set_socket_timeout,
};
use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, accept_with, bind, connect, getsockname,
    listen, socket_with,
};

use crate::sys;

/// The longest that a send or receive may block.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// A connection with both its ends.
pub(crate) struct Link {
    /// The end that connected.
    pub(crate) near: TcpStream,
    /// The end that was accepted.
    pub(crate) far: TcpStream,
}

/// What both ends of a link are made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkOptions {
    /// Where it listens; the port is chosen by the kernel.
    pub(crate) address: SocketAddr,
    /// The listener's protocol; none: TCP.
    pub(crate) listener: Option<Protocol>,
    /// The connecting side's protocol; none: TCP.
    pub(crate) connector: Option<Protocol>,
    /// SO_SNDBUF and SO_RCVBUF, in bytes.
    pub(crate) buffers: Option<usize>,
    /// TCP_MAXSEG, in bytes. Loopback's own of 64 KiB makes small buffers stall.
    pub(crate) max_segment: Option<i32>,
}

impl LinkOptions {
    /// Plain TCP over 127.0.0.1.
    pub(crate) const IPV4: Self = Self {
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        listener: None,
        connector: None,
        buffers: None,
        max_segment: None,
    };
}

impl Link {
    /// A plain link over 127.0.0.1.
    pub(crate) fn new() -> Result<Self> {
        Self::with(LinkOptions::IPV4)
    }

    pub(crate) fn with(options: LinkOptions) -> Result<Self> {
        let listener = listener(options)?;
        let near = connected(options, &listener)?;
        let far = accepted(&listener)?;
        Ok(Self { near, far })
    }
}

/// A socket connected to `listener`, which need not have accepted it yet.
pub(crate) fn connected(options: LinkOptions, listener: &OwnedFd) -> Result<TcpStream> {
    let near = socket(options, options.connector)?;
    bound(&near)?;
    connect(&near, &getsockname(listener)?).context("connect")?;
    Ok(TcpStream::from(near))
}

/// The next connection that `listener` has.
pub(crate) fn accepted(listener: &OwnedFd) -> Result<TcpStream> {
    let far = accept_with(listener, SocketFlags::CLOEXEC).context("accept")?;
    bound(&far)?;
    Ok(TcpStream::from(far))
}

/// A listening socket; accepted sockets inherit its buffers and segment size.
pub(crate) fn listener(options: LinkOptions) -> Result<OwnedFd> {
    let listener = socket(options, options.listener)?;
    bind(&listener, &options.address).with_context(|| format!("bind to {}", options.address))?;
    bound(&listener)?;
    listen(&listener, 16).context("listen")?;
    Ok(listener)
}

fn socket(options: LinkOptions, protocol: Option<Protocol>) -> Result<OwnedFd> {
    let family = if options.address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, protocol)
        .context("make a socket")?;
    if let Some(bytes) = options.buffers {
        set_socket_send_buffer_size(&socket, bytes).context("set SO_SNDBUF")?;
        set_socket_recv_buffer_size(&socket, bytes).context("set SO_RCVBUF")?;
    }
    if let Some(bytes) = options.max_segment {
        sys::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG, &bytes)
            .context("set TCP_MAXSEG")?;
    }
    Ok(socket)
}

/// Bounds how long calls on `socket` may block.
pub(crate) fn bound(socket: impl AsFd) -> io::Result<()> {
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
    Ok(set_socket_timeout(&socket, Timeout::Send, Some(TIMEOUT))?)
}
