//! Loads the programs' object: sizes its maps, and sets the offsets of the
//! kernel's fields, taken from the kernel's BTF.

use std::{fs, io};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, RingBuf},
    programs::Program,
};
use netio_abi::{
    NO_SLOT,
    fields::{FIELDS, Field},
};

use super::{
    AttachError,
    fields::{index_of, with_numbers},
    lives::Lives,
    mapped::{AllowList, Banks, Cells},
};
use crate::{
    btf::Btf,
    kernel::{AllowError, Slot},
};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("NETIO_BPF_OBJECT"));

/// The kernel's own upper limit for pids (`PID_MAX_LIMIT` on 64 bits).
const PID_LIMIT: u32 = 1 << 22;
/// Pids fill a page of the allow-list at least.
const LEAST_PIDS: u32 = 1 << 9;
/// Sockets that the kprobe mode can follow at once.
const FOLLOWED_SOCKETS: u32 = 65_536;

/// The loaded object: its maps are in the kernel, its programs not yet.
pub(super) struct Object {
    pub(super) ebpf: Ebpf,
    pub(super) allow_list: AllowList,
    pub(super) banks: Banks,
    pub(super) lives: Lives,
    /// What did not fit: elements `FULL_...`.
    pub(super) full: Cells,
    /// Elements `WISH_...`.
    pub(super) wishes: Cells,
    /// A slot that is never in the pool, to try out hooks with.
    pub(super) spare: Slot,
    /// For each of [`FIELDS`], why the kernel does not have it, if so.
    missing: Vec<Option<String>>,
}

impl Object {
    /// Loads it with `slots` in the pool. `follows_sockets`: whether the mode
    /// needs the table of followed sockets.
    pub(super) fn load(
        btf: Option<&Btf>,
        slots: u32,
        follows_sockets: bool,
    ) -> Result<Self, AttachError> {
        let cpus = possible_cpus()?;
        let pids = pid_max()?.clamp(LEAST_PIDS, PID_LIMIT);
        // Slot 0 is never used, the last one is spare; and whole pages, so that
        // no two CPUs' banks share one.
        let spare = slots.saturating_add(1);
        let bank_slots = spare.saturating_add(1).next_multiple_of(128);
        let elements = cpus
            .checked_mul(bank_slots)
            .ok_or_else(|| AttachError::new("too many processes for this number of CPUs"))?;
        // A place is used again only when the slot in it was taken.
        let pool_size = bank_slots.next_power_of_two();

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
        let object = with_numbers(OBJECT, &offsets, bank_slots)?;

        let tcp_recvmsg = address_of_tcp_recvmsg();

        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("ALLOW_LIST", pids)
            .map_max_entries("COUNTERS", elements)
            .map_max_entries("LIVES", bank_slots)
            .map_max_entries("POOL", pool_size)
            .map_max_entries(
                "POSITIONS",
                if follows_sockets { FOLLOWED_SOCKETS } else { 1 },
            )
            .override_global("TCP_RECVMSG", &tcp_recvmsg, true)
            .override_global("POOL_SIZE", &pool_size, true);
        let ebpf = loader.load(&object)?;

        let allow_list = AllowList::new(map(&ebpf, "ALLOW_LIST")?, pids)?;
        let banks = Banks::new(map(&ebpf, "COUNTERS")?, cpus, bank_slots)?;
        let pool = (
            map(&ebpf, "LIVES")?,
            map(&ebpf, "POOL")?,
            map(&ebpf, "POOL_ENDS")?,
        );
        let lives = Lives::new(pool, slots, pool_size)?;
        let full = Cells::new(map(&ebpf, "FULL")?, 2)?;
        let wishes = Cells::new(map(&ebpf, "WISHES")?, 2)?;
        Ok(Self {
            ebpf,
            allow_list,
            banks,
            lives,
            full,
            wishes,
            spare: Slot(spare),
            missing,
        })
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

    /// A program of the object.
    pub(super) fn program(&mut self, name: &str) -> Result<&mut Program, AttachError> {
        self.ebpf
            .program_mut(name)
            .ok_or_else(|| AttachError::new(format!("the object has no program {name}")))
    }

    /// The ring buffer that tells changes of processes; once.
    pub(super) fn take_changes(&mut self) -> Result<RingBuf<MapData>, AttachError> {
        let map = self
            .ebpf
            .take_map("CHANGES")
            .ok_or_else(|| AttachError::new("the changes are read already"))?;
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

fn map<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Map, AttachError> {
    ebpf.map(name)
        .ok_or_else(|| AttachError::new(format!("the object has no map {name}")))
}

/// One more than the highest CPU number that can ever be, which indexes the
/// banks. Not the count of CPUs: their numbers may have gaps.
fn possible_cpus() -> io::Result<u32> {
    let path = "/sys/devices/system/cpu/possible";
    highest(&fs::read_to_string(path)?)
        .map(|cpu| cpu + 1)
        .ok_or_else(|| io::Error::other(format!("{path} is not a list of CPUs")))
}

/// The highest number in a list such as `0-3,8`.
fn highest(list: &str) -> Option<u32> {
    list.trim()
        .split([',', '-'])
        .map(|number| number.parse().ok())
        .collect::<Option<Vec<u32>>>()?
        .into_iter()
        .max()
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

fn pid_max() -> io::Result<u32> {
    let path = "/proc/sys/kernel/pid_max";
    fs::read_to_string(path)?
        .trim()
        .parse()
        .map_err(|_| io::Error::other(format!("{path} is not a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_cpu_counts_not_their_number() {
        assert_eq!(highest("0-1\n"), Some(1));
        assert_eq!(highest("0,2-3,8\n"), Some(8));
        assert_eq!(highest("0\n"), Some(0));
        assert_eq!(highest("none"), None);
    }

    #[test]
    fn finds_a_symbol() {
        let symbols = "00000000000000ff T tcp_recvmsg_locked\n000000000000abcd T tcp_recvmsg\n";
        assert_eq!(address(symbols, "tcp_recvmsg"), Some(0xabcd));
        assert_eq!(address(symbols, "absent"), None);
    }
}
