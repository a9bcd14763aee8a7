//! The floor: no HTTP/2, no runtime; one thread that sends to one TCP socket
//! after the other.
//!
//! A client says in its first 4 bytes how many streams its connection stands
//! for, and gets so many messages a tick, by one call.

use std::{
    future::pending,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::Result;

use super::{Ready, listen};
use crate::{
    message::{framed, message},
    next_tick, now, print,
};

/// More than a connection ever stands for.
const MAX_STREAMS: usize = 1_024;
/// A client that does not speak, or does not take its messages, for so long has
/// left.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection, and how many streams it stands for.
struct Client {
    socket: TcpStream,
    streams: usize,
}

/// Serves for as long as the process lives.
pub(super) async fn serve(watches: u32) -> Result<()> {
    let listener = listen()?;
    listener.set_nonblocking(false)?;
    let address = listener.local_addr()?;
    let (sender, accepted) = channel();
    thread::spawn(move || accept(&listener, &sender));
    thread::spawn(move || tick(watches, &accepted));
    let watch_ids = Vec::new();
    print(&Ready { address, watch_ids })?;
    pending().await
}

fn accept(listener: &TcpListener, clients: &Sender<Client>) {
    for socket in listener.incoming() {
        // A client that cannot be served is missed by the load.
        if let Ok(client) = socket.and_then(greet) {
            let _ = clients.send(client);
        }
    }
}

fn greet(mut socket: TcpStream) -> io::Result<Client> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut streams = [0; 4];
    socket.read_exact(&mut streams)?;
    let streams = (u32::from_be_bytes(streams) as usize).min(MAX_STREAMS);
    Ok(Client { socket, streams })
}

fn tick(watches: u32, accepted: &Receiver<Client>) {
    let mut clients = Vec::new();
    for sequence in 1.. {
        thread::sleep(next_tick(now()).saturating_sub(now()));
        clients.extend(accepted.try_iter());
        let frame = framed(&message(now(), sequence, watches));
        let most = clients.iter().map(|client| client.streams).max();
        let bytes = frame.repeat(most.unwrap_or_default());
        clients.retain_mut(|client| {
            let wanted = bytes.get(..frame.len() * client.streams);
            wanted.is_some_and(|wanted| client.socket.write_all(wanted).is_ok())
        });
    }
}
