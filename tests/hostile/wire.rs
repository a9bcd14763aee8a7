//! HTTP/2 by hand: frames as they should not be sent.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use super::support::Result;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PROTOCOL_ERROR: u32 = 1;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// How long a read or a write may take.
const TAKES: Duration = Duration::from_secs(10);

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header that enters no table, with no Huffman code.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        block.push(u8::try_from(text.len()).expect("less than 127"));
        block.extend(text.as_bytes());
    }
    block
}

/// The headers of a call.
pub fn call(path: &str) -> Vec<u8> {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .map(|(name, value)| header(name, value))
    .concat()
}

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
        let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
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
