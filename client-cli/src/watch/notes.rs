//! What `watch` has to say beside its lines: takes what the collector answered
//! and what each tick brought, produces remarks for standard error.

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
}

impl Notes {
    /// What there is to say about a tick.
    pub(super) fn about(&mut self, update: &Update) -> Vec<String> {
        let mut notes: Vec<String> = skipped(&update.tick).into_iter().collect();
        notes.extend(update.anew.iter().map(runs_anew));
        let lost = update.lost.iter();
        notes.extend(lost.map(|target| no_more(target, &update.tick)));
        notes.extend(self.left_out.take(update.tick.map_full_processes));
        notes
    }
}

fn skipped(tick: &Tick) -> Option<String> {
    (tick.skipped_ticks > 0).then(|| {
        format!(
            "{} tick(s) skipped, because the lines were not read in time; the totals are complete",
            tick.skipped_ticks
        )
    })
}

fn runs_anew(process: &Process) -> String {
    format!("{} runs anew: pid {}", process.name, process.pid)
}

/// An end is told once. Whoever missed that tick learns no more of it.
fn no_more(target: &str, tick: &Tick) -> String {
    let why = if tick.skipped_ticks > 0 {
        "its process exited or its watch was ended, within a tick that was skipped"
    } else {
        "its watch was ended by somebody else with the same owner, or its lease ran out"
    };
    format!("no more samples of {target}: {why}")
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
