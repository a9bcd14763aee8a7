//! The layout of netio's BPF maps, shared by the programs in the kernel and by
//! the collector. All are arrays that both sides map or reach directly, so
//! nothing here costs a system call.
//!
//! - `ALLOW_LIST`: [`AllowEntry`]s, indexed by tgid. A process's
//!   entry is the slot it counts in, or [`NO_SLOT`]. Written by the collector for
//!   processes that it found, and by the programs for children that are born and
//!   processes that exit; always by an atomic exchange, so that whoever comes
//!   second sees what the first did. Two generations of programs can share the
//!   list, each with a word of its own.
//! - `COUNTERS`: [`Counters`], one bank of `slots` entries for each possible CPU:
//!   the entry of a slot on a CPU is `cpu * slots + slot`. Only programs write,
//!   only ever upwards, each CPU to its own bank.
//! - `LIVES`: [`Life`], one for each slot: whose slot it is.
//! - `POOL`: a ring of free slots ([`pool_index`]), and `POOL_ENDS`: one
//!   [`PoolEnds`]. The collector puts slots in at the tail; both sides take them
//!   at the head, by compare and exchange.
//! - `KEPT`: [`Kept`], one for each slot, and `MARKS`: numbers `MARK_...`. No program
//!   uses them: the collector notes there, without a system call, what it must find
//!   again if it is killed.
#![no_std]
#![forbid(unsafe_code)]

pub mod fields;

/// The layout of all this, but the allow-list, which never changes: another number
/// means that maps of before cannot be read.
pub const LAYOUT: u64 = 1;

/// The entry of a process that is not watched. No process is given this slot.
pub const NO_SLOT: u32 = 0;

/// One element of `ALLOW_LIST`: the slot of one process id, for each of two
/// generations of programs, of which nearly always one is there. As wide as the
/// kernel makes any element of an array: to pack entries more tightly would cost each
/// call of each process seven instructions for finding its part of an element.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllowEntry {
    /// The slot in the counters of an even or an odd generation ([`word_of`]), or
    /// [`NO_SLOT`].
    pub slots: [u32; 2],
}

/// Which word of an [`AllowEntry`] a generation's programs use.
#[must_use]
pub const fn word_of(generation: u32) -> usize {
    (generation % 2) as usize
}

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

/// Nobody has the slot, or the collector gave it to a process that it found.
pub const LIFE_NONE: u32 = 0;
/// A program gave the slot to a child that was born; the fields are set.
pub const LIFE_BORN: u32 = 1;
/// The slot's process has exited, and its entry is gone.
pub const LIFE_EXITED: u32 = 2;
/// A program took the slot and did not need it.
pub const LIFE_UNUSED: u32 = 3;

/// One element of `LIVES`: the process whose slot this is, or a *family*.
///
/// A family is a set of watches. It is named by a slot that belongs to no single
/// process: the one in which processes of these watches count that found no slot
/// of their own. Processes that exit leave its count of sharers.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// When the process started, in nanoseconds since boot
    /// (`task_struct.start_boottime`); for a process that the collector found,
    /// rounded down to [`START_TIME_STEP`].
    pub start_time_ns: u64,
    /// The process; 0 for a family.
    pub tgid: u32,
    /// One of the `LIFE_` constants. Set last.
    pub state: u32,
    /// The slot that its children share if there is no other; [`NO_SLOT`]: its
    /// children are not followed.
    pub family: u32,
    /// How many times the process has executed another program.
    pub execs: u32,
    /// Of a family: how many more slots it may take. A signed number.
    pub budget: u32,
    /// Of a family: processes that count in its slot.
    pub sharers: u32,
    /// Of a family: not 0 if it is over, and nobody may join it any more.
    pub closed: u32,
    /// Of a process that the collector listed before its birth was complete: the
    /// family that it was born into.
    pub born_into: u32,
    /// Not used yet.
    pub reserved: [u32; 2],
    /// The process's name at its birth or its last exec, ending in a zero.
    pub comm: [u8; 16],
}

/// The resolution of start times in /proc/PID/stat, in nanoseconds (`USER_HZ` is
/// 100 on every architecture that BPF runs on).
pub const START_TIME_STEP: u64 = 10_000_000;

/// The ends of the pool's ring. They only grow; the free slots are those from
/// `head` up to `tail`. Each has a cache line of its own.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolEnds {
    /// The next slot to take.
    pub head: u64,
    /// Keeps the ends apart.
    pub apart: [u64; 7],
    /// Where the next free slot is put.
    pub tail: u64,
    /// Keeps what follows apart.
    pub reserved: [u64; 7],
}

/// Where in the ring, of `size` elements (a power of two), a count of slots
/// leads to.
#[must_use]
pub const fn pool_index(count: u64, size: u32) -> u32 {
    (count & (size as u64 - 1)) as u32
}

/// One element of `KEPT`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What the slot's counters stood at before the process that has it counted.
    pub base: Counters,
    /// What they stood at at the last tick.
    pub told: Counters,
}

/// Element of `MARKS`: [`LAYOUT`].
pub const MARK_LAYOUT: u32 = 0;
/// Element of `MARKS`: the sequence number of the last tick.
pub const MARK_SEQUENCE: u32 = 1;
/// Element of `MARKS`: when the counters were read for it, in nanoseconds since boot.
pub const MARK_TIME: u32 = 2;
/// Element of `MARKS`: the number of the last state that was written to a file.
pub const MARK_STATE: u32 = 3;
/// Elements of `MARKS`.
pub const ALL_MARKS: u32 = 8;

/// Element of `FULL`: sockets that could not be followed.
pub const FULL_SOCKETS: u32 = 0;
/// Element of `FULL`: children that found no slot of their own.
pub const FULL_PROCESSES: u32 = 1;

/// Element of `WISHES`: the process whose sockets an iteration notes.
pub const WISH_TGID: u32 = 0;
/// Element of `WISHES`: not 0 if changes of processes are to be told.
pub const WISH_CHANGES: u32 = 1;
