//! Logs, to standard error: readable lines, or one JSON object per line.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// For machines: one object per line.
    Json,
}

/// Starts logging. Called once.
pub(crate) fn start(filter: EnvFilter, format: LogFormat) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Pretty => builder
            .compact()
            .with_ansi(io::stderr().is_terminal())
            .init(),
        LogFormat::Json => builder.json().init(),
    }
}
