//! `cargo xtask setup`: installs what tests and benchmarks need, and tells what and why.
//!
//! It takes purposes and leaves every tool of them installed, or says what it
//! could not install and what to type. What is there already is left alone.

mod bpf;
pub(crate) mod python;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::apt;
use crate::command::{output, run};
use crate::step::step;
use crate::tree::{Tree, find_command, is_root_user};

/// The release of cargo-deny that deny.toml is written for.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// The release of cargo-fuzz that `cargo xtask fuzz` is written for.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// What something is installed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// The end-to-end tests: database servers, their load, a Python client
    Tests,
    /// Kernels under emulation: qemu and what fills its file system
    Guest,
    /// Building the programs that run in the kernel
    Ebpf,
    /// Formatting, lints, licences
    Lint,
    /// The benchmark of a database under load, and a peer to compare with
    Bench,
    /// Fuzzing what reads input from outside
    Fuzz,
}

impl Purpose {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Tests,
        Self::Guest,
        Self::Ebpf,
        Self::Lint,
        Self::Bench,
        Self::Fuzz,
    ];
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tests => "tests",
            Self::Guest => "guest",
            Self::Ebpf => "ebpf",
            Self::Lint => "lint",
            Self::Bench => "bench",
            Self::Fuzz => "fuzz",
        })
    }
}

/// A tool that is needed.
struct Need {
    /// The command that shows whether it is here.
    evidence: &'static [&'static str],
    /// What it is for.
    why: &'static str,
    remedy: Remedy,
}

/// How a tool is had.
enum Remedy {
    Apt(&'static str),
    /// A package that would start a server of its own, were it not told before by
    /// a file of settings. A file that is there already is the administrator's.
    AptWith {
        package: &'static str,
        path: &'static str,
        settings: &'static str,
    },
    Rustup(&'static str),
    Cargo {
        name: &'static str,
        version: &'static str,
    },
}

const TESTS: &[Need] = &[
    Need {
        evidence: &["mariadbd"],
        why: "the server whose traffic the end-to-end test counts",
        remedy: Remedy::Apt("mariadb-server-core"),
    },
    Need {
        evidence: &["my_print_defaults"],
        why: "a part of how that server's tables are made",
        remedy: Remedy::Apt("mariadb-client-core"),
    },
    // pgbench is part of the server's package, so that postgresql-contrib is not
    // needed.
    Need {
        evidence: &["sh", "-c", "ls /usr/lib/postgresql/*/bin/initdb"],
        why: "a server that has a process for each client, and pgbench to load it",
        remedy: Remedy::AptWith {
            package: "postgresql",
            path: "/etc/postgresql-common/createcluster.conf",
            settings: "# The tests make databases of their own.\n\
                       create_main_cluster = false\n",
        },
    },
    // The whole server is in this package: redis-server adds but a link to
    // redis-check-rdb, and a service that would run from then on.
    Need {
        evidence: &["redis-benchmark"],
        why: "a server that many clients keep busy, and the load for it",
        remedy: Remedy::Apt("redis-tools"),
    },
    Need {
        evidence: &["systemd-analyze"],
        why: "checks the unit, and hands sockets over",
        remedy: Remedy::Apt("systemd"),
    },
    Need {
        evidence: &["strace"],
        why: "shows whether a system call is refused",
        remedy: Remedy::Apt("strace"),
    },
    Need {
        evidence: &["python3", "-c", "import ensurepip, venv"],
        why: "a client that is not ours",
        remedy: Remedy::Apt("python3-venv"),
    },
];

const GUEST: &[Need] = &[
    Need {
        evidence: &["qemu-system-x86_64"],
        why: "the machine that other kernels run in",
        remedy: Remedy::Apt("qemu-system-x86"),
    },
    Need {
        evidence: &["busybox"],
        why: "the guest's shell and tools",
        remedy: Remedy::Apt("busybox-static"),
    },
    Need {
        evidence: &["cpio"],
        why: "packs the guest's file system",
        remedy: Remedy::Apt("cpio"),
    },
    Need {
        evidence: &["xz"],
        why: "unpacks kernel modules",
        remedy: Remedy::Apt("xz-utils"),
    },
];

const LINT: &[Need] = &[
    Need {
        evidence: &["cargo", "fmt", "--version"],
        why: "checks the formatting",
        remedy: Remedy::Rustup("rustfmt"),
    },
    Need {
        evidence: &["cargo", "clippy", "--version"],
        why: "lints",
        remedy: Remedy::Rustup("clippy"),
    },
    Need {
        evidence: &["cargo-deny", "--version"],
        why: "checks licences, sources and duplicates of dependencies",
        remedy: Remedy::Cargo {
            name: "cargo-deny",
            version: CARGO_DENY_VERSION,
        },
    },
];

const BENCH: &[Need] = &[
    Need {
        evidence: &["sysbench"],
        why: "the load on a database server that is slowed down by what watches it",
        remedy: Remedy::Apt("sysbench"),
    },
    Need {
        evidence: &["nethogs"],
        why: "a peer that captures packets, to compare with",
        remedy: Remedy::Apt("nethogs"),
    },
];

const FUZZ: &[Need] = &[
    Need {
        evidence: &["g++", "--version"],
        why: "builds libFuzzer",
        remedy: Remedy::Apt("g++"),
    },
    Need {
        evidence: &["cargo-fuzz", "--version"],
        why: "builds and runs what is fuzzed",
        remedy: Remedy::Cargo {
            name: "cargo-fuzz",
            version: CARGO_FUZZ_VERSION,
        },
    },
];

/// Installs what `purposes` need; with `dry_run` only tells what is missing.
pub(crate) fn setup(tree: &Tree, purposes: &[Purpose], dry_run: bool) -> Result<()> {
    for purpose in purposes {
        step(
            &format!("Set up what `{purpose}` needs"),
            &format!("cargo xtask setup {purpose}"),
            || match purpose {
                Purpose::Tests => {
                    install(TESTS, dry_run)?;
                    python::install(tree, dry_run)
                }
                Purpose::Guest => install(GUEST, dry_run),
                Purpose::Ebpf => bpf::install(dry_run),
                Purpose::Lint => install(LINT, dry_run),
                Purpose::Bench => install(BENCH, dry_run),
                Purpose::Fuzz => install(FUZZ, dry_run),
            },
        )?;
    }
    Ok(())
}

fn install(needs: &[Need], dry_run: bool) -> Result<()> {
    let missing: Vec<&Need> = needs
        .iter()
        .filter(|need| {
            let present = need.present();
            need.tell(present);
            !present
        })
        .collect();
    if dry_run || missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing
        .iter()
        .filter_map(|need| match need.remedy {
            Remedy::Apt(package) | Remedy::AptWith { package, .. } => Some(package),
            Remedy::Rustup(_) | Remedy::Cargo { .. } => None,
        })
        .collect();
    if !packages.is_empty() {
        if !apt::is_here() {
            bail!(
                "this is no Debian, so install by hand what offers: {}",
                missing
                    .iter()
                    .map(|need| need.evidence.join(" "))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
        }
        for need in &missing {
            if let Remedy::AptWith { path, settings, .. } = need.remedy {
                tell_before(Path::new(path), settings)?;
            }
        }
        apt::install(&packages)?;
    }
    for need in &missing {
        match need.remedy {
            Remedy::Apt(_) | Remedy::AptWith { .. } => {}
            Remedy::Rustup(component) => {
                run(Command::new("rustup").args(["component", "add", component]))?;
            }
            Remedy::Cargo { name, version } => {
                println!("    building {name} from source takes some minutes, once");
                run(Command::new("cargo").args([
                    "install",
                    "--locked",
                    name,
                    "--version",
                    version,
                ]))?;
            }
        }
        if !need.present() {
            bail!(
                "`{}` still does not work after installing {}",
                need.evidence.join(" "),
                need.remedy
            );
        }
    }
    Ok(())
}

/// Leaves settings for a package that is not there yet.
fn tell_before(path: &Path, settings: &str) -> Result<()> {
    // Only root can install, which says so itself.
    if !is_root_user() || path.exists() {
        return Ok(());
    }
    println!("    writing {}: no server is to be started", path.display());
    let cannot = || format!("cannot write {}", path.display());
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(cannot)?;
    }
    fs::write(path, settings).with_context(cannot)
}

impl Need {
    fn present(&self) -> bool {
        match self.evidence {
            [] => true,
            [command] => find_command(command).is_some(),
            [command, arguments @ ..] => {
                output(Command::new(command).args(arguments)).is_ok_and(|said| match self.remedy {
                    // Another release may want another configuration.
                    Remedy::Cargo { version, .. } => said.contains(version),
                    Remedy::Apt(_) | Remedy::AptWith { .. } | Remedy::Rustup(_) => true,
                })
            }
        }
    }

    fn tell(&self, present: bool) {
        let state = if present { "present" } else { "missing" };
        println!("    {state}: {} ({})", self.remedy, self.why);
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apt(name) | Self::Rustup(name) | Self::AptWith { package: name, .. } => {
                f.write_str(name)
            }
            Self::Cargo { name, version } => write!(f, "{name} {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_there_are_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("not/there/yet.conf");
        tell_before(&file, "mine").expect("it can be written");
        if is_root_user() {
            assert_eq!(fs::read_to_string(&file).expect("it is there"), "mine");
        }
        let file = directory.path().join("theirs.conf");
        fs::write(&file, "theirs").expect("it can be written");
        tell_before(&file, "mine").expect("nothing to do");
        assert_eq!(fs::read_to_string(&file).expect("it is there"), "theirs");
    }

    #[test]
    fn presence_is_found_out_by_trying() {
        let need = |evidence| Need {
            evidence,
            why: "",
            remedy: Remedy::Apt("nothing"),
        };
        assert!(need(&["sh"]).present());
        assert!(need(&["sh", "-c", "true"]).present());
        assert!(!need(&["sh", "-c", "false"]).present());
        assert!(!need(&["no-such-command-anywhere"]).present());
    }
}
