//! `cargo xtask accuracy`: the accuracy matrix, pattern by hook mode by kernel.
//!
//! It builds netio-accuracy and netio-traffic, runs the columns (this machine's
//! kernel, when root, and one guest for each other kernel), and produces the
//! table as target/accuracy.md, the raw lines as target/accuracy.json and a
//! tally of the cells.

mod matrix;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::command::run;
use crate::guest::{Clock, Guest, Init, Report};
use crate::markers::replace_between;
use crate::step::{Tally, step};
use crate::tree::{Tree, is_root_user};
use matrix::{Column, judge, markdown};

/// Modules that kernel TLS needs: itself and AES-GCM.
const MODULES: [&str; 4] = ["tls", "gcm", "ctr", "ghash_generic"];
/// Builds what runs the columns: unoptimized, since the kernel is what counts.
const BUILD: [&str; 5] = ["build", "-p", "netio-accuracy", "-p", "netio-traffic"];
/// How long one column may take under emulation.
const COLUMN_SECONDS: u64 = 400;
/// The guests' memory in mebibytes.
const MEMORY: u32 = 1024;
const TUTORIAL_OBJECT: &str = "tests/accuracy/bpf/tutorial.bpf.o";

/// A column that can be asked for. `series` is none for this machine's kernel.
struct Plan {
    name: &'static str,
    series: Option<&'static str>,
    mode: Mode,
    special: Special,
}

/// What is different from the kernel as it comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    Nothing,
    /// The kernel is told to preempt everywhere.
    Preemptible,
    /// The kernel's BTF is hidden.
    NoBtf,
}

enum Mode {
    Hooks(&'static str),
    /// The well-known tutorial's logic, to show what it gets wrong.
    Tutorial,
}

const PLANS: [Plan; 11] = [
    plan("native", None, Mode::Hooks("auto")),
    by_itself("native-no-btf", None, Special::NoBtf),
    plan("6.1-fentry", Some("6.1"), Mode::Hooks("fentry")),
    plan("6.1-kprobe", Some("6.1"), Mode::Hooks("kprobe")),
    plan("6.1-tutorial", Some("6.1"), Mode::Tutorial),
    plan("6.12-tracepoint", Some("6.12"), Mode::Hooks("tracepoint")),
    plan("6.12-fentry", Some("6.12"), Mode::Hooks("fentry")),
    plan("6.12-kprobe", Some("6.12"), Mode::Hooks("kprobe")),
    plan("6.12-tutorial", Some("6.12"), Mode::Tutorial),
    by_itself("6.1-preemptible", Some("6.1"), Special::Preemptible),
    by_itself("6.12-preemptible", Some("6.12"), Special::Preemptible),
];

const fn plan(name: &'static str, series: Option<&'static str>, mode: Mode) -> Plan {
    Plan {
        name,
        series,
        mode,
        special: Special::Nothing,
    }
}

/// What is chosen by itself in special circumstances.
const fn by_itself(name: &'static str, series: Option<&'static str>, special: Special) -> Plan {
    Plan {
        name,
        series,
        mode: Mode::Hooks("auto"),
        special,
    }
}

/// What the matrix shall cover.
#[derive(Args, Default)]
pub(crate) struct Selection {
    /// Only this machine's kernel
    #[arg(long)]
    pub(crate) native_only: bool,
    /// Only this column (repeatable): native, 6.1-fentry, 6.12-tutorial, …
    #[arg(long = "column", value_name = "NAME", value_parser = PLANS.map(|plan| plan.name))]
    pub(crate) columns: Vec<String>,
    /// Only this pattern (repeatable)
    #[arg(long = "pattern", value_name = "NAME")]
    pub(crate) patterns: Vec<String>,
    /// Count with this BPF object instead of the shipped one
    #[arg(long, value_name = "FILE")]
    pub(crate) object: Option<PathBuf>,
    /// Put the table, if every cell is right, into README.md between its markers
    #[arg(long, conflicts_with_all = ["native_only", "columns", "patterns", "object"])]
    pub(crate) update_readme: bool,
}

/// Runs the columns selected; what cannot run here is skipped aloud.
pub(crate) fn accuracy(tree: &Tree, selection: &Selection) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut plans: Vec<&Plan> = PLANS
        .iter()
        .filter(|plan| {
            selection.columns.is_empty() || selection.columns.iter().any(|name| name == plan.name)
        })
        .filter(|plan| !selection.native_only || plan.series.is_none())
        .collect();
    if !is_root_user() && plans.iter().any(|plan| plan.series.is_none()) {
        println!("==> Not root: this machine's own kernel is left out of the accuracy matrix");
        tally.skip("accuracy on this machine's own kernel: only root can attach probes");
        plans.retain(|plan| plan.series.is_some());
    }
    if plans.is_empty() {
        return Ok(tally);
    }
    let runner = Runner::build(tree, selection)?;
    let mut columns = Vec::new();
    for plan in plans.iter().filter(|plan| plan.series.is_none()) {
        match runner.native(plan) {
            Ok(column) => columns.push(column),
            Err(error) => tally.fail(format!("{error:#}")),
        }
    }
    for series in ["6.1", "6.12"] {
        let plans: Vec<&Plan> = plans
            .iter()
            .copied()
            .filter(|plan| plan.series == Some(series))
            .collect();
        if plans.is_empty() {
            continue;
        }
        match runner.guest(series, &plans) {
            Ok(results) => {
                for result in results {
                    match result {
                        Ok(column) => columns.push(column),
                        Err(error) => tally.fail(format!("{error:#}")),
                    }
                }
            }
            Err(error) => tally.fail(format!("{error:#}")),
        }
    }
    tally.add(judge(&columns));
    let table = publish(tree, &columns)?;
    if selection.update_readme && tally.failed() == 0 {
        update_readme(tree, &table)?;
    }
    Ok(tally)
}

/// Shows the table and leaves it, with the raw lines, in the build directory.
fn publish(tree: &Tree, columns: &[Column]) -> Result<String> {
    let table = markdown(columns);
    println!("\n{table}");
    let raw = serde_json::to_string_pretty(columns).context("cannot encode the matrix")?;
    write(&tree.target("accuracy.json"), &(raw + "\n"))?;
    write(&tree.target("accuracy.md"), &table)?;
    Ok(table)
}

fn update_readme(tree: &Tree, table: &str) -> Result<()> {
    let readme = tree.path("README.md");
    let text = fs::read_to_string(&readme).context("cannot read README.md")?;
    let text = replace_between(&text, "accuracy", table).context("cannot update README.md")?;
    write(&readme, &text)?;
    println!("    README.md shows this table now");
    Ok(())
}

/// The two programs, built, and what they are told.
struct Runner<'a> {
    tree: &'a Tree,
    counter: PathBuf,
    traffic: PathBuf,
    patterns: &'a [String],
}

impl<'a> Runner<'a> {
    fn build(tree: &'a Tree, selection: &'a Selection) -> Result<Self> {
        step(
            "Build netio-accuracy and netio-traffic",
            &format!("cargo {}", BUILD.join(" ")),
            || {
                let mut cargo = Command::new("cargo");
                cargo.current_dir(tree.root()).args(BUILD);
                if let Some(object) = &selection.object {
                    let object = object
                        .canonicalize()
                        .with_context(|| format!("cannot find {}", object.display()))?;
                    cargo.env("NETIO_BPF_OBJECT", object);
                }
                run(&mut cargo)
            },
        )?;
        Ok(Self {
            tree,
            counter: tree.target("debug/netio-accuracy"),
            traffic: tree.target("debug/netio-traffic"),
            patterns: &selection.patterns,
        })
    }

    fn native(&self, plan: &Plan) -> Result<Column> {
        let out = self.tree.target(&format!("accuracy-{}.jsonl", plan.name));
        step(
            &format!("Accuracy on this machine's kernel: {}", plan.name),
            &repeat(&[plan]),
            || {
                let mut command = match plan.special {
                    Special::NoBtf => without_btf(&self.counter),
                    _ => Command::new(&self.counter),
                };
                command.args(self.words(plan, &path_text(&self.traffic)?, &path_text(&out)?));
                let ended = run(&mut command);
                let text = fs::read_to_string(&out).with_context(|| {
                    format!("netio-accuracy left no results in {}", out.display())
                })?;
                column(plan, ended.is_ok(), &text)
            },
        )
    }

    /// Boots once for all `plans`. A column that failed leaves the others be.
    fn guest(&self, series: &str, plans: &[&Plan]) -> Result<Vec<Result<Column>>> {
        step(
            &format!("Accuracy on kernel {series}, emulated"),
            &repeat(plans),
            || {
                let mut script = String::new();
                for plan in plans {
                    let words = self.words(
                        plan,
                        "/bin/netio-traffic",
                        &format!("/results/{}", plan.name),
                    );
                    let words: Vec<String> =
                        words.iter().map(|word| crate::guest::quote(word)).collect();
                    let preemption = match plan.special {
                        Special::Preemptible => "full",
                        _ => "voluntary",
                    };
                    script += &format!(
                        "echo 'column {name}'\n\
                         echo {preemption} >/sys/kernel/debug/sched/preempt\n\
                         timeout -s KILL {COLUMN_SECONDS} /bin/netio-accuracy {}\n\
                         echo $? >/results/{name}.status\n",
                        words.join(" "),
                        name = plan.name,
                    );
                }
                let columns = plans.len() as u64;
                let guest = Guest {
                    series,
                    files: vec![
                        (self.counter.clone(), "/bin/netio-accuracy".to_owned()),
                        (self.traffic.clone(), "/bin/netio-traffic".to_owned()),
                        (
                            self.tree.path(TUTORIAL_OBJECT),
                            "/lib/tutorial.bpf.o".to_owned(),
                        ),
                    ],
                    modules: &MODULES,
                    script,
                    timeout: Duration::from_secs(60 + columns * COLUMN_SECONDS),
                    memory: MEMORY,
                    clock: Clock::Time,
                    init: Init::Script,
                };
                let report = guest.run(self.tree, |line| println!("    {line}"))?;
                Ok(plans.iter().map(|plan| reported(plan, &report)).collect())
            },
        )
    }

    /// What netio-accuracy is told for a column.
    fn words(&self, plan: &Plan, traffic: &str, out: &str) -> Vec<String> {
        let (option, value) = match plan.mode {
            Mode::Hooks(mode) => ("--hooks", mode.to_owned()),
            Mode::Tutorial if plan.series.is_none() => (
                "--tutorial",
                self.tree
                    .path(TUTORIAL_OBJECT)
                    .to_string_lossy()
                    .into_owned(),
            ),
            Mode::Tutorial => ("--tutorial", "/lib/tutorial.bpf.o".to_owned()),
        };
        let mut words = vec![option.to_owned(), value];
        for pattern in self.patterns {
            words.extend(["--pattern".to_owned(), pattern.clone()]);
        }
        words.extend(["--traffic", traffic, "--out", out].map(str::to_owned));
        words
    }
}

/// Runs `program` where the kernel's BTF cannot be seen, but tracefs can, which
/// not every machine mounts.
fn without_btf(program: &Path) -> Command {
    const PREPARE: &str = "mount -t tmpfs none /sys/kernel/btf && \
        { test -d /sys/kernel/tracing/events || mount -t tracefs none /sys/kernel/tracing; } && \
        exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", PREPARE]).arg(program);
    command
}

/// The column that a guest reported.
fn reported(plan: &Plan, report: &Report) -> Result<Column> {
    let status = report.file(&format!("{}.status", plan.name))?;
    let text = String::from_utf8_lossy(report.file(plan.name)?);
    column(plan, status == b"0\n", &text)
}

fn column(plan: &Plan, ended_well: bool, text: &str) -> Result<Column> {
    let must_be_exact = matches!(plan.mode, Mode::Hooks(_));
    let column = Column::parse(plan.name, must_be_exact, ended_well, text)?;
    if column.lines.is_empty() {
        bail!(
            "accuracy column {}: netio-accuracy measured nothing, see above why; \
             to repeat just this: {}",
            plan.name,
            repeat(&[plan])
        );
    }
    Ok(column)
}

/// The command that repeats these columns.
fn repeat(plans: &[&Plan]) -> String {
    plans
        .iter()
        .fold("cargo xtask accuracy".to_owned(), |command, plan| {
            command + " --column " + plan.name
        })
}

fn path_text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not valid UTF-8", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
