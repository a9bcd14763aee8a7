//! What outlives a collector that is killed: pins in a BPF filesystem, by which the
//! kernel counts on, and a file with what the kernel does not know.
//!
//! Takes two folders; [`Keep::claim`] makes sure that they are this collector's
//! alone, gives the last [`State`] that was written there, and produces a [`Store`],
//! which writes others. Promises: a state that is given was written in whole, in this
//! boot; whether it is the one that maps belong to, [`Store::fits`] tells.
#![forbid(unsafe_code)]

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock, statfs},
    io::Errno,
    process::geteuid,
};

mod file;
mod state;

use file::{read, write};
pub use state::State;
pub(crate) use state::{
    Families, Figures as KeptFigures, Guard, Hooks, Lease, Main, Part, Process, Resting, Sums,
    Watch,
};

/// Where pins are by default.
pub const DEFAULT_PIN_PATH: &str = "/sys/fs/bpf/netio";
/// Where the state is by default.
pub const DEFAULT_STATE_DIR: &str = "/run/netio/state";

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPFFS: u64 = 0xcafe_4a11;
/// The state's file in its folder.
const STATE: &str = "state";
/// The next one, while it is being written.
const NEXT: &str = "state.next";
/// What pins of the layout that this collector knows stand below: the number names
/// what never changes, the allow-list's layout and how the pins are named.
const VERSION: &str = "v1";

/// Why nothing can be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Another collector has the folder.
    #[error(
        "another collector keeps its state in {}: stop it, or give this one --pin-path and --state-dir of its own, or --no-pin",
        .0.display()
    )]
    Taken(PathBuf),
    /// Nothing can be pinned there.
    #[error("{} is in no BPF filesystem: mount one (mount -t bpf bpf /sys/fs/bpf), or give another --pin-path", .0.display())]
    NotBpf(PathBuf),
    /// A folder cannot be made or locked.
    #[error(
        "cannot use {}: {source}; it must be a folder that this user owns, or can make (--pin-path, --state-dir)",
        path.display()
    )]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The two folders, which are this collector's until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Keep(Arc<Claimed>);

#[derive(Debug)]
struct Claimed {
    pin_path: PathBuf,
    state_dir: PathBuf,
    /// Their locks.
    _locks: [File; 2],
}

impl Keep {
    /// Makes the folders, and locks them for this process.
    pub fn claim(pin_path: &Path, state_dir: &Path) -> Result<Self, KeepError> {
        only_bpffs(pin_path)?;
        let state = locked(state_dir)?;
        let pins = locked(pin_path)?;
        for (folder, path) in [(&state, state_dir), (&pins, pin_path)] {
            only_ours(folder).map_err(|why| unusable(path, why))?;
        }
        Ok(Self(Arc::new(Claimed {
            pin_path: pin_path.to_owned(),
            state_dir: state_dir.to_owned(),
            _locks: [state, pins],
        })))
    }

    /// Removes everything that is kept in these folders, and with it the programs that
    /// count on; the folders too, if nothing else is in them. True, if there was
    /// anything. Fails while a collector has them.
    pub fn uninstall(pin_path: &Path, state_dir: &Path) -> Result<bool, KeepError> {
        let mut found = false;
        if pin_path.exists() {
            only_bpffs(pin_path)?;
        }
        if state_dir.exists() {
            let _lock = locked(state_dir)?;
            for file in [STATE, NEXT] {
                let path = state_dir.join(file);
                found |= gone(fs::remove_file(&path)).map_err(|error| unusable(&path, error))?;
            }
            let _ = fs::remove_dir(state_dir);
        }
        if pin_path.exists() {
            let _lock = locked(pin_path)?;
            let path = pin_path.join(VERSION);
            found |= gone(fs::remove_dir_all(&path)).map_err(|error| unusable(&path, error))?;
            let _ = fs::remove_dir(pin_path);
        }
        Ok(found)
    }

    /// The folder of a generation's pins.
    pub(crate) fn pins(&self, generation: u32) -> PathBuf {
        self.versioned().join(generation.to_string())
    }

    /// The generations that there are pins of.
    pub(crate) fn generations(&self) -> impl Iterator<Item = u32> + use<> {
        let folders = fs::read_dir(self.versioned()).into_iter().flatten();
        folders.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
    }

    /// Removes the pins of all generations but one.
    pub(crate) fn sweep(&self, but: Option<u32>) -> io::Result<()> {
        for generation in self.generations().filter(|it| Some(*it) != but) {
            gone(fs::remove_dir_all(self.pins(generation)))?;
        }
        Ok(())
    }

    /// The last state, if there is one.
    pub(crate) fn state(&self) -> Result<Option<State>, String> {
        read(&self.state_file())
    }

    fn versioned(&self) -> PathBuf {
        self.0.pin_path.join(VERSION)
    }

    fn state_file(&self) -> PathBuf {
        self.0.state_dir.join(STATE)
    }
}

/// Writes states.
pub struct Store {
    keep: Keep,
    hooks: Hooks,
    number: u64,
    /// Why the last state could not be written, if so.
    failure: Option<String>,
}

impl Store {
    /// For hooks that were pinned. `number`: of the state of before; 0, if there is
    /// none.
    pub(crate) fn new(keep: Keep, hooks: Hooks, number: u64) -> Self {
        Self {
            keep,
            hooks,
            number,
            failure: None,
        }
    }

    /// Writes of these hooks from now on.
    pub(crate) fn set_hooks(&mut self, hooks: Hooks) {
        self.hooks = hooks;
    }

    /// Whether a state with this number is what maps belong to that were marked with
    /// `mark`: the mark is set after the state was written.
    pub(crate) fn fits(number: u64, mark: u64) -> bool {
        number == mark || number == mark + 1
    }

    /// Writes a state, and gives its number, to mark the maps with. One that cannot
    /// be written leaves none that fits.
    pub(crate) fn write(&mut self, state: State) -> u64 {
        self.number += 1;
        let state = State {
            number: self.number,
            hooks: Some(self.hooks.clone()),
            ..state
        };
        let path = self.keep.state_file();
        let failure = write(&path, &state).err().map(|error| {
            let path = path.display();
            format!("what is watched cannot be written down in {path}: {error}")
        });
        match (&failure, &self.failure) {
            (Some(why), None) => {
                tracing::error!("{why}; if the collector is killed now, its totals are lost");
            }
            (None, Some(_)) => tracing::info!("what is watched is written down again"),
            _ => {}
        }
        self.failure = failure;
        if self.failure.is_some() {
            // Beyond what a state of before fits.
            self.number += 1;
        }
        self.number
    }

    /// Why the last state could not be written, if so.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Forgets everything.
    pub(crate) fn remove(&self) {
        if let Err(error) = gone(fs::remove_file(self.keep.state_file())) {
            tracing::warn!(%error, "the state cannot be removed");
        }
    }
}

/// Nothing is made, or removed, in another filesystem.
fn only_bpffs(pin_path: &Path) -> Result<(), KeepError> {
    let place = pin_path.ancestors().find(|it| it.exists());
    let place = place.unwrap_or(pin_path);
    let kind = statfs(place).map_err(|errno| unusable(place, errno.into()))?;
    if kind.f_type.cast_unsigned() == BPFFS {
        return Ok(());
    }
    Err(KeepError::NotBpf(pin_path.to_owned()))
}

/// Where others can write, they could have this process write anywhere, or believe
/// anything.
fn only_ours(folder: &File) -> io::Result<()> {
    let it = folder.metadata()?;
    let why = if it.uid() != geteuid().as_raw() {
        format!("it is the user's with uid {}", it.uid())
    } else if it.mode() & 0o022 != 0 {
        format!("others may write to it (mode {:o})", it.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// A folder that this process alone has locked, made if need be.
fn locked(path: &Path) -> Result<File, KeepError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| unusable(parent, error))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(unusable(path, error));
        }
        _ => {}
    }
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed())
        .open(path)
        .map_err(|error| unusable(path, error))?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(folder),
        Err(Errno::WOULDBLOCK) => Err(KeepError::Taken(path.to_owned())),
        Err(errno) => Err(unusable(path, errno.into())),
    }
}

fn unusable(path: &Path, source: io::Error) -> KeepError {
    KeepError::Unusable {
        path: path.to_owned(),
        source,
    }
}

/// Whether something was removed that may not have been there.
fn gone(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
