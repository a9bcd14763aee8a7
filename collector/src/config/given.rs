//! Settings as they were given, in one place each.
//!
//! Takes parsed flags, `NETIO_*` variables or a TOML file; produces [`Given`],
//! in which numbers are numbers and words are words, but nothing else has been
//! checked. [`Origin`] names the place, for errors.
#![forbid(unsafe_code)]

use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use clap::ValueEnum;
use serde::{
    Deserialize as _,
    de::{self, Deserializer},
};

use super::{ConfigError, access::GivenGrant, watches::GivenWatch};
use crate::{logging::LogFormat, probe::HookChoice};

/// Every setting that has a variable.
const KEYS: [&str; 27] = [
    "listen",
    "socket_group",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "interval",
    "hooks",
    "detach_when_idle",
    "max_watches",
    "max_watches_per_owner",
    "max_processes",
    "max_processes_per_watch",
    "max_subscribers",
    "max_connections",
    "lease",
    "history",
    "history_bytes",
    "stall_timeout",
    "keep_privileges",
    "no_seccomp",
    "pin_path",
    "state_dir",
    "no_pin",
    "keep_at_stop",
    "log",
    "log_format",
    "config",
];

/// The word for hooks that stay attached.
pub(super) const NEVER: &str = "never";
/// How long nothing must be watched, where no time is said.
const IDLE: &str = "30s";

/// Variables that the client, the build and the tests read, not the collector.
const OF_OTHERS: [&str; 4] = [
    "NETIO_ENDPOINT",
    "NETIO_REQUIRE_KERNEL",
    "NETIO_PYTHON",
    "NETIO_BPF_OBJECT",
];

/// With this begin others that the client reads.
const OF_THE_CLIENT: &str = "NETIO_CLIENT_";

/// Settings as given in one place. The same names serve as flags
/// (`--max-watches`), variables (`NETIO_MAX_WATCHES`) and keys (`max_watches`).
#[derive(Clone, Debug, Default, clap::Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Given {
    /// Where to listen: unix:///PATH; tls://HOST:PORT; or tcp://HOST:PORT, without
    /// TLS, on this host's loopback; repeat for more. The Unix socket has
    /// permissions (0660); over tcp://, as long as there are no grants, every local
    /// user may watch, and end what others watch over it
    /// [env: NETIO_LISTEN, separated by commas]
    /// [default: unix:///run/netio/collector.sock]
    #[arg(long, value_name = "ADDRESS")]
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) listen: Vec<String>,

    /// Group of the Unix sockets, by name or number: its members may connect
    /// [env: NETIO_SOCKET_GROUP] [default: the collector's own group]
    #[arg(long, value_name = "GROUP")]
    pub(super) socket_group: Option<String>,

    /// For tls://: the collector's certificate, PEM, with intermediate ones after it;
    /// like the next two taken into use again when the file changes
    /// [env: NETIO_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,

    /// For tls://: its private key, PEM [env: NETIO_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,

    /// For tls://: the CAs of the clients' certificates, PEM; clients need one, unless
    /// some grant has a token_file [env: NETIO_TLS_CLIENT_CA]
    #[arg(long, value_name = "FILE")]
    pub(super) tls_client_ca: Option<PathBuf>,

    /// Gives a role to somebody: 'ROLE KEY=VALUE', with ROLE observe, watch (also
    /// watches, and ends its own) or admin (also ends others'), and KEY uid, gid, group
    /// (Unix socket), san, cn (TLS) or token_file (a token on each line; writing others
    /// revokes them, an empty file does not); repeat for more. Root and the collector's
    /// user are admin on Unix sockets; whoever may connect to one has watch until some
    /// grant has uid, gid or group. Not as a variable
    #[arg(long, value_name = "GRANT")]
    pub(super) grant: Vec<GivenGrant>,

    /// Time between samples, from 100ms to 60s [env: NETIO_INTERVAL] [default: 1s]
    #[arg(long, value_name = "DURATION")]
    pub(super) interval: Option<String>,

    /// Kernel hooks to count with; auto takes the first that attaches
    /// [env: NETIO_HOOKS] [default: auto]
    #[arg(long, value_name = "MODE", ignore_case = true)]
    #[serde(deserialize_with = "word")]
    pub(super) hooks: Option<HookChoice>,

    /// Detach the probes when nothing was watched for so long, from 1s to 24h, so
    /// that an idle collector costs the host's traffic nothing; the next watch
    /// attaches them again, which takes it up to about a second. Standing watches
    /// count as watched, also while they wait for a process
    /// [env: NETIO_DETACH_WHEN_IDLE] [default: never; without a time: 30s]
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = IDLE)]
    pub(super) detach_when_idle: Option<String>,

    /// Watches to have room for, from 1 to 16384 [env: NETIO_MAX_WATCHES]
    /// [default: 1024]
    #[arg(long, value_name = "COUNT")]
    pub(super) max_watches: Option<u32>,

    /// Watches that one owner may have [env: NETIO_MAX_WATCHES_PER_OWNER]
    /// [default: 512]
    #[arg(long, value_name = "COUNT")]
    pub(super) max_watches_per_owner: Option<u32>,

    /// Processes to have room for, from 1 to 65536; each takes 64 bytes, and 64
    /// more for each CPU. Children past it count in their watch's sum only
    /// [env: NETIO_MAX_PROCESSES] [default: 4096]
    #[arg(long, value_name = "COUNT")]
    pub(super) max_processes: Option<u32>,

    /// The same for one watch [env: NETIO_MAX_PROCESSES_PER_WATCH] [default: 4096]
    #[arg(long, value_name = "COUNT")]
    pub(super) max_processes_per_watch: Option<u32>,

    /// Streams that may be open at once, from 1 to 262144; each takes about 11 KiB
    /// [env: NETIO_MAX_SUBSCRIBERS] [default: 1024]
    #[arg(long, value_name = "COUNT")]
    pub(super) max_subscribers: Option<u32>,

    /// Connections over Unix sockets that may be open at once, as many over tcp://, and
    /// as many over tls://, from 1 to 65536; each takes a file descriptor and about
    /// 20 KiB, and has room for 256 streams. Past it, who connects waits. Of several
    /// listeners of a kind, each keeps one for whoever connects to it next
    /// [env: NETIO_MAX_CONNECTIONS] [default: 1024]
    #[arg(long, value_name = "COUNT")]
    pub(super) max_connections: Option<u32>,

    /// How long a watch lives whose client has gone away and did not say, from 1s
    /// to 24h [env: NETIO_LEASE] [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub(super) lease: Option<String>,

    /// How far back ticks are kept for those who come later, up to 24h
    /// [env: NETIO_HISTORY] [default: 15m]
    #[arg(long, value_name = "DURATION")]
    pub(super) history: Option<String>,

    /// And how many bytes they may take, up to 4294967295; 0 keeps none
    /// [env: NETIO_HISTORY_BYTES] [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    pub(super) history_bytes: Option<u32>,

    /// A reader that takes nothing for so long, while messages wait for it, loses its
    /// stream, with RESOURCE_EXHAUSTED; 5s later its connection, if that takes nothing
    /// either. From 1s to 1h [env: NETIO_STALL_TIMEOUT] [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub(super) stall_timeout: Option<String>,

    /// Keep every capability that it was started with; by default it keeps those
    /// only that counting and finding processes need. For debugging
    /// [env: NETIO_KEEP_PRIVILEGES=true]
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(super) keep_privileges: Option<bool>,

    /// Do not filter system calls; by default, those that it has no use for fail
    /// as if the kernel did not know them. For debugging
    /// [env: NETIO_NO_SECCOMP=true]
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(super) no_seccomp: Option<bool>,

    /// Folder in a BPF filesystem where the probes and their counters are pinned: so
    /// they count on if the collector is killed, and the next one goes on with every
    /// total [env: NETIO_PIN_PATH] [default: /sys/fs/bpf/netio]
    #[arg(long, value_name = "PATH")]
    pub(super) pin_path: Option<PathBuf>,

    /// Folder of a file with what the next one must know beside that
    /// [env: NETIO_STATE_DIR] [default: /run/netio/state]
    #[arg(long, value_name = "PATH")]
    pub(super) state_dir: Option<PathBuf>,

    /// Pin nothing: if the collector is killed, so are its watches and totals. Also
    /// lets several collectors run side by side [env: NETIO_NO_PIN] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) no_pin: Option<bool>,

    /// Count on after a signal to stop, too, until the next collector goes on with it;
    /// otherwise nothing is left in the kernel. For a restart or an upgrade without a
    /// gap; `netio-collector uninstall` ends the counting then
    /// [env: NETIO_KEEP_AT_STOP] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) keep_at_stop: Option<bool>,

    /// What to log: error, warn, info, debug, trace, or directives such as
    /// info,netio_collector=debug. The record of who did what is told at info, and of
    /// refusals at warn, by the target audit [env: NETIO_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(super) log: Option<String>,

    /// How the log on standard error looks [env: NETIO_LOG_FORMAT] [default: pretty]
    #[arg(long, value_name = "FORMAT", ignore_case = true)]
    #[serde(deserialize_with = "word")]
    pub(super) log_format: Option<LogFormat>,

    /// Standing watches; in the file only, as [[watch]] tables.
    #[arg(skip)]
    pub(super) watch: Vec<GivenWatch>,
}

/// Where settings were given.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    Flags,
    Variables,
    File(&'a Path),
}

impl Origin<'_> {
    /// How the user knows the setting there.
    pub(super) fn name(self, key: &str) -> String {
        match self {
            Self::Flags => format!("--{}", key.replace('_', "-")),
            Self::Variables => variable(key),
            Self::File(path) => format!("{key} in {}", path.display()),
        }
    }

    pub(super) fn bad(
        self,
        key: &str,
        value: impl fmt::Display,
        problem: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Value {
            origin: self.name(key),
            value: value.to_string(),
            problem: problem.into(),
        }
    }
}

/// The variable of a setting.
pub(super) fn variable(key: &str) -> String {
    format!("NETIO_{}", key.to_uppercase())
}

impl Given {
    /// Says only where something is kept.
    pub fn kept(pin_path: Option<PathBuf>, state_dir: Option<PathBuf>) -> Self {
        Self {
            pin_path,
            state_dir,
            ..Self::default()
        }
    }

    pub(super) fn from_variables(
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let text = |key: &'static str| {
            env(key)
                .map(|value| {
                    value.into_string().map_err(|value| {
                        Origin::Variables.bad(key, value.display(), "is not valid UTF-8")
                    })
                })
                .transpose()
        };
        let number = |key: &'static str| {
            let parse = |text: String| {
                u32::from_str(&text).map_err(|_| Origin::Variables.bad(key, text, "is no number"))
            };
            text(key)?.map(parse).transpose()
        };
        let truth = |key: &'static str| {
            let parse = |text: String| match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" => Ok(true),
                "false" | "0" | "no" => Ok(false),
                _ => Err(Origin::Variables.bad(key, text, "is neither true nor false")),
            };
            text(key)?.map(parse).transpose()
        };
        let path = |key: &'static str| env(key).map(PathBuf::from);
        let listen = text("listen")?.unwrap_or_default();
        Ok(Self {
            listen: listen
                .split(',')
                .map(|address| address.trim().to_owned())
                .filter(|address| !address.is_empty())
                .collect(),
            socket_group: text("socket_group")?,
            tls_cert: path("tls_cert"),
            tls_key: path("tls_key"),
            tls_client_ca: path("tls_client_ca"),
            grant: Vec::new(),
            interval: text("interval")?,
            hooks: text("hooks")?.map(|it| choice("hooks", &it)).transpose()?,
            detach_when_idle: text("detach_when_idle")?,
            max_watches: number("max_watches")?,
            max_watches_per_owner: number("max_watches_per_owner")?,
            max_processes: number("max_processes")?,
            max_processes_per_watch: number("max_processes_per_watch")?,
            max_subscribers: number("max_subscribers")?,
            max_connections: number("max_connections")?,
            lease: text("lease")?,
            history: text("history")?,
            history_bytes: number("history_bytes")?,
            stall_timeout: text("stall_timeout")?,
            keep_privileges: truth("keep_privileges")?,
            no_seccomp: truth("no_seccomp")?,
            pin_path: path("pin_path"),
            state_dir: path("state_dir"),
            no_pin: truth("no_pin")?,
            keep_at_stop: truth("keep_at_stop")?,
            log: text("log")?,
            log_format: text("log_format")?
                .map(|it| choice("log_format", &it))
                .transpose()?,
            watch: Vec::new(),
        })
    }

    pub(super) fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::from_toml(path, &text)
    }

    /// What a file at this path holds.
    pub(crate) fn from_toml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|source| ConfigError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }
}

/// A variable's value that must be one of a few words.
fn choice<T: ValueEnum>(key: &str, text: &str) -> Result<T, ConfigError> {
    parse_word(text).map_err(|problem| Origin::Variables.bad(key, text, problem))
}

/// The file's value that must be one of a few words.
fn word<'de, D: Deserializer<'de>, T: ValueEnum>(from: D) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(from)?;
    parse_word(&text)
        .map(Some)
        .map_err(|problem| de::Error::custom(format!("{text:?} {problem}")))
}

/// Case does not matter, wherever the word was given.
fn parse_word<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, true).map_err(|_| {
        let words: Vec<_> = T::value_variants()
            .iter()
            .filter_map(|it| Some(it.to_possible_value()?.get_name().to_owned()))
            .collect();
        format!("is none of {}", words.join(", "))
    })
}

/// The file's value that may be one text or a list of them.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMore;

    impl<'de> de::Visitor<'de> for OneOrMore {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address in quotes, or a list of them")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Vec<String>, A::Error> {
            Vec::deserialize(de::value::SeqAccessDeserializer::new(list))
        }
    }

    from.deserialize_any(OneOrMore)
}

/// Those variables that look like ours and are not: most likely a typing error.
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let known: Vec<_> = KEYS.into_iter().map(variable).collect();
    let mut unknown: Vec<_> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("NETIO_"))
        .filter(|name| !known.contains(name) && !OF_OTHERS.contains(&name.as_str()))
        .filter(|name| !name.starts_with(OF_THE_CLIENT))
        .collect();
    unknown.sort();
    unknown
}
