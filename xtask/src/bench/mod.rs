//! `cargo xtask bench`: what netio costs, beside its rivals in the same run.
//!
//! Each benchmark prints Markdown tables, leaves target/bench/NAME.json and gives
//! a tally. A goal that is not reached is told in its table; only the short form,
//! a part of the tests, fails by it, and only when it is missed by more than twice.

mod fanout;
mod figures;
mod host;
mod measured;
mod published;
mod server;

use std::fs;
use std::thread;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::step::Tally;
use crate::tree::Tree;
use measured::{Extent, measured};

/// What to measure.
#[derive(Args)]
pub(crate) struct Selection {
    /// Only these; otherwise all
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
    /// Fewer rounds and small sizes; goals missed by more than twice fail
    #[arg(long)]
    short: bool,
    /// Boot no other kernel
    #[arg(long, conflicts_with = "guest_only")]
    native_only: bool,
    /// Only what runs in a guest
    #[arg(long)]
    guest_only: bool,
    /// How often each side of fanout and host runs
    #[arg(long, value_name = "N", conflicts_with = "short")]
    rounds: Option<u32>,
    /// Put what the last full runs printed into README.md and docs/performance.md
    #[arg(long, conflicts_with_all = ["short", "rounds", "native_only", "guest_only"])]
    update_readme: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// What send and receive calls cost with the probes attached
    Probe,
    /// What it costs to read all watched processes at a tick
    Read,
    /// How fast watches come and go, and how soon they count
    Churn,
    /// How late ticks are
    Ticks,
    /// A tick's way to many subscribers; takes 20 minutes
    Fanout,
    /// A database server under load, with netio and without
    Host,
}

/// Those that `cargo xtask test` runs in their short form.
const TESTED: [Name; 3] = [Name::Probe, Name::Read, Name::Fanout];

/// Runs the benchmarks selected.
pub(crate) fn bench(tree: &Tree, selection: &Selection) -> Tally {
    let names = match &*selection.names {
        [] => Name::value_variants(),
        names => names,
    };
    let extent = Extent {
        short: selection.short,
        native: !selection.guest_only,
        guest: !selection.native_only,
    };
    let is_full = !extent.short && selection.rounds.is_none();
    for name in names.iter().filter(|_| is_full) {
        let name = name.to_possible_value();
        let name = name.as_ref().map_or("", |name| name.get_name());
        if let Err(error) = published::forget(tree, name) {
            return tallied(Err(error));
        }
    }
    let mut tally = run(tree, names, extent, selection.rounds);
    if selection.update_readme && tally.failed() == 0 {
        tally.add(tallied(published::publish(tree).map(|()| Tally::default())));
    }
    tally
}

/// The short forms that belong to the tests, on this machine's kernel only.
pub(crate) fn short(tree: &Tree) -> Tally {
    let extent = Extent {
        short: true,
        native: true,
        guest: false,
    };
    run(tree, &TESTED, extent, None)
}

fn run(tree: &Tree, names: &[Name], extent: Extent, rounds: Option<u32>) -> Tally {
    let mut tally = Tally::default();
    for name in names {
        tally.add(match name {
            Name::Probe => measured(tree, "probe", extent),
            Name::Read => measured(tree, "read", extent),
            Name::Churn => measured(tree, "churn", extent),
            Name::Ticks => measured(tree, "ticks", extent),
            Name::Fanout => tallied(fanout::fanout(tree, extent.short, rounds)),
            // It has no short form: its figures come from seconds of load.
            Name::Host if extent.short => Tally::default(),
            Name::Host => tallied(host::host(tree, rounds)),
        });
    }
    tally
}

/// A benchmark that broke off is a failure.
fn tallied(measured: Result<Tally>) -> Tally {
    measured.unwrap_or_else(|error| {
        let mut tally = Tally::default();
        tally.fail(format!("{error:#}"));
        tally
    })
}

/// What the figures are of.
fn machine() -> String {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map_or("an unknown model", |(_, model)| model.trim());
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("CPUs: {cpus}, {model}; Linux {}", kernel.trim())
}

/// Prints tables, and keeps them if they are of a full run.
fn tell(tree: &Tree, name: &str, tables: &str, is_full: bool) -> Result<()> {
    let text = format!("## {name} ({})\n\n{tables}\n", machine());
    println!("\n{text}");
    if is_full {
        published::keep(tree, name, &text)?;
    }
    Ok(())
}

/// Leaves what was measured in target/bench/NAME.json.
fn leave(tree: &Tree, name: &str, measured: &impl Serialize) -> Result<()> {
    let file = tree.target("bench").join(format!("{name}.json"));
    let json = serde_json::to_string_pretty(measured)?;
    fs::create_dir_all(tree.target("bench"))
        .and_then(|()| fs::write(&file, json + "\n"))
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("\nThe figures of each round: {}\n", file.display());
    Ok(())
}
