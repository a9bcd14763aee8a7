//! Serves connections by HTTP/2.
//!
//! Takes accepted connections and the services, produces the answers of calls, each in a
//! task of its own. Promises, of each connection: it begins to speak within
//! [`Patience::preface`]; a peer that has gone is noticed within [`Patience::keepalive`]
//! and [`Patience::pong`]; one that has not proved who it is ([`super::proof`]) within
//! [`Patience::request`] is sent away; one that sends more than it is answered ([`super::pace`]), or
//! that h2 finds out flooding, is told so by GOAWAY and closed. No more calls are open
//! than [`MAX_STREAMS`] on a connection and [`Rules::max_calls`] and [`Rules::max_lasting`]
//! in all, and answers that wait for their callers are bounded ([`call::Common`]).
#![forbid(unsafe_code)]

use std::{convert::Infallible, future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason,
    server::{Builder, Connection},
};
use http::{Request, Response};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::Service;
use tracing::{debug, info};

use super::{accept::Accepted, io::Io, pace::Pace};
use crate::rpc;

mod call;
mod request;
mod sending;
#[cfg(test)]
mod tests;

use call::{Call, Common};

/// Methods beside Subscribe whose calls may last for ever: theirs must not be the places of
/// those that end.
const LASTING: [&str; 2] = [
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// Calls that are open at once on one connection.
const MAX_STREAMS: u32 = 256;
/// A call's headers, each with 32 bytes more than it has (RFC 9113, 6.5.2): a token of
/// the greatest length fits several times.
const MAX_HEADER_BYTES: u32 = 8 * 1024;
/// What a peer may send of requests before it is read: on a stream, and on a connection.
const WINDOW: u32 = 64 * 1024 - 1;
/// What small DATA frames may take beside their payload, each up to 256 bytes, until they
/// are read: requests come in one or two.
const DATA_FRAME_BUDGET: usize = 2 * 256 * MAX_STREAMS as usize;
/// What of an answer may wait for its connection.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that the peer reset before they were looked at.
const MAX_UNSEEN_RESETS: usize = 20;
/// Streams that were reset for mistakes of the peer's.
const MAX_MISTAKES: usize = 256;
/// A peer that is sent away gets so long to take the GOAWAY.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long peers get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// To shake hands by TLS, and then to begin to speak.
    pub(super) preface: Duration,
    /// To send a request, and the collector to begin its answer; to prove who it is, where
    /// the connection does not.
    pub(super) request: Duration,
    /// Between two questions whether they are still there.
    pub(super) keepalive: Duration,
    /// To answer one.
    pub(super) pong: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            preface: Duration::from_secs(5),
            request: Duration::from_secs(30),
            keepalive: Duration::from_secs(30),
            pong: Duration::from_secs(10),
        }
    }
}

/// What holds for all connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) patience: Patience,
    /// A reader that takes nothing for so long loses its stream.
    pub(super) stall: Duration,
    /// Calls in all, but for those of [`LASTING`].
    pub(super) max_calls: usize,
    /// Calls of these.
    pub(super) max_lasting: usize,
    /// Bytes of answers that are larger than [`call::SMALL`], of calls that change nothing;
    /// those of streams are shared.
    pub(super) max_answers: usize,
    /// Calls that change something, until such an answer of theirs was taken.
    pub(super) max_changes: usize,
}

/// Serves until `stop`, and then until every connection has closed.
pub(super) async fn serve<S>(
    mut incoming: Accepted,
    service: S,
    rules: Rules,
    stop: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let server = Server {
        service,
        calls: Arc::new(Semaphore::new(rules.max_calls)),
        lasting: Arc::new(Semaphore::new(rules.max_lasting)),
        common: Arc::new(Common::new(rules)),
        stop,
        tasks: TaskTracker::new(),
    };
    while let Some(Some(io)) = server.stop.run_until_cancelled(incoming.next()).await {
        server.tasks.spawn(server.clone().connection(io));
    }
    drop(incoming);
    server.tasks.close();
    server.tasks.wait().await;
}

#[derive(Clone)]
struct Server<S> {
    service: S,
    calls: Arc<Semaphore>,
    lasting: Arc<Semaphore>,
    common: Arc<Common>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What happens on a connection.
#[expect(clippy::large_enum_variant, reason = "it is looked at and gone")]
enum Event {
    Call(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>),
    /// The peer sends more than it may.
    Flood,
    Closed,
}

impl<S> Server<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    async fn connection(self, io: Io) {
        let peer = io.peer();
        let pace = io.pace().clone();
        // Not held while the connection lasts.
        let handshake = Box::pin(builder().handshake(io));
        let handshake = timeout(self.common.rules.patience.preface, handshake);
        // Who has not spoken yet is owed nothing.
        let mut connection = match self.stop.run_until_cancelled(handshake).await {
            Some(Ok(Ok(connection))) => connection,
            Some(Ok(Err(error))) => return debug!(%error, "no HTTP/2"),
            Some(Err(_)) => return debug!("the peer has connected and not begun to speak"),
            None => return,
        };
        let Some(pings) = connection.ping_pong() else {
            return;
        };
        let mut gone = pin!(has_gone(pings, self.common.rules.patience));
        let mut stopping = pin!(self.stop.cancelled());
        let mut is_stopping = false;
        let mut proof = pin!(sleep(self.common.rules.patience.request));
        let mut is_unproven = !peer.proof.is_given();
        loop {
            let event = tokio::select! {
                biased;
                event = next(&mut connection, &pace) => event,
                () = &mut gone => {
                    let owner = peer.standing.owner.as_str();
                    return info!(owner, "closed the connection of a peer that does not answer");
                }
                () = &mut proof, if is_unproven => {
                    is_unproven = false;
                    if !peer.proof.is_given() {
                        debug!("the peer has not proved who it is");
                        return send_away(&mut connection, Reason::NO_ERROR).await;
                    }
                    continue;
                }
                () = &mut stopping, if !is_stopping => {
                    is_stopping = true;
                    connection.graceful_shutdown();
                    continue;
                }
            };
            match event {
                Event::Call(mut request, reply) => {
                    request.extensions_mut().insert(peer.clone());
                    let call = Call::new(reply, &self.common, &pace, &peer);
                    self.call(request, call);
                }
                Event::Flood => {
                    debug!("the peer sends too many frames");
                    return send_away(&mut connection, Reason::ENHANCE_YOUR_CALM).await;
                }
                Event::Closed => return,
            }
        }
    }

    fn call(&self, request: Request<h2::RecvStream>, call: Call) {
        let lasts = LASTING.contains(&request.uri().path());
        let (places, most) = match lasts {
            true => (&self.lasting, self.common.rules.max_lasting),
            false => (&self.calls, self.common.rules.max_calls),
        };
        match Arc::clone(places).try_acquire_owned() {
            Ok(place) => {
                let service = self.service.clone();
                let served = call.serve(request, service);
                self.tasks.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(_) => call.refuse(&rpc::too_many_calls(most)),
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
        .max_local_error_reset_streams(Some(MAX_MISTAKES));
    builder
}

/// Tells the peer why, and closes.
async fn send_away(connection: &mut Connection<Io, Bytes>, why: Reason) {
    connection.abrupt_shutdown(why);
    let told = poll_fn(|cx| connection.poll_closed(cx));
    let _ = timeout(LAST_WORDS, told).await;
}

/// The next call. Polling it is what moves the connection, its streams included.
async fn next(connection: &mut Connection<Io, Bytes>, pace: &Pace) -> Event {
    poll_fn(|cx| match connection.poll_accept(cx) {
        Poll::Ready(Some(Ok((request, reply)))) => Poll::Ready(Event::Call(request, reply)),
        // A flood that h2 notices is told to the peer by then.
        Poll::Ready(Some(Err(error))) => {
            debug!(%error, "the connection ends");
            Poll::Ready(Event::Closed)
        }
        Poll::Ready(None) => Poll::Ready(Event::Closed),
        Poll::Pending if pace.is_exceeded() => Poll::Ready(Event::Flood),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Waits until the peer leaves a question unanswered.
async fn has_gone(mut pings: PingPong, patience: Patience) {
    loop {
        sleep(patience.keepalive).await;
        match timeout(patience.pong, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection tells that it ends.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}
