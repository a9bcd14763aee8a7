//! Who watches what: the one owner of the allow-list.
//!
//! Takes processes to watch and ends of watches, keeps the kernel's allow-list
//! in step, and produces a sample per watch at each tick. Promises:
//! - A process is on the allow-list while it runs and has a watch; it leaves
//!   with its last watch, or at once when its exit is noticed, so that the next
//!   user of its pid is not counted.
//! - A watch counts from its making on: its totals begin at 0 and never go
//!   backwards. Watches of one process share a slot and differ in their
//!   baselines.
//! - A process that has exited is sampled once more, then its watches are gone.
//! - No more than `max_watches` watches, and so no more processes than that.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use netio::v1;
use prost_types::Timestamp;

use crate::{
    kernel::{AllowError, Counters, Kernel, Slot},
    process::Found,
};

mod exits;
mod id;
mod slots;
#[cfg(test)]
mod tests;

use exits::{ExitGuard, Exits};
pub(crate) use id::WatchId;
use slots::SlotPool;

/// Why a watch was not made or not ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error(
        "there are {limit} watches, which is the collector's limit: end a watch that is not needed, or restart the collector with a larger --max-watches"
    )]
    TooManyWatches { limit: u32 },
    #[error(
        "every counter slot is in use, or resting for an interval since its last use: try again in a moment, or restart the collector with a larger --max-watches"
    )]
    NoFreeSlot { limit: u32 },
    #[error("process {pid} has just exited, so there is nothing to watch: check the pid")]
    Exited { pid: u32 },
    #[error(transparent)]
    NotAllowed(#[from] AllowError),
    #[error("there is no watch {watch_id}, or it has ended: ListWatches tells which there are")]
    NotFound { watch_id: String },
    #[error(
        "{owner} has no watch of pid {pid} to end ({others} of other owners): ListWatches tells which there are, and whose"
    )]
    NoneOfOwn {
        pid: u32,
        owner: String,
        others: usize,
    },
    #[error(
        "watch {watch_id} belongs to {owner}, and only its owner can end it: ask them, or let it be (it costs others nothing)"
    )]
    NotTheOwner { watch_id: WatchId, owner: String },
}

/// A process: its pid alone may be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProcessKey {
    tgid: u32,
    start_time_ns: u64,
}

/// A watch to be made.
pub(crate) struct NewWatch {
    pub(crate) target: v1::Target,
    pub(crate) found: Found,
    pub(crate) owner: String,
    pub(crate) create_time: Timestamp,
}

/// Which watches to end.
#[derive(Debug)]
pub(crate) enum Selection {
    /// The watch with this id, as the caller wrote it.
    Id(String),
    /// The caller's own watches of this pid.
    Pid(u32),
}

struct Watch {
    target: v1::Target,
    owner: String,
    create_time: Timestamp,
    process: ProcessKey,
    /// What the slot's counters stood at when the watch was made.
    baseline: Counters,
    /// What was counted from then to the last tick.
    total: Counters,
}

struct Tracked {
    process: v1::Process,
    slot: Slot,
    /// Never 0.
    watches: u32,
    exited: bool,
    /// The slot's counters at the last tick.
    reading: Counters,
    _exit: ExitGuard,
}

/// The registry. Every watch's process is tracked, and only those.
pub(crate) struct Watches {
    kernel: Box<dyn Kernel>,
    max_watches: u32,
    last_id: u64,
    watches: BTreeMap<WatchId, Watch>,
    processes: HashMap<ProcessKey, Tracked>,
    slots: SlotPool,
    exits: Exits,
}

impl Watches {
    pub(crate) fn new(kernel: Box<dyn Kernel>, max_watches: u32) -> Self {
        let slots = SlotPool::new(kernel.slots());
        Self {
            kernel,
            max_watches,
            last_id: 0,
            watches: BTreeMap::new(),
            processes: HashMap::new(),
            slots,
            exits: Exits::default(),
        }
    }

    pub(crate) fn kernel(&self) -> &dyn Kernel {
        &*self.kernel
    }

    /// Makes a watch; counting has begun when this returns. Called within a
    /// tokio runtime.
    pub(crate) fn add(&mut self, new: NewWatch) -> Result<v1::Watch, WatchError> {
        if self.watches.len() >= self.max_watches as usize {
            return Err(WatchError::TooManyWatches {
                limit: self.max_watches,
            });
        }
        let process = new.found.process.clone();
        let (key, slot) = self.track(new.found)?;
        self.last_id += 1;
        let id = WatchId(self.last_id);
        let watch = Watch {
            target: new.target,
            owner: new.owner,
            create_time: new.create_time,
            process: key,
            baseline: self.kernel.read(slot),
            total: Counters::default(),
        };
        let answer = describe(id, &watch, process);
        self.watches.insert(id, watch);
        Ok(answer)
    }

    /// Puts the process on the allow-list if it is not there yet.
    fn track(&mut self, found: Found) -> Result<(ProcessKey, Slot), WatchError> {
        let tgid = found.process.pid;
        let key = ProcessKey {
            tgid,
            start_time_ns: found.process.start_time_ns,
        };
        if let Some(tracked) = self.processes.get_mut(&key) {
            if tracked.exited {
                return Err(WatchError::Exited { pid: tgid });
            }
            // It may have executed another program since the first watch.
            tracked.process.name = found.process.name;
            tracked.watches += 1;
            return Ok((key, tracked.slot));
        }
        // The pid's last user has exited, even if that was not noticed yet.
        let predecessors: Vec<_> = self.processes.keys().copied().collect();
        for predecessor in predecessors.into_iter().filter(|key| key.tgid == tgid) {
            self.exited(predecessor);
        }

        let slot = self.slots.take().ok_or(WatchError::NoFreeSlot {
            limit: self.max_watches,
        })?;
        if let Err(error) = self.kernel.allow(tgid, slot) {
            self.slots.put_back(slot);
            return Err(error.into());
        }
        let tracked = Tracked {
            process: found.process,
            slot,
            watches: 1,
            exited: false,
            reading: Counters::default(),
            _exit: self.exits.add(key, found.exited),
        };
        self.processes.insert(key, tracked);
        Ok((key, slot))
    }

    /// Ends watches of this owner and tells which, in order.
    pub(crate) fn remove(
        &mut self,
        selection: &Selection,
        owner: &str,
    ) -> Result<Vec<WatchId>, WatchError> {
        let ids = match selection {
            Selection::Id(text) => vec![self.own(text, owner)?],
            Selection::Pid(pid) => self.own_of_pid(*pid, owner)?,
        };
        for id in &ids {
            self.end(*id);
        }
        Ok(ids)
    }

    fn own(&self, text: &str, owner: &str) -> Result<WatchId, WatchError> {
        let id = self.find(text)?;
        match self.watches.get(&id) {
            Some(watch) if watch.owner != owner => Err(WatchError::NotTheOwner {
                watch_id: id,
                owner: watch.owner.clone(),
            }),
            _ => Ok(id),
        }
    }

    fn own_of_pid(&self, pid: u32, owner: &str) -> Result<Vec<WatchId>, WatchError> {
        let of_pid = |watch: &Watch| watch.target.selector == Some(v1::target::Selector::Pid(pid));
        let (own, others): (Vec<_>, Vec<_>) = self
            .watches
            .iter()
            .filter(|(_, watch)| of_pid(watch))
            .partition(|(_, watch)| watch.owner == owner);
        if own.is_empty() {
            return Err(WatchError::NoneOfOwn {
                pid,
                owner: owner.to_owned(),
                others: others.len(),
            });
        }
        Ok(own.into_iter().map(|(id, _)| *id).collect())
    }

    /// Ends one watch, and with the last of a process its counting.
    fn end(&mut self, id: WatchId) {
        let Some(watch) = self.watches.remove(&id) else {
            return;
        };
        let Some(tracked) = self.processes.get_mut(&watch.process) else {
            return;
        };
        tracked.watches -= 1;
        if tracked.watches == 0 {
            // If it has exited, its pid may be another process's by now.
            if !tracked.exited {
                self.kernel.deny(watch.process.tgid);
            }
            self.slots.give_back(tracked.slot);
            self.processes.remove(&watch.process);
        }
    }

    /// Waits until a watched process has exited. A call that is dropped while
    /// it waits loses nothing.
    pub(crate) async fn next_exit(&mut self) -> ProcessKey {
        self.exits.next().await
    }

    /// Stops counting a process that has exited; its watches stay for one more
    /// sample.
    pub(crate) fn exited(&mut self, key: ProcessKey) {
        if let Some(tracked) = self.processes.get_mut(&key)
            && !tracked.exited
        {
            tracked.exited = true;
            self.kernel.deny(key.tgid);
        }
    }

    /// Reads the counters of every watched process.
    pub(crate) fn read(&mut self) {
        for tracked in self.processes.values_mut() {
            tracked.reading = self.kernel.read(tracked.slot);
        }
    }

    /// What each watch has counted from the reading before to the last one, in
    /// order of watch id.
    pub(crate) fn diff(&mut self) -> Vec<v1::NetIoSample> {
        self.watches
            .iter_mut()
            .filter_map(|(id, watch)| {
                let tracked = self.processes.get(&watch.process)?;
                let total = tracked.reading - watch.baseline;
                let interval = total - watch.total;
                watch.total = total;
                Some(sample(*id, tracked, interval, total))
            })
            .collect()
    }

    /// Forgets the processes that have exited, now that they had their last
    /// sample, and lets the slots rest on.
    pub(crate) fn retire(&mut self) {
        let processes = &self.processes;
        let over: Vec<_> = self
            .watches
            .iter()
            .filter(|(_, watch)| processes.get(&watch.process).is_some_and(|it| it.exited))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.end(id);
        }
        self.slots.tick();
    }

    /// Every watch, in order.
    pub(crate) fn list(&self) -> Vec<v1::Watch> {
        self.watches
            .iter()
            .filter_map(|(id, watch)| {
                let tracked = self.processes.get(&watch.process)?;
                Some(describe(*id, watch, tracked.process.clone()))
            })
            .collect()
    }

    /// The watch that a caller means.
    pub(crate) fn find(&self, text: &str) -> Result<WatchId, WatchError> {
        WatchId::parse(text)
            .filter(|id| self.watches.contains_key(id))
            .ok_or_else(|| WatchError::NotFound {
                watch_id: text.to_owned(),
            })
    }
}

fn describe(id: WatchId, watch: &Watch, process: v1::Process) -> v1::Watch {
    v1::Watch {
        watch_id: id.to_string(),
        target: Some(watch.target),
        process: Some(process),
        owner: watch.owner.clone(),
        create_time: Some(watch.create_time),
    }
}

fn sample(id: WatchId, tracked: &Tracked, interval: Counters, total: Counters) -> v1::NetIoSample {
    let state = if tracked.exited {
        v1::ProcessState::Exited
    } else {
        v1::ProcessState::Running
    };
    v1::NetIoSample {
        watch_id: id.to_string(),
        process: Some(tracked.process.clone()),
        state: state.into(),
        sent_bytes: interval.sent_bytes,
        received_bytes: interval.received_bytes,
        sent_calls: interval.sent_calls,
        received_calls: interval.received_calls,
        sent_bytes_total: total.sent_bytes,
        received_bytes_total: total.received_bytes,
        sent_calls_total: total.sent_calls,
        received_calls_total: total.received_calls,
    }
}
