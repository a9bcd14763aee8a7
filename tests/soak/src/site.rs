//! Where the collector is, and ways to reach it.
#![forbid(unsafe_code)]

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use netio::v1::{
    ListWatchesRequest, Target, WatchRequest, net_io_service_client::NetIoServiceClient,
    watch_request::Life,
};
use rustix::net::sockopt::set_socket_linger;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::sleep,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{PATIENCE, Result, collector::Collector, judge::Samples};

pub(crate) type Client = NetIoServiceClient<Channel>;

/// See the module.
pub(crate) struct Site {
    socket: PathBuf,
    pub(crate) tls: SocketAddr,
    config: Arc<ClientConfig>,
}

/// How to come, and how to go.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) by_tls: bool,
    /// By RST instead of FIN.
    pub(crate) resets: bool,
}

impl Way {
    /// Of who behaves.
    pub(crate) fn orderly(by_tls: bool) -> Self {
        Self {
            by_tls,
            resets: false,
        }
    }
}

/// A connection, whatever it goes over.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Site {
    pub(crate) fn new(socket: PathBuf, tls: SocketAddr, certs: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certs.join("ca.pem"))?)?;
        let own = CertificateDer::from_pem_file(certs.join("client.pem"))?;
        let key = PrivateKeyDer::from_pem_file(certs.join("client-key.pem"))?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![own], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            socket,
            tls,
            config: Arc::new(config),
        })
    }

    /// A TCP connection to where TLS is spoken.
    pub(crate) async fn tcp(&self, resets: bool) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.tls).await?;
        stream.set_nodelay(true)?;
        if resets {
            set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        Ok(stream)
    }

    pub(crate) async fn wire(&self, way: Way) -> io::Result<Box<dyn Wire>> {
        if !way.by_tls {
            return Ok(Box::new(UnixStream::connect(&self.socket).await?));
        }
        let stream = self.tcp(way.resets).await?;
        let name = ServerName::from(self.tls.ip());
        let connector = TlsConnector::from(Arc::clone(&self.config));
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    /// A client on a connection of its own.
    pub(crate) async fn client(&self, way: Way, window: u32) -> Result<Client> {
        let mut wire = Some(TokioIo::new(self.wire(way).await?));
        let once = tower::service_fn(move |_| {
            let wire = wire.take();
            async move { wire.ok_or_else(|| io::Error::other("the connection has ended")) }
        });
        let channel = Endpoint::from_static("http://collector")
            .initial_stream_window_size(window)
            .connect_with_connector(once)
            .await?;
        Ok(Client::new(channel))
    }

    /// Watches these processes until the collector ends; the ids, in their order.
    pub(crate) async fn watch_for_good(&self, pids: &[u32]) -> Result<Vec<(String, u32)>> {
        let mut client = self.client(Way::orderly(false), 1 << 16).await?;
        let mut watches = Vec::new();
        for pid in pids {
            let request = WatchRequest {
                life: Some(Life::Standing(true)),
                ..WatchRequest::new(Target::pid(*pid))
            };
            let watch = client.watch(request).await?.into_inner().watch;
            watches.push((watch.ok_or("no watch")?.watch_id, *pid));
        }
        Ok(watches)
    }

    /// Waits until nothing is left of the clients that came and went: so many watches
    /// stay. The descriptors that are open then.
    pub(crate) async fn all_have_left(
        &self,
        collector: &Collector,
        samples: &Samples,
        stay: usize,
    ) -> Result<usize> {
        let start = Instant::now();
        loop {
            let watches = {
                let mut client = self.client(Way::orderly(false), 1 << 16).await?;
                let listed = client.list_watches(ListWatchesRequest {}).await?;
                listed.into_inner().watches.len()
            };
            sleep(Duration::from_millis(200)).await;
            let descriptors = collector.descriptors()?;
            if watches == stay && samples.are_back(descriptors) {
                return Ok(descriptors);
            }
            if start.elapsed() > PATIENCE {
                return Err(format!(
                    "{PATIENCE:?} after all have left there are {watches} watches instead of \
                     {stay}, and {descriptors} descriptors"
                )
                .into());
            }
        }
    }
}
