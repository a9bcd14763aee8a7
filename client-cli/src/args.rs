//! The command line: what can be typed, and how it is explained.

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use netio_collector::{Options, probe::HookChoice};

use crate::{embedded::Settings, endpoint::Endpoint};

const OVERVIEW: &str = "\
Examples:
  netio-client watch --pid 4242            a line per second, until it exits
  netio-client info                        which hooks count, and what they miss
  netio-client unwatch --pid 4242          end watches that were left behind

Exit codes:
  0  done; also: stopped by Ctrl-C, or the reader of the output left
  1  failed; standard error says why and what to do
  2  the command line is wrong";

const WATCH_EXAMPLES: &str = "\
Examples:
  netio-client watch --pid 4242
  netio-client watch --pid $(pgrep -d, mariadbd) --count 10
  netio-client watch --pid 4242 --output json | jq .sent_bytes
  netio-client watch --pid 4242 --endpoint tcp://127.0.0.1:7070

Units: B, KiB = 1024 B, MiB = 1024 KiB, ...; exact bytes below 10,000. Rates are
divided by the measured interval, in the first line of a process by the part of
it since its watch began; interval_s in JSON is always the whole interval.
Counted are the bytes that send calls accepted and receive calls delivered, so
without protocol headers or retransmissions.

The command ends with exit code 0 when every process has exited, after --count
ticks, by Ctrl-C, and when nobody reads its output any more. It ends its watches
before it leaves, but cannot when it is killed or the connection is lost: watches
left behind at a netio-collector go on, seen by netio-client list, until
netio-client unwatch ends them, their process exits or the collector stops.";

/// Shows, second by second, how many bytes processes send and receive over TCP.
#[derive(Debug, Parser)]
#[command(name = "netio-client", version, after_help = OVERVIEW)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch processes: a line per second and process until they exit.
    ///
    /// With no endpoint named and no collector at the default socket, the
    /// collector runs within this command; that needs root.
    #[command(after_help = WATCH_EXAMPLES)]
    Watch(Watch),
    /// List the watches of a collector, whoever made them.
    List(List),
    /// End watches that you made.
    Unwatch(Unwatch),
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
    /// The processes to watch, by id; more than one separated by commas.
    #[arg(long = "pid", value_name = "PID", required = true, value_delimiter = ',',
          value_parser = pid)]
    pub(crate) pids: Vec<u32>,
    /// End after this many ticks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) embed: Embed,
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
#[group(id = "selector", required = true, multiple = false, args = ["watch_ids", "pid"])]
pub(crate) struct Unwatch {
    /// The watches to end, as netio-client list shows them.
    #[arg(value_name = "WATCH_ID")]
    pub(crate) watch_ids: Vec<String>,
    /// End all watches that you made for this process.
    #[arg(long, value_name = "PID", value_parser = pid)]
    pub(crate) pid: Option<u32>,
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
    /// The collector: unix:///PATH, http://HOST:PORT or tcp://HOST:PORT
    /// [default: unix:///run/netio/collector.sock].
    #[arg(long, value_name = "URL", env = "NETIO_ENDPOINT")]
    pub(crate) endpoint: Option<Endpoint>,
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

/// The kernel's pids are positive numbers of 31 bits.
fn pid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(pid) if (1..=i32::MAX.unsigned_abs()).contains(&pid) => Ok(pid),
        _ => Err(format!("a pid is a number from 1 to {}", i32::MAX)),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number and a unit, such as 500ms or 2s"))?;
    let (shortest, longest) = (Options::MIN_INTERVAL, Options::MAX_INTERVAL);
    if (shortest..=longest).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("it must be from {shortest:?} to {longest:?}"))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        let words = ["netio-client"].into_iter().chain(line.split(' '));
        Args::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn watch_in_full() {
        let args = parse(
            "watch --pid 1,22 --pid 3 --count 4 --output json --hooks kprobe --interval 250ms",
        );
        let Command::Watch(watch) = args.unwrap().command else {
            panic!("not watch");
        };
        assert_eq!(watch.pids, [1, 22, 3]);
        assert_eq!(watch.count, Some(4));
        assert_eq!(watch.output.format, Format::Json);
        let settings = watch.embed.settings();
        assert_eq!(settings.interval, Some(Duration::from_millis(250)));
        assert!(settings.hooks.is_some());
    }

    #[test]
    fn the_largest_pid_and_many_watch_ids_are_taken() {
        let Command::Unwatch(unwatch) = parse("unwatch w-1 w-2").unwrap().command else {
            panic!("not unwatch");
        };
        assert_eq!(unwatch.watch_ids, ["w-1", "w-2"]);
        let Command::Unwatch(unwatch) = parse("unwatch --pid 2147483647").unwrap().command else {
            panic!("not unwatch");
        };
        assert_eq!(unwatch.pid, Some(2_147_483_647));
    }

    #[test]
    fn bad_input_is_refused_with_a_reason() {
        const PIDS: &str = "a pid is a number from 1 to 2147483647";
        for (line, why) in [
            ("watch", "--pid"),
            ("watch --pid 0", PIDS),
            ("watch --pid x", PIDS),
            ("watch --pid 1,,2", PIDS),
            ("watch --pid 2147483648", PIDS),
            ("watch --pid 4294967295", PIDS),
            ("watch --pid 99999999999999999999", PIDS),
            ("unwatch --pid 4294967295", PIDS),
            ("watch --pid 1 --count 0", "0"),
            ("watch --pid 1 --interval 99ms", "from 100ms to 60s"),
            ("watch --pid 1 --interval 61s", "from 100ms to 60s"),
            ("watch --pid 1 --interval 5", "such as 500ms"),
            ("watch --pid 1 --hooks uprobe", "tracepoint"),
            ("watch --pid 1 --endpoint /run/x", "unix:///PATH"),
            ("watch --pid 1 --output xml", "table, json"),
            ("unwatch", "WATCH_ID"),
            ("unwatch w-1 --pid 1", "cannot be used with"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
