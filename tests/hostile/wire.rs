//! HTTP/2 by hand: frames as they should not be sent.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use super::support::Result;
pub use super::support::raw_http2::*;

pub const PROTOCOL_ERROR: u32 = 1;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// How long a read or a write may take.
const TAKES: Duration = Duration::from_secs(10);

/// A client's side of a connection.
pub struct Peer(pub UnixStream);

impl Peer {
    /// Connects and begins to speak, with these settings.
    pub fn connect(socket: &Path, settings: &[(u16, u32)]) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TAKES))?;
        stream.set_write_timeout(Some(TAKES))?;
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let mut peer = Self(stream);
        let mut begin = PREFACE.to_vec();
        begin.extend(frame(SETTINGS, 0, 0, &payload));
        begin.extend(frame(SETTINGS, ACK, 0, &[]));
        peer.0.write_all(&begin)?;
        Ok(peer)
    }

    /// False once the other side has ended the connection.
    pub fn send(&mut self, bytes: &[u8]) -> Result<bool> {
        match self.0.write_all(bytes) {
            Ok(()) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads to the connection's end, which must come; the reason of a GOAWAY, if there
    /// was one.
    pub fn end(&mut self) -> Result<Option<u32>> {
        let mut received = Vec::new();
        match self.0.read_to_end(&mut received) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => return Err(format!("the connection does not end: {error}").into()),
        }
        let mut reason = None;
        let mut rest = &received[..];
        while let Some((head, after)) = rest.split_at_checked(9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some((payload, after)) = after.split_at_checked(length) else {
                break;
            };
            if head[3] == GOAWAY && payload.len() >= 8 {
                reason = Some(u32::from_be_bytes(payload[4..8].try_into()?));
            }
            rest = after;
        }
        Ok(reason)
    }
}
