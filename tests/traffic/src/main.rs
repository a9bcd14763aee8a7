//! `netio-traffic list` prints the patterns; `netio-traffic run NAME` makes one
//! and speaks the line protocol of [`netio_traffic::protocol`].
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum as _};
use netio_traffic::Pattern;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints every pattern with a sentence about it.
    List,
    /// Prepares a pattern, waits for "go" on stdin, makes the traffic, prints
    /// the truth, and waits for "exit".
    Run {
        /// Which pattern (see `list`).
        pattern: Pattern,
        /// Multiplies the number of rounds.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        scale: u32,
    },
    /// Does as a test says: forks, sends, exits.
    #[command(hide = true)]
    Puppet {
        /// The Unix socket that orders come from.
        control: PathBuf,
        /// The TCP server to send to.
        sink: SocketAddr,
    },
    /// What a pattern executes in a new process.
    #[command(hide = true)]
    SendOnStdin {
        /// How much it sends on the socket that its stdin is.
        bytes: usize,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::List => list().map_err(anyhow::Error::from),
        Command::Run { pattern, scale } => netio_traffic::run(pattern, scale),
        Command::Puppet { control, sink } => netio_traffic::puppet(&control, sink),
        Command::SendOnStdin { bytes } => netio_traffic::send_on_stdin(bytes),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netio-traffic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for pattern in Pattern::value_variants() {
        writeln!(out, "{:<24} {}", pattern.name(), pattern.description())?;
    }
    Ok(())
}
