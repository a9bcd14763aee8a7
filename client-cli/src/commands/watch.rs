//! `watch`: connects (or runs the collector within this process), and hands
//! over to the loop.

use std::io::{self, IsTerminal as _};

use jiff::tz::TimeZone;
use netio_collector::signals;
use tokio::signal::unix::SignalKind;

use crate::{
    args::{Format, Watch},
    conn::{Connection, Wish},
    failure::Failure,
    output::Output,
    table::Table,
    watch::{self, Order, View},
};

/// Runs it.
pub(crate) async fn run(args: Watch) -> Result<(), Failure> {
    let stopping = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let stop = signals::stop_token(&[], &stopping).map_err(|error| {
        Failure::new(
            format!("cannot listen for signals: {error}"),
            "is the limit of open files (ulimit -n) reached?",
        )
    })?;
    let wish = Wish::new(args.connect.endpoint, Some(args.embed.settings()))?;
    let connection = tokio::select! {
        connection = Connection::open(wish, stop.clone()) => connection?,
        () = stop.cancelled() => return Ok(()),
    };
    let view = match args.output.format {
        Format::Table => View::Table(Table::new(TimeZone::system(), io::stdout().is_terminal())),
        Format::Json => View::Json,
    };
    let order = Order::new(&args.pids, args.count);
    let mut output = Output {
        out: tokio::io::stdout(),
        err: tokio::io::stderr(),
    };
    let outcome = watch::run(&connection.rpc, &order, view, &mut output, &stop).await;
    connection.close(outcome).await
}
