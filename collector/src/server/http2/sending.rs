//! The sending side of a stream.
//!
//! Takes an answer's messages, hands them to the connection as the peer makes room.
//! Promises: no more than [`super::SEND_BUFFER`] of them wait in the connection; a peer
//! that makes no room is noticed after the time that it gets. A message up to [`WHOLE`]
//! is sent when there is room for all of it, unless the peer's window is small, so that a
//! reader that stalls can mostly be told by a status, which must not come amid a message.
//! Streams that wait for that do not keep the connection's room from each other.
#![forbid(unsafe_code)]

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use tokio::time::{Instant, timeout};
use tonic::Status;

/// Less than the windows that there are by default, all of which are of 64 KiB or more.
const WHOLE: usize = 4 * 1024;

/// So long a stream keeps a part of the room that it needs, at first and later.
const HOLD: Duration = Duration::from_millis(20);
const MAX_HOLD: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Sending {
    stream: SendStream<Bytes>,
    stall: Duration,
    /// The stream's window, as far as it matters; 0 if not known yet.
    window: usize,
    /// Part of a message was sent, and the rest was not.
    is_amid: bool,
}

/// Why a message was not sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The stream or its connection has ended.
    Closed,
    /// The peer has made no room.
    Stalled,
}

impl Sending {
    pub(super) fn new(stream: SendStream<Bytes>, stall: Duration) -> Self {
        Self {
            stream,
            stall,
            window: 0,
            is_amid: false,
        }
    }

    /// Sends a message if there is room for all of it now; or gives it back.
    pub(super) fn send_at_once(&mut self, message: Bytes) -> Result<(), Bytes> {
        self.look_at_window();
        if message.is_empty() {
            return Ok(());
        }
        self.stream.reserve_capacity(message.len());
        if self.stream.capacity() < message.len() {
            return Err(message);
        }
        // Fails where the stream has ended, which the next look at it tells.
        let _ = self.stream.send_data(message, false);
        Ok(())
    }

    fn look_at_window(&mut self) {
        if self.window == 0 {
            self.stream.reserve_capacity(2 * WHOLE);
            self.window = self.stream.capacity();
        }
    }

    /// Returns once the connection has taken all of the message. What is left when the
    /// future is dropped is never sent.
    pub(super) async fn send(&mut self, mut message: Bytes) -> Result<(), Unsent> {
        self.look_at_window();
        // Peers that have read everything may leave half of their window closed.
        let mut enough = message.len().min(WHOLE).min(self.window / 2).max(1);
        while !message.is_empty() {
            self.stream.reserve_capacity(message.len());
            let room = self.room(enough, message.len()).await?;
            let part = message.split_to(room.min(message.len()));
            self.is_amid = !message.is_empty();
            let sent = self.stream.send_data(part, false);
            sent.map_err(|_| Unsent::Closed)?;
            enough = 1;
        }
        Ok(())
    }

    /// Waits until there is room for `enough` of the `wanted` bytes, which are reserved.
    async fn room(&mut self, enough: usize, wanted: usize) -> Result<usize, Unsent> {
        let mut most = 0;
        let mut hold = HOLD;
        let mut since = Instant::now();
        loop {
            let room = self.stream.capacity();
            if room >= enough {
                return Ok(room);
            }
            if room > most {
                most = room;
                since = Instant::now();
            }
            let left = self.stall.saturating_sub(since.elapsed());
            let more = poll_fn(|cx| self.stream.poll_capacity(cx));
            match timeout(if room > 0 { hold.min(left) } else { left }, more).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) => return Err(Unsent::Closed),
                Err(_) if since.elapsed() >= self.stall => return Err(Unsent::Stalled),
                // What it has of the connection's window lacks others, whose parts it may
                // lack itself: first to them.
                Err(_) => {
                    self.stream.reserve_capacity(0);
                    self.stream.reserve_capacity(wanted);
                    hold = (2 * hold).min(MAX_HOLD);
                }
            }
        }
    }

    /// Waits until the peer has no more interest in the stream.
    pub(super) async fn closed(&mut self) {
        let _ = poll_fn(|cx| self.stream.poll_reset(cx)).await;
    }

    /// The end, as the service tells it.
    pub(super) fn end(mut self, trailers: Option<HeaderMap>) {
        // Fails if the stream has ended, which is as well.
        let _ = match trailers {
            Some(trailers) => self.stream.send_trailers(trailers),
            None => self.stream.send_data(Bytes::new(), true),
        };
    }

    /// Ends with a status; amid a message, where none can be read, with the reason.
    pub(super) fn fail(mut self, status: &Status, reason: Reason) {
        let mut trailers = HeaderMap::new();
        if self.is_amid || status.add_header(&mut trailers).is_err() {
            return self.stream.send_reset(reason);
        }
        // For other streams.
        self.stream.reserve_capacity(0);
        self.end(Some(trailers));
    }
}
