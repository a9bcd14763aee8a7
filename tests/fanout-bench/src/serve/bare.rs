//! tonic with nothing in between: whoever subscribes gets the newest message,
//! which is bytes that were prepared once, or is encoded anew each time.
//!
//! The channel is tokio's `broadcast`, since it wakes receivers in the order in
//! which they wait: neighbours on a connection are written together. `watch` does
//! not, and a server with it is no floor.

use std::{
    convert::Infallible,
    future::{Ready as Now, ready},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::Result;
use bytes::{BufMut as _, Bytes};
use netio::v1::{self, net_io_service_server::SERVICE_NAME};
use prost::Message as _;
use tokio::{net::TcpListener, sync::broadcast, time::sleep};
use tokio_stream::{Stream, StreamExt as _, wrappers::BroadcastStream};
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, NamedService},
    transport::{Server, server::TcpIncoming},
};
use tower::{Service, service_fn};

use super::{Ready, listen};
use crate::{message::message, next_tick, now, print};

/// Messages that are kept for who is slow.
const HELD: usize = 2;
/// As the collector's.
const MAX_STREAMS_PER_CONNECTION: u32 = 256;

/// Bytes that were prepared once.
pub(super) async fn prepared(watches: u32) -> Result<()> {
    serve(watches, |message| Bytes::from(message.encode_to_vec())).await
}

/// A message that is encoded for each subscriber.
pub(super) async fn per_subscriber(watches: u32) -> Result<()> {
    serve(watches, Arc::new).await
}

/// What a message is kept as until it is written.
trait Kept: Clone + Send + Sync + 'static {
    fn write(&self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status>;
}

impl Kept for Bytes {
    fn write(&self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(self);
        Ok(())
    }
}

impl Kept for Arc<v1::SubscribeResponse> {
    fn write(&self, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.encode(buffer)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

async fn serve<K: Kept>(watches: u32, keep: impl Fn(v1::SubscribeResponse) -> K) -> Result<()> {
    let listener = TcpListener::from_std(listen()?)?;
    let ready = Ready {
        address: listener.local_addr()?,
        watch_ids: message(now(), 1, watches)
            .samples
            .into_iter()
            .map(|sample| sample.watch_id)
            .collect(),
    };
    let newest = broadcast::Sender::new(HELD);
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .add_service(Subscribers {
            newest: newest.clone(),
        })
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    let ticking = async {
        for sequence in 1.. {
            sleep(next_tick(now()).saturating_sub(now())).await;
            // Nobody may have subscribed yet.
            let _ = newest.send(keep(message(now(), sequence, watches)));
        }
    };
    print(&ready)?;
    tokio::select! {
        served = server => Ok(served?),
        () = ticking => Ok(()),
    }
}

/// The service: every call is a Subscribe to all.
#[derive(Clone)]
struct Subscribers<K> {
    newest: broadcast::Sender<K>,
}

impl<K> NamedService for Subscribers<K> {
    const NAME: &'static str = SERVICE_NAME;
}

impl<K: Kept> Service<http::Request<Body>> for Subscribers<K> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let newest = self.newest.clone();
        Box::pin(async move {
            let subscribe =
                service_fn(move |_: Request<v1::SubscribeRequest>| subscribed(newest.subscribe()));
            let mut grpc = Grpc::new(KeptCodec(PhantomData));
            Ok(grpc.server_streaming(subscribe, request).await)
        })
    }
}

fn subscribed<K: Kept>(
    newest: broadcast::Receiver<K>,
) -> Now<Result<Response<impl Stream<Item = Result<K, Status>>>, Status>> {
    // Who was too slow for a message goes on with the next.
    let messages = BroadcastStream::new(newest).filter_map(|message| message.ok().map(Ok));
    ready(Ok(Response::new(messages)))
}

/// tonic's own settings of buffers, as a server that thinks of nothing has them.
struct KeptCodec<K>(PhantomData<K>);

impl<K: Kept> Codec for KeptCodec<K> {
    type Encode = K;
    type Decode = v1::SubscribeRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<K: Kept> Encoder for KeptCodec<K> {
    type Item = K;
    type Error = Status;

    fn encode(&mut self, item: K, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.write(buffer)
    }
}

impl<K: Kept> Decoder for KeptCodec<K> {
    type Item = v1::SubscribeRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        v1::SubscribeRequest::decode(buffer)
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
