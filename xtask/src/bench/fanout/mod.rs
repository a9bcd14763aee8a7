//! `cargo xtask bench fanout`: a tick's way to many subscribers, compared with a
//! bare tonic server that writes prepared bytes, the same server encoding for
//! each subscriber, and a plain loop of sends.
//!
//! It builds netio-bench-fanout and starts, for each step, round and side, a
//! server and a load of its own, on loopback. Neither is pinned: how both share
//! the machine's CPUs is part of what is measured, and the same for all sides.
//!
//! The whole takes some 20 minutes: what has a goal is measured in [`ROUNDS`] rounds,
//! the rest in [`FEW`]. The short form takes half a minute.

mod report;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::figures::turned;
use super::server::Server;
use super::{leave, tell};
use crate::command::{output, run};
use crate::step::{Tally, step};
use crate::tree::Tree;

/// Rounds of what has a goal, unless asked for otherwise.
const ROUNDS: u32 = 9;
/// Of what has none, and of the sides that have none; and in the short form.
const FEW: u32 = 3;
/// Ticks that are measured in each.
const TICKS: u32 = 3;
/// A server ends by itself after this time, whatever happens.
const SERVER_SECONDS: u32 = 300;

/// Who sends the ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Side {
    Ours,
    Bare,
    PerSubscriber,
    Raw,
    /// The bare server once more: what differs from it is the machine's doing.
    BareAgain,
}

impl Side {
    const ALL: [Self; 5] = [
        Self::Ours,
        Self::Bare,
        Self::PerSubscriber,
        Self::Raw,
        Self::BareAgain,
    ];
    /// What the goals are about.
    const COMPARED: [Self; 3] = [Self::Ours, Self::Bare, Self::BareAgain];
    const SHORT: [Self; 2] = [Self::Ours, Self::Bare];

    fn argument(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Bare | Self::BareAgain => "bare",
            Self::PerSubscriber => "per-subscriber",
            Self::Raw => "raw",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "netio",
            Self::Bare => "bare tonic",
            Self::PerSubscriber => "tonic, encoding for each",
            Self::Raw => "raw sends",
            Self::BareAgain => "bare tonic again",
        }
    }
}

/// So many subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Load {
    streams: u32,
    connections: u32,
    /// Distinct choices of watches; only the collector has them.
    filters: u32,
}

const fn load(streams: u32, connections: u32) -> Load {
    Load {
        streams,
        connections,
        filters: 1,
    }
}

/// A load, how often it is measured, and whether beside all sides.
#[derive(Clone, Copy)]
struct Case {
    load: Load,
    rounds: u32,
    beside_all: bool,
}

const fn case(load: Load, rounds: u32) -> Case {
    Case {
        load,
        rounds,
        beside_all: false,
    }
}

const fn beside_all(load: Load) -> Case {
    Case {
        load,
        rounds: ROUNDS,
        beside_all: true,
    }
}

const CASES: [Case; 8] = [
    case(load(1, 1), FEW),
    case(load(100, 100), FEW),
    case(load(1_000, 100), ROUNDS),
    case(load(1_000, 1_000), ROUNDS),
    beside_all(load(10_000, 100)),
    case(
        Load {
            filters: 100,
            ..load(10_000, 100)
        },
        ROUNDS,
    ),
    beside_all(load(10_000, 10_000)),
    case(load(100_000, 500), ROUNDS),
];
const SHORT_CASES: [Case; 1] = [case(load(1_000, 10), FEW)];

impl Case {
    /// Those of a round, each time in another order.
    fn sides(self, round: u32, short: bool) -> Vec<Side> {
        let sides = match (short, self.beside_all && round < FEW) {
            (true, _) => &Side::SHORT[..],
            (false, true) => &Side::ALL[..],
            (false, false) => &Side::COMPARED[..],
        };
        turned(sides, round as usize).collect()
    }
}

/// What the load measured; see netio-bench-fanout.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Outcome {
    messages: u64,
    arrived: u64,
    skipped_ticks: u64,
    told_skipped_ticks: u64,
    message_bytes: f64,
    p50_us: u32,
    p99_us: u32,
    max_us: u32,
    server_cpu_ns: u64,
    load_cpu_ns: u64,
    resident_before: u64,
    resident_after: u64,
}

/// One side in one round.
#[derive(Serialize)]
struct Run {
    round: u32,
    side: Side,
    outcome: Option<Outcome>,
    /// Why there is no outcome.
    failure: Option<String>,
}

/// All runs under one load.
#[derive(Serialize)]
struct Runs {
    load: Load,
    runs: Vec<Run>,
}

/// Measures, prints the tables and leaves target/bench/fanout.json.
pub(crate) fn fanout(tree: &Tree, short: bool, rounds: Option<u32>) -> Result<Tally> {
    let words = ["build", "--release", "-p", "netio-bench-fanout"];
    step(
        "Build the fan-out's servers and load",
        &format!("cargo {}", words.join(" ")),
        || run(Command::new("cargo").current_dir(tree.root()).args(words)),
    )?;
    let program = tree.target("release").join("netio-bench-fanout");
    let cases = if short { &SHORT_CASES[..] } else { &CASES[..] };
    let begin = Instant::now();
    let mut measured = Vec::new();
    for case in cases {
        let load = case.load;
        let rounds = rounds.unwrap_or(case.rounds);
        let mut runs = Vec::new();
        println!("==> {}, {rounds} rounds", report::name(load));
        for round in 0..rounds {
            for side in case.sides(round, short) {
                let outcome = measure(&program, side, load);
                let failure = outcome.as_ref().err().map(|error| format!("{error:#}"));
                if let Some(failure) = &failure {
                    println!("    {}: {failure}", side.name());
                }
                runs.push(Run {
                    round,
                    side,
                    outcome: outcome.ok(),
                    failure,
                });
            }
        }
        measured.push(Runs { load, runs });
    }
    let tables = format!(
        "{}\nIt took {} s.\n\n{}",
        report::table(&measured),
        begin.elapsed().as_secs(),
        report::goals(&measured)
    );
    let is_full = !short && rounds.is_none();
    tell(tree, "fanout", &tables, is_full)?;
    leave(tree, "fanout", &measured)?;
    Ok(if short {
        report::gross_regressions(&measured)
    } else {
        report::completeness(&measured)
    })
}

/// What a server says when it can be connected to.
#[derive(Deserialize)]
struct Ready {
    address: String,
    watch_ids: Vec<String>,
}

/// One server, one load.
fn measure(program: &PathBuf, side: Side, load: Load) -> Result<Outcome> {
    let mut server = Server::start(
        Command::new(program)
            .args(["serve", "--side", side.argument()])
            .args(["--seconds", &SERVER_SECONDS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    )?;
    let stdout = server.process.stdout.take();
    let mut line = String::new();
    BufReader::new(stdout.context("the server has no output")?).read_line(&mut line)?;
    let ready: Ready =
        serde_json::from_str(&line).with_context(|| format!("the server said {line:?}"))?;

    let mut command = Command::new(program);
    command
        .args(["load", "--address", &ready.address])
        .args(["--server", &server.process.id().to_string()])
        .args(["--streams", &load.streams.to_string()])
        .args(["--connections", &load.connections.to_string()])
        .args(["--ticks", &TICKS.to_string()]);
    if side == Side::Raw {
        command.args(["--speech", "raw"]);
    }
    if side == Side::Ours {
        command.args(["--filters", &load.filters.to_string()]);
        for id in &ready.watch_ids {
            command.args(["--watch-id", id]);
        }
    }
    let said = output(&mut command)?;
    serde_json::from_str(&said).with_context(|| format!("the load said {said:?}"))
}
