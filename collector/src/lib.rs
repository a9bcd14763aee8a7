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

use netio::v1;

#[cfg(feature = "bench")]
pub mod bench;
pub mod certs;
pub mod config;
pub mod doctor;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod keep;
pub mod kernel;
pub mod logging;
pub mod privilege;
pub mod probe;
pub mod signals;
pub mod usage;

mod access;
mod btf;
mod discovery;
mod enrolment;
mod hub;
mod inherited;
mod notify;
mod peer_groups;
mod processes;
mod rpc;
mod sampler;
mod server;
mod ticker;
mod watches;

pub use access::{AccessError, Grant, Grantee, Role, group_id};
pub use notify::Notifier;
use processes::Selector;
pub use server::{Collector, Listeners, MAX_HANDSHAKES, MemoryConnector, RunError, TlsFiles, run};

/// How the collector runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time between ticks, from [`Options::MIN_INTERVAL`] to [`Options::MAX_INTERVAL`].
    pub interval: Duration,
    /// What it refuses to exceed.
    pub limits: Limits,
    /// Lets go of the hooks when nothing was watched for so long, and attaches them
    /// again for the next watch; from [`Options::MIN_IDLE`] to [`Options::MAX_IDLE`].
    /// None: they stay attached.
    pub detach_when_idle: Option<Duration>,
    /// Has the hooks count on after the collector was told to stop, if they are
    /// pinned; the next collector goes on with them.
    pub keep_at_stop: bool,
    /// Standing watches that it makes at its start; each selector is a rule
    /// ([`check_rule`]).
    pub watches: Vec<v1::Target>,
    /// Who is told how it fares.
    pub notifier: Notifier,
    /// Who may do what, beside root and the collector's own user, who may do all on its
    /// Unix sockets. None to a uid or gid: whoever may open the socket may watch. None at
    /// all: so may whoever is on this host, over TCP without TLS.
    pub grants: Vec<Grant>,
}

/// Fails, with what is wrong, unless the target's selector is a rule: one that
/// processes can match at any time, which a pid is not.
pub fn check_rule(target: &v1::Target) -> Result<(), String> {
    let Some(selector) = &target.selector else {
        return Err("names nothing to watch".to_owned());
    };
    match Selector::parse(selector) {
        Ok(selector) if selector.is_rule() => Ok(()),
        Ok(_) => Err("names a pid, which means another process after a restart".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Options {
    /// Shorter intervals would cost more than they tell.
    pub const MIN_INTERVAL: Duration = Duration::from_millis(100);
    /// Longer intervals are better made by reading totals less often.
    pub const MAX_INTERVAL: Duration = Duration::from_secs(60);
    /// Hooks that come and go faster would cost more than they save.
    pub const MIN_IDLE: Duration = Duration::from_secs(1);
    /// What is longer is as good as never.
    pub const MAX_IDLE: Duration = Duration::from_secs(24 * 60 * 60);
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            limits: Limits::default(),
            detach_when_idle: None,
            keep_at_stop: false,
            watches: Vec::new(),
            notifier: Notifier::none(),
            grants: Vec::new(),
        }
    }
}

/// The server's side of the API.
mod service {
    // Generated code answers to the generator's style, not to ours.
    #![allow(missing_docs, unreachable_pub, clippy::all)]

    tonic::include_proto!("netio.v1");
}

/// What the collector refuses to exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Watches in all.
    pub max_watches: u32,
    /// Watches of one owner.
    pub max_watches_per_owner: u32,
    /// Processes that count in a slot of their own, in all watches.
    pub max_processes: u32,
    /// The same for one watch.
    pub max_processes_per_watch: u32,
    /// Open Subscribe streams in all.
    pub max_subscribers: u32,
    /// Connections over Unix sockets that are open at once, as many over TCP, and as
    /// many over TLS.
    /// Past it, who connects waits until another has closed.
    pub max_connections: u32,
    /// Watch ids in one SubscribeRequest.
    pub max_watch_ids_per_subscription: u32,
    /// The lease of a watch that asks for none.
    pub default_lease_ttl: Duration,
    /// How far back the history of ticks goes.
    pub max_history: Duration,
    /// And how many bytes it may take.
    pub max_history_bytes: u64,
    /// A reader that takes nothing for so long, while something waits for it, loses its
    /// stream; a few seconds later its connection, if that takes nothing either. From
    /// [`Limits::MIN_STALL`] to [`Limits::MAX_STALL`].
    pub stall_timeout: Duration,
}

impl Limits {
    /// The most that `max_watches` may be. A tick of so many samples, at up to
    /// 200 bytes each, stays below the 4 MiB that gRPC clients accept by default.
    pub const MAX_WATCHES: u32 = 16_384;
    /// The most that `max_processes` may be.
    pub const MAX_PROCESSES: u32 = 65_536;
    /// The most that `max_subscribers` may be.
    pub const MAX_SUBSCRIBERS: u32 = 262_144;
    /// The most that `max_connections` may be.
    pub const MAX_CONNECTIONS: u32 = 65_536;
    /// The shortest lease: a client must be able to renew it in time.
    pub const MIN_LEASE_TTL: Duration = Duration::from_secs(1);
    /// The most that the history may go back.
    pub const MAX_HISTORY: Duration = Duration::from_secs(24 * 60 * 60);
    /// Readers need time to breathe.
    pub const MIN_STALL: Duration = Duration::from_secs(1);
    /// What is longer is as good as never.
    pub const MAX_STALL: Duration = Duration::from_secs(60 * 60);
    /// The longest lease; what shall live longer is a standing watch.
    pub const MAX_LEASE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

    /// Slots for all that: a slot rests for a tick after its process has left, so
    /// there are twice as many as processes; and each watch may need one for its
    /// processes that find none.
    pub(crate) fn slots(&self) -> u32 {
        self.max_processes
            .saturating_mul(2)
            .saturating_add(self.max_watches)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_watches: 1024,
            max_watches_per_owner: 512,
            max_processes: 4096,
            max_processes_per_watch: 4096,
            max_subscribers: 1024,
            max_connections: 1024,
            max_watch_ids_per_subscription: 1024,
            default_lease_ttl: Duration::from_secs(60),
            max_history: Duration::from_secs(15 * 60),
            max_history_bytes: 64 << 20,
            stall_timeout: Duration::from_secs(30),
        }
    }
}
