//! How large the maps are.
#![forbid(unsafe_code)]

use std::{fs, io};

use super::AttachError;
use crate::kernel::Slot;

/// The kernel's own upper limit for pids (`PID_MAX_LIMIT` on 64 bits).
const PID_LIMIT: u32 = 1 << 22;
/// Pids fill a page of the allow-list at least.
const LEAST_PIDS: u32 = 1 << 9;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Entries of the allow-list.
    pub(super) pids: u32,
    /// Banks of counters.
    pub(super) cpus: u32,
    /// Slots of the pool: from 1 to this one.
    pub(super) slots: u32,
}

impl Sizes {
    /// For this host.
    pub(super) fn of_host(slots: u32) -> Result<Self, AttachError> {
        let sizes = Self {
            pids: pid_max()?.clamp(LEAST_PIDS, PID_LIMIT),
            cpus: possible_cpus()?,
            slots,
        };
        sizes.elements().map(|_| sizes)
    }

    /// A slot that is never in the pool, to try out hooks with.
    pub(super) fn spare(self) -> Slot {
        Slot(self.slots.saturating_add(1))
    }

    /// Slots of a CPU's bank. Slot 0 is never used, the last one is spare; and whole
    /// pages, so that no two CPUs' banks share one.
    pub(super) fn bank_slots(self) -> u32 {
        self.spare().0.saturating_add(1).next_multiple_of(128)
    }

    /// Elements of the pool's ring: a place is used again only when the slot in it
    /// was taken.
    pub(super) fn pool(self) -> u32 {
        self.bank_slots().next_power_of_two()
    }

    /// Counters of all banks.
    pub(super) fn elements(self) -> Result<u32, AttachError> {
        self.cpus
            .checked_mul(self.bank_slots())
            .ok_or_else(|| AttachError::new("too many processes for this number of CPUs"))
    }
}

/// One more than the highest CPU number that can ever be, which indexes the
/// banks. Not the count of CPUs: their numbers may have gaps.
fn possible_cpus() -> io::Result<u32> {
    let path = "/sys/devices/system/cpu/possible";
    highest(&fs::read_to_string(path)?)
        .map(|cpu| cpu + 1)
        .ok_or_else(|| io::Error::other(format!("{path} is not a list of CPUs")))
}

/// The highest number in a list such as `0-3,8`.
fn highest(list: &str) -> Option<u32> {
    list.trim()
        .split([',', '-'])
        .map(|number| number.parse().ok())
        .collect::<Option<Vec<u32>>>()?
        .into_iter()
        .max()
}

fn pid_max() -> io::Result<u32> {
    let path = "/proc/sys/kernel/pid_max";
    fs::read_to_string(path)?
        .trim()
        .parse()
        .map_err(|_| io::Error::other(format!("{path} is not a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_cpu_counts_not_their_number() {
        assert_eq!(highest("0-1\n"), Some(1));
        assert_eq!(highest("0,2-3,8\n"), Some(8));
        assert_eq!(highest("0\n"), Some(0));
        assert_eq!(highest("none"), None);
    }
}
