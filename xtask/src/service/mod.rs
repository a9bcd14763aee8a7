//! The shipped systemd unit, under a systemd that is really the first process: in a
//! guest with one of Debian's kernels, with this machine's systemd.
//!
//! Takes what `cargo build` makes and packaging/systemd, lays them out as the README
//! says, and produces a check for each line of `script.sh` that tells of one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::command::run;
use crate::guest::{Clock, Guest, Init};
use crate::step::{Tally, step};
use crate::tree::{Tree, find_command};

const SCRIPT: &str = include_str!("script.sh");
const BUILD: [&str; 9] = [
    "build",
    "-p",
    "netio-collector",
    "-p",
    "netio-client",
    "-p",
    "netio-traffic",
    "--message-format",
    "short",
];
/// Under emulation; it takes a quarter of it.
const TIMEOUT: Duration = Duration::from_secs(480);
const SYSTEMD: &str = "/lib/systemd/systemd";
/// Those of the accuracy matrix.
const KERNELS: [&str; 2] = ["6.1", "6.12"];
/// What the script needs beside busybox, and the packages that have it.
const PROGRAMS: [(&str, &str); 5] = [
    ("bash", "bash"),
    ("systemctl", "systemd"),
    ("systemd-sysusers", "systemd"),
    ("systemd-tmpfiles", "systemd"),
    ("setpriv", "util-linux"),
];
/// What the first process needs of systemd's own units.
const TARGETS: [&str; 11] = [
    "basic.target",
    "local-fs.target",
    "local-fs-pre.target",
    "multi-user.target",
    "paths.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "swap.target",
    "sysinit.target",
    "timers.target",
];

/// Which kernels.
#[derive(Args)]
pub(crate) struct Selection {
    /// The kernel's series; repeat for more
    #[arg(long = "kernel", value_name = "SERIES", default_values = KERNELS)]
    kernels: Vec<String>,
}

/// What runs with the tests: the newest of these kernels.
pub(crate) fn short(tree: &Tree) -> Tally {
    let [.., newest] = KERNELS;
    let kernels = vec![newest.to_owned()];
    service(tree, &Selection { kernels })
}

/// Runs the checks; each counts for itself.
pub(crate) fn service(tree: &Tree, selection: &Selection) -> Tally {
    let mut tally = Tally::default();
    for kernel in &selection.kernels {
        let repeat = format!("cargo xtask service --kernel {kernel}");
        let what = format!("The unit under systemd, kernel {kernel}");
        let ran = step(&what, &repeat, || under(tree, kernel, &mut tally));
        if let Err(error) = ran {
            tally.fail(format!("{error:#}"));
        }
    }
    tally
}

fn under(tree: &Tree, kernel: &str, tally: &mut Tally) -> Result<()> {
    run(Command::new("cargo").current_dir(tree.root()).args(BUILD))?;
    let guest = Guest {
        series: kernel,
        files: files(tree)?,
        modules: &[],
        script: SCRIPT.to_owned(),
        timeout: TIMEOUT,
        memory: 1536,
        clock: Clock::Time,
        init: Init::Program(SYSTEMD),
    };
    let mut done = false;
    let report = guest.run(tree, |line| {
        match line.split_once(' ') {
            Some(("pass", _)) => tally.pass(1),
            Some(("fail", what)) => tally.fail(format!("the unit, kernel {kernel}: {what}")),
            _ => done |= line == "done",
        }
        println!("    {line}");
    })?;
    ensure!(
        done,
        "the script ended early, with status {:?}",
        report.status
    );
    Ok(())
}

/// What the guest has: (path here, path there).
fn files(tree: &Tree) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for program in ["netio-collector", "netio-client", "netio-traffic"] {
        let built = tree.target(&format!("debug/{program}"));
        files.push((built, format!("/usr/bin/{program}")));
    }
    for unit in ["netio-collector.service", "netio-collector.socket"] {
        let here = tree.root().join("packaging/systemd").join(unit);
        files.push((here, format!("/etc/systemd/system/{unit}")));
    }
    let users = tree.root().join("packaging/systemd/netio.sysusers.conf");
    files.push((users, "/etc/sysusers.d/netio.conf".to_owned()));
    let folder = tree.root().join("packaging/systemd/netio.tmpfiles.conf");
    files.push((folder, "/etc/tmpfiles.d/netio.conf".to_owned()));
    for (from, to) in [
        ("packaging/systemd/remote.conf", "remote.conf"),
        ("README.md", "README.md"),
    ] {
        let here = tree.root().join(from);
        files.push((here, format!("/usr/share/netio/{to}")));
    }
    for (program, package) in PROGRAMS {
        let found = find_command(program).with_context(|| {
            format!("{program} is missing; type `apt-get install {package}` to install it")
        })?;
        files.push((found, format!("/usr/bin/{program}")));
    }
    for own in ["systemd", "systemd-executor"] {
        let found = Path::new("/lib/systemd").join(own);
        // The latter came with systemd 254.
        if own == "systemd" || found.exists() {
            files.push((found, format!("/lib/systemd/{own}")));
        }
    }
    for target in TARGETS {
        let path = format!("/lib/systemd/system/{target}");
        files.push((PathBuf::from(&path), path));
    }
    files.push((
        PathBuf::from("/lib/systemd/system/multi-user.target"),
        "/etc/systemd/system/default.target".to_owned(),
    ));
    Ok(files)
}
