//! The watches of this client and how each stands, as a pure state machine:
//! takes ticks, produces the part of each that is to be shown.
//!
//! Promises: samples come in the order in which their processes were named,
//! none after its process exited, and a watch that somebody else ended is
//! noticed rather than waited for. Holds one entry per watch made, so no more
//! than the collector allows.

use std::collections::HashMap;

use jiff::Timestamp;
use netio::v1;

use crate::model::{Sample, Tick, timestamp};

/// The watches that this client made.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    watch_id: String,
    pid: u32,
    /// When counting began, by the collector's clock.
    create_time: Option<Timestamp>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// In no tick yet.
    New,
    /// In ticks.
    Sampled,
    /// Its process exited or the watch ended: it will be in no tick again.
    Over,
}

/// What a tick brought.
#[derive(Debug, PartialEq)]
pub(crate) struct Update {
    /// The tick with only the samples of this client's watches.
    pub(crate) tick: Tick,
    /// Pids whose watch is gone though their process was not seen to exit.
    pub(crate) lost: Vec<u32>,
    /// Whether there were samples of other watches too.
    pub(crate) others: bool,
}

impl Watched {
    /// Adds a watch that the collector made for `pid`.
    pub(crate) fn add(&mut self, pid: u32, watch: &v1::Watch) {
        self.entries.push(Entry {
            watch_id: watch.watch_id.clone(),
            pid,
            create_time: watch.create_time.and_then(timestamp),
            phase: Phase::New,
        });
    }

    /// The ids of the watches that live, as far as is known.
    pub(crate) fn live(&self) -> Vec<String> {
        self.entries
            .iter()
            .filter(|entry| entry.phase != Phase::Over)
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
        let received = tick.samples.len();
        let mut samples: HashMap<String, Sample> = tick
            .samples
            .drain(..)
            .map(|sample| (sample.watch_id.clone(), sample))
            .collect();
        let mut lost = Vec::new();
        for entry in &mut self.entries {
            if entry.phase == Phase::Over {
                continue;
            }
            match samples.remove(&entry.watch_id) {
                Some(mut sample) => {
                    entry.phase = if sample.exited {
                        Phase::Over
                    } else {
                        Phase::Sampled
                    };
                    sample.pid = entry.pid;
                    sample.begin = entry.create_time;
                    tick.samples.push(sample);
                }
                None if entry.must_be_in(&tick) => {
                    entry.phase = Phase::Over;
                    lost.push(entry.pid);
                }
                None => {}
            }
        }
        Update {
            others: tick.samples.len() < received,
            tick,
            lost,
        }
    }
}

impl Entry {
    /// Whether a tick without this watch proves that the watch is gone. One
    /// that was under way while the watch was made proves nothing.
    fn must_be_in(&self, tick: &Tick) -> bool {
        self.phase == Phase::Sampled
            || self.create_time.is_some_and(|create_time| {
                tick.time
                    .checked_sub(tick.interval)
                    .is_ok_and(|begin| begin > create_time)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{sample, tick};

    /// Watches of these pids, made within tick 1, with ids "w-PID".
    fn watched(pids: &[u32]) -> Watched {
        let mut watched = Watched::default();
        let create_time = prost_types::Timestamp {
            seconds: tick(0, vec![]).time.as_second(),
            nanos: 500_000_000,
        };
        for pid in pids {
            let watch = v1::Watch {
                watch_id: format!("w-{pid}"),
                create_time: Some(create_time),
                ..v1::Watch::default()
            };
            watched.add(*pid, &watch);
        }
        watched
    }

    fn exited(watch_id: &str, pid: u32) -> Sample {
        Sample {
            exited: true,
            ..sample(watch_id, pid)
        }
    }

    fn pids(update: &Update) -> Vec<u32> {
        update
            .tick
            .samples
            .iter()
            .map(|sample| sample.pid)
            .collect()
    }

    #[test]
    fn own_samples_in_the_order_of_the_pids() {
        let mut watched = watched(&[7, 3]);
        let update = watched.advance(tick(
            1,
            vec![sample("w-3", 3), sample("w-5", 5), sample("w-7", 7)],
        ));
        assert_eq!(pids(&update), [7, 3]);
        assert!(
            update
                .tick
                .samples
                .iter()
                .all(|sample| sample.begin.is_some())
        );
        assert!(update.others);
        let update = watched.advance(tick(2, vec![sample("w-3", 3), sample("w-7", 7)]));
        assert!(!update.others);
    }

    #[test]
    fn over_when_every_process_exited() {
        let mut watched = watched(&[7, 3]);
        watched.advance(tick(1, vec![exited("w-7", 7), sample("w-3", 3)]));
        assert!(!watched.all_over());
        assert_eq!(watched.live(), ["w-3"]);
        let update = watched.advance(tick(2, vec![exited("w-3", 3)]));
        assert_eq!(pids(&update), [3]);
        assert!(watched.all_over() && watched.live().is_empty());
    }

    #[test]
    fn a_watch_that_was_ended_lives_no_more() {
        let mut watched = watched(&[7, 3]);
        watched.ended("w-7");
        assert_eq!(watched.live(), ["w-3"]);
    }

    #[test]
    fn a_watch_that_stops_to_appear_is_lost() {
        let mut watched = watched(&[7]);
        watched.advance(tick(1, vec![sample("w-7", 7)]));
        let update = watched.advance(tick(2, vec![]));
        assert_eq!(update.lost, [7]);
        assert!(watched.all_over());
    }

    #[test]
    fn a_tick_from_before_the_watch_proves_nothing() {
        let mut watched = watched(&[7]);
        for early in [0, 1] {
            assert!(watched.advance(tick(early, vec![])).lost.is_empty());
        }
        assert_eq!(watched.advance(tick(2, vec![])).lost, [7]);
    }
}
