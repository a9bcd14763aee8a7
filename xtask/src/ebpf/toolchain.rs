//! The toolchain that builds the programs for the kernel, chosen by looking at
//! what is installed.
//!
//! Two are known. Debian's `rustc-web`, whose LLVM is packaged too, is taken
//! where it is installed; everywhere else rustup's nightly with `rust-src`.
//! Both build `core` from source, since no toolchain ships it for BPF, and both
//! link by `bpf-linker`, whose LLVM may not be older than the compiler's.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::output;
use crate::tree::{cargo_home, find_command};

/// The target: little-endian BPF, which serves x86-64 and aarch64 alike.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler, its library source and the LLVM it was built with.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The source of `core` that belongs to [`DEBIAN_RUSTC`].
pub(crate) const DEBIAN_RUST_SRC: &str = "/usr/lib/rustlib/src/rust/library/core/Cargo.toml";
/// The release of bpf-linker that objects are built with.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

/// Which compiler is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// Debian's `rustc-web`, a stable compiler that is told to accept what
    /// building `core` needs.
    Debian,
    /// The nightly that rustup calls `nightly`.
    Nightly,
}

impl Toolchain {
    /// The toolchain that is complete here.
    pub(crate) fn choose() -> Result<Self> {
        let found = if Path::new(DEBIAN_RUST_SRC).exists() && Path::new(DEBIAN_RUSTC).exists() {
            Self::Debian
        } else if nightly_has_source() {
            Self::Nightly
        } else {
            bail!(
                "no Rust toolchain here can build `core` for BPF; \
                 type `cargo xtask setup ebpf` to install one"
            );
        };
        if find_command("bpf-linker").is_none() {
            bail!("bpf-linker is not installed; type `cargo xtask setup ebpf` to install it");
        }
        Ok(found)
    }

    /// `rustc` of this toolchain.
    pub(crate) fn rustc(self) -> Command {
        match self {
            Self::Debian => Command::new(DEBIAN_RUSTC),
            Self::Nightly => rustup_run("rustc"),
        }
    }

    /// `cargo` of this toolchain, free of what the surrounding cargo run and
    /// the user's environment would change in the object.
    pub(crate) fn cargo(self) -> Result<Command> {
        let mut command = match self {
            Self::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                command
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
            Self::Nightly => {
                let mut command = rustup_run("cargo");
                command.env_remove("RUSTC");
                command
            }
        };
        for variable in [
            "CARGO",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
        ] {
            command.env_remove(variable);
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(
            env::split_paths(&path).chain(std::iter::once(cargo_home()?.join("bin"))),
        )
        .context("PATH or CARGO_HOME holds a character that PATH cannot")?;
        command.env("PATH", path);
        Ok(command)
    }

    /// The toolchain's own directory.
    pub(crate) fn sysroot(self) -> Result<PathBuf> {
        let printed = output(self.rustc().args(["--print", "sysroot"]))?;
        Ok(PathBuf::from(printed.trim()))
    }

    /// Names and versions of every tool that shapes the object.
    pub(crate) fn versions(self) -> Result<BTreeMap<String, String>> {
        let rustc = output(self.rustc().arg("-vV"))?;
        let mut linker = Command::new(find_command("bpf-linker").context("no bpf-linker")?);
        let linker = output(linker.arg("--version"))?;
        Ok(BTreeMap::from([
            (
                "rustc".to_owned(),
                rustc.lines().next().unwrap_or_default().to_owned(),
            ),
            ("llvm".to_owned(), llvm_version(&rustc)?.to_owned()),
            ("bpf-linker".to_owned(), linker.trim().to_owned()),
        ]))
    }
}

/// The LLVM release that `rustc -vV` tells.
pub(crate) fn llvm_version(verbose: &str) -> Result<&str> {
    verbose
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .context("`rustc -vV` tells no LLVM version")
}

/// A program of rustup's nightly.
pub(crate) fn rustup_run(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    command
}

/// Whether rustup's nightly is here, with the source of `core`.
pub(crate) fn nightly_has_source() -> bool {
    output(rustup_run("rustc").args(["--print", "sysroot"])).is_ok_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_version_is_read_from_verbose_output() {
        let verbose = "rustc 1.96.0\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_version(verbose).expect("it is told"), "22.1.8");
        assert!(llvm_version("rustc 1.96.0\n").is_err());
    }
}
