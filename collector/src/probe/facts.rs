//! What the kernel tells of a program, by its descriptor.
//!
//! Takes a descriptor, whose facts /proc shows; so it needs no right to look programs
//! up by their ids, which is root's. But for [`is_loaded`], which does.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

/// The facts, as text.
pub(super) struct Facts(String);

impl Facts {
    pub(super) fn of(program: BorrowedFd<'_>) -> io::Result<Self> {
        let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
        fs::read_to_string(path).map(Self)
    }

    pub(super) fn id(&self) -> Option<u64> {
        self.get("prog_id:")
    }

    /// Calls that it missed, as it was running already; the kernel tells since 5.12.
    pub(super) fn recursion_misses(&self) -> Option<u64> {
        self.get("recursion_misses:")
    }

    /// How often it ran, and for how long, while that was measured.
    pub(super) fn runs(&self) -> Option<(u64, Duration)> {
        let time = Duration::from_nanos(self.get("run_time_ns:")?);
        Some((self.get("run_cnt:")?, time))
    }

    fn get(&self, key: &str) -> Option<u64> {
        let mut lines = self.0.lines();
        lines.find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    }
}

/// Whether anybody has loaded a program of this name; no, if that cannot be told.
pub(super) fn is_loaded(name: &str) -> bool {
    let mut programs = aya::programs::loaded_programs().flatten();
    programs.any(|program| program.name_as_str() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_there_is() {
        let facts = Facts("pos:\t0\nprog_id:\t7\nrun_time_ns:\t9\nrun_cnt:\t3\n".to_owned());
        assert_eq!(facts.id(), Some(7));
        assert_eq!(facts.recursion_misses(), None);
        assert_eq!(facts.runs(), Some((3, Duration::from_nanos(9))));
    }
}
