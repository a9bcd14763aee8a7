//! How a tick reaches its subscribers: what that costs the collector, and how
//! late the last of them has it, against the floor of the wire.
//!
//! `serve` is one side of the comparison, `load` is the subscribers; they are
//! processes of their own, so that each has its own limit of open files and its
//! own CPU time. `cargo xtask bench fanout` runs them side by side.
//!
//! Contract:
//! - Every side sends the same message once a second: a `SubscribeResponse` with
//!   the time of its tick, about 1 KiB long. So the load reads all sides alike.
//! - `serve` prints one line of JSON ([`serve::Ready`]) when it can be connected
//!   to, and ends when its standard input does, or after `--seconds`.
//! - `load` prints one line of JSON ([`load::Outcome`]): lateness from a tick's
//!   wall-clock time to its arrival, ticks skipped, the server's CPU time and
//!   memory. It ends by itself, with an error if the streams cannot be opened.
//! - Only loopback is ever used.

#![forbid(unsafe_code)]

mod load;
mod message;
mod process;
mod serve;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde::Serialize;

/// Measures how a tick reaches many subscribers
#[derive(Parser)]
#[command(name = "netio-bench-fanout", version)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Send a message a second to every subscriber
    Serve(serve::Arguments),
    /// Subscribe many times, and tell how late messages come
    Load(load::Arguments),
}

/// Both sides tick at multiples of it on the wall clock.
const INTERVAL: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let performed = process::raise_file_limit().and_then(|()| match Arguments::parse().part {
        Part::Serve(arguments) => serve::serve(&arguments),
        Part::Load(arguments) => load::load(&arguments),
    });
    match performed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "netio-bench-fanout: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints one line for the program that started this one.
fn print(line: &impl Serialize) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(line)?)?;
    Ok(stdout.flush()?)
}

/// The wall clock.
fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The first tick after this time.
fn next_tick(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs()) + INTERVAL
}
