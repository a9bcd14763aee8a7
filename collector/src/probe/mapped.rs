//! The maps that are shared with the kernel by memory: the allow-list, the
//! counters, what is kept beside them, and single numbers ([`Cells`]); `lives.rs` has those that follow
//! processes. None costs a system call, and an update through memory cannot make
//! a kprobe on the same CPU miss its event, as `bpf(BPF_MAP_UPDATE_ELEM)` can.
#![allow(unsafe_code)] // maps memory that the kernel shares

use std::{
    io,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::maps::Map;
use netio_abi::{AllowEntry, Kept, NO_SLOT, word_of};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::kernel::{Counters, Slot};

/// The memory of a whole array map.
pub(super) struct Memory {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

// SAFETY: the memory is shared with the kernel anyway; every access is atomic.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps the first `length` bytes of `map`.
    pub(super) fn of(map: &Map, length: usize, protection: ProtFlags) -> io::Result<Self> {
        let Map::Array(map) = map else {
            return Err(io::Error::other("the map is not an array"));
        };
        use std::os::fd::AsFd as _;
        let length = NonZeroUsize::new(length.next_multiple_of(rustix::param::page_size()))
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length.get(),
                protection,
                MapFlags::SHARED,
                map.fd().as_fd(),
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Self { start, length })
    }

    /// Element `index` of the array, of type `T`, which must be a layout of the
    /// map's own; `None` beyond the mapping.
    pub(super) fn element<T>(&self, index: usize) -> Option<NonNull<T>> {
        let end = index.checked_add(1)?.checked_mul(size_of::<T>())?;
        // SAFETY: the element ends within the mapping, which begins at a page
        // and so is aligned for any layout.
        (end <= self.length.get()).then(|| unsafe { self.start.cast::<T>().add(index) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers into it
        // beyond a borrow of this value. An error would only leak it.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length.get()) };
    }
}

/// The allow-list, as one generation of programs sees it: pid → slot.
pub(super) struct AllowList {
    memory: Memory,
    pids: u32,
    /// The word of each entry that is this generation's.
    word: usize,
}

impl AllowList {
    /// Maps `map`, which has an element for each of `pids`.
    pub(super) fn new(map: &Map, pids: u32, generation: u32) -> io::Result<Self> {
        let length = pids as usize * size_of::<AllowEntry>();
        Ok(Self {
            memory: Memory::of(map, length, ProtFlags::READ | ProtFlags::WRITE)?,
            pids,
            word: word_of(generation),
        })
    }

    /// Pids below this have an entry.
    pub(super) fn pids(&self) -> u32 {
        self.pids
    }

    /// A pid's slot now; `NO_SLOT` if it has none.
    pub(super) fn entry(&self, tgid: u32) -> u32 {
        self.cell(tgid)
            .map_or(NO_SLOT, |cell| cell.load(Ordering::SeqCst))
    }

    /// Sets a pid's entry if it is `old` now, and tells whether it was. A program
    /// in the kernel may change it at any moment.
    pub(super) fn replace(&self, tgid: u32, old: u32, new: u32) -> bool {
        self.cell(tgid).is_some_and(|cell| {
            cell.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        })
    }

    /// Gives an un-listed pid this slot if the other generation's is `other` now, in
    /// one step.
    pub(super) fn enter_beside(&self, tgid: u32, other: u32, slot: u32) -> bool {
        let whole = |own| {
            let mut slots = [other; 2];
            slots[self.word] = own;
            let [a, b] = slots.map(u32::to_ne_bytes);
            u64::from_ne_bytes([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
        };
        if tgid >= self.pids {
            return false;
        }
        let Some(entry) = self.memory.element::<u64>(tgid as usize) else {
            return false;
        };
        // SAFETY: an aligned entry of the mapping; every access to it, on either
        // side, is atomic.
        let entry = unsafe { AtomicU64::from_ptr(entry.as_ptr()) };
        let (old, new) = (whole(NO_SLOT), whole(slot));
        entry
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Clears all entries.
    pub(super) fn clear(&self) {
        for tgid in 0..self.pids {
            let slot = self.entry(tgid);
            if slot != NO_SLOT {
                self.replace(tgid, slot, NO_SLOT);
            }
        }
    }

    /// Clears every entry that is this slot; returns how many there were.
    pub(super) fn sweep(&self, slot: Slot) -> u32 {
        let cleared = (0..self.pids)
            .filter(|tgid| self.entry(*tgid) == slot.0 && self.replace(*tgid, slot.0, NO_SLOT));
        u32::try_from(cleared.count()).unwrap_or(u32::MAX)
    }

    fn cell(&self, tgid: u32) -> Option<&AtomicU32> {
        if tgid >= self.pids {
            return None;
        }
        let words = size_of::<AllowEntry>() / size_of::<u32>();
        let word = tgid as usize * words + self.word;
        let word = self.memory.element::<u32>(word)?;
        // SAFETY: an aligned word of the mapping, which lives as long as `self`;
        // every access to it, on either side, is atomic.
        Some(unsafe { AtomicU32::from_ptr(word.as_ptr()) })
    }
}

/// The counters: a bank for each possible CPU.
pub(super) struct Banks {
    memory: Memory,
    cpus: u32,
    bank_slots: u32,
}

impl Banks {
    /// Maps `map`, which has `cpus * bank_slots` elements.
    pub(super) fn new(map: &Map, cpus: u32, bank_slots: u32) -> io::Result<Self> {
        let elements = cpus as usize * bank_slots as usize;
        let length = elements * size_of::<netio_abi::Counters>();
        Ok(Self {
            memory: Memory::of(map, length, ProtFlags::READ)?,
            cpus,
            bank_slots,
        })
    }

    /// The sum of a slot's counters over all CPUs.
    pub(super) fn read(&self, slot: Slot) -> Counters {
        (0..self.cpus)
            .map(|cpu| self.read_on(slot, cpu))
            .fold(Counters::default(), |sum, counters| sum + counters)
    }

    /// A slot's counters of one CPU.
    pub(super) fn read_on(&self, slot: Slot, cpu: u32) -> Counters {
        if slot.0 >= self.bank_slots {
            return Counters::default();
        }
        let index = cpu as usize * self.bank_slots as usize + slot.0 as usize;
        let element = self.memory.element(index);
        element.map_or_else(Counters::default, load)
    }
}

/// What is kept for each slot.
pub(super) struct KeptCounters(Memory);

impl KeptCounters {
    /// Maps `map`, which has an element for each of `slots`.
    pub(super) fn new(map: &Map, slots: u32) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let length = slots as usize * size_of::<Kept>();
        Ok(Self(Memory::of(map, length, protection)?))
    }

    pub(super) fn base(&self, slot: Slot) -> Counters {
        self.get(slot, 0)
    }

    pub(super) fn set_base(&self, slot: Slot, counters: Counters) {
        self.set(slot, 0, counters);
    }

    pub(super) fn told(&self, slot: Slot) -> Counters {
        self.get(slot, 1)
    }

    pub(super) fn set_told(&self, slot: Slot, counters: Counters) {
        self.set(slot, 1, counters);
    }

    fn get(&self, slot: Slot, which: usize) -> Counters {
        let place = self.0.element(slot.0 as usize * 2 + which);
        place.map_or_else(Counters::default, load)
    }

    fn set(&self, slot: Slot, which: usize, counters: Counters) {
        let place = self
            .0
            .element::<netio_abi::Counters>(slot.0 as usize * 2 + which);
        let Some(place) = place.map(NonNull::as_ptr) else {
            return;
        };
        let store = |field: *mut u64, value| {
            // SAFETY: as in `load`.
            unsafe { AtomicU64::from_ptr(field) }.store(value, Ordering::Relaxed);
        };
        // SAFETY: field addresses of an element within the memory.
        unsafe {
            store(&raw mut (*place).sent_bytes, counters.sent_bytes);
            store(&raw mut (*place).received_bytes, counters.received_bytes);
            store(&raw mut (*place).sent_calls, counters.sent_calls);
            store(&raw mut (*place).received_calls, counters.received_calls);
        }
    }
}

/// Two sets of counters are an element of what is kept.
const _: () = assert!(size_of::<Kept>() == 2 * size_of::<netio_abi::Counters>());

/// Counters that are elements of a mapping.
fn load(element: NonNull<netio_abi::Counters>) -> Counters {
    let element = element.as_ptr();
    let load = |field: *mut u64| {
        // SAFETY: a field of an element of a mapping, aligned to 8 bytes; whoever
        // writes it does so atomically.
        unsafe { AtomicU64::from_ptr(field) }.load(Ordering::Relaxed)
    };
    // SAFETY: field addresses of that element.
    unsafe {
        Counters {
            sent_bytes: load(&raw mut (*element).sent_bytes),
            received_bytes: load(&raw mut (*element).received_bytes),
            sent_calls: load(&raw mut (*element).sent_calls),
            received_calls: load(&raw mut (*element).received_calls),
        }
    }
}

/// Single numbers, in an array of 64-bit elements.
pub(super) struct Cells(Memory);

impl Cells {
    /// Maps `map`, which has `count` elements.
    pub(super) fn new(map: &Map, count: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        Ok(Self(Memory::of(map, count * size_of::<u64>(), protection)?))
    }

    /// Reads one.
    pub(super) fn get(&self, index: u32) -> u64 {
        self.cell(index)
            .map_or(0, |cell| cell.load(Ordering::SeqCst))
    }

    /// Sets one.
    pub(super) fn set(&self, index: u32, value: u64) {
        if let Some(cell) = self.cell(index) {
            cell.store(value, Ordering::SeqCst);
        }
    }

    fn cell(&self, index: u32) -> Option<&AtomicU64> {
        let cell = self.0.element::<u64>(index as usize)?;
        // SAFETY: as of the allow-list's entries.
        Some(unsafe { AtomicU64::from_ptr(cell.as_ptr()) })
    }
}
