//! `netio-collector`: the collector as a service of the host.
//!
//! Reads top-down: settings, logging, listeners, privileges, hooks, run, exit code.
#![forbid(unsafe_code)]

use std::{
    env, fmt,
    io::{self, Write as _},
    mem,
    path::PathBuf,
    process::ExitCode,
    thread::available_parallelism,
    time::Duration,
};

use clap::Parser;
use netio::printable;
use netio_collector::{
    Collector, Grant, Grantee, Listeners, Notifier, RunError,
    config::{self, Address, Given, Kept, Settings},
    doctor,
    keep::{Keep, KeepError},
    kernel::Kernel,
    logging,
    privilege::{self, PrivilegeError},
    probe::{self, Keeping, ProbeOptions},
    signals::Signals,
    usage,
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::SignalKind,
};
use tracing::{error, info, warn};

mod files;
mod trial;

/// What is still under way when the collector has run gets this long; with
/// what `run` allows itself, this keeps the exit within 5 s of a signal.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// Counts, with eBPF, the bytes that watched processes send and receive over
/// TCP, and streams one sample per watch and interval over gRPC.
///
/// Needs the capabilities CAP_BPF and CAP_PERFMON, and to find processes by port
/// CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; of what root has beside, it rids itself.
/// Settings are taken from flags, then NETIO_* environment variables, then the file
/// given with --config, then defaults. SIGTERM, SIGINT, SIGHUP and SIGQUIT end it within
/// 5 s; a second signal at once. If it is killed, the kernel counts on, and the next
/// collector goes on with the same watches.
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
    /// interval = "1s", max_watches = 1024, ..., and with standing watches, each
    /// a table: [[watch]] with name = "mariadbd", or port = 5432, cgroup, unit or
    /// container, and perhaps follow_children = true; and with grants, each a table:
    /// [[grant]] with role = "watch" and one of uid = 1000, gid, group = "dba",
    /// san = "spiffe://...", cn = "..." or token_file = "..." (and name = "...", which
    /// names the owner of its watches) [env: NETIO_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tells which hooks work on this host, and if not, why and what to do
    Doctor,
    /// Makes certificates to try tls:// with
    #[command(subcommand)]
    Certs(trial::Certs),
    /// Removes what a collector has left that was killed, or told to keep counting:
    /// the programs in the kernel, their pins and the state
    Uninstall {
        /// Where the pins are [env: NETIO_PIN_PATH] [default: /sys/fs/bpf/netio]
        #[arg(long, value_name = "PATH")]
        pin_path: Option<PathBuf>,
        /// Where the state is [env: NETIO_STATE_DIR] [default: /run/netio/state]
        #[arg(long, value_name = "PATH")]
        state_dir: Option<PathBuf>,
        /// TOML file with these settings [env: NETIO_CONFIG]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| usage::exit(error));
    match cli.command {
        Some(Command::Doctor) => diagnose(),
        Some(Command::Certs(certs)) => trial::run(&certs),
        Some(Command::Uninstall {
            pin_path,
            state_dir,
            config,
        }) => with_settings(Given::kept(pin_path, state_dir), config, uninstall),
        None => with_settings(cli.given, cli.config, collect),
    }
}

fn with_settings(
    given: Given,
    config: Option<PathBuf>,
    run: impl FnOnce(Settings) -> ExitCode,
) -> ExitCode {
    match Settings::load(given, config, |name| env::var_os(name)) {
        Ok(settings) => run(settings),
        Err(error) => {
            complain(&error);
            ExitCode::from(2)
        }
    }
}

fn uninstall(settings: Settings) -> ExitCode {
    let Some(kept) = settings.keep else {
        complain(&"nothing is pinned with --no-pin (NETIO_NO_PIN)");
        return ExitCode::from(2);
    };
    let told = match Keep::uninstall(&kept.pin_path, &kept.state_dir) {
        Ok(true) => "removed what was left",
        Ok(false) => "there was nothing to remove",
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let (pins, state) = (kept.pin_path.display(), kept.state_dir.display());
    let text = format!("{told} in {pins} and {state}");
    let _ = writeln!(io::stdout(), "{}", printable::lines(&text));
    ExitCode::SUCCESS
}

fn diagnose() -> ExitCode {
    let report = doctor::run();
    let mut stdout = io::stdout();
    let text = report.to_string();
    match writeln!(stdout, "{}", printable::lines(&text)).and_then(|()| stdout.flush()) {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write the report: {error}"));
            ExitCode::FAILURE
        }
        _ if report.healthy() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn complain(error: &dyn std::fmt::Display) {
    let text = format!("netio-collector: {error}");
    let _ = writeln!(io::stderr(), "{}", printable::lines(&text));
}

fn collect(mut settings: Settings) -> ExitCode {
    logging::start(mem::take(&mut settings.log), settings.log_format);
    let unknown = config::unknown_variables(env::vars_os().map(|(name, _)| name));
    if !unknown.is_empty() {
        warn!(
            "nobody reads {}: see netio-collector --help for the variables there are",
            unknown.join(", ")
        );
    }
    files::allow(files::needed(&settings.options.limits, &settings.listen));
    // Before there is a socket's file that a signal would leave behind.
    let signals = match listen_to_signals() {
        Ok(signals) => signals,
        Err(error) => return failed(format_args!("cannot wait for signals: {error}")),
    };
    match Notifier::from_env() {
        Ok(notifier) => settings.options.notifier = notifier,
        Err(error) => return failed(error),
    }
    // With all privileges, and before the hooks: where another collector listens,
    // this one has no business.
    let listeners = match listen(&settings) {
        Ok(listeners) => listeners,
        Err(error) => return failed(error),
    };
    // Before there are other threads.
    if let Err(error) = give_up_privileges(&settings) {
        return failed(error);
    }
    let keeping = match keeping(settings.keep.take()) {
        Ok(keeping) => keeping,
        Err(error) => return failed(error),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(format_args!("cannot start the runtime: {error}")),
    };
    let probes = ProbeOptions {
        hooks: settings.hooks,
        limits: settings.options.limits,
        keeping,
    };
    // Before the hooks, which are pinned: what cannot start is to leave nothing behind.
    let collector = match Collector::prepare(settings.options, listeners) {
        Ok(collector) => collector,
        Err(error) => return failed(error),
    };
    let ended = runtime.block_on(serve(signals, collector, &probes));
    runtime.shutdown_timeout(LAST_MOMENT);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error),
    }
}

/// With a thread more than may hang: what watches the sampler is not to wait for it.
fn runtime() -> io::Result<Runtime> {
    let threads = available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads(threads.max(2))
        .enable_all()
        .build()
}

fn failed(error: impl fmt::Display) -> ExitCode {
    error!("{error}");
    ExitCode::FAILURE
}

/// Tells what is missing, and gives up what is not needed.
fn give_up_privileges(settings: &Settings) -> Result<(), PrivilegeError> {
    for need in privilege::held()?.missing() {
        let (name, purpose, cost) = (need.name, need.purpose, need.cost);
        if need.vital {
            error!("{name} is missing, which {purpose}: {cost}; run as root, or grant it");
        } else {
            warn!("{name} is missing, which {purpose}: {cost}");
        }
    }
    if settings.keep_privileges {
        warn!("every capability is kept, as was asked for");
    } else {
        let kept = privilege::drop_capabilities(settings.hooks)?;
        info!("capabilities: {kept}; all others are given up");
    }
    if settings.no_seccomp {
        warn!("every system call is let pass, as was asked for");
    } else {
        privilege::filter_system_calls()?;
    }
    Ok(())
}

/// In a runtime without threads, since capabilities are still to be dropped.
fn listen_to_signals() -> io::Result<Signals> {
    let obeyed = [SignalKind::terminate(), SignalKind::interrupt()];
    let unless_ignored = [SignalKind::hangup(), SignalKind::quit()];
    let early = Builder::new_current_thread().enable_all().build()?;
    let _within = early.enter();
    Signals::listen(&obeyed, &unless_ignored)
}

async fn serve(
    signals: Signals,
    collector: Collector,
    probes: &ProbeOptions,
) -> Result<(), RunError> {
    let shutdown = signals.token();
    let kernel = probe::attach(probes);
    tell_blind_spots(&*kernel);
    info!(interval = ?collector.interval(), "counting");
    collector.run(kernel, shutdown).await
}

/// Fails where another collector keeps its state: two would spoil each other's.
fn keeping(kept: Option<Kept>) -> Result<Keeping, KeepError> {
    let Some(Kept {
        pin_path,
        state_dir,
    }) = kept
    else {
        return Ok(Keeping::Not("it was started with --no-pin".to_owned()));
    };
    match Keep::claim(&pin_path, &state_dir) {
        Ok(keep) => Ok(Keeping::In(keep)),
        Err(taken @ KeepError::Taken(_)) => Err(taken),
        Err(error) => {
            warn!("if this collector is killed, watches and totals go with it: {error}");
            Ok(Keeping::Not(error.to_string()))
        }
    }
}

/// On the sockets that were handed over; on those of the settings beside, but on the
/// default one only where there is no other.
fn listen(settings: &Settings) -> io::Result<Listeners> {
    let grants = &settings.options.grants;
    let mut listeners = Listeners::new();
    let inherited = listeners.inherit()?;
    for address in &inherited {
        info!("listening on {address}, which was handed over");
        warn_of_tcp(address, grants);
    }
    if settings.listens_by_default && !inherited.is_empty() {
        return Ok(listeners);
    }
    for address in &settings.listen {
        match (address, &settings.tls) {
            (Address::Unix(path), _) => {
                listeners.bind_unix(path, settings.socket_group)?;
                info!("listening on unix://{}", path.display());
            }
            (Address::Tls(address), Some(tls)) => {
                let bound = listeners.bind_tls(*address, tls)?;
                info!("listening on tls://{bound}");
            }
            (Address::Tls(address), None) => {
                let why = format!("cannot listen on tls://{address} without a certificate");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            (Address::Tcp(address), _) => {
                let bound = format!("tcp://{}", listeners.bind_tcp(*address)?);
                info!("listening on {bound}");
                warn_of_tcp(&bound, grants);
            }
        }
    }
    Ok(listeners)
}

fn warn_of_tcp(address: &str, grants: &[Grant]) {
    let is_token = |it: &Grant| matches!(it.to, Grantee::Token { .. });
    if !address.starts_with("tcp:") {
        return;
    }
    if grants.is_empty() {
        warn!(
            "every local user may watch over {address}, and end what others watch \
             over it, since all callers from one address count as one owner: \
             only a Unix socket has permissions"
        );
    } else if !grants.iter().any(is_token) {
        warn!(
            "nobody may do anything over {address}: without TLS only a token tells who \
             calls, and no grant has a token_file"
        );
    }
}

/// Which hooks are attached was told by attaching them.
fn tell_blind_spots(kernel: &dyn Kernel) {
    let spots = &kernel.info().blind_spots;
    if !spots.is_empty() {
        let ids: Vec<_> = spots.iter().map(|spot| spot.id.as_str()).collect();
        info!("blind spots: {} (see netio-client info)", ids.join(", "));
    }
}
