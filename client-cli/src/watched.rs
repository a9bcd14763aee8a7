//! The watches that this client shows and how each stands, as a pure state
//! machine: takes ticks, produces the part of each that is to be shown.
//!
//! Promises: samples come in the order in which their targets were named, none
//! after a watch ended, and a watch that ended otherwise than with its processes
//! is noticed rather than waited for. Holds one entry per watch made or named,
//! so no more than the collector allows.
//!
//! Where ticks leave out what was idle, that a watch is missing proves nothing;
//! whether it is there still, the collector's list tells. [`outage`] is about
//! watches that did not outlive a time without connection.

use std::collections::HashMap;

use jiff::Timestamp;
use netio::v1;

use crate::{
    model::{Sample, State, Tick, timestamp},
    process::Process,
    target, text,
};

mod outage;

/// The watches that this client shows.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    entries: Vec<Entry>,
    /// Whether a watch that is idle and stands as before is left out.
    only_changed: bool,
}

#[derive(Debug)]
struct Entry {
    watch_id: String,
    /// What it is for, in words.
    target: String,
    is_rule: bool,
    /// How it came to be shown.
    source: Source,
    /// When counting began, by the collector's clock.
    create_time: Option<Timestamp>,
    phase: Phase,
    /// Whether it was missing in the collector's list.
    is_missing: bool,
    /// How it was when it was last shown.
    shown: Option<State>,
    /// The process that was last seen to be the oldest.
    oldest: Option<Process>,
    /// Whether no other process ran beside it when it was seen last, so that one
    /// that is the oldest now must have come since.
    was_alone: bool,
}

#[derive(Debug)]
enum Source {
    /// This client made it, for this target.
    Made(v1::Target, Life),
    /// It was there.
    Found,
    /// The collector has it no longer. Its history may, in this tick or before.
    Past(u64),
}

/// Whether the collector still has a watch that this client made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// As far as is known.
    Goes,
    /// It has not, but ticks of the history may tell more of it.
    Ended,
    /// It has not, and the ticks have told all: it is to be made anew.
    ToBeMade,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// In no tick yet.
    New,
    /// In ticks.
    Sampled,
    /// Its processes exited or the watch ended: it will be in no tick again.
    Over,
}

/// What a tick brought.
#[derive(Debug, PartialEq)]
pub(crate) struct Update {
    /// The tick with only the samples of this client's watches.
    pub(crate) tick: Tick,
    /// Targets whose watch is gone though their processes were not seen to exit.
    pub(crate) lost: Vec<String>,
    /// Ids that neither the collector nor its history knows.
    pub(crate) unknown: Vec<String>,
    /// Processes that took the place of those that a rule had before.
    pub(crate) anew: Vec<Process>,
}

impl Watched {
    /// None yet. With `only_changed` a watch that is idle and stands as it did
    /// when it was last shown is left out, whatever the ticks hold.
    pub(crate) fn new(only_changed: bool) -> Self {
        Self {
            entries: Vec::new(),
            only_changed,
        }
    }

    /// Adds a watch that the collector made for `target`.
    pub(crate) fn add(&mut self, target: &v1::Target, watch: &v1::Watch) {
        let source = Source::Made(target.clone(), Life::Goes);
        self.push(target, watch, source);
    }

    /// Adds a watch that was there, whoever made it.
    pub(crate) fn add_found(&mut self, watch: &v1::Watch) {
        let target = watch.target.clone().unwrap_or_default();
        self.push(&target, watch, Source::Found);
    }

    /// Adds a watch that the collector has no longer; if its history does, then
    /// in the tick of this sequence or before.
    pub(crate) fn add_past(&mut self, watch_id: &str, sequence: u64) {
        let watch = v1::Watch {
            watch_id: watch_id.to_owned(),
            ..v1::Watch::default()
        };
        self.push(&v1::Target::default(), &watch, Source::Past(sequence));
    }

    fn push(&mut self, target: &v1::Target, watch: &v1::Watch, source: Source) {
        self.entries.push(Entry {
            watch_id: watch.watch_id.clone(),
            target: match source {
                Source::Past(_) => format!("watch {}", text::line(&watch.watch_id)),
                _ => target::describe(target),
            },
            is_rule: target::is_rule(target),
            source,
            create_time: watch.create_time.and_then(timestamp),
            phase: Phase::New,
            is_missing: false,
            shown: None,
            oldest: watch.processes.first().cloned().map(Process::from),
            was_alone: watch.process_count <= 1,
        });
    }

    /// The ids of the watches that ticks tell of, or will.
    pub(crate) fn live(&self) -> Vec<String> {
        self.ids_of(|entry| !entry.has_life(Life::ToBeMade))
    }

    /// The ids of those among them that this client made, and that live as far
    /// as is known.
    pub(crate) fn own(&self) -> Vec<String> {
        self.ids_of(|entry| entry.has_life(Life::Goes))
    }

    fn ids_of(&self, is_meant: impl Fn(&Entry) -> bool) -> Vec<String> {
        self.entries
            .iter()
            .filter(|entry| entry.phase != Phase::Over && is_meant(entry))
            .map(|entry| entry.watch_id.clone())
            .collect()
    }

    /// Notes that the collector ended this watch.
    pub(crate) fn ended(&mut self, watch_id: &str) {
        let entries = self.entries.iter_mut();
        for entry in entries.filter(|entry| entry.watch_id == watch_id) {
            entry.phase = Phase::Over;
        }
    }

    /// Whether nothing is left to wait for.
    pub(crate) fn all_over(&self) -> bool {
        self.entries.iter().all(|entry| entry.phase == Phase::Over)
    }

    /// Takes the next tick.
    pub(crate) fn advance(&mut self, mut tick: Tick) -> Update {
        let mut samples: HashMap<String, Sample> = tick
            .samples
            .drain(..)
            .map(|sample| (sample.watch_id.clone(), sample))
            .collect();
        let (mut lost, mut unknown, mut anew) = (Vec::new(), Vec::new(), Vec::new());
        for entry in &mut self.entries {
            if entry.phase == Phase::Over {
                continue;
            }
            match samples.remove(&entry.watch_id) {
                Some(mut sample) => {
                    entry.phase = if sample.state == State::Exited {
                        Phase::Over
                    } else {
                        Phase::Sampled
                    };
                    anew.extend(entry.successor(&sample));
                    sample.target.clone_from(&entry.target);
                    sample.begin = entry.create_time;
                    let is_as_before = sample.is_idle() && entry.shown == Some(sample.state);
                    entry.shown = Some(sample.state);
                    if !(self.only_changed && is_as_before) {
                        tick.samples.push(sample);
                    }
                }
                None if entry.is_unknown(&tick) => {
                    entry.phase = Phase::Over;
                    unknown.push(entry.watch_id.clone());
                }
                None if entry.must_be_in(&tick) && !entry.is_to_be_made() => {
                    entry.phase = Phase::Over;
                    lost.push(entry.target.clone());
                }
                None => {}
            }
        }
        Update {
            tick,
            lost,
            unknown,
            anew,
        }
    }

    /// Compares with the collector's list of its watches; produces the targets of
    /// those that are lost: missing in two lists, lest the ticks that tell of
    /// their end are still under way.
    pub(crate) fn compare(&mut self, list: &[v1::Watch]) -> Vec<String> {
        let mut lost = Vec::new();
        for entry in &mut self.entries {
            let was_missing = entry.is_missing;
            let is_listed = match entry.source {
                Source::Made(_, Life::Goes) | Source::Found => entry.is_in(list),
                // Here the ticks tell.
                Source::Made(..) | Source::Past(_) => true,
            };
            entry.is_missing = entry.phase != Phase::Over && !is_listed;
            if entry.is_missing && was_missing {
                entry.phase = Phase::Over;
                lost.push(entry.target.clone());
            }
        }
        lost
    }
}

impl Entry {
    /// Whether a tick without this watch proves that the watch is gone. One
    /// that was under way while the watch was made proves nothing.
    fn must_be_in(&self, tick: &Tick) -> bool {
        let is_after_creation = || {
            self.create_time
                .is_some_and(|create_time| tick.begin().is_some_and(|begin| begin > create_time))
        };
        !tick.omits_idle && (self.phase == Phase::Sampled || is_after_creation())
    }

    /// Whether the history has come to its end without this watch.
    fn is_unknown(&self, tick: &Tick) -> bool {
        match self.source {
            Source::Past(until) => self.phase == Phase::New && tick.sequence >= until,
            _ => false,
        }
    }

    /// Whether the list has this very watch, and not one of another run of the
    /// collector with the same id.
    fn is_in(&self, list: &[v1::Watch]) -> bool {
        let is_it = |watch: &v1::Watch| {
            watch.watch_id == self.watch_id
                && watch.create_time.and_then(timestamp) == self.create_time
        };
        list.iter().any(is_it)
    }

    /// The process that runs in the place of an earlier one, told once. Where
    /// several run, that the oldest is gone does not make the next one new.
    fn successor(&mut self, sample: &Sample) -> Option<Process> {
        let runs = sample.state == State::Running;
        let was_alone = self.was_alone;
        self.was_alone = !runs || sample.process_count <= 1;
        let process = sample.process.clone()?;
        let earlier = self.oldest.replace(process.clone())?;
        let is_new = self.is_rule && runs && was_alone && !process.is(&earlier);
        is_new.then_some(process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{process, sample, tick, waiting};

    /// Watches of these targets, made within tick 1, with ids "w-1" and on.
    fn watched(targets: &[v1::Target]) -> Watched {
        let mut watched = Watched::default();
        let create_time = prost_types::Timestamp {
            seconds: tick(0, vec![]).time.as_second(),
            nanos: 500_000_000,
        };
        for (index, target) in targets.iter().enumerate() {
            let watch = v1::Watch {
                watch_id: format!("w-{}", index + 1),
                create_time: Some(create_time),
                ..v1::Watch::default()
            };
            watched.add(target, &watch);
        }
        watched
    }

    fn pids(pids: &[u32]) -> Watched {
        let targets: Vec<_> = pids.iter().copied().map(v1::Target::pid).collect();
        watched(&targets)
    }

    fn exited(watch_id: &str, pid: u32) -> Sample {
        Sample {
            state: State::Exited,
            ..sample(watch_id, pid)
        }
    }

    fn targets(update: &Update) -> Vec<&str> {
        let samples = update.tick.samples.iter();
        samples.map(|sample| sample.target.as_str()).collect()
    }

    #[test]
    fn own_samples_in_the_order_of_the_targets() {
        let mut watched = watched(&[v1::Target::pid(7), v1::Target::port(3306)]);
        let update = watched.advance(tick(
            1,
            vec![sample("w-2", 3), sample("w-5", 5), sample("w-1", 7)],
        ));
        assert_eq!(targets(&update), ["pid 7", "port 3306"]);
        let samples = &update.tick.samples;
        assert!(samples.iter().all(|sample| sample.begin.is_some()));
    }

    #[test]
    fn over_when_every_process_exited() {
        let mut watched = pids(&[7, 3]);
        watched.advance(tick(1, vec![exited("w-1", 7), sample("w-2", 3)]));
        assert!(!watched.all_over());
        assert_eq!(watched.live(), ["w-2"]);
        let update = watched.advance(tick(2, vec![exited("w-2", 3)]));
        assert_eq!(targets(&update), ["pid 3"]);
        assert!(watched.all_over() && watched.live().is_empty());
    }

    #[test]
    fn a_rule_that_waits_is_not_over() {
        let mut watched = watched(&[v1::Target::port(3306)]);
        watched.advance(tick(1, vec![sample("w-1", 7)]));
        let update = watched.advance(tick(2, vec![waiting("w-1", "")]));
        assert_eq!(targets(&update), ["port 3306"]);
        assert!(!watched.all_over());
    }

    #[test]
    fn a_watch_that_was_ended_lives_no_more() {
        let mut watched = pids(&[7, 3]);
        watched.ended("w-1");
        assert_eq!(watched.live(), ["w-2"]);
    }

    #[test]
    fn a_watch_that_stops_to_appear_is_lost() {
        let mut watched = pids(&[7]);
        watched.advance(tick(1, vec![sample("w-1", 7)]));
        let update = watched.advance(tick(2, vec![]));
        assert_eq!(update.lost, ["pid 7"]);
        assert!(watched.all_over());
    }

    #[test]
    fn a_tick_without_what_is_idle_proves_nothing_and_two_lists_do() {
        let mut watched = pids(&[7]);
        watched.advance(tick(1, vec![sample("w-1", 7)]));
        let mut without = tick(2, vec![]);
        without.omits_idle = true;
        assert!(watched.advance(without).lost.is_empty());
        // The same id in another run of the collector is another watch.
        let another = v1::Watch {
            watch_id: "w-1".to_owned(),
            ..v1::Watch::default()
        };
        assert!(watched.compare(std::slice::from_ref(&another)).is_empty());
        assert_eq!(watched.compare(&[another]), ["pid 7"]);
        assert!(watched.all_over());
    }

    #[test]
    fn a_tick_from_before_the_watch_proves_nothing() {
        let mut watched = pids(&[7]);
        for early in [0, 1] {
            assert!(watched.advance(tick(early, vec![])).lost.is_empty());
        }
        assert_eq!(watched.advance(tick(2, vec![])).lost, ["pid 7"]);
    }

    /// The processes that run anew in each tick of these samples of a watch.
    fn anew(target: v1::Target, samples: Vec<Sample>) -> Vec<Vec<u32>> {
        let mut watched = watched(&[target]);
        samples
            .into_iter()
            .map(|sample| {
                let update = watched.advance(tick(1, vec![sample]));
                update.anew.iter().map(|process| process.pid).collect()
            })
            .collect()
    }

    fn beside_others(pid: u32, process_count: u32) -> Sample {
        Sample {
            process_count,
            ..sample("w-1", pid)
        }
    }

    /// It waits; this process was the last.
    fn waiting_after(pid: u32) -> Sample {
        Sample {
            process: Some(process(pid)),
            ..waiting("w-1", "")
        }
    }

    #[test]
    fn a_process_that_follows_another_runs_anew_and_is_told_once() {
        // With a tick in which nothing ran, and with both in one tick.
        let rule = v1::Target::name("db");
        let samples = vec![
            waiting("w-1", ""),
            sample("w-1", 7),
            waiting_after(7),
            sample("w-1", 8),
            sample("w-1", 8),
            beside_others(9, 2),
            sample("w-1", 9),
        ];
        assert_eq!(
            anew(rule, samples),
            [vec![], vec![], vec![], vec![8], vec![], vec![9], vec![]]
        );
    }

    #[test]
    fn a_pid_that_is_used_again_is_a_process_that_runs_anew() {
        let mut again = sample("w-1", 7);
        again.process.as_mut().unwrap().start_time_ns = 99;
        let samples = vec![sample("w-1", 7), again];
        assert_eq!(anew(v1::Target::port(1), samples), [vec![], vec![7]]);
    }

    #[test]
    fn the_next_oldest_of_several_has_run_all_along() {
        let samples = vec![beside_others(7, 3), beside_others(8, 3)];
        assert_eq!(anew(v1::Target::name("db"), samples), [[0; 0]; 2]);
    }

    #[test]
    fn what_the_watch_began_with_counts_as_seen() {
        let mut watched = Watched::default();
        let watch = v1::Watch {
            watch_id: "w-1".to_owned(),
            processes: vec![v1::Process {
                pid: 7,
                start_time_ns: 7,
                ..v1::Process::default()
            }],
            process_count: 1,
            ..v1::Watch::default()
        };
        watched.add(&v1::Target::port(1), &watch);
        let update = watched.advance(tick(1, vec![sample("w-1", 8)]));
        assert_eq!(update.anew, [process(8)]);
    }

    #[test]
    fn a_pid_never_runs_anew() {
        let samples = vec![sample("w-1", 7), sample("w-1", 8)];
        assert_eq!(anew(v1::Target::pid(7), samples), [[0; 0]; 2]);
    }
}
