//! The second opinion: what TCP_INFO says of the same sockets.
//!
//! [`Audit::socket`] takes a socket that is about to be closed, waits until all
//! it sent is acknowledged, and adds its counters; [`Audit::compare`] fails if
//! they differ from the sum of return values.
//!
//! The figures are `bytes_sent - bytes_retrans`, which leave out SYN and FIN,
//! and `bytes_received`, which is the advance of the receive sequence and thus
//! one too many once a FIN has arrived. (`bytes_acked` is not used: it counts
//! SYN and FIN of one side but not of the other.)
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::protocol::Bytes;
use crate::sys;

/// How long a socket may take to get all it sent acknowledged.
const SETTLE: Duration = Duration::from_secs(10);

/// How the receiving side of a socket was left.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    /// The other side's FIN has arrived.
    pub(crate) fin: bool,
    /// Bytes that arrived and that no call has delivered.
    pub(crate) unread: u64,
}

impl Left {
    /// The other side had closed.
    pub(crate) const FIN: Self = Self {
        fin: true,
        unread: 0,
    };
}

/// Sums up TCP_INFO over a pattern's sockets.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    used: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Audit {
    /// Adds a socket that nothing more will be sent or received on.
    pub(crate) fn socket(&self, socket: impl AsFd, left: Left) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        let info = loop {
            let info = sys::tcp_info(&socket).context("read TCP_INFO")?;
            if info.unacked == 0 && info.notsent_bytes == 0 {
                break info;
            }
            ensure!(
                Instant::now() < deadline,
                "a socket still has {} segments unacknowledged and {} bytes unsent after {SETTLE:?}",
                info.unacked,
                info.notsent_bytes
            );
            sleep(Duration::from_millis(1));
        };
        self.used.store(true, Relaxed);
        self.sent
            .fetch_add(info.bytes_sent - info.bytes_retrans, Relaxed);
        let not_delivered = u64::from(left.fin) + left.unread;
        ensure!(
            info.bytes_received >= not_delivered,
            "TCP_INFO reports {} bytes received, fewer than the {not_delivered} left unread",
            info.bytes_received
        );
        self.received
            .fetch_add(info.bytes_received - not_delivered, Relaxed);
        Ok(())
    }

    /// Adds both ends of a connection whose other end another process has closed
    /// after it only sent: it sent what `socket` received.
    pub(crate) fn with_sender(&self, socket: impl AsFd) -> Result<()> {
        let before = self.received.load(Relaxed);
        self.socket(socket, Left::FIN)?;
        let sent = self.received.load(Relaxed) - before;
        self.sent.fetch_add(sent, Relaxed);
        Ok(())
    }

    /// Adds what another process found its own audit to agree with.
    pub(crate) fn verified(&self, bytes: Bytes) {
        self.used.store(true, Relaxed);
        self.sent.fetch_add(bytes.sent, Relaxed);
        self.received.fetch_add(bytes.received, Relaxed);
    }

    /// Adds both ends of a link, neither of which has been closed.
    pub(crate) fn link(&self, link: &crate::link::Link) -> Result<()> {
        self.socket(&link.near, Left::default())?;
        self.socket(&link.far, Left::default())
    }

    /// Fails unless TCP_INFO agrees with `returned`, the sum of all that was
    /// returned over the sockets' lives. None if no socket was audited.
    pub(crate) fn compare(&self, returned: Bytes) -> Result<Option<Bytes>> {
        if !self.used.load(Relaxed) {
            return Ok(None);
        }
        let info = Bytes {
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
        };
        ensure!(
            info == returned,
            "calls returned {returned:?} but TCP_INFO says {info:?}: the truth of this run is in doubt, so it is not reported"
        );
        Ok(Some(info))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;
    use crate::tally::{Tally, end};

    #[test]
    fn agrees_with_a_true_tally_and_not_with_a_false_one() {
        let link = Link::new().unwrap();
        let tally = Tally::default();
        let audit = Audit::default();
        tally.send_all(&link.near, &[1; 5000]).unwrap();
        end(&link.near).unwrap();
        tally.recv_exact(&link.far, 4000).unwrap();
        audit.socket(&link.near, Left::default()).unwrap();
        let left = Left {
            fin: true,
            unread: 1000,
        };
        audit.socket(&link.far, left).unwrap();
        let info = audit.compare(tally.bytes()).unwrap();
        assert_eq!(info, Some(tally.bytes()));
        tally.add_received(1);
        assert!(audit.compare(tally.bytes()).is_err());
    }

    #[test]
    fn says_nothing_when_it_saw_no_socket() {
        assert_eq!(Audit::default().compare(Bytes::default()).unwrap(), None);
    }
}
