//! TLS from both sides: who gets in, and what a change of files changes.

use std::{fs, net::SocketAddr, os::unix::fs::symlink, time::Duration};

use netio::{Connect, v1};
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Code, Status, Streaming, transport};

use self::pki::Ca;
use super::*;
use crate::{
    Grant, Grantee, Limits, Listeners, Options, Role,
    access::tests::wire::Log,
    server::rig::{Rig, pid},
};

mod floods;
mod pki;

type Client = v1::net_io_service_client::NetIoServiceClient<netio::Channel>;

/// How often the collectors of these tests look at their files.
const LOOKS: Duration = Duration::from_millis(20);
/// For what takes moments.
const PATIENCE: Duration = Duration::from_secs(20);

/// A collector with TLS, its files and those of its clients.
struct Site {
    folder: tempfile::TempDir,
    ca: Ca,
    rig: Rig,
    address: SocketAddr,
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

impl Site {
    /// With one grant to each of these common names, and to a token if there is a role.
    fn new(grants: &[(&str, Role)], token: Option<Role>) -> Self {
        Self::of(grants, token, Limits::default())
    }

    fn of(grants: &[(&str, Role)], token: Option<Role>, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new("ca");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("ca.pem"), ca.pem()).unwrap();
        ca.server().write(&at("server.pem"), &at("server-key.pem"));
        fs::write(at("token"), TOKEN).unwrap();
        let mut all: Vec<_> = grants
            .iter()
            .map(|(cn, role)| Grant {
                role: *role,
                to: Grantee::Cn((*cn).to_owned()),
            })
            .collect();
        all.extend(token.map(|role| Grant {
            role,
            to: Grantee::Token {
                name: "t".to_owned(),
                file: at("token"),
            },
        }));
        let files = TlsFiles {
            cert: at("server.pem"),
            key: at("server-key.pem"),
            client_ca: Some(at("ca.pem")),
        };
        let mut listeners = Listeners::new();
        listeners.reload = LOOKS;
        let address = listeners.bind_tls("127.0.0.1:0".parse().unwrap(), &files);
        let options = Options {
            grants: all,
            interval: Options::MIN_INTERVAL,
            limits,
            ..Options::default()
        };
        let rig = Rig::listening(options, listeners);
        rig.processes.start(7, 1);
        Self {
            folder,
            ca,
            rig,
            address: address.unwrap(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client that knows the collector, and is not known by it.
    fn unknown(&self) -> Connect {
        Connect::to(format!("tls://{}", self.address)).tls_ca(self.at("ca.pem"))
    }

    /// One with this pair.
    fn with(&self, pair: &pki::Pair, name: &str) -> Connect {
        let [cert, key] = ["pem", "key"].map(|kind| self.at(&format!("{name}.{kind}")));
        pair.write(&cert, &key);
        self.unknown().tls_identity(cert, key)
    }

    async fn client(&self, cn: &str) -> Client {
        let connect = self.with(&self.ca.client(cn), cn);
        Client::new(connect.channel().await.unwrap())
    }
}

async fn list(connect: &Connect) -> Result<usize, String> {
    let channel = connect.channel().await.map_err(|it| format!("{it:?}"))?;
    let listed = Client::new(channel)
        .list_watches(v1::ListWatchesRequest {})
        .await;
    Ok(listed
        .map_err(|it| format!("{it:?}"))?
        .into_inner()
        .watches
        .len())
}

/// Waits until this is true of a client.
async fn until(connect: &Connect, what: &str, is: impl Fn(&Result<usize, String>) -> bool) {
    let begin = std::time::Instant::now();
    loop {
        let listed = list(connect).await;
        if is(&listed) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: {listed:?}");
        tokio::time::sleep(LOOKS).await;
    }
}

async fn watch(client: &mut Client) -> Result<v1::Watch, Status> {
    let request = v1::WatchRequest {
        target: pid(7),
        ..v1::WatchRequest::default()
    };
    let answer = client.watch(request).await?.into_inner();
    Ok(answer.watch.unwrap())
}

/// What comes of each method, by its name.
async fn every_method(client: &mut Client) -> Vec<(&'static str, Result<(), Status>)> {
    let names = || vec!["w-1".to_owned()];
    let selector = Some(v1::unwatch_request::Selector::WatchId("w-1".to_owned()));
    let unwatch = v1::UnwatchRequest { selector };
    let renew = v1::RenewWatchesRequest { watch_ids: names() };
    let subscribe = v1::SubscribeRequest::default();
    let info = v1::GetCollectorInfoRequest {};
    vec![
        ("Watch", watch(client).await.map(drop)),
        ("Renew", client.renew_watches(renew).await.map(drop)),
        ("Unwatch", client.unwatch(unwatch).await.map(drop)),
        (
            "List",
            client
                .list_watches(v1::ListWatchesRequest {})
                .await
                .map(drop),
        ),
        (
            "Discover",
            client.discover(v1::DiscoverRequest {}).await.map(drop),
        ),
        ("Subscribe", client.subscribe(subscribe).await.map(drop)),
        ("Info", client.get_collector_info(info).await.map(drop)),
    ]
}

#[tokio::test]
async fn a_certificate_is_known_by_its_name_and_may_what_it_is_granted() {
    let site = Site::new(
        &[("watcher", Role::Watch), ("observer", Role::Observe)],
        None,
    );
    let mut watcher = site.client("watcher").await;
    assert_eq!(watch(&mut watcher).await.unwrap().owner, "cn:watcher");
    for (method, outcome) in every_method(&mut watcher).await {
        outcome.unwrap_or_else(|status| panic!("{method}: {status}"));
    }
    for (name, has) in [("observer", "observe"), ("stranger", "no role")] {
        for (method, outcome) in every_method(&mut site.client(name).await).await {
            let changes = ["Watch", "Renew", "Unwatch"].contains(&method);
            match outcome {
                Ok(()) => assert!(!changes && name == "observer", "{name} {method}"),
                Err(refused) => {
                    assert!(changes || name == "stranger", "{name} {method}");
                    assert_eq!(refused.code(), Code::PermissionDenied, "{method}");
                    assert!(refused.message().contains(has), "{refused}");
                }
            }
        }
    }
}

#[tokio::test]
async fn who_proves_nothing_leaves_half_of_the_places() {
    let limits = Limits {
        max_connections: 2,
        ..Limits::default()
    };
    let site = Site::of(&[("dba", Role::Watch)], Some(Role::Observe), limits);
    let mut unknown = Client::new(site.unknown().channel().await.unwrap());
    assert!(watch(&mut unknown).await.is_err());
    // One more of its kind waits.
    let another = site.unknown();
    let another = tokio::spawn(async move { list(&another).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut dba = site.client("dba").await;
    watch(&mut dba).await.unwrap();
    assert!(!another.is_finished());
    drop(unknown);
    let refused = tokio::time::timeout(PATIENCE, another).await;
    refused.unwrap().unwrap().unwrap_err();
}

#[tokio::test]
async fn fault_10_who_has_no_certificate_is_asked_for_a_token_by_every_method() {
    let site = Site::new(&[("c", Role::Admin)], Some(Role::Watch));
    let mut unknown = Client::new(site.unknown().channel().await.unwrap());
    for (method, outcome) in every_method(&mut unknown).await {
        let refused = outcome.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{method}");
        assert!(refused.message().contains("--token-file"), "{refused}");
    }
    let connect = site.unknown().token_file(site.at("token"));
    let mut known = Client::new(connect.channel().await.unwrap());
    assert_eq!(watch(&mut known).await.unwrap().owner, "token:t");
}

#[tokio::test]
async fn fault_10_bad_certificates_are_refused_for_every_method_and_on_the_record() {
    let (log, _guard) = Log::start();
    let site = Site::new(&[("c", Role::Admin)], None);
    let foreign = Ca::new("ca");
    let pairs = [
        ("expired", site.ca.expired_client("c")),
        ("foreign", foreign.client("c")),
        ("for a server", site.ca.server()),
    ];
    let mut refused = vec![("none", site.unknown())];
    for (name, pair) in &pairs {
        refused.push((name, site.with(pair, name)));
    }
    for (name, connect) in refused {
        // The client's side is done before the collector has looked at its certificate,
        // so the refusal may come with the first call.
        if let Ok(channel) = connect.channel().await {
            for (method, outcome) in every_method(&mut Client::new(channel)).await {
                assert!(outcome.is_err(), "{name}: {method}");
            }
        }
    }
    assert_eq!(site.rig.kernel.with(|it| it.allowed.len()), 0);
    let lines = log.audit();
    for why in [
        "expired",
        "BadSignature",
        "extended key usage",
        "no certificate",
    ] {
        let is_told = lines
            .iter()
            .any(|it| it.contains(why) && it.contains("CERTIFICATE_REFUSED"));
        assert!(is_told, "{why}: {lines:#?}");
    }
    let mut good = site.client("c").await;
    watch(&mut good).await.unwrap();
}

/// A stream that must go on.
async fn stream(client: &mut Client) -> Streaming<v1::SubscribeResponse> {
    let request = v1::SubscribeRequest::default();
    let mut stream = client.subscribe(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    stream
}

/// A stream that is read all the while, and must not miss a tick.
struct Reader {
    until: watch::Sender<u64>,
    reading: JoinHandle<()>,
}

impl Reader {
    async fn start(client: &mut Client) -> Self {
        let mut stream = stream(client).await;
        let (until, end) = watch::channel(u64::MAX);
        let reading = tokio::spawn(async move {
            let mut last = None;
            loop {
                let tick = tokio::time::timeout(PATIENCE, stream.message()).await;
                let sequence = tick.unwrap().unwrap().unwrap().sequence;
                let follows = last.is_none_or(|last| sequence == last + 1);
                assert!(follows, "tick {sequence} after {last:?}");
                if sequence >= *end.borrow() {
                    return;
                }
                last = Some(sequence);
            }
        });
        Self { until, reading }
    }

    /// Waits for a tick that is made from now on, as another client is told of it.
    async fn goes_on(self, other: &mut Client) {
        // The first that it is sent may be of before.
        let next = stream(other).await.message().await.unwrap().unwrap();
        self.until.send_replace(next.sequence);
        self.reading.await.unwrap();
    }
}

/// All ways of a new certificate: written in place, renamed over, and by a link that is
/// moved. Whoever trusts only the old CA is refused then, and who has a stream keeps it.
#[tokio::test]
async fn fault_18_changed_certificates_are_taken_into_use_and_cut_nothing() {
    let site = Site::new(&[("c", Role::Observe)], None);
    let reader = Reader::start(&mut site.client("c").await).await;
    // With all in folders, and links to what is in them.
    let folder = |ca: &Ca, name: &str| {
        let folder = site.at(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
        ca.server()
            .write(&folder.join("server.pem"), &folder.join("server-key.pem"));
        folder
    };
    let trusting = |ca: &Ca, name: &str| {
        let pair = ca.client("c");
        let [cert, key, root] = ["pem", "key", "ca"].map(|it| site.at(&format!("{name}.{it}")));
        pair.write(&cert, &key);
        fs::write(&root, ca.pem()).unwrap();
        Connect::to(format!("tls://{}", site.address))
            .tls_ca(root)
            .tls_identity(cert, key)
    };
    let files = ["ca.pem", "server.pem", "server-key.pem"];

    let before = trusting(&site.ca, "before");
    list(&before).await.unwrap();
    // Written, one after the other: in between, they do not fit together.
    let written = Ca::new("written");
    let by_write = trusting(&written, "by-write");
    let source = folder(&written, "written");
    for file in files {
        fs::copy(source.join(file), site.at(file)).unwrap();
        tokio::time::sleep(LOOKS * 3).await;
    }
    until(&by_write, "written", Result::is_ok).await;
    list(&before).await.unwrap_err();

    // Renamed: here links, to the folder's.
    let linked = Ca::new("linked");
    let by_link = trusting(&linked, "by-link");
    symlink(folder(&linked, "linked"), site.at("current")).unwrap();
    for file in files {
        symlink(site.at("current").join(file), site.at("new")).unwrap();
        fs::rename(site.at("new"), site.at(file)).unwrap();
    }
    until(&by_link, "linked", Result::is_ok).await;

    // The folder's link is moved, as Kubernetes does it.
    let moved = Ca::new("moved");
    let by_move = trusting(&moved, "by-move");
    symlink(folder(&moved, "moved"), site.at("new")).unwrap();
    fs::rename(site.at("new"), site.at("current")).unwrap();
    until(&by_move, "moved", Result::is_ok).await;
    list(&by_link).await.unwrap_err();

    let mut newest = Client::new(by_move.channel().await.unwrap());
    reader.goes_on(&mut newest).await;
}

#[tokio::test]
async fn fault_18_files_of_no_use_are_told_once_and_leave_all_as_it_was() {
    let (log, _guard) = Log::start();
    let site = Site::new(&[("c", Role::Observe)], Some(Role::Observe));
    let good = site.with(&site.ca.client("c"), "c");
    list(&good).await.unwrap();
    let by_token = site.unknown().token_file(site.at("own-token"));
    fs::write(site.at("own-token"), TOKEN).unwrap();
    list(&by_token).await.unwrap();

    let whole = fs::read_to_string(site.at("server.pem")).unwrap();
    for (file, half) in [
        ("server.pem", &whole[..whole.len() / 2]),
        ("server-key.pem", ""),
        (
            "ca.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ),
        ("token", "short"),
    ] {
        let kept = fs::read(site.at(file)).unwrap();
        let warnings = || log.count("stays in use");
        let before = warnings();
        // The client has its own copy of the CA's.
        let client_ca = site.at("client-ca");
        fs::write(&client_ca, site.ca.pem()).unwrap();
        fs::write(site.at(file), half).unwrap();
        let begin = std::time::Instant::now();
        while warnings() == before {
            assert!(begin.elapsed() < PATIENCE, "{file} is not told");
            tokio::time::sleep(LOOKS).await;
        }
        tokio::time::sleep(LOOKS * 5).await;
        assert_eq!(warnings(), before + 1, "{file}");
        list(&good.clone().tls_ca(&client_ca)).await.unwrap();
        list(&by_token.clone().tls_ca(&client_ca)).await.unwrap();
        fs::write(site.at(file), kept).unwrap();
    }
    // A token that changes is changed.
    fs::write(site.at("token"), "fedcba9876543210").unwrap();
    until(&by_token, "the old token", Result::is_err).await;
    fs::write(site.at("own-token"), "fedcba9876543210").unwrap();
    list(&by_token).await.unwrap();
}

#[test]
fn what_is_wrong_with_files_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let ca = Ca::new("ca");
    ca.server().write(&at("cert"), &at("key"));
    ca.server().write(&at("other-cert"), &at("other-key"));
    fs::write(at("ca"), ca.pem()).unwrap();
    fs::write(at("empty"), "").unwrap();
    let refused = |cert: &str, key: &str, client_ca: &str| {
        let files = TlsFiles {
            cert: at(cert),
            key: at(key),
            client_ca: Some(at(client_ca)),
        };
        let mut listeners = Listeners::new();
        let bound = listeners.bind_tls("127.0.0.1:0".parse().unwrap(), &files);
        bound.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(refused("cert", "key", "ca"), Ok(()));
    for (cert, key, client_ca, why) in [
        ("missing", "key", "ca", "cannot read"),
        ("empty", "key", "ca", "no certificate"),
        ("key", "key", "ca", "no certificate"),
        ("cert", "cert", "ca", "no private key"),
        ("cert", "other-key", "ca", "not the certificate of"),
        ("cert", "key", "empty", "no certificate"),
    ] {
        let refused = refused(cert, key, client_ca).unwrap_err();
        assert!(refused.contains(why), "{cert} {key} {client_ca}: {refused}");
        assert!(refused.contains("tls://127.0.0.1:0"), "{refused}");
    }
}

#[tokio::test]
async fn many_streams_on_one_connection_get_every_message() {
    let site = Site::new(&[("c", Role::Observe)], None);
    let mut client = site.client("c").await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(stream(&mut client).await);
    }
    for _ in 0..5 {
        for stream in &mut streams {
            let tick = tokio::time::timeout(PATIENCE, stream.message()).await;
            assert_eq!(tick.unwrap().unwrap().unwrap().skipped_ticks, 0);
        }
    }
}

#[tokio::test]
async fn plain_text_is_refused_where_there_is_tls() {
    let site = Site::new(&[("c", Role::Observe)], None);
    let plain = transport::Endpoint::from_shared(format!("http://{}", site.address)).unwrap();
    let listed = match plain.connect().await {
        Ok(channel) => v1::net_io_service_client::NetIoServiceClient::new(channel)
            .list_watches(v1::ListWatchesRequest {})
            .await
            .is_ok(),
        Err(_) => false,
    };
    assert!(!listed);
}
