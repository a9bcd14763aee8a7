//! Messages one after the other on a TCP connection.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::{Result, bail};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::record::Record;
use crate::{message::Deframer, now};

/// Bytes that are read at a time; on the stack, so that an idle connection needs
/// none.
const BUFFER: usize = 16 * 1024;

/// Opens a connection that stands for so many streams.
pub(super) async fn open(address: SocketAddr, streams: u32, record: Arc<Record>) -> Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    socket.write_all(&streams.to_be_bytes()).await?;
    tokio::spawn(async move {
        // An end shows as ticks that are missing.
        let _ = receive(&socket, &record).await;
    });
    Ok(())
}

async fn receive(socket: &TcpStream, record: &Record) -> Result<()> {
    let mut deframer = Deframer::default();
    loop {
        socket.readable().await?;
        read(socket, &mut deframer, record)?;
    }
}

/// Reads once.
fn read(socket: &TcpStream, deframer: &mut Deframer, record: &Record) -> Result<()> {
    let mut buffer = [0; BUFFER];
    let length = match socket.try_read(&mut buffer) {
        Ok(0) => bail!("the server has closed the connection"),
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let arrival = now();
    let piece = buffer.get(..length).unwrap_or_default();
    deframer.take(piece, |head, length| record.take(&head, length, arrival))
}
