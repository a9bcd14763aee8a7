//! The programs' object: loaded anew, with its maps sized and the offsets of the
//! kernel's fields set, or as another collector has left it pinned.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, RingBuf},
    programs::Program,
};
use netio_abi::{
    ALL_MARKS, LAYOUT, MARK_LAYOUT, NO_SLOT,
    fields::{FIELDS, Field},
};

use super::{
    AttachError,
    facts::Facts,
    fields::{Numbers, index_of, with_numbers},
    lives::Lives,
    mapped::{AllowList, Banks, Cells, KeptCounters},
    pins::Pins,
    sizes::Sizes,
};
use crate::{
    btf::Btf,
    kernel::{AllowError, Slot},
};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("NETIO_BPF_OBJECT"));

/// Sockets that the kprobe mode can follow at once.
const FOLLOWED_SOCKETS: u32 = 65_536;

/// The object: its maps are in the kernel, its programs perhaps not yet.
pub(super) struct Object {
    programs: Programs,
    /// Taken out by whoever reads it.
    changes: Option<Map>,
    pub(super) sizes: Sizes,
    pub(super) generation: u32,
    pub(super) allow_list: AllowList,
    pub(super) banks: Banks,
    pub(super) lives: Lives,
    /// What is kept for whoever takes the maps over.
    pub(super) kept: KeptCounters,
    /// Elements `MARK_...`.
    pub(super) marks: Cells,
    /// What did not fit: elements `FULL_...`.
    pub(super) full: Cells,
    /// Elements `WISH_...`.
    pub(super) wishes: Cells,
    /// A slot that is never in the pool, to try out hooks with.
    pub(super) spare: Slot,
    /// For each of [`FIELDS`], why the kernel does not have it, if so.
    missing: Vec<Option<String>>,
}

enum Programs {
    Loaded(Box<Ebpf>),
    Pinned(BTreeMap<String, OwnedFd>),
}

/// What is made room for.
pub(super) struct Room {
    pub(super) sizes: Sizes,
    pub(super) generation: u32,
    /// The pin of an allow-list that another generation uses, too, with as many pids;
    /// none: one of its own.
    pub(super) allow_list: Option<PathBuf>,
}

/// Which object this is.
pub(super) fn fingerprint() -> u64 {
    // Of two halves, as one would be too short to tell objects apart for certain.
    let (first, second) = OBJECT.split_at(OBJECT.len() / 2);
    u64::from(crc32fast::hash(first)) << 32 | u64::from(crc32fast::hash(second))
}

impl Object {
    /// Loads it. `follows_sockets`: whether the mode needs the table of followed
    /// sockets.
    pub(super) fn load(
        btf: Option<&Btf>,
        room: &Room,
        follows_sockets: bool,
    ) -> Result<Self, AttachError> {
        let Room {
            sizes, generation, ..
        } = *room;
        let (offsets, missing): (Vec<i16>, Vec<Option<String>>) = FIELDS
            .iter()
            .map(|field| {
                let found = match btf {
                    Some(btf) => offset_of(btf, field),
                    None => Err("the kernel has no BTF".to_owned()),
                };
                let fits = found.and_then(|offset| {
                    i16::try_from(offset).map_err(|_| {
                        let (structure, path) = (field.structure, field.path);
                        format!("{structure}.{path} is {offset} bytes from its beginning, which is too far")
                    })
                });
                match fits {
                    Ok(offset) => (offset, None),
                    Err(missed) => (0, Some(missed)),
                }
            })
            .unzip();
        let numbers = Numbers {
            offsets: &offsets,
            bank_slots: sizes.bank_slots(),
            generation,
        };
        let object = with_numbers(OBJECT, &numbers)?;

        let tcp_recvmsg = address_of_tcp_recvmsg();
        let pool_size = sizes.pool();

        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("ALLOW_LIST", sizes.pids)
            .map_max_entries("COUNTERS", sizes.elements()?)
            .map_max_entries("LIVES", sizes.bank_slots())
            .map_max_entries("KEPT", sizes.bank_slots())
            .map_max_entries("POOL", pool_size)
            .map_max_entries(
                "POSITIONS",
                if follows_sockets { FOLLOWED_SOCKETS } else { 1 },
            )
            .override_global("TCP_RECVMSG", &tcp_recvmsg, true)
            .override_global("POOL_SIZE", &pool_size, true);
        if let Some(list) = &room.allow_list {
            loader.map_pin_path("ALLOW_LIST", list.as_path());
        }
        let mut ebpf = loader.load(&object)?;

        let changes = ebpf.take_map("CHANGES");
        let loaded = |name: &str| {
            ebpf.map(name)
                .ok_or_else(|| AttachError::new(format!("the object has no map {name}")))
        };
        let pool = (loaded("LIVES")?, loaded("POOL")?, loaded("POOL_ENDS")?);
        let lives = Lives::new(pool, sizes.slots, pool_size)?;
        let mapped = Mapped::new(loaded, sizes, generation)?;
        mapped.marks.set(MARK_LAYOUT, LAYOUT);
        if room.allow_list.is_some() {
            // What was listed two generations ago.
            mapped.allow_list.clear();
        }
        let programs = Programs::Loaded(Box::new(ebpf));
        Ok(Self::of(programs, changes, mapped, lives, missing))
    }

    /// Takes over what is pinned, if its maps are what they should be.
    pub(super) fn take_over(
        pins: &Pins,
        programs: impl Iterator<Item = String>,
        sizes: Sizes,
        generation: u32,
    ) -> Result<Self, AttachError> {
        let mut maps = pins.maps(sizes)?;
        let changes = maps.remove("CHANGES");
        let pinned = |name: &str| {
            maps.get(name)
                .ok_or_else(|| AttachError::new(format!("no map {name} is pinned")))
        };
        let pool = (pinned("LIVES")?, pinned("POOL")?, pinned("POOL_ENDS")?);
        let lives = Lives::taken_over(pool, sizes.slots, sizes.pool())?;
        let mapped = Mapped::new(pinned, sizes, generation)?;
        let layout = mapped.marks.get(MARK_LAYOUT);
        if layout != LAYOUT {
            return Err(AttachError::new(format!(
                "the pinned maps have layout {layout}, and {LAYOUT} can be read"
            )));
        }
        let missing = vec![None; FIELDS.len()];
        let programs = programs
            .map(|name| Ok((name.clone(), pins.program(&name)?)))
            .collect::<Result<_, AttachError>>()?;
        Ok(Self::of(
            Programs::Pinned(programs),
            changes,
            mapped,
            lives,
            missing,
        ))
    }

    fn of(
        programs: Programs,
        changes: Option<Map>,
        mapped: Mapped,
        lives: Lives,
        missing: Vec<Option<String>>,
    ) -> Self {
        let Mapped {
            sizes,
            generation,
            allow_list,
            banks,
            kept,
            marks,
            full,
            wishes,
        } = mapped;
        Self {
            programs,
            changes,
            sizes,
            generation,
            allow_list,
            banks,
            lives,
            kept,
            marks,
            full,
            wishes,
            spare: sizes.spare(),
            missing,
        }
    }

    /// Pins the maps and the programs with these names.
    pub(super) fn pin<'a>(
        &mut self,
        pins: &Pins,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<(), AttachError> {
        let Programs::Loaded(ebpf) = &mut self.programs else {
            return Ok(());
        };
        for (name, map) in ebpf.maps() {
            pins.pin_map(name, map)?;
        }
        if let Some(changes) = &self.changes {
            pins.pin_map("CHANGES", changes)?;
        }
        for name in names {
            let program = ebpf.program_mut(name);
            let program = program.ok_or_else(|| AttachError::new(format!("no program {name}")))?;
            pins.pin_program(name, program)?;
        }
        Ok(())
    }

    /// Lets a process count in `slot`. It may share a family's slot now, which it
    /// leaves.
    pub(super) fn enter(&self, tgid: u32, slot: Slot) -> Result<(), AllowError> {
        loop {
            let now = self.allow_list.entry(tgid);
            if now != NO_SLOT && !self.lives.is_family(Slot(now)) {
                return Err(AllowError::Listed(tgid));
            }
            if self.allow_list.replace(tgid, now, slot.0) {
                if now != NO_SLOT {
                    self.lives.add_sharers(Slot(now), u32::MAX);
                }
                return Ok(());
            }
        }
    }

    /// Fails, with the field's name, if the kernel has not the fields that these
    /// made-up offsets stand for.
    pub(super) fn require(&self, fields: &[usize]) -> Result<(), AttachError> {
        let missing = fields
            .iter()
            .filter_map(|placeholder| self.missing.get(index_of(*placeholder)?)?.clone())
            .next();
        missing.map_or(Ok(()), |missing| Err(AttachError::new(missing)))
    }

    /// A program of the object, which was not taken over.
    pub(super) fn program(&mut self, name: &str) -> Result<&mut Program, AttachError> {
        let program = match &mut self.programs {
            Programs::Loaded(ebpf) => ebpf.program_mut(name),
            Programs::Pinned(_) => None,
        };
        program.ok_or_else(|| AttachError::new(format!("the object has no program {name}")))
    }

    /// The descriptor of a program that the kernel has.
    pub(super) fn program_fd(&self, name: &str) -> Result<BorrowedFd<'_>, AttachError> {
        let none = || AttachError::new(format!("no program {name}"));
        match &self.programs {
            Programs::Loaded(ebpf) => {
                let program = ebpf.program(name).ok_or_else(none)?;
                Ok(program.fd()?.as_fd())
            }
            Programs::Pinned(programs) => Ok(programs.get(name).ok_or_else(none)?.as_fd()),
        }
    }

    /// What the kernel tells of a program.
    pub(super) fn program_facts(&self, name: &str) -> Result<Facts, AttachError> {
        Ok(Facts::of(self.program_fd(name)?)?)
    }

    /// The ring buffer that tells changes of processes; once.
    pub(super) fn take_changes(&mut self) -> Result<RingBuf<MapData>, AttachError> {
        let map = self.changes.take();
        let map = map.ok_or_else(|| AttachError::new("the changes are read already"))?;
        Ok(RingBuf::try_from(map)?)
    }
}

/// The offset of the first of a field's paths that the kernel has.
fn offset_of(btf: &Btf, field: &Field) -> Result<u32, String> {
    let mut paths = field.path.split('|');
    let first = paths.next().unwrap_or_default();
    let found = btf.offset_of(field.structure, first);
    found.or_else(|error| {
        let others = paths.find_map(|path| btf.offset_of(field.structure, path).ok());
        others.ok_or_else(|| error.to_string())
    })
}

/// The maps that are memory of both sides, but those of lives.
struct Mapped {
    sizes: Sizes,
    generation: u32,
    allow_list: AllowList,
    banks: Banks,
    kept: KeptCounters,
    marks: Cells,
    full: Cells,
    wishes: Cells,
}

impl Mapped {
    fn new<'a>(
        map: impl Fn(&str) -> Result<&'a Map, AttachError>,
        sizes: Sizes,
        generation: u32,
    ) -> Result<Self, AttachError> {
        Ok(Self {
            sizes,
            generation,
            allow_list: AllowList::new(map("ALLOW_LIST")?, sizes.pids, generation)?,
            banks: Banks::new(map("COUNTERS")?, sizes.cpus, sizes.bank_slots())?,
            kept: KeptCounters::new(map("KEPT")?, sizes.bank_slots())?,
            marks: Cells::new(map("MARKS")?, ALL_MARKS as usize)?,
            full: Cells::new(map("FULL")?, 2)?,
            wishes: Cells::new(map("WISHES")?, 2)?,
        })
    }
}

/// 0 if the kernel hides its addresses; then a connection with kernel TLS for
/// sending only is not told from one with kernel TLS for both, and every receive
/// is looked at more closely.
fn address_of_tcp_recvmsg() -> u64 {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    address(&symbols, "tcp_recvmsg").unwrap_or_default()
}

/// A symbol's address in a listing such as `ffffffff81a3c5d0 T tcp_recvmsg`.
fn address(symbols: &str, name: &str) -> Option<u64> {
    symbols.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let address = columns.next()?;
        (columns.nth(1)? == name).then(|| u64::from_str_radix(address, 16).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_symbol() {
        let symbols = "00000000000000ff T tcp_recvmsg_locked\n000000000000abcd T tcp_recvmsg\n";
        assert_eq!(address(symbols, "tcp_recvmsg"), Some(0xabcd));
        assert_eq!(address(symbols, "absent"), None);
    }
}
