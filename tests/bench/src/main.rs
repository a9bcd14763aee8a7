//! What netio costs, measured beside its rivals.
//!
//! Takes the name of a benchmark; produces a table in Markdown on stdout and, with
//! `--out`, the same figures as JSON ([`report`]). Contract:
//! - A figure stands beside others of the same run. The sides are measured in
//!   turn, round by round, so what disturbs the machine disturbs all of them, and
//!   what is told is the median of the rounds with the least and the most.
//! - A side that does nothing is measured at both ends of each round; if its two
//!   figures differ by more than a tenth, the table says that it is worth little.
//! - A goal that is not reached is told with by how much.
//!
//! Exit code: 0 measured, whatever the figures; 1 failed, or, with `--short`, a
//! goal missed by more than twice; 77 this machine cannot run it, and stderr says
//! why.
//!
//! A further benchmark is a module with a function that gives a [`report::Report`],
//! and a line in [`Benchmark`] and in [`measure`].

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

mod churn;
mod machine;
mod probe;
mod read;
mod report;
mod rounds;
mod service;
mod sys;
mod ticks;

use report::Report;

/// Measures what netio costs, beside its rivals
#[derive(Parser)]
#[command(name = "netio-bench")]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// Fewer rounds and small sizes; fails if a goal is missed by more than twice
    #[arg(long, global = true)]
    short: bool,
    /// Leave the figures here, as JSON
    #[arg(long, global = true, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Benchmark {
    /// What a send and a receive call cost with netio's programs attached
    Probe(probe::Arguments),
    /// What it costs to read all watched processes at a tick
    Read,
    /// How fast watches come and go, and how soon they count
    Churn(churn::Arguments),
    /// How late a collector's ticks are
    Ticks(ticks::Arguments),
}

fn measure(benchmark: &Benchmark, short: bool) -> Result<Report> {
    match benchmark {
        Benchmark::Probe(arguments) => probe::run(arguments, short),
        Benchmark::Read => read::run(short),
        Benchmark::Churn(arguments) => churn::run(arguments, short),
        Benchmark::Ticks(arguments) => ticks::run(arguments, short),
    }
}

/// This machine cannot run the benchmark.
#[derive(Debug)]
pub(crate) struct CannotRun(pub(crate) String);

impl std::fmt::Display for CannotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotRun {}

const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match perform(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<CannotRun>() => {
            eprintln!("skipped: {error:#}");
            ExitCode::from(SKIPPED)
        }
        Err(error) => {
            eprintln!("netio-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn perform(arguments: &Arguments) -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        return Err(CannotRun("only root can load programs into the kernel".to_owned()).into());
    }
    let report = measure(&arguments.benchmark, arguments.short)?;
    print!("{}", report.markdown);
    if let Some(out) = &arguments.out {
        let text = serde_json::to_string_pretty(&report).context("encode the figures")?;
        std::fs::write(out, text + "\n").with_context(|| format!("write {}", out.display()))?;
    }
    if arguments.short && report.is_disturbed() {
        let why = "the machine was disturbed, as the side that does nothing shows".to_owned();
        return Err(CannotRun(why).into());
    }
    let regressions = report.regressions();
    for regression in &regressions {
        eprintln!("gross regression: {regression}");
    }
    Ok(!arguments.short || regressions.is_empty())
}
