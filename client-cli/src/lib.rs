//! The terminal client of netio: takes a command line, shows what processes
//! send and receive, produces an exit code (0 done, 1 failed, 2 wrong command
//! line).
//!
//! The way of a request: [`args`] → [`wanted`] → [`rpc`]. The way of the data:
//! [`conn`] → [`ticks`] → [`watched`] → [`table`] or
//! [`json`] → [`output`], driven by the loop in [`watch`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod align;
mod args;
mod commands;
mod conn;
mod embedded;
mod endpoint;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod json;
mod model;
mod output;
mod process;
mod rpc;
mod shell;
mod table;
mod target;
mod text;
mod ticks;
mod units;
mod wanted;
mod watch;
mod watched;

use args::{Args, Command};
use failure::Failure;

/// The loop, the connection, and where there is one, the collector.
const WORKERS: usize = 2;

/// Runs the command that this process was started with.
pub fn main() -> ExitCode {
    match dispatch(Args::read().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            output::note(&format!("error: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a command; produces whether its answer was a good one.
fn dispatch(command: Command) -> Result<bool, Failure> {
    match command {
        Command::Watch(args) => block_on(commands::watch::run(args)),
        Command::List(args) => block_on(commands::list::run(args)),
        Command::Unwatch(args) => block_on(commands::unwatch::run(args)),
        Command::Discover(args) => block_on(commands::discover::run(args)),
        Command::Info(args) => block_on(commands::info::run(args)),
        Command::Doctor(args) => commands::doctor::run(&args),
    }
}

fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<bool, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                format!("cannot start: {error}"),
                "are the limits of threads or open files (ulimit) reached?",
            )
        })?;
    let outcome = runtime.block_on(command);
    // A line that a stopped terminal does not take must not hold up the exit.
    runtime.shutdown_background();
    outcome.map(|()| true)
}
