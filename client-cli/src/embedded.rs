//! The collector within this process: the same code as the service, reached
//! through memory. Takes how it should count, produces a running collector
//! that ends, and takes its hooks out of the kernel, when told to.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    time::Duration,
};

use netio_collector::{
    Limits, Listeners, Options, RunError,
    kernel::Kernel,
    logging::PrintableFields,
    probe::{self, HookChoice, Keeping, ProbeOptions},
};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// How long the collector may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// How a collector within this process should count; none: as the service does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Which hooks to use.
    pub(crate) hooks: Option<HookChoice>,
    /// The time between ticks.
    pub(crate) interval: Option<Duration>,
}

/// A collector that runs.
#[derive(Debug)]
pub(crate) struct Embedded {
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Embedded {
    /// Attaches hooks and starts. Where no hooks can be attached it starts all
    /// the same, and says why when it is asked to watch.
    pub(crate) async fn start(settings: Settings) -> Result<(Self, Channel), Failure> {
        log_to_stderr();
        let limits = Limits::default();
        let probe_options = ProbeOptions {
            hooks: settings.hooks.unwrap_or_default(),
            limits,
            keeping: Keeping::Not("it is part of another program".to_owned()),
        };
        let kernel = spawn_blocking(move || probe::attach(&probe_options))
            .await
            .map_err(|error| broke(&error))?;
        let mut options = Options {
            limits,
            ..Options::default()
        };
        // Whoever reads the output may pause as long as they like: there is nobody else.
        options.limits.stall_timeout = Limits::MAX_STALL;
        if let Some(interval) = settings.interval {
            options.interval = interval;
        }
        Ok(Self::start_on(kernel, options))
    }

    /// Starts on this kernel.
    pub(crate) fn start_on(kernel: Box<dyn Kernel>, options: Options) -> (Self, Channel) {
        let mut listeners = Listeners::new();
        let channel = listeners.memory().channel();
        let stop = CancellationToken::new();
        let run = netio_collector::run(kernel, options, listeners, stop.clone());
        let task = tokio::spawn(run);
        (Self { stop, task }, channel)
    }

    /// Stops it, and tells if it had failed. One that does not stop in time is
    /// left to the kernel, which takes the hooks out when this process ends.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.stop.cancel();
        match timeout(STOP_LIMIT, self.task).await {
            Ok(Ok(Ok(()))) | Err(_) => Ok(()),
            Ok(Ok(Err(error))) => Err(broke(&error)),
            Ok(Err(error)) => Err(broke(&error)),
        }
    }
}

fn broke(why: &dyn fmt::Display) -> Failure {
    Failure::new(
        format!("the collector within this process failed: {why}"),
        "netio-client doctor tells what may be missing",
    )
}

/// The collector's warnings, without those that the client tells itself, with
/// what to do: that no hooks attach, and that a watch is refused.
const LOG_FILTER: &str = "warn,\
    netio_collector::probe=off,\
    netio_collector::probe::kretprobe=warn,\
    netio_collector::sampler=off,\
    audit=off";

/// The rest is for whoever looks at this terminal.
fn log_to_stderr() {
    // An error here means that logging is set up already, as in a test.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(LOG_FILTER))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .fmt_fields(PrintableFields)
        // Otherwise it panics where standard error is closed.
        .log_internal_errors(false)
        .try_init();
}
