//! Kretprobes with enough return slots.
//!
//! The kernel gives a kretprobe a slot for each call that is under way, by
//! default twice the number of CPUs or ten, and misses the returns of further
//! calls. A hundred threads that block in `send` on full buffers are enough to
//! lose bytes. Only an event made through tracefs can ask for more (at most
//! 4,096, `KRETPROBE_MAXACTIVE_MAX`), and only such an event has its misses
//! counted (`kprobe_profile`).

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process,
};

use super::sys;

/// Return slots: calls that may be under way at once.
const MAX_ACTIVE: u32 = 4096;

/// Where tracefs may be mounted.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Finds tracefs, if it is mounted.
pub(crate) fn tracefs() -> Option<PathBuf> {
    TRACEFS
        .iter()
        .map(PathBuf::from)
        .find(|path| path.join("kprobe_events").exists() || path.join("events").exists())
}

/// An attached kretprobe; gone when dropped.
pub(super) struct Kretprobe {
    tracefs: PathBuf,
    event: String,
    // Dropped by hand, before the event is removed.
    attached: Option<OwnedFd>,
}

impl Kretprobe {
    /// Attaches `program` to the return of `function`.
    pub(super) fn attach(program: BorrowedFd<'_>, function: &str) -> io::Result<Self> {
        let tracefs = tracefs().ok_or_else(|| {
            io::Error::other("tracefs is not mounted: mount -t tracefs nodev /sys/kernel/tracing")
        })?;
        // The pid keeps two collectors' events apart.
        let event = format!("netio_{}_{function}", process::id());
        let definition = format!("r{MAX_ACTIVE}:{GROUP}/{event} {function}\n");
        append(&tracefs, &definition)?;
        let mut probe = Self {
            tracefs,
            event,
            attached: None,
        };
        let id_file = probe
            .tracefs
            .join("events")
            .join(GROUP)
            .join(&probe.event)
            .join("id");
        let id = fs::read_to_string(id_file)?
            .trim()
            .parse()
            .map_err(io::Error::other)?;
        probe.attached = Some(sys::attach_to_event(program, id)?);
        Ok(probe)
    }

    /// Returns that found no slot, so far.
    pub(super) fn missed(&self) -> io::Result<u64> {
        let profile = fs::read_to_string(self.tracefs.join("kprobe_profile"))?;
        Ok(misses(&profile, &self.event))
    }
}

impl Drop for Kretprobe {
    fn drop(&mut self) {
        // An event cannot be removed while it is in use.
        self.attached = None;
        if let Err(error) = append(&self.tracefs, &format!("-:{GROUP}/{}\n", self.event)) {
            tracing::warn!(%error, event = self.event, "the kretprobe's event could not be removed");
        }
    }
}

/// The group that the events stand under.
const GROUP: &str = "netio";

fn append(tracefs: &Path, line: &str) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .open(tracefs.join("kprobe_events"))?
        .write_all(line.as_bytes())
}

/// The third column of an event's line: `name hits misses`.
fn misses(profile: &str, event: &str) -> u64 {
    profile
        .lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            (columns.next() == Some(event)).then(|| columns.nth(1)?.parse::<u64>().ok())?
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::misses;

    #[test]
    fn reads_the_misses_of_its_own_event() {
        let profile = "  netio_7_tcp_sendmsg       9981      3\n  other   1   5\n";
        assert_eq!(misses(profile, "netio_7_tcp_sendmsg"), 3);
        assert_eq!(misses(profile, "netio_7_absent"), 0);
    }
}
