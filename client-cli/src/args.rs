//! The command line: what can be typed, and how it is explained.

use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use jiff::Timestamp;
use netio_collector::{Options, probe::HookChoice, usage};

use crate::{
    embedded::Settings,
    endpoint::{Credentials, Endpoint},
    target,
    ticks::Shape,
    wanted::Wanted,
    watch::{Existing, Subject},
};

mod selectors;
mod since;

use selectors::{OneSelector, Selectors};
use since::Since;

/// Over so long the collector sums up at most.
const LONGEST_SUM: Duration = Duration::from_hours(1);

const OVERVIEW: &str = "\
Examples:
  netio-client discover                    the databases here, and how to watch them
  netio-client watch --port 3306           a line per second for who listens there
  netio-client watch --pid 4242            the same for one process, until it exits
  netio-client info                        which hooks count, and what they miss
  netio-client unwatch --port 3306         end watches that were made with --detach

Exit codes:
  0  done; also: stopped by Ctrl-C, or the reader of the output left
  1  failed; standard error says why and what to do
  2  the command line is wrong";

const WATCH_EXAMPLES: &str = "\
Examples:
  netio-client watch --pid 4242
  netio-client watch --pid $(pgrep -d, mariadbd) --count 10
  netio-client watch --unit mariadb.service --wait
  netio-client watch --port 5432 --per-process
  netio-client watch --container 0123456789ab --port 3306 --detach
  netio-client watch --pid 4242 --output json | jq .sent_bytes
  netio-client watch --pid 4242 --endpoint tcp://127.0.0.1:7070
  netio-client watch --pid 4242 --endpoint tls://db1:7443 --tls-ca ca.pem \
    --tls-cert client.pem --tls-key client-key.pem
  netio-client watch --port 3306 --since 5m
  netio-client watch --watch-id w-7 --since 2026-03-01T12:00:00Z
  netio-client watch --port 3306 --every 10s --only-changed

Selectors can be repeated and combined: each makes a watch of its own, which
counts the sum of its processes. All but --pid are rules: a process that comes to
match later, such as a restarted server, joins the watch by itself, and while none
runs the watch waits.

Units: B, KiB = 1024 B, MiB = 1024 KiB, ...; exact bytes below 10,000. Rates are
divided by the measured interval, in the first line of a watch by the part of it
since the watch began; interval_s in JSON is always the whole interval, with
--every the sum of those of its ticks. PROCS is
the number of processes that ran in the interval. Counted are the bytes that send
calls accepted and receive calls delivered, so without protocol headers or
retransmissions.

The command ends with exit code 0 when no watch is left because their processes
have exited, after --count ticks, by Ctrl-C, and when nobody reads its output any
more. It ends its watches before it leaves. Where it cannot, because it is killed
or the connection is lost, they end by themselves within 10 s; only those made
with --detach stay, seen by netio-client list, until netio-client unwatch ends
them, their process exits (--pid) or the collector stops.

A lost connection is tried again for 60 s, and the ticks that came meanwhile are
shown, as far as the collector's history goes; with --every they are told as
missing. Watches that ended meanwhile are made anew, and their totals begin anew.

The history of a watch goes back to when the watch was made, and no further than
netio-client info shows. --since and --watch-id end no watches.";

/// Shows, second by second, how many bytes processes send and receive over TCP.
#[derive(Debug, Parser)]
#[command(name = "netio-client", version, after_help = OVERVIEW)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// What this process was started with. Where that is wrong, says so and ends
    /// the process.
    pub(crate) fn read() -> Self {
        let args = Self::try_parse().and_then(Self::checked);
        args.unwrap_or_else(|error| usage::exit(error))
    }

    fn checked(self) -> Result<Self, clap::Error> {
        if let Command::Watch(watch) = &self.command
            && let Err(why) = watch.check()
        {
            return Err(Self::command().error(ErrorKind::ArgumentConflict, why));
        }
        Ok(self)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch processes: a line per second for each selector, until they exit.
    ///
    /// With no endpoint named and no collector at the default socket, the
    /// collector runs within this command; that needs root.
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(Watch),
    /// List the watches of a collector, whoever made them.
    List(List),
    /// End watches that you made.
    Unwatch(Unwatch),
    /// Find the database servers that run here, and tell how to watch them.
    ///
    /// With no endpoint named and no collector at the default socket, looks for
    /// them from within this command.
    Discover(Discover),
    /// Show what a collector is: version, hooks, blind spots, missed events, limits.
    ///
    /// With no endpoint named and no collector at the default socket, shows
    /// what the collector would be within this command; that needs root.
    Info(Info),
    /// Check whether this host can count, and what is missing.
    ///
    /// Exit code 0: it can; 1: it cannot, and the report says what to do.
    Doctor(Doctor),
}

/// `watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    selectors: Selectors,
    /// Watch even if nothing matches yet, and count from when something does.
    #[arg(long)]
    wait: bool,
    /// Count the children that a matched process forks, too [default: for
    /// cgroups, units, containers, and PostgreSQL].
    #[arg(long)]
    follow_children: bool,
    /// Do not count the children that a matched process forks.
    #[arg(long, conflicts_with = "follow_children")]
    no_follow_children: bool,
    /// Also show a line for each process that moves bytes.
    #[arg(long)]
    per_process: bool,
    /// Show first what the collector's history holds of watches that exist
    /// already, then go on: a duration, such as 5m, or a time, such as
    /// 2026-03-01T12:00:00Z.
    ///
    /// With a selector: of all watches with the same selector, whoever made them;
    /// none is made. With --watch-id: of these, also of those that have ended.
    #[arg(
        long,
        value_name = "WHEN",
        conflicts_with_all = ["wait", "follow_children", "no_follow_children", "hooks", "interval"]
    )]
    since: Option<Since>,
    /// Show sums over this time instead of each tick: a whole multiple of the
    /// collector's interval, at most 1h.
    #[arg(long, value_name = "DURATION", value_parser = every, conflicts_with = "since")]
    every: Option<Duration>,
    /// Leave out watches that moved no byte and stand as before.
    #[arg(long)]
    only_changed: bool,
    /// Make watches that go on without this command, print them, and end.
    ///
    /// They count until netio-client unwatch ends them, the process of a --pid
    /// exits, or the collector stops. Not with a collector within this command.
    #[arg(long, conflicts_with_all = [
        "count", "per_process", "hooks", "interval", "since", "every", "only_changed"
    ])]
    pub(crate) detach: bool,
    /// End after this many ticks that have something to show.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) embed: Embed,
}

impl Watch {
    /// What is to be watched.
    pub(crate) fn wanted(&self) -> Wanted {
        let follow_children = match (self.follow_children, self.no_follow_children) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        Wanted::new(self.selectors.targets(follow_children), self.wait)
    }

    /// What is to be shown.
    pub(crate) fn subject(&self) -> Subject {
        let watch_ids = self.selectors.watch_ids();
        if self.since.is_none() && watch_ids.is_empty() {
            return Subject::Made(self.wanted());
        }
        Subject::Existing(Existing {
            watch_ids,
            targets: self.selectors.targets(None),
            since: self.since.map(|since| since.time(Timestamp::now())),
        })
    }

    /// What of it.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            per_process: self.per_process,
            interval: self.every,
            only_changed: self.only_changed,
        }
    }

    /// What the definition of the options cannot say.
    fn check(&self) -> Result<(), &'static str> {
        let now = Timestamp::now();
        if self.since.is_some_and(|since| since.time(now) > now) {
            return Err("--since is a time to come: the history holds what was");
        }
        let targets = self.selectors.targets(None);
        if self.wait && !targets.iter().any(target::is_rule) {
            return Err(
                "--wait needs a --name, --port, --cgroup, --unit or --container to wait for: \
                 a pid names a process that runs already",
            );
        }
        Ok(())
    }
}

/// `list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

/// `unwatch`.
#[derive(Debug, clap::Args)]
#[group(id = "selector", required = true, multiple = false,
        args = ["watch_ids", "pid", "name", "port", "cgroup", "unit", "container"])]
pub(crate) struct Unwatch {
    /// The watches to end, as netio-client list shows them.
    #[arg(value_name = "WATCH_ID")]
    pub(crate) watch_ids: Vec<String>,
    #[command(flatten)]
    pub(crate) selector: OneSelector,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

/// `discover`.
#[derive(Debug, clap::Args)]
pub(crate) struct Discover {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connect: Connect,
}

/// `info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) embed: Embed,
}

/// `doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) output: Output,
}

/// How results are shown.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// For people, or one JSON object per line for programs.
    #[arg(long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

/// See [`Output`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// One JSON object per line.
    Json,
}

/// Which collector.
#[derive(Debug, clap::Args)]
pub(crate) struct Connect {
    /// The collector: unix:///PATH, tls://HOST:PORT (or https), or tcp://HOST:PORT (or
    /// http) without TLS [default: unix:///run/netio/collector.sock].
    #[arg(long, value_name = "URL", env = "NETIO_ENDPOINT")]
    pub(crate) endpoint: Option<Endpoint>,
    #[command(flatten)]
    pub(crate) credentials: Credentials,
}

impl Connect {
    /// The collector that the user named.
    pub(crate) fn named(&self) -> Option<Endpoint> {
        let endpoint = self.endpoint.clone()?;
        Some(endpoint.with(self.credentials.clone()))
    }
}

/// How a collector within this command counts.
#[derive(Debug, clap::Args)]
pub(crate) struct Embed {
    /// The kernel hooks to count with, when the collector runs within this
    /// command [default: auto].
    #[arg(long, value_enum, value_name = "HOOKS")]
    hooks: Option<HookChoice>,
    /// The time between two samples, 100ms to 60s, when the collector runs
    /// within this command [default: 1s].
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    interval: Option<Duration>,
}

impl Embed {
    /// As the collector takes it.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            hooks: self.hooks,
            interval: self.interval,
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    duration(text, Options::MIN_INTERVAL, Options::MAX_INTERVAL)
}

/// Sums may be over longer than the collector's longest interval.
fn every(text: &str) -> Result<Duration, String> {
    duration(text, Options::MIN_INTERVAL, LONGEST_SUM)
}

fn duration(text: &str, shortest: Duration, longest: Duration) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number and a unit, such as 500ms or 2s"))?;
    if (shortest..=longest).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("it must be from {shortest:?} to {longest:?}"))
    }
}

#[cfg(test)]
mod tests;
