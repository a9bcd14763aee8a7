//! Accepts TLS connections.
//!
//! Takes a TCP listener, produces connections whose handshake is done. Each handshake
//! has a task of its own and a deadline. Promises: [`MOST`] are under way at once, and
//! where that is reached, the oldest makes room for a new one, so that peers which begin
//! and do not go on keep nobody out; a place among the connections is taken only after
//! the handshake.
#![forbid(unsafe_code)]

use std::{collections::VecDeque, io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use super::Tls;
use crate::{
    access::{Origin, names::Names},
    server::{
        accept::{Admission, Trouble, tcp},
        io::Io,
        transport::Transport,
        unstalled::Unstalled,
    },
};

/// Handshakes that are under way at once on a listener, those included that are done
/// and wait for a place.
pub const MOST: usize = 256;

/// For a peer to read that its certificate is refused.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One listener.
pub(in crate::server) struct Handshakes {
    pub(in crate::server) listener: TcpListener,
    pub(in crate::server) tls: Arc<Tls>,
    pub(in crate::server) admission: Admission,
    pub(in crate::server) connections: mpsc::Sender<Io>,
}

impl Handshakes {
    pub(in crate::server) async fn run(self) {
        let mut trouble = Trouble::default();
        // Ends them when this is dropped.
        let mut tasks = JoinSet::new();
        let mut oldest_first = VecDeque::new();
        loop {
            let (stream, ip) = match tcp(&self.listener).await {
                Ok(accepted) => accepted,
                Err(error) => {
                    trouble.after(&error).await;
                    continue;
                }
            };
            trouble.is_over();
            while tasks.try_join_next().is_some() {}
            make_room(&mut oldest_first);
            let handshake = shake_hands(
                stream,
                ip,
                TlsAcceptor::from(self.tls.current()),
                self.admission.clone(),
                self.connections.clone(),
            );
            oldest_first.push_back(tasks.spawn(handshake));
        }
    }
}

/// Leaves fewer than [`MOST`].
fn make_room(oldest_first: &mut VecDeque<AbortHandle>) {
    if oldest_first.len() < MOST {
        return;
    }
    oldest_first.retain(|it| !it.is_finished());
    if oldest_first.len() >= MOST
        && let Some(oldest) = oldest_first.pop_front()
    {
        oldest.abort();
    }
}

async fn shake_hands(
    stream: TcpStream,
    ip: IpAddr,
    acceptor: TlsAcceptor,
    admission: Admission,
    connections: mpsc::Sender<Io>,
) {
    let stream = Unstalled::new(stream, admission.stall);
    let handshake = acceptor.accept(stream).into_fallible();
    let stream = match timeout(admission.preface, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, stream))) => {
            if tell(ip, &error, &admission) {
                close(stream).await;
            }
            return;
        }
        Err(_) => return debug!(%ip, "no TLS handshake within {:?}", admission.preface),
    };
    let origin = Origin::Tls(ip, names(&stream));
    // It may wait for a place; then newer ones take its turn, if there are too many.
    if let Some(io) = admission
        .admit(Transport::Tls(Box::new(stream)), &origin)
        .await
    {
        // Nobody takes it only when the collector stops.
        let _ = connections.send(io).await;
    }
}

/// The names in the certificate, which the handshake has verified.
fn names(stream: &TlsStream<Unstalled<TcpStream>>) -> Option<Names> {
    let certificates = stream.get_ref().1.peer_certificates()?;
    Names::of(certificates.first()?)
}

/// Lets a peer whose certificate is refused read why. It has been speaking already, and
/// closing the connection with something unread would discard what it is told.
async fn close(mut stream: Unstalled<TcpStream>) {
    let read = async {
        let _ = stream.shutdown().await;
        let mut buffer = [0; 1024];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    // A peer that goes on speaking is cut off.
    let _ = timeout(LAST_WORDS, read).await;
}

/// A certificate that is refused is told as any refusal; that a peer goes away, or
/// speaks something else, is not worth a line. Whether it was such a refusal.
fn tell(ip: IpAddr, error: &io::Error, admission: &Admission) -> bool {
    use rustls::Error::{InvalidCertificate, NoCertificatesPresented};
    let inner = error.get_ref().and_then(|it| it.downcast_ref());
    if let Some(InvalidCertificate(_) | NoCertificatesPresented) = inner {
        let who = format!("ip:{}", ip.to_canonical());
        let audit = &admission.access.audit;
        audit.refused(
            &who,
            "TLS handshake",
            &error.to_string(),
            "CERTIFICATE_REFUSED",
        );
        return true;
    }
    debug!(%ip, %error, "no TLS handshake");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_is_not_done_makes_room() {
        let mut tasks = JoinSet::new();
        let mut oldest_first: VecDeque<_> = (0..MOST - 1)
            .map(|_| tasks.spawn(std::future::pending::<()>()))
            .collect();
        make_room(&mut oldest_first);
        assert_eq!(oldest_first.len(), MOST - 1);
        oldest_first.push_back(tasks.spawn(std::future::ready(())));
        while tasks.try_join_next().is_none() {
            tokio::task::yield_now().await;
        }
        make_room(&mut oldest_first);
        assert_eq!(oldest_first.len(), MOST - 1, "the one that is done");
        oldest_first.push_back(tasks.spawn(std::future::pending()));
        make_room(&mut oldest_first);
        assert_eq!(oldest_first.len(), MOST - 1);
        let ended = tasks.join_next().await.unwrap();
        assert!(ended.unwrap_err().is_cancelled());
    }
}
