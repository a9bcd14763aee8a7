//! What the benchmarks printed, for readers: docs/performance.md has all of it,
//! README.md the goals and how far they are reached.
//!
//! A full run of a benchmark leaves what it printed as target/bench/NAME.md; from
//! these files alone both are made, so that no figure is copied by hand.

use std::fmt::Write as _;
use std::{fs, io};

use anyhow::{Context as _, Result};

use crate::markers::replace_between;
use crate::tree::Tree;

/// In the order of the page.
const NAMES: [&str; 6] = ["probe", "read", "churn", "ticks", "fanout", "host"];
/// What netio-bench says of a section whose do-nothing side changed meanwhile.
const DISTURBED: &str = "**DRIFT";
/// The benchmark that has no goals, but a table that says it all.
const WITHOUT_GOALS: &str = "host";

/// Forgets what was kept of a benchmark, which is about to run again: should it be
/// skipped, or fail, nothing old is published as if it were new.
pub(super) fn forget(tree: &Tree, name: &str) -> Result<()> {
    match fs::remove_file(tree.target("bench").join(format!("{name}.md"))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove target/bench/{name}.md"))
        }
        _ => Ok(()),
    }
}

/// Keeps what a full run printed: a heading, and under it tables.
pub(super) fn keep(tree: &Tree, name: &str, markdown: &str) -> Result<()> {
    let file = tree.target("bench").join(format!("{name}.md"));
    fs::create_dir_all(tree.target("bench"))
        .and_then(|()| fs::write(&file, markdown))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Puts what the last full runs printed where readers find it.
pub(super) fn publish(tree: &Tree) -> Result<()> {
    let mut page = String::from(
        "# Performance\n\nWhat `cargo xtask bench` printed, with the machine that it ran on. Each figure comes \
         from sides that ran in turn within one run; none is comparable with one of another run.\n",
    );
    let mut summary = String::from("| | goal | figure | |\n|---|---|---|---|\n");
    let mut below = String::new();
    for name in NAMES {
        let file = tree.target("bench").join(format!("{name}.md"));
        let printed = fs::read_to_string(&file)
            .with_context(|| format!("{} is missing: cargo xtask bench {name}", file.display()))?;
        let _ = write!(page, "\n{}\n", printed.trim());
        if name == WITHOUT_GOALS {
            below = tables(&printed);
        }
        for (section, row) in goals(&printed) {
            let of = if section.is_empty() { "" } else { ": " };
            let _ = writeln!(summary, "| {name}{of}{section} {row}");
        }
    }
    let folder = tree.root().join("docs");
    let file = folder.join("performance.md");
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&file, page))
        .with_context(|| format!("cannot write {}", file.display()))?;

    let file = tree.root().join("README.md");
    let text = fs::read_to_string(&file).context("cannot read README.md")?;
    let text = replace_between(&text, "performance", &format!("{summary}\n{below}"))
        .context("cannot update README.md")?;
    fs::write(&file, text).context("cannot write README.md")
}

/// The rows of tables of goals, each with the section that it is in, and whether that
/// says of itself that the machine was disturbed.
fn goals(printed: &str) -> Vec<(String, &str)> {
    printed.split("\n### ").flat_map(goals_of_section).collect()
}

fn goals_of_section(printed: &str) -> Vec<(String, &str)> {
    let title = printed.lines().next().unwrap_or_default();
    let mut section = if title.starts_with('#') {
        String::new()
    } else {
        // What it is in, and what of: the latter is told by the goal.
        title.split(':').next().unwrap_or(title).to_owned()
    };
    if printed.contains(DISTURBED) {
        section += " (disturbed)";
    }
    let mut is_goal = false;
    let mut goals = Vec::new();
    for line in printed.lines() {
        if line.starts_with("| goal |") {
            is_goal = true;
        } else if !line.starts_with('|') {
            is_goal = false;
        } else if is_goal && !line.starts_with("|---") {
            goals.push((section.clone(), line));
        }
    }
    goals
}

/// All tables.
fn tables(printed: &str) -> String {
    let lines = printed.lines().filter(|line| line.starts_with('|'));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "## read (a machine)\n\n### 10 processes: ms\n\n| side | ms |\n|---|---|\n\
        | netio | 1 |\n\n| goal | figure | |\n|---|---|---|\n| ms ≤ 2 | 1 | reached |\n\nNo drift.\n";

    #[test]
    fn goals_are_found_with_their_section() {
        let row = "| ms ≤ 2 | 1 | reached |";
        assert_eq!(goals(PRINTED), [("10 processes".to_owned(), row)]);
    }

    #[test]
    fn figures_that_are_worth_little_are_marked() {
        let disturbed = PRINTED.replace("No drift.", "**DRIFT: it changed by 12 %**");
        let both = format!("{disturbed}\n{}", PRINTED.replace("10 pro", "20 pro"));
        let sections: Vec<_> = goals(&both)
            .into_iter()
            .map(|(section, _)| section)
            .collect();
        assert_eq!(sections, ["10 processes (disturbed)", "20 processes"]);
    }

    #[test]
    fn tables_are_what_is_left_of_a_page_without_words() {
        assert_eq!(tables(PRINTED).lines().count(), 6);
        assert_eq!(tables("no table"), "");
    }
}
