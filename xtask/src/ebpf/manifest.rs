//! The manifest beside the shipped objects: what they were built from and by.
//!
//! It takes the checkout and produces the SHA-256 of every source file that an
//! object depends on, of each object, and the versions of the tools. A plain
//! test recomputes them, so that a change of a source without a rebuild, or of
//! an object without its source, cannot go unseen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Where the manifest is, seen from the top of the checkout.
pub(crate) const MANIFEST: &str = "collector/bpf/manifest.json";
/// The crate that the objects are built from.
pub(crate) const CRATE: &str = "collector-ebpf";

/// What cargo builds from; licences and prose do not change an object.
const SOURCES: [&str; 3] = ["lock", "rs", "toml"];

/// See the module.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// How this file comes about, for whoever opens it.
    pub(crate) written_by: String,
    /// Tool → version.
    pub(crate) toolchain: BTreeMap<String, String>,
    /// Object path → SHA-256.
    pub(crate) objects: BTreeMap<String, String>,
    /// Source path → SHA-256.
    pub(crate) sources: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads the manifest of the checkout at `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let path = root.join(MANIFEST);
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}; type `cargo xtask build-ebpf` to make it",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is no manifest; type `cargo xtask build-ebpf` to make it anew",
                path.display()
            )
        })
    }

    /// Writes the manifest to `path`.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("cannot encode the manifest")?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Every difference between this manifest and the files at `root`, in
    /// words; none if the objects belong to the sources.
    pub(crate) fn differences(&self, root: &Path) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let now = source_hashes(root)?;
        for (path, hash) in &now {
            match self.sources.get(path) {
                None => found.push(format!("{path} is new")),
                Some(then) if then != hash => found.push(format!("{path} has changed")),
                Some(_) => {}
            }
        }
        for path in self.sources.keys().filter(|path| !now.contains_key(*path)) {
            found.push(format!("{path} is gone"));
        }
        for (_, path) in super::OBJECTS {
            if !self.objects.contains_key(path) {
                found.push(format!("{path} is not in the manifest"));
            }
        }
        for (path, hash) in &self.objects {
            match fs::read(root.join(path)) {
                Ok(bytes) if sha256(&bytes) == *hash => {}
                Ok(_) => found.push(format!("{path} is not the object that was built")),
                Err(error) => found.push(format!("{path} cannot be read: {error}")),
            }
        }
        Ok(found)
    }
}

/// The SHA-256 of every source file of the crate, by its path from `root`.
pub(crate) fn source_hashes(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    add_hashes(root, Path::new(CRATE), &mut hashes)?;
    if hashes.is_empty() {
        bail!("{} holds no sources", root.join(CRATE).display());
    }
    Ok(hashes)
}

fn add_hashes(root: &Path, dir: &Path, hashes: &mut BTreeMap<String, String>) -> Result<()> {
    let entries = fs::read_dir(root.join(dir))
        .with_context(|| format!("cannot list {}", root.join(dir).display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        let path = dir.join(entry.file_name());
        let kind = entry
            .file_type()
            .with_context(|| format!("cannot tell what {} is", path.display()))?;
        if kind.is_dir() {
            if entry.file_name() != "target" {
                add_hashes(root, &path, hashes)?;
            }
        } else if path
            .extension()
            .is_some_and(|extension| SOURCES.iter().any(|source| extension == *source))
        {
            let bytes = fs::read(root.join(&path))
                .with_context(|| format!("cannot read {}", path.display()))?;
            hashes.insert(path.to_string_lossy().into_owned(), sha256(&bytes));
        }
    }
    Ok(())
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    /// The shipped objects were built from the sources beside them.
    #[test]
    fn shipped_objects_belong_to_the_sources() {
        let tree = Tree::find().expect("tests run in a checkout");
        let manifest = Manifest::read(tree.root()).expect("the manifest is shipped");
        let differences = manifest
            .differences(tree.root())
            .expect("files are readable");
        assert!(
            differences.is_empty(),
            "the shipped BPF objects do not belong to their sources; \
             type `cargo xtask build-ebpf` and commit what it writes:\n  {}",
            differences.join("\n  ")
        );
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let file = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
            fs::write(path, text).expect("writable");
        };
        file("collector-ebpf/src/a.rs", "a");
        file("collector-ebpf/src/b.rs", "b");
        file("collector-ebpf/README.md", "prose");
        file("collector-ebpf/target/junk.rs", "junk");
        let [(_, kept), (_, changed), (_, third)] = super::super::OBJECTS;
        for path in [kept, changed, third] {
            file(path, "object");
        }
        let object = |path: &str| (path.to_owned(), sha256(b"object"));
        let mut manifest = Manifest {
            written_by: String::new(),
            toolchain: BTreeMap::new(),
            objects: BTreeMap::from([kept, changed, third].map(object)),
            sources: source_hashes(root.path()).expect("readable"),
        };
        let differences =
            |manifest: &Manifest| manifest.differences(root.path()).expect("readable");
        assert_eq!(manifest.sources.len(), 2);
        assert_eq!(differences(&manifest), [""; 0]);

        file("collector-ebpf/src/a.rs", "A");
        file("collector-ebpf/.cargo/config.toml", "");
        fs::remove_file(root.path().join("collector-ebpf/src/b.rs")).expect("it is there");
        file(changed, "another");
        manifest.objects.remove(kept);
        let told = differences(&manifest);
        assert_eq!(told.len(), 5, "{told:?}");
        for wanted in [
            "collector-ebpf/src/a.rs has changed",
            "collector-ebpf/.cargo/config.toml is new",
            "collector-ebpf/src/b.rs is gone",
            &format!("{kept} is not in the manifest"),
            &format!("{changed} is not the object that was built"),
        ] {
            assert!(told.iter().any(|line| line == wanted), "{told:?}");
        }
    }

    #[test]
    fn sha256_is_the_standard_one() {
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
