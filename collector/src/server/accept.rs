//! Accepts connections from every listener, one path for all.
//!
//! Takes [`Listeners`], produces a stream of connections. Promises: no more of a kind
//! are open at once than are allowed (more wait in the kernel's queue);
//! listeners of one kind cannot take the places of another; over TLS, peers that have
//! proved nothing yet ([`super::proof`]) take no more than half of them; no error of
//! accepting ends the loop or makes it spin.
#![forbid(unsafe_code)]

use std::{
    io,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    io::Io,
    listen::{Listeners, MemoryListener},
    proof::Proof,
    tls::{Tls, handshakes::Handshakes},
    transport::Transport,
    unix::SocketFile,
    unstalled::Unstalled,
};
use crate::{
    access::{Access, Origin, Standing},
    peer_groups::peer_groups,
};

/// Connections that are open at once from within this process.
const MAX_MEMORY: usize = 128;

/// How long to wait after an error. When descriptors run out, accepting fails
/// at once and again for as long as a peer is in the queue.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Between two lines of the log about errors of accepting.
const QUIET: Duration = Duration::from_secs(60);

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
    /// A connection and where it is from. `None` when nobody can connect any more.
    async fn accept(&mut self, with: &Admission) -> Option<io::Result<(Transport, Origin)>> {
        match self {
            Self::Unix { listener, .. } => Some(accept_unix(listener, with).await),
            Self::Tcp(listener) => {
                let accepted = tcp(listener).await;
                Some(accepted.map(|(stream, ip)| {
                    let stream = Unstalled::new(stream, with.stall);
                    (Transport::Tcp(stream), Origin::Tcp(ip))
                }))
            }
            Self::Memory(listener) => {
                let stream = Unstalled::new(listener.recv().await?, with.stall);
                Some(Ok((Transport::Memory(stream), Origin::InProcess)))
            }
        }
    }
}

async fn accept_unix(listener: &UnixListener, with: &Admission) -> io::Result<(Transport, Origin)> {
    let access = &with.access;
    let (stream, _) = listener.accept().await?;
    let credentials = stream.peer_cred()?;
    let mut gids = Vec::new();
    if access.asks_for_groups() {
        gids = peer_groups(stream.as_fd())?;
        gids.push(credentials.gid());
    }
    let uid = credentials.uid();
    let stream = Unstalled::new(stream, with.stall);
    Ok((Transport::Unix(stream), Origin::Unix { uid, gids }))
}

/// A connection over TCP, and from where.
pub(super) async fn tcp(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    let (stream, address) = listener.accept().await?;
    // Fails where the peer has gone already, which reading will tell.
    let _ = stream.set_nodelay(true);
    Ok((stream, address.ip()))
}

/// What turns an accepted stream into a connection.
#[derive(Clone)]
pub(super) struct Admission {
    pub(super) access: Arc<Access>,
    places: Arc<Semaphore>,
    /// Those of peers that have not proved who they are.
    unproven: Arc<Semaphore>,
    /// What a peer gets for its TLS handshake.
    pub(super) preface: Duration,
    /// A connection whose peer takes nothing for so long is closed.
    pub(super) stall: Duration,
    cut: CancellationToken,
}

impl Admission {
    /// Waits for a place. `None` when there are no more.
    pub(super) async fn admit(&self, transport: Transport, origin: &Origin) -> Option<Io> {
        let standing = self.access.standing(origin);
        let among_unproven = match standing.is_proof() {
            true => None,
            false => Some(Arc::clone(&self.unproven).acquire_owned().await.ok()?),
        };
        let place = self.place().await?;
        Some(self.connection(transport, standing, among_unproven, place))
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    fn admit_to(&self, place: OwnedSemaphorePermit, transport: Transport, origin: &Origin) -> Io {
        let standing = self.access.standing(origin);
        // Whoever is on this host can take all places of its listeners in other ways.
        self.connection(transport, standing, None, place)
    }

    fn connection(
        &self,
        transport: Transport,
        standing: Standing,
        among_unproven: Option<OwnedSemaphorePermit>,
        place: OwnedSemaphorePermit,
    ) -> Io {
        let proof = match standing.is_proof() {
            true => Proof::given(),
            false => Proof::lacking(among_unproven),
        };
        Io::new(transport, standing, proof, self.cut.child_token(), place)
    }
}

/// Errors of accepting. They are told once in [`QUIET`], or the log would fill: while
/// descriptors are short, each that becomes free is one more spell.
#[derive(Default)]
pub(super) struct Trouble {
    told: Option<Instant>,
    /// It was told that it began, and not that it is over.
    lasts: bool,
}

impl Trouble {
    /// Waits as long as is right after the error.
    pub(super) async fn after(&mut self, error: &io::Error) {
        // One peer has gone before its turn; the next may be there.
        if let io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset = error.kind() {
            return;
        }
        if self.is_news(Instant::now()) {
            warn!(%error, "cannot accept a connection, trying on every {BACK_OFF:?}");
        }
        sleep(BACK_OFF).await;
    }

    fn is_news(&mut self, now: Instant) -> bool {
        if self.told.is_some_and(|told| now - told < QUIET) {
            return false;
        }
        self.told = Some(now);
        self.lasts = true;
        true
    }

    pub(super) fn is_over(&mut self) {
        if self.lasts {
            info!("connections are accepted again");
            self.lasts = false;
        }
    }
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
    /// sockets, as many over TCP, and as many over TLS. Cancelling `cut` cuts off every
    /// connection; ending the tasks closes the listeners.
    pub(super) fn start(
        listeners: Listeners,
        tls: Option<&Arc<Tls>>,
        max_connections: u32,
        stall: Duration,
        access: &Arc<Access>,
        cut: &CancellationToken,
    ) -> io::Result<(Self, JoinSet<()>)> {
        // One budget for each kind, however many listeners it has. A listener keeps a
        // place while it waits, so that there is one for each at least; one with TLS
        // does not, since a place is taken after the handshake.
        let kind = |places: usize| Admission {
            access: Arc::clone(access),
            places: Arc::new(Semaphore::new(places)),
            unproven: Arc::new(Semaphore::new(places.div_ceil(2))),
            preface: listeners.patience.preface,
            stall,
            cut: cut.clone(),
        };
        let most = max_connections as usize;
        let over_unix = kind(most.max(listeners.unix.len()));
        let over_tcp = kind(most.max(listeners.tcp.len()));
        let over_tls = kind(most);
        let in_memory = kind(MAX_MEMORY.max(listeners.memory.len()));
        let mut all = Vec::new();
        for (file, listener) in listeners.unix {
            let listener = Listener::Unix {
                listener: UnixListener::from_std(listener)?,
                _file: file,
            };
            all.push((listener, &over_unix));
        }
        for listener in listeners.tcp {
            all.push((Listener::Tcp(TcpListener::from_std(listener)?), &over_tcp));
        }
        for listener in listeners.memory {
            all.push((Listener::Memory(listener), &in_memory));
        }

        let (sender, connections) = mpsc::channel(1);
        let mut loops = JoinSet::new();
        for (listener, admission) in all {
            let acceptor = Acceptor {
                listener,
                admission: admission.clone(),
                connections: sender.clone(),
            };
            loops.spawn(acceptor.run());
        }
        for (listener, tls) in listeners.tls.into_iter().flat_map(|it| Some((it, tls?))) {
            let handshakes = Handshakes {
                listener: TcpListener::from_std(listener)?,
                tls: Arc::clone(tls),
                admission: over_tls.clone(),
                connections: sender.clone(),
            };
            loops.spawn(handshakes.run());
        }
        let accepted = Self {
            connections,
            _sender: sender,
        };
        Ok((accepted, loops))
    }
}

impl Accepted {
    /// The next connection. None is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Option<Io> {
        self.connections.recv().await
    }
}

/// Accepts from one listener.
struct Acceptor {
    listener: Listener,
    admission: Admission,
    connections: mpsc::Sender<Io>,
}

impl Acceptor {
    async fn run(mut self) {
        let mut trouble = Trouble::default();
        // A place first: a connection that has none is better left in the queue.
        while let Some(place) = self.admission.place().await {
            match self.listener.accept(&self.admission).await {
                Some(Ok((transport, origin))) => {
                    trouble.is_over();
                    let io = self.admission.admit_to(place, transport, &origin);
                    if self.connections.send(io).await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => trouble.after(&error).await,
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_that_comes_and_goes_does_not_fill_the_log() {
        let mut trouble = Trouble::default();
        let begin = Instant::now();
        assert!(trouble.is_news(begin));
        for second in 0..60 {
            assert!(!trouble.is_news(begin + Duration::from_secs(second)));
            trouble.is_over();
        }
        assert!(trouble.is_news(begin + QUIET));
    }
}
