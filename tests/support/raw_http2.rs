//! HTTP/2 by hand: frames as no library would send them.

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

/// What a client begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The setting of how much may be under way on a stream.
pub const INITIAL_WINDOW_SIZE: u16 = 4;
/// The largest window.
pub const ALL: u32 = i32::MAX as u32;
/// The method that streams.
pub const SUBSCRIBE: &str = "/netio.v1.NetIoService/Subscribe";
/// A gRPC message without a byte.
pub const EMPTY: &[u8] = &[0; 5];

/// A frame (RFC 9113, 4.1), of less than 16 MiB.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header that enters no table, with no Huffman code (RFC 7541, 6.2.2); both are
/// shorter than 127 bytes.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        block.push(text.len() as u8);
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

/// The frames of a call on a stream with this message, of less than 16 KiB.
pub fn request(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let mut data = vec![0];
    data.extend((message.len() as u32).to_be_bytes());
    data.extend(message);
    let mut frames = frame(HEADERS, END_HEADERS, stream, &call(path));
    frames.extend(frame(DATA, END_STREAM, stream, &data));
    frames
}

/// One that subscribes to everything.
pub fn subscribe(stream: u32) -> Vec<u8> {
    request(stream, SUBSCRIBE, &[])
}

/// Takes whatever comes on the connection, as far as its streams do.
pub fn take_all() -> Vec<u8> {
    const DEFAULT: u32 = 65_535;
    frame(WINDOW_UPDATE, 0, 0, &(ALL - DEFAULT).to_be_bytes())
}

/// All of a client that subscribes to everything, and takes `window` bytes of that.
pub fn subscriber(window: u32) -> Vec<u8> {
    let setting = INITIAL_WINDOW_SIZE.to_be_bytes();
    let setting = [&setting[..], &window.to_be_bytes()].concat();
    [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &setting),
        take_all(),
        subscribe(1),
    ]
    .concat()
}
