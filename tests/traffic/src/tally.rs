//! The truth: sums of return values.
//!
//! Each send and receive of a pattern goes through a [`Tally`], which adds what
//! the call returned. Peeked bytes (MSG_PEEK) and the error queue are never
//! added, whoever asks.
#![forbid(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::pipe::{SpliceFlags, splice};

use crate::protocol::Bytes;

/// The largest single receive that [`Tally::recv_exact`] and
/// [`Tally::recv_to_end`] ask for.
const CHUNK: usize = 64 * 1024;

/// Sums up what one process sent and received; shared by its threads.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Tally {
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes {
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
        }
    }

    /// Adds the return value of a send call that was not made through here.
    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    /// Adds the return value of a receive call that was not made through here.
    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// Adds what another process, or a call yet to come, sends and receives.
    pub(crate) fn add(&self, bytes: Bytes) {
        self.sent.fetch_add(bytes.sent, Relaxed);
        self.received.fetch_add(bytes.received, Relaxed);
    }

    /// One send call.
    pub(crate) fn send(
        &self,
        socket: impl AsFd,
        data: &[u8],
        flags: SendFlags,
    ) -> io::Result<usize> {
        let sent = rustix::net::send(socket, data, flags)?;
        self.add_sent(sent);
        Ok(sent)
    }

    /// One receive call.
    pub(crate) fn recv(
        &self,
        socket: impl AsFd,
        buffer: &mut [u8],
        flags: RecvFlags,
    ) -> io::Result<usize> {
        let (_, received) = rustix::net::recv(socket, buffer, flags)?;
        if !flags.intersects(RecvFlags::PEEK | RecvFlags::ERRQUEUE) {
            self.add_received(received);
        }
        Ok(received)
    }

    /// Blocking sends until all of `data` is accepted.
    pub(crate) fn send_all(&self, socket: impl AsFd, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let sent = self
                .send(&socket, data, SendFlags::empty())
                .context("send")?;
            data = &data[sent..];
        }
        Ok(())
    }

    /// Blocking receives until `length` bytes have come.
    pub(crate) fn recv_exact(&self, socket: impl AsFd, length: usize) -> Result<()> {
        let mut buffer = vec![0; length.min(CHUNK)];
        let mut missing = length;
        while missing > 0 {
            let ask = missing.min(buffer.len());
            let received = self
                .recv(&socket, &mut buffer[..ask], RecvFlags::empty())
                .context("receive")?;
            ensure!(received > 0, "the stream ended {missing} bytes early");
            missing -= received;
        }
        Ok(())
    }

    /// Blocking receives until the other side has closed.
    pub(crate) fn recv_to_end(&self, socket: impl AsFd) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        while self
            .recv(&socket, &mut buffer, RecvFlags::empty())
            .context("receive")?
            > 0
        {}
        Ok(())
    }

    /// One splice out of a socket into a pipe, which is then emptied.
    pub(crate) fn splice_in(
        &self,
        socket: impl AsFd,
        pipe: &Pipe,
        length: usize,
        flags: SpliceFlags,
    ) -> io::Result<usize> {
        let received = splice(socket, None, &pipe.writer, None, length, flags)?;
        self.add_received(received);
        pipe.drain(received)?;
        Ok(received)
    }

    /// Splices until the other side has closed; the splice takes the FIN, too.
    pub(crate) fn splice_to_end(&self, socket: impl AsFd, pipe: &Pipe) -> Result<()> {
        while self
            .splice_in(&socket, pipe, CHUNK, SpliceFlags::empty())
            .context("splice from a socket")?
            > 0
        {}
        Ok(())
    }
}

/// Both ends of a pipe, of the default 64 KiB.
pub(crate) struct Pipe {
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
}

impl Pipe {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe()?;
        Ok(Self { reader, writer })
    }

    fn drain(&self, mut length: usize) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK.min(length)];
        while length > 0 {
            length -= rustix::io::read(&self.reader, buffer.as_mut_slice())?;
        }
        Ok(())
    }
}

/// Ends the sending direction.
pub(crate) fn end(socket: &TcpStream) -> Result<()> {
    rustix::net::shutdown(socket, Shutdown::Write).context("shut down the sending direction")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;

    #[test]
    fn counts_what_calls_return_and_nothing_peeked() {
        let link = Link::new().unwrap();
        let tally = Tally::default();
        tally.send_all(&link.near, &[1; 300]).unwrap();
        let mut buffer = [0; 1000];
        let peeked = tally.recv(&link.far, &mut buffer, RecvFlags::PEEK).unwrap();
        assert_eq!(peeked, 300);
        assert_eq!(
            tally.bytes(),
            Bytes {
                sent: 300,
                received: 0
            }
        );
        tally.recv_exact(&link.far, 100).unwrap();
        end(&link.near).unwrap();
        tally
            .splice_to_end(&link.far, &Pipe::new().unwrap())
            .unwrap();
        assert_eq!(
            tally.bytes(),
            Bytes {
                sent: 300,
                received: 300
            }
        );
    }
}
