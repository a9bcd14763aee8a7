//! The benchmarks that netio-bench measures.
//!
//! Builds it, has it measure on this
//! machine's kernel and, where a benchmark has a part that counts instructions, in
//! a guest, shows the tables and leaves the figures as target/bench/NAME.json, one
//! report for each place.
//!
//! A further benchmark of netio-bench is a line in [`PLANS`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::published::keep;
use crate::command::{run, shown};
use crate::guest::{Clock, Guest, Init};
use crate::step::{Tally, step};
use crate::tree::{Tree, is_root_user};

/// Optimised, the collector too: both are measured.
const BUILD: [&str; 6] = [
    "build",
    "--release",
    "-p",
    "netio-bench",
    "-p",
    "netio-collector",
];
/// netio-bench's exit code for what cannot run on this machine.
const SKIPPED: i32 = 77;
/// The kernel whose instructions are counted: it has every hook mode.
const SERIES: &str = "6.12";
/// How long counting may take under emulation.
const GUEST_SECONDS: u64 = 900;
/// The guest's memory in mebibytes.
const MEMORY: u32 = 1024;

/// A benchmark.
struct Plan {
    name: &'static str,
    /// It counts instructions in a guest as well.
    in_guest: bool,
    /// It needs room for more processes than this kernel may allow.
    many_pids: bool,
}

const PLANS: [Plan; 4] = [
    Plan {
        name: "probe",
        in_guest: true,
        many_pids: false,
    },
    Plan {
        name: "read",
        in_guest: false,
        many_pids: true,
    },
    Plan {
        name: "churn",
        in_guest: false,
        many_pids: false,
    },
    Plan {
        name: "ticks",
        in_guest: false,
        many_pids: false,
    },
];

/// Where to measure, and how much.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) short: bool,
    /// On this machine's kernel.
    pub(super) native: bool,
    /// In a guest, where a benchmark has such a part.
    pub(super) guest: bool,
}

/// Runs the plan of this name; the tally tells what failed.
pub(super) fn measured(tree: &Tree, name: &str, extent: Extent) -> Tally {
    let mut tally = Tally::default();
    if !is_root_user() && extent.native {
        tally.skip(format!(
            "benchmark {name}: only root can load programs into the kernel"
        ));
        return tally;
    }
    match Bench::build(tree, extent.short) {
        Ok(bench) => {
            for plan in PLANS.iter().filter(|plan| plan.name == name) {
                bench.measure(plan, extent, &mut tally);
            }
        }
        Err(error) => tally.fail(format!("{error:#}")),
    }
    tally
}

/// netio-bench, built.
struct Bench<'a> {
    tree: &'a Tree,
    program: PathBuf,
    results: PathBuf,
    short: bool,
}

impl<'a> Bench<'a> {
    fn build(tree: &'a Tree, short: bool) -> Result<Self> {
        let repeat = format!("cargo {}", BUILD.join(" "));
        step("Build netio-bench", &repeat, || {
            run(Command::new("cargo").current_dir(tree.root()).args(BUILD))
        })?;
        let results = tree.target("bench");
        fs::create_dir_all(&results)
            .with_context(|| format!("cannot make {}", results.display()))?;
        Ok(Self {
            tree,
            program: tree.target("release/netio-bench"),
            results,
            short,
        })
    }

    fn measure(&self, plan: &Plan, extent: Extent, tally: &mut Tally) {
        let mut reports = Vec::new();
        if extent.native {
            let what = format!("Measure {} on this machine's kernel", plan.name);
            match step(&what, &self.repeat(plan, "--native-only"), || {
                self.native(plan)
            }) {
                Ok(Some(report)) => reports.push(report),
                Ok(None) => tally.skip(format!("benchmark {}, see above why", plan.name)),
                Err(error) => tally.fail(format!("{error:#}")),
            }
        }
        if plan.in_guest && extent.guest {
            let what = format!("Count {}'s instructions on kernel {SERIES}", plan.name);
            match step(&what, &self.repeat(plan, "--guest-only"), || {
                self.guest(plan)
            }) {
                Ok(report) => reports.push(report),
                Err(error) => tally.fail(format!("{error:#}")),
            }
        }
        tally.pass(reports.len());
        if !reports.is_empty()
            && let Err(error) = self.leave(plan, &reports, extent)
        {
            tally.fail(format!("{error:#}"));
        }
    }

    fn repeat(&self, plan: &Plan, where_: &str) -> String {
        let short = if self.short { " --short" } else { "" };
        format!("cargo xtask bench {}{short} {where_}", plan.name)
    }

    /// The report; none if this machine cannot run it.
    fn native(&self, plan: &Plan) -> Result<Option<serde_json::Value>> {
        let out = self.results.join(format!("{}-native.json", plan.name));
        let mut command = if plan.many_pids {
            self.with_many_pids()?
        } else {
            Command::new(&self.program)
        };
        command.arg(plan.name).arg("--out").arg(&out);
        if self.short {
            command.arg("--short");
        }
        let shown = shown(&command);
        println!("    $ {shown}");
        let status = command
            .status()
            .with_context(|| format!("cannot start `{shown}`"))?;
        match status.code() {
            Some(0) => {}
            Some(SKIPPED) => return Ok(None),
            _ => bail!("`{shown}` ended with {status}"),
        }
        let text = fs::read(&out).with_context(|| format!("cannot read {}", out.display()))?;
        fs::remove_file(&out).with_context(|| format!("cannot remove {}", out.display()))?;
        parse(&text).map(Some)
    }

    /// Shows netio-bench alone, not the kernel, a limit of pids that leaves room
    /// for all that it makes up.
    fn with_many_pids(&self) -> Result<Command> {
        const PREPARE: &str = "mount --bind \"$0\" /proc/sys/kernel/pid_max && exec \"$@\"";
        let limit = self.results.join("pid_max");
        fs::write(&limit, "4194304\n").context("cannot write a limit of pids")?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", PREPARE])
            .arg(limit)
            .arg(&self.program);
        Ok(command)
    }

    fn guest(&self, plan: &Plan) -> Result<serde_json::Value> {
        let short = if self.short { " --short" } else { "" };
        let guest = Guest {
            series: SERIES,
            files: vec![(self.program.clone(), "/bin/netio-bench".to_owned())],
            modules: &[],
            // A machine that has just booted has other things to do.
            script: format!(
                "sleep 10\n/bin/netio-bench {} --instructions{short} --out /results/report\n",
                plan.name
            ),
            timeout: Duration::from_secs(GUEST_SECONDS),
            memory: MEMORY,
            clock: Clock::Instructions,
            init: Init::Script,
        };
        let report = guest.run(self.tree, |line| println!("{line}"))?;
        match report.status {
            Some(0) => parse(report.file("report")?),
            status => bail!("netio-bench ended with {status:?} in the guest"),
        }
    }

    fn leave(&self, plan: &Plan, reports: &[serde_json::Value], extent: Extent) -> Result<()> {
        let path = self.path(plan.name);
        let text = serde_json::to_string_pretty(reports).context("cannot encode the figures")?;
        fs::write(&path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("    the figures are in {}", path.display());
        // What is told of the benchmark is told of all of it.
        if self.short || !extent.native || !extent.guest {
            return Ok(());
        }
        let printed = reports.iter().filter_map(|it| it.get("markdown")?.as_str());
        keep(self.tree, plan.name, &printed.collect::<String>())
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.results).join(format!("{name}.json"))
    }
}

fn parse(text: &[u8]) -> Result<serde_json::Value> {
    serde_json::from_slice(text).context("netio-bench left no valid JSON")
}
