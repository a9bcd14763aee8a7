//! How watches are found, kept and ended, and what becomes of their processes.
#![forbid(unsafe_code)]

use crate::processes::brief;

use super::{Hold, Instant, Selector, Slot, WatchError, WatchId, Watches, resting::Awaits};

/// Which watches to end.
#[derive(Debug)]
pub(crate) enum Selection {
    /// The watch with this id, as the caller wrote it.
    Id(String),
    /// The caller's own watches with this selector.
    Selector(Selector),
}

impl Watches {
    /// Ends watches of this owner and tells which, in order.
    pub(crate) fn remove(
        &mut self,
        selection: &Selection,
        owner: &str,
    ) -> Result<Vec<WatchId>, WatchError> {
        let ids = match selection {
            Selection::Id(text) => vec![self.own(text, owner)?],
            Selection::Selector(selector) => self.own_of(selector, owner)?,
        };
        for id in &ids {
            self.end(*id);
        }
        Ok(ids)
    }

    /// Renews the leases of this owner's watches: all of them, or none.
    pub(crate) fn renew(
        &mut self,
        watch_ids: &[String],
        owner: &str,
        now: Instant,
    ) -> Result<(), WatchError> {
        let ids = watch_ids.iter().map(|text| self.own(text, owner));
        for id in ids.collect::<Result<Vec<_>, _>>()? {
            self.leases.renew(id, now);
            self.changed = true;
        }
        Ok(())
    }

    /// Holds the leases of those of these watches that are this owner's. All must
    /// exist, unless they `may_be_gone`.
    pub(crate) fn hold(
        &mut self,
        watch_ids: &[String],
        owner: &str,
        may_be_gone: bool,
        now: Instant,
    ) -> Result<Vec<Hold>, WatchError> {
        let found = watch_ids.iter().map(|text| self.find(text));
        let found = found.filter(|found| found.is_ok() || !may_be_gone);
        let ids = found.collect::<Result<Vec<_>, _>>()?;
        let own = |id: &WatchId| self.watches.get(id).is_some_and(|it| it.owner == owner);
        let own: Vec<_> = ids.into_iter().filter(own).collect();
        self.changed |= !own.is_empty();
        Ok(own
            .into_iter()
            .filter_map(|id| self.leases.hold(id, now))
            .collect())
    }

    /// When to call [`Watches::expire`] next.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.leases.next()
    }

    /// Ends the watches whose leases have run out, and tells which.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<WatchId> {
        let expired = self.leases.expired(now);
        self.changed |= self.leases.take_renewed();
        for id in &expired {
            self.end(*id);
        }
        expired
    }

    /// The watch that a caller means.
    fn find(&self, text: &str) -> Result<WatchId, WatchError> {
        WatchId::parse(text)
            .filter(|id| self.watches.contains_key(id))
            .ok_or_else(|| WatchError::NotFound {
                watch_id: brief(text),
            })
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

    fn own_of(&self, selector: &Selector, owner: &str) -> Result<Vec<WatchId>, WatchError> {
        let (own, others): (Vec<_>, Vec<_>) = self
            .watches
            .iter()
            .filter(|(_, watch)| watch.selector == *selector)
            .partition(|(_, watch)| watch.owner == owner);
        if own.is_empty() {
            return Err(WatchError::NoneOfOwn {
                selector: brief(&selector.to_string()),
                owner: owner.to_owned(),
                others: others.len(),
            });
        }
        Ok(own.into_iter().map(|(id, _)| *id).collect())
    }

    /// Ends one watch, and with the last of a process its counting.
    pub(crate) fn end(&mut self, id: WatchId) {
        // Who was born into it counts as its member.
        self.settle();
        let Some(watch) = self.watches.remove(&id) else {
            return;
        };
        self.rules_changed |= watch.selector.is_rule();
        self.changed = true;
        self.leases.end(id);
        let ended = self.leave_families(id, &watch.shared);
        for member in &watch.members {
            self.leave(id, member.slot, &ended);
        }
    }

    fn leave(&mut self, id: WatchId, slot: Slot, ended: &[Slot]) {
        let Some(process) = self.table.get_mut(slot) else {
            return;
        };
        process.watches.retain(|watch| *watch != id);
        if process.watches.is_empty() {
            self.release(slot);
        } else if process.family.is_some_and(|family| ended.contains(&family)) {
            self.kernel.set_family(slot, None);
            self.table.change_family(slot, None);
        }
    }

    /// A process counts for nobody any more.
    fn release(&mut self, slot: Slot) {
        let Some((pulse, _)) = self.table.remove(slot) else {
            return;
        };
        self.changed = true;
        if pulse.exited {
            self.resting.give(slot, Some(pulse.id), pulse.awaits_exit);
        } else if self.kernel.deny(pulse.id.tgid, slot) {
            self.resting.give_of(pulse.id, slot);
        } else {
            self.resting.give(slot, Some(pulse.id), true);
        }
    }

    /// Takes the processes that have exited out of their watches, now that they
    /// had their last sample; ends the watches that have none left and find no
    /// new ones; lets slots rest on, and leases that are held live on.
    pub(crate) fn retire(&mut self, now: Instant) {
        let pulses = self.table.pulses_mut();
        let exited: Vec<_> = pulses
            .filter(|(_, pulse)| pulse.exited)
            .map(|(slot, _)| slot)
            .collect();
        let processes = exited.iter().filter_map(|slot| self.table.get(*slot));
        let mut concerned: Vec<_> = processes.flat_map(|it| &it.watches).copied().collect();
        concerned.sort_unstable();
        concerned.dedup();
        for id in &concerned {
            if let Some(watch) = self.watches.get_mut(id) {
                let table = &self.table;
                let runs = |slot| table.pulse(slot).is_some_and(|pulse| !pulse.exited);
                watch.members.retain(|member| runs(member.slot));
            }
        }
        for slot in exited {
            self.release(slot);
        }
        self.retire_families();
        let over: Vec<_> = self
            .watches
            .iter()
            .filter(|(_, watch)| !watch.selector.is_rule() && watch.members.is_empty())
            .filter(|(_, watch)| {
                let mut families = watch.shared.iter();
                families.all(|member| {
                    let family = self.table.families.get(&member.slot);
                    family.is_none_or(|family| family.sharers == 0)
                })
            })
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.end(id);
        }
        self.rest();
        self.set_budgets();
        self.changed |= self.leases.tick(now);
    }

    /// Whether slots rest, so that [`Watches::rest`] should be called soon.
    pub(crate) fn has_resting_slots(&self) -> bool {
        !self.resting.is_empty() || self.has_idle_families()
    }

    /// Frees the slots that rested since the last call.
    pub(crate) fn rest(&mut self) {
        self.settle();
        self.rest_families();
        let kernel = &self.kernel;
        let free = self.resting.tick(|slot, awaits| match awaits {
            Awaits::Nothing => true,
            Awaits::Exit => kernel.life(slot).exited,
            Awaits::NoSharers => kernel.sharers(slot) == 0,
        });
        self.free(free);
    }
}
