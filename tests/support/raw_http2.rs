//! HTTP/2 as no library would send it: bytes that a test writes by itself.

/// What a client that speaks HTTP/2 begins with: its preface and SETTINGS, by which it
/// takes `window` bytes of each stream and of the connection.
pub fn preface(window: u32) -> Vec<u8> {
    const SETTINGS: u8 = 4;
    const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
    const WINDOW_UPDATE: u8 = 8;
    const DEFAULT: u32 = 65_535;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let setting = [&INITIAL_WINDOW_SIZE[..], &window.to_be_bytes()].concat();
    bytes.extend(frame(SETTINGS, 0, 0, &setting));
    if window > DEFAULT {
        let more = (window - DEFAULT).to_be_bytes();
        bytes.extend(frame(WINDOW_UPDATE, 0, 0, &more));
    }
    bytes
}

/// A call with this path and message, whose bytes are less than 256; it is the whole
/// request. The stream's number is odd.
pub fn call(stream: u8, path: &str, message: &[u8]) -> Vec<u8> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let headers = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", path),
        field(":authority", "h"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
    .concat();
    let length = message.len() as u32;
    let data = [&[0], &length.to_be_bytes()[..], message].concat();
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &headers);
    bytes.extend(frame(DATA, END_STREAM, stream, &data));
    bytes
}

/// A whole client: it subscribes to everything.
pub fn subscriber(window: u32) -> Vec<u8> {
    let mut bytes = preface(window);
    bytes.extend(call(1, "/netio.v1.NetIoService/Subscribe", &[]));
    bytes
}

/// A header field, as a literal that is not indexed (RFC 7541, 6.2.2); both are
/// shorter than 127 bytes.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(text.len() as u8);
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// A frame (RFC 9113, 4.1), of less than 256 bytes.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    bytes.extend(payload);
    bytes
}
