//! One side of the comparison: sends a message a second to every subscriber.

mod bare;
mod collector;
mod raw;

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// So many make a message of about 1 KiB.
pub(crate) const WATCHES: u32 = 13;

/// What `serve` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Who sends
    #[arg(long, value_enum)]
    side: Side,
    /// Watches, each a sample in a message
    #[arg(long, value_name = "N", default_value_t = WATCHES)]
    watches: u32,
    /// End after this time at the latest
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    seconds: u64,
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Side {
    /// The collector
    Ours,
    /// A tonic server that writes bytes which were prepared once
    Bare,
    /// A tonic server that encodes the message anew for each subscriber
    PerSubscriber,
    /// A loop that sends to one TCP socket after the other
    Raw,
}

/// Printed when clients can connect.
#[derive(Serialize)]
struct Ready {
    /// Where.
    address: SocketAddr,
    /// The watches that a subscriber may choose from.
    watch_ids: Vec<String>,
}

/// Serves until standard input ends, or the time is over.
pub(crate) fn serve(arguments: &Arguments) -> Result<()> {
    let stop = CancellationToken::new();
    let ended = stop.clone();
    // Not a task: reading would keep the runtime from ending.
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        ended.cancel();
    });
    let runtime = Runtime::new()?;
    let watches = arguments.watches;
    runtime.block_on(async {
        let serving = async {
            match arguments.side {
                Side::Ours => collector::serve(watches, stop.clone()).await,
                Side::Bare => bare::prepared(watches).await,
                Side::PerSubscriber => bare::per_subscriber(watches).await,
                Side::Raw => raw::serve(watches).await,
            }
        };
        tokio::select! {
            served = serving => served,
            () = stop.cancelled() => Ok(()),
            () = tokio::time::sleep(Duration::from_secs(arguments.seconds)) => Ok(()),
        }
    })?;
    // Streams that are open need no farewell.
    runtime.shutdown_background();
    Ok(())
}

/// A port of loopback's own.
fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
