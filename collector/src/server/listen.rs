//! Where the collector can be reached: Unix sockets, TCP, this process.
//!
//! Takes addresses, produces bound listeners: from then on clients may connect
//! and wait for the collector to run. Promises that nothing is reachable from
//! another host without TLS, that is, without encryption and proof of identity.
#![forbid(unsafe_code)]

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::Path,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{
    http2::Patience,
    tls::{self, TlsFiles},
    unix::{SocketFile, listen_at},
};
use crate::{
    access::reload,
    inherited::{self, Inherited},
};

/// Bytes that an in-memory connection holds in each direction.
const MEMORY_BUFFER: usize = 64 * 1024;
/// In-memory connections that wait to be accepted.
const MEMORY_BACKLOG: usize = 16;

/// Calls that are open at once in all; Subscribe streams have a limit of their own.
const OTHER_CALLS: u32 = 4096;
/// And so have those of health and reflection that may last.
const LASTING_CALLS: usize = 1024;
/// Bytes of answers, as long as these are not taken.
const OTHER_ANSWERS: usize = 64 << 20;
/// Of calls that change something, as many are answered at once.
const CHANGES: usize = 256;

pub(super) type MemoryListener = mpsc::Receiver<DuplexStream>;

/// Bound listeners, to be served by [`crate::run`]. Dropping them closes them.
pub struct Listeners {
    /// Each with its file, if that is its own.
    pub(super) unix: Vec<(Option<SocketFile>, UnixListener)>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) tls: Vec<TcpListener>,
    /// What those of `tls` go by.
    pub(super) tls_files: Option<TlsFiles>,
    pub(super) memory: Vec<MemoryListener>,
    /// How long peers get; tests make do with less.
    pub(super) patience: Patience,
    /// Calls in all that are not Subscribe streams.
    pub(super) other_calls: u32,
    /// Calls of health and reflection that may last.
    pub(super) lasting_calls: usize,
    /// Bytes of answers.
    pub(super) other_answers: usize,
    /// Calls that change something and are answered at once.
    pub(super) changes: usize,
    /// How often certificates and tokens are looked at; tests are less patient.
    pub(super) reload: Duration,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            unix: Vec::new(),
            tcp: Vec::new(),
            tls: Vec::new(),
            tls_files: None,
            memory: Vec::new(),
            patience: Patience::default(),
            other_calls: OTHER_CALLS,
            lasting_calls: LASTING_CALLS,
            other_answers: OTHER_ANSWERS,
            changes: CHANGES,
            reload: reload::EVERY,
        }
    }
}

impl Listeners {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens on a Unix socket at this absolute path, readable and writable
    /// for its owner and group; `gid` is its group, if not the process's own. Makes the
    /// folder if it is missing, replaces the file of a collector that is dead, refuses
    /// that of one that is alive.
    pub fn bind_unix(&mut self, path: &Path, gid: Option<u32>) -> io::Result<()> {
        let (file, listener) = listen_at(path, gid)?;
        self.unix.push((Some(file), listener));
        Ok(())
    }

    /// Listens on a TCP address of this host's loopback and tells which port it
    /// got (ask for 0 to have one chosen).
    pub fn bind_tcp(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        only_loopback(address)?;
        let (listener, bound) = bind(address)?;
        self.tcp.push(listener);
        Ok(bound)
    }

    /// Listens on the sockets that a service manager has made and handed over, if it
    /// has (`LISTEN_FDS`), and tells their addresses. Their files and permissions are
    /// the manager's. Once, before this process opens other descriptors.
    pub fn inherit(&mut self) -> io::Result<Vec<String>> {
        let mut addresses = Vec::new();
        for socket in inherited::take()? {
            match socket {
                Inherited::Unix(listener) => {
                    let address = listener.local_addr()?;
                    let path = address.as_pathname().unwrap_or(Path::new("?"));
                    addresses.push(format!("unix://{}", path.display()));
                    self.unix.push((None, listener));
                }
                Inherited::Tcp(listener) => {
                    let address = listener.local_addr()?;
                    only_loopback(address)?;
                    addresses.push(format!("tcp://{address}"));
                    self.tcp.push(listener);
                }
            }
        }
        Ok(addresses)
    }

    /// Listens on any TCP address with TLS, and tells which port it got. All listeners
    /// with TLS have the same files: those that were given last.
    pub fn bind_tls(&mut self, address: SocketAddr, files: &TlsFiles) -> io::Result<SocketAddr> {
        let explain = |why| io::Error::other(format!("cannot listen on tls://{address}: {why}"));
        // So that what is wrong with them is told at once.
        tls::load(files, true).map_err(explain)?;
        let (listener, bound) = bind(address)?;
        self.tls.push(listener);
        self.tls_files = Some(files.clone());
        Ok(bound)
    }

    /// Listens to this process itself.
    pub fn memory(&mut self) -> MemoryConnector {
        let (connections, listener) = mpsc::channel(MEMORY_BACKLOG);
        self.memory.push(listener);
        MemoryConnector { connections }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unix.is_empty() && self.tcp.is_empty() && self.tls.is_empty() && self.memory.is_empty()
    }
}

/// Without encryption and proof of identity, nobody else may reach it.
fn only_loopback(address: SocketAddr) -> io::Result<()> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "cannot listen on tcp://{address}: without TLS only loopback addresses are allowed, \
             since anybody who reaches the port could watch; write tls://{address} with \
             --tls-cert, --tls-key and --tls-client-ca (netio-collector certs init DIR makes a \
             set to try), or tcp://127.0.0.1:{port}, or a Unix socket",
            port = address.port()
        ),
    ))
}

fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let explain = |why| io::Error::other(format!("cannot listen on {address}: {why}"));
    let listener = TcpListener::bind(address).map_err(explain)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Connects to the collector in the same process.
#[derive(Clone, Debug)]
pub struct MemoryConnector {
    connections: mpsc::Sender<DuplexStream>,
}

impl MemoryConnector {
    /// A channel with a connection of its own, made at the first call. Works
    /// until the collector stops. Called within a tokio runtime.
    pub fn channel(&self) -> Channel {
        // Nothing is looked up by this name.
        self.connect(&Endpoint::from_static("http://in-process"))
    }

    /// A channel with the endpoint's settings.
    pub(crate) fn connect(&self, endpoint: &Endpoint) -> Channel {
        let connections = self.connections.clone();
        endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let connections = connections.clone();
            async move {
                let (ours, theirs) = duplex(MEMORY_BUFFER);
                connections.send(theirs).await.map_err(|_| {
                    let why = "the collector in this process has stopped";
                    io::Error::new(io::ErrorKind::ConnectionRefused, why)
                })?;
                Ok::<_, io::Error>(TokioIo::new(ours))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_listened_on() {
        let mut listeners = Listeners::new();
        for address in ["127.0.0.1:0", "127.8.9.10:0"] {
            let bound = listeners.bind_tcp(address.parse().unwrap()).unwrap();
            assert_ne!(bound.port(), 0);
        }
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"] {
            let refused = listeners.bind_tcp(address.parse().unwrap()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
            let next = format!("write tls://{address} with --tls-cert");
            assert!(refused.to_string().contains(&next), "{refused}");
        }
    }

    #[test]
    fn a_port_in_use_is_explained() {
        let mut listeners = Listeners::new();
        let bound = listeners.bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let refused = listeners.bind_tcp(bound).unwrap_err();
        assert!(
            refused.to_string().contains(&bound.to_string()),
            "{refused}"
        );
    }
}
