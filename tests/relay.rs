//! The relay that other tests take the truth from: it is right, or it says that
//! it is not.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use support::{
    PATIENCE, Result,
    relay::{Relay, Totals},
    servers::free_address,
};

/// A server for `connections` clients, each served by `serve` in a thread.
fn server(
    connections: usize,
    serve: fn(TcpStream) -> std::io::Result<()>,
) -> Result<(
    std::net::SocketAddr,
    thread::JoinHandle<std::io::Result<()>>,
)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = thread::spawn(move || {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let (client, _) = listener.accept()?;
            client.set_read_timeout(Some(PATIENCE))?;
            clients.push(thread::spawn(move || serve(client)));
        }
        for client in clients {
            client
                .join()
                .map_err(|_| std::io::Error::other("panicked"))??;
        }
        Ok(())
    });
    Ok((address, server))
}

/// Answers each byte with three, and ends when the client has.
fn threefold(mut client: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 1000];
    loop {
        let length = client.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        for _ in 0..3 {
            client.write_all(&buffer[..length])?;
        }
    }
}

fn join(server: thread::JoinHandle<std::io::Result<()>>) -> Result {
    Ok(server.join().map_err(|_| "the server panicked")??)
}

#[test]
fn many_short_connections_at_once_add_up() -> Result {
    const CLIENTS: usize = 32;
    const ROUNDS: usize = 30;
    let (address, server) = server(CLIENTS * ROUNDS, threefold)?;
    let relay = Relay::to(address)?;
    let through = relay.address;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            thread::spawn(move || -> std::io::Result<u64> {
                let mut sent = 0;
                for round in 0..ROUNDS {
                    let mut socket = TcpStream::connect(through)?;
                    socket.set_read_timeout(Some(PATIENCE))?;
                    let request = vec![1; 1 + client * 97 + round * 13];
                    socket.write_all(&request)?;
                    // Half a connection is left, on which the rest must come.
                    socket.shutdown(Shutdown::Write)?;
                    let mut answer = Vec::new();
                    socket.read_to_end(&mut answer)?;
                    assert_eq!(answer.len(), 3 * request.len());
                    sent += request.len() as u64;
                }
                Ok(sent)
            })
        })
        .collect();
    let mut sent = 0;
    for client in clients {
        sent += client.join().map_err(|_| "a client panicked")??;
    }
    assert_eq!(
        relay.totals()?,
        Totals {
            connections: (CLIENTS * ROUNDS) as u64,
            to_server: sent,
            from_server: 3 * sent,
        }
    );
    join(server)
}

#[test]
fn totals_wait_for_clients_that_have_left_already() -> Result {
    let (address, server) = server(50, threefold)?;
    let relay = Relay::to(address)?;
    for _ in 0..50 {
        TcpStream::connect(relay.address)?.write_all(&[1; 10])?;
    }
    let totals = relay.totals()?;
    assert_eq!((totals.connections, totals.to_server), (50, 500));
    // What the clients did not stay to read was sent all the same.
    assert_eq!(totals.from_server, 1500);
    join(server)
}

#[test]
fn a_server_that_leaves_data_unread_puts_the_truth_in_doubt() -> Result {
    let (address, server) = server(1, |mut client| {
        let mut first = [0; 1];
        client.read_exact(&mut first)?;
        // Everything has arrived by now, and is thrown away.
        while client.peek(&mut [0; 5000])? < 4999 {}
        Ok(())
    })?;
    let relay = Relay::to(address)?;
    let mut client = TcpStream::connect(relay.address)?;
    client.write_all(&[1; 5000])?;
    join(server)?;
    let _ = client.read(&mut [0; 1]);
    drop(client);
    let error = relay
        .totals()
        .expect_err("the server received less than it was sent");
    assert!(error.to_string().contains("in doubt"), "{error}");
    Ok(())
}

#[test]
fn a_server_that_is_not_there_puts_the_truth_in_doubt() -> Result {
    let relay = Relay::to(free_address()?)?;
    drop(TcpStream::connect(relay.address)?);
    relay.totals().expect_err("nobody was served");
    Ok(())
}
