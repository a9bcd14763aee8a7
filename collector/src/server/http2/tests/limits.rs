//! What peers can have at once, and of what size; and what there is for those who prove
//! nothing.

use super::*;

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
        listeners.lasting_calls = 2;
    });
    let mut first = raw(address).await;
    let mut lasting = Vec::new();
    for _ in 0..2 {
        let (response, _) = call(&mut first, HEALTH, &[], Some(EMPTY));
        lasting.push(timeout(MOMENTS, response).await.unwrap().unwrap());
    }
    let (response, _) = call(&mut first, HEALTH, &[], Some(EMPTY));
    let refused = status(response).await;
    assert_eq!(reason(&refused).as_deref(), Some("TOO_MANY_CALLS"));
    // Others have places of their own; of these, too, there is an end.
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(call(&mut first, LIST, &[], None));
    }
    sleep(Duration::from_millis(100)).await;
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
