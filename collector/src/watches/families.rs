//! Families: which watches follow whose children, and the slots in which
//! processes count that find none of their own.
#![forbid(unsafe_code)]

use super::{
    Counters, Family, Member, ProcessId, Slot, WatchError, WatchId, Watches, debug, insert, warn,
};

impl Watches {
    /// Makes the children of the process in `slot` join the watch too; tells
    /// whether they did not before.
    pub(super) fn follow(
        &mut self,
        id: WatchId,
        slot: Slot,
        family: Option<Slot>,
    ) -> Result<bool, WatchError> {
        let before = family.and_then(|slot| self.table.families.get(&slot));
        let mut following = before.map_or_else(Vec::new, |family| family.watches.clone());
        if following.contains(&id) {
            return Ok(false);
        }
        insert(&mut following, id);
        let family = self.family_for(following)?;
        self.kernel.set_family(slot, family);
        self.table.change_family(slot, family);
        // Who was born until now was born into the family before, and is found
        // as a descendant.
        self.settle();
        Ok(true)
    }

    /// The family of these watches, which follow children; none if there are
    /// none.
    pub(super) fn family_for(
        &mut self,
        following: Vec<WatchId>,
    ) -> Result<Option<Slot>, WatchError> {
        if following.is_empty() {
            return Ok(None);
        }
        self.family(following, true).map(Some)
    }

    fn family(&mut self, watches: Vec<WatchId>, follows: bool) -> Result<Slot, WatchError> {
        if let Some(slot) = self.table.family_of(&watches, follows) {
            return Ok(slot);
        }
        let slot = self.reserve.pop().or_else(|| self.kernel.take()).ok_or(
            WatchError::TooManyProcesses {
                limit: self.limits.max_processes,
            },
        )?;
        let baseline = self.kernel.read(slot);
        self.kernel.open_family(slot, follows);
        for id in &watches {
            if let Some(watch) = self.watches.get_mut(id) {
                watch.shared.push(Member::new(slot, baseline));
            }
        }
        let budget = self.budget(&watches);
        self.kernel.set_budget(slot, budget);
        self.table.families.insert(
            slot,
            Family {
                watches,
                follows,
                parents: 0,
                idle: false,
                reading: baseline,
                sharers: 0,
            },
        );
        Ok(slot)
    }

    /// Counts a process in a family's slot.
    pub(super) fn share(
        &mut self,
        process: ProcessId,
        watches: Vec<WatchId>,
        following: Vec<WatchId>,
    ) -> Result<bool, WatchError> {
        let follows = !following.is_empty();
        if follows && following != watches {
            // One slot cannot be both.
            warn!(
                pid = process.tgid,
                "a process that some watches follow and others do not found no slot: it is not \
                 counted; raise --max-processes"
            );
            return Err(WatchError::TooManyProcesses {
                limit: self.limits.max_processes,
            });
        }
        let family = self.family(watches, follows)?;
        self.kernel.share(process, family)?;
        self.unlisted += 1;
        debug!(
            pid = process.tgid,
            "a process counts without a slot of its own"
        );
        Ok(true)
    }

    /// Notes how many processes count in each family's slot now.
    pub(super) fn count_sharers(&mut self) {
        for (slot, family) in &mut self.table.families {
            family.sharers = self.kernel.sharers(*slot);
        }
    }

    /// Tells the kernel how many more slots each family may take.
    pub(super) fn set_budgets(&mut self) {
        for (slot, family) in &self.table.families {
            if family.follows {
                self.kernel.set_budget(*slot, self.budget(&family.watches));
            }
        }
    }

    fn budget(&self, watches: &[WatchId]) -> u32 {
        let members = watches.iter().filter_map(|id| self.watches.get(id));
        let most = members.map(|watch| watch.members.len()).max().unwrap_or(0);
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let in_watch = self.limits.max_processes_per_watch.saturating_sub(most);
        let in_all = self.limits.max_processes.saturating_sub(self.table.len());
        in_watch.min(in_all)
    }

    /// A watch has ended: families go on without it, or end with it.
    pub(super) fn leave_families(&mut self, id: WatchId, shared: &[Member]) -> Vec<Slot> {
        let mut ended = Vec::new();
        for member in shared {
            let Some(family) = self.table.families.get_mut(&member.slot) else {
                continue;
            };
            family.watches.retain(|watch| *watch != id);
            if family.watches.is_empty() {
                self.close(member.slot);
                ended.push(member.slot);
            }
        }
        ended
    }

    /// Ends the families that nobody counts in and nobody can be born into.
    pub(super) fn retire_families(&mut self) {
        let idle = self.table.families.iter().filter(|(_, it)| it.idle);
        for slot in idle.map(|(slot, _)| *slot).collect::<Vec<_>>() {
            let Some(family) = self.table.families.get(&slot) else {
                continue;
            };
            for id in &family.watches {
                if let Some(watch) = self.watches.get_mut(id) {
                    watch.shared.retain(|member| member.slot != slot);
                }
            }
            self.close(slot);
        }
    }

    fn close(&mut self, slot: Slot) {
        self.kernel.close_family(slot);
        self.table.families.remove(&slot);
        self.resting.give(slot, false);
    }

    /// Puts slots that have rested where they are taken from again.
    pub(super) fn free(&mut self, slots: Vec<Slot>) {
        for slot in slots {
            self.note_idle(slot);
            if self.reserve.len() < self.limits.max_watches as usize {
                // Given and taken, so that nothing is left of its last user.
                self.kernel.give(slot);
                self.reserve.extend(self.kernel.take());
            } else {
                self.kernel.give(slot);
            }
        }
    }

    fn note_idle(&mut self, slot: Slot) {
        let index = slot.0 as usize;
        if self.idle_readings.len() <= index {
            self.idle_readings.resize(index + 1, Counters::default());
        }
        self.idle_readings[index] = self.kernel.read(slot);
    }
}
