//! `cargo xtask soak`: a collector among a thousand clients that come, stall, reset and
//! leave, and ten that must not notice.
//!
//! Builds what ships, optimised, and runs netio-soak, which judges and ends by itself.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::Args;

use crate::command::run;
use crate::step::{Tally, step};
use crate::tree::{Tree, is_root_user};

const BUILD: [&str; 8] = [
    "build",
    "--release",
    "--package",
    "netio-collector",
    "--package",
    "netio-traffic",
    "--package",
    "netio-soak",
];
/// What the tests have time for.
const SHORT: u64 = 2;

/// How long, and what the clients do.
#[derive(Args)]
pub(crate) struct Selection {
    /// How long the clients keep at it
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=7 * 24 * 60))]
    minutes: u64,
    /// What decides what they do [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// The form that is a part of the tests.
pub(crate) fn short(tree: &Tree) -> Tally {
    let mut tally = Tally::default();
    if !is_root_user() {
        tally.skip("the soak: only root can attach probes");
        return tally;
    }
    let selection = Selection {
        minutes: SHORT,
        seed: None,
    };
    tally.add(soak(tree, &selection));
    tally
}

/// Runs it; as root.
pub(crate) fn soak(tree: &Tree, selection: &Selection) -> Tally {
    let mut tally = Tally::default();
    let built = step(
        "Build the collector and its clients",
        &format!("cargo {}", BUILD.join(" ")),
        || run(Command::new("cargo").current_dir(tree.root()).args(BUILD)),
    );
    if let Err(error) = built {
        tally.fail(format!("{error:#}"));
        return tally;
    }
    let minutes = selection.minutes;
    let seed = selection.seed.unwrap_or_else(by_the_clock).to_string();
    let what = format!("Soak the collector for {minutes} min");
    let repeat = format!("cargo xtask soak --minutes {minutes} --seed {seed}");
    tally.check(&what, &repeat, || -> Result<()> {
        let mut soak = Command::new(tree.target("release/netio-soak"));
        soak.args(["--seconds", &(minutes * 60).to_string(), "--seed", &seed]);
        run(&mut soak)
    });
    tally
}

/// Another one each time.
fn by_the_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs())
}
