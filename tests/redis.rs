//! A real Redis under watch, by name and by port at the same time: each watch
//! counts, to the byte, what a relay before the server carried.

mod support;

use netio::v1::{Target, WatchRequest};
use support::{
    Collector, Result,
    ledger::{Bytes, Ledger},
    redis::{NAME, Server},
    relay::{Relay, Totals},
    servers::{processes_named, succeed},
    skip,
};

/// What is lacking for the name to mean one server, if anything.
fn lacks_solitude() -> Option<&'static str> {
    processes_named(NAME)
        .is_ok_and(|pids| !pids.is_empty())
        .then_some("a host without another redis-server")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_is_counted_to_the_byte_by_name_and_by_port() -> Result {
    let lacks = support::lacks_kernel().or_else(Server::lacks);
    if skip(lacks.or_else(lacks_solitude)) {
        return Ok(());
    }
    let server = Server::start()?;
    let collector = Collector::start(&["--interval", "200ms"])?;
    let mut client = collector.connect().await?;
    let mut ledgers = Vec::new();
    for target in [Target::name(NAME), Target::port(server.address.port())] {
        let watch = support::request(&mut client, WatchRequest::new(target)).await?;
        let pids: Vec<u32> = watch.processes.iter().map(|it| it.pid).collect();
        assert_eq!(pids, [server.pid()], "{watch:?}");
        assert_eq!(watch.process_count, 1);
        assert!(!watch.follow_children, "one process serves all");
        ledgers.push(Ledger::open(&mut client, &watch).await?);
    }

    let carried = load(&server)?;
    assert!(carried.connections >= 150, "{carried:?}");
    assert!(carried.from_server > 150_000_000, "{carried:?}");
    for mut ledger in ledgers {
        let books = ledger.settled().await?;
        let counted = Bytes {
            sent: carried.from_server,
            received: carried.to_server,
        };
        assert_eq!(books.totals(), counted);
        assert_eq!(books.parts.len(), 1, "{:?}", books.parts);
    }
    Ok(())
}

/// What a relay before the server carried for two benchmarks: many small requests,
/// and answers larger than any buffer.
fn load(server: &Server) -> Result<Totals> {
    let relay = Relay::to(server.address)?;
    for words in [
        "-n 20000 -c 50 -d 100 -t set,get,lrange_100",
        "-n 50 -c 5 -d 1000000 -t set,get",
    ] {
        succeed(Server::benchmark(relay.address).args(words.split(' ')))?;
    }
    relay.totals()
}
