//! What `watch` has to say beside its lines: takes what the collector answered
//! and what each tick brought, produces remarks for standard error.

use jiff::Timestamp;
use netio::v1;

use crate::{
    model::Tick,
    process::{self, Process},
    target,
    watched::Update,
};

/// Ticks without a further process that is left out, until the next one is news
/// again.
const QUIET_TICKS: u32 = 10;

/// Names the processes of a watch that was just made, if they are several.
pub(super) fn several(target: &v1::Target, watch: &v1::Watch) -> Option<String> {
    let count = u64::from(watch.process_count);
    let processes: Vec<Process> = watch.processes.iter().cloned().map(Process::from).collect();
    (count > 1).then(|| {
        format!(
            "{} is {}: {}",
            target::describe(target),
            process::count(count),
            process::names(&processes, count)
        )
    })
}

/// What was said so far, as far as it decides what is news.
#[derive(Debug, Default)]
pub(super) struct Notes {
    left_out: LeftOut,
    /// Whether the watches were there before.
    is_about_found: bool,
    /// Whether the connection was lost since the tick before.
    is_after_outage: bool,
}

impl Notes {
    /// Nothing was said yet, about watches that were there before or not.
    pub(super) fn new(is_about_found: bool) -> Self {
        Self {
            is_about_found,
            ..Self::default()
        }
    }

    /// The connection was lost, and is there again.
    pub(super) fn note_outage(&mut self) {
        self.is_after_outage = true;
    }

    /// What there is to say about a tick.
    pub(super) fn about(&mut self, update: &Update) -> Vec<String> {
        let is_after_outage = std::mem::take(&mut self.is_after_outage);
        let skipped = skipped(&update.tick, is_after_outage);
        let mut notes: Vec<String> = skipped.into_iter().collect();
        notes.extend(update.anew.iter().map(runs_anew));
        let did_skip = update.tick.skipped_ticks > 0;
        let lost = update.lost.iter();
        notes.extend(lost.map(|target| self.no_more(target, did_skip)));
        notes.extend(self.left_out.take(update.tick.map_full_processes));
        notes
    }

    /// That a watch is gone. An end is told once: whoever missed that tick learns
    /// no more of it.
    pub(super) fn no_more(&self, target: &str, did_skip: bool) -> String {
        let why = match (did_skip, self.is_about_found) {
            (true, _) => {
                "its process exited or its watch was ended, within a tick that was skipped"
            }
            (false, true) => "its watch was ended, or its lease ran out",
            (false, false) => {
                "its watch was ended by somebody else with the same owner, or its lease ran out"
            }
        };
        format!("no more samples of {target}: {why}")
    }
}

fn skipped(tick: &Tick, is_after_outage: bool) -> Option<String> {
    let why = if is_after_outage {
        "are missing: the collector could not be reached, and its history does not tell them"
    } else {
        "skipped, because the lines were not read in time"
    };
    let count = tick.skipped_ticks;
    (count > 0).then(|| format!("{count} tick(s) {why}; the totals are complete"))
}

/// That the history begins later than was asked for, if it does.
pub(super) fn short_history(asked: Timestamp, first: &Tick) -> Option<String> {
    let begin = first.begin()?;
    // The clocks that tell times and intervals are not quite the same.
    let tolerated = asked.checked_add(first.interval / 2).ok()?;
    (begin > tolerated).then(|| {
        let begin = begin.strftime("%Y-%m-%dT%H:%M:%SZ");
        format!("the history begins at {begin}, which is later than asked for")
    })
}

fn runs_anew(process: &Process) -> String {
    format!("{} runs anew: pid {}", process.name, process.pid)
}

/// How many processes got no line of their own, as the collector counts them
/// since its start. They come in bursts, and each is told once.
#[derive(Debug, Default)]
struct LeftOut {
    /// The count before this command looked, and in the tick before.
    counts: Option<(u64, u64)>,
    /// Ticks without growth to come before growth is news; 0: it is.
    quiet_for: u32,
}

impl LeftOut {
    fn take(&mut self, count: u64) -> Option<String> {
        let (first, before) = *self.counts.get_or_insert((count, count));
        self.counts = Some((first, count));
        let has_grown = count > before;
        let is_news = has_grown && self.quiet_for == 0;
        self.quiet_for = if has_grown {
            QUIET_TICKS
        } else {
            self.quiet_for.saturating_sub(1)
        };
        is_news.then(|| {
            let more = count.saturating_sub(first);
            let have = if more == 1 {
                "has no line of its own"
            } else {
                "have no line of their own"
            };
            format!(
                "{} {have} (the sums hold their bytes)",
                process::count(more)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{process, tick};

    fn watch(pids: std::ops::Range<u32>, process_count: u32) -> v1::Watch {
        let processes = pids.map(|pid| v1::Process {
            pid,
            name: "db\u{1b}".to_owned(),
            ..v1::Process::default()
        });
        v1::Watch {
            processes: processes.collect(),
            process_count,
            ..v1::Watch::default()
        }
    }

    fn update(tick: Tick) -> Update {
        Update {
            tick,
            lost: Vec::new(),
            unknown: Vec::new(),
            anew: Vec::new(),
        }
    }

    #[test]
    fn several_processes_are_named_and_one_is_not() {
        let target = v1::Target::name("db");
        assert_eq!(several(&target, &watch(7..8, 1)), None);
        assert_eq!(several(&target, &watch(0..0, 0)), None);
        assert_eq!(
            several(&target, &watch(7..9, 2)).as_deref(),
            Some("name db is 2 processes: 7 db\u{fffd}, 8 db\u{fffd}")
        );
    }

    #[test]
    fn skips_and_lost_watches_are_noted() {
        let mut update = update(tick(9, vec![]));
        let mut notes = Notes::default();
        assert!(notes.about(&update).is_empty());
        update.lost = vec!["pid 7".to_owned()];
        let told = notes.about(&update);
        assert!(
            told[0].contains("pid 7: its watch was ended by somebody else"),
            "{told:?}"
        );
        update.tick.skipped_ticks = 3;
        let told = notes.about(&update);
        assert!(told[0].contains("3 tick(s) skipped"), "{told:?}");
        assert!(told[1].contains("exited or"), "{told:?}");
    }

    #[test]
    fn ticks_that_an_outage_took_are_told_as_such_once() {
        let mut update = update(tick(9, vec![]));
        update.tick.skipped_ticks = 3;
        let mut notes = Notes::new(true);
        notes.note_outage();
        assert!(notes.about(&update)[0].contains("3 tick(s) are missing"));
        assert!(notes.about(&update)[0].contains("not read in time"));
        // Only the first tick after it can tell what is missing.
        update.tick.skipped_ticks = 0;
        notes.note_outage();
        assert!(notes.about(&update).is_empty());
        update.tick.skipped_ticks = 1;
        assert!(notes.about(&update)[0].contains("not read in time"));
    }

    #[test]
    fn a_found_watch_may_be_ended_by_its_owner() {
        let mut update = update(tick(9, vec![]));
        update.lost = vec!["port 1".to_owned()];
        let told = Notes::new(true).about(&update);
        let why = "no more samples of port 1: its watch was ended, or its lease ran out";
        assert_eq!(told, [why]);
    }

    #[test]
    fn a_history_that_is_too_short_is_told() {
        // It is of 12:00:09, and of the second before.
        let first = tick(9, vec![]);
        for (asked, note) in [
            ("2026-03-01T12:00:08Z", None),
            ("2026-03-01T12:00:08.9Z", None),
            ("2026-03-01T12:00:07.9Z", None),
            (
                "2026-03-01T11:55:00Z",
                Some("the history begins at 2026-03-01T12:00:08Z, which is later than asked for"),
            ),
        ] {
            let said = short_history(asked.parse().unwrap(), &first);
            assert_eq!(said.as_deref(), note, "{asked}");
        }
    }

    #[test]
    fn a_process_that_runs_anew_is_named() {
        let mut update = update(tick(9, vec![]));
        update.anew = vec![process(7)];
        let told = Notes::default().about(&update);
        assert_eq!(told, ["process7 runs anew: pid 7"]);
    }

    #[test]
    fn each_burst_of_processes_without_a_line_is_told_once() {
        let mut notes = Notes::default();
        let mut said = |count| {
            let mut tick = tick(1, vec![]);
            tick.map_full_processes = count;
            notes.about(&update(tick))
        };
        // What was left out before is not this command's.
        assert!(said(100).is_empty());
        assert_eq!(
            said(101),
            ["1 process has no line of its own (the sums hold their bytes)"]
        );
        assert!(said(105).is_empty(), "the same burst");
        for _ in 0..QUIET_TICKS - 1 {
            assert!(said(105).is_empty());
        }
        assert!(said(106).is_empty(), "the burst goes on");
        for _ in 0..QUIET_TICKS {
            assert!(said(106).is_empty());
        }
        assert_eq!(
            said(110),
            ["10 processes have no line of their own (the sums hold their bytes)"]
        );
    }
}
