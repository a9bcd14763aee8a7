//! The lives of processes: a child of a followed process is put on the
//! allow-list before it runs, and a process that exits leaves it before its pid
//! can be used again.
//!
//! - [`life_begins`] (`task:task_newtask`, in the parent, when the child is
//!   complete but has not been woken): the child takes a slot from the pool, or
//!   shares its family's. If its pid still has the entry of somebody who died,
//!   that goes: no process ever inherits a count.
//! - [`life_renamed`] (`sched:sched_process_exec`): notes name and event.
//! - [`life_ends`] (`sched:sched_process_exit` of the last thread, when no
//!   further byte can be sent): the entry goes, the slot is marked.
//! - [`life_listens`], [`life_moves`]: tell the collector of processes that rules
//!   may match from now on.
//!
//! Promises: the collector may change any entry at any moment. Entries change
//! hands only by atomic exchanges, and whoever replaces an entry sees to the slot
//! that was in it.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg},
    ptr::read_volatile,
};

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, RingBuf},
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::{btf_map, btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use netio_abi::{
    LIFE_BORN, LIFE_EXITED, LIFE_UNUSED, Life, NO_SLOT, PoolEnds, START_TIME_STEP, WISH_CHANGES,
    fields::{SIGNAL_LIVE, TASK_SIGNAL, TASK_START, TASK_TGID},
    pool_index,
};

use crate::{
    account::{allow_entry, processes_full, watched_slot, watched_slot_without_btf},
    sock::{Btf, Object as _, TCP_LISTEN},
};

/// Whose slot each is. The collector sets the size at load.
#[btf_map]
static LIVES: Array<Life, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The ring of free slots. The collector sets the size at load.
#[btf_map]
static POOL: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Element 0: the ends of the ring.
#[btf_map]
static POOL_ENDS: Array<PoolEnds, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Elements `WISH_...`.
#[btf_map]
pub(crate) static WISHES: Array<u64, 2, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The pids of processes that have just executed a program, begun to listen or
/// moved to another cgroup; one that does not fit is dropped, since the
/// collector looks at all processes now and then anyway.
#[btf_map]
static CHANGES: RingBuf<u32, 65536> = RingBuf::new();

/// Elements of `POOL`, a power of two; the collector sets it at load.
#[unsafe(no_mangle)]
static POOL_SIZE: u32 = 0;

/// Of clone: a thread of the same process (`include/uapi/linux/sched.h`).
const CLONE_THREAD: u64 = 0x0001_0000;
/// How often to try for a slot that other CPUs are trying for, too.
const TRIES: u32 = 8;

/// `task_newtask(struct task_struct *task, u64 clone_flags)`
#[btf_tracepoint(function = "task_newtask")]
pub fn life_begins(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u64>(1) & CLONE_THREAD != 0 {
        return 0;
    }
    let parent = watched_slot();
    let child = Btf(ctx.arg(0));
    let tgid: u32 = child.field(TASK_TGID);
    let family = family_of(parent);
    let Some(entry) = allow_entry(tgid) else {
        // pid_max was raised since the list was made.
        if family != NO_SLOT {
            processes_full();
        }
        return 0;
    };
    // SAFETY: `entry` points at an entry of the allow-list; as all below.
    let old = unsafe { read_volatile(entry) };
    let start: u64 = child.field(TASK_START);
    if old == NO_SLOT && family == NO_SLOT {
        return 0;
    }
    if old != NO_SLOT && is_life_of(old, start) {
        // The collector has found it first, in this very moment.
        born_into(old, family);
        return 0;
    }
    let (slot, own) = if family == NO_SLOT {
        (NO_SLOT, false)
    } else {
        slot_for_child(family)
    };
    if own {
        begin(slot, tgid, start, family);
    }
    // The collector may have cleared in this moment what the dead left.
    let replaced = replace(entry, old, slot);
    if replaced || old != NO_SLOT && replace(entry, NO_SLOT, slot) {
        if replaced && old != NO_SLOT {
            end(old);
        }
        if own {
            set_state(slot, LIFE_BORN);
        } else if slot != NO_SLOT && is_closed(slot) && replace(entry, slot, NO_SLOT) {
            // The family's end and this birth crossed: one of both sees the other.
            end(slot);
        }
    } else {
        // The collector has found it in between.
        // SAFETY: as above.
        born_into(unsafe { read_volatile(entry) }, family);
        if own {
            set_state(slot, LIFE_UNUSED);
        } else if slot != NO_SLOT {
            end(slot);
        }
    }
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid,
/// struct linux_binprm *bprm)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn life_renamed(_ctx: RawTracePointContext) -> i32 {
    tell((bpf_get_current_pid_tgid() >> 32) as u32);
    if let Some(life) = LIVES.get_ptr_mut(watched_slot_without_btf()) {
        // SAFETY: `life` points at a map's element.
        unsafe {
            if (*life).tgid != 0 {
                if let Ok(comm) = bpf_get_current_comm() {
                    (*life).comm = comm;
                }
                atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(&raw mut (*life).execs, 1);
            }
        }
    }
    0
}

/// `sched_process_exit(struct task_struct *p, ...)`: for each thread; the count
/// of live ones has been taken down by then.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn life_ends(ctx: BtfTracePointContext) -> i32 {
    if watched_slot() == NO_SLOT {
        return 0;
    }
    let task = Btf(ctx.arg(0));
    let signal = Btf(task.field::<usize>(TASK_SIGNAL) as *const u8);
    if signal.field::<i32>(SIGNAL_LIVE) != 0 {
        return 0;
    }
    if let Some(entry) = allow_entry((bpf_get_current_pid_tgid() >> 32) as u32) {
        // SAFETY: as above.
        let slot = unsafe { atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(entry, NO_SLOT) };
        if slot != NO_SLOT {
            end(slot);
        }
    }
    0
}

/// `inet_sock_set_state(sk, oldstate, newstate)`: only the process itself makes
/// its socket listen.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn life_listens(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<i32>(2) == TCP_LISTEN {
        tell((bpf_get_current_pid_tgid() >> 32) as u32);
    }
    0
}

/// `cgroup_attach_task(struct cgroup *dst_cgrp, const char *path,
/// struct task_struct *task, bool threadgroup)`
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn life_moves(ctx: BtfTracePointContext) -> i32 {
    tell(Btf(ctx.arg(2)).field(TASK_TGID));
    0
}

/// Tells the collector of a process, if it wishes to know.
#[inline(always)]
fn tell(tgid: u32) {
    if WISHES.get(WISH_CHANGES).is_some_and(|wish| *wish != 0)
        && let Some(mut place) = CHANGES.reserve(0)
    {
        place.write(tgid);
        place.submit(0);
    }
}

/// The family that children of the process in this slot belong to.
#[inline(always)]
fn family_of(slot: u32) -> u32 {
    if slot == NO_SLOT {
        return NO_SLOT;
    }
    match LIVES.get_ptr(slot) {
        // SAFETY: a map's element; volatile, because the collector writes it.
        Some(life) => unsafe { read_volatile(&raw const (*life).family) },
        None => NO_SLOT,
    }
}

/// Whether the slot is that of the process that started at `start`. A family's is
/// taken for it: whoever shares one leaves it at its exit, so this is the
/// collector's doing in this very moment.
#[inline(always)]
fn is_life_of(slot: u32, start: u64) -> bool {
    LIVES.get_ptr(slot).is_some_and(|life| {
        // SAFETY: as above.
        let (tgid, begun) = unsafe {
            (
                read_volatile(&raw const (*life).tgid),
                read_volatile(&raw const (*life).start_time_ns),
            )
        };
        tgid == 0 || begun / START_TIME_STEP == start / START_TIME_STEP
    })
}

/// Tells the collector into which family a process was born that it listed first.
#[inline(always)]
fn born_into(slot: u32, family: u32) {
    if slot == NO_SLOT || family == NO_SLOT {
        return;
    }
    if let Some(life) = LIVES.get_ptr_mut(slot) {
        // SAFETY: a field of a map's element.
        unsafe {
            atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(&raw mut (*life).born_into, family)
        };
    }
}

/// A slot from the pool, and true; or else the family's own, and false.
#[inline(always)]
fn slot_for_child(family: u32) -> (u32, bool) {
    let Some(life) = LIVES.get_ptr_mut(family) else {
        return (NO_SLOT, false);
    };
    // SAFETY: fields of a map's element.
    unsafe {
        // Not relaxed: that has no instruction which gives the value before, and
        // the compiler would take another for it.
        let budget = atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(
            &raw mut (*life).budget,
            u32::MAX, // one less
        );
        if (budget as i32) > 0
            && let Some(slot) = take()
        {
            return (slot, true);
        }
        atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(&raw mut (*life).budget, 1);
        atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(&raw mut (*life).sharers, 1);
    }
    processes_full();
    (family, false)
}

/// Takes a slot out of the pool.
#[inline(always)]
fn take() -> Option<u32> {
    let ends = POOL_ENDS.get_ptr_mut(0)?;
    // SAFETY: a plain static; volatile, because the loader rewrites it.
    let size = unsafe { read_volatile(&raw const POOL_SIZE) };
    for _ in 0..TRIES {
        // SAFETY: fields of a map's element.
        let (head, tail) = unsafe {
            (
                read_volatile(&raw const (*ends).head),
                read_volatile(&raw const (*ends).tail),
            )
        };
        if head >= tail {
            return None;
        }
        let slot = *POOL.get(pool_index(head, size))?;
        // SAFETY: as above. If somebody else took the slot, the head has moved.
        let taken = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                &raw mut (*ends).head,
                head,
                head + 1,
            )
        };
        if taken.1 {
            return Some(slot as u32);
        }
    }
    None
}

/// Writes down whose slot it is now.
#[inline(always)]
fn begin(slot: u32, tgid: u32, start: u64, family: u32) {
    if let Some(life) = LIVES.get_ptr_mut(slot) {
        // SAFETY: a map's element, which is this birth's own for now.
        unsafe {
            (*life).start_time_ns = start;
            (*life).tgid = tgid;
            (*life).family = family;
            (*life).execs = 0;
            // A child begins with its parent's name.
            if let Ok(comm) = bpf_get_current_comm() {
                (*life).comm = comm;
            }
        }
    }
}

/// A process has left this slot.
#[inline(always)]
fn end(slot: u32) {
    if let Some(life) = LIVES.get_ptr_mut(slot) {
        // SAFETY: fields of a map's element.
        unsafe {
            if (*life).tgid == 0 {
                atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(
                    &raw mut (*life).sharers,
                    u32::MAX, // one less
                );
            } else {
                set_state(slot, LIFE_EXITED);
            }
        }
    }
}

#[inline(always)]
fn set_state(slot: u32, state: u32) {
    if let Some(life) = LIVES.get_ptr_mut(slot) {
        // SAFETY: a field of a map's element. An exchange, which orders what
        // was written before it, for the collector on another CPU.
        unsafe { atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(&raw mut (*life).state, state) };
    }
}

#[inline(always)]
fn is_closed(family: u32) -> bool {
    LIVES.get_ptr(family).is_some_and(|life| {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*life).closed) != 0 }
    })
}

/// Replaces an entry, if nobody has done so meanwhile.
#[inline(always)]
fn replace(entry: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: the callers' pointers are to entries of the allow-list.
    unsafe {
        atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(entry, old, new)
            .1
    }
}
