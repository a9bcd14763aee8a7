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

#[tokio::test]
async fn headers_and_messages_have_a_greatest_size() {
    let (_rig, address) = impatient(|_, _| ());
    let mut sender = raw(address).await;
    let big = "x".repeat(MAX_HEADER_BYTES as usize);
    let (response, _body) = call(&mut sender, LIST, &[("x-big", &big)], Some(EMPTY));
    let refused = timeout(MOMENTS, response).await.unwrap();
    let told = refused.map(|it| it.status());
    assert!(
        matches!(told, Ok(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)),
        "{told:?}"
    );
    // A message of 64 KiB and a byte; no more of it than its length is looked at.
    let long: &[u8] = &[0, 0, 1, 0, 1];
    let (response, _body) = call(&mut sender, LIST, &[], Some(long));
    assert_eq!(status(response).await.code(), Code::OutOfRange);
    // And the connection serves on.
    let (response, _) = call(&mut sender, LIST, &[], Some(EMPTY));
    assert_eq!(status(response).await.code(), Code::Ok);
}

#[tokio::test]
async fn no_more_calls_are_open_than_may_be() {
    let (_rig, address) = impatient(|listeners, options| {
        options.limits.max_subscribers = 1;
        listeners.other_calls = 2;
    });
    let mut first = raw(address).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let (response, _) = call(&mut first, HEALTH, &[], Some(EMPTY));
        held.push(timeout(MOMENTS, response).await.unwrap().unwrap());
    }
    let mut second = raw(address).await;
    let (response, _) = call(&mut second, LIST, &[], Some(EMPTY));
    let refused = status(response).await;
    assert_eq!(reason(&refused).as_deref(), Some("TOO_MANY_CALLS"));
    drop(held);
    let begin = Instant::now();
    loop {
        let (response, _) = call(&mut second, LIST, &[], Some(EMPTY));
        if status(response).await.code() == Code::Ok {
            break;
        }
        assert!(begin.elapsed() < MOMENTS);
        sleep(Duration::from_millis(10)).await;
    }
}

/// A call whose answer has begun, on a connection with a window of nothing.
async fn answered_and_not_taken(
    address: SocketAddr,
    path: &str,
    message: &'static [u8],
) -> (http::Response<h2::RecvStream>, SendRequest<Bytes>) {
    let socket = TcpStream::connect(address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let handshake = builder.initial_window_size(0).handshake(socket);
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let (response, _) = call(&mut sender, path, &[], Some(message));
    (timeout(MOMENTS, response).await.unwrap().unwrap(), sender)
}

#[tokio::test]
async fn answers_that_nobody_takes_are_bounded() {
    let (rig, address) = impatient(|listeners, options| {
        listeners.other_answers = 100_000;
        listeners.changes = 1;
        options.limits.stall_timeout = Duration::from_secs(5);
    });
    let mut client = rig.client();
    for pid in 100..400 {
        rig.processes.start(pid, 1);
        watch(&mut client, pid).await;
    }
    let bytes = v1::ListWatchesRequest {};
    let bytes = client.list_watches(bytes).await.unwrap().into_inner();
    let bytes = bytes.encoded_len();
    assert!((call::SMALL..50_000).contains(&bytes), "{bytes}");
    let mut held = Vec::new();
    for _ in 0..100_000 / bytes {
        held.push(answered_and_not_taken(address, LIST, EMPTY).await);
    }
    let refused = client.list_watches(v1::ListWatchesRequest {}).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused).as_deref(), Some("TOO_MANY_ANSWERS"));
    // What is small is answered, and streams are served.
    rig.processes.start(PID, 1);
    let id = watch(&mut client, PID).await;
    let ticks = client.subscribe(v1::SubscribeRequest::new(Vec::new()));
    let tick = ticks.await.unwrap().into_inner().message().await;
    assert!(
        tick.unwrap()
            .unwrap()
            .samples
            .iter()
            .any(|it| it.watch_id == id)
    );
    // One that changes something is answered, large or not; while nobody takes that, the
    // next of them waits.
    for pid in 1_000..3_000 {
        rig.processes.start_as(pid, 1, "many", 1);
    }
    let many = v1::WatchRequest::new(v1::Target::name("many"));
    let message = many.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    let untaken = answered_and_not_taken(address, WATCH, framed.leak()).await;
    let mut other = rig.client();
    let next = tokio::spawn(async move { other.watch(many).await });
    sleep(Duration::from_millis(200)).await;
    assert!(!next.is_finished());
    drop(untaken);
    let watched = timeout(MOMENTS, next).await.unwrap().unwrap().unwrap();
    assert_eq!(watched.into_inner().watch.unwrap().processes.len(), 2_000);
    // They stall, and there is room again.
    let begin = Instant::now();
    while client
        .list_watches(v1::ListWatchesRequest {})
        .await
        .is_err()
    {
        assert!(begin.elapsed() < MOMENTS);
        sleep(Duration::from_millis(50)).await;
    }
    drop(held);
}

#[tokio::test]
async fn no_more_streams_are_open_on_a_connection_than_may_be() {
    let (_rig, address) = impatient(|_, _| ());
    let mut sender = raw(address).await;
    let mut held = Vec::new();
    for _ in 0..MAX_STREAMS {
        sender = sender.ready().await.unwrap();
        let (response, _) = call(&mut sender, HEALTH, &[], Some(EMPTY));
        let mut body = timeout(MOMENTS, response)
            .await
            .unwrap()
            .unwrap()
            .into_body();
        body.data().await.unwrap().unwrap();
        held.push(body);
    }
    assert_eq!(sender.current_max_send_streams(), MAX_STREAMS as usize);
    // A client that heeds the limit waits with the next one.
    let (response, _) = call(&mut sender, HEALTH, &[], Some(EMPTY));
    timeout(Duration::from_millis(300), response)
        .await
        .unwrap_err();
}

#[tokio::test]
async fn who_proves_nothing_is_sent_away() {
    const TOKEN: &str = "0123456789abcdef";
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, TOKEN.as_bytes()).unwrap();
    let patience = Duration::from_secs(2);
    let (_rig, address) = impatient(|listeners, options| {
        listeners.patience.request = patience;
        options.grants.push(Grant {
            role: Role::Observe,
            to: Grantee::Token {
                name: "t".to_owned(),
                file: file.path().to_owned(),
            },
        });
    });
    let begin = Instant::now();
    let mut proved = raw(address).await;
    let token = ("authorization", &*format!("Bearer {TOKEN}"));
    let (response, _) = call(&mut proved, LIST, &[token], Some(EMPTY));
    assert_eq!(status(response).await.code(), Code::Ok);
    // One that says nothing, and one whose calls are refused.
    let mut mute = TcpStream::connect(address).await.unwrap();
    let mut sent = raw_http2::PREFACE.to_vec();
    sent.extend(raw_http2::frame(raw_http2::SETTINGS, 0, 0, &[]));
    mute.write_all(&sent).await.unwrap();
    let mut wrong = raw(address).await;
    let (response, _) = call(&mut wrong, LIST, &[], Some(EMPTY));
    assert_eq!(status(response).await.code(), Code::Unauthenticated);
    let told = timeout(MOMENTS, async {
        loop {
            let (kind, ..) = next_frame(&mut mute).await;
            if kind == raw_http2::GOAWAY {
                return;
            }
        }
    });
    told.await.unwrap();
    assert!(begin.elapsed() >= patience);
    let gone = timeout(MOMENTS, async {
        while wrong.clone().ready().await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    gone.await.unwrap();
    // Whose call was let in stays, without a call too.
    sleep(patience).await;
    let (response, _) = call(&mut proved, LIST, &[token], Some(EMPTY));
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
