//! `cargo xtask bench`: what netio costs, beside its rivals in the same run.
//!
//! Each benchmark prints Markdown tables, leaves target/bench/NAME.json and gives
//! a tally. A goal that is not reached is told in its table; only the short form,
//! a part of the tests, fails by it, and only when it is missed by more than twice.

mod measured;

use clap::{Args, ValueEnum};

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
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// What send and receive calls cost with the probes attached
    Probe,
    /// What it costs to read all watched processes at a tick
    Read,
    /// How fast watches come and go, and how soon they count
    Churn,
}

/// Those that `cargo xtask test` runs in their short form.
const TESTED: [Name; 2] = [Name::Probe, Name::Read];

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
    run(tree, names, extent)
}

/// The short forms that belong to the tests, on this machine's kernel only.
pub(crate) fn short(tree: &Tree) -> Tally {
    let extent = Extent {
        short: true,
        native: true,
        guest: false,
    };
    run(tree, &TESTED, extent)
}

fn run(tree: &Tree, names: &[Name], extent: Extent) -> Tally {
    let mut tally = Tally::default();
    for name in names {
        tally.add(match name {
            Name::Probe => measured(tree, "probe", extent),
            Name::Read => measured(tree, "read", extent),
            Name::Churn => measured(tree, "churn", extent),
        });
    }
    tally
}
