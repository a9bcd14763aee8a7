//! The seam between the collector and the kernel.
//!
//! Everything above it (watches, sampler, hub, rpc) knows only this trait, so it
//! is tested without privileges against `fake::FakeKernel`; the one real
//! implementation is what [`crate::probe::attach`] returns.

use std::{
    ops::{Add, AddAssign, Sub},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use netio::v1;
use tokio_stream::Stream;

use crate::keep::{State, Store};

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

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
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

/// A process: its pid alone may be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// The pid (thread-group id).
    pub tgid: u32,
    /// When it started: nanoseconds since boot, in steps of 10 ms.
    pub start_time_ns: u64,
}

/// A child of a followed process was born, and counts in this slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The slot.
    pub slot: Slot,
    /// The child.
    pub process: ProcessId,
    /// The family that it was born into.
    pub family: Slot,
    /// Its name (`comm`).
    pub name: Vec<u8>,
}

/// A slot that was in use when hooks were taken over from a collector that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The slot.
    pub slot: Slot,
    /// The process that has it, or had it; none, if it is a family's or nobody's.
    pub process: Option<ProcessId>,
    /// The family of its process's children.
    pub family: Option<Slot>,
    /// Its process's name.
    pub name: Vec<u8>,
    /// Whether the kernel gave it to a child at birth, or its process has exited:
    /// such a slot may be news. Otherwise the collector of before took it.
    pub is_told: bool,
    /// Whether its process is on the allow-list with it.
    pub is_listed: bool,
}

/// A number that is kept with the hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// The sequence number of the last tick.
    Sequence,
    /// When the counters were read for it, in nanoseconds since boot.
    Time,
    /// The number of the last state that was written.
    State,
}

/// What has become of a slot's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifeNow {
    /// It has exited, and is not on the allow-list any more.
    pub exited: bool,
    /// How many times it has executed another program since it had the slot.
    pub execs: u32,
}

/// Why a process could not be put on the allow-list.
#[derive(Debug, thiserror::Error)]
pub enum AllowError {
    /// The allow-list was sized for smaller pids.
    #[error(
        "pid {pid} is beyond the allow-list, which holds pids below {max_pid}; kernel.pid_max was raised after the collector started: stop it without --keep-at-stop, and start it again"
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
    /// The process counts in a slot of its own already: as a child that was just
    /// born, which [`Kernel::births`] tells.
    #[error("process {0} is being listed as somebody's child: try again")]
    Listed(u32),
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
    /// Whether children are followed and exits noticed in the kernel.
    pub follows_children: bool,
    /// Why counting does not go on in the kernel if the collector is killed; empty if
    /// it does.
    pub not_durable: String,
}

impl KernelInfo {
    /// Whether counting goes on in the kernel if the collector is killed.
    pub fn is_durable(&self) -> bool {
        self.hook_mode != v1::HookMode::Unspecified && self.not_durable.is_empty()
    }
}

/// Pids of processes that rules may match from now on: they have executed a
/// program, begun to listen, or moved to another cgroup.
pub type Changes = Pin<Box<dyn Stream<Item = u32> + Send + Sync>>;

/// Attaches hooks; blocks for up to about a second. Where that fails, the kernel
/// that it gives refuses ([`Kernel::refusal`]).
pub type Attach = Arc<dyn Fn() -> Box<dyn Kernel> + Send + Sync>;

/// The allow-list, the pool of slots and the counters.
///
/// A slot is in the pool, or one process counts in it, or it names a *family*: a
/// set of watches. Children that a process of a family forks are put on the
/// allow-list by the kernel itself, in a slot of their own or, if none is free,
/// in the family's, which they share.
pub trait Kernel: Send {
    /// What the hooks are. Does not change over the kernel's life.
    fn info(&self) -> &KernelInfo;

    /// Why nothing can be counted, if so.
    fn refusal(&self) -> Option<AllowError> {
        None
    }

    /// How to attach the same hooks once more after this kernel was dropped: one
    /// that knows nothing of it. None, if there are no hooks.
    fn again(&self) -> Option<Attach> {
        None
    }

    /// Whether the hooks count, found out by letting them count something, where
    /// that disturbs nothing. Takes some system calls: not for the tick.
    fn check(&mut self) -> Result<(), AllowError> {
        self.refusal().map_or(Ok(()), Err)
    }

    /// Where what the kernel does not know is written down, for the one who asks
    /// first; none, if these hooks go with the collector.
    fn store(&mut self) -> Option<Store> {
        None
    }

    /// What a collector that is gone wrote down last, if these hooks are taken over
    /// from it; for the one who asks first.
    fn left(&mut self) -> Option<State> {
        None
    }

    /// The slots that were in use when these hooks were taken over from a collector
    /// that is gone; births after that are told by [`Kernel::births`].
    fn taken(&mut self) -> Vec<Taken> {
        Vec::new()
    }

    /// Has the hooks go when this is dropped. Otherwise, if they are pinned, they
    /// count on.
    fn release(&mut self) {}

    /// Notes what a free slot's counters stand at, or what they stood at when its
    /// process was listed. As all that is kept, this lives as long as the hooks do,
    /// and costs no system call.
    fn set_base(&mut self, slot: Slot, counters: Counters);

    /// What was noted; at first, zeros.
    fn base(&self, slot: Slot) -> Counters;

    /// Notes what a slot's counters stood at at a tick.
    fn set_told(&mut self, slot: Slot, counters: Counters);

    /// What was noted; at first, zeros.
    fn told(&self, slot: Slot) -> Counters;

    /// Notes a number.
    fn set_mark(&mut self, mark: Mark, number: u64);

    /// What was noted; at first, 0.
    fn mark(&self, mark: Mark) -> u64;

    /// Events known to be missed since the hooks were attached. May cost some
    /// system calls: not for the tick.
    fn missed_events(&self) -> v1::MissedEvents;

    /// How often the programs ran since they were attached, and for how long, if
    /// the kernel counts that. May cost some system calls: not for the tick.
    fn program_runs(&self) -> Option<(u64, Duration)> {
        None
    }

    /// What did not fit since the hooks were attached, children without a slot
    /// included.
    fn map_full(&self) -> v1::MapFull;

    /// The allow-list holds pids below this.
    fn max_pid(&self) -> u32;

    /// Takes a slot out of the pool.
    fn take(&mut self) -> Option<Slot>;

    /// Puts a slot into the pool, in which nobody counts any more. A call that is
    /// in the kernel when its process leaves the list may still be counted, so
    /// the slot must have rested for a tick.
    fn give(&mut self, slot: Slot);

    /// Begins to count a process in `slot`, its children in `family`. Counting
    /// has begun when this returns. The process may share a family's slot now.
    fn allow(
        &mut self,
        process: ProcessId,
        slot: Slot,
        family: Option<Slot>,
    ) -> Result<(), AllowError>;

    /// Begins to count a process in the family's own slot.
    fn share(&mut self, process: ProcessId, family: Slot) -> Result<(), AllowError>;

    /// The family whose slot a process shares now, if it does.
    fn shares(&self, tgid: u32) -> Option<Slot>;

    /// Ends counting a process in a family's slot, if it still shares it.
    fn unshare(&mut self, tgid: u32, family: Slot);

    /// Ends counting a process in `slot`, and tells whether it did; if not, the
    /// process has just exited, which [`Kernel::life`] shows in a moment.
    fn deny(&mut self, tgid: u32, slot: Slot) -> bool;

    /// The family that the process in `slot` was born into, where the collector
    /// had listed it before the kernel could; told once.
    fn take_born_into(&mut self, slot: Slot) -> Option<Slot>;

    /// Ends a family: whoever shares its slot is not counted any more.
    fn close_family(&mut self, family: Slot);

    /// Changes the family that the children of a slot's process are born into.
    fn set_family(&mut self, slot: Slot, family: Option<Slot>);

    /// Sets how many more slots a family's children may take out of the pool.
    fn set_budget(&mut self, family: Slot, budget: u32);

    /// How many processes share a family's slot now.
    fn sharers(&self, family: Slot) -> u32;

    /// The children that were born since the last call, oldest first.
    fn births(&mut self) -> Vec<Birth>;

    /// What has become of a slot's process.
    fn life(&self, slot: Slot) -> LifeNow;

    /// A slot's process's name (`comm`) as of its last exec; empty if that is not
    /// known.
    fn name(&self, slot: Slot) -> Vec<u8>;

    /// Reads a slot's counters: a few loads per CPU, no system call.
    fn read(&self, slot: Slot) -> Counters;

    /// The changes of processes, for the one who asks first; told only while
    /// they are wished for. Called within a tokio runtime.
    fn changes(&mut self) -> Option<Changes>;

    /// Whether changes are wished for.
    fn wish_changes(&mut self, wish: bool);
}

#[cfg(any(test, feature = "fake-kernel"))]
pub mod fake;
pub(crate) mod figures;
pub mod refusing;
