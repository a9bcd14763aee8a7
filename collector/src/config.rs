//! What the collector is told at its start.
//!
//! Takes flags, `NETIO_*` variables and a TOML file, each as [`Given`]; produces
//! validated [`Settings`]. For each setting the first that gives it wins: flag,
//! variable, file, default. An error says where the bad value came from.
#![forbid(unsafe_code)]

use std::{
    ffi::OsString,
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use netio::v1::Target;
use tracing_subscriber::EnvFilter;

use crate::{
    Limits, Options, TlsFiles,
    keep::{DEFAULT_PIN_PATH, DEFAULT_STATE_DIR},
    logging::LogFormat,
    probe::HookChoice,
};

mod access;
mod given;
#[cfg(test)]
mod tests;
mod watches;

pub(crate) use given::Origin;
use given::variable;
pub use given::{Given, unknown_variables};

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
    /// On this host's loopback.
    Tcp(SocketAddr),
    /// With TLS, on any interface.
    Tls(SocketAddr),
}

/// Where what outlives the collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The pins, in a BPF filesystem.
    pub pin_path: PathBuf,
    /// The state.
    pub state_dir: PathBuf,
}

/// Everything the collector runs by.
#[derive(Debug)]
pub struct Settings {
    /// Where to listen; each once, at least one.
    pub listen: Vec<Address>,
    /// Nobody has said where to listen.
    pub listens_by_default: bool,
    /// Of the Unix sockets; none: the process's own.
    pub socket_group: Option<u32>,
    /// There if some address has TLS.
    pub tls: Option<TlsFiles>,
    /// How to run, within the limits of [`Options`] and [`Limits`].
    pub options: Options,
    /// Which hooks to count with.
    pub hooks: HookChoice,
    /// Where to pin; none: nothing is pinned.
    pub keep: Option<Kept>,
    /// Keep capabilities that are not needed.
    pub keep_privileges: bool,
    /// Let every system call pass.
    pub no_seccomp: bool,
    /// What to log.
    pub log: EnvFilter,
    /// And how.
    pub log_format: LogFormat,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting has a value that it cannot have.
    #[error("{origin}: {value:?} {problem}")]
    Value {
        /// "--interval", "NETIO_INTERVAL" or "interval in FILE".
        origin: String,
        /// What was given.
        value: String,
        /// What is wrong with it, and what to give instead.
        problem: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no TOML, or has other settings than there are.
    #[error("the configuration file {path} is wrong: {source}")]
    Toml {
        /// Its path.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
}

impl Settings {
    /// `env` looks up a variable; an empty one counts as not set.
    pub fn load(
        flags: Given,
        config: Option<PathBuf>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let env = |key: &str| env(&variable(key)).filter(|value| !value.is_empty());
        let variables = Given::from_variables(&env)?;
        let path = config.or_else(|| env("config").map(PathBuf::from));
        let file = path.as_deref().map(Given::from_file).transpose()?;

        let mut given = vec![(Origin::Flags, flags), (Origin::Variables, variables)];
        if let (Some(path), Some(file)) = (&path, file) {
            given.push((Origin::File(path), file));
        }
        Self::validate(&given)
    }

    pub(crate) fn validate(given: &[(Origin<'_>, Given)]) -> Result<Self, ConfigError> {
        let mut options = Options::default();
        if let Some((origin, text)) = first(given, |given| given.interval.clone()) {
            let range = Options::MIN_INTERVAL..=Options::MAX_INTERVAL;
            options.interval =
                duration(&text, range).map_err(|why| origin.bad("interval", &text, why))?;
        }
        if let Some((origin, text)) = first(given, |given| given.detach_when_idle.clone()) {
            options.detach_when_idle =
                idle(&text).map_err(|why| origin.bad("detach_when_idle", &text, why))?;
        }
        if let Some((origin, text)) = first(given, |given| given.lease.clone()) {
            let range = Limits::MIN_LEASE_TTL..=Limits::MAX_LEASE_TTL;
            options.limits.default_lease_ttl =
                duration(&text, range).map_err(|why| origin.bad("lease", &text, why))?;
        }
        if let Some((origin, text)) = first(given, |given| given.history.clone()) {
            let range = Duration::ZERO..=Limits::MAX_HISTORY;
            options.limits.max_history =
                duration(&text, range).map_err(|why| origin.bad("history", &text, why))?;
        }
        if let Some((_, bytes)) = first(given, |given| given.history_bytes) {
            options.limits.max_history_bytes = bytes.into();
        }
        if let Some((origin, text)) = first(given, |given| given.stall_timeout.clone()) {
            let range = Limits::MIN_STALL..=Limits::MAX_STALL;
            options.limits.stall_timeout =
                duration(&text, range).map_err(|why| origin.bad("stall_timeout", &text, why))?;
        }
        options.limits = limits(given, options.limits)?;
        options.watches = standing(given)?;
        options.grants = access::grants(given)?;
        let listen = listen(given)?;
        options.keep_at_stop = first(given, |it| it.keep_at_stop).is_some_and(|(_, it)| it);
        let kept = Kept {
            pin_path: folder(given, "pin_path", DEFAULT_PIN_PATH, |it| {
                it.pin_path.clone()
            })?,
            state_dir: folder(given, "state_dir", DEFAULT_STATE_DIR, |it| {
                it.state_dir.clone()
            })?,
        };
        let no_pin = first(given, |it| it.no_pin).is_some_and(|(_, it)| it);
        let (origin, log) = first(given, |given| given.log.clone())
            .unwrap_or_else(|| (Origin::Flags, "info".to_owned()));
        let log = EnvFilter::try_new(&log).map_err(|why| {
            let problem =
                format!("is no log filter ({why}): try info, or info,netio_collector=debug");
            origin.bad("log", &log, problem)
        })?;
        Ok(Self {
            socket_group: access::socket_group(given)?,
            tls: access::tls(given, &listen)?,
            listen,
            listens_by_default: given.iter().all(|(_, given)| given.listen.is_empty()),
            options,
            hooks: first(given, |given| given.hooks).map_or_else(Default::default, |(_, it)| it),
            keep_privileges: first(given, |given| given.keep_privileges).is_some_and(|(_, it)| it),
            no_seccomp: first(given, |given| given.no_seccomp).is_some_and(|(_, it)| it),
            keep: (!no_pin).then_some(kept),
            log,
            log_format: first(given, |given| given.log_format)
                .map_or_else(Default::default, |(_, it)| it),
        })
    }
}

/// A folder, by its absolute path.
fn folder(
    given: &[(Origin<'_>, Given)],
    key: &str,
    default: &str,
    setting: impl Fn(&Given) -> Option<PathBuf>,
) -> Result<PathBuf, ConfigError> {
    match first(given, setting) {
        Some((_, path)) if path.is_absolute() => Ok(path),
        Some((origin, path)) => Err(origin.bad(key, path.display(), "is no absolute path")),
        None => Ok(default.into()),
    }
}

/// The first place that gives a setting.
fn first<'a, T>(
    given: &[(Origin<'a>, Given)],
    setting: impl Fn(&Given) -> Option<T>,
) -> Option<(Origin<'a>, T)> {
    given
        .iter()
        .find_map(|(origin, given)| Some((*origin, setting(given)?)))
}

fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|why| format!("is no duration ({why}): try 1s or 500ms"))?;
    if !range.contains(&duration) {
        let (min, max) = range.into_inner();
        return Err(format!("is out of range: choose from {min:?} to {max:?}"));
    }
    Ok(duration)
}

/// How long nothing must be watched; none: for ever.
fn idle(text: &str) -> Result<Option<Duration>, String> {
    if text.eq_ignore_ascii_case(given::NEVER) {
        return Ok(None);
    }
    let range = Options::MIN_IDLE..=Options::MAX_IDLE;
    duration(text, range)
        .map(Some)
        .map_err(|why| format!("{why}, or {}", given::NEVER))
}

/// The limits that are numbers.
fn limits(given: &[(Origin<'_>, Given)], mut limits: Limits) -> Result<Limits, ConfigError> {
    type Setting = (&'static str, u32, fn(&Given) -> Option<u32>);
    let set = |(key, most, setting): Setting, limit: &mut u32| {
        if let Some((origin, count)) = first(given, setting) {
            if !(1..=most).contains(&count) {
                let problem = format!("is out of range: choose from 1 to {most}");
                return Err(origin.bad(key, count, problem));
            }
            *limit = count;
        }
        Ok(())
    };
    let (watches, processes) = (Limits::MAX_WATCHES, Limits::MAX_PROCESSES);
    set(
        ("max_watches", watches, |it| it.max_watches),
        &mut limits.max_watches,
    )?;
    set(
        ("max_watches_per_owner", watches, |it| {
            it.max_watches_per_owner
        }),
        &mut limits.max_watches_per_owner,
    )?;
    set(
        ("max_processes", processes, |it| it.max_processes),
        &mut limits.max_processes,
    )?;
    set(
        ("max_processes_per_watch", processes, |it| {
            it.max_processes_per_watch
        }),
        &mut limits.max_processes_per_watch,
    )?;
    set(
        ("max_subscribers", Limits::MAX_SUBSCRIBERS, |it| {
            it.max_subscribers
        }),
        &mut limits.max_subscribers,
    )?;
    set(
        ("max_connections", Limits::MAX_CONNECTIONS, |it| {
            it.max_connections
        }),
        &mut limits.max_connections,
    )?;
    Ok(limits)
}

/// The watches of the file.
fn standing(given: &[(Origin<'_>, Given)]) -> Result<Vec<Target>, ConfigError> {
    let all = given
        .iter()
        .flat_map(|(origin, given)| given.watch.iter().map(move |watch| (origin, watch)));
    all.map(|(origin, watch)| {
        let bad = |why| origin.bad("watch", format_args!("{watch:?}"), why);
        watch.target().map_err(bad)
    })
    .collect()
}

fn listen(given: &[(Origin<'_>, Given)]) -> Result<Vec<Address>, ConfigError> {
    let found = first(given, |given| {
        (!given.listen.is_empty()).then(|| given.listen.clone())
    });
    let (origin, texts) =
        found.unwrap_or_else(|| (Origin::Flags, vec![netio::DEFAULT_ENDPOINT.to_owned()]));
    let mut addresses = Vec::new();
    for text in texts {
        let address = text
            .parse()
            .map_err(|why: String| origin.bad("listen", &text, why))?;
        if addresses.contains(&address) {
            return Err(origin.bad("listen", &text, "is given twice"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') || path.ends_with('/') {
                return Err(
                    "names no absolute path: write unix:///run/netio/collector.sock".into(),
                );
            }
            return Ok(Self::Unix(path.into()));
        }
        if let Some(host_port) = text.strip_prefix("tcp://") {
            return socket_address(host_port, "tcp://127.0.0.1:PORT").map(Self::Tcp);
        }
        if let Some(host_port) = text.strip_prefix("tls://") {
            return socket_address(host_port, "tls://0.0.0.0:PORT").map(Self::Tls);
        }
        Err(
            "is no address to listen on: write unix:///PATH, tls://HOST:PORT, or tcp://HOST:PORT \
             on loopback"
                .into(),
        )
    }
}

fn socket_address(host_port: &str, example: &str) -> Result<SocketAddr, String> {
    let mut found = host_port
        .to_socket_addrs()
        .map_err(|why| format!("is no host and port ({why}): write {example}"))?;
    let first = found.next();
    first.ok_or_else(|| "names a host without addresses".to_owned())
}
