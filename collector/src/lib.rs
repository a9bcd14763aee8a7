//! The host service that counts the bytes which watched processes send and
//! receive over TCP, and streams one sample per watch and tick over gRPC.
//!
//! Takes a [`kernel::Kernel`] (from [`probe::attach`]), [`Options`] and
//! [`Listeners`]; [`run`] serves the API until it is told to stop.
//!
//! ```text
//! data:    probe (kernel) → sampler → hub → rpc
//! control: rpc → sampler → watches → kernel (the allow-list)
//! ```
//!
//! One task owns everything that changes (`sampler`); the rest sends it
//! commands and reads what it publishes.

use std::time::Duration;

pub mod doctor;
pub mod kernel;
pub mod probe;
pub mod signals;

mod btf;
mod hub;
mod process;
mod rpc;
mod sampler;
mod server;
mod ticker;
mod watches;

pub use server::{Listeners, MemoryConnector, RunError, run};

/// How the collector runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time between ticks, from [`Options::MIN_INTERVAL`] to [`Options::MAX_INTERVAL`].
    pub interval: Duration,
    /// What it refuses to exceed.
    pub limits: Limits,
}

impl Options {
    /// Shorter intervals would cost more than they tell.
    pub const MIN_INTERVAL: Duration = Duration::from_millis(100);
    /// Longer intervals are better made by reading totals less often.
    pub const MAX_INTERVAL: Duration = Duration::from_secs(60);
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            limits: Limits::default(),
        }
    }
}

/// What the collector refuses to exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Watches in all.
    pub max_watches: u32,
    /// Open Subscribe streams in all.
    pub max_subscribers: u32,
    /// Watch ids in one SubscribeRequest.
    pub max_watch_ids_per_subscription: u32,
}

impl Limits {
    /// The most that `max_watches` may be. A tick of so many samples, at up to
    /// 200 bytes each, stays below the 4 MiB that gRPC clients accept by default.
    pub const MAX_WATCHES: u32 = 16_384;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_watches: 1024,
            max_subscribers: 1024,
            max_watch_ids_per_subscription: 1024,
        }
    }
}
