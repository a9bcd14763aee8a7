//! `cargo xtask test`: every test there is, after installing what they need.
//!
//! It takes the checkout and produces a report that ends with one line, such as
//! `412 passed, 0 failed, 3 skipped`. What cannot run here is skipped aloud;
//! with NETIO_REQUIRE_KERNEL=1 tests that need the kernel may not be skipped.

mod counted;

use std::env;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::accuracy::{Selection, accuracy};
use crate::bench;
use crate::command::lines;
use crate::ebpf::{self, Comparison};
use crate::fuzz;
use crate::lint::lint;
use crate::service;
use crate::setup::{Purpose, python, setup};
use crate::soak;
use crate::step::{Tally, step};
use crate::tree::{Tree, is_root_user};
use counted::Counter;

/// Under it, a test that needs the kernel fails where it would skip itself.
const REQUIRE_KERNEL: &str = "NETIO_REQUIRE_KERNEL";

/// What to leave out.
#[derive(Args)]
pub(crate) struct Skips {
    /// Install nothing
    #[arg(long)]
    skip_setup: bool,
    /// Check neither formatting nor lints
    #[arg(long)]
    skip_lint: bool,
    /// Do not rebuild the programs in the kernel from source
    #[arg(long)]
    skip_ebpf: bool,
    /// Boot no other kernels
    #[arg(long)]
    skip_guest: bool,
    /// Fuzz nothing
    #[arg(long)]
    skip_fuzz: bool,
}

/// Runs everything; the tally tells whether all is well.
pub(crate) fn test(tree: &Tree, skips: &Skips) -> Tally {
    let mut tally = Tally::default();
    if !is_root_user() {
        not_root(&mut tally);
    }
    if !skips.skip_setup {
        prepare(tree, skips, &mut tally);
    }
    left_out(skips.skip_lint, "formatting and lints", &mut tally, || {
        lint(tree)
    });
    tally.add(cargo_test(tree, None));
    let mut fresh = None;
    left_out(
        skips.skip_ebpf,
        "rebuilding the programs in the kernel",
        &mut tally,
        || {
            let (checked, differing) = rebuild(tree);
            fresh = differing;
            checked
        },
    );
    tally.add(matrix(tree, skips, None));
    left_out(
        skips.skip_guest,
        "the systemd unit under systemd",
        &mut tally,
        || service::short(tree),
    );
    left_out(skips.skip_fuzz, "fuzzing", &mut tally, || fuzz::short(tree));
    tally.add(bench::short(tree));
    tally.add(soak::short(tree));
    if let Some(object) = fresh {
        // Other bytes are another program: it must count as well as the shipped.
        println!("==> Once more with the programs that were just built from source");
        tally.add(cargo_test(tree, Some(&object)));
        tally.add(matrix(tree, skips, Some(object)));
    }
    tally
}

/// Says what running without root leaves out.
fn not_root(tally: &mut Tally) {
    println!("==> Not root: tests that attach probes to this kernel skip themselves");
    println!("    for all of them: sudo -E env \"PATH=$PATH\" cargo xtask test");
    if env::var_os(REQUIRE_KERNEL).is_some() {
        tally.fail(format!(
            "{REQUIRE_KERNEL} is set, but only root can run the tests that it requires"
        ));
    }
}

fn left_out(skip: bool, what: &str, tally: &mut Tally, work: impl FnOnce() -> Tally) {
    if skip {
        tally.skip(format!("{what}, as asked for"));
    } else {
        tally.add(work());
    }
}

fn prepare(tree: &Tree, skips: &Skips, tally: &mut Tally) {
    for purpose in Purpose::ALL {
        let skip = match purpose {
            Purpose::Tests => false,
            Purpose::Guest => skips.skip_guest,
            Purpose::Ebpf => skips.skip_ebpf,
            Purpose::Lint => skips.skip_lint,
            Purpose::Fuzz => skips.skip_fuzz,
            // No test is a benchmark that needs anything.
            Purpose::Bench => true,
        };
        if skip {
            continue;
        }
        // What needs the missing tool fails below, the rest need not.
        if let Err(error) = setup(tree, &[purpose], false) {
            tally.fail(format!("{error:#}"));
        }
    }
}

/// The workspace's tests, the programs in the kernel being the shipped ones or
/// those of `object`.
fn cargo_test(tree: &Tree, object: Option<&PathBuf>) -> Tally {
    let words = ["test", "--workspace", "--no-fail-fast"];
    let repeat = match object {
        None => format!("cargo {}", words.join(" ")),
        Some(object) => format!(
            "NETIO_BPF_OBJECT={} cargo {}",
            object.display(),
            words.join(" ")
        ),
    };
    let mut counter = Counter::default();
    let ran = step("Run the workspace's tests", &repeat, || {
        let mut cargo = Command::new("cargo");
        cargo
            .current_dir(tree.root())
            .env("NETIO_PYTHON", python::interpreter(tree))
            .args(words)
            .args(["--", "--show-output"]);
        if let Some(object) = object {
            cargo.env("NETIO_BPF_OBJECT", object);
        }
        lines(&mut cargo, |line| {
            if counter.take(line) {
                println!("{line}");
            }
        })
    });
    match ran {
        Ok(succeeded) => counter.finish(succeeded, &repeat),
        Err(error) => {
            let mut tally = counter.finish(true, &repeat);
            tally.fail(format!("{error:#}"));
            tally
        }
    }
}

/// Rebuilds the programs in the kernel; the path of the fresh object if it is
/// not the shipped one.
fn rebuild(tree: &Tree) -> (Tally, Option<PathBuf>) {
    let mut tally = Tally::default();
    let repeat = "cargo xtask build-ebpf --check";
    match step(
        "Compare the shipped BPF objects with fresh ones",
        repeat,
        || ebpf::check(tree),
    ) {
        Ok(Comparison::Identical) => {
            tally.pass(1);
            (tally, None)
        }
        Ok(Comparison::Different { explained }) => {
            if explained {
                tally.pass(1);
            } else {
                tally.fail(format!(
                    "the shipped BPF objects are not what their sources build with the very tools \
                     that they name; type `cargo xtask build-ebpf`, or, to see it again, `{repeat}`"
                ));
            }
            let object = tree.target(ebpf::FRESH).join("netio.bpf.o");
            (tally, Some(object))
        }
        Err(error) => {
            tally.fail(format!("{error:#}"));
            (tally, None)
        }
    }
}

fn matrix(tree: &Tree, skips: &Skips, object: Option<PathBuf>) -> Tally {
    let selection = Selection {
        native_only: skips.skip_guest,
        object,
        ..Selection::default()
    };
    accuracy(tree, &selection).unwrap_or_else(|error| {
        let mut tally = Tally::default();
        tally.fail(format!("{error:#}"));
        tally
    })
}
