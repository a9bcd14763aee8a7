//! Subscribe streams over HTTP/2, with as little as possible in between: the
//! load runs on the CPUs of the server that it measures.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use h2::{RecvStream, client};
use http::{Request, StatusCode, header};
use netio::v1::{self, net_io_service_server::SERVICE_NAME};
use tokio::net::TcpStream;

use super::record::Record;
use crate::{
    message::{Deframer, framed},
    now,
};

/// Never the bottleneck: room for many messages of each stream.
const STREAM_WINDOW: u32 = 1 << 20;
/// And of all streams of a connection.
const CONNECTION_WINDOW: u32 = 1 << 24;

/// Opens a connection with a stream for each choice of watches, and returns when
/// the server has accepted all.
pub(super) async fn open(
    address: SocketAddr,
    choices: Vec<Vec<String>>,
    record: Arc<Record>,
) -> Result<()> {
    let socket = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    socket.set_nodelay(true)?;
    let (mut requests, connection) = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake::<_, Bytes>(socket)
        .await?;
    // It ends with the process; an end before that shows as ticks that are missing.
    tokio::spawn(connection);
    let mut answers = Vec::with_capacity(choices.len());
    for watch_ids in choices {
        requests = requests.ready().await?;
        let (answer, mut body) = requests.send_request(request(address)?, false)?;
        body.send_data(framed(&v1::SubscribeRequest::new(watch_ids)), true)?;
        answers.push(answer);
    }
    for answer in answers {
        let answer = answer.await?;
        // With a status in the headers, nothing will follow.
        let status = answer.headers().get("grpc-status");
        if answer.status() != StatusCode::OK || status.is_some() {
            bail!("a stream was refused: {answer:?}");
        }
        let record = Arc::clone(&record);
        tokio::spawn(async move {
            // As above.
            let _ = receive(answer.into_body(), &record).await;
        });
    }
    Ok(())
}

fn request(address: SocketAddr) -> Result<Request<()>> {
    Ok(
        Request::post(format!("http://{address}/{SERVICE_NAME}/Subscribe"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())?,
    )
}

async fn receive(mut body: RecvStream, record: &Record) -> Result<()> {
    let mut deframer = Deframer::default();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        let arrival = now();
        deframer.take(&piece, |head, length| record.take(&head, length, arrival))?;
        body.flow_control().release_capacity(piece.len())?;
    }
    Ok(())
}
