//! Accepts connections from every listener, one path for all.
//!
//! Takes [`Listeners`], produces a stream of connections. Promises: at most
//! [`MAX_CONNECTIONS`] are open at once (more wait in the kernel's queue), and
//! no error of accepting ends the loop or makes it spin.
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
    io::{Io, Peer, Transport},
    listen::{Listeners, MemoryListener},
    unix::SocketFile,
};

/// Connections that are open at once, over all listeners.
const MAX_CONNECTIONS: usize = 1024;

/// How long to wait after an error. When descriptors run out, accepting fails
/// at once and again for as long as a peer is in the queue.
const BACK_OFF: Duration = Duration::from_millis(100);

enum Listener {
    Unix {
        listener: UnixListener,
        /// Removed with the listener.
        _file: SocketFile,
    },
    Tcp(TcpListener),
    Memory(MemoryListener),
}

impl Listener {
    /// `None` when nobody can connect any more.
    async fn accept(&mut self) -> Option<io::Result<(Transport, Peer)>> {
        match self {
            Self::Unix { listener, .. } => Some(accept_unix(listener).await),
            Self::Tcp(listener) => Some(accept_tcp(listener).await),
            Self::Memory(listener) => {
                let stream = listener.recv().await?;
                let owner = "in-process".to_owned();
                Some(Ok((Transport::Memory(stream), Peer { owner })))
            }
        }
    }
}

async fn accept_unix(listener: &UnixListener) -> io::Result<(Transport, Peer)> {
    let (stream, _) = listener.accept().await?;
    let owner = format!("uid:{}", stream.peer_cred()?.uid());
    Ok((Transport::Unix(stream), Peer { owner }))
}

async fn accept_tcp(listener: &TcpListener) -> io::Result<(Transport, Peer)> {
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let owner = format!("ip:{}", address.ip().to_canonical());
    Ok((Transport::Tcp(stream), Peer { owner }))
}

/// The connections, as they come; without end.
pub(super) struct Accepted {
    connections: mpsc::Receiver<Io>,
    /// Keeps the stream from ending when nobody can connect any more: those who
    /// are connected are to be served on.
    _sender: mpsc::Sender<Io>,
}

impl Accepted {
    /// Called within a tokio runtime. Cancelling `cut` cuts off every
    /// connection; ending the tasks closes the listeners.
    pub(super) fn start(
        listeners: Listeners,
        cut: &CancellationToken,
    ) -> io::Result<(Self, JoinSet<()>)> {
        let mut all = Vec::new();
        for (file, listener) in listeners.unix {
            all.push(Listener::Unix {
                listener: UnixListener::from_std(listener)?,
                _file: file,
            });
        }
        for listener in listeners.tcp {
            all.push(Listener::Tcp(TcpListener::from_std(listener)?));
        }
        all.extend(listeners.memory.into_iter().map(Listener::Memory));

        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (sender, connections) = mpsc::channel(1);
        let mut loops = JoinSet::new();
        for listener in all {
            loops.spawn(accept_all(
                listener,
                Arc::clone(&places),
                sender.clone(),
                cut.clone(),
            ));
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

async fn accept_all(
    mut listener: Listener,
    places: Arc<Semaphore>,
    connections: mpsc::Sender<Io>,
    cut: CancellationToken,
) {
    let mut failing = false;
    // A place first: a connection that has none is better left in the queue.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Some(Ok((transport, peer))) => {
                if failing {
                    info!("connections are accepted again");
                    failing = false;
                }
                let io = Io::new(transport, peer, cut.clone(), place);
                if connections.send(io).await.is_err() {
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
