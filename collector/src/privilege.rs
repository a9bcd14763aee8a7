//! Least privilege: what the collector needs of root, and how it gives up the rest.
//!
//! Takes a process that has one thread yet; produces one that keeps the four
//! capabilities of [`NEEDS`], as far as it had them ([`drop_capabilities`]), and
//! that can make the system calls of an allow-list only ([`filter_system_calls`]).
//! Promises: neither can be undone, by this process or by one that it would become;
//! threads that are made later have no more. Both fail rather than be left out.
//!
//! Listeners are bound and files of settings read before, with all privileges;
//! hooks are attached after, now and whenever they are attached again.
#![forbid(unsafe_code)]

use std::{fmt, io};

use rustix::io::Errno;

mod capabilities;
mod system_calls;

pub use capabilities::{Held, NEEDS, Need, drop_capabilities, held};
pub use system_calls::filter_system_calls;

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}; {way_out}")]
pub struct PrivilegeError {
    what: &'static str,
    cause: io::Error,
    way_out: &'static str,
}

const KEEP: &str = "--keep-privileges goes without";
const NO_FILTER: &str = "--no-seccomp goes without";

impl PrivilegeError {
    /// Capabilities could not be given up.
    fn keeping(what: &'static str) -> impl Fn(Errno) -> Self {
        move |cause| Self {
            what,
            cause: cause.into(),
            way_out: KEEP,
        }
    }

    /// System calls could not be filtered.
    fn unfiltered(cause: impl fmt::Display) -> Self {
        Self {
            what: "cannot filter system calls",
            cause: io::Error::other(cause.to_string()),
            way_out: NO_FILTER,
        }
    }
}
