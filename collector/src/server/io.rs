//! One connection, whatever it came over.
//!
//! Takes an accepted stream, produces what the gRPC server reads and writes,
//! and tells who is at the other end. Promises that the connection can be cut
//! off from outside, even if its peer is mute.
#![forbid(unsafe_code)]

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::OwnedSemaphorePermit,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// "uid:N", "ip:ADDRESS" or "in-process": the owner of the watches it makes.
    pub(crate) owner: String,
}

pub(super) enum Transport {
    Unix(UnixStream),
    Tcp(TcpStream),
    Memory(DuplexStream),
}

/// See the module.
pub(super) struct Io {
    transport: Transport,
    peer: Peer,
    cut: CancellationToken,
    /// Wakes the connection's task when `cut` is cancelled.
    when_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Its place among the connections.
    _place: OwnedSemaphorePermit,
}

impl Io {
    pub(super) fn new(
        transport: Transport,
        peer: Peer,
        cut: CancellationToken,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            transport,
            peer,
            when_cut: Box::pin(cut.clone().cancelled_owned()),
            cut,
            _place: place,
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.is_cancelled() {
            let why = "the collector has stopped";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        Ok(())
    }
}

impl Connected for Io {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Calls the same method of whichever stream it is.
macro_rules! on_transport {
    ($io:expr, $method:ident($($argument:expr),*)) => {
        match &mut $io.transport {
            Transport::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Memory(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A connection always waits to read, so it is woken here and finds out
        // in its pending writes too.
        let _ = self.when_cut.as_mut().poll(cx);
        self.check()?;
        on_transport!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        on_transport!(self, poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        on_transport!(self, poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Unix(stream) => stream.is_write_vectored(),
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        on_transport!(self, poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        on_transport!(self, poll_shutdown(cx))
    }
}
