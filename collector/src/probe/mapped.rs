//! The two maps that are shared with the kernel by memory: the allow-list,
//! which this side writes, and the counters, which it reads. Neither costs a
//! system call, and an update through memory cannot make a kprobe on the same
//! CPU miss its event, as `bpf(BPF_MAP_UPDATE_ELEM)` can.
#![allow(unsafe_code)] // maps memory that the kernel shares

use std::{
    io,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::maps::{Map, MapData};
use netio_abi::{AllowPage, NO_SLOT, PIDS_PER_PAGE};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::kernel::{Counters, Slot};

/// The memory of a whole array map.
struct Memory {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

// SAFETY: the memory is shared with the kernel anyway; every access is atomic.
unsafe impl Send for Memory {}

impl Memory {
    fn of(map: &MapData, length: usize, protection: ProtFlags) -> io::Result<Self> {
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
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers into it
        // beyond a borrow of this value. An error would only leak it.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length.get()) };
    }
}

fn data(map: &Map) -> io::Result<&MapData> {
    match map {
        Map::Array(data) => Ok(data),
        _ => Err(io::Error::other("the map is not an array")),
    }
}

/// The allow-list: pid → slot.
pub(super) struct AllowList {
    memory: Memory,
    pids: u32,
}

impl AllowList {
    /// Maps `map`, which has `pages` elements.
    pub(super) fn new(map: &Map, pages: u32) -> io::Result<Self> {
        let length = pages as usize * size_of::<AllowPage>();
        Ok(Self {
            memory: Memory::of(data(map)?, length, ProtFlags::READ | ProtFlags::WRITE)?,
            pids: pages * PIDS_PER_PAGE,
        })
    }

    /// Pids below this have an entry.
    pub(super) fn pids(&self) -> u32 {
        self.pids
    }

    /// Sets a pid's slot; it counts in it from the next call on.
    pub(super) fn set(&self, tgid: u32, slot: Slot) {
        self.store(tgid, slot.0);
    }

    /// Clears a pid's entry.
    pub(super) fn clear(&self, tgid: u32) {
        self.store(tgid, NO_SLOT);
    }

    fn store(&self, tgid: u32, entry: u32) {
        if tgid < self.pids {
            // SAFETY: the entry lies in the memory, which has `pids` of them,
            // and is aligned, since the memory begins at a page.
            let cell = unsafe {
                AtomicU32::from_ptr(self.memory.start.cast::<u32>().add(tgid as usize).as_ptr())
            };
            cell.store(entry, Ordering::SeqCst);
        }
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
            memory: Memory::of(data(map)?, length, ProtFlags::READ)?,
            cpus,
            bank_slots,
        })
    }

    /// The sum of a slot's counters over all CPUs.
    pub(super) fn read(&self, slot: Slot) -> Counters {
        if slot.0 >= self.bank_slots {
            return Counters::default();
        }
        (0..self.cpus)
            .map(|cpu| {
                let index = cpu as usize * self.bank_slots as usize + slot.0 as usize;
                // SAFETY: `cpu` and `slot` are within the memory's elements.
                let element = unsafe { self.memory.start.cast::<netio_abi::Counters>().add(index) };
                let load = |field: *mut u64| {
                    // SAFETY: a field of that element, aligned to 8 bytes; the
                    // load is atomic, the kernel's adds are too.
                    unsafe { AtomicU64::from_ptr(field) }.load(Ordering::Relaxed)
                };
                let element = element.as_ptr();
                // SAFETY: field addresses of an element within the memory.
                unsafe {
                    Counters {
                        sent_bytes: load(&raw mut (*element).sent_bytes),
                        received_bytes: load(&raw mut (*element).received_bytes),
                        sent_calls: load(&raw mut (*element).sent_calls),
                        received_calls: load(&raw mut (*element).received_calls),
                    }
                }
            })
            .fold(Counters::default(), |sum, counters| sum + counters)
    }
}

/// Reads element 0 of an array map of u64.
pub(super) fn first_u64(map: &Map) -> io::Result<u64> {
    let memory = Memory::of(data(map)?, size_of::<u64>(), ProtFlags::READ)?;
    // SAFETY: the memory has at least this element.
    let cell = unsafe { AtomicU64::from_ptr(memory.start.cast::<u64>().as_ptr()) };
    Ok(cell.load(Ordering::Relaxed))
}

/// Sets element 0 of an array map of u32.
pub(super) fn set_first_u32(map: &Map, value: u32) -> io::Result<()> {
    let memory = Memory::of(
        data(map)?,
        size_of::<u64>(),
        ProtFlags::READ | ProtFlags::WRITE,
    )?;
    // SAFETY: the memory has at least this element.
    let cell = unsafe { AtomicU32::from_ptr(memory.start.cast::<u32>().as_ptr()) };
    cell.store(value, Ordering::SeqCst);
    Ok(())
}
