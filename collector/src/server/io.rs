//! One connection, whatever it came over.
//!
//! Takes an accepted stream, produces what the gRPC server reads and writes,
//! and tells who is at the other end. Promises that the connection can be cut
//! off from outside, and that a peer which does not begin to speak HTTP/2 in
//! time loses it.
#![forbid(unsafe_code)]

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::{
    cork::{Cork, OpenStreams},
    transport::Transport,
};
use crate::access::Standing;

/// The bytes that every HTTP/2 client begins with (RFC 9113, 3.4). Once they
/// have come, the server's keepalive finds out whether the peer is still there.
const PREFACE_BYTES: usize = 24;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// What the connection itself tells of it.
    pub(crate) standing: Arc<Standing>,
    /// The connection's streams.
    pub(crate) connection: OpenStreams,
}

/// A peer that has not begun to speak yet.
struct Preface {
    missing_bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

/// See the module.
pub(super) struct Io {
    transport: Cork<Transport>,
    standing: Arc<Standing>,
    cut: CancellationToken,
    /// Wakes the connection's task when `cut` is cancelled.
    when_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// `None` once it has come.
    preface: Option<Preface>,
    /// Its place among the connections.
    _place: OwnedSemaphorePermit,
}

impl Io {
    /// The peer gets `preface` to begin to speak. `cut` is this connection's own
    /// token: it is looked at with every message. Called within a tokio runtime.
    pub(super) fn new(
        transport: Transport,
        standing: Standing,
        cut: CancellationToken,
        place: OwnedSemaphorePermit,
        preface: Duration,
    ) -> Self {
        Self {
            transport: Cork::new(transport, OpenStreams::default()),
            standing: Arc::new(standing),
            when_cut: Box::pin(cut.clone().cancelled_owned()),
            cut,
            preface: Some(Preface {
                missing_bytes: PREFACE_BYTES,
                deadline: Box::pin(sleep(preface)),
            }),
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

    /// What comes of a wait for bytes: an error once the deadline has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(preface) = &mut self.preface else {
            return Poll::Pending;
        };
        ready!(preface.deadline.as_mut().poll(cx));
        let why = "the peer has connected and not begun to speak";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }

    fn received(&mut self, bytes: usize) {
        if let Some(preface) = &mut self.preface {
            preface.missing_bytes = preface.missing_bytes.saturating_sub(bytes);
            if preface.missing_bytes == 0 {
                self.preface = None;
            }
        }
    }
}

impl Connected for Io {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer {
            standing: Arc::clone(&self.standing),
            connection: self.transport.streams().clone(),
        }
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
        let before = buf.filled().len();
        match Pin::new(&mut self.transport).poll_read(cx, buf) {
            Poll::Ready(result) => {
                self.received(buf.filled().len() - before);
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_deadline(cx),
        }
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
