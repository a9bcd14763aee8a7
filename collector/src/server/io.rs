//! One connection, whatever it came over.
//!
//! Takes an accepted stream, produces what the gRPC server reads and writes,
//! and tells who is at the other end. Promises that the connection can be cut
//! off from outside, and that a peer which sends more than it may ([`super::pace`]) is
//! not read any more.
#![forbid(unsafe_code)]

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    cork::{Cork, OpenStreams},
    pace::{Meter, Pace},
    proof::Proof,
    transport::Transport,
};
use crate::access::Standing;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// What the connection itself tells of it.
    pub(crate) standing: Arc<Standing>,
    pub(crate) proof: Arc<Proof>,
    /// The connection's streams.
    pub(crate) connection: OpenStreams,
}

/// See the module.
pub(super) struct Io {
    transport: Cork<Transport>,
    standing: Arc<Standing>,
    proof: Arc<Proof>,
    cut: CancellationToken,
    /// Wakes the connection's task when `cut` is cancelled.
    when_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    meter: Meter,
    /// Its place among the connections.
    _place: OwnedSemaphorePermit,
}

impl Io {
    /// `cut` is this connection's own token: it is looked at with every message.
    pub(super) fn new(
        transport: Transport,
        standing: Standing,
        proof: Proof,
        cut: CancellationToken,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            transport: Cork::new(transport, OpenStreams::default()),
            standing: Arc::new(standing),
            proof: Arc::new(proof),
            when_cut: Box::pin(cut.clone().cancelled_owned()),
            cut,
            meter: Meter::new(Instant::now()),
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

    pub(super) fn peer(&self) -> Peer {
        Peer {
            standing: Arc::clone(&self.standing),
            proof: Arc::clone(&self.proof),
            connection: self.transport.streams().clone(),
        }
    }

    pub(super) fn pace(&self) -> &Pace {
        self.meter.pace()
    }
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
        if self.pace().is_exceeded() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.transport).poll_read(cx, buf);
        if let Some(new) = buf.filled().get(before..)
            && !new.is_empty()
        {
            self.meter.read(new, Instant::now());
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
