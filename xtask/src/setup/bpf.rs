//! The toolchain for BPF: a compiler that can build `core`, and bpf-linker.
//!
//! Debian's `rustc-web` is preferred, because a matching LLVM is packaged with
//! it; elsewhere rustup's nightly is taken, and LLVM must be had to match.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt;
use crate::command::{output, run};
use crate::ebpf::toolchain::{
    BPF_LINKER_VERSION, DEBIAN_RUST_SRC, DEBIAN_RUSTC, Toolchain, llvm_version, nightly_has_source,
    rustup_run,
};

/// Debian's compiler with the source of its library.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

pub(super) fn install(dry_run: bool) -> Result<()> {
    let compiler = compiler();
    tell(
        compiler.is_some(),
        "a compiler that can build `core` for BPF",
    );
    // Another release would not give the very bytes that are shipped.
    let linker = output(Command::new("bpf-linker").arg("--version"))
        .is_ok_and(|said| said.contains(BPF_LINKER_VERSION));
    tell(linker, "bpf-linker (links the programs into one object)");
    if dry_run {
        return Ok(());
    }
    let compiler = match compiler {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    if !linker {
        install_linker(compiler)?;
    }
    // Says what is wrong if it still is.
    Toolchain::choose().map(|_| ())
}

fn tell(present: bool, what: &str) {
    let state = if present { "present" } else { "missing" };
    println!("    {state}: {what}");
}

fn compiler() -> Option<Toolchain> {
    if Path::new(DEBIAN_RUST_SRC).exists() && Path::new(DEBIAN_RUSTC).exists() {
        Some(Toolchain::Debian)
    } else {
        nightly_has_source().then_some(Toolchain::Nightly)
    }
}

fn install_compiler() -> Result<Toolchain> {
    if apt::is_here() {
        let packaged = || {
            DEBIAN_PACKAGES
                .iter()
                .all(|package| apt::has_candidate(package))
        };
        if !packaged() {
            apt::update_once();
        }
        if packaged() {
            apt::install(&DEBIAN_PACKAGES)?;
            return Ok(Toolchain::Debian);
        }
    }
    run(Command::new("rustup").args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]))
    .context("neither Debian's rustc-web nor rustup's nightly can be installed here")?;
    Ok(Toolchain::Nightly)
}

fn install_linker(compiler: Toolchain) -> Result<()> {
    let rustc = match compiler {
        Toolchain::Debian => output(Command::new(DEBIAN_RUSTC).arg("-vV"))?,
        Toolchain::Nightly => output(rustup_run("rustc").arg("-vV"))?,
    };
    let version = llvm_version(&rustc)?;
    let major = version.split('.').next().unwrap_or(version);
    let prefix = llvm(major)?;
    let path = env::join_paths(
        std::iter::once(prefix.join("bin"))
            .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )
    .context("LLVM lies in a directory that PATH cannot hold")?;
    println!("    building bpf-linker from source takes a minute, once");
    run(Command::new("cargo")
        .env("PATH", path)
        .env("LLVM_PREFIX", &prefix)
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION])
        .args(["--locked", "--no-default-features", "--features"])
        .arg(format!("llvm-{major}")))
}

/// Where LLVM's development files of this major release are: what the user
/// names, what is installed, or what Debian can install.
fn llvm(major: &str) -> Result<PathBuf> {
    if let Some(named) = env::var_os("LLVM_PREFIX") {
        return Ok(PathBuf::from(named));
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if prefix.join("bin/llvm-config").exists() {
        return Ok(prefix);
    }
    let package = format!("llvm-{major}-dev");
    if !apt::is_here() || !apt::has_candidate(&package) {
        bail!(
            "bpf-linker needs the development files of LLVM {major}, which is the compiler's own; \
             install them (on Debian and Ubuntu https://apt.llvm.org has {package}) \
             and set LLVM_PREFIX to where they are"
        );
    }
    apt::install(&[&package])?;
    Ok(prefix)
}
