//! Who is watched, and the counters: the part that every hook shares.
//!
//! Promises: a process that is not watched leaves at [`watched_slot`], which
//! costs one array look-up; a count is never lost to another thread, another
//! CPU or a preemption, because each CPU adds to a bank of its own and by an
//! atomic instruction (a program can be preempted by another program that adds
//! to the same counter on the same CPU).

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr::{addr_of_mut, read_volatile},
};

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::Array,
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id},
    macros::btf_map,
};
use netio_abi::{AllowPage, Counters, FULL_PROCESSES, FULL_SOCKETS, NO_SLOT, PIDS_PER_PAGE};

/// The allow-list. The collector sets the size at load.
#[btf_map]
static ALLOW_LIST: Array<AllowPage, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The counters' banks. The collector sets the size at load.
#[btf_map]
static COUNTERS: Array<Counters, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// What did not fit: elements `FULL_...`.
#[btf_map]
static FULL: Array<u64, 2, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Slots in one CPU's bank; the collector sets it at load.
#[unsafe(no_mangle)]
static BANK_SLOTS: u32 = 0;

/// The slot of the current process, or `NO_SLOT` if it is not watched.
#[inline(always)]
pub(crate) fn watched_slot() -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    match allow_entry(tgid) {
        // SAFETY: the entry lies in a map's element. Volatile, because others
        // write it while programs run.
        Some(entry) => unsafe { read_volatile(entry) },
        None => NO_SLOT,
    }
}

/// A process's entry in the allow-list; `None` for a pid that is beyond it.
#[inline(always)]
pub(crate) fn allow_entry(tgid: u32) -> Option<*mut u32> {
    let page = ALLOW_LIST.get_ptr_mut(tgid / PIDS_PER_PAGE)?;
    // SAFETY: the look-up gave a whole page, and the remainder lies in it.
    Some(unsafe { addr_of_mut!((*page)[(tgid % PIDS_PER_PAGE) as usize]) })
}

/// Counts one call that sent `bytes`.
#[inline(always)]
pub(crate) fn sent(slot: u32, bytes: u64) {
    if let Some(counters) = counters(slot) {
        // SAFETY: `counters` points into a map's element.
        unsafe {
            add(&raw mut (*counters).sent_bytes, bytes);
            add(&raw mut (*counters).sent_calls, 1);
        }
    }
}

/// Counts one call that received `bytes`.
#[inline(always)]
pub(crate) fn received(slot: u32, bytes: u64) {
    if let Some(counters) = counters(slot) {
        // SAFETY: `counters` points into a map's element.
        unsafe {
            add(&raw mut (*counters).received_bytes, bytes);
            add(&raw mut (*counters).received_calls, 1);
        }
    }
}

/// Counts `bytes` that were taken from a receive queue, for a call that is
/// counted elsewhere.
#[inline(always)]
pub(crate) fn received_bytes(slot: u32, bytes: u64) {
    if let Some(counters) = counters(slot) {
        // SAFETY: `counters` points into a map's element.
        unsafe { add(&raw mut (*counters).received_bytes, bytes) }
    }
}

/// Counts one call that received, whose bytes are counted elsewhere.
#[inline(always)]
pub(crate) fn received_call(slot: u32) {
    if let Some(counters) = counters(slot) {
        // SAFETY: `counters` points into a map's element.
        unsafe { add(&raw mut (*counters).received_calls, 1) }
    }
}

/// Notes that a socket could not be followed.
#[inline(always)]
pub(crate) fn sockets_full() {
    full(FULL_SOCKETS);
}

/// Notes that a child found no slot of its own.
#[inline(always)]
pub(crate) fn processes_full() {
    full(FULL_PROCESSES);
}

#[inline(always)]
fn full(what: u32) {
    if let Some(count) = FULL.get_ptr_mut(what) {
        // SAFETY: `count` points at a map's element.
        unsafe { add(count, 1) }
    }
}

#[inline(always)]
fn counters(slot: u32) -> Option<*mut Counters> {
    // SAFETY: a plain static; volatile, because the loader rewrites it.
    let bank = unsafe { read_volatile(&raw const BANK_SLOTS) };
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    COUNTERS.get_ptr_mut(cpu * bank + slot)
}

/// # Safety
///
/// `counter` points at a counter in a map's element.
#[inline(always)]
unsafe fn add(counter: *mut u64, amount: u64) {
    // SAFETY: by this function's contract; map elements are 8-byte aligned.
    // The intrinsic, because `AtomicU64::fetch_add` is not there for a target
    // without compare-and-swap; unused, its result costs nothing.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}
