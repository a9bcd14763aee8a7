//! The layout of netio's BPF maps, shared by the programs in the kernel and by
//! the collector.
//!
//! - `ALLOW_LIST`: array of [`AllowPage`]s, indexed by `tgid / PIDS_PER_PAGE`,
//!   written by the collector through a memory map. A process's entry is the
//!   slot of its counters, or [`NO_SLOT`].
//! - `COUNTERS`: array of [`Counters`], one bank of `slots` entries for each
//!   possible CPU: the entry of a slot on a CPU is `cpu * slots + slot`. Only
//!   programs write, only ever upwards, each CPU to its own bank; the collector
//!   reads through a memory map and adds the banks up.
#![no_std]
#![forbid(unsafe_code)]

/// Entries in one [`AllowPage`].
pub const PIDS_PER_PAGE: u32 = 1024;

/// The entry of a process that is not watched. No process is given this slot.
pub const NO_SLOT: u32 = 0;

/// One element of `ALLOW_LIST`: the slots of consecutive process ids, filling
/// a page of memory.
pub type AllowPage = [u32; PIDS_PER_PAGE as usize];

/// One element of `COUNTERS`: what one slot's process did on one CPU, since the
/// maps were made.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that send calls accepted.
    pub sent_bytes: u64,
    /// Bytes that receive calls delivered.
    pub received_bytes: u64,
    /// Calls that sent at least one byte.
    pub sent_calls: u64,
    /// Calls (in the receive-queue accounting: reads) that received at least one byte.
    pub received_calls: u64,
}
