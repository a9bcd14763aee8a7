//! What is written down, so that a collector that comes after this one goes on with
//! the same watches, and how that one does.
//!
//! Takes and gives [`State`]s. Promises: from the last state, the counters and what
//! is kept with the hooks, the totals follow to the byte, whenever this collector is
//! killed, if [`Watches::changed_state`] is written down
//! - before it is told that a watch was made or has ended, and
//! - before [`Watches::rest`] is called, which frees slots: until then, whoever a state
//!   names still has his slot, and whoever came later can be told by the kernel's own
//!   notes.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};

use netio::v1;
use tokio::time::Instant;
use tracing::warn;

use super::{
    Counters, Family, Follow, Kernel, Main, Member, Process, ProcessId, Pulse, Slot, Watch,
    WatchId, Watches,
};
use crate::{
    Limits,
    keep::{self, State, Sums},
    kernel::{Birth, Mark, Taken, figures::Figures},
    processes::{Found, Selector},
};

/// Now, by the two clocks that matter.
#[derive(Clone, Copy)]
pub(crate) struct Now {
    pub(crate) monotonic: Instant,
    /// Since boot, the time that the machine was suspended included.
    pub(crate) boot: std::time::Duration,
}

impl Watches {
    /// What has changed since the last call, if anything: all of it.
    pub(crate) fn changed_state(&mut self, now: Now) -> Option<State> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.leases.note_written();
        let watches = self.watches.iter();
        let processes = self.table.iter();
        let families = self.table.families.iter();
        Some(State {
            last_watch_id: self.last_id,
            unlisted: self.unlisted,
            past: Some(self.past.to_state()),
            watches: watches
                .map(|(id, it)| self.keep_watch(*id, it, now))
                .collect(),
            processes: processes.map(keep_process).collect(),
            families: families.map(|(slot, it)| keep_family(*slot, it)).collect(),
            resting: self.resting.iter().map(keep_resting).collect(),
            ..State::default()
        })
    }

    /// Has the next [`Watches::changed_state`] give everything: the last one was lost.
    pub(crate) fn write_again(&mut self) {
        self.changed = true;
    }

    /// Goes on from a state, with the kernel that it belongs to. `found`: those of its
    /// processes that run.
    pub(crate) fn go_on(
        kernel: Box<dyn Kernel>,
        limits: Limits,
        state: &State,
        mut found: HashMap<ProcessId, Found>,
        now: Now,
    ) -> Self {
        let mut watches = Self::without_reserve(kernel, limits);
        watches.last_id = state.last_watch_id;
        watches.unlisted = state.unlisted;
        watches.past = Figures::of_state(state.past.as_ref());
        watches.rules_changed = true;
        let mut taken: HashMap<Slot, Taken> = watches
            .kernel
            .taken()
            .into_iter()
            .map(|it| (it.slot, it))
            .collect();
        for family in &state.families {
            if taken.remove(&Slot(family.slot)).is_some() {
                watches.restore_family(family, &mut found);
            }
        }
        for watch in &state.watches {
            watches.restore_watch(watch, now);
        }
        for process in &state.processes {
            if let Some(taken) = taken.remove(&Slot(process.slot)) {
                watches.restore_process(process, &taken, &mut found);
            }
        }
        watches.restore_parents();
        let resting: BTreeSet<_> = state.resting.iter().map(resting_of).collect();
        watches.sort_out(taken, &resting);
        watches.drop_strangers();
        watches.fill_reserve();
        watches.set_budgets();
        watches
    }

    /// Has this owner's standing watches be those of these targets: ends the others,
    /// and tells which are missing.
    pub(crate) fn reconcile(&mut self, owner: &str, targets: Vec<v1::Target>) -> Vec<v1::Target> {
        let mut missing = targets;
        let own = self.watches.iter().filter(|(_, it)| it.owner == owner);
        let mut over = Vec::new();
        for (id, watch) in own {
            match missing.iter().position(|it| *it == watch.target) {
                Some(index) => drop(missing.remove(index)),
                None => over.push(*id),
            }
        }
        for id in over {
            self.end(id);
        }
        missing
    }

    /// The processes that a state names.
    pub(crate) fn processes_of(state: &State) -> Vec<ProcessId> {
        let own = state.processes.iter().filter_map(|it| {
            let about = it.about.as_ref()?;
            Some(ProcessId {
                tgid: about.pid,
                start_time_ns: it.start_time_ns,
            })
        });
        let guards = state.families.iter().flat_map(|it| &it.guards);
        own.chain(guards.map(id_of)).collect()
    }

    fn keep_watch(&self, id: WatchId, watch: &Watch, now: Now) -> keep::Watch {
        keep::Watch {
            id: id.0,
            target: Some(watch.target.clone()),
            follow: match watch.follow {
                Follow::Always => 0,
                Follow::Never => 1,
                Follow::IfForksPerConnection => 2,
            },
            owner: watch.owner.clone(),
            create_time: Some(watch.create_time),
            lease: self
                .leases
                .remaining(id, now.monotonic)
                .map(|left| keep::Lease {
                    ttl_ns: nanoseconds(left.ttl),
                    deadline_ns: nanoseconds(now.boot + left.remaining),
                    held: left.held,
                }),
            total: Some(watch.total.into()),
            unlisted_total: Some(watch.unlisted_total.into()),
            had_unlisted: watch.had_unlisted,
            members: watch.members.iter().map(keep_part).collect(),
            shared: watch.shared.iter().map(keep_part).collect(),
            main: watch.main.as_ref().map(Main::to_state),
        }
    }

    fn restore_watch(&mut self, kept: &keep::Watch, now: Now) {
        let id = WatchId(kept.id);
        let target = kept.target.clone().unwrap_or_default();
        let selector = target.selector.as_ref().map(Selector::parse);
        let Some(Ok(selector)) = selector else {
            warn!(%id, "a watch that was kept names nothing: it is dropped");
            return;
        };
        if let Some(lease) = kept.lease {
            let ttl = std::time::Duration::from_nanos(lease.ttl_ns);
            // While it was held, every tick gave it its whole time again.
            let from = std::time::Duration::from_nanos(self.kernel.mark(Mark::Time));
            let deadline = std::time::Duration::from_nanos(lease.deadline_ns);
            let deadline = if lease.held {
                deadline.max(from + ttl)
            } else {
                deadline
            };
            let left = deadline.saturating_sub(now.boot);
            self.leases.go_on(id, ttl, now.monotonic + left);
        }
        let mut watch = Watch {
            id: id.to_string(),
            target,
            selector,
            follow: match kept.follow {
                0 => Follow::Always,
                1 => Follow::Never,
                _ => Follow::IfForksPerConnection,
            },
            owner: kept.owner.clone(),
            create_time: kept.create_time.unwrap_or_default(),
            members: kept.members.iter().map(part_of).collect(),
            shared: kept.shared.iter().map(part_of).collect(),
            total: counters(kept.total),
            unlisted_total: counters(kept.unlisted_total),
            had_unlisted: kept.had_unlisted,
            main: kept.main.as_ref().and_then(Main::of_state),
        };
        // Ticks may have told more since the state was written.
        for member in &mut watch.members {
            watch.total += member.advance(told(&*self.kernel, member));
        }
        for member in &mut watch.shared {
            let more = member.advance(told(&*self.kernel, member));
            watch.total += more;
            watch.unlisted_total += more;
        }
        self.watches.insert(id, watch);
    }

    fn restore_family(&mut self, kept: &keep::Families, found: &mut HashMap<ProcessId, Found>) {
        let slot = Slot(kept.slot);
        let ids = |ids: &[u64]| ids.iter().map(|id| WatchId(*id)).collect();
        let mut family = Family::new(
            ids(&kept.watches),
            ids(&kept.following),
            (kept.children != 0).then_some(Slot(kept.children)),
            self.kernel.told(slot),
        );
        for process in kept.guards.iter().map(id_of) {
            match found.remove(&process) {
                Some(found) if !(found.has_exited)() => {
                    let guard = self.exits.add(process, found.exited);
                    family.guards.insert(process, guard);
                }
                _ => self.kernel.unshare(process.tgid, slot),
            }
        }
        self.table.families.insert(slot, family);
    }

    fn restore_process(
        &mut self,
        kept: &keep::Process,
        taken: &Taken,
        found: &mut HashMap<ProcessId, Found>,
    ) {
        let Some(about) = kept.about.clone() else {
            return;
        };
        let (slot, id) = (
            taken.slot,
            ProcessId {
                tgid: about.pid,
                start_time_ns: kept.start_time_ns,
            },
        );
        let is_member = |watch: &&Watch| watch.members.iter().any(|it| it.slot == slot);
        let watches = self.watches.iter().filter(|(_, it)| is_member(it));
        let watches: Vec<_> = watches.map(|(id, _)| *id).collect();
        if watches.is_empty() || taken.process != Some(id) {
            return;
        }
        let life = self.kernel.life(slot);
        let exit = found.remove(&id).filter(|found| !(found.has_exited)());
        // Where the kernel tells exits, it is right; else only /proc is.
        let is_there = exit.is_some() || self.kernel.info().follows_children;
        let runs = taken.is_listed && !life.exited && is_there;
        let guard = exit.map(|found| self.exits.add(id, found.exited));
        self.table.insert(
            slot,
            Pulse::new(id, kept.execs, self.kernel.told(slot)),
            Process {
                about,
                watches,
                family: (kept.family != 0).then_some(Slot(kept.family)),
                beginning: self.kernel.base(slot),
                _exit: guard,
            },
        );
        if !runs {
            self.exited_in(slot);
            if let Some(pulse) = self.table.pulse_mut(slot) {
                pulse.awaits_exit &= !life.exited && taken.is_listed;
            }
        }
    }

    /// Families have other families' children.
    fn restore_parents(&mut self) {
        let families = self.table.families.iter();
        let others: Vec<_> = families
            .map(|(slot, family)| family.children.filter(|children| children != slot))
            .collect();
        for other in others {
            self.table.join_family(other);
        }
    }

    /// Sees to the slots that the state does not tell of, or tells to rest.
    fn sort_out(&mut self, taken: HashMap<Slot, Taken>, resting: &BTreeSet<(u32, ProcessId)>) {
        let mut taken: Vec<Taken> = taken.into_values().collect();
        taken.sort_by_key(|it| it.slot);
        for Taken {
            slot,
            process,
            family,
            name,
            is_told,
            is_listed,
        } in taken
        {
            let Some(process) = process else {
                // A family's that was not written down, or nobody's.
                self.kernel.close_family(slot);
                self.resting.give_of_family(slot);
                continue;
            };
            let is_resting = resting.contains(&(slot.0, process));
            if let (true, false, Some(family)) = (is_told, is_resting, family) {
                // Born since; it may have exited since, too.
                self.born(Birth {
                    slot,
                    process,
                    family,
                    name,
                });
                let told = self.kernel.told(slot);
                self.tell_up_to(slot, told);
            } else {
                let is_gone = !is_listed || self.kernel.deny(process.tgid, slot);
                self.resting.give(slot, Some(process), !is_gone);
            }
        }
        self.changed = true;
    }

    /// What was told of a newcomer before is in no interval again.
    fn tell_up_to(&mut self, slot: Slot, told: Counters) {
        for watch in self.watches.values_mut() {
            for member in watch.members.iter_mut().filter(|it| it.slot == slot) {
                let told = later(told, member.seen);
                watch.total += member.advance(told);
            }
        }
    }

    /// Takes members out whose slots are nobody's.
    fn drop_strangers(&mut self) {
        for watch in self.watches.values_mut() {
            let table = &self.table;
            watch.members.retain(|it| table.get(it.slot).is_some());
            let families = &table.families;
            watch.shared.retain(|it| families.contains_key(&it.slot));
        }
    }
}

/// How far ticks have told a member's counters.
fn told(kernel: &dyn Kernel, member: &Member) -> Counters {
    later(kernel.told(member.slot), member.seen)
}

/// The later of two readings of a slot: what was noted before this user of it had it
/// is the earlier one.
fn later(one: Counters, other: Counters) -> Counters {
    let more = |one: u64, other: u64| {
        if one.wrapping_sub(other).cast_signed() > 0 {
            one
        } else {
            other
        }
    };
    Counters {
        sent_bytes: more(one.sent_bytes, other.sent_bytes),
        received_bytes: more(one.received_bytes, other.received_bytes),
        sent_calls: more(one.sent_calls, other.sent_calls),
        received_calls: more(one.received_calls, other.received_calls),
    }
}

fn keep_process((slot, pulse, process): (Slot, &Pulse, &Process)) -> keep::Process {
    keep::Process {
        slot: slot.0,
        about: Some(process.about.clone()),
        start_time_ns: pulse.id.start_time_ns,
        family: process.family.map_or(0, |family| family.0),
        execs: pulse.execs,
    }
}

fn keep_family(slot: Slot, family: &Family) -> keep::Families {
    let ids = |ids: &[WatchId]| ids.iter().map(|id| id.0).collect();
    keep::Families {
        slot: slot.0,
        watches: ids(&family.watches),
        following: ids(&family.following),
        children: family.children.map_or(0, |children| children.0),
        guards: family
            .guards
            .keys()
            .map(|process| keep::Guard {
                pid: process.tgid,
                start_time_ns: process.start_time_ns,
            })
            .collect(),
    }
}

fn keep_resting((slot, process): (Slot, Option<ProcessId>)) -> keep::Resting {
    keep::Resting {
        slot: slot.0,
        pid: process.map_or(0, |it| it.tgid),
        start_time_ns: process.map_or(0, |it| it.start_time_ns),
    }
}

fn resting_of(kept: &keep::Resting) -> (u32, ProcessId) {
    let process = ProcessId {
        tgid: kept.pid,
        start_time_ns: kept.start_time_ns,
    };
    (kept.slot, process)
}

fn id_of(guard: &keep::Guard) -> ProcessId {
    ProcessId {
        tgid: guard.pid,
        start_time_ns: guard.start_time_ns,
    }
}

fn keep_part(member: &Member) -> keep::Part {
    keep::Part {
        slot: member.slot.0,
        baseline: Some(member.baseline.into()),
        seen: Some(member.seen.into()),
    }
}

fn part_of(kept: &keep::Part) -> Member {
    Member {
        slot: Slot(kept.slot),
        baseline: counters(kept.baseline),
        seen: counters(kept.seen),
    }
}

fn counters(sums: Option<Sums>) -> Counters {
    sums.map_or_else(Counters::default, Counters::from)
}

pub(super) fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Main {
    fn to_state(&self) -> keep::Main {
        let (_, execs) = self.as_of;
        keep::Main {
            process: Some(self.process.clone()),
            execs,
        }
    }

    fn of_state(kept: &keep::Main) -> Option<Self> {
        let process: v1::Process = kept.process.clone()?;
        let id = ProcessId {
            tgid: process.pid,
            start_time_ns: process.start_time_ns,
        };
        Some(Self {
            process,
            as_of: (id, kept.execs),
        })
    }
}
