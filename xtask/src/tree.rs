//! Where things are: the checkout, its build directory, cargo's home.
//!
//! Found at run time, never compiled in, so that one build of xtask can serve
//! several checkouts that share a target directory.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The checkout that a task works on.
pub(crate) struct Tree {
    root: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// Finds the checkout: around this package when cargo started xtask,
    /// otherwise around the current directory.
    pub(crate) fn find() -> Result<Self> {
        let start = match env::var_os("CARGO_MANIFEST_DIR").filter(|dir| !dir.is_empty()) {
            Some(package) => PathBuf::from(package),
            None => env::current_dir().context("cannot tell the current directory")?,
        };
        let Some(root) = start.ancestors().find(|dir| is_root(dir)) else {
            bail!(
                "no netio checkout around {}: run this inside one, as `cargo xtask …`",
                start.display()
            );
        };
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Ok(Self {
            root: root.to_owned(),
            target,
        })
    }

    /// The top directory of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the checkout.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// A path inside the build directory, which git ignores.
    pub(crate) fn target(&self, relative: &str) -> PathBuf {
        self.target.join(relative)
    }
}

fn is_root(dir: &Path) -> bool {
    dir.join("collector-ebpf").is_dir() && dir.join("xtask").is_dir()
}

/// Cargo's home: the place of its registry and of what it installs.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = env::var_os("HOME")
        .context("neither CARGO_HOME nor HOME is set, so cargo's home is unknown: set one")?;
    Ok(Path::new(&home).join(".cargo"))
}

/// The file that typing `command` would run, looked for also where cargo
/// installs and where Debian keeps what only root types.
pub(crate) fn find_command(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_home().ok().map(|home| home.join("bin")))
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(command))
        .find(|file| file.is_file())
}

/// Whether this process may do what only root may.
pub(crate) fn is_root_user() -> bool {
    // The owner of our own /proc entry is our effective user.
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
