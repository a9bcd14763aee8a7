//! Whether what is attached also counts: a function that the compiler has put
//! into its callers can be hooked and yet never fires.
//!
//! Sends a byte to this very process over loopback, and looks at the counters.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process,
    time::Duration,
};

use netio_abi::NO_SLOT;

use super::{AttachError, attach::Attached};

/// Loopback answers at once; this is for a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// Fails if the hooks miss a byte. Where there is no loopback to try on, nothing
/// is claimed.
pub(super) fn self_check(attached: &Attached) -> Result<(), AttachError> {
    let object = &attached.object;
    let slot = object.spare;
    if process::id() >= object.allow_list.pids() {
        return Ok(());
    }
    let before = object.banks.read(slot);
    object.allow_list.replace(process::id(), NO_SLOT, slot.0);
    let exchanged = exchange();
    object.allow_list.replace(process::id(), slot.0, NO_SLOT);
    if let Err(error) = exchanged {
        tracing::warn!(%error, "the hooks are not tried out: no TCP over loopback");
        return Ok(());
    }
    // Other threads may have sent more.
    let counted = object.banks.read(slot) - before;
    if counted.sent_bytes > 0 && counted.received_bytes > 0 {
        return Ok(());
    }
    Err(AttachError::new(format!(
        "the hooks are attached but do not count: of a byte sent and received, {} and {} were seen",
        counted.sent_bytes, counted.received_bytes
    )))
}

fn exchange() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut near = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    let (mut far, _) = listener.accept()?;
    far.set_read_timeout(Some(PATIENCE))?;
    near.write_all(&[1])?;
    far.read_exact(&mut [0])
}
