//! The maps that follow processes: whose slot each is, and the pool of free
//! slots, which the programs in the kernel take from when a child is born.
//!
//! Promises: a slot is in the pool, or taken by the collector, or taken by a
//! birth that [`Lives::births`] tells once. The pool has one end at which slots
//! are put in, and that is here.
#![allow(unsafe_code)] // memory that the kernel shares

use std::{
    collections::BTreeSet,
    io,
    mem::{self, offset_of},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

use aya::maps::Map;
use netio_abi::{
    LIFE_BORN, LIFE_EXITED, LIFE_NONE, LIFE_UNUSED, Life, NO_SLOT, PoolEnds, START_TIME_STEP,
    pool_index,
};
use rustix::mm::ProtFlags;

use super::mapped::Memory;
use crate::kernel::{Birth, LifeNow, ProcessId, Slot, Taken};

/// See the module.
pub(super) struct Lives {
    lives: Memory,
    pool: Memory,
    ends: Memory,
    /// Elements of the ring.
    size: u32,
    /// Up to where the taken slots have been looked at.
    seen: u64,
    /// Where in the ring the collector itself took slots, beyond `seen`.
    own: BTreeSet<u64>,
    /// Slots of births that were not complete when they were looked at.
    incomplete: Vec<Slot>,
}

impl Lives {
    /// Maps the three maps, sized for slots `1..=slots`, all of which become
    /// free. `size`: elements of the ring.
    pub(super) fn new(maps: (&Map, &Map, &Map), slots: u32, size: u32) -> io::Result<Self> {
        let mut lives = Self::of(maps, slots, size)?;
        for slot in 1..=slots {
            lives.give(Slot(slot));
        }
        Ok(lives)
    }

    /// Maps them as another collector has left them. [`Lives::births`] tells the
    /// births from now on.
    pub(super) fn taken_over(maps: (&Map, &Map, &Map), slots: u32, size: u32) -> io::Result<Self> {
        let mut lives = Self::of(maps, slots, size)?;
        lives.begin_anew();
        Ok(lives)
    }

    /// The slots of `1..=slots` that were in use when the maps were taken over; fails
    /// if the ring holds what it cannot hold.
    pub(super) fn taken(&self, slots: u32) -> io::Result<Vec<Slot>> {
        let tail = self.tail().load(Ordering::SeqCst);
        let mut free = BTreeSet::new();
        let mut is_sound = self.seen <= tail && tail - self.seen <= u64::from(slots);
        if is_sound {
            for count in self.seen..tail {
                let slot = self.at(count).filter(|it| (1..=slots).contains(&it.0));
                is_sound &= slot.is_some_and(|slot| free.insert(slot));
            }
        }
        if !is_sound {
            return Err(io::Error::other("the pool of slots is damaged"));
        }
        let all = (1..=slots).map(Slot);
        Ok(all.filter(|slot| !free.contains(slot)).collect())
    }

    /// From now on [`Lives::births`] tells what is born from now on, and all slots
    /// that are in use are [`Lives::taken`].
    pub(super) fn begin_anew(&mut self) {
        self.seen = self.head().load(Ordering::SeqCst);
        self.own.clear();
        self.incomplete.clear();
    }

    /// What is noted of a slot that is in use.
    pub(super) fn look(&self, slot: Slot) -> Option<Taken> {
        let life = self.read(slot)?;
        let process = ProcessId {
            tgid: life.tgid,
            start_time_ns: life.start_time_ns / START_TIME_STEP * START_TIME_STEP,
        };
        Some(Taken {
            slot,
            process: (life.tgid != 0).then_some(process),
            family: (life.family != NO_SLOT).then_some(Slot(life.family)),
            name: name(&life),
            is_told: life.tgid != 0 && matches!(life.state, LIFE_BORN | LIFE_EXITED),
            is_listed: false,
        })
    }

    fn of((lives, pool, ends): (&Map, &Map, &Map), slots: u32, size: u32) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let length = (slots as usize + 1) * size_of::<Life>();
        Ok(Self {
            lives: Memory::of(lives, length, protection)?,
            pool: Memory::of(pool, size as usize * size_of::<u64>(), protection)?,
            ends: Memory::of(ends, size_of::<PoolEnds>(), protection)?,
            size,
            seen: 0,
            own: BTreeSet::new(),
            incomplete: Vec::new(),
        })
    }

    /// Puts a slot into the pool; nothing may count in it any more.
    pub(super) fn give(&mut self, slot: Slot) {
        self.clear(slot);
        let tail = self.tail().load(Ordering::SeqCst);
        if let Some(place) = self
            .pool
            .element::<u64>(pool_index(tail, self.size) as usize)
        {
            // SAFETY: an aligned element of the mapping. The ring holds more
            // than all slots, so this place is not in use.
            unsafe { AtomicU64::from_ptr(place.as_ptr()) }
                .store(u64::from(slot.0), Ordering::SeqCst);
            self.tail().store(tail + 1, Ordering::SeqCst);
        }
    }

    /// Takes a slot out of the pool.
    pub(super) fn take(&mut self) -> Option<Slot> {
        loop {
            let head = self.head().load(Ordering::SeqCst);
            if head >= self.tail().load(Ordering::SeqCst) {
                return None;
            }
            let slot = self.at(head)?;
            // Somebody in the kernel may have been quicker.
            let taken =
                self.head()
                    .compare_exchange(head, head + 1, Ordering::SeqCst, Ordering::SeqCst);
            if taken.is_ok() {
                self.own.insert(head);
                return Some(slot);
            }
        }
    }

    /// The children that were born since the last call, in the order in which they
    /// took their slots. One whose birth is not complete has not run yet, and is
    /// told later; it keeps no other back.
    pub(super) fn births(&mut self) -> Vec<Birth> {
        let mut taken = mem::take(&mut self.incomplete);
        while self.seen < self.head().load(Ordering::SeqCst) {
            if !self.own.remove(&self.seen) {
                taken.extend(self.at(self.seen));
            }
            self.seen += 1;
        }
        let mut births = Vec::new();
        for slot in taken {
            match self.state(slot) {
                LIFE_NONE => self.incomplete.push(slot),
                LIFE_UNUSED => self.give(slot),
                _ => births.extend(self.birth(slot)),
            }
        }
        births
    }

    /// Notes whose slot it is, before the process is allowed.
    pub(super) fn begin(&self, process: ProcessId, slot: Slot, family: Option<Slot>) {
        self.change(slot, |life| {
            life.start_time_ns = process.start_time_ns;
            life.tgid = process.tgid;
            life.family = family.map_or(NO_SLOT, |family| family.0);
            life.born_into = NO_SLOT;
        });
    }

    /// Sets the family that the children of this slot's processes belong to.
    pub(super) fn set_family(&self, slot: Slot, family: Option<Slot>) {
        self.store(slot, offset_of!(Life, family), family.map_or(0, |it| it.0));
    }

    /// Sets how many more slots a family may take.
    pub(super) fn set_budget(&self, family: Slot, budget: u32) {
        // The kernel reads it as a signed number.
        let budget = budget.min(i32::MAX.unsigned_abs());
        self.store(family, offset_of!(Life, budget), budget);
    }

    /// How many processes count in a family's slot.
    pub(super) fn sharers(&self, family: Slot) -> u32 {
        self.load(family, offset_of!(Life, sharers))
    }

    /// Counts one more process that counts in a family's slot, or, with
    /// `u32::MAX`, one less.
    pub(super) fn add_sharers(&self, family: Slot, more: u32) {
        if let Some(word) = self.word(family, offset_of!(Life, sharers)) {
            word.fetch_add(more, Ordering::SeqCst);
        }
    }

    /// Whether this slot is a family's.
    pub(super) fn is_family(&self, slot: Slot) -> bool {
        self.load(slot, offset_of!(Life, tgid)) == 0
    }

    /// From now on nobody new counts in the family's slot.
    pub(super) fn close(&self, family: Slot) {
        self.store(family, offset_of!(Life, closed), 1);
        fence(Ordering::SeqCst);
    }

    /// Opens a family again that was closed by a collector which is gone.
    pub(super) fn reopen(&self, family: Slot) {
        self.store(family, offset_of!(Life, closed), 0);
    }

    /// The family that a process was born into which the collector had listed
    /// before; told once.
    pub(super) fn take_born_into(&self, slot: Slot) -> Option<Slot> {
        let born_into = self.word(slot, offset_of!(Life, born_into))?;
        // Looked at first: this is done for every process at every tick.
        if born_into.load(Ordering::SeqCst) == NO_SLOT {
            return None;
        }
        Some(Slot(born_into.swap(NO_SLOT, Ordering::SeqCst)))
    }

    /// What has become of a slot's process.
    pub(super) fn now(&self, slot: Slot) -> LifeNow {
        let execs = self.load(slot, offset_of!(Life, execs));
        LifeNow {
            exited: self.state(slot) == LIFE_EXITED,
            execs,
        }
    }

    /// Its name as of its birth or its last exec.
    pub(super) fn name(&self, slot: Slot) -> Vec<u8> {
        self.read(slot).map_or_else(Vec::new, |life| name(&life))
    }

    fn birth(&self, slot: Slot) -> Option<Birth> {
        let life = self.read(slot)?;
        Some(Birth {
            slot,
            process: ProcessId {
                tgid: life.tgid,
                start_time_ns: life.start_time_ns / START_TIME_STEP * START_TIME_STEP,
            },
            family: Slot(life.family),
            name: name(&life),
        })
    }

    fn clear(&self, slot: Slot) {
        self.change(slot, |life| *life = Life::default());
    }

    fn state(&self, slot: Slot) -> u32 {
        self.load(slot, offset_of!(Life, state))
    }

    fn at(&self, count: u64) -> Option<Slot> {
        let place = self
            .pool
            .element::<u64>(pool_index(count, self.size) as usize)?;
        // SAFETY: an aligned element of the mapping.
        let slot = unsafe { AtomicU64::from_ptr(place.as_ptr()) }.load(Ordering::SeqCst);
        u32::try_from(slot).ok().map(Slot)
    }

    fn head(&self) -> &AtomicU64 {
        self.end(offset_of!(PoolEnds, head))
    }

    fn tail(&self) -> &AtomicU64 {
        self.end(offset_of!(PoolEnds, tail))
    }

    fn end(&self, offset: usize) -> &AtomicU64 {
        static NONE: AtomicU64 = AtomicU64::new(0);
        let end = self.ends.element::<u64>(offset / size_of::<u64>());
        // SAFETY: an aligned word of the mapped element, which lives as long as
        // `self`; every access to it, on either side, is atomic.
        end.map_or(&NONE, |end| unsafe { AtomicU64::from_ptr(end.as_ptr()) })
    }

    fn life(&self, slot: Slot) -> Option<NonNull<Life>> {
        self.lives.element(slot.0 as usize)
    }

    /// All that is noted of a slot.
    pub(super) fn read(&self, slot: Slot) -> Option<Life> {
        // SAFETY: a mapped element, of plain numbers. What is read while a
        // program writes the name may be half of each; nothing else changes.
        self.life(slot)
            .map(|life| unsafe { life.as_ptr().read_volatile() })
    }

    /// Notes all that; no program writes to the slot now.
    pub(super) fn put(&self, slot: Slot, life: Life) {
        self.change(slot, |place| *place = life);
    }

    /// Changes a slot that no program writes to now: it is not on the allow-list.
    fn change(&self, slot: Slot, change: impl FnOnce(&mut Life)) {
        if let (Some(place), Some(mut life)) = (self.life(slot), self.read(slot)) {
            change(&mut life);
            // SAFETY: as in `read`; nobody else writes it by this function's
            // contract.
            unsafe { place.as_ptr().write_volatile(life) };
            fence(Ordering::SeqCst);
        }
    }

    fn word(&self, slot: Slot, offset: usize) -> Option<&AtomicU32> {
        let words = size_of::<Life>() / size_of::<u32>();
        let word = slot.0 as usize * words + offset / size_of::<u32>();
        let word = self.lives.element::<u32>(word)?;
        // SAFETY: an aligned word of the mapping; accesses by programs to these
        // words are atomic.
        Some(unsafe { AtomicU32::from_ptr(word.as_ptr()) })
    }

    fn load(&self, slot: Slot, offset: usize) -> u32 {
        self.word(slot, offset)
            .map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn store(&self, slot: Slot, offset: usize, value: u32) {
        if let Some(word) = self.word(slot, offset) {
            word.store(value, Ordering::SeqCst);
        }
    }
}

fn name(life: &Life) -> Vec<u8> {
    let end = life.comm.iter().position(|byte| *byte == 0);
    life.comm[..end.unwrap_or(life.comm.len())].to_vec()
}
