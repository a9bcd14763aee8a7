//! What hooks missed, could not hold and cost, over all the times that they were
//! attached: whoever reads these figures expects that they only grow.
#![forbid(unsafe_code)]

use std::time::Duration;

use netio::v1;

use super::Kernel;
use crate::keep::KeptFigures;

/// Of hooks that were let go of; or of all, with those that are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) missed_events: v1::MissedEvents,
    pub(crate) map_full: v1::MapFull,
    /// How often the programs ran, and for how long, as far as the kernel counted it.
    pub(crate) program_runs: Option<(u64, Duration)>,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            missed_events: v1::MissedEvents {
                recursion: Some(0),
                kretprobe: Some(0),
            },
            map_full: v1::MapFull::default(),
            program_runs: None,
        }
    }
}

impl Figures {
    /// With those of a kernel. May cost some system calls: not for the tick.
    pub(crate) fn with(&self, kernel: &dyn Kernel) -> Self {
        let (before, now) = (self.missed_events, kernel.missed_events());
        // What could not be read once is not known in all.
        let both = |before: Option<u64>, now: Option<u64>| Some(before? + now?);
        let (runs, more_runs) = (self.program_runs, kernel.program_runs());
        Self {
            missed_events: v1::MissedEvents {
                recursion: both(before.recursion, now.recursion),
                kretprobe: both(before.kretprobe, now.kretprobe),
            },
            map_full: self.map_full_with(kernel),
            program_runs: match (runs, more_runs) {
                (Some((runs, time)), Some((more, longer))) => Some((runs + more, time + longer)),
                (None, more) => more,
                // Hooks that do not tell theirs have some; only where there are none are
                // those of before all.
                (before, None) => before.filter(|_| kernel.info().programs.is_empty()),
            },
        }
    }

    /// One of them alone, which costs a few loads.
    pub(crate) fn map_full_with(&self, kernel: &dyn Kernel) -> v1::MapFull {
        let (before, now) = (self.map_full, kernel.map_full());
        v1::MapFull {
            processes: before.processes + now.processes,
            sockets: before.sockets + now.sockets,
        }
    }
}

impl Figures {
    /// As the state has them.
    pub(crate) fn to_state(self) -> KeptFigures {
        KeptFigures {
            missed_events: Some(self.missed_events),
            map_full: Some(self.map_full),
            program_runs: self.program_runs.map(|(runs, _)| runs),
            program_time_ns: self.program_runs.map_or(0, |(_, time)| {
                u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
            }),
        }
    }

    /// Of a state; none, if there is none.
    pub(crate) fn of_state(kept: Option<&KeptFigures>) -> Self {
        let Some(kept) = kept else {
            return Self::default();
        };
        let time = Duration::from_nanos(kept.program_time_ns);
        Self {
            missed_events: kept.missed_events.unwrap_or_default(),
            map_full: kept.map_full.unwrap_or_default(),
            program_runs: kept.program_runs.map(|runs| (runs, time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fake::FakeKernel;

    #[test]
    fn what_could_not_be_read_once_is_not_known_in_all() {
        // Tells nothing of missed events.
        let kernel = FakeKernel::new(1);
        kernel.with(|state| state.unlisted = 3);
        let once = Figures::default().with(&kernel);
        let twice = once.with(&kernel);
        assert_eq!(twice.missed_events, v1::MissedEvents::default());
        assert_eq!(twice.map_full.processes, 6);
        assert_eq!(twice.program_runs, None);
    }
}
