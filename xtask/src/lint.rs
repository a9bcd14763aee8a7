//! `cargo xtask lint`: everything that is checked without running the code.

use std::process::Command;

use anyhow::Result;

use crate::command::{output, run};
use crate::ebpf::manifest::CRATE;
use crate::step::Tally;
use crate::tree::Tree;

/// Runs every lint, whether or not one before it failed.
pub(crate) fn lint(tree: &Tree) -> Tally {
    let mut tally = Tally::default();
    let mut cargo = |what: &str, dir: &str, words: &[&str]| {
        let repeat = match dir {
            "" => format!("cargo {}", words.join(" ")),
            dir => format!("(cd {dir} && cargo {})", words.join(" ")),
        };
        tally.check(what, &repeat, || {
            run(Command::new("cargo")
                .current_dir(tree.path(dir))
                .args(words))
        });
    };
    cargo("Check the formatting", "", &["fmt", "--all", "--check"]);
    cargo(
        "Check the formatting of the programs in the kernel",
        CRATE,
        &["fmt", "--check"],
    );
    cargo(
        "Check the formatting of what is fuzzed",
        "fuzz",
        &["fmt", "--check"],
    );
    cargo(
        "Lint",
        "",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    );
    // The same folder, since most of what it is made of has been checked there.
    let target = tree.target("").display().to_string();
    cargo(
        "Lint what is fuzzed",
        "",
        &[
            "clippy",
            "--manifest-path",
            "fuzz/Cargo.toml",
            // Nothing else tells that its lock file is behind the workspace's.
            "--locked",
            "--target-dir",
            &target,
            "--",
            "-D",
            "warnings",
        ],
    );
    cargo(
        "Check licences, sources and duplicates of dependencies",
        "",
        &[
            "deny",
            "--workspace",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ],
    );
    for (what, manifest) in [
        ("the programs for the kernel", "collector-ebpf/Cargo.toml"),
        ("what is fuzzed", "fuzz/Cargo.toml"),
    ] {
        cargo(
            &format!("Check the same of {what}"),
            "",
            &[
                "deny",
                "--manifest-path",
                manifest,
                "check",
                "--hide-inclusion-graph",
                "bans",
                "licenses",
                "sources",
            ],
        );
    }
    advisories(tree, &mut tally);
    tally
}

/// Known vulnerabilities, as far as the database of them can be reached.
fn advisories(tree: &Tree, tally: &mut Tally) {
    let repeat = "cargo deny --workspace check advisories";
    let fetched = output(
        Command::new("cargo")
            .current_dir(tree.root())
            .args(["deny", "fetch", "db"]),
    );
    if let Err(error) = fetched {
        let why = error.to_string();
        println!(
            "==> Known vulnerabilities are NOT checked: {}",
            why.lines().next().unwrap_or_default()
        );
        tally.skip(format!(
            "known vulnerabilities, since the advisory database cannot be fetched; \
             where it can: {repeat}"
        ));
        return;
    }
    tally.check(
        "Check for known vulnerabilities",
        repeat,
        || -> Result<()> {
            run(Command::new("cargo").current_dir(tree.root()).args([
                "deny",
                "check",
                "advisories",
            ]))
        },
    );
}
