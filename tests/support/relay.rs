//! A TCP relay between a client program and a server: the truth about traffic of
//! programs that do not tell how much they sent.
//!
//! It listens on loopback, connects to the server for each client, and copies
//! both ways until both sides have closed. Before it closes its socket to the
//! server it compares what it copied with what TCP_INFO says of that socket.
//! [`Relay::totals`] is the sum over all connections once every one of them has
//! ended, or the first thing that makes the sum doubtful: a connection that broke
//! off, data that the server never took, a disagreement with TCP_INFO.
//!
//! What is counted is the server's side. So a client that breaks off spoils
//! nothing: what the server sent it is read to the end and thrown away.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use netio_traffic::tcp_info;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{PATIENCE, Result};

/// How often the listener looks whether it shall stop.
const GLANCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};
/// Connections at once: far more than any test makes, so that none is refused
/// and a client that runs wild is stopped.
const MOST_OPEN: usize = 256;
const CHUNK: usize = 64 * 1024;

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub connections: u64,
    /// Bytes that the server received.
    pub to_server: u64,
    /// Bytes that the server sent.
    pub from_server: u64,
}

/// Stops listening when dropped; connections end with their two sides.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    books: Mutex<Books>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Default)]
struct Books {
    /// Times that the listener found nobody waiting.
    empty: u64,
    open: usize,
    totals: Totals,
    doubt: Option<String>,
}

impl Relay {
    pub fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let listening = thread::spawn({
            let state = Arc::clone(&state);
            move || {
                if let Err(error) = listen(&listener, server, &state) {
                    state.doubt(format!("the relay stopped to listen: {error}"));
                }
            }
        });
        Ok(Self {
            address,
            state,
            listening: Some(listening),
        })
    }

    /// What went through all connections that were made before this call; waits
    /// until the last of them has ended.
    pub fn totals(&self) -> Result<Totals> {
        let deadline = Instant::now() + PATIENCE;
        let mut books = self.state.books();
        // Clients that connected and left may still wait to be accepted: nobody
        // does once a look that began after this call has found nobody.
        let looked = books.empty + 2;
        while books.doubt.is_none() && (books.empty < looked || books.open > 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("{} connections do not end", books.open).into());
            }
            let waited = self.state.changed.wait_timeout(books, left);
            books = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        match &books.doubt {
            Some(doubt) => Err(doubt.clone().into()),
            None => Ok(books.totals),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.stop.store(true, Relaxed);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl State {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Books)) {
        change(&mut self.books());
        self.changed.notify_all();
    }

    fn doubt(&self, doubt: String) {
        self.change(|books| {
            books.doubt.get_or_insert(doubt);
        });
    }
}

fn listen(listener: &TcpListener, server: SocketAddr, state: &Arc<State>) -> io::Result<()> {
    while !state.stop.load(Relaxed) {
        poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&GLANCE))?;
        loop {
            match listener.accept() {
                Ok((client, _)) => admit(client, server, state)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        state.change(|books| books.empty += 1);
    }
    Ok(())
}

fn admit(client: TcpStream, server: SocketAddr, state: &Arc<State>) -> io::Result<()> {
    let mut open = 0;
    state.change(|books| {
        books.open += 1;
        open = books.open;
    });
    if open > MOST_OPEN {
        return Err(io::Error::other(format!("{open} clients at once")));
    }
    let state = Arc::clone(state);
    thread::Builder::new().spawn(move || {
        let ended = carry(&client, server);
        state.change(|books| {
            books.open -= 1;
            match ended {
                Ok((to_server, from_server)) => {
                    books.totals.connections += 1;
                    books.totals.to_server += to_server;
                    books.totals.from_server += from_server;
                }
                Err(error) => {
                    let doubt = format!("the truth is in doubt: {error}");
                    books.doubt.get_or_insert(doubt);
                }
            }
        });
    })?;
    Ok(())
}

/// One connection from its beginning to its end; bytes to and from the server.
fn carry(client: &TcpStream, server: SocketAddr) -> io::Result<(u64, u64)> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect(server)?;
    for end in [client, &server] {
        // Requests must not wait for the acknowledgement of what went before.
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    let (to_server, from_server) = thread::scope(|scope| {
        let upwards = scope.spawn(|| copy_to_server(client, &server));
        let downwards = copy_from_server(&server, client);
        if downwards.is_err() {
            // Nothing can come of what the client still sends.
            let _ = client.shutdown(Shutdown::Both);
        }
        let upwards = upwards.join().map_err(|_| io::Error::other("panicked"));
        (upwards.and_then(|copied| copied), downwards)
    });
    let (to_server, from_server) = (to_server?, from_server?);
    compare(&server, to_server, from_server)?;
    Ok((to_server, from_server))
}

/// Copies until the client has ended its direction; ends the server's then.
fn copy_to_server(mut client: &TcpStream, mut server: &TcpStream) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut copied = 0;
    loop {
        let length = match client.read(&mut buffer) {
            // A client that breaks off sends no more.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            read => read.map_err(|error| told("read from the client", error))?,
        };
        if length == 0 {
            break;
        }
        server
            .write_all(&buffer[..length])
            .map_err(|error| told("write to the server", error))?;
        copied += length as u64;
    }
    match server.shutdown(Shutdown::Write) {
        // The server may have ended both directions by itself.
        Err(error) if error.kind() != ErrorKind::NotConnected => {
            Err(told("end the direction to the server", error))
        }
        _ => Ok(copied),
    }
}

/// Copies until the server has ended its direction; ends the client's then.
fn copy_from_server(mut server: &TcpStream, mut client: &TcpStream) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut copied = 0;
    let mut listens = true;
    loop {
        let length = server
            .read(&mut buffer)
            .map_err(|error| told("read from the server", error))?;
        if length == 0 {
            break;
        }
        copied += length as u64;
        // A client that has left gets nothing more, but the server did send it.
        listens = listens && client.write_all(&buffer[..length]).is_ok();
    }
    // It fails if the client has left altogether.
    let _ = client.shutdown(Shutdown::Write);
    Ok(copied)
}

/// Fails unless the kernel says the same of the socket to the server, whose both
/// directions have ended.
fn compare(server: &TcpStream, to_server: u64, from_server: u64) -> io::Result<()> {
    let start = Instant::now();
    let info = loop {
        let info = tcp_info(server)?;
        if info.unacked == 0 && info.notsent_bytes == 0 {
            break info;
        }
        if start.elapsed() > PATIENCE {
            return Err(io::Error::other("the server does not take what was sent"));
        }
        thread::sleep(Duration::from_millis(1));
    };
    // A server that closes with data unread resets the connection.
    if let Some(error) = server.take_error()? {
        return Err(told("the connection to the server broke off", error));
    }
    // Neither figure counts SYN and FIN but the second, which counts the FIN that
    // has ended the reading.
    let sent = info.bytes_sent - info.bytes_retrans;
    let received = info.bytes_received - 1;
    if (sent, received) != (to_server, from_server) {
        return Err(io::Error::other(format!(
            "{to_server} bytes were copied to the server and {from_server} from it, \
             but TCP_INFO says {sent} and {received}"
        )));
    }
    Ok(())
}

fn told(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
