//! A real PostgreSQL under watch, a process for each connection: what netio counts
//! for the whole server is, to the byte, what a relay before it carried, whether
//! its clients stay or connect anew for each transaction.

mod support;

use std::fs;

use netio::v1::{Target, WatchRequest};
use support::{
    Collector, Result,
    ledger::{Books, Bytes, Ledger},
    postgres::Server,
    relay::{Relay, Totals},
    servers::succeed,
    skip,
};

const CLIENTS: u64 = 50;

/// A result that fits no buffer, among the small ones.
const LARGE: &str = "SELECT repeat('x', 100000 + :client_id);\n";

/// A run of pgbench against a server that is watched.
struct Load<'a> {
    /// Of each client.
    transactions: u64,
    /// What else it is told.
    words: &'a [&'a str],
}

/// Clients that stay for about five seconds.
const STAYING: Load<'static> = Load {
    transactions: 1500,
    words: &["-b", "select-only@40", "-b", "simple-update@5"],
};

/// Clients that connect anew for each transaction.
const RECONNECTING: Load<'static> = Load {
    transactions: 20,
    words: &["-C", "-b", "select-only"],
};

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_stay_are_counted_to_the_byte_by_port() -> Result {
    counts(|server| Target::port(server.address.port()), STAYING).await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_made_anew_are_counted_to_the_byte_by_port() -> Result {
    counts(|server| Target::port(server.address.port()), RECONNECTING).await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_stay_are_counted_to_the_byte_by_pid() -> Result {
    counts(|server| Target::pid(server.pid()), STAYING).await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_made_anew_are_counted_to_the_byte_by_pid() -> Result {
    counts(|server| Target::pid(server.pid()), RECONNECTING).await
}

/// Watches with the default for following children, which must be to follow.
async fn counts(target: fn(&Server) -> Target, load: Load<'static>) -> Result {
    if skip(support::lacks_kernel().or_else(Server::lacks)) {
        return Ok(());
    }
    let server = Server::start()?;
    succeed(server.program("pgbench", server.address).args([
        "--initialize",
        "--quiet",
        "--scale=1",
    ]))?;
    server.idle()?;

    let collector = Collector::start(&["--interval", "200ms"])?;
    let mut client = collector.connect().await?;
    let watch = support::request(&mut client, WatchRequest::new(target(&server))).await?;
    assert!(watch.follow_children, "{watch:?}");
    let mut pids = watch.processes.iter().map(|process| process.pid);
    assert!(pids.any(|pid| pid == server.pid()), "{watch:?}");
    let mut ledger = Ledger::open(&mut client, &watch).await?;

    let (carried, sessions) = run(&server, load)?;
    // pgbench looks around in a session of its own first.
    assert_eq!(carried.connections, sessions + 1);
    let books = ledger.settled().await?;
    let counted = Bytes {
        sent: carried.from_server,
        received: carried.to_server,
    };
    assert_eq!(books.totals(), counted);
    assert_eq!(parts(&books), counted);
    // Those that served a client are told apart.
    let busy = books.parts.values().filter(|part| part.bytes.sent > 0);
    assert!(busy.count() as u64 >= CLIENTS, "{:?}", books.parts);
    support::unwatch(&mut client, &watch).await
}

/// Loads the server through a relay: what that carried, and the sessions that
/// pgbench was asked for.
fn run(server: &Server, load: Load<'_>) -> Result<(Totals, u64)> {
    let directory = tempfile::tempdir()?;
    let script = directory.path().join("large.sql");
    fs::write(&script, LARGE)?;
    let relay = Relay::to(server.address)?;
    succeed(
        server
            .program("pgbench", relay.address)
            .args(["--no-vacuum", "--jobs=2"])
            .arg(format!("--client={CLIENTS}"))
            .arg(format!("--transactions={}", load.transactions))
            .args(load.words)
            .arg(format!("--file={}@1", script.display())),
    )?;
    let sessions = if load.words.contains(&"-C") {
        CLIENTS * load.transactions
    } else {
        CLIENTS
    };
    Ok((relay.totals()?, sessions))
}

/// The sum over all that had a line, and what had none.
fn parts(books: &Books) -> Bytes {
    let parts = books.parts.values().map(|part| part.bytes);
    parts.fold(books.unlisted, |sum, part| Bytes {
        sent: sum.sent + part.sent,
        received: sum.received + part.received,
    })
}
