//! Hands over from hooks of before to others: of another object, or with maps of
//! other sizes.
//!
//! Takes both, attached and with the same allow-list, in which each has a word of its
//! own, and the state that belongs to the old ones; gives the state that belongs to
//! the new ones. Promises: no call is lost or counted twice, as far as hooks lose none
//! when they come and go (`blind_spots.rs`). For that, both count each process for a
//! while, so that from then on their counters grow alike; how far they are apart is read
//! on each CPU by a thread that runs there, so that no call is between the one hook and
//! the other meanwhile. What the old ones counted is then what the new ones count, and
//! that. Where that cannot be done, the old hooks are as they were.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::Duration,
};

use netio_abi::{LIFE_EXITED, Life, MARK_SEQUENCE, MARK_TIME, NO_SLOT};
use rustix::{
    io::Errno,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use super::{AttachError, object::Object};
use crate::{
    keep::{Part, State},
    kernel::{Counters, ProcessId, Slot},
};

/// Many times what a call spends between hooks.
const REST: Duration = Duration::from_millis(100);
/// Looks for processes that the new hooks have not; each finds what was born meanwhile
/// to parents that they had not.
const LOOKS: usize = 64;
/// Readings of how far the counters are apart, until two are alike.
const READINGS: usize = 100;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(2);

/// See the module. `note`: notes a process's sockets for the new hooks. `taken`: the
/// old slots in use.
pub(super) fn hand_over(
    old: &mut Object,
    new: &mut Object,
    taken: impl Iterator<Item = Slot>,
    state: &State,
    note: impl Fn(&Object, u32) -> Result<(), AttachError>,
) -> Result<State, AttachError> {
    let mut both = Both {
        old,
        new,
        slots: BTreeMap::new(),
        families: BTreeSet::new(),
        born: BTreeSet::new(),
    };
    both.list_families(state)?;
    let mut next: Vec<Slot> = taken.collect();
    for look in 0.. {
        if look == LOOKS {
            return Err(AttachError::new(
                "processes are born faster than they are listed",
            ));
        }
        for slot in next {
            both.list(slot, &note)?;
        }
        next = both.missing()?;
        if next.is_empty() {
            break;
        }
    }
    // What began before both counted has ended.
    thread::sleep(REST);
    let apart = both.apart()?;
    for (slot, (new_slot, apart)) in &apart {
        let base = both.old.kept.base(*slot) - *apart;
        both.new.kept.set_base(*new_slot, base);
        let told = both.old.kept.told(*slot) - *apart;
        both.new.kept.set_told(*new_slot, told);
    }
    for mark in [MARK_SEQUENCE, MARK_TIME] {
        both.new.marks.set(mark, both.old.marks.get(mark));
    }
    translated(state, &apart)
}

struct Both<'a> {
    old: &'a mut Object,
    new: &'a mut Object,
    /// Old slot → new slot.
    slots: BTreeMap<Slot, Slot>,
    /// Those of them that are families'.
    families: BTreeSet<Slot>,
    /// Who was born to both: the new hooks gave it a slot by themselves.
    born: BTreeSet<ProcessId>,
}

impl Both<'_> {
    fn take(&mut self) -> Result<Slot, AttachError> {
        let slot = self.new.lives.take();
        slot.ok_or_else(|| AttachError::new("there are too few slots for what is watched"))
    }

    fn list_families(&mut self, state: &State) -> Result<(), AttachError> {
        for family in &state.families {
            let slot = self.take()?;
            self.slots.insert(Slot(family.slot), slot);
            self.families.insert(Slot(family.slot));
        }
        for family in &self.families {
            let life = self.old.lives.read(*family).unwrap_or_default();
            if life.sharers > 0 {
                return Err(shares());
            }
            let life = self.in_new(life);
            self.new.lives.put(self.slots[family], life);
        }
        Ok(())
    }

    /// The same with the new families.
    fn in_new(&self, life: Life) -> Life {
        let family = self.slots.get(&Slot(life.family));
        Life {
            family: family.map_or(NO_SLOT, |family| family.0),
            born_into: NO_SLOT,
            ..life
        }
    }

    /// Gives the process in an old slot a new one, and lists it if it is listed.
    fn list(
        &mut self,
        slot: Slot,
        note: &impl Fn(&Object, u32) -> Result<(), AttachError>,
    ) -> Result<(), AttachError> {
        let life = self.old.lives.read(slot).unwrap_or_default();
        if life.tgid == 0 || self.slots.contains_key(&slot) {
            return Ok(());
        }
        let tgid = life.tgid;
        if self.old.allow_list.entry(tgid) == slot.0 {
            if self.new.allow_list.entry(tgid) != NO_SLOT {
                // It was born to both.
                return Ok(());
            }
            note(self.new, tgid)?;
            let new_slot = self.take()?;
            self.new.lives.put(new_slot, self.in_new(life));
            if self.new.allow_list.enter_beside(tgid, slot.0, new_slot.0) {
                self.slots.insert(slot, new_slot);
                return Ok(());
            }
            // It was born to both in this moment, or has exited.
            self.new.lives.give(new_slot);
            if self.new.allow_list.entry(tgid) != NO_SLOT {
                return Ok(());
            }
        }
        // Its mark comes a moment after its entry has gone.
        if life.state != LIFE_EXITED {
            thread::sleep(PAUSE);
        }
        self.note_births();
        let born = self.old.lives.look(slot).and_then(|it| it.process);
        if born.is_some_and(|process| self.born.contains(&process)) {
            return Ok(());
        }
        let life = self.old.lives.read(slot).unwrap_or_default();
        let new_slot = self.take()?;
        self.new.lives.put(new_slot, self.in_new(life));
        self.slots.insert(slot, new_slot);
        Ok(())
    }

    fn note_births(&mut self) {
        let births = self.new.lives.births().into_iter();
        self.born.extend(births.map(|birth| birth.process));
    }

    /// The old slots of listed processes that the new hooks have not, and of those
    /// that were born since the last call.
    fn missing(&mut self) -> Result<Vec<Slot>, AttachError> {
        let births = self.old.lives.births().into_iter();
        let mut missing: Vec<Slot> = births.map(|birth| birth.slot).collect();
        for tgid in 0..self.old.sizes.pids {
            let slot = Slot(self.old.allow_list.entry(tgid));
            if slot.0 == NO_SLOT || self.new.allow_list.entry(tgid) != NO_SLOT {
                continue;
            }
            if self.old.lives.is_family(slot) && self.families.contains(&slot) {
                return Err(shares());
            }
            if slot != self.old.spare && !self.slots.contains_key(&slot) {
                missing.push(slot);
            }
        }
        Ok(missing)
    }

    /// How far the counters of each pair of slots are apart.
    fn apart(&self) -> Result<BTreeMap<Slot, (Slot, Counters)>, AttachError> {
        let allowed = sched_getaffinity(None)?;
        let read = self.settled();
        sched_setaffinity(None, &allowed)?;
        let pairs = self.slots.iter();
        Ok(pairs
            .zip(read?)
            .map(|((old, new), apart)| (*old, (*new, apart)))
            .collect())
    }

    /// Where a program can be interrupted between the hooks, a reading may be off.
    fn settled(&self) -> Result<Vec<Counters>, AttachError> {
        let mut last = self.read_apart()?;
        for _ in 0..READINGS {
            thread::sleep(PAUSE);
            let now = self.read_apart()?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
        Err(AttachError::new(
            "the two sets of probes do not count alike",
        ))
    }

    fn read_apart(&self) -> Result<Vec<Counters>, AttachError> {
        let mut apart = vec![Counters::default(); self.slots.len()];
        for cpu in 0..self.old.sizes.cpus {
            let mut only = CpuSet::new();
            only.set(cpu as usize);
            match sched_setaffinity(None, &only) {
                Ok(()) => {}
                // It is off line, so nothing runs there.
                Err(Errno::INVAL) if !is_online(cpu) => {}
                Err(Errno::INVAL) => {
                    return Err(AttachError::new(format!(
                        "CPU {cpu} is one that this process may not run on"
                    )));
                }
                Err(error) => return Err(error.into()),
            }
            for ((old, new), apart) in self.slots.iter().zip(&mut apart) {
                let before = self.old.banks.read_on(*old, cpu);
                *apart += before - self.new.banks.read_on(*new, cpu);
            }
        }
        Ok(apart)
    }
}

/// Whether something may run on a CPU. One that cannot be put off line has no file that
/// tells of it.
fn is_online(cpu: u32) -> bool {
    let folder = format!("/sys/devices/system/cpu/cpu{cpu}");
    match fs::read_to_string(format!("{folder}/online")) {
        Ok(told) => told.trim() == "1",
        Err(_) => fs::exists(&folder).unwrap_or(true),
    }
}

fn shares() -> AttachError {
    AttachError::new("processes past the limits count without a slot of their own")
}

/// The state with the new slots, whose counters are that far apart.
fn translated(
    state: &State,
    apart: &BTreeMap<Slot, (Slot, Counters)>,
) -> Result<State, AttachError> {
    let slot = |old: u32| apart.get(&Slot(old)).map(|(new, _)| new.0);
    let known = |old: u32| {
        slot(old).ok_or_else(|| AttachError::new(format!("slot {old} of the state is not in use")))
    };
    // 0 is no slot in both.
    let optional = |old: u32| slot(old).unwrap_or(NO_SLOT);
    let mut state = state.clone();
    for watch in &mut state.watches {
        for part in watch.members.iter_mut().chain(&mut watch.shared) {
            let Some((new, apart)) = apart.get(&Slot(part.slot)) else {
                known(part.slot)?;
                continue;
            };
            let less = |sums: &mut Option<_>| {
                *sums = Some((sums.map_or_else(Counters::default, Counters::from) - *apart).into());
            };
            let Part {
                slot,
                baseline,
                seen,
            } = part;
            *slot = new.0;
            less(baseline);
            less(seen);
        }
    }
    for process in &mut state.processes {
        process.slot = known(process.slot)?;
        process.family = optional(process.family);
    }
    for family in &mut state.families {
        family.slot = known(family.slot)?;
        family.children = optional(family.children);
    }
    state.resting.retain_mut(|it| {
        it.slot = optional(it.slot);
        it.slot != NO_SLOT
    });
    Ok(state)
}
