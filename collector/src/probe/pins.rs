//! The pins of one generation of hooks, by which they live on without a collector.
//!
//! Takes a folder in a BPF filesystem, where it pins maps, programs and links, each
//! by its name; gives them back to a collector that comes later. Promises: a map is
//! given back only if its type and its sizes are what they should be.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, fs, io, os::fd::OwnedFd, path::PathBuf};

use aya::{
    maps::{Map, MapData, MapType},
    programs::{
        Program,
        links::{FdLink, PinnedLink},
    },
};
use netio_abi::{ALL_MARKS, AllowEntry, Counters, Kept, Life, PoolEnds};

use super::{AttachError, sizes::Sizes, sys};

/// Bytes of the ring that tells changes.
const CHANGES: u32 = 65_536;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Pins(PathBuf);

/// Type, sizes and flags of a map.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    kind: MapType,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

impl Pins {
    /// Pins that are there.
    pub(super) fn of(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// None yet, in a folder that is made.
    pub(super) fn new(folder: PathBuf) -> io::Result<Self> {
        for kind in ["maps", "programs", "links"] {
            fs::create_dir_all(folder.join(kind))?;
        }
        Ok(Self(folder))
    }

    /// Where the allow-list is pinned.
    pub(super) fn allow_list(&self) -> PathBuf {
        self.0.join("maps/ALLOW_LIST")
    }

    pub(super) fn pin_map(&self, name: &str, map: &Map) -> Result<(), AttachError> {
        // Maps of variables, such as ".bss", live as long as the programs.
        if name.starts_with('.') {
            return Ok(());
        }
        Ok(map.pin(self.0.join("maps").join(name))?)
    }

    pub(super) fn pin_program(&self, name: &str, program: &mut Program) -> Result<(), AttachError> {
        Ok(program.pin(self.0.join("programs").join(name))?)
    }

    /// If it fails, the link is gone.
    pub(super) fn pin_link(&self, name: &str, link: FdLink) -> Result<FdLink, AttachError> {
        Ok(link.pin(self.0.join("links").join(name))?.into())
    }

    /// The maps, which are as large as they should be.
    pub(super) fn maps(&self, sizes: Sizes) -> Result<BTreeMap<&'static str, Map>, AttachError> {
        let shapes = shapes(sizes)?;
        let maps = shapes.into_iter().map(|(name, expected)| {
            let map = MapData::from_pin(self.0.join("maps").join(name)).map_err(|error| {
                AttachError::new(format!("map {name}: {}", AttachError::from(error)))
            })?;
            let info = map.info()?;
            let found = Shape {
                kind: info.map_type()?,
                key: info.key_size(),
                value: info.value_size(),
                entries: info.max_entries(),
                flags: info.map_flags(),
            };
            if found != expected {
                return Err(AttachError::new(format!(
                    "map {name} is pinned with another layout: {found:?} instead of {expected:?}"
                )));
            }
            Ok((name, Map::from_map_data(map)?))
        });
        maps.collect()
    }

    pub(super) fn program(&self, name: &str) -> Result<OwnedFd, AttachError> {
        let opened = sys::open_pinned(&self.0.join("programs").join(name));
        opened.map_err(|error| AttachError::new(format!("program {name}: {error}")))
    }

    /// The link of this name, of a program with this id.
    pub(super) fn link(&self, name: &str, program_id: u32) -> Result<FdLink, AttachError> {
        let link = PinnedLink::from_pin(self.0.join("links").join(name))?;
        let link = FdLink::from(link);
        let found = link.info()?.program_id();
        if found != program_id {
            return Err(AttachError::new(format!(
                "link {name} is of program {found}, not of {program_id}"
            )));
        }
        Ok(link)
    }

    /// Removes them.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// What each map must be.
fn shapes(sizes: Sizes) -> Result<[(&'static str, Shape); 10], AttachError> {
    fn array<T>(entries: u32) -> Shape {
        Shape {
            kind: MapType::Array,
            key: 4,
            // A few bytes each.
            value: size_of::<T>() as u32,
            entries,
            flags: MMAPABLE,
        }
    }
    let changes = Shape {
        kind: MapType::RingBuf,
        key: 0,
        value: 0,
        entries: CHANGES,
        flags: 0,
    };
    Ok([
        ("ALLOW_LIST", array::<AllowEntry>(sizes.pids)),
        ("COUNTERS", array::<Counters>(sizes.elements()?)),
        ("LIVES", array::<Life>(sizes.bank_slots())),
        ("KEPT", array::<Kept>(sizes.bank_slots())),
        ("POOL", array::<u64>(sizes.pool())),
        ("POOL_ENDS", array::<PoolEnds>(1)),
        ("MARKS", array::<u64>(ALL_MARKS)),
        ("FULL", array::<u64>(2)),
        ("WISHES", array::<u64>(2)),
        ("CHANGES", changes),
    ])
}
