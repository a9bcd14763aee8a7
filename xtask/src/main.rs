//! netio's own tasks, typed as `cargo xtask TASK`.
//!
//! Every task says aloud what it does and how long each step took; a step that
//! fails says what to type to repeat just it. The exit code is 0 when all is
//! well, 1 when something failed, 2 when the command line was wrong, and what a
//! task's own help says otherwise.

#![forbid(unsafe_code)]

mod accuracy;
mod apt;
mod bench;
mod command;
mod ebpf;
mod fuzz;
mod guest;
mod lint;
mod markers;
mod service;
mod setup;
mod soak;
mod step;
mod test;
mod tree;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use ebpf::Comparison;
use guest::{Clock, Guest, Init};
use setup::Purpose;
use step::Tally;
use tree::Tree;

/// netio's own tasks: building what ships, and every test
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test, after installing what they need
    ///
    /// As root, so that tests may attach probes. Ends with a line such as
    /// `412 passed, 0 failed`.
    Test(test::Skips),
    /// Install what the tests need, and tell what and why
    Setup {
        /// For these purposes only
        #[arg(value_name = "PURPOSE")]
        purposes: Vec<Purpose>,
        /// Only tell what is missing
        #[arg(long)]
        dry_run: bool,
    },
    /// Check formatting, lints, licences and sources of dependencies
    Lint,
    /// Compare what netio counts with the truth, and show the table
    ///
    /// Rows are patterns of traffic, columns hook modes on kernels. A cell is
    /// what was counted minus the truth, in bytes. Leaves target/accuracy.md and
    /// target/accuracy.json.
    Accuracy(accuracy::Selection),
    /// Measure what netio costs, beside its rivals in the same run
    ///
    /// Prints a table for each benchmark and leaves the figures in
    /// target/bench/NAME.json. A goal that is not reached is told, and is no
    /// failure; with --short one that is missed by more than twice is.
    Bench(bench::Selection),
    /// Hand ever new bytes to everything that reads input from outside
    ///
    /// Needs cargo-fuzz (cargo xtask setup fuzz). Begins with the inputs in
    /// fuzz/corpus; one that breaks a promise is left in fuzz/artifacts. The tests
    /// replay the former, and mutations of them, without it.
    Fuzz(fuzz::Selection),
    /// Try the shipped systemd unit where systemd is the first process
    ///
    /// In guests, with the kernels named.
    Service(service::Selection),
    /// Have a thousand clients come, stall, reset and leave, for half an hour
    ///
    /// As root. Ten clients that behave must not notice: they get every tick, and the
    /// exact bytes of processes that send all the while; and the collector's memory
    /// and descriptors must not grow.
    Soak(soak::Selection),
    /// Build the programs that run in the kernel, and their manifest
    ///
    /// With --check the exit code is 0 when the fresh objects are byte for byte
    /// the shipped ones, and 3 when they differ; they stay in target/ebpf-fresh.
    BuildEbpf {
        /// Compare with the shipped objects instead of replacing them
        #[arg(long, conflicts_with = "out")]
        check: bool,
        /// Put the objects and the manifest here instead of into the checkout
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Run a command under one of Debian's kernels, emulated
    ///
    /// The command is looked up here first and taken along with its shared
    /// libraries; otherwise it is one of busybox's. The exit code is the
    /// command's.
    Guest(GuestArguments),
}

#[derive(Args)]
struct GuestArguments {
    /// The kernel's series
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Load this module first, with what it needs (repeatable)
    #[arg(long = "module", value_name = "NAME")]
    modules: Vec<String>,
    /// Have this file inside as well (repeatable)
    #[arg(long = "file", value_name = "HERE:THERE", value_parser = file_inside)]
    files: Vec<(PathBuf, String)>,
    /// How long the whole may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Where Debian keeps servers and what dpkg needs; not on every user's PATH,
/// which `sudo` may have been given.
const SYSTEM_DIRECTORIES: &str = "/usr/local/sbin:/usr/sbin:/sbin";

fn main() -> ExitCode {
    let path = env::var("PATH").unwrap_or_default();
    if !path.split(':').any(|directory| directory == "/usr/sbin") {
        return again_with_path(&format!("{path}:{SYSTEM_DIRECTORIES}"));
    }
    match perform(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs this very command with another PATH, for all that it starts.
fn again_with_path(path: &str) -> ExitCode {
    let again = env::current_exe().and_then(|program| {
        Command::new(program)
            .args(env::args_os().skip(1))
            .env("PATH", path)
            .status()
    });
    match again {
        Ok(status) => ExitCode::from(
            status
                .code()
                .and_then(|code| code.try_into().ok())
                .unwrap_or(1),
        ),
        Err(error) => {
            eprintln!("error: cannot run this command again: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    let tree = Tree::find()?;
    match task {
        Task::BuildEbpf { check: true, .. } => Ok(match ebpf::check(&tree)? {
            Comparison::Identical => ExitCode::SUCCESS,
            Comparison::Different { .. } => ExitCode::from(3),
        }),
        Task::BuildEbpf { out, .. } => {
            ebpf::build(&tree, out.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Guest(arguments) => run_guest(&tree, arguments),
        Task::Accuracy(selection) => Ok(closing(&accuracy::accuracy(&tree, &selection)?)),
        Task::Bench(selection) => Ok(closing(&bench::bench(&tree, &selection))),
        Task::Fuzz(selection) => Ok(closing(&fuzz::fuzz(&tree, &selection))),
        Task::Service(selection) => Ok(closing(&service::service(&tree, &selection))),
        Task::Lint => Ok(closing(&lint::lint(&tree))),
        Task::Setup { purposes, dry_run } => {
            let purposes = if purposes.is_empty() {
                Purpose::ALL.to_vec()
            } else {
                purposes
            };
            setup::setup(&tree, &purposes, dry_run)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Soak(selection) => Ok(closing(&soak::soak(&tree, &selection))),
        Task::Test(skips) => Ok(closing(&test::test(&tree, &skips))),
    }
}

/// Says how it went, the line with the numbers last.
fn closing(tally: &Tally) -> ExitCode {
    tally.explain();
    println!("{tally}");
    if tally.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_guest(tree: &Tree, arguments: GuestArguments) -> Result<ExitCode> {
    let (script, mut files) = guest::command(&arguments.command);
    files.extend(arguments.files);
    let modules: Vec<&str> = arguments.modules.iter().map(String::as_str).collect();
    let guest = Guest {
        series: &arguments.kernel,
        files,
        modules: &modules,
        script,
        timeout: Duration::from_secs(arguments.timeout),
        memory: 512,
        clock: Clock::Time,
        init: Init::Script,
    };
    let report = guest.run(tree, |line| println!("{line}"))?;
    Ok(ExitCode::from(report.status.unwrap_or(1)))
}

fn file_inside(text: &str) -> Result<(PathBuf, String), String> {
    match text.split_once(':') {
        Some((here, there)) if there.starts_with('/') => Ok((here.into(), there.to_owned())),
        _ => Err("write it as HERE:/THERE, for example /etc/hosts:/etc/hosts".to_owned()),
    }
}
