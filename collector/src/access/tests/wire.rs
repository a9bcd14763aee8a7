//! The gate in front of the services: paths as no well-behaved client sends them, and
//! what the record says.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use netio::v1;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    Code, Request, Response, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::{
    Listeners, Options,
    server::rig::{Rig, pid},
    service::net_io_service_server::SERVICE_NAME,
};

/// What is logged on this thread while it lives.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        // Without one for all threads, a call from a thread that has none could turn a
        // line off for good.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines of the record.
    pub(crate) fn audit(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().filter(|line| line.contains(" audit: "));
        lines.map(str::to_owned).collect()
    }

    /// How often this was logged.
    pub(crate) fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap())
            .matches(text)
            .count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Calls any path with an empty request.
async fn call(channel: Channel, path: &str, token: Option<&str>) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let mut request = Request::new(v1::ListWatchesRequest {});
    if let Some(token) = token {
        let value = MetadataValue::try_from(token).unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let codec = ProstCodec::<v1::ListWatchesRequest, v1::ListWatchesResponse>::default();
    let path = PathAndQuery::try_from(path).unwrap();
    grpc.unary(request, path, codec)
        .await
        .map(|_: Response<_>| ())
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

#[tokio::test]
async fn fault_09_a_path_that_only_looks_like_a_method_is_refused() {
    let rig = Rig::new(Options::default());
    let exact = "/netio.v1.NetIoService/ListWatches";
    assert_eq!(exact, format!("/{SERVICE_NAME}/ListWatches"));
    call(rig.memory.channel(), exact, None).await.unwrap();
    for path in [
        "//netio.v1.NetIoService/ListWatches",
        "/netio.v1.NetIoService//ListWatches",
        "/netio.v1.NetIoService/ListWatches/",
        "/netio.v1.NetIoService/ListWatches?a=b",
        "/netio.v1.NetIoService/listwatches",
        "/NETIO.V1.NETIOSERVICE/ListWatches",
        "/netio.v1.NetIoService/List%57atches",
        "/netio.v1.NetIoService/../netio.v1.NetIoService/ListWatches",
        "/netio.v1.NetIoService/Nonexistent",
        "/grpc.health.v1.Health/check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/",
    ] {
        let refused = call(rig.memory.channel(), path, None).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{path}: {refused}");
        assert_eq!(reason(&refused), "METHOD_UNKNOWN", "{path}");
    }
}

/// A header field, as a literal that is not indexed (RFC 7541, 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).unwrap());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
    bytes.extend(payload);
    bytes
}

/// Sends a Watch of pid 7 with this path, and waits until its stream, or the connection,
/// has ended.
async fn raw_watch(address: std::net::SocketAddr, path: &str) {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let headers = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", path),
        field(":authority", "h"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
    .concat();
    // A WatchRequest { target: Target { pid: 7 } } after its prefix.
    let message = [0, 0, 0, 0, 4, 0x0a, 2, 8, 7];
    let bytes = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS, 1, &headers),
        frame(DATA, END_STREAM, 1, &message),
    ]
    .concat();
    stream.write_all(&bytes).await.unwrap();
    let ended = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.unwrap();
            let ends = head[3] == RST_STREAM || (head[3] <= HEADERS && head[4] & END_STREAM != 0);
            if head[8] == 1 && ends {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), ended).await.unwrap();
}

#[tokio::test]
async fn fault_09_a_raw_path_that_is_no_method_watches_nothing() {
    let mut listeners = Listeners::new();
    let address = listeners.bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let rig = Rig::listening(Options::default(), listeners);
    rig.processes.start(7, 1);
    for path in [
        "netio.v1.NetIoService/Watch",
        "//netio.v1.NetIoService/Watch",
        "/netio.v1.NetIoService/Watch/",
        "/netio.v1.NetIoService/watch",
        "http://h/netio.v1.NetIoService/Watch",
        "*",
    ] {
        raw_watch(address, path).await;
        assert!(rig.kernel.with(|it| it.allowed.is_empty()), "{path}");
    }
    // And that it is the path which made the difference:
    raw_watch(address, "/netio.v1.NetIoService/Watch").await;
    assert!(rig.kernel.with(|it| it.allowed.contains_key(&7)));
}

/// A collector on loopback that knows these tokens, and calls with them.
pub(crate) struct Tenants {
    pub(crate) rig: Rig,
    endpoint: Endpoint,
    _folder: tempfile::TempDir,
}

const SECRET: &str = "-0123456789abcdef";

impl Tenants {
    fn new(roles: &[(&str, Role)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut listeners = Listeners::new();
        let address = listeners.bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let grants = roles
            .iter()
            .map(|(name, role)| token(folder.path(), name, *role, &format!("{name}{SECRET}")));
        let options = Options {
            grants: grants.collect(),
            ..Options::default()
        };
        Self {
            rig: Rig::listening(options, listeners),
            endpoint: Endpoint::from_shared(format!("http://{address}")).unwrap(),
            _folder: folder,
        }
    }

    /// Each on a connection of its own.
    async fn channel(&self) -> Channel {
        self.endpoint.connect().await.unwrap()
    }

    async fn client(&self, name: &str) -> Tenant {
        let token = format!("Bearer {name}{SECRET}");
        let value: MetadataValue<_> = token.parse().unwrap();
        let with_token = move |mut request: Request<()>| {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
            Ok(request)
        };
        let channel = InterceptedService::new(self.channel().await, Box::new(with_token) as _);
        Tenant::new(channel)
    }
}

type WithToken = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send + Sync>;
type Tenant = v1::net_io_service_client::NetIoServiceClient<InterceptedService<Channel, WithToken>>;

async fn watch(client: &mut Tenant, process: u32) -> Result<String, Status> {
    let request = v1::WatchRequest::new(v1::Target::pid(process));
    let watch = client.watch(request).await?.into_inner().watch;
    Ok(watch.unwrap().watch_id)
}

async fn unwatch(client: &mut Tenant, watch_id: &str) -> Result<Vec<String>, Status> {
    let selector = v1::unwatch_request::Selector::WatchId(watch_id.to_owned());
    let request = v1::UnwatchRequest {
        selector: Some(selector),
    };
    Ok(client.unwatch(request).await?.into_inner().watch_ids)
}

#[tokio::test]
async fn fault_11_one_tenant_cannot_end_anothers_watch_and_an_admin_can() {
    let roles = [("a", Role::Watch), ("b", Role::Watch), ("c", Role::Admin)];
    let tenants = Tenants::new(&roles);
    tenants.rig.processes.start(7, 1);
    let mut a = tenants.client("a").await;
    let mut b = tenants.client("b").await;
    let [of_a, of_b] = [
        watch(&mut a, 7).await.unwrap(),
        watch(&mut b, 7).await.unwrap(),
    ];

    let refused = unwatch(&mut a, &of_b).await.unwrap_err();
    assert_eq!(reason(&refused), "NOT_THE_OWNER");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let renewal = v1::RenewWatchesRequest {
        watch_ids: vec![of_b.clone()],
    };
    let refused = a.renew_watches(renewal).await.unwrap_err();
    assert_eq!(reason(&refused), "NOT_THE_OWNER");
    // By target, it ends its own only.
    let selector = pid(7).map(v1::unwatch_request::Selector::Target);
    let ended = a.unwatch(v1::UnwatchRequest { selector }).await.unwrap();
    assert_eq!(ended.into_inner().watch_ids, [of_a]);

    // A goes, and what it had; B's is there.
    let of_a = watch(&mut a, 7).await.unwrap();
    drop(a);
    let mut admin = tenants.client("c").await;
    assert_eq!(unwatch(&mut admin, &of_a).await.unwrap(), [of_a]);
    let left = b.list_watches(v1::ListWatchesRequest {}).await.unwrap();
    let left: Vec<_> = left.into_inner().watches;
    assert_eq!(left.len(), 1);
    assert_eq!(
        (&left[0].watch_id, left[0].owner.as_str()),
        (&of_b, "token:b")
    );
    let refused = unwatch(&mut admin, "w-999").await.unwrap_err();
    assert_eq!(reason(&refused), "WATCH_NOT_FOUND");
}

#[tokio::test(start_paused = true)]
async fn a_tenants_crash_leaves_the_others_watch() {
    let rig = Rig::new(Options::default());
    rig.processes.start(7, 1);
    let mut standing = v1::WatchRequest::new(v1::Target::pid(7)).standing();
    standing.wait = false;
    let mut other = rig.client();
    other.watch(standing).await.unwrap();
    // Of a lease only, and gone without a word.
    crate::server::rig::watch(&mut rig.client(), 7).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    let left = other.list_watches(v1::ListWatchesRequest {}).await.unwrap();
    assert_eq!(left.into_inner().watches.len(), 1);
    assert!(rig.kernel.with(|it| it.allowed.contains_key(&7)));
}

#[tokio::test]
async fn every_change_and_every_refusal_is_on_the_record() {
    let (log, _guard) = Log::start();
    let tenants = Tenants::new(&[("a", Role::Watch), ("o", Role::Observe)]);
    tenants.rig.processes.start(7, 1);
    let mut a = tenants.client("a").await;
    let id = watch(&mut a, 7).await.unwrap();
    watch(&mut a, 8).await.unwrap_err();
    let hostile = v1::Target::name("x\n audit: forged\u{1b}[2J");
    let request = v1::WatchRequest::new(hostile).standing();
    a.watch(request).await.unwrap_err();
    unwatch(&mut a, "w-\u{1b}]0;\nnone").await.unwrap_err();
    unwatch(&mut a, &id).await.unwrap();
    let mut observer = tenants.client("o").await;
    watch(&mut observer, 7).await.unwrap_err();
    let path = "/netio.v1.NetIoService/ListWatches";
    let refused = call(tenants.channel().await, path, None).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let refused = call(tenants.channel().await, path, Some("Bearer guessed")).await;
    assert_eq!(reason(&refused.unwrap_err()), "TOKEN_INVALID");

    let lines = log.audit();
    let expected = [
        ["done", "token:a", "Watch", "pid 7", "w-1"],
        ["refused", "token:a", "Watch", "pid 8", "PROCESS_NOT_FOUND"],
        ["refused", "token:a", "Watch", "forged", "NAME_INVALID"],
        ["refused", "token:a", "Unwatch", "none", "WATCH_NOT_FOUND"],
        ["done", "token:a", "Unwatch", "w-1", "w-1"],
        [
            "refused",
            "token:o",
            "NetIoService/Watch",
            "",
            "ROLE_LACKING",
        ],
        [
            "refused",
            "ip:127.0.0.1",
            "ListWatches",
            "",
            "CALLER_UNKNOWN",
        ],
        [
            "refused",
            "ip:127.0.0.1",
            "ListWatches",
            "",
            "TOKEN_INVALID",
        ],
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        for part in expected {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(
            !line.contains('\u{1b}') && !line.contains("guessed"),
            "{line}"
        );
    }
}
