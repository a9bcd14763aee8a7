//! `cargo xtask bench host`: what a database under load loses to netio, and to a
//! peer that captures packets.
//!
//! A MariaDB of its own (temporary directory, loopback) under sysbench's
//! `oltp_read_only` over TCP. Within each round every side runs once, on the
//! same server, in an order that turns from round to round; the server with
//! nothing beside it runs twice, as a check of the machine.

mod database;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use tempfile::TempDir;

use super::figures::{Figure, cell, turned};
use super::server::Server;
use super::{leave, tell};
use crate::command::{output, run};
use crate::step::{Tally, step};
use crate::tree::{Tree, find_command, is_root_user};
use database::Database;

/// Rounds, unless asked for otherwise.
const ROUNDS: u32 = 9;
/// How long the load of one side runs.
const SECONDS: u32 = 8;
/// A side has this long to settle before the load.
const SETTLING: Duration = Duration::from_secs(1);

/// What stands beside the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Side {
    Off,
    /// The collector, which has let go of its probes.
    Resting,
    /// The collector, with nothing to watch.
    Idle,
    /// The collector, the server watched, a client that reads.
    Watching,
    /// nethogs in trace mode.
    Capture,
    /// Nothing, once more.
    OffAgain,
}

impl Side {
    const ALL: [Self; 6] = [
        Self::Off,
        Self::Resting,
        Self::Idle,
        Self::Watching,
        Self::Capture,
        Self::OffAgain,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Resting => "netio resting (--detach-when-idle)",
            Self::Idle => "netio attached, idle",
            Self::Watching => "netio watching the server",
            Self::Capture => "packet capture (nethogs)",
            Self::OffAgain => "off again",
        }
    }
}

/// One side in one round.
#[derive(Serialize)]
struct Run {
    round: u32,
    side: Side,
    transactions_per_second: f64,
    /// CPU time of what stood beside the server, while the load ran.
    beside_cpu_seconds: f64,
}

/// Measures, prints the table and leaves target/bench/host.json.
pub(crate) fn host(tree: &Tree, rounds: Option<u32>) -> Result<Tally> {
    let mut tally = Tally::default();
    if let Some(lacking) = lacking() {
        println!("==> The server under load is left out: {lacking}");
        tally.skip(format!("bench host: {lacking}"));
        return Ok(tally);
    }
    let words = [
        "build",
        "--release",
        "-p",
        "netio-collector",
        "-p",
        "netio-client",
    ];
    step(
        "Build the collector and its client",
        &format!("cargo {}", words.join(" ")),
        || run(Command::new("cargo").current_dir(tree.root()).args(words)),
    )?;
    let database = step(
        "Start a MariaDB and fill its table",
        "cargo xtask bench host",
        || {
            let database = Database::start()?;
            run(database.sysbench().arg("prepare").stdout(Stdio::null()))?;
            Ok(database)
        },
    )?;
    let programs = tree.target("release");
    let mut runs = Vec::new();
    let is_full = rounds.is_none();
    let rounds = rounds.unwrap_or(ROUNDS);
    println!(
        "==> {rounds} rounds of {} sides, {SECONDS} s each",
        Side::ALL.len()
    );
    load(&database)?; // caches warm up
    for round in 0..rounds {
        for side in turned(&Side::ALL, round as usize) {
            let run = measure(&database, &programs, side, round)?;
            println!(
                "    {}: {:.0} transactions/s",
                side.name(),
                run.transactions_per_second
            );
            runs.push(run);
        }
    }
    tell(tree, "host", &table(&runs), is_full)?;
    leave(tree, "host", &runs)?;
    tally.pass(runs.len());
    Ok(tally)
}

fn lacking() -> Option<String> {
    if !is_root_user() {
        return Some("only root can attach probes and capture packets".to_owned());
    }
    ["mariadbd", "sysbench", "nethogs"]
        .into_iter()
        .find(|program| find_command(program).is_none())
        .map(|program| format!("{program} is missing: cargo xtask setup tests bench"))
}

fn measure(database: &Database, programs: &Path, side: Side, round: u32) -> Result<Run> {
    let directory = tempfile::tempdir()?;
    let mut beside = beside(database, programs, side, &directory)?;
    thread::sleep(SETTLING);
    let before = cpu_seconds(&beside)?;
    let transactions_per_second = load(database)?;
    // What has ended meanwhile has cost too little.
    for server in &mut beside {
        server.must_run()?;
    }
    Ok(Run {
        round,
        side,
        transactions_per_second,
        beside_cpu_seconds: cpu_seconds(&beside)? - before,
    })
}

/// Starts what stands beside the server.
fn beside(
    database: &Database,
    programs: &Path,
    side: Side,
    directory: &TempDir,
) -> Result<Vec<Server>> {
    let socket = directory.path().join("collector.sock");
    let endpoint = format!("unix://{}", socket.display());
    let collector = |settings: &[&str]| -> Result<Server> {
        let mut collector = Server::start(
            Command::new(programs.join("netio-collector"))
                .args(["--listen", &endpoint])
                .args(settings)
                .env_remove("NETIO_CONFIG")
                .env("NETIO_NO_PIN", "true")
                .env("NETIO_LOG", "warn")
                .stdin(Stdio::null()),
        )?;
        collector.wait_until(|| socket.exists())?;
        Ok(collector)
    };
    Ok(match side {
        Side::Off | Side::OffAgain => Vec::new(),
        Side::Resting => {
            let mut collector = collector(&["--detach-when-idle=1s"])?;
            collector.wait_until(|| is_resting(programs, &endpoint))?;
            vec![collector]
        }
        Side::Idle => vec![collector(&[])?],
        Side::Watching => {
            let collector = collector(&[])?;
            let client = Server::start(
                Command::new(programs.join("netio-client"))
                    .args(["watch", "--endpoint", &endpoint])
                    .args(["--port", &database.port().to_string()])
                    .args(["--output", "json"])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null()),
            )?;
            // In the order in which they are ended.
            vec![client, collector]
        }
        Side::Capture => vec![Server::start(
            Command::new("nethogs")
                .args(["-t", "-d", "1", "-a", "lo"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )?],
    })
}

fn is_resting(programs: &Path, endpoint: &str) -> bool {
    let told = output(
        Command::new(programs.join("netio-client"))
            .args(["info", "--output", "json"])
            .args(["--endpoint", endpoint]),
    );
    told.is_ok_and(|told| told.contains("\"probe_state\":\"resting\""))
}

fn cpu_seconds(servers: &[Server]) -> Result<f64> {
    servers.iter().try_fold(
        0.0,
        |sum, server| Ok(sum + server.cpu_time()?.as_secs_f64()),
    )
}

/// Transactions a second under the load.
fn load(database: &Database) -> Result<f64> {
    let said = output(
        database
            .sysbench()
            .arg(format!("--time={SECONDS}"))
            .arg("run"),
    )?;
    transactions_per_second(&said).with_context(|| format!("sysbench said: {said}"))
}

/// From a line such as `transactions:   12345  (1543.21 per sec.)`.
fn transactions_per_second(said: &str) -> Option<f64> {
    let line = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("transactions:"))?;
    let (_, rate) = line.split_once('(')?;
    rate.split_whitespace().next()?.parse().ok()
}

fn table(runs: &[Run]) -> String {
    let mut table = format!(
        "| beside the server | transactions/s | ratio to off | CPU s of it, in {SECONDS} s |\n\
         |---|---|---|---|\n"
    );
    for side in Side::ALL {
        let of_side = || runs.iter().filter(move |run| run.side == side);
        let rate = Figure::of(of_side().map(|run| run.transactions_per_second));
        let ratio = Figure::of(of_side().filter_map(|run| {
            let off = |other: &&Run| other.side == Side::Off && other.round == run.round;
            let off = runs.iter().find(off)?.transactions_per_second;
            (off > 0.0).then(|| run.transactions_per_second / off)
        }));
        let cpu = Figure::of(of_side().map(|run| run.beside_cpu_seconds));
        let ratio = if side == Side::Off {
            "1".to_owned()
        } else {
            cell(ratio)
        };
        let _ = writeln!(
            table,
            "| {} | {} | {ratio} | {} |",
            side.name(),
            rate.map_or_else(|| "–".to_owned(), |rate| format!("{:.0}", rate.median)),
            cell(cpu),
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found() {
        let said =
            "SQL statistics:\n    transactions:                        12345  (1543.21 per sec.)\n";
        assert_eq!(transactions_per_second(said), Some(1543.21));
        assert_eq!(transactions_per_second("FATAL: no"), None);
    }

    #[test]
    fn sides_are_compared_within_a_round() {
        let run = |round, side, transactions_per_second| Run {
            round,
            side,
            transactions_per_second,
            beside_cpu_seconds: 0.5,
        };
        let table = table(&[
            run(0, Side::Off, 100.0),
            run(0, Side::Idle, 90.0),
            run(1, Side::Off, 200.0),
            run(1, Side::Idle, 180.0),
        ]);
        let row = "| netio attached, idle | 135 | 0.90 (0.90–0.90) | 0.50 (0.50–0.50) |";
        assert!(table.contains(row), "{table}");
    }
}
