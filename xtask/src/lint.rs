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
    cargo(
        "Check the same of the programs for the kernel",
        "",
        &[
            "deny",
            "--manifest-path",
            "collector-ebpf/Cargo.toml",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ],
    );
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
