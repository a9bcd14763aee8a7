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
    time::{SystemTime, UNIX_EPOCH},
};

use super::sys;

/// Return slots: calls that may be under way at once.
const MAX_ACTIVE: u32 = 4096;

/// Where tracefs may be mounted.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Finds tracefs, if it is mounted and readable.
pub(crate) fn tracefs() -> io::Result<PathBuf> {
    let mut denied = None;
    for path in TRACEFS.map(PathBuf::from) {
        match path.join("events").metadata() {
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => denied = Some(path),
            Err(_) => {}
        }
    }
    Err(match denied {
        Some(path) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("tracefs at {} may not be read", path.display()),
        ),
        None => io::Error::new(io::ErrorKind::NotFound, "tracefs is not mounted"),
    })
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
        let tracefs = tracefs()?;
        // Two collectors' events must not meet, also if both have the same pid
        // in namespaces of their own.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let event = format!("pid{}_{}_{function}", process::id(), now.as_nanos());
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
    let path = tracefs.join("kprobe_events");
    OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Removes the events that a collector which was killed has left behind. One
/// that is in use refuses to go.
pub(super) fn sweep() {
    let Ok(tracefs) = tracefs() else { return };
    let events = fs::read_to_string(tracefs.join("kprobe_events")).unwrap_or_default();
    for event in left_behind(&events) {
        match append(&tracefs, &format!("-:{GROUP}/{event}\n")) {
            Ok(()) => tracing::info!(event, "removed an event that was left behind"),
            Err(error) => tracing::debug!(event, %error, "an event is in use"),
        }
    }
}

/// The names of our group's events in a listing such as
/// `r4096:netio/pid7_1_tcp_sendmsg tcp_sendmsg`.
fn left_behind(events: &str) -> impl Iterator<Item = &str> {
    events.lines().filter_map(|line| {
        let (group, event) = line
            .split_whitespace()
            .next()?
            .split_once(':')?
            .1
            .split_once('/')?;
        (group == GROUP).then_some(event)
    })
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
    use super::*;

    #[test]
    fn reads_the_misses_of_its_own_event() {
        let profile = "  pid7_1_tcp_sendmsg       9981      3\n  other   1   5\n";
        assert_eq!(misses(profile, "pid7_1_tcp_sendmsg"), 3);
        assert_eq!(misses(profile, "pid7_1_absent"), 0);
    }

    #[test]
    fn finds_its_own_events_among_others() {
        let events = "r4096:netio/pid7_1_tcp_sendmsg tcp_sendmsg\np:kprobes/other do_sys_open\n";
        assert_eq!(
            left_behind(events).collect::<Vec<_>>(),
            ["pid7_1_tcp_sendmsg"]
        );
    }
}
