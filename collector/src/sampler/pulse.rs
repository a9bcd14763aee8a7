//! What the sampler tells of its own state, for whoever watches it.
#![forbid(unsafe_code)]

use tokio::time::Instant;

/// As of the last tick. Published without waking anybody: who waits for a sign of
/// life must not depend on the one who gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    /// When the last tick was published; at first, when the sampler was made.
    pub(crate) last_tick: Instant,
    /// Whether watched processes can be counted: hooks count, or rest until there
    /// is something to count.
    pub(crate) can_count: bool,
}
