//! How processes join watches: those that were found, and those that were born.
//!
//! Takes processes, puts them on the allow-list with a slot of their own or their
//! family's, and makes them members of their watches. Promises: a process counts
//! from the moment it is listed, in each of its watches once, whoever lists it
//! first; one that has exited before is not listed.
#![forbid(unsafe_code)]

use netio::{printable, v1};

use super::{
    Counters, ExitGuard, Member, Past, Process, ProcessId, Pulse, Slot, WatchError, WatchId,
    Watches, insert,
};
use crate::{
    kernel::{AllowError, Birth},
    processes::{Found, HasExited},
};

/// How often a process is tried that the kernel lists at the same moment.
const TRIES: u32 = 8;
/// A process that is to be listed.
struct Listing {
    process: ProcessId,
    about: v1::Process,
    has_exited: HasExited,
    /// Whether the watch follows its children.
    follows: bool,
}

impl Watches {
    /// Adds a process to a watch, and tells whether that is news: it was not in
    /// it, or its children were not followed for it. Counting has begun when this
    /// returns. `descends`: from a process whose children the watch follows.
    /// Called within a tokio runtime.
    pub(crate) fn join(
        &mut self,
        id: WatchId,
        found: Found,
        descends: bool,
        past: Past,
    ) -> Result<bool, WatchError> {
        let watch = self.watches.get(&id).ok_or_else(|| WatchError::NotFound {
            watch_id: id.to_string(),
        })?;
        let follows = descends || watch.follow.applies_to(&found);
        let process = found.id();
        let listing = Listing {
            process,
            about: found.process,
            has_exited: found.has_exited,
            follows,
        };
        let mut exit = Some(self.exits.add(process, found.exited));
        for _ in 0..TRIES {
            self.settle();
            if let Some(slot) = self.table.running(process.tgid) {
                if self.table.pulse(slot).is_some_and(|it| it.id == process) {
                    return self.join_listed(id, slot, follows);
                }
                // The pid's last user has exited, even if that was not noticed.
                self.exited_in(slot);
            }
            match self.enlist(id, &listing, past, &mut exit) {
                // It was born into another watch in this very moment.
                Err(WatchError::NotAllowed(AllowError::Listed(_))) => {}
                done => return done,
            }
        }
        Err(AllowError::Listed(process.tgid).into())
    }

    /// Adds a process that counts already.
    fn join_listed(&mut self, id: WatchId, slot: Slot, follows: bool) -> Result<bool, WatchError> {
        let has_exited = self.kernel.life(slot).exited;
        let Some(pulse) = self.table.pulse(slot) else {
            return Ok(false);
        };
        if pulse.exited || has_exited {
            return Err(WatchError::Exited { pid: pulse.id.tgid });
        }
        let process = self.table.get(slot);
        let is_new = process.is_some_and(|it| !it.watches.contains(&id));
        // First what may fail.
        let is_followed = follows && self.follow(id, slot)?;
        if is_new {
            let reading = self.kernel.read(slot);
            self.add_member(id, slot, reading);
            if let Some(process) = self.table.get_mut(slot) {
                insert(&mut process.watches, id);
            }
        }
        Ok(is_new || is_followed)
    }

    /// Puts a process on the allow-list that is not on it, or only without a slot
    /// of its own.
    fn enlist(
        &mut self,
        id: WatchId,
        listing: &Listing,
        past: Past,
        exit: &mut Option<ExitGuard>,
    ) -> Result<bool, WatchError> {
        let process = listing.process;
        // Where it shares a slot, its watches come with it.
        let shares = self.kernel.shares(process.tgid);
        let shared = shares.and_then(|slot| self.table.families.get(&slot));
        let mut watches = shared.map_or_else(Vec::new, |family| family.watches.clone());
        let mut following = shared.map_or_else(Vec::new, |family| family.following.clone());
        let before = (watches.clone(), following.clone());
        insert(&mut watches, id);
        if listing.follows {
            insert(&mut following, id);
        }
        let is_news = (&watches, &following) != (&before.0, &before.1);

        let slot = match self.room(id) {
            Ok(()) => self
                .resting
                .take_back(process)
                .or_else(|| self.kernel.take()),
            Err(full) if past == Past::Refuse => return Err(full),
            Err(_) => None,
        };
        let Some(slot) = slot else {
            let limit = self.limits.max_processes;
            if past == Past::Refuse {
                return Err(WatchError::TooManyProcesses { limit });
            }
            if !is_news {
                return Ok(false);
            }
            return self.share(process, &listing.has_exited, watches, following, exit);
        };
        let family = match self.family_for(following) {
            Ok(family) => family,
            Err(error) => {
                self.changed = true;
                self.resting.give(slot, None, false);
                return Err(error);
            }
        };
        // Before it is listed: from then on it counts.
        let baseline = self.kernel.read(slot);
        self.kernel.set_base(slot, baseline);
        self.changed = true;
        if let Err(error) = self.kernel.allow(process, slot, family) {
            self.resting.give(slot, None, false);
            return Err(error.into());
        }
        // From here on the entry is this process's, if the pid still was; and its
        // exit is noticed.
        if (listing.has_exited)() {
            let denied = self.kernel.deny(process.tgid, slot);
            self.resting.give(slot, Some(process), !denied);
            return Err(WatchError::Exited { pid: process.tgid });
        }
        if let Some(family) = shares {
            // What told of its exit before is as good.
            *exit = self.unguard(process, family).or(exit.take());
        }
        let mut about = listing.about.clone();
        // Told where it costs nothing (see the API).
        about.cgroup.clear();
        self.table.insert(
            slot,
            Pulse::new(process, self.kernel.life(slot).execs, baseline),
            Process {
                about,
                watches: watches.clone(),
                family,
                beginning: baseline,
                _exit: exit.take(),
            },
        );
        for watch in watches {
            self.add_member(watch, slot, baseline);
        }
        if let Some(family) = family {
            self.set_budget(family);
        }
        Ok(true)
    }

    /// Whether the watch may have another process in a slot of its own.
    fn room(&self, id: WatchId) -> Result<(), WatchError> {
        let limit = self.limits.max_processes;
        if self.table.len() >= limit {
            return Err(WatchError::TooManyProcesses { limit });
        }
        let limit = self.limits.max_processes_per_watch;
        let members = self.watches.get(&id).map_or(0, |it| it.members.len());
        if members >= limit as usize {
            return Err(WatchError::TooManyProcessesOfWatch { limit });
        }
        Ok(())
    }

    pub(super) fn add_member(&mut self, id: WatchId, slot: Slot, baseline: Counters) {
        if let Some(watch) = self.watches.get_mut(&id) {
            watch.members.push(Member::new(slot, baseline));
            self.changed = true;
        }
    }

    /// Takes note of the children that the kernel has listed.
    pub(crate) fn settle(&mut self) {
        let births = self.kernel.births();
        if births.is_empty() {
            return;
        }
        self.changed = true;
        for birth in births {
            self.born(birth);
        }
        self.set_budgets();
    }

    pub(super) fn born(&mut self, birth: Birth) {
        let Birth {
            slot,
            process,
            family,
            name,
        } = birth;
        // Where it has exited already, its pid may be a younger process's.
        let has_exited = self.kernel.life(slot).exited;
        if !has_exited && let Some(predecessor) = self.table.running(process.tgid) {
            self.exited_in(predecessor);
        }
        let Some(watches) = self
            .table
            .families
            .get(&family)
            .map(|it| it.watches.clone())
        else {
            // The family ended while it was being born.
            let denied = self.kernel.deny(process.tgid, slot);
            self.resting.give(slot, Some(process), !denied);
            return;
        };
        let baseline = self.kernel.base(slot);
        self.table.insert(
            slot,
            Pulse::new(process, 0, baseline),
            Process {
                about: v1::Process {
                    pid: process.tgid,
                    start_time_ns: process.start_time_ns,
                    name: printable::without_controls(&name),
                    ..v1::Process::default()
                },
                watches: watches.clone(),
                family: Some(family),
                beginning: baseline,
                _exit: None,
            },
        );
        for watch in watches {
            self.add_member(watch, slot, baseline);
        }
        if has_exited {
            self.exited_in(slot);
        }
    }
}
