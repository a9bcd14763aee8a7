//! The seam between the collector and the kernel.
//!
//! Everything above it (watches, sampler, hub, rpc) knows only this trait, so it
//! is tested without privileges against `fake::FakeKernel`; the one real
//! implementation is what [`crate::probe::attach`] returns.

use std::ops::{Add, Sub};

use netio::v1;

/// What a process did since some beginning. Monotonic: of two readings of one
/// slot, the later is never less in any field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that send calls accepted.
    pub sent_bytes: u64,
    /// Bytes that receive calls delivered.
    pub received_bytes: u64,
    /// Calls that sent at least one byte.
    pub sent_calls: u64,
    /// Calls (or reads, see `received_calls_meaning`) that received at least one byte.
    pub received_calls: u64,
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.wrapping_add(other.sent_bytes),
            received_bytes: self.received_bytes.wrapping_add(other.received_bytes),
            sent_calls: self.sent_calls.wrapping_add(other.sent_calls),
            received_calls: self.received_calls.wrapping_add(other.received_calls),
        }
    }
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes.wrapping_sub(earlier.sent_bytes),
            received_bytes: self.received_bytes.wrapping_sub(earlier.received_bytes),
            sent_calls: self.sent_calls.wrapping_sub(earlier.sent_calls),
            received_calls: self.received_calls.wrapping_sub(earlier.received_calls),
        }
    }
}

/// The index of a process's counters, 1 or more (0 means "not watched" in the
/// kernel's allow-list).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Why a process could not be put on the allow-list.
#[derive(Debug, thiserror::Error)]
pub enum AllowError {
    /// The allow-list was sized for smaller pids.
    #[error(
        "pid {pid} is beyond the allow-list, which holds pids below {max_pid}; kernel.pid_max was raised after the collector started: restart it"
    )]
    PidBeyondAllowList {
        /// The pid.
        pid: u32,
        /// The first pid that does not fit.
        max_pid: u32,
    },
    /// No hooks are attached.
    #[error("no probes are attached: {0}")]
    NotAttached(String),
    /// The kernel refused to report the sockets the process holds.
    #[error("cannot read the sockets that process {pid} holds: {source}")]
    Sockets {
        /// The pid.
        pid: u32,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// What the hooks are, told by `GetCollectorInfo`.
#[derive(Clone, Debug, Default)]
pub struct KernelInfo {
    /// The mode in use; `Unspecified` when nothing is attached.
    pub hook_mode: v1::HookMode,
    /// Every attached program.
    pub programs: Vec<v1::AttachedProgram>,
    /// What this mode on this kernel does not see.
    pub blind_spots: Vec<v1::BlindSpot>,
    /// Modes that were tried before and why they were left.
    pub attempts: Vec<v1::ModeAttempt>,
    /// What `received_calls` counts.
    pub received_calls_meaning: String,
}

/// The allow-list and the counters.
pub trait Kernel: Send {
    /// What the hooks are. Does not change over the kernel's life.
    fn info(&self) -> &KernelInfo;

    /// Events known to be missed since the hooks were attached. May cost some
    /// system calls: not for the tick.
    fn missed_events(&self) -> v1::MissedEvents;

    /// Slots that can be handed out: `Slot(1)` to `Slot(slots())`.
    fn slots(&self) -> u32;

    /// The allow-list holds pids below this.
    fn max_pid(&self) -> u32;

    /// Begins to count process `tgid` (which is not on the list) in `slot`.
    /// Counting has begun when this returns.
    fn allow(&mut self, tgid: u32, slot: Slot) -> Result<(), AllowError>;

    /// Ends counting process `tgid`. A call that is in the kernel at this very
    /// moment may still be counted, so a slot must rest for a tick before it is
    /// handed out again. Does nothing if the process is not on the list.
    fn deny(&mut self, tgid: u32);

    /// Reads a slot's counters: a few loads per CPU, no system call.
    fn read(&self, slot: Slot) -> Counters;
}

#[cfg(any(test, feature = "fake-kernel"))]
pub mod fake;
