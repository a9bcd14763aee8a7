//! Whether what is attached also counts: a function that the compiler has put
//! into its callers can be hooked and yet never fires.
//!
//! Sends a byte to this very process over loopback, and looks at the counters: when
//! the hooks were attached, and from time to time after.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process,
    time::Duration,
};

use netio_abi::NO_SLOT;

use super::{AttachError, attach::Attached};

/// Loopback answers at once; this is for a machine that is very busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// What may be held up meanwhile: the next tick.
pub(super) const SHORT: Duration = Duration::from_millis(50);

/// Whether the hooks were tried.
#[derive(Debug)]
pub(super) enum Tried {
    /// They count.
    Counts,
    /// Not now: this process is being watched, and a byte of ours would be counted.
    Watched,
    /// There is no loopback to try on; nothing is claimed.
    Impossible(io::Error),
}

/// Fails if the hooks miss a byte.
pub(super) fn self_check(attached: &Attached, patience: Duration) -> Result<Tried, AttachError> {
    let object = &attached.object;
    let slot = object.spare;
    if process::id() >= object.allow_list.pids() {
        let why = "this process's own pid is beyond the allow-list";
        return Ok(Tried::Impossible(io::Error::other(why)));
    }
    let before = object.banks.read(slot);
    if !object.allow_list.replace(process::id(), NO_SLOT, slot.0) {
        return Ok(Tried::Watched);
    }
    let exchanged = exchange(patience);
    object.allow_list.replace(process::id(), slot.0, NO_SLOT);
    if let Err(error) = exchanged {
        return Ok(Tried::Impossible(error));
    }
    // Other threads may have sent more.
    let counted = object.banks.read(slot) - before;
    if counted.sent_bytes > 0 && counted.received_bytes > 0 {
        return Ok(Tried::Counts);
    }
    Err(AttachError::new(format!(
        "the hooks are attached but do not count: of a byte sent and received, {} and {} were seen",
        counted.sent_bytes, counted.received_bytes
    )))
}

fn exchange(patience: Duration) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut near = TcpStream::connect_timeout(&listener.local_addr()?, patience)?;
    let (mut far, _) = listener.accept()?;
    far.set_read_timeout(Some(patience))?;
    near.write_all(&[1])?;
    far.read_exact(&mut [0])
}
