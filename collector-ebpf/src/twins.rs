//! The benchmark's twins: what other programs do with a call, on the hooks that
//! netio's own programs use, so that body is compared with body and not hook
//! with hook. Nothing of netio uses them.
//!
//! - `empty_*`: nothing, on each kind of hook: what the hook itself costs.
//! - `tutorial_*`: the well-known tutorial's: a hash map looked up, then updated.
//! - `tcptop_*`: bcc's tcptop: a hash map by process and connection, looked up or
//!   initialised, then added to.
//! - `lru_*`: bytes in a map that throws the oldest entry out.
//! - `hash_*`: a hash map as the allow-list, then a counter for each CPU.
#![no_std]
#![no_main]
// For atomic additions, as in account.rs.
#![allow(internal_features)]
#![feature(core_intrinsics)]

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr::read_volatile,
};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{HashMap, LruHashMap, PerCpuArray, PerCpuHashMap},
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::{btf_map, btf_tracepoint, fexit, kprobe, kretprobe},
    programs::{BtfTracePointContext, FExitContext, ProbeContext, RetProbeContext},
};

/// Bytes of one process.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// Whom tcptop counts for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Connection {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: [u8; 16],
    /// The addresses, remote and local.
    pub addresses: [u32; 2],
    /// The remote port (in network order) and the local one.
    pub ports: u32,
}

/// What netio keeps of a process, here as the value of a map that is read by
/// system calls.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Counters {
    /// Bytes and calls, each sent and received.
    pub counts: [u64; 4],
}

/// Processes that the tutorial's and the LRU twin count.
#[btf_map]
static WATCHED: HashMap<u32, u8, 1024> = HashMap::new();

#[btf_map]
static TRAFFIC: HashMap<u32, Traffic, 1024> = HashMap::new();

/// bcc's default size.
#[btf_map]
static SENT_BY_CONNECTION: HashMap<Connection, u64, 10240> = HashMap::new();

#[btf_map]
static RECEIVED_BY_CONNECTION: HashMap<Connection, u64, 10240> = HashMap::new();

#[btf_map]
static RECENT: LruHashMap<u32, Traffic, 1024> = LruHashMap::new();

/// Process → index of its counters.
#[btf_map]
static SLOTS: HashMap<u32, u32, 1024> = HashMap::new();

#[btf_map]
static SLOT_TRAFFIC: PerCpuArray<Traffic, 1024> = PerCpuArray::new();

/// Filled and read by the benchmark of readings alone, which sets its size.
#[btf_map]
static READINGS: PerCpuHashMap<u32, Counters, 1> = PerCpuHashMap::new();

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[btf_tracepoint(function = "sock_send_length")]
pub fn empty_send(_ctx: BtfTracePointContext) -> i32 {
    0
}

#[btf_tracepoint(function = "sock_recv_length")]
pub fn empty_recv(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// For the hook at which netio counts where trampolines are to be avoided.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn empty_read(_ctx: BtfTracePointContext) -> i32 {
    0
}

#[fexit(function = "tcp_sendmsg")]
pub fn empty_exit_send(_ctx: FExitContext) -> i32 {
    0
}

#[fexit(function = "tcp_recvmsg")]
pub fn empty_exit_recv(_ctx: FExitContext) -> i32 {
    0
}

#[kretprobe]
pub fn empty_return(_ctx: RetProbeContext) -> u32 {
    0
}

#[kprobe]
pub fn empty_entry(_ctx: ProbeContext) -> u32 {
    0
}

#[btf_tracepoint(function = "sock_send_length")]
pub fn tutorial_send(ctx: BtfTracePointContext) -> i32 {
    tutorial(moved(&ctx), 0)
}

#[btf_tracepoint(function = "sock_recv_length")]
pub fn tutorial_recv(ctx: BtfTracePointContext) -> i32 {
    tutorial(0, moved(&ctx))
}

#[btf_tracepoint(function = "sock_send_length")]
pub fn tcptop_send(ctx: BtfTracePointContext) -> i32 {
    tcptop(&ctx, &SENT_BY_CONNECTION)
}

#[btf_tracepoint(function = "sock_recv_length")]
pub fn tcptop_recv(ctx: BtfTracePointContext) -> i32 {
    tcptop(&ctx, &RECEIVED_BY_CONNECTION)
}

#[btf_tracepoint(function = "sock_send_length")]
pub fn lru_send(ctx: BtfTracePointContext) -> i32 {
    lru(moved(&ctx), 0)
}

#[btf_tracepoint(function = "sock_recv_length")]
pub fn lru_recv(ctx: BtfTracePointContext) -> i32 {
    lru(0, moved(&ctx))
}

#[btf_tracepoint(function = "sock_send_length")]
pub fn hash_send(ctx: BtfTracePointContext) -> i32 {
    if let Some(traffic) = counters_by_hash() {
        // SAFETY: a field of a map's value.
        unsafe { add(&raw mut (*traffic).sent, moved(&ctx)) };
    }
    0
}

#[btf_tracepoint(function = "sock_recv_length")]
pub fn hash_recv(ctx: BtfTracePointContext) -> i32 {
    if let Some(traffic) = counters_by_hash() {
        // SAFETY: a field of a map's value.
        unsafe { add(&raw mut (*traffic).received, moved(&ctx)) };
    }
    0
}

/// The bytes that the call moved; 0 if it failed.
#[inline(always)]
fn moved(ctx: &BtfTracePointContext) -> u64 {
    ctx.arg::<i32>(1).max(0) as u64
}

#[inline(always)]
fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

#[inline(always)]
fn tutorial(sent: u64, received: u64) -> i32 {
    let tgid = tgid();
    if sent + received == 0 || WATCHED.get_ptr(tgid).is_none() {
        return 0;
    }
    // SAFETY: the value is copied at once, as the tutorial does.
    let mut traffic = unsafe { TRAFFIC.get(tgid) }.copied().unwrap_or_default();
    traffic.sent += sent;
    traffic.received += received;
    let _ = TRAFFIC.insert(tgid, traffic, 0);
    0
}

#[inline(always)]
fn lru(sent: u64, received: u64) -> i32 {
    let tgid = tgid();
    if sent + received == 0 || WATCHED.get_ptr(tgid).is_none() {
        return 0;
    }
    // SAFETY: the value is copied at once.
    let mut traffic = unsafe { RECENT.get(tgid) }.copied().unwrap_or_default();
    traffic.sent += sent;
    traffic.received += received;
    let _ = RECENT.insert(tgid, traffic, 0);
    0
}

#[inline(always)]
fn tcptop(ctx: &BtfTracePointContext, map: &HashMap<Connection, u64, 10240>) -> i32 {
    let bytes = moved(ctx);
    if bytes == 0 {
        return 0;
    }
    let sk = ctx.arg::<*const u32>(0);
    // The first fields of every socket (`struct sock_common`): addresses, a
    // hash, ports.
    // SAFETY: the verifier checks the loads.
    let word = |index: usize| unsafe { read_volatile(sk.add(index)) };
    let key = Connection {
        pid: tgid(),
        comm: bpf_get_current_comm().unwrap_or_default(),
        addresses: [word(0), word(1)],
        ports: word(3),
    };
    if map.get_ptr(&key).is_none() {
        let _ = map.insert(&key, 0, u64::from(BPF_NOEXIST));
    }
    if let Some(count) = map.get_ptr_mut(&key) {
        // SAFETY: a map's value.
        unsafe { add(count, bytes) };
    }
    0
}

#[inline(always)]
fn counters_by_hash() -> Option<*mut Traffic> {
    // SAFETY: the value is copied at once.
    let slot = unsafe { SLOTS.get(tgid()) }.copied()?;
    SLOT_TRAFFIC.get_ptr_mut(slot)
}

/// # Safety
///
/// `counter` points at a counter in a map's value.
#[inline(always)]
unsafe fn add(counter: *mut u64, amount: u64) {
    // SAFETY: by this function's contract.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}
