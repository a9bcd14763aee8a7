//! Debian's own cloud kernels, fetched from its archive and never installed.
//!
//! It takes a series such as `6.1` and produces the newest kernel of it,
//! unpacked below target/guest, and the modules asked for in the order in which
//! they must be loaded. x86-64 only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt;
use crate::command::{output, run};
use crate::tree::Tree;

/// A kernel, unpacked.
pub(crate) struct Kernel {
    /// Its release, as `uname -r` tells it.
    pub(crate) release: String,
    unpacked: PathBuf,
}

/// A module's name and its content, ready for `insmod`.
pub(crate) type Module = (String, Vec<u8>);

impl Kernel {
    /// The newest kernel of `series`, from the cache or from the archive.
    pub(crate) fn find(tree: &Tree, series: &str) -> Result<Self> {
        let package = newest_package(series)?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        let unpacked = tree.target("guest").join(&release);
        if !unpacked.is_dir() {
            fetch(&package, &unpacked)?;
        }
        Ok(Self { release, unpacked })
    }

    /// The file to boot.
    pub(crate) fn image(&self) -> PathBuf {
        self.unpacked.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The modules `wanted` and those they depend on, each after what it needs;
    /// none for what is built into this kernel.
    pub(crate) fn modules(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let dir = self.unpacked.join("lib/modules").join(&self.release);
        let mut files = BTreeMap::new();
        list_modules(&dir.join("kernel"), &mut files)?;
        let builtin = fs::read_to_string(dir.join("modules.builtin"))
            .with_context(|| format!("cannot read {}/modules.builtin", dir.display()))?;
        let mut order = LoadOrder {
            builtin: builtin.lines().map(|line| name(Path::new(line))).collect(),
            files,
            seen: BTreeSet::new(),
            modules: Vec::new(),
        };
        for module in wanted {
            order.visit(&module.replace('-', "_"))?;
        }
        Ok(order.modules)
    }
}

/// The package that Debian's meta-packages name as the newest of `series`.
fn newest_package(series: &str) -> Result<String> {
    let metas = [
        format!("linux-image-{series}-cloud-amd64"),
        "linux-image-cloud-amd64".to_owned(),
    ];
    let look = || {
        metas.iter().find_map(|meta| {
            let depends = output(Command::new("apt-cache").args(["depends", meta])).ok()?;
            dependency(&depends, series)
        })
    };
    if let Some(package) = look() {
        return Ok(package);
    }
    apt::update_once();
    look().with_context(|| {
        format!(
            "apt knows no cloud kernel {series}: looked behind {}; \
             Debian 12 with its security archive has it, after `apt-get update`",
            metas.join(" and ")
        )
    })
}

/// What `apt-cache depends` of a meta-package tells, if it is of `series`.
fn dependency(depends: &str, series: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with(&format!("linux-image-{series}.")))
        .map(str::to_owned)
}

/// Downloads `package` and unpacks it as `unpacked`, which appears only when it
/// is complete.
fn fetch(package: &str, unpacked: &Path) -> Result<()> {
    let parent = unpacked.parent().context("no place to unpack into")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let scratch = tempfile::tempdir_in(parent).context("cannot make a temporary directory")?;
    run(Command::new("apt-get").current_dir(scratch.path()).args([
        "download",
        "-q",
        "-o",
        "APT::Sandbox::User=root",
        package,
    ]))?;
    let downloaded = fs::read_dir(scratch.path())
        .context("cannot list the download")?
        .next()
        .with_context(|| format!("apt-get downloaded nothing for {package}"))?
        .context("cannot list the download")?
        .path();
    let content = scratch.path().join("content");
    run(Command::new("dpkg").arg("-x").arg(downloaded).arg(&content))?;
    fs::rename(&content, unpacked)
        .with_context(|| format!("cannot move the kernel to {}", unpacked.display()))
}

struct LoadOrder {
    builtin: BTreeSet<String>,
    files: BTreeMap<String, PathBuf>,
    seen: BTreeSet<String>,
    modules: Vec<Module>,
}

impl LoadOrder {
    fn visit(&mut self, module: &str) -> Result<()> {
        if self.builtin.contains(module) || !self.seen.insert(module.to_owned()) {
            return Ok(());
        }
        let Some(file) = self.files.get(module) else {
            bail!("this kernel has no module {module}");
        };
        let bytes = content(file)?;
        let needed = depends(&bytes)
            .with_context(|| format!("{} does not tell what it depends on", file.display()))?;
        for module in &needed {
            self.visit(module)?;
        }
        self.modules.push((module.to_owned(), bytes));
        Ok(())
    }
}

fn list_modules(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("cannot list {}", dir.display()))?
            .path();
        if path.is_dir() {
            list_modules(&path, files)?;
        } else {
            files.insert(name(&path), path);
        }
    }
    Ok(())
}

/// A module's name in the one spelling that compares.
fn name(file: &Path) -> String {
    let file = file.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

fn content(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    }
    let unpacked = Command::new("xz")
        .arg("-dc")
        .arg(file)
        .output()
        .context("cannot start xz; type `cargo xtask setup guest` to install it")?;
    if !unpacked.status.success() {
        bail!("xz cannot unpack {}", file.display());
    }
    Ok(unpacked.stdout)
}

/// The modules that a module names in its `depends=` record.
fn depends(module: &[u8]) -> Option<Vec<String>> {
    const RECORD: &[u8] = b"\0depends=";
    let start = module
        .windows(RECORD.len())
        .position(|window| window == RECORD)?
        + RECORD.len();
    let rest = module.get(start..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let names = String::from_utf8_lossy(rest.get(..end)?);
    Some(
        names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(|name| name.replace('-', "_"))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_kernel_is_of_the_series_asked_for() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(
            dependency(depends, "6.1").as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(dependency(depends, "6.12"), None);
        let depends = "m\n  Depends: linux-image-6.12.117+deb12-cloud-amd64\n";
        assert_eq!(dependency(depends, "6.1"), None);
    }

    #[test]
    fn modules_load_after_what_they_need() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = |module: &str, depends: &str| {
            let path = dir.path().join(format!("{module}.ko"));
            fs::write(&path, format!("x\0depends={depends}\0y")).expect("writable");
            (name(&path), path)
        };
        let mut order = LoadOrder {
            builtin: BTreeSet::from(["core".to_owned()]),
            files: BTreeMap::from([
                file("top", "left-one,core,base"),
                file("left-one", "base"),
                file("base", ""),
            ]),
            seen: BTreeSet::new(),
            modules: Vec::new(),
        };
        order.visit("top").expect("all are there");
        let names: Vec<&str> = order
            .modules
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["base", "left_one", "top"]);
        assert!(order.visit("nowhere").is_err());
    }

    #[test]
    fn missing_dependency_record_is_told_from_an_empty_one() {
        assert_eq!(depends(b"a\0depends=\0b"), Some(vec![]));
        assert_eq!(depends(b"nothing"), None);
    }
}
