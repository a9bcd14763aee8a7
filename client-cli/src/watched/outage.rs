//! What becomes of the own watches while the collector cannot be reached: their
//! leases may run out, or the collector is another one afterwards. Takes what the
//! collector says when it is back, tells which are to be made anew, and takes
//! what was made instead.
//!
//! A watch that ended is not made anew before the ticks of the history have told
//! all of it: they may tell that its process exited.

use netio::v1;

use super::{Entry, Life, Phase, Source, Watched};
use crate::{model::timestamp, process::Process};

/// Names an entry that is to be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize);

impl Watched {
    /// Notes which of the own watches have ended, by the collector's list.
    pub(crate) fn note_ended(&mut self, list: &[v1::Watch]) {
        for entry in &mut self.entries {
            if entry.has_life(Life::Goes) && !entry.is_in(list) {
                entry.own_life_is(Life::Ended);
            }
        }
    }

    /// No tick will tell more of those that have ended.
    pub(crate) fn expect_no_more_of_ended(&mut self) {
        for entry in &mut self.entries {
            if entry.has_life(Life::Ended) {
                entry.own_life_is(Life::ToBeMade);
            }
        }
    }

    /// The collector was restarted: no watch of before is there any more.
    pub(crate) fn note_restart(&mut self) {
        for entry in &mut self.entries {
            entry.own_life_is(Life::ToBeMade);
        }
    }

    /// Whether ticks are still to tell of watches that are in no list any more:
    /// only ticks that leave out nothing show where these end.
    pub(crate) fn needs_every_sample(&self) -> bool {
        let is_past = |entry: &Entry| matches!(entry.source, Source::Past(_));
        let mut entries = self.entries.iter();
        entries.any(|entry| {
            entry.phase != Phase::Over && (is_past(entry) || entry.has_life(Life::Ended))
        })
    }

    /// The watches to be made anew, and for what.
    pub(crate) fn to_be_made(&self) -> Vec<(Place, v1::Target)> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter(|(_, entry)| entry.phase != Phase::Over)
            .filter_map(|(index, entry)| match &entry.source {
                Source::Made(target, Life::ToBeMade) => Some((Place(index), target.clone())),
                _ => None,
            })
            .collect()
    }

    /// Takes a watch that was made instead. Not one of another process that has
    /// the pid by now: then the watch is over, and this is false.
    pub(crate) fn replace(&mut self, place: Place, watch: &v1::Watch) -> bool {
        let Some(entry) = self.entries.get_mut(place.0) else {
            return false;
        };
        let process = watch.processes.first().cloned().map(Process::from);
        let is_another = match (&entry.oldest, &process) {
            (Some(before), Some(now)) => !entry.is_rule && !before.is(now),
            _ => false,
        };
        if is_another {
            entry.phase = Phase::Over;
            return false;
        }
        entry.watch_id.clone_from(&watch.watch_id);
        entry.create_time = watch.create_time.and_then(timestamp);
        entry.phase = Phase::New;
        entry.is_missing = false;
        entry.shown = None;
        entry.own_life_is(Life::Goes);
        true
    }

    /// Nothing is there any more that it could be made for.
    pub(crate) fn give_up(&mut self, place: Place) {
        if let Some(entry) = self.entries.get_mut(place.0) {
            entry.phase = Phase::Over;
        }
    }
}

impl Entry {
    pub(super) fn has_life(&self, life: Life) -> bool {
        matches!(&self.source, Source::Made(_, own) if *own == life)
    }

    fn own_life_is(&mut self, life: Life) {
        if let Source::Made(_, own) = &mut self.source {
            *own = life;
        }
    }

    /// Whether it is to be made anew, now that it is missing in a tick. It is
    /// from the tick on in which one that has ended does not appear any more.
    pub(super) fn is_to_be_made(&mut self) -> bool {
        if self.has_life(Life::Ended) {
            self.own_life_is(Life::ToBeMade);
        }
        self.has_life(Life::ToBeMade)
    }
}
