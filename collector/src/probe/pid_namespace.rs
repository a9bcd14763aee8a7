//! Whether pids mean the same here as to the programs in the kernel, which see
//! those of the initial pid namespace. In another one, a pid that a caller names
//! would be counted for whatever process of the host has that number.

use std::{fmt, fs, io, path::PathBuf};

/// The initial namespace's number is a constant of the kernel
/// (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL: &str = "pid:[4026531836]";

/// What to do about another namespace.
pub(crate) const REMEDY: &str =
    "run the collector in the host's pid namespace (docker: --pid=host, Kubernetes: hostPID: true)";

/// This is another pid namespace, or it cannot be told.
#[derive(Debug)]
pub(crate) enum Elsewhere {
    Namespace(PathBuf),
    Unknown(io::Error),
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(link) => write!(
                f,
                "this is the pid namespace {}, not the host's: pids would name other processes",
                link.display()
            ),
            Self::Unknown(error) => write!(
                f,
                "the pid namespace is not known: /proc/self/ns/pid: {error}"
            ),
        }
    }
}

/// Fails if this is not the initial pid namespace.
pub(crate) fn is_initial() -> Result<(), Elsewhere> {
    match fs::read_link("/proc/self/ns/pid") {
        Ok(link) if link.as_os_str() == INITIAL => Ok(()),
        Ok(link) => Err(Elsewhere::Namespace(link)),
        Err(error) => Err(Elsewhere::Unknown(error)),
    }
}
