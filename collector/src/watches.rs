//! Who watches what: the one owner of the allow-list.
//!
//! Takes watches, the processes that join them, and ends of both; keeps the
//! kernel's allow-list in step, and produces a sample per watch at each tick.
//! Promises:
//! - A process is on the allow-list while it runs and has a watch; it leaves
//!   with its last watch, or at its exit, so that the next user of its pid is not
//!   counted.
//! - A watch counts from its making on: its totals begin at 0 and never go
//!   backwards. Watches of one process share a slot and differ in their
//!   baselines. A child that is born into a watch counts from its first byte.
//! - A process that has exited is sampled once more, then it leaves its watches.
//! - Nothing is beyond the limits but children that the kernel lists itself, and
//!   they only until no slot is free: those that find none count in their
//!   family's slot, so sums stay exact.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use netio::{printable, v1};
use prost_types::Timestamp;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    Limits,
    kernel::{Counters, Kernel, ProcessId, Slot, figures::Figures},
    processes::{Found, Selector},
};

mod ending;
mod error;
mod exits;
mod families;
mod id;
mod joining;
mod keeping;
mod leases;
mod member;
mod resting;
mod samples;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use ending::Selection;
pub(crate) use error::WatchError;
use exits::{ExitGuard, Exits};
pub(crate) use id::WatchId;
pub(crate) use keeping::Now;
pub(crate) use leases::Hold;
use leases::Leases;
use member::Member;
use resting::RestingSlots;
use samples::Main;
use table::{Family, Process, Pulse, Table};

/// Processes that a list of all watches tells.
const MAX_LISTED: usize = 8192;

/// Whose children count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    Always,
    Never,
    /// Of processes that serve each connection by a child.
    IfForksPerConnection,
}

impl Follow {
    /// Whether the children of this process count.
    pub(crate) fn applies_to(self, found: &Found) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::IfForksPerConnection => found.forks_per_connection,
        }
    }
}

/// What to do with a process when the limits are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// Refuse it.
    Refuse,
    /// Count it without a slot of its own.
    Share,
}

/// A watch to be made.
pub(crate) struct NewWatch {
    pub(crate) target: v1::Target,
    pub(crate) selector: Selector,
    pub(crate) follow: Follow,
    pub(crate) owner: String,
    /// None: a standing watch.
    pub(crate) lease_ttl: Option<std::time::Duration>,
    pub(crate) create_time: Timestamp,
}

/// A watch that processes join when they match later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) id: WatchId,
    pub(crate) selector: Selector,
    pub(crate) follow: Follow,
}

struct Watch {
    /// As the API has it.
    id: String,
    target: v1::Target,
    selector: Selector,
    follow: Follow,
    owner: String,
    create_time: Timestamp,
    /// Its processes.
    members: Vec<Member>,
    /// Its families.
    shared: Vec<Member>,
    /// What was counted up to the last tick.
    total: Counters,
    /// The part of it that families counted.
    unlisted_total: Counters,
    had_unlisted: bool,
    main: Option<Main>,
}

/// The registry.
pub(crate) struct Watches {
    kernel: Box<dyn Kernel>,
    limits: Limits,
    last_id: u64,
    watches: BTreeMap<WatchId, Watch>,
    table: Table,
    /// Free slots kept for families, which must not fail for want of one.
    reserve: Vec<Slot>,
    resting: RestingSlots,
    leases: Leases,
    exits: Exits,
    /// Processes past the limits that were found, not born.
    unlisted: u64,
    /// A rule came or went since the rules were told.
    rules_changed: bool,
    /// Something changed that a state tells, since the last one was made.
    changed: bool,
    /// Of kernels before this one.
    past: Figures,
}

impl Watches {
    pub(crate) fn new(kernel: Box<dyn Kernel>, limits: Limits) -> Self {
        let mut watches = Self::without_reserve(kernel, limits);
        watches.fill_reserve();
        watches
    }

    fn without_reserve(kernel: Box<dyn Kernel>, limits: Limits) -> Self {
        Self {
            reserve: Vec::new(),
            kernel,
            limits,
            last_id: 0,
            watches: BTreeMap::new(),
            table: Table::default(),
            resting: RestingSlots::default(),
            leases: Leases::default(),
            exits: Exits::default(),
            unlisted: 0,
            rules_changed: false,
            changed: true,
            past: Figures::default(),
        }
    }

    /// Slots for as many families as there may be watches.
    fn fill_reserve(&mut self) {
        let kernel = &mut self.kernel;
        let missing = (self.limits.max_watches as usize).saturating_sub(self.reserve.len());
        let free = (0..missing).map_while(|_| kernel.take());
        self.reserve.extend(free);
    }

    pub(crate) fn kernel(&mut self) -> &mut dyn Kernel {
        &mut *self.kernel
    }

    /// Goes on with another kernel, and gives back the one before with everything
    /// that was known by its slots; there must be no watch. Watch ids and figures go
    /// on.
    pub(crate) fn change_kernel(&mut self, kernel: Box<dyn Kernel>) -> Box<dyn Kernel> {
        let next = Self {
            last_id: self.last_id,
            unlisted: self.unlisted,
            rules_changed: self.rules_changed,
            past: self.past.with(&*self.kernel),
            ..Self::new(kernel, self.limits)
        };
        std::mem::replace(self, next).kernel
    }

    /// What did not fit so far.
    pub(crate) fn map_full(&self) -> v1::MapFull {
        let mut full = self.past.map_full_with(&*self.kernel);
        full.processes += self.unlisted;
        full
    }

    /// What was missed, did not fit and was spent so far. May cost some system
    /// calls: not for the tick.
    pub(crate) fn figures(&self) -> Figures {
        Figures {
            map_full: self.map_full(),
            ..self.past.with(&*self.kernel)
        }
    }

    /// The processes of a watch that run and have a slot of their own, and whether
    /// their children join it; none if it has ended.
    pub(crate) fn members(&self, id: WatchId) -> Vec<(ProcessId, bool)> {
        let watch = self.watches.get(&id);
        let members = watch.into_iter().flat_map(|watch| &watch.members);
        let running = members.filter_map(|member| {
            let pulse = self.table.pulse(member.slot).filter(|it| !it.exited)?;
            Some((pulse.id, self.table.get(member.slot)?))
        });
        running
            .map(|(process_id, process)| {
                let family = process.family.map(|slot| self.table.families.get(&slot));
                let follows = family.flatten().is_some_and(|it| it.watches.contains(&id));
                (process_id, follows)
            })
            .collect()
    }

    /// Whether nothing is watched.
    pub(crate) fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// Watches, and processes in slots of their own.
    pub(crate) fn counts(&self) -> (u32, u32) {
        let watches = u32::try_from(self.watches.len()).unwrap_or(u32::MAX);
        (watches, self.table.len())
    }

    /// Makes a watch without processes.
    pub(crate) fn begin(&mut self, new: NewWatch, now: Instant) -> Result<WatchId, WatchError> {
        if let Some(refusal) = self.kernel.refusal() {
            return Err(refusal.into());
        }
        let limit = self.limits.max_watches;
        if self.watches.len() >= limit as usize {
            return Err(WatchError::TooManyWatches { limit });
        }
        let limit = self.limits.max_watches_per_owner;
        let own = self.watches.values().filter(|it| it.owner == new.owner);
        if own.count() >= limit as usize {
            return Err(WatchError::TooManyWatchesOfOwner {
                owner: new.owner,
                limit,
            });
        }
        let must_follow = new.target.follow_children == Some(true);
        if must_follow && !self.kernel.info().follows_children {
            return Err(WatchError::ChildrenNotFollowed);
        }
        self.last_id += 1;
        let id = WatchId(self.last_id);
        if let Some(ttl) = new.lease_ttl {
            self.leases.begin(id, ttl, now);
        }
        self.rules_changed |= new.selector.is_rule();
        let watch = Watch {
            id: id.to_string(),
            target: new.target,
            selector: new.selector,
            follow: new.follow,
            owner: new.owner,
            create_time: new.create_time,
            members: Vec::new(),
            shared: Vec::new(),
            total: Counters::default(),
            unlisted_total: Counters::default(),
            had_unlisted: false,
            main: None,
        };
        self.watches.insert(id, watch);
        self.changed = true;
        Ok(id)
    }

    /// Waits until a watched process has exited. A call that is dropped while
    /// it waits loses nothing.
    pub(crate) async fn next_exit(&mut self) -> ProcessId {
        self.exits.next().await
    }

    /// Stops counting a process that has exited; it stays in its watches for one
    /// more sample.
    pub(crate) fn exited(&mut self, process: ProcessId) {
        if let Some(slot) = self.table.running(process.tgid)
            && self.table.pulse(slot).is_some_and(|it| it.id == process)
        {
            self.exited_in(slot);
        } else {
            self.sharer_exited(process);
        }
    }

    fn exited_in(&mut self, slot: Slot) {
        let Some(pulse) = self.table.pulse_mut(slot) else {
            return;
        };
        let tgid = pulse.id.tgid;
        if !pulse.exited {
            pulse.exited = true;
            pulse.awaits_exit = !self.kernel.deny(tgid, slot);
        }
        self.table.stops_running(tgid, slot);
    }

    /// Notes where the totals that are about to be told stand: whoever takes over
    /// goes on from there.
    fn note_readings(&mut self) {
        for (slot, family) in &self.table.families {
            self.kernel.set_told(*slot, family.reading);
        }
        for (slot, pulse) in self.table.pulses_mut() {
            self.kernel.set_told(slot, pulse.reading);
        }
    }

    /// Reads the counters of every watched process.
    ///
    /// The order matters. Exits come first: what has exited sends no more, so what
    /// is read after is all; and whoever was born to it was born before. Then
    /// births, so that no family is taken for extinct that has a child; then who
    /// shares slots; the counters last.
    pub(crate) fn read(&mut self) {
        self.note_lives();
        self.settle();
        self.count_sharers();
        for (slot, family) in &mut self.table.families {
            family.idle = family.sharers == 0 && family.parents == 0;
            family.reading = self.kernel.read(*slot);
        }
        for (slot, pulse) in self.table.pulses_mut() {
            pulse.reading = self.kernel.read(slot);
        }
        // Apart, so that the time between the first reading and the last is short.
        self.note_readings();
    }

    /// Takes note of what has become of processes.
    fn note_lives(&mut self) {
        let (mut gone, mut renamed, mut adopted) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, pulse) in self.table.pulses_mut() {
            let life = self.kernel.life(slot);
            if life.exited {
                pulse.awaits_exit = false;
                if !pulse.exited {
                    gone.push(slot);
                }
            }
            if life.execs != pulse.execs {
                pulse.execs = life.execs;
                renamed.push(slot);
            }
            adopted.extend(
                self.kernel
                    .take_born_into(slot)
                    .map(|family| (slot, family)),
            );
        }
        for slot in renamed {
            if let Some(process) = self.table.get_mut(slot) {
                process.about.name = printable::without_controls(&self.kernel.name(slot));
            }
        }
        for slot in gone {
            self.exited_in(slot);
            if let Some(pulse) = self.table.pulse_mut(slot) {
                pulse.awaits_exit = false;
            }
        }
        for (slot, family) in adopted {
            self.adopt(slot, family);
        }
    }

    /// A process was found and listed before the kernel could list it with its
    /// parent's watches: they get it now, from its beginning.
    fn adopt(&mut self, slot: Slot, family: Slot) {
        let Some(family) = self.table.families.get(&family) else {
            return;
        };
        for id in family.watches.clone() {
            let Some(process) = self.table.get_mut(slot) else {
                return;
            };
            let beginning = process.beginning;
            if !process.watches.contains(&id) {
                insert(&mut process.watches, id);
                self.add_member(id, slot, beginning);
            }
            if let Err(error) = self.follow(id, slot) {
                warn!(%id, %error, "children of a process cannot be followed");
            }
        }
    }

    /// What each watch has counted from the reading before to the last one, in
    /// order of watch id; `detail`: with each process's part. `used` are samples
    /// that nobody needs any more, whose memory is used again.
    pub(crate) fn diff(
        &mut self,
        detail: bool,
        used: Vec<v1::NetIoSample>,
    ) -> Vec<v1::NetIoSample> {
        let mut samples = used;
        samples.resize_with(self.watches.len(), v1::NetIoSample::default);
        for (watch, sample) in self.watches.values_mut().zip(&mut samples) {
            samples::fill(watch, &self.table, detail, sample);
        }
        samples
    }

    /// Every watch, in order.
    pub(crate) fn list(&mut self, now: Instant) -> Vec<v1::Watch> {
        self.settle();
        self.count_sharers();
        let mut room = MAX_LISTED;
        let mut watches = Vec::new();
        for (id, watch) in &self.watches {
            let told = samples::describe(*id, watch, &self.table, &self.leases, now, room);
            room -= told.processes.len();
            watches.push(told);
        }
        watches
    }

    /// One watch.
    pub(crate) fn describe(&mut self, id: WatchId, now: Instant) -> Option<v1::Watch> {
        self.settle();
        self.count_sharers();
        let watch = self.watches.get(&id)?;
        let (table, leases) = (&self.table, &self.leases);
        Some(samples::describe(id, watch, table, leases, now, MAX_LISTED))
    }

    /// The watches that processes join when they match later, if they have changed
    /// since the last call.
    pub(crate) fn changed_rules(&mut self) -> Option<Vec<Rule>> {
        if !std::mem::take(&mut self.rules_changed) {
            return None;
        }
        let watches = self.watches.iter();
        let rules = watches.filter(|(_, watch)| watch.selector.is_rule());
        let rules = rules.map(|(id, watch)| Rule {
            id: *id,
            selector: watch.selector.clone(),
            follow: watch.follow,
        });
        Some(rules.collect())
    }
}

/// Inserts into a list in order that has no doubles.
fn insert(watches: &mut Vec<WatchId>, id: WatchId) {
    if let Err(place) = watches.binary_search(&id) {
        watches.insert(place, id);
    }
}
