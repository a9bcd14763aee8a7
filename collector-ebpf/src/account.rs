//! Who is watched, and the counters: the part that every hook shares.
//!
//! Promises: a process that is not watched leaves at [`Watched::current`], which
//! costs a call of a helper, two loads and one array look-up; a count is never lost to another thread, another
//! CPU or a preemption, because each CPU adds to a bank of its own and by an
//! atomic instruction (a program can be preempted by another program that adds
//! to the same counter on the same CPU).

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::Array,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, generated::bpf_get_current_task_btf,
    },
    macros::btf_map,
};
use netio_abi::{
    ALL_MARKS, AllowEntry, Counters, FULL_PROCESSES, FULL_SOCKETS, Kept, NO_SLOT,
    fields::{ALLOW_WORD, BANK_SLOTS, TASK_CPU, TASK_TGID},
};

use crate::sock::{Btf, Object as _};

/// The allow-list. The collector sets the size at load.
#[btf_map]
static ALLOW_LIST: Array<AllowEntry, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The counters' banks. The collector sets the size at load.
#[btf_map]
static COUNTERS: Array<Counters, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// What did not fit: elements `FULL_...`.
#[btf_map]
static FULL: Array<u64, 2, { BPF_F_MMAPABLE as usize }> = Array::new();

/// For the collector alone, which sets the size at load: here, so that it lives as
/// long as the counters do.
#[btf_map]
static KEPT: Array<Kept, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The same.
#[btf_map]
static MARKS: Array<u64, { ALL_MARKS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Who is counted, and on which CPU.
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    slot: u32,
    cpu: u32,
}

impl Watched {
    /// The current process, if it is watched.
    ///
    /// Pid and CPU are read from the task, which is cheaper than the helpers that
    /// give them. That the CPU is right matters for speed alone.
    #[inline(always)]
    pub(crate) fn current() -> Option<Self> {
        let task = current_task();
        let mut cpu = 0;
        // SAFETY: a variable of our own. Volatile, to keep it in memory: a register
        // that is kept over the look-up costs those more who are not watched.
        unsafe { write_volatile(&raw mut cpu, task.field(TASK_CPU)) };
        let slot = slot_of(task.field(TASK_TGID));
        // SAFETY: as above.
        (slot != NO_SLOT).then(|| Self {
            slot,
            cpu: unsafe { read_volatile(&raw const cpu) },
        })
    }

    /// The same for programs that are also for kernels without BTF.
    #[inline(always)]
    pub(crate) fn current_without_btf() -> Option<Self> {
        let slot = watched_slot_without_btf();
        (slot != NO_SLOT).then(|| Self {
            slot,
            // SAFETY: the helper has no preconditions.
            cpu: unsafe { bpf_get_smp_processor_id() },
        })
    }
}

/// The slot of the current process, or `NO_SLOT` if it is not watched.
#[inline(always)]
pub(crate) fn watched_slot() -> u32 {
    slot_of(current_task().field(TASK_TGID))
}

/// The same for programs that are also for kernels without BTF.
#[inline(always)]
pub(crate) fn watched_slot_without_btf() -> u32 {
    slot_of((bpf_get_current_pid_tgid() >> 32) as u32)
}

#[inline(always)]
fn current_task() -> Btf {
    // SAFETY: the helper has no preconditions.
    Btf(unsafe { bpf_get_current_task_btf() }.cast_const().cast())
}

#[inline(always)]
fn slot_of(tgid: u32) -> u32 {
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
    let entry = ALLOW_LIST.get_ptr_mut(tgid)?;
    // Before the programs are loaded, the offset becomes that of this generation's
    // word.
    Some(entry.cast::<u8>().wrapping_add(ALLOW_WORD).cast())
}

/// Counts one call that sent `bytes`: told last, so that nothing must be kept for
/// it while the counters are looked up.
#[inline(always)]
pub(crate) fn sent(of: Watched, bytes: impl FnOnce() -> u64) {
    if let Some(counters) = counters(of) {
        // SAFETY: `counters` points into a map's element.
        unsafe {
            add(&raw mut (*counters).sent_bytes, bytes());
            add(&raw mut (*counters).sent_calls, 1);
        }
    }
}

/// Counts one call that received `bytes`.
#[inline(always)]
pub(crate) fn received(of: Watched, bytes: impl FnOnce() -> u64) {
    if let Some(counters) = counters(of) {
        // SAFETY: `counters` points into a map's element.
        unsafe {
            add(&raw mut (*counters).received_bytes, bytes());
            add(&raw mut (*counters).received_calls, 1);
        }
    }
}

/// Counts `bytes` that were taken from a receive queue, for a call that is
/// counted elsewhere.
#[inline(always)]
pub(crate) fn received_bytes(of: Watched, bytes: u64) {
    if let Some(counters) = counters(of) {
        // SAFETY: `counters` points into a map's element.
        unsafe { add(&raw mut (*counters).received_bytes, bytes) }
    }
}

/// Counts one call that received, whose bytes are counted elsewhere.
#[inline(always)]
pub(crate) fn received_call(of: Watched) {
    if let Some(counters) = counters(of) {
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

/// A positive result of a call, in 64 bits by one instruction.
#[inline(always)]
pub(crate) fn widened(ret: i32) -> u64 {
    (ret & i32::MAX) as u64
}

#[inline(always)]
fn counters(of: Watched) -> Option<*mut Counters> {
    COUNTERS.get_ptr_mut(of.cpu.wrapping_mul(BANK_SLOTS).wrapping_add(of.slot))
}

/// # Safety
///
/// `counter` points at a counter in a map's element.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, amount: u64) {
    // SAFETY: by this function's contract; map elements are 8-byte aligned.
    // The intrinsic, because `AtomicU64::fetch_add` is not there for a target
    // without compare-and-swap; unused, its result costs nothing.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}
