//! One column of the accuracy matrix: what a hook mode counted, minus the truth.
//!
//! It attaches the collector in its own process (or loads the tutorial's
//! program), has netio-traffic make one pattern after the other, and writes a
//! line of JSON that describes the mode and one for each pattern ([`report`]).
//! It exits with 1 if a cell is neither 0 nor excused by a blind spot that the
//! mode admits ([`excuses`]); the tutorial's errors are what is to be shown, so
//! only a pattern that could not be measured makes it fail.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, ValueEnum as _};
use netio_collector::probe::HookChoice;
use netio_traffic::Pattern;
use netio_traffic::protocol::{Bytes, Report};
use serde::Serialize;
use tokio::time::timeout;

mod collector;
mod counter;
mod excuses;
mod generator;
mod report;
mod tutorial;

use collector::Collector;
use counter::Counter;
use generator::Generator;
use report::{Cell, Errors, Outcome};
use tutorial::Tutorial;

/// How long a pattern may take at scale 1, waiting for the ticks included. The
/// generator gives up after a minute.
const PATTERN_LIMIT: Duration = Duration::from_secs(90);

/// Runs one hook mode's column of the accuracy matrix.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    what: What,
    /// Only this pattern (repeatable); all without it.
    #[arg(long = "pattern", value_name = "NAME")]
    patterns: Vec<Pattern>,
    /// Multiplies the traffic of each pattern.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    /// The netio-traffic program.
    #[arg(long, value_name = "PATH")]
    traffic: PathBuf,
    /// Where the lines go; "-" is stdout.
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Count with the collector in this hook mode.
    #[arg(long, value_enum)]
    hooks: Option<HookChoice>,
    /// Count with the tutorial's program in this BPF object.
    #[arg(long, value_name = "OBJECT")]
    tutorial: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("netio-accuracy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every cell is as it should be.
async fn run(cli: Cli) -> Result<bool> {
    let mut out = open(&cli.out)?;
    let patterns = if cli.patterns.is_empty() {
        Pattern::value_variants()
    } else {
        &cli.patterns
    };
    // Some connections must be older than the programs that count them.
    let mut early = Vec::new();
    for &pattern in patterns.iter().filter(|p| p.starts_before_collector()) {
        early.push((
            pattern,
            Generator::start(&cli.traffic, pattern, cli.scale).await,
        ));
    }
    let mut counter = match (cli.what.hooks, &cli.what.tutorial) {
        (Some(hooks), _) => Counter::Collector(Collector::start(hooks)),
        (None, Some(object)) => Counter::Tutorial(Tutorial::load(object)?),
        (None, None) => bail!("give --hooks MODE or --tutorial OBJECT"),
    };
    let about = counter.about().await?;
    write_line(&mut out, &about)?;
    let mut all_well = true;
    for &pattern in patterns {
        let generator = match early.iter().position(|(early, _)| *early == pattern) {
            // Every cell tells, so that the column is not mistaken for a short one.
            _ if about.programs.is_empty() => Err(about.why_not()),
            Some(position) => early.swap_remove(position).1,
            None => Generator::start(&cli.traffic, pattern, cli.scale).await,
        };
        let outcome = match generator {
            Ok(generator) => {
                let measured = measure(&mut counter, generator, pattern);
                in_time(PATTERN_LIMIT * cli.scale, measured).await
            }
            Err(error) => Err(error),
        };
        let cell = Cell::new(pattern, &about, outcome);
        eprintln!("{cell}");
        all_well &= cell.is_well();
        write_line(&mut out, &cell)?;
    }
    counter.stop().await?;
    Ok(all_well)
}

async fn in_time(
    limit: Duration,
    measured: impl Future<Output = Result<Outcome>>,
) -> Result<Outcome> {
    match timeout(limit, measured).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("the pattern took longer than {limit:?}"),
    }
}

async fn measure(
    counter: &mut Counter,
    mut generator: Generator,
    pattern: Pattern,
) -> Result<Outcome> {
    let watched = counter
        .watch(generator.pids(), pattern.follows_children())
        .await?;
    let children_refused = watched.children_refused();
    let (truth, note) = match generator.go().await? {
        Report::Truth { truth, note, .. } => (truth, note),
        Report::Unavailable { unavailable, .. } => {
            generator.exit().await?;
            counter.unwatch(watched).await?;
            return Ok(Outcome::Unavailable(unavailable));
        }
    };
    let (counted, missed_events) = if pattern.exits_by_itself() {
        generator.ended().await?;
        counter.totals_of_exited(watched).await?
    } else if pattern.watched_exits() {
        let totals = counter.totals_of_exited(watched).await?;
        generator.exit().await?;
        totals
    } else {
        let totals = counter.totals(&watched).await?;
        generator.exit().await?;
        counter.unwatch(watched).await?;
        totals
    };
    Ok(Outcome::Measured {
        errors: Errors::of(&counted, &truth)?,
        truth: sum(truth.iter().map(|truth| truth.bytes)),
        missed_events,
        note,
        children_refused,
    })
}

fn sum(bytes: impl Iterator<Item = Bytes>) -> Bytes {
    bytes.fold(Bytes::default(), |sum, bytes| Bytes {
        sent: sum.sent + bytes.sent,
        received: sum.received + bytes.received,
    })
}

fn open(path: &Path) -> Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Box::new(file))
}

fn write_line(out: &mut dyn Write, line: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(line).context("cannot encode a line")?;
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("cannot write the results")
}
