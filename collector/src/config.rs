//! What the collector is told at its start.
//!
//! Takes flags, `NETIO_*` variables and a TOML file, each as [`Given`]; produces
//! validated [`Settings`]. For each setting the first that gives it wins: flag,
//! variable, file, default. An error says where the bad value came from.
#![forbid(unsafe_code)]

use std::{
    ffi::OsString,
    fmt, fs, io,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::ValueEnum;
use netio_collector::{Limits, Options, probe::HookChoice};
use tracing_subscriber::EnvFilter;

use crate::logging::LogFormat;

#[cfg(test)]
mod tests;

/// Settings as given in one place. The same names serve as flags
/// (`--max-watches`), variables (`NETIO_MAX_WATCHES`) and keys (`max_watches`).
#[derive(Clone, Debug, Default, clap::Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Given {
    /// Where to listen: unix:///PATH, or tcp://HOST:PORT on this host's
    /// loopback; repeat for more [env: NETIO_LISTEN, separated by commas]
    /// [default: unix:///run/netio/collector.sock]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,

    /// Time between samples, from 100ms to 60s [env: NETIO_INTERVAL] [default: 1s]
    #[arg(long, value_name = "DURATION")]
    interval: Option<String>,

    /// Kernel hooks to count with; auto takes the first that attaches
    /// [env: NETIO_HOOKS] [default: auto]
    #[arg(long, value_name = "MODE")]
    hooks: Option<HookChoice>,

    /// Watches to have room for, from 1 to 16384 [env: NETIO_MAX_WATCHES]
    /// [default: 1024]
    #[arg(long, value_name = "COUNT")]
    max_watches: Option<u32>,

    /// What to log: error, warn, info, debug, trace, or directives such as
    /// info,netio_collector=debug [env: NETIO_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,

    /// How the log on standard error looks [env: NETIO_LOG_FORMAT] [default: pretty]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Everything the collector runs by.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) listen: Vec<Address>,
    pub(crate) options: Options,
    pub(crate) hooks: HookChoice,
    pub(crate) log: EnvFilter,
    pub(crate) log_format: LogFormat,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{origin}: {value:?} {problem}")]
    Value {
        /// "--interval", "NETIO_INTERVAL" or "interval in FILE".
        origin: String,
        value: String,
        problem: String,
    },
    #[error("cannot read the configuration file {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("the configuration file {path} is wrong: {source}")]
    Toml {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
}

/// Where settings were given.
#[derive(Clone, Copy)]
enum Origin<'a> {
    Flags,
    Variables,
    File(&'a Path),
}

impl Origin<'_> {
    /// How the user knows the setting there.
    fn name(self, key: &str) -> String {
        match self {
            Self::Flags => format!("--{}", key.replace('_', "-")),
            Self::Variables => variable(key),
            Self::File(path) => format!("{key} in {}", path.display()),
        }
    }

    fn bad(self, key: &str, value: impl fmt::Display, problem: impl Into<String>) -> ConfigError {
        ConfigError::Value {
            origin: self.name(key),
            value: value.to_string(),
            problem: problem.into(),
        }
    }
}

fn variable(key: &str) -> String {
    format!("NETIO_{}", key.to_uppercase())
}

impl Settings {
    /// `env` looks up a variable; an empty one counts as not set.
    pub(crate) fn load(
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

    fn validate(given: &[(Origin<'_>, Given)]) -> Result<Self, ConfigError> {
        let mut options = Options::default();
        if let Some((origin, text)) = first(given, |given| given.interval.clone()) {
            options.interval = interval(&text).map_err(|why| origin.bad("interval", &text, why))?;
        }
        if let Some((origin, count)) = first(given, |given| given.max_watches) {
            if !(1..=Limits::MAX_WATCHES).contains(&count) {
                let problem = format!("is out of range: choose from 1 to {}", Limits::MAX_WATCHES);
                return Err(origin.bad("max_watches", count, problem));
            }
            options.limits.max_watches = count;
        }
        let (origin, log) = first(given, |given| given.log.clone())
            .unwrap_or_else(|| (Origin::Flags, "info".to_owned()));
        let log = EnvFilter::try_new(&log).map_err(|why| {
            let problem =
                format!("is no log filter ({why}): try info, or info,netio_collector=debug");
            origin.bad("log", &log, problem)
        })?;
        Ok(Self {
            listen: listen(given)?,
            options,
            hooks: first(given, |given| given.hooks).map_or_else(Default::default, |(_, it)| it),
            log,
            log_format: first(given, |given| given.log_format)
                .map_or_else(Default::default, |(_, it)| it),
        })
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

impl Given {
    fn from_variables(env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let text = |key: &'static str| {
            env(key)
                .map(|value| {
                    value.into_string().map_err(|value| {
                        Origin::Variables.bad(key, value.display(), "is not valid UTF-8")
                    })
                })
                .transpose()
        };
        let listen = text("listen")?.unwrap_or_default();
        Ok(Self {
            listen: listen
                .split(',')
                .map(|address| address.trim().to_owned())
                .filter(|address| !address.is_empty())
                .collect(),
            interval: text("interval")?,
            hooks: text("hooks")?.map(|it| choice("hooks", &it)).transpose()?,
            max_watches: text("max_watches")?
                .map(|it| {
                    let number = u32::from_str(&it);
                    number.map_err(|_| Origin::Variables.bad("max_watches", it, "is no number"))
                })
                .transpose()?,
            log: text("log")?,
            log_format: text("log_format")?
                .map(|it| choice("log_format", &it))
                .transpose()?,
        })
    }

    fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }
}

/// A variable's value that must be one of a few words.
fn choice<T: ValueEnum>(key: &str, text: &str) -> Result<T, ConfigError> {
    T::from_str(text, true).map_err(|_| {
        let words: Vec<_> = T::value_variants()
            .iter()
            .filter_map(|it| Some(it.to_possible_value()?.get_name().to_owned()))
            .collect();
        let problem = format!("is none of {}", words.join(", "));
        Origin::Variables.bad(key, text, problem)
    })
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text)
        .map_err(|why| format!("is no duration ({why}): try 1s or 500ms"))?;
    let (min, max) = (Options::MIN_INTERVAL, Options::MAX_INTERVAL);
    if !(min..=max).contains(&interval) {
        return Err(format!("is out of range: choose from {min:?} to {max:?}"));
    }
    Ok(interval)
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
            let mut found = host_port.to_socket_addrs().map_err(|why| {
                format!("is no host and port ({why}): write tcp://127.0.0.1:PORT")
            })?;
            let first = found.next().ok_or("names a host without addresses")?;
            return Ok(Self::Tcp(first));
        }
        Err("is no address to listen on: write unix:///PATH or tcp://HOST:PORT".into())
    }
}
