//! What the kernel does not know, as it is written down.
//!
//! Numbers are as the collector has them; times are nanoseconds since boot, as
//! CLOCK_BOOTTIME tells them. A field that is taken away leaves its number unused.
#![forbid(unsafe_code)]

use netio::v1;

use crate::kernel::Counters;

/// Everything.
#[derive(Clone, PartialEq, prost::Message)]
pub struct State {
    /// Grows with each that is written.
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
    #[prost(message, optional, tag = "2")]
    pub(crate) hooks: Option<Hooks>,
    #[prost(uint64, tag = "3")]
    pub(crate) last_watch_id: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) unlisted: u64,
    /// Of hooks before these.
    #[prost(message, optional, tag = "5")]
    pub(crate) past: Option<Figures>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) watches: Vec<Watch>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) processes: Vec<Process>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) families: Vec<Families>,
    #[prost(message, repeated, tag = "9")]
    pub(crate) resting: Vec<Resting>,
    /// The generation of the first collector that these watches are of.
    #[prost(uint64, tag = "10")]
    pub(crate) lineage: u64,
}

/// The hooks that are pinned.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Hooks {
    #[prost(uint32, tag = "1")]
    pub(crate) generation: u32,
    /// Of the object that they were loaded from.
    #[prost(uint64, tag = "2")]
    pub(crate) object: u64,
    /// Room in the maps.
    #[prost(uint32, tag = "3")]
    pub(crate) slots: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) pids: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) cpus: u32,
    /// A `v1::HookMode`.
    #[prost(int32, tag = "6")]
    pub(crate) mode: i32,
    #[prost(message, repeated, tag = "7")]
    pub(crate) programs: Vec<v1::AttachedProgram>,
    #[prost(bool, tag = "8")]
    pub(crate) follows_children: bool,
    #[prost(message, repeated, tag = "9")]
    pub(crate) attempts: Vec<v1::ModeAttempt>,
}

/// Figures that only grow.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Figures {
    #[prost(message, optional, tag = "1")]
    pub(crate) missed_events: Option<v1::MissedEvents>,
    #[prost(message, optional, tag = "2")]
    pub(crate) map_full: Option<v1::MapFull>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) program_runs: Option<u64>,
    #[prost(uint64, tag = "4")]
    pub(crate) program_time_ns: u64,
}

/// A watch.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Watch {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(message, optional, tag = "2")]
    pub(crate) target: Option<v1::Target>,
    /// 0: always, 1: never, 2: if it forks per connection.
    #[prost(uint32, tag = "3")]
    pub(crate) follow: u32,
    #[prost(string, tag = "4")]
    pub(crate) owner: String,
    #[prost(message, optional, tag = "5")]
    pub(crate) create_time: Option<prost_types::Timestamp>,
    /// None: a standing watch.
    #[prost(message, optional, tag = "6")]
    pub(crate) lease: Option<Lease>,
    #[prost(message, optional, tag = "7")]
    pub(crate) total: Option<Sums>,
    #[prost(message, optional, tag = "8")]
    pub(crate) unlisted_total: Option<Sums>,
    #[prost(bool, tag = "9")]
    pub(crate) had_unlisted: bool,
    #[prost(message, repeated, tag = "10")]
    pub(crate) members: Vec<Part>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) shared: Vec<Part>,
    #[prost(message, optional, tag = "12")]
    pub(crate) main: Option<Main>,
}

/// A watch's lease.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Lease {
    #[prost(uint64, tag = "1")]
    pub(crate) ttl_ns: u64,
    /// When it runs out, unless it is held.
    #[prost(uint64, tag = "2")]
    pub(crate) deadline_ns: u64,
    #[prost(bool, tag = "3")]
    pub(crate) held: bool,
}

/// A watch's part in a slot.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Part {
    #[prost(uint32, tag = "1")]
    pub(crate) slot: u32,
    #[prost(message, optional, tag = "2")]
    pub(crate) baseline: Option<Sums>,
    #[prost(message, optional, tag = "3")]
    pub(crate) seen: Option<Sums>,
}

/// The process that a watch's samples name.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Main {
    #[prost(message, optional, tag = "1")]
    pub(crate) process: Option<v1::Process>,
    #[prost(uint32, tag = "2")]
    pub(crate) execs: u32,
}

/// A process in a slot of its own.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Process {
    #[prost(uint32, tag = "1")]
    pub(crate) slot: u32,
    #[prost(message, optional, tag = "2")]
    pub(crate) about: Option<v1::Process>,
    /// In steps of 10 ms, as the kernel's list of lives has it.
    #[prost(uint64, tag = "3")]
    pub(crate) start_time_ns: u64,
    /// What its children are born into; 0: nothing.
    #[prost(uint32, tag = "4")]
    pub(crate) family: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) execs: u32,
}

/// A family.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Families {
    #[prost(uint32, tag = "1")]
    pub(crate) slot: u32,
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) watches: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) following: Vec<u64>,
    /// 0: none.
    #[prost(uint32, tag = "4")]
    pub(crate) children: u32,
    #[prost(message, repeated, tag = "5")]
    pub(crate) guards: Vec<Guard>,
}

/// A process that shares a family's slot and was found.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Guard {
    #[prost(uint32, tag = "1")]
    pub(crate) pid: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) start_time_ns: u64,
}

/// A slot that was left and is not free yet.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Resting {
    #[prost(uint32, tag = "1")]
    pub(crate) slot: u32,
    /// Who left it; 0: a family.
    #[prost(uint32, tag = "2")]
    pub(crate) pid: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) start_time_ns: u64,
}

/// Counters.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Sums {
    #[prost(uint64, tag = "1")]
    pub(crate) sent_bytes: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) received_bytes: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) sent_calls: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) received_calls: u64,
}

impl From<Counters> for Sums {
    fn from(counters: Counters) -> Self {
        Self {
            sent_bytes: counters.sent_bytes,
            received_bytes: counters.received_bytes,
            sent_calls: counters.sent_calls,
            received_calls: counters.received_calls,
        }
    }
}

impl From<Sums> for Counters {
    fn from(sums: Sums) -> Self {
        Self {
            sent_bytes: sums.sent_bytes,
            received_bytes: sums.received_bytes,
            sent_calls: sums.sent_calls,
            received_calls: sums.received_calls,
        }
    }
}
