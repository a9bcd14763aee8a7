//! The server from start to stop, over sockets and on the real clock.

use std::{io::Read, os::unix::fs::PermissionsExt as _, path::Path, time::Instant};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UnixStream},
};
use tokio_stream::StreamExt as _;
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{
    rig::{Client, Rig, watch},
    *,
};
use crate::{
    Listeners,
    kernel::{AllowError, KernelInfo, fake::FakeKernel, refusing::RefusingKernel},
};

/// What a stop may take when nobody is in its way.
const AT_ONCE: Duration = Duration::from_secs(1);

fn socket(folder: &Path) -> (std::path::PathBuf, Listeners) {
    let path = folder.join("netio.sock");
    let mut listeners = Listeners::new();
    listeners.bind_unix(&path, None).unwrap();
    (path, listeners)
}

async fn connect(path: &Path) -> Client {
    let address = format!("unix://{}", path.display());
    let endpoint = Endpoint::from_shared(address).unwrap();
    Client::new(endpoint.connect().await.unwrap())
}

#[tokio::test]
async fn serves_on_a_unix_socket_and_removes_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, listeners) = socket(folder.path());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut rig = Rig::listening(Options::default(), listeners);
    rig.processes.start(7, 1);
    let mut client = connect(&path).await;
    watch(&mut client, 7).await;
    let request = v1::ListWatchesRequest {};
    let watches = client.list_watches(request).await.unwrap().into_inner();
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(watches.watches[0].owner, format!("uid:{uid}"));

    rig.shutdown.cancel();
    let begin = Instant::now();
    rig.ended().await.unwrap();
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    assert!(!path.exists());
}

#[tokio::test]
async fn a_client_may_come_before_the_collector_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (path, listeners) = socket(folder.path());
    let early = tokio::spawn(async move {
        let mut client = connect(&path).await;
        client.list_watches(v1::ListWatchesRequest {}).await
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let _rig = Rig::listening(Options::default(), listeners);
    early.await.unwrap().unwrap();
}

#[tokio::test]
async fn fault_04_open_streams_end_with_a_status_and_delay_no_stop() {
    let mut rig = Rig::new(Options::default());
    let request = v1::SubscribeRequest::default();
    let mut stream = rig.client().subscribe(request).await.unwrap().into_inner();
    let mut health = HealthClient::new(rig.memory.channel());
    let request = HealthCheckRequest::default();
    let mut health = health.watch(request).await.unwrap().into_inner();
    assert!(health.message().await.unwrap().is_some());

    rig.shutdown.cancel();
    let begin = Instant::now();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let last = health.message().await.unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    rig.ended().await.unwrap();
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_of_a_connection_gets_every_tick_and_the_end() {
    const STREAMS: usize = 50;
    let folder = tempfile::tempdir().unwrap();
    let (path, listeners) = socket(folder.path());
    let options = Options {
        interval: Options::MIN_INTERVAL,
        ..Options::default()
    };
    let mut rig = Rig::listening(options, listeners);
    rig.processes.start(7, 1);
    let mut client = connect(&path).await;
    watch(&mut client, 7).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let request = v1::SubscribeRequest::default();
        streams.push(client.subscribe(request).await.unwrap().into_inner());
    }
    for stream in &mut streams {
        let mut last = None;
        for _ in 0..3 {
            let tick = stream.message().await.unwrap().unwrap();
            assert_eq!(tick.samples.len(), 1);
            let expected = last.map_or(tick.sequence, |last: u64| last + 1 + tick.skipped_ticks);
            assert_eq!(tick.sequence, expected);
            last = Some(tick.sequence);
        }
    }
    rig.shutdown.cancel();
    for stream in &mut streams {
        let status = loop {
            match stream.message().await {
                Ok(tick) => assert!(tick.is_some(), "it ended without a status"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    drop(client);
    rig.ended().await.unwrap();
}

#[tokio::test]
async fn fault_04_mute_peers_and_stalled_readers_are_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut listeners) = socket(folder.path());
    let address = listeners.bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let options = Options {
        interval: Options::MIN_INTERVAL,
        ..Options::default()
    };
    let mut rig = Rig::listening(options, listeners);
    rig.processes.start(7, 1);
    watch(&mut rig.client(), 7).await;
    let mute = UnixStream::connect(&path).await.unwrap();
    let mute_too = TcpStream::connect(address).await.unwrap();
    let endpoint = Endpoint::from_static("http://in-process").initial_stream_window_size(64);
    let mut stalled = Client::new(rig.memory.connect(&endpoint));
    let request = v1::SubscribeRequest::default();
    let _stalled = stalled.subscribe(request).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;

    rig.shutdown.cancel();
    let begin = Instant::now();
    rig.ended().await.unwrap();
    let took = begin.elapsed();
    assert!(took > DRAIN && took < Duration::from_secs(4), "{took:?}");
    // Nothing is left of the connections: at once there is what the server had
    // sent, then the end.
    assert!(has_ended(&mut mute.into_std().unwrap()));
    assert!(has_ended(&mut mute_too.into_std().unwrap()));
}

#[tokio::test]
async fn mute_peers_take_no_places_of_others_and_lose_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut listeners) = socket(folder.path());
    let address = listeners.bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let preface = Duration::from_millis(1500);
    listeners.patience.preface = preface;
    let mut options = Options::default();
    options.limits.max_connections = 2;
    let rig = Rig::listening(options, listeners);
    let list = |mut client: Client| async move {
        let request = v1::ListWatchesRequest {};
        timeout(AT_ONCE, client.list_watches(request)).await
    };
    // One says nothing, one begins and goes on no further.
    let mute = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"PRI * HTTP/2.0").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;

    let tcp = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let by_tcp = Client::new(tcp.connect_lazy());
    let starved = list(by_tcp.clone()).await;
    assert!(starved.is_err(), "the places were not taken: {starved:?}");
    list(connect(&path).await).await.unwrap().unwrap();
    list(rig.client()).await.unwrap().unwrap();

    tokio::time::sleep(preface).await;
    assert!(has_ended(&mut mute.into_std().unwrap()));
    assert!(has_ended(&mut slow.into_std().unwrap()));
    list(by_tcp).await.unwrap().unwrap();
    // Who has spoken may be silent for longer than that.
    let mut spoken = TcpStream::connect(address).await.unwrap();
    let preface_and_settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    spoken.write_all(preface_and_settings).await.unwrap();
    tokio::time::sleep(preface + AT_ONCE / 2).await;
    assert!(!has_ended(&mut spoken.into_std().unwrap()));
}

/// Whether a non-blocking stream ends, without waiting for it.
fn has_ended(stream: &mut impl Read) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test]
async fn a_dropped_run_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, listeners) = socket(folder.path());
    let rig = Rig::listening(Options::default(), listeners);
    rig.processes.start(7, 1);
    let mut client = connect(&path).await;
    let request = v1::SubscribeRequest::default();
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    drop(rig);
    stream.message().await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!path.exists());
    UnixStream::connect(&path).await.unwrap_err();
}

#[tokio::test]
async fn health_tells_whether_it_can_count() {
    async fn check(rig: &Rig, service: &str) -> ServingStatus {
        let service = service.to_owned();
        let mut health = HealthClient::new(rig.memory.channel());
        let answer = health.check(HealthCheckRequest { service }).await;
        answer.unwrap().into_inner().status()
    }
    const NETIO: &str = "netio.v1.NetIoService";
    let attached = Rig::new(Options::default());
    assert_eq!(check(&attached, "").await, ServingStatus::Serving);
    assert_eq!(check(&attached, NETIO).await, ServingStatus::Serving);

    let kernel = RefusingKernel::new(KernelInfo::default(), |_| {
        AllowError::NotAttached(String::new())
    });
    let table = FakeKernel::new(0);
    let detached = Rig::on(
        Box::new(kernel),
        table,
        Options::default(),
        Listeners::new(),
    );
    assert_eq!(check(&detached, "").await, ServingStatus::Serving);
    assert_eq!(check(&detached, NETIO).await, ServingStatus::NotServing);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let rig = Rig::new(Options::default());
    let mut reflection = ServerReflectionClient::new(rig.memory.channel());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = tokio_stream::once(request);
    let answer = reflection.server_reflection_info(requests).await.unwrap();
    let answer = answer.into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.iter().map(|it| it.name.as_str()).collect();
    for name in [
        "netio.v1.NetIoService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[tokio::test]
async fn what_cannot_run_is_refused() {
    let run = |options, listeners| {
        let kernel = Box::new(FakeKernel::new(1));
        run(kernel, options, listeners, CancellationToken::new())
    };
    let nowhere = run(Options::default(), Listeners::new()).await.unwrap_err();
    assert!(matches!(nowhere, RunError::NoListeners), "{nowhere}");
    for interval in [Duration::ZERO, Duration::from_secs(61)] {
        let mut listeners = Listeners::new();
        listeners.memory();
        let options = Options {
            interval,
            ..Options::default()
        };
        let refused = run(options, listeners).await.unwrap_err();
        assert!(refused.to_string().contains("100ms to 60s"), "{refused}");
    }
}

#[tokio::test]
async fn a_fault_of_the_sampler_ends_the_collector() {
    let kernel = Box::new(RefusingKernel::new(KernelInfo::default(), |_| {
        panic!("a fault")
    }));
    let table = FakeKernel::new(0);
    let mut rig = Rig::on(kernel, table, Options::default(), Listeners::new());
    rig.processes.start(7, 1);
    let target = rig::pid(7);
    let request = v1::WatchRequest {
        target,
        ..Default::default()
    };
    rig.client().watch(request).await.unwrap_err();
    let fault = rig.ended().await.unwrap_err();
    assert!(matches!(fault, RunError::Sampler(_)), "{fault}");
}
