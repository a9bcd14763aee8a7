//! `netio-collector`: the collector as a service of the host.
//!
//! Reads top-down: settings, logging, listeners, hooks, run, exit code.
#![forbid(unsafe_code)]

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use netio_collector::{
    Listeners, Options, doctor,
    kernel::Kernel,
    probe::{self, HookChoice, ProbeOptions},
    run,
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

mod config;
mod logging;

use config::{Address, Given, Settings};

/// What is still under way when the collector has run gets this long; with
/// what `run` allows itself, this keeps the exit within 5 s of a signal.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// Counts, with eBPF, the bytes that watched processes send and receive over
/// TCP, and streams one sample per watch and interval over gRPC.
///
/// Needs the capabilities CAP_BPF and CAP_PERFMON, or root. Settings are taken
/// from flags, then NETIO_* environment variables, then the file given with
/// --config, then defaults. SIGTERM and SIGINT end it within 5 s; a second
/// signal at once.
#[derive(Debug, Parser)]
#[command(
    name = "netio-collector",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(flatten)]
    given: Given,

    /// TOML file with any of the settings above, as listen = ["..."],
    /// interval = "1s", max_watches = 1024, ... [env: NETIO_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tells which hooks work on this host, and if not, why and what to do
    Doctor,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Doctor) => diagnose(),
        None => match Settings::load(cli.given, cli.config, |name| env::var_os(name)) {
            Ok(settings) => collect(settings),
            Err(error) => {
                complain(&error);
                ExitCode::from(2)
            }
        },
    }
}

fn diagnose() -> ExitCode {
    let report = doctor::run();
    // Whoever closed the pipe has read enough.
    let _ = writeln!(io::stdout(), "{report}");
    if report.healthy() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn complain(error: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "netio-collector: {error}");
}

fn collect(settings: Settings) -> ExitCode {
    logging::start(settings.log, settings.log_format);
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(serve(&settings.listen, settings.options, settings.hooks));
    runtime.shutdown_timeout(LAST_MOMENT);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(listen: &[Address], options: Options, hooks: HookChoice) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::spawn(obey_signals(terminate, interrupt, shutdown.clone()));

    // Before the hooks: where another collector listens, this one has no business.
    let listeners = bind(listen)?;
    let kernel = probe::attach(&ProbeOptions {
        hooks,
        max_watches: options.limits.max_watches,
    });
    tell_blind_spots(&*kernel);
    info!(interval = ?options.interval, "counting");
    run(kernel, options, listeners, shutdown).await?;
    Ok(())
}

fn bind(addresses: &[Address]) -> anyhow::Result<Listeners> {
    let mut listeners = Listeners::new();
    for address in addresses {
        match address {
            Address::Unix(path) => {
                listeners.bind_unix(path)?;
                info!("listening on unix://{}", path.display());
            }
            Address::Tcp(address) => {
                let bound = listeners.bind_tcp(*address)?;
                info!("listening on tcp://{bound}");
            }
        }
    }
    Ok(listeners)
}

/// Which hooks are attached was told by attaching them.
fn tell_blind_spots(kernel: &dyn Kernel) {
    for spot in &kernel.info().blind_spots {
        info!(
            id = spot.id,
            remedy = spot.remedy,
            "blind spot: {}",
            spot.description
        );
    }
}

/// The first signal ends the collector in good order, the second at once.
async fn obey_signals(mut terminate: Signal, mut interrupt: Signal, shutdown: CancellationToken) {
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    info!("{name}: shutting down");
    shutdown.cancel();
    let code = tokio::select! {
        _ = terminate.recv() => 143,
        _ = interrupt.recv() => 130,
    };
    warn!("a second signal: leaving at once");
    std::process::exit(code);
}
