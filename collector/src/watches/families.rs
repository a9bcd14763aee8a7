//! Families: which watches follow whose children, and the slots in which
//! processes count that find none of their own.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::{
    ExitGuard, Family, Member, ProcessId, Slot, WatchError, WatchId, Watches, debug, insert,
};

impl Watches {
    /// Makes the children of the process in `slot` join the watch too; tells
    /// whether they did not before.
    pub(super) fn follow(&mut self, id: WatchId, slot: Slot) -> Result<bool, WatchError> {
        let before = self.table.get(slot).and_then(|process| process.family);
        let before = before.and_then(|family| self.table.families.get(&family));
        let mut following = before.map_or_else(Vec::new, |family| family.watches.clone());
        if following.contains(&id) {
            return Ok(false);
        }
        insert(&mut following, id);
        let family = self.family_for(following)?;
        self.kernel.set_family(slot, family);
        self.table.change_family(slot, family);
        self.changed = true;
        // Who was born until now was born into the family before, and is found
        // as a descendant.
        self.settle();
        Ok(true)
    }

    /// The family that the children of a process with these followers are born
    /// into; none if there are none.
    pub(super) fn family_for(
        &mut self,
        following: Vec<WatchId>,
    ) -> Result<Option<Slot>, WatchError> {
        if following.is_empty() {
            return Ok(None);
        }
        self.family(following.clone(), following).map(Some)
    }

    fn family(
        &mut self,
        watches: Vec<WatchId>,
        following: Vec<WatchId>,
    ) -> Result<Slot, WatchError> {
        if let Some(slot) = self.table.family_of(&watches, &following) {
            return Ok(slot);
        }
        // Children of those that count in it belong to its followers alone.
        let others = if following == watches {
            None
        } else {
            self.family_for(following.clone())?
        };
        let slot = self.reserve.pop().or_else(|| self.kernel.take()).ok_or(
            WatchError::TooManyProcesses {
                limit: self.limits.max_processes,
            },
        )?;
        let baseline = self.kernel.read(slot);
        let children = if following == watches {
            Some(slot)
        } else {
            others
        };
        self.kernel.set_family(slot, children);
        self.table.join_family(others);
        for id in &watches {
            if let Some(watch) = self.watches.get_mut(id) {
                watch.shared.push(Member::new(slot, baseline));
            }
        }
        self.table
            .families
            .insert(slot, Family::new(watches, following, children, baseline));
        self.kernel.set_base(slot, baseline);
        self.set_budget(slot);
        self.changed = true;
        Ok(slot)
    }

    /// Counts a process in a family's slot.
    pub(super) fn share(
        &mut self,
        process: ProcessId,
        has_exited: &dyn Fn() -> bool,
        watches: Vec<WatchId>,
        following: Vec<WatchId>,
        exit: &mut Option<ExitGuard>,
    ) -> Result<bool, WatchError> {
        let before = self.kernel.shares(process.tgid);
        let slot = self.family(watches, following)?;
        self.kernel.share(process, slot)?;
        let guard = before.and_then(|slot| self.unguard(process, slot));
        if has_exited() {
            self.kernel.unshare(process.tgid, slot);
            return Err(WatchError::Exited { pid: process.tgid });
        }
        if let Some(family) = self.table.families.get_mut(&slot) {
            family
                .guards
                .extend(guard.or(exit.take()).map(|it| (process, it)));
            family.idle = false;
            family.rested = false;
        }
        if before.is_none() {
            self.unlisted += 1;
        }
        self.changed = true;
        debug!(
            pid = process.tgid,
            "a process counts without a slot of its own"
        );
        Ok(true)
    }

    /// Takes out what tells of the exit of a process that shares a family's slot.
    pub(super) fn unguard(&mut self, process: ProcessId, family: Slot) -> Option<ExitGuard> {
        let family = self.table.families.get_mut(&family)?;
        family.guards.remove(&process)
    }

    /// A process that shares a slot has exited.
    pub(super) fn sharer_exited(&mut self, process: ProcessId) {
        for (slot, family) in &mut self.table.families {
            if family.guards.remove(&process).is_some() {
                self.changed = true;
                self.kernel.unshare(process.tgid, *slot);
            }
        }
    }

    /// Notes how many processes count in each family's slot now.
    pub(super) fn count_sharers(&mut self) {
        for (slot, family) in &mut self.table.families {
            family.sharers = self.kernel.sharers(*slot);
        }
    }

    /// Tells the kernel how many more slots each family may take.
    pub(super) fn set_budgets(&mut self) {
        let slots: Vec<Slot> = self.table.families.keys().copied().collect();
        for slot in slots {
            self.set_budget(slot);
        }
    }

    pub(super) fn set_budget(&mut self, slot: Slot) {
        let Some(family) = self.table.families.get(&slot) else {
            return;
        };
        let members = family.watches.iter().filter_map(|id| self.watches.get(id));
        let most = members.map(|watch| watch.members.len()).max().unwrap_or(0);
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let in_watch = self.limits.max_processes_per_watch.saturating_sub(most);
        let in_all = self.limits.max_processes.saturating_sub(self.table.len());
        self.kernel.set_budget(slot, in_watch.min(in_all));
    }

    /// A watch has ended: families go on without it, or end with it. Tells which
    /// of them children can be born into no more.
    pub(super) fn leave_families(&mut self, id: WatchId, shared: &[Member]) -> Vec<Slot> {
        let mut ended = Vec::new();
        for member in shared {
            let Some(family) = self.table.families.get_mut(&member.slot) else {
                continue;
            };
            family.watches.retain(|watch| *watch != id);
            family.following.retain(|watch| *watch != id);
            if family.watches.is_empty() {
                self.close(member.slot);
                ended.push(member.slot);
            }
        }
        for member in shared {
            let Some(family) = self.table.families.get_mut(&member.slot) else {
                continue;
            };
            if family.children.is_some_and(|slot| ended.contains(&slot)) {
                family.children = None;
                self.kernel.set_family(member.slot, None);
            }
        }
        ended
    }

    /// Ends the families that nobody counts in and nobody can be born into.
    pub(super) fn retire_families(&mut self) {
        let idle = self.table.families.iter().filter(|(_, it)| it.idle);
        let idle = idle.map(|(slot, _)| *slot).collect();
        self.retire_these(idle);
    }

    /// Ends those that were so at the last rest, too, and counted nothing that no
    /// sample holds: watches that come and go leave families behind faster than
    /// ticks end them.
    pub(super) fn rest_families(&mut self) {
        let mut over = BTreeSet::new();
        for (slot, family) in &mut self.table.families {
            let idle = family.parents == 0 && self.kernel.sharers(*slot) == 0;
            let was_idle = std::mem::replace(&mut family.rested, idle);
            if idle && was_idle && self.kernel.read(*slot) == family.reading {
                over.insert(*slot);
            }
        }
        self.retire_these(over);
    }

    /// Whether some may be ended soon.
    pub(super) fn has_idle_families(&self) -> bool {
        let mut families = self.table.families.values();
        families.any(|family| family.parents == 0)
    }

    fn retire_these(&mut self, idle: BTreeSet<Slot>) {
        if idle.is_empty() {
            return;
        }
        for watch in self.watches.values_mut() {
            watch.shared.retain(|member| !idle.contains(&member.slot));
        }
        for slot in idle {
            self.close(slot);
        }
    }

    fn close(&mut self, slot: Slot) {
        self.kernel.close_family(slot);
        if let Some(family) = self.table.families.remove(&slot) {
            let others = family.children.filter(|children| *children != slot);
            self.table.leave_family(others);
        }
        self.changed = true;
        self.resting.give_of_family(slot);
    }

    /// Puts slots that have rested where they are taken from again.
    pub(super) fn free(&mut self, slots: Vec<Slot>) {
        for slot in slots {
            let reading = self.kernel.read(slot);
            self.kernel.set_base(slot, reading);
            self.kernel.give(slot);
            if self.reserve.len() < self.limits.max_watches as usize {
                self.reserve.extend(self.kernel.take());
            }
        }
    }
}
