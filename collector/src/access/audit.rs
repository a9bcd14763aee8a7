//! Who did what, and what came of it: a log line each, of the target "audit".
//!
//! Takes every Watch and Unwatch, and every refusal. Promises that text from outside
//! cannot break a line or steer a terminal, and that refusals, which anybody can cause,
//! cannot fill the log: of more than [`REFUSALS`] a second it tells only the number.
#![forbid(unsafe_code)]

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use netio::printable;
use tracing::{info, warn};

use super::Caller;

/// Refusals that are written in a second.
const REFUSALS: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);
/// The most characters of a text from outside.
const LONGEST: usize = 200;

/// Writes the lines.
#[derive(Debug, Default)]
pub(crate) struct Audit(Mutex<Refusals>);

/// The refusals of a second.
#[derive(Debug, Default)]
struct Refusals {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Refusals {
    /// Whether to write one more, and how many were left out before.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now - since >= SECOND) {
            self.since = Some(now);
            self.written = 0;
        }
        if self.written == REFUSALS {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Audit {
    /// A call begins; what comes of it is told by [`Entry::end`], or by dropping it if
    /// the caller or the collector leaves before.
    pub(crate) fn begin<'a>(
        &'a self,
        caller: &'a Caller,
        call: &'static str,
        what: String,
    ) -> Entry<'a> {
        Entry {
            audit: self,
            who: &caller.owner,
            call,
            what,
            is_open: true,
        }
    }

    /// Something was refused; `result` is the reason.
    pub(crate) fn refused(&self, who: &str, call: &str, what: &str, result: &str) {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = refusals.admit(Instant::now());
        drop(refusals);
        let Some(left_out) = admitted else { return };
        if left_out > 0 {
            warn!(target: "audit", left_out, "more refusals than are written");
        }
        let (who, call, what) = (brief(who), brief(call), brief(what));
        warn!(target: "audit", who, call, what, result, "refused");
    }
}

/// A call that has begun.
pub(crate) struct Entry<'a> {
    audit: &'a Audit,
    who: &'a str,
    call: &'static str,
    what: String,
    is_open: bool,
}

impl Entry<'_> {
    /// What came of it: a result, or the reason why not.
    pub(crate) fn end(mut self, result: Result<&str, &str>) {
        self.is_open = false;
        match result {
            Ok(result) => self.write(&brief(result)),
            Err(reason) => self.audit.refused(self.who, self.call, &self.what, reason),
        }
    }

    fn write(&self, result: &str) {
        let (who, call, what) = (brief(self.who), self.call, brief(&self.what));
        info!(target: "audit", who, call, what, result, "done");
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.write("unknown: no answer was given");
        }
    }
}

fn brief(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => printable::line(&text[..end]).into_owned() + "…",
        None => printable::line(text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_refusals_than_that_are_only_counted() {
        let mut refusals = Refusals::default();
        let begin = Instant::now();
        for _ in 0..REFUSALS {
            assert_eq!(refusals.admit(begin), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(refusals.admit(begin + SECOND / 2), None);
        }
        assert_eq!(refusals.admit(begin + SECOND), Some(7));
        assert_eq!(refusals.admit(begin + SECOND), Some(0));
    }

    #[test]
    fn text_from_outside_is_made_harmless_and_short() {
        assert_eq!(brief("a\n\u{1b}[2Jb"), "a\u{fffd}\u{fffd}[2Jb");
        assert_eq!(brief(&"ü".repeat(5_000)).chars().count(), LONGEST + 1);
    }
}
