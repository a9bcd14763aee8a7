//! Watches that are made before their server runs: they wait, count it from its
//! first byte, outlive its death, and go on with its successor.

mod support;

use std::time::{Duration, Instant};

use netio::v1::{
    NetIoSample, ProcessState, Target, Watch, WatchRequest,
    net_io_service_client::NetIoServiceClient,
};
use support::{
    Collector, PATIENCE, Result,
    ledger::{Bytes, Ledger},
    listed,
    mariadb::{NAME, Server},
    mysql::Connection,
    servers::{listens, processes_named},
    skip,
};
use tonic::transport::Channel;

type Client = NetIoServiceClient<Channel>;

/// What is lacking for the name to mean one server, if anything.
fn lacks_solitude() -> Option<&'static str> {
    processes_named(NAME)
        .is_ok_and(|pids| !pids.is_empty())
        .then_some("a host without another mariadbd")
}

/// A rule, and its watch.
struct Rule {
    what: &'static str,
    watch: Watch,
    ledger: Ledger,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_counted_from_its_first_byte_and_so_is_its_successor() -> Result {
    let lacks = support::lacks_kernel().or_else(Server::lacks);
    if skip(lacks.or_else(lacks_solitude)) {
        return Ok(());
    }
    let mut server = Server::prepare()?;
    let collector = Collector::start(&["--interval", "200ms"])?;
    let mut client = collector.connect().await?;
    let mut rules = Vec::new();
    for (what, target) in [
        ("name", Target::name(NAME)),
        ("port", Target::port(server.address.port())),
    ] {
        let request = WatchRequest::new(target).standing();
        let watch = support::request(&mut client, request).await?;
        assert_eq!(watch.process_count, 0, "{watch:?}");
        assert_eq!(watch.processes, [], "{watch:?}");
        assert_eq!(watch.lease, None, "{watch:?}");
        let ledger = Ledger::open(&mut client, &watch).await?;
        rules.push(Rule {
            what,
            watch,
            ledger,
        });
    }
    for rule in &mut rules {
        let last = rule.waits().await?;
        assert_eq!(last.process, None, "there was none yet");
    }

    // Both have it before its first client.
    let first = start(&mut client, &mut server, &rules).await?;
    let truth = serve(&server)?;
    for rule in &mut rules {
        let books = rule.ledger.settled().await?;
        assert_eq!(books.totals(), truth, "by {}", rule.what);
        assert_eq!(books.state(), Some(ProcessState::Running));
        let parts: Vec<u32> = books.parts.keys().map(|(pid, _)| *pid).collect();
        assert_eq!(parts, [first], "by {}", rule.what);
    }

    server.kill();
    for rule in &mut rules {
        let last = rule.waits().await?;
        assert_eq!(last.sent_bytes_total, truth.sent, "by {}", rule.what);
        let watch = listed(&mut client, &rule.watch).await?;
        let watch = watch.ok_or("the watch ended with its process")?;
        assert_eq!(watch.process_count, 0, "{watch:?}");
    }

    // Another process in the same watch, whose totals go on.
    let second = start(&mut client, &mut server, &rules).await?;
    assert_ne!(first, second);
    let more = serve(&server)?;
    for rule in &mut rules {
        let books = rule.ledger.settled().await?;
        let both = Bytes {
            sent: truth.sent + more.sent,
            received: truth.received + more.received,
        };
        assert_eq!(books.totals(), both, "by {}", rule.what);
        let part = |pid: u32| {
            let mut parts = books.parts.iter();
            parts.find_map(|((other, _), part)| (*other == pid).then_some(part.bytes))
        };
        assert_eq!(part(first), Some(truth), "by {}", rule.what);
        assert_eq!(part(second), Some(more), "by {}", rule.what);
    }

    for rule in &rules {
        support::unwatch(&mut client, &rule.watch).await?;
        assert_eq!(listed(&mut client, &rule.watch).await?, None);
    }
    Ok(())
}

impl Rule {
    /// The sample that says that the watch has no process.
    async fn waits(&mut self) -> Result<NetIoSample> {
        let waits = self.ledger.when("sample of a watch that waits", |books| {
            books.state() == Some(ProcessState::Waiting)
        });
        Ok(waits.await?.last.ok_or("no sample")?)
    }
}

/// Starts the server and waits until every rule has found it; tells how long that
/// took. Nobody connects meanwhile, as that would be traffic.
async fn start(client: &mut Client, server: &mut Server, rules: &[Rule]) -> Result<u32> {
    let launch = Instant::now();
    server.launch()?;
    let pid = server.pid();
    let mut listening = None;
    let mut matched = vec![None; rules.len()];
    while listening.is_none() || matched.contains(&None) {
        assert!(
            launch.elapsed() < PATIENCE,
            "listens: {listening:?}, matched: {matched:?}"
        );
        if listening.is_none() && listens(server.address)? {
            listening = Some(launch.elapsed());
        }
        for (rule, matched) in rules.iter().zip(&mut matched) {
            let watch = listed(client, &rule.watch).await?.ok_or("it is gone")?;
            if matched.is_none() && watch.processes.iter().any(|it| it.pid == pid) {
                assert_eq!(watch.process_count, 1, "{watch:?}");
                *matched = Some(launch.elapsed());
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let milliseconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e3;
    for (rule, matched) in rules.iter().zip(matched) {
        println!(
            "by {}: matched {:.0} ms after it was started, {:+.0} ms after it listened",
            rule.what,
            milliseconds(matched),
            milliseconds(matched) - milliseconds(listening),
        );
    }
    Ok(pid)
}

/// A client's session; what it was for the server, by the client's socket.
fn serve(server: &Server) -> Result<Bytes> {
    let mut connection = Connection::open(server.address)?;
    connection.query("SELECT REPEAT('y', 54321)")?;
    let info = connection.info()?;
    assert_eq!(info.unacked, 0);
    Ok(Bytes {
        sent: info.bytes_received,
        received: info.bytes_sent - info.bytes_retrans,
    })
}
