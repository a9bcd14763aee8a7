//! `cargo xtask build-ebpf`: builds the programs that run in the kernel.
//!
//! It takes collector-ebpf/ and produces one object per program, with a
//! manifest, the same bytes whatever directory the checkout or cargo's home
//! lies in. With `--check` it builds beside the shipped objects and compares.

pub(crate) mod manifest;
pub(crate) mod toolchain;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::run;
use crate::step::step;
use crate::tree::{Tree, cargo_home};
use manifest::{CRATE, MANIFEST, Manifest, sha256, source_hashes};
use toolchain::{TARGET, Toolchain};

/// Binary of the crate → the object's place in the checkout.
const OBJECTS: [(&str, &str); 3] = [
    ("netio", "collector/bpf/netio.bpf.o"),
    ("tutorial", "tests/accuracy/bpf/tutorial.bpf.o"),
    ("twins", "tests/bench/bpf/twins.bpf.o"),
];

/// Where `--check` leaves the objects it built, below the build directory.
pub(crate) const FRESH: &str = "ebpf-fresh";

/// How fresh objects compare with the shipped ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Byte for byte the same.
    Identical,
    /// To be tested in their own right.
    Different {
        /// Whether another toolchain explains it. If not, the shipped objects
        /// are not what they say they are.
        explained: bool,
    },
}

/// Builds the objects and puts them, with the manifest, into the checkout, or
/// all side by side into `out`.
pub(crate) fn build(tree: &Tree, out: Option<&Path>) -> Result<()> {
    let toolchain = Toolchain::choose()?;
    let built = compile(tree, toolchain)?;
    let mut manifest = Manifest {
        written_by: "cargo xtask build-ebpf".to_owned(),
        toolchain: toolchain.versions()?,
        objects: BTreeMap::new(),
        sources: source_hashes(tree.root())?,
    };
    for ((_, shipped), object) in OBJECTS.iter().zip(&built) {
        let bytes = read(object)?;
        let place = match out {
            Some(dir) => dir.join(file_name(shipped)),
            None => tree.path(shipped),
        };
        write(&place, &bytes)?;
        let hash = sha256(&bytes);
        println!("    {hash}  {}", place.display());
        manifest.objects.insert((*shipped).to_owned(), hash);
    }
    manifest.write(&match out {
        Some(dir) => dir.join("manifest.json"),
        None => tree.path(MANIFEST),
    })
}

/// Builds the objects below the build directory, in [`FRESH`], and compares
/// them with the shipped ones.
pub(crate) fn check(tree: &Tree) -> Result<Comparison> {
    let manifest = Manifest::read(tree.root())?;
    let toolchain = Toolchain::choose()?;
    let built = compile(tree, toolchain)?;
    let mut identical = true;
    for ((_, shipped), object) in OBJECTS.iter().zip(&built) {
        let fresh = read(object)?;
        let place = tree.target(FRESH).join(file_name(shipped));
        write(&place, &fresh)?;
        let (ours, theirs) = (sha256(&fresh), sha256(&read(&tree.path(shipped))?));
        if ours == theirs {
            println!("    {shipped} is, byte for byte, what its sources build: {ours}");
        } else {
            println!("    {shipped} differs from what its sources build here:");
            println!("      shipped {theirs}");
            println!("      fresh   {ours}  {}", place.display());
            identical = false;
        }
    }
    if identical {
        return Ok(Comparison::Identical);
    }
    for difference in manifest.differences(tree.root())? {
        println!("    {difference} since the shipped objects were built");
    }
    let tools = changed_tools(&manifest, &toolchain.versions()?);
    for tool in &tools {
        println!("    {tool}");
    }
    Ok(Comparison::Different {
        explained: !tools.is_empty(),
    })
}

/// Tools that are not those that the shipped objects were built by.
fn changed_tools(manifest: &Manifest, here: &BTreeMap<String, String>) -> Vec<String> {
    here.iter()
        .filter_map(|(tool, version)| match manifest.toolchain.get(tool) {
            Some(then) if then == version => None,
            Some(then) => Some(format!("{tool} here is {version}, but was {then}")),
            None => Some(format!("{tool} here is {version}, but was not recorded")),
        })
        .collect()
}

/// Compiles and links; returns the objects in the order of [`OBJECTS`].
fn compile(tree: &Tree, toolchain: Toolchain) -> Result<Vec<PathBuf>> {
    let target_dir = tree.target("ebpf-build");
    let versions = toolchain.versions()?;
    println!(
        "    with {}",
        versions
            .iter()
            .map(|(tool, version)| format!("{tool}: {version}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    step(
        "Build the BPF objects from source",
        "cargo xtask build-ebpf",
        || {
            // Unpacks the dependencies, whose place the next command must know.
            run(toolchain
                .cargo()?
                .current_dir(tree.path(CRATE))
                .args(["fetch", "--locked"]))?;
            run(toolchain
                .cargo()?
                .current_dir(tree.path(CRATE))
                .args(["build", "--release", "--locked", "--target", TARGET])
                .args(["-Z", "build-std=core", "--config"])
                .arg(remapped(tree, toolchain)?)
                .arg("--target-dir")
                .arg(&target_dir))
        },
    )?;
    Ok(OBJECTS
        .iter()
        .map(|(binary, _)| target_dir.join(TARGET).join("release").join(binary))
        .collect())
}

/// A cargo setting that takes this machine's directories out of the object,
/// whose line table would otherwise name them. It adds to the flags that the
/// crate sets for itself.
fn remapped(tree: &Tree, toolchain: Toolchain) -> Result<String> {
    let mut pairs = vec![(tree.root().to_owned(), "/netio")];
    let library = toolchain.sysroot()?.join("lib/rustlib/src/rust");
    // Debian has it behind a symbolic link; the compiler uses both names.
    if let Ok(behind) = library.canonicalize() {
        pairs.push((behind, "/rustlib"));
    }
    pairs.push((library, "/rustlib"));
    // The registry's directory has its address's hash in its name.
    let registries = cargo_home()?.join("registry/src");
    if registries.is_dir() {
        for entry in fs::read_dir(&registries)
            .with_context(|| format!("cannot list {}", registries.display()))?
        {
            pairs.push((entry.context("cannot list the registry")?.path(), "/crates"));
        }
    }
    let flags: Vec<String> = pairs
        .iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect();
    Ok(format!(
        "target.{TARGET}.rustflags={}",
        serde_json::to_string(&flags).context("cannot encode the compiler's flags")?
    ))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_tools_explain_a_difference() {
        let tools = |rustc: &str| BTreeMap::from([("rustc".to_owned(), rustc.to_owned())]);
        let manifest = Manifest {
            written_by: String::new(),
            toolchain: tools("1.96"),
            objects: BTreeMap::new(),
            sources: BTreeMap::new(),
        };
        assert!(changed_tools(&manifest, &tools("1.96")).is_empty());
        assert_eq!(
            changed_tools(&manifest, &tools("1.97")),
            ["rustc here is 1.97, but was 1.96"]
        );
    }
}
