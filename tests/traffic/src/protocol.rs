//! The line protocol between the generator and whoever runs it.
//!
//! 1. The generator prepares and prints [`Ready`].
//! 2. It reads the line `go`, makes its traffic, and prints a [`Report`].
//! 3. It reads the line `exit` (or the end of stdin) and exits with code 0. The
//!    pattern `exit-mid-tick` prints its report just before its last bytes and
//!    exits right after them, unasked.
//!
//! Where [`Pattern::follows_children`](crate::Pattern::follows_children), the
//! truth about a process is the sum over it and its descendants. Where
//! [`Pattern::watched_exits`](crate::Pattern::watched_exits), the process to watch
//! is a child of the generator's that has ended when the report comes.
//!
//! A failure is a message on stderr and a non-zero exit code instead.

use serde::{Deserialize, Serialize};

/// The line that starts the traffic.
pub const GO: &str = "go";
/// The line that ends the generator.
pub const EXIT: &str = "exit";

/// The first line on stdout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// The generator's own process id.
    pub pid: u32,
    /// The processes to watch, at most two.
    pub pids: Vec<u32>,
}

/// The second line on stdout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Report {
    /// This kernel, or this user, cannot make the pattern.
    Unavailable {
        /// The pattern's name.
        pattern: String,
        /// What is missing.
        unavailable: String,
    },
    /// What was really sent and received after `go`.
    Truth {
        /// The pattern's name.
        pattern: String,
        /// One entry for each of [`Ready::pids`].
        truth: Vec<Truth>,
        /// What TCP_INFO said of all the sockets, already found equal to the
        /// sum over all processes that used them (unwatched ones too); null
        /// where it does not apply.
        tcp_info: Option<Bytes>,
        /// What really happened, where a pattern leaves that to the kernel.
        note: Option<String>,
    },
}

/// The truth about one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// The process.
    pub pid: u32,
    /// Its bytes.
    #[serde(flatten)]
    pub bytes: Bytes,
}

/// Bytes in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Bytes that send calls accepted.
    pub sent: u64,
    /// Bytes that receive calls delivered, without those only peeked at.
    pub received: u64,
}
