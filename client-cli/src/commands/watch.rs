//! `watch`: connects (or runs the collector within this process), and hands
//! over to the loop, or makes watches that go on by themselves.

use std::io::{self, IsTerminal as _};

use jiff::tz::TimeZone;
use netio_collector::signals;
use tokio::signal::unix::SignalKind;

use super::detach;
use crate::{
    args::{Format, Watch},
    conn::{Connection, Embedding, Wish},
    failure::Failure,
    output::Output,
    table::Table,
    watch::{self, LEASE, Order, PATIENCE, Subject, View},
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
    let (subject, wanted, shape) = (args.subject(), args.wanted(), args.shape());
    let embedding = match &subject {
        Subject::Existing(_) => Embedding::Pointless,
        Subject::Made(_) if args.detach => Embedding::TooShort,
        Subject::Made(_) => Embedding::Allowed(args.embed.settings()),
    };
    let wish = Wish::new(args.connect, embedding)?;
    let connection = tokio::select! {
        connection = Connection::open(wish, stop.clone()) => connection?,
        () = stop.cancelled() => return Ok(()),
    };
    let rpc = &connection.rpc;
    let outcome = if args.detach {
        detach::run(rpc, &wanted, args.output.format, &stop).await
    } else {
        let order = Order {
            subject,
            lease: LEASE,
            shape,
            count: args.count,
            patience: PATIENCE,
        };
        let mut output = Output {
            out: tokio::io::stdout(),
            err: tokio::io::stderr(),
        };
        let view = view(args.output.format, shape.per_process);
        watch::run(rpc, &order, view, &mut output, &stop).await
    };
    connection.close(outcome).await
}

fn view(format: Format, per_process: bool) -> View {
    match format {
        Format::Table => {
            let mut table = Table::new(TimeZone::system(), io::stdout().is_terminal());
            if per_process {
                table.make_room_for_parts();
            }
            View::Table(table)
        }
        Format::Json => View::Json,
    }
}
