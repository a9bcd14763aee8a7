//! Limits of calls and connections, against a collector in this process.

use std::{net::SocketAddr, time::Instant};

use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, StatusCode};
use netio::v1;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Status, Streaming, transport::Endpoint};
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    Grant, Grantee, Listeners, Options, Role,
    server::rig::{Client, Rig, watch},
};

#[path = "../../../../tests/support/raw_http2.rs"]
#[allow(dead_code, unreachable_pub)]
mod raw_http2;

mod limits;

const PID: u32 = 7;
const LIST: &str = "/netio.v1.NetIoService/ListWatches";
const WATCH: &str = "/netio.v1.NetIoService/Watch";
const HEALTH: &str = "/grpc.health.v1.Health/Watch";
/// A message without fields.
const EMPTY: &[u8] = &[0; 5];
/// For what takes moments.
const MOMENTS: Duration = Duration::from_secs(10);

/// On a paused clock, with a process that is watched by a lease.
async fn rig(stall: Duration) -> (Rig, String) {
    let mut options = Options::default();
    options.limits.stall_timeout = stall;
    let rig = Rig::new(options);
    rig.processes.start(PID, 1);
    let id = watch(&mut rig.client(), PID).await;
    (rig, id)
}

/// With windows of so many bytes.
fn narrow(rig: &Rig, window: u32) -> Client {
    let endpoint = Endpoint::from_static("http://in-process").initial_stream_window_size(window);
    Client::new(rig.memory.connect(&endpoint))
}

async fn subscribe(client: &mut Client) -> Streaming<v1::SubscribeResponse> {
    let request = v1::SubscribeRequest::default();
    client.subscribe(request).await.unwrap().into_inner()
}

async fn subscribers(rig: &Rig) -> u32 {
    let request = v1::GetCollectorInfoRequest {};
    let info = rig.client().get_collector_info(request).await.unwrap();
    info.into_inner().info.unwrap().subscribers
}

/// Reads to the end; gives the messages that came, and the status.
async fn end(stream: &mut Streaming<v1::SubscribeResponse>) -> (u64, Status) {
    let mut messages = 0;
    loop {
        match stream.message().await {
            Ok(message) => messages += u64::from(message.is_some()),
            Err(status) => return (messages, status),
        }
    }
}

fn reason(status: &Status) -> Option<String> {
    Some(status.get_details_error_info()?.reason)
}

#[tokio::test(start_paused = true)]
async fn fault_03_a_deadline_ends_a_stream_and_frees_its_lease() {
    let (rig, id) = rig(Duration::from_secs(30)).await;
    let mut request = tonic::Request::new(v1::SubscribeRequest::new(vec![id.clone()]));
    request.set_timeout(Duration::from_secs(2));
    let begin = tokio::time::Instant::now();
    let mut stream = rig.client().subscribe(request).await.unwrap().into_inner();
    let (messages, status) = end(&mut stream).await;
    let took = begin.elapsed();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(reason(&status).as_deref(), Some("DEADLINE_EXCEEDED"));
    assert!((1..=3).contains(&messages), "{messages}");
    let (least, most) = (Duration::from_secs(2), Duration::from_secs(3));
    assert!((least..=most).contains(&took), "{took:?}");
    assert_eq!(subscribers(&rig).await, 0);
    // Nobody keeps the watch any more.
    tokio::time::sleep(Duration::from_secs(90)).await;
    let list = rig.client().list_watches(v1::ListWatchesRequest {}).await;
    assert!(list.unwrap().into_inner().watches.is_empty());
}

/// Which a reader who stalls would otherwise put off.
#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_stream_that_is_not_read() {
    let (rig, _) = rig(Duration::from_secs(3600)).await;
    for (window, expected) in [
        // Between messages a status can be told, amid one it cannot.
        (2048, Some("DEADLINE_EXCEEDED")),
        (64, None),
    ] {
        let mut request = tonic::Request::new(v1::SubscribeRequest::default());
        request.set_timeout(Duration::from_secs(100));
        let mut client = narrow(&rig, window);
        let mut stream = client.subscribe(request).await.unwrap().into_inner();
        tokio::time::sleep(Duration::from_secs(99)).await;
        assert_eq!(subscribers(&rig).await, 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(subscribers(&rig).await, 0);
        let (_, status) = end(&mut stream).await;
        assert_eq!(reason(&status).as_deref(), expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn fault_01_a_stalled_stream_is_dropped_with_a_status_and_no_other() {
    const STALL: Duration = Duration::from_secs(10);
    let (rig, _) = rig(STALL).await;
    for (window, expected) in [(2048, Some("READER_STALLED")), (64, None)] {
        // Both streams are on one connection.
        let mut client = narrow(&rig, window);
        let mut stalled = subscribe(&mut client).await;
        let mut reading = subscribe(&mut client).await;
        let mut last = 0;
        for _ in 0..60 {
            let tick = reading.message().await.unwrap().unwrap();
            assert!(last == 0 || tick.sequence == last + 1, "{window}: {last}");
            last = tick.sequence;
        }
        assert_eq!(subscribers(&rig).await, 1);
        let (messages, status) = end(&mut stalled).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert_eq!(reason(&status).as_deref(), expected, "{status}");
        // What was sent before it stalled is still there.
        assert_eq!(messages > 1, window > 64, "{messages}");
        drop(reading);
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_is_not_dropped() {
    const STALL: Duration = Duration::from_secs(10);
    let (rig, _) = rig(STALL).await;
    let mut stream = subscribe(&mut narrow(&rig, 2048)).await;
    let mut skipped = 0;
    for _ in 0..50 {
        tokio::time::sleep(STALL - Duration::from_secs(1)).await;
        skipped += stream.message().await.unwrap().unwrap().skipped_ticks;
    }
    assert!(skipped > 100, "{skipped}");
}

/// Streams that wait for room on their connection hold what they have of it already, which
/// must not keep it from all of them.
#[tokio::test]
async fn streams_with_messages_of_all_sizes_leave_a_small_connection_to_each_other() {
    const WATCHES: u32 = 60;
    const STREAMS: u32 = 240;
    let (rig, address) = impatient(|_, options| {
        options.interval = Options::MIN_INTERVAL;
        options.limits.stall_timeout = Duration::from_secs(2);
    });
    let mut ids = Vec::new();
    for pid in 100..100 + WATCHES {
        rig.processes.start(pid, 1);
        ids.push(watch(&mut rig.client(), pid).await);
    }
    let update = |stream, bytes: u32| {
        raw_http2::frame(raw_http2::WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
    };
    let mut sent = raw_http2::PREFACE.to_vec();
    sent.extend(raw_http2::frame(raw_http2::SETTINGS, 0, 0, &[]));
    // Room for all at first, so that their windows can be told from the connection's.
    let mut spare = 1_000_000;
    sent.extend(update(0, spare));
    for number in 0..STREAMS {
        // Small messages take all the room, which comes back in small parts, for each of
        // which a large one waits.
        let wanted = if number < 180 { 12 } else { ids.len() };
        let wanted = ids[..wanted].to_vec();
        let message = v1::SubscribeRequest::new(wanted).encode_to_vec();
        let stream = 2 * number + 1;
        sent.extend(raw_http2::request(stream, raw_http2::SUBSCRIBE, &message));
    }
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(&sent).await.unwrap();
    // Later the room is what there is by default, 65,535 bytes, and is given back at once.
    let (mut messages, begin) = (0, Instant::now());
    while begin.elapsed() < Duration::from_secs(6) {
        let (kind, flags, stream, payload) = timeout(MOMENTS, next_frame(&mut socket))
            .await
            .expect("nothing is sent any more");
        let is_last = kind == raw_http2::RST_STREAM || flags & raw_http2::END_STREAM != 0;
        assert!(stream == 0 || !is_last, "stream {stream} ends: {kind}");
        if kind == raw_http2::DATA && payload > 0 {
            messages += 1;
            let mut updates = update(stream, payload);
            if spare >= payload {
                spare -= payload;
            } else {
                updates.extend(update(0, payload));
            }
            socket.write_all(&updates).await.unwrap();
        }
    }
    assert!(messages > 20 * STREAMS, "{messages}");
}

/// The next frame's kind, flags, stream and length.
async fn next_frame(socket: &mut TcpStream) -> (u8, u8, u32, u32) {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.unwrap();
    let [a, b, c, kind, flags, stream @ ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]);
    let mut payload = vec![0; length as usize];
    socket.read_exact(&mut payload).await.unwrap();
    (kind, flags, u32::from_be_bytes(stream), length)
}

/// A collector on loopback TCP that is impatient.
fn impatient(change: impl FnOnce(&mut Listeners, &mut Options)) -> (Rig, SocketAddr) {
    let mut listeners = Listeners::new();
    let address = listeners.bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut options = Options::default();
    change(&mut listeners, &mut options);
    (Rig::listening(options, listeners), address)
}

/// A client that sends what it is told.
async fn raw(address: SocketAddr) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// Sends a request's headers; and its message, or that is never sent.
fn call(
    sender: &mut SendRequest<Bytes>,
    path: &str,
    headers: &[(&'static str, &str)],
    message: Option<&'static [u8]>,
) -> (ResponseFuture, h2::SendStream<Bytes>) {
    let mut request = Request::post(format!("http://localhost{path}"));
    request = request.header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (response, mut body) = sender
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    if let Some(message) = message {
        body.send_data(Bytes::from_static(message), true).unwrap();
    }
    (response, body)
}

/// The status of an answer.
async fn status(response: ResponseFuture) -> Status {
    let response = timeout(MOMENTS, response).await.unwrap().unwrap();
    let (head, mut body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return status;
    }
    while let Some(data) = body.data().await {
        data.unwrap();
    }
    let trailers: HeaderMap = body.trailers().await.unwrap().unwrap();
    Status::from_header_map(&trailers).unwrap()
}

#[tokio::test]
async fn a_request_that_does_not_come_is_given_up() {
    let (_rig, address) = impatient(|listeners, _| {
        listeners.patience.request = Duration::from_millis(300);
    });
    let mut sender = raw(address).await;
    let (response, body) = call(&mut sender, LIST, &[], None);
    let status = status(response).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(reason(&status).as_deref(), Some("REQUEST_TIMEOUT"));
    drop(body);
}

#[tokio::test]
async fn unary_calls_have_deadlines_too() {
    let (_rig, address) = impatient(|_, _| ());
    let mut sender = raw(address).await;
    for (value, expected) in [
        ("200m", Some("DEADLINE_EXCEEDED")),
        ("200", Some("TIMEOUT_INVALID")),
    ] {
        let (response, _body) = call(&mut sender, LIST, &[("grpc-timeout", value)], None);
        let status = status(response).await;
        assert_eq!(reason(&status).as_deref(), expected, "{status}");
    }
    let (response, _) = call(&mut sender, LIST, &[("grpc-timeout", "5S")], Some(EMPTY));
    assert_eq!(status(response).await.code(), Code::Ok);
}

/// Who has begun to speak, and then vanishes.
#[tokio::test]
async fn a_peer_that_has_gone_is_noticed() {
    let (_rig, address) = impatient(|listeners, _| {
        listeners.patience.keepalive = Duration::from_millis(200);
        listeners.patience.pong = Duration::from_millis(200);
    });
    let mut live = raw(address).await;
    let mut mute = TcpStream::connect(address).await.unwrap();
    let preface_and_settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    mute.write_all(preface_and_settings).await.unwrap();
    let begin = Instant::now();
    let mut sent = Vec::new();
    let read = timeout(MOMENTS, mute.read_to_end(&mut sent)).await;
    assert!(read.is_ok() && begin.elapsed() >= Duration::from_millis(400));
    let (response, _) = call(&mut live, LIST, &[], Some(EMPTY));
    assert_eq!(status(response).await.code(), Code::Ok);
}
