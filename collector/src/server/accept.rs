//! Accepts connections from every listener, one path for all.
//!
//! Takes [`Listeners`], produces a stream of connections. Promises: no more of a kind
//! are open at once than are allowed (more wait in the kernel's queue);
//! listeners of one kind cannot take the places of another; no error of
//! accepting ends the loop or makes it spin.
#![forbid(unsafe_code)]

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::sleep,
};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    io::Io,
    listen::{Listeners, MemoryListener},
    transport::Transport,
    unix::SocketFile,
};

/// Connections that are open at once from within this process.
const MAX_MEMORY: usize = 128;

/// How long to wait after an error. When descriptors run out, accepting fails
/// at once and again for as long as a peer is in the queue.
const BACK_OFF: Duration = Duration::from_millis(100);

enum Listener {
    Unix {
        listener: UnixListener,
        /// Removed with the listener, if it is its own.
        _file: Option<SocketFile>,
    },
    Tcp(TcpListener),
    Memory(MemoryListener),
}

impl Listener {
    /// A connection, and who owns the watches that it makes. `None` when nobody can
    /// connect any more.
    async fn accept(&mut self) -> Option<io::Result<(Transport, String)>> {
        match self {
            Self::Unix { listener, .. } => Some(accept_unix(listener).await),
            Self::Tcp(listener) => Some(accept_tcp(listener).await),
            Self::Memory(listener) => {
                let stream = listener.recv().await?;
                let owner = "in-process".to_owned();
                Some(Ok((Transport::Memory(stream), owner)))
            }
        }
    }
}

async fn accept_unix(listener: &UnixListener) -> io::Result<(Transport, String)> {
    let (stream, _) = listener.accept().await?;
    let owner = format!("uid:{}", stream.peer_cred()?.uid());
    Ok((Transport::Unix(stream), owner))
}

async fn accept_tcp(listener: &TcpListener) -> io::Result<(Transport, String)> {
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let owner = format!("ip:{}", address.ip().to_canonical());
    Ok((Transport::Tcp(stream), owner))
}

/// The connections, as they come; without end.
pub(super) struct Accepted {
    connections: mpsc::Receiver<Io>,
    /// Keeps the stream from ending when nobody can connect any more: those who
    /// are connected are to be served on.
    _sender: mpsc::Sender<Io>,
}

impl Accepted {
    /// Called within a tokio runtime. So many connections may be open over Unix
    /// sockets, and as many over TCP. Cancelling `cut` cuts off every
    /// connection; ending the tasks closes the listeners.
    pub(super) fn start(
        listeners: Listeners,
        max_connections: u32,
        cut: &CancellationToken,
    ) -> io::Result<(Self, JoinSet<()>)> {
        // One budget for each kind, however many listeners it has. A listener keeps a
        // place while it waits, so that there is one for each at least.
        let max_connections = max_connections as usize;
        let [unix, tcp, memory] = [
            max_connections.max(listeners.unix.len()),
            max_connections.max(listeners.tcp.len()),
            MAX_MEMORY.max(listeners.memory.len()),
        ]
        .map(|places| Arc::new(Semaphore::new(places)));
        let mut all = Vec::new();
        for (file, listener) in listeners.unix {
            let listener = Listener::Unix {
                listener: UnixListener::from_std(listener)?,
                _file: file,
            };
            all.push((listener, &unix));
        }
        for listener in listeners.tcp {
            all.push((Listener::Tcp(TcpListener::from_std(listener)?), &tcp));
        }
        for listener in listeners.memory {
            all.push((Listener::Memory(listener), &memory));
        }

        let (sender, connections) = mpsc::channel(1);
        let mut loops = JoinSet::new();
        for (listener, places) in all {
            let acceptor = Acceptor {
                listener,
                places: Arc::clone(places),
                preface: listeners.preface,
                connections: sender.clone(),
                cut: cut.clone(),
            };
            loops.spawn(acceptor.run());
        }
        let accepted = Self {
            connections,
            _sender: sender,
        };
        Ok((accepted, loops))
    }
}

impl Stream for Accepted {
    type Item = io::Result<Io>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|io| io.map(Ok))
    }
}

/// Accepts from one listener.
struct Acceptor {
    listener: Listener,
    places: Arc<Semaphore>,
    preface: Duration,
    connections: mpsc::Sender<Io>,
    cut: CancellationToken,
}

impl Acceptor {
    async fn run(mut self) {
        let mut failing = false;
        // A place first: a connection that has none is better left in the queue.
        while let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
            match self.listener.accept().await {
                Some(Ok((transport, owner))) => {
                    if failing {
                        info!("connections are accepted again");
                        failing = false;
                    }
                    let cut = self.cut.child_token();
                    let io = Io::new(transport, owner, cut, place, self.preface);
                    if self.connections.send(io).await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => {
                    // Once per spell, or the log would fill.
                    if !failing {
                        warn!(%error, "cannot accept a connection, trying on every {BACK_OFF:?}");
                        failing = true;
                    }
                    sleep(BACK_OFF).await;
                }
                None => return,
            }
        }
    }
}
