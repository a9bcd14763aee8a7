//! `cargo xtask fuzz`: hands ever new bytes to everything that reads input from
//! outside, led by what of the code they reach.
//!
//! Takes a target and a time, leaves inputs that reach more in target/fuzz-corpus and
//! those that break a promise in fuzz/artifacts. The kept inputs in fuzz/corpus are
//! where it begins, and are changed by hand only: the plain tests replay them, and
//! mutations of them, in every run.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::command::{output, run};
use crate::step::Tally;
use crate::tree::Tree;

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Requests, as the collector takes them
    Request,
    /// The collector's configuration file
    Config,
    /// Selectors, with cgroups and mounts as the kernel tells them
    Selector,
    /// The kernel's types
    Btf,
    /// Answers, as the client shows them, and its JSON
    Answer,
}

/// What to fuzz, and for how long.
#[derive(Args)]
pub(crate) struct Selection {
    /// Only this
    #[arg(value_name = "TARGET")]
    target: Option<Target>,
    /// How long to fuzz each, without building
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u32,
    /// With programs that are built sooner and run slower
    #[arg(long)]
    short: bool,
}

/// What runs with the tests.
pub(crate) fn short(tree: &Tree) -> Tally {
    let selection = Selection {
        target: None,
        seconds: 4,
        short: true,
    };
    fuzz(tree, &selection)
}

/// The longest input; one that takes longer than that many seconds, or more memory
/// than that many MiB, has run away.
const LIMITS: [&str; 3] = ["-max_len=4096", "-timeout=5", "-rss_limit_mb=1024"];

/// Fuzzes; the tally tells whether every promise was kept.
pub(crate) fn fuzz(tree: &Tree, selection: &Selection) -> Tally {
    let mut tally = Tally::default();
    for target in Target::value_variants() {
        if selection.target.is_none_or(|only| only == *target) {
            let name = name(*target);
            let seconds = selection.seconds;
            let short = if selection.short { " --short" } else { "" };
            tally.check(
                &format!("Fuzz {name} for {seconds} s"),
                &format!("cargo xtask fuzz {name} --seconds {seconds}{short}"),
                || one(tree, &name, selection),
            );
        }
    }
    tally
}

fn name(target: Target) -> String {
    let value = target.to_possible_value();
    value.map_or_else(String::new, |it| it.get_name().to_owned())
}

fn one(tree: &Tree, name: &str, selection: &Selection) -> Result<()> {
    let found = tree.target("fuzz-corpus").join(name);
    fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    output(Command::new("cargo").args(["fuzz", "--version"]))
        .context("cargo-fuzz is missing; type `cargo xtask setup fuzz` to install it")?;
    run(Command::new("cargo")
        .current_dir(tree.root())
        // The code is safe Rust: what a sanitizer would look for is not there, and
        // without one the stable compiler will do.
        .args(["fuzz", "run", "--sanitizer", "none"])
        .args(selection.short.then_some("--dev"))
        .arg(name)
        // New inputs go to the first.
        .arg(&found)
        .arg(tree.path("fuzz/corpus").join(name))
        .arg("--")
        .args(LIMITS)
        .arg(format!("-max_total_time={}", selection.seconds)))
}
