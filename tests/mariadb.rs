//! A real MariaDB under watch: what netio counts for the server is, to the byte,
//! what the kernel counted on the clients' own sockets.

mod support;

use netio::v1::{Target, WatchRequest};
use support::{
    Collector, Result,
    ledger::{Bytes, Ledger},
    mariadb::{NAME, Server},
    mysql::Connection,
    servers::processes_named,
    settled, skip,
};
use tokio::sync::Mutex;

const ROWS: usize = 64;
const ROW_BYTES: usize = 100_000;

/// A name means every server that has it, so only one test at a time has one.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn a_large_select_shows_as_sent_and_a_large_insert_as_received() -> Result {
    if skip(support::lacks_kernel().or_else(Server::lacks)) {
        return Ok(());
    }
    let _alone = ALONE.lock().await;
    let server = Server::running()?;
    let collector = Collector::start(&["--interval", "200ms"])?;
    let mut client = collector.connect().await?;
    let watch = support::watch(&mut client, server.pid()).await?;
    let mut ticks = support::subscribe(&mut client, &watch).await?;

    let mut connection = Connection::open(server.address)?;
    connection.query("CREATE DATABASE d")?;
    connection.query("CREATE TABLE d.t (v LONGTEXT)")?;
    let before = settled(&mut ticks).await?;

    // Oversized SQL: the server receives.
    let literal = "x".repeat(ROW_BYTES);
    for _ in 0..ROWS {
        connection.query(&format!("INSERT INTO d.t VALUES ('{literal}')"))?;
    }
    let inserted = settled(&mut ticks).await?;
    let received = inserted.received_bytes_total - before.received_bytes_total;
    let sent = inserted.sent_bytes_total - before.sent_bytes_total;
    assert!(
        received > (ROWS * ROW_BYTES) as u64,
        "{received} bytes received"
    );
    assert!(sent < 10_000, "{sent} bytes sent");

    // A full-table query: the server sends.
    let rows = connection.query("SELECT v FROM d.t")?;
    let selected = settled(&mut ticks).await?;
    let sent = selected.sent_bytes_total - inserted.sent_bytes_total;
    let received = selected.received_bytes_total - inserted.received_bytes_total;
    assert!(sent > rows as u64, "{sent} bytes sent");
    assert!(received < 1_000, "{received} bytes received");

    // To the byte, over the whole run.
    let info = connection.info()?;
    assert_eq!(info.unacked, 0);
    assert_eq!(selected.sent_bytes_total, info.bytes_received);
    assert_eq!(
        selected.received_bytes_total,
        info.bytes_sent - info.bytes_retrans
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_add_up_to_what_their_sockets_counted() -> Result {
    if skip(support::lacks_kernel().or_else(Server::lacks)) {
        return Ok(());
    }
    let _alone = ALONE.lock().await;
    let server = Server::running()?;
    let collector = Collector::start(&["--interval", "200ms"])?;
    let mut client = collector.connect().await?;
    let watch = support::watch(&mut client, server.pid()).await?;
    let mut ticks = support::subscribe(&mut client, &watch).await?;

    let truth = sixteen_clients(&server)?;
    let total = settled(&mut ticks).await?;
    assert_eq!(total.sent_bytes_total, truth.sent);
    assert_eq!(total.received_bytes_total, truth.received);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn name_and_port_find_the_same_server() -> Result {
    if skip(support::lacks_kernel().or_else(Server::lacks)) {
        return Ok(());
    }
    let _alone = ALONE.lock().await;
    if skip(lacks_solitude()) {
        return Ok(());
    }
    let server = Server::running()?;
    let collector = Collector::start(&["--interval", "200ms"])?;
    let mut client = collector.connect().await?;
    let mut ledgers = Vec::new();
    for target in [Target::name(NAME), Target::port(server.address.port())] {
        let watch = support::request(&mut client, WatchRequest::new(target)).await?;
        let pids: Vec<u32> = watch.processes.iter().map(|it| it.pid).collect();
        assert_eq!(pids, [server.pid()], "{watch:?}");
        assert!(!watch.follow_children, "one process serves all");
        ledgers.push(Ledger::open(&mut client, &watch).await?);
    }
    let truth = sixteen_clients(&server)?;
    for mut ledger in ledgers {
        assert_eq!(ledger.settled().await?.totals(), truth);
    }
    Ok(())
}

/// What is lacking for the name to mean one server, if anything.
fn lacks_solitude() -> Option<&'static str> {
    processes_named(NAME)
        .is_ok_and(|pids| !pids.is_empty())
        .then_some("a host without another mariadbd")
}

/// Clients that ask at the same time; what that was for the server, by their
/// sockets.
fn sixteen_clients(server: &Server) -> Result<Bytes> {
    let address = server.address;
    let connections: Vec<_> = (1..=16)
        .map(|number: usize| {
            std::thread::spawn(move || {
                let run = || -> Result<_> {
                    let mut connection = Connection::open(address)?;
                    for round in 0..50 {
                        connection.query(&format!("SELECT REPEAT('y', {})", number * round))?;
                    }
                    connection.info()
                };
                run().map_err(|error| error.to_string())
            })
        })
        .collect();
    let mut server = Bytes::default();
    for connection in connections {
        let info = connection.join().map_err(|_| "a client panicked")??;
        server.received += info.bytes_sent - info.bytes_retrans;
        server.sent += info.bytes_received;
    }
    Ok(server)
}
