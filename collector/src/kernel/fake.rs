//! A kernel made of a table, for tests without privileges. Processes send, fork,
//! execute programs and exit as a test says, and it does with the allow-list what
//! the programs in the kernel do.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use netio::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{
    AllowError, Attach, Birth, Changes, Counters, Kernel, KernelInfo, LifeNow, Mark, ProcessId,
    Slot, Taken, refusing::RefusingKernel,
};

/// What a slot is used for.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Its process; none for a family's.
    pub process: Option<ProcessId>,
    /// The family of its process's children.
    pub family: Option<Slot>,
    /// What is told of it.
    pub now: LifeNow,
    /// Its process's name.
    pub name: Vec<u8>,
    /// Whether the kernel gave it to a child at birth.
    pub is_born: bool,
    /// See [`Kernel::take_born_into`].
    pub born_into: Option<Slot>,
    /// Of a family: processes that share its slot.
    pub sharers: u32,
    /// Of a family: slots that it may still take.
    pub budget: u32,
}

/// What a [`FakeKernel`] holds; tests keep a handle to it.
#[derive(Debug, Default)]
pub struct State {
    /// The allow-list.
    pub allowed: BTreeMap<u32, Slot>,
    /// The counters.
    pub counters: BTreeMap<Slot, Counters>,
    /// Whose slot each is.
    pub lives: BTreeMap<Slot, Life>,
    /// Free slots.
    pub pool: VecDeque<Slot>,
    /// Children that found no slot.
    pub unlisted: u64,
    /// Whether changes are wished for.
    pub wishes: bool,
    /// How often the hooks were attached again.
    pub attached_again: u32,
    /// Whether attaching them again fails.
    pub fails_to_attach: bool,
    /// Attaching them again takes until it is open.
    pub attaching: Gate,
    /// Whether the hooks have ceased to count.
    pub is_deaf: bool,
    /// What the hooks have missed.
    pub missed: v1::MissedEvents,
    /// What is kept with the hooks.
    pub kept: BTreeMap<Slot, [Counters; 2]>,
    /// And these.
    pub marks: BTreeMap<Mark, u64>,
    births: Vec<Birth>,
    changes: Option<mpsc::UnboundedSender<u32>>,
}

/// Holds up threads for as long as a test wants; it is open at first. Clones are the
/// same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

/// Opens its gate when dropped.
#[derive(Debug)]
pub struct Closed(Gate);

impl Gate {
    /// Closes it.
    pub fn close(&self) -> Closed {
        self.set(true);
        Closed(self.clone())
    }

    /// Waits until it is open.
    pub fn pass(&self) {
        let (closed, changed) = &*self.0;
        let closed = closed.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(closed, |closed| *closed));
    }

    fn set(&self, is_closed: bool) {
        let (closed, changed) = &*self.0;
        *closed.lock().unwrap_or_else(PoisonError::into_inner) = is_closed;
        changed.notify_all();
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// What happens at a moment that a test names.
type Event = Box<dyn FnOnce(&FakeKernel) + Send>;

/// A kernel made of a table. Clones share the table.
#[derive(Clone)]
pub struct FakeKernel {
    state: Arc<Mutex<State>>,
    at_next_look: Arc<Mutex<Option<Event>>>,
    info: KernelInfo,
    slots: u32,
}

impl FakeKernel {
    /// A kernel with this many slots.
    pub fn new(slots: u32) -> Self {
        let kernel = Self {
            state: Arc::default(),
            at_next_look: Arc::default(),
            info: KernelInfo {
                hook_mode: v1::HookMode::Tracepoint,
                follows_children: true,
                ..KernelInfo::default()
            },
            slots,
        };
        kernel.with(|state| state.pool = (1..=slots).map(Slot).collect());
        kernel
    }

    /// The same, on which children cannot be followed.
    pub fn without_children(mut self) -> Self {
        self.info.follows_children = false;
        self
    }

    /// Something happens just before the collector looks at a process's life next.
    pub fn at_next_look(&self, event: impl FnOnce(&Self) + Send + 'static) {
        let mut place = self
            .at_next_look
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(Box::new(event));
    }

    /// The hooks come with an empty table; only what a test said of attaching them
    /// is kept.
    fn attach_again(&self, slots: u32) -> Box<dyn Kernel> {
        self.with(|state| state.attaching.clone()).pass();
        self.with(|state| -> Box<dyn Kernel> {
            if state.fails_to_attach {
                let why = |_| AllowError::NotAttached("as the test has it".to_owned());
                return Box::new(RefusingKernel::new(KernelInfo::default(), why));
            }
            *state = State {
                attached_again: state.attached_again + 1,
                attaching: state.attaching.clone(),
                // In another order: a slot of before means nothing.
                pool: (1..=slots).rev().map(Slot).collect(),
                ..State::default()
            };
            Box::new(self.clone())
        })
    }

    /// Looks at or changes the table.
    pub fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Process `tgid` sends and receives, one call each; counted if it is allowed.
    pub fn traffic(&self, tgid: u32, sent: u64, received: u64) {
        self.with(|state| {
            if let Some(slot) = state.allowed.get(&tgid) {
                let counters = state.counters.entry(*slot).or_default();
                counters.sent_bytes += sent;
                counters.sent_calls += u64::from(sent > 0);
                counters.received_bytes += received;
                counters.received_calls += u64::from(received > 0);
            }
        });
    }

    /// Process `parent` forks `child`.
    pub fn fork(&self, parent: u32, child: ProcessId) {
        self.with(|state| {
            let old = state.allowed.get(&child.tgid).copied();
            let family = state.allowed.get(&parent).and_then(|slot| {
                let life = state.lives.get(slot)?;
                life.family
            });
            if let Some(old) = old {
                if state.life(old).process.is_none() {
                    return;
                }
                if state.life(old).process == Some(child) {
                    state.life(old).born_into = family;
                    return;
                }
                state.leave(child.tgid);
            }
            let Some(family) = family else { return };
            let has_budget = state.life(family).budget > 0;
            let own = has_budget.then(|| state.pool.pop_front()).flatten();
            let slot = own.unwrap_or(family);
            state.allowed.insert(child.tgid, slot);
            if own.is_none() {
                state.life(family).sharers += 1;
                state.unlisted += 1;
                return;
            }
            state.life(family).budget -= 1;
            let name = format!("child-{}", child.tgid).into_bytes();
            *state.life(slot) = Life {
                process: Some(child),
                family: Some(family),
                name: name.clone(),
                is_born: true,
                ..Life::default()
            };
            state.births.push(Birth {
                slot,
                process: child,
                family,
                name,
            });
        });
    }

    /// Process `tgid` executes a program of this name.
    pub fn exec(&self, tgid: u32, name: &str) {
        self.with(|state| {
            if let Some(slot) = state.allowed.get(&tgid).copied()
                && state.life(slot).process.is_some()
            {
                state.life(slot).now.execs += 1;
                state.life(slot).name = name.as_bytes().to_vec();
            }
        });
        self.change(tgid);
    }

    /// Process `tgid` exits.
    pub fn exit(&self, tgid: u32) {
        self.with(|state| state.leave(tgid));
    }

    /// A rule may match process `tgid` from now on.
    pub fn change(&self, tgid: u32) {
        self.with(|state| {
            if let Some(changes) = state.changes.as_ref().filter(|_| state.wishes) {
                let _ = changes.send(tgid);
            }
        });
    }
}

impl State {
    fn life(&mut self, slot: Slot) -> &mut Life {
        self.lives.entry(slot).or_default()
    }

    fn leave(&mut self, tgid: u32) {
        if let Some(slot) = self.allowed.remove(&tgid) {
            let life = self.life(slot);
            if life.process.is_some() {
                life.now.exited = true;
            } else {
                life.sharers -= 1;
            }
        }
    }

    fn enter(&mut self, tgid: u32, slot: Slot) -> Result<(), AllowError> {
        if let Some(now) = self.allowed.get(&tgid).copied() {
            if self.life(now).process.is_some() {
                return Err(AllowError::Listed(tgid));
            }
            self.life(now).sharers -= 1;
        }
        self.allowed.insert(tgid, slot);
        Ok(())
    }
}

impl Kernel for FakeKernel {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn again(&self) -> Option<Attach> {
        let (kernel, slots) = (self.clone(), self.slots);
        Some(Arc::new(move || kernel.attach_again(slots)))
    }

    fn check(&mut self) -> Result<(), AllowError> {
        if self.with(|state| state.is_deaf) {
            return Err(AllowError::NotAttached("as the test has it".to_owned()));
        }
        Ok(())
    }

    fn missed_events(&self) -> v1::MissedEvents {
        self.with(|state| state.missed)
    }

    fn map_full(&self) -> v1::MapFull {
        v1::MapFull {
            processes: self.with(|state| state.unlisted),
            sockets: 0,
        }
    }

    fn max_pid(&self) -> u32 {
        1 << 22
    }

    fn take(&mut self) -> Option<Slot> {
        self.with(|state| state.pool.pop_front())
    }

    fn give(&mut self, slot: Slot) {
        self.with(|state| {
            state.lives.remove(&slot);
            state.pool.push_back(slot);
        });
    }

    fn allow(
        &mut self,
        process: ProcessId,
        slot: Slot,
        family: Option<Slot>,
    ) -> Result<(), AllowError> {
        self.with(|state| {
            let life = state.life(slot);
            life.process = Some(process);
            life.family = family;
            state.enter(process.tgid, slot)
        })
    }

    fn share(&mut self, process: ProcessId, family: Slot) -> Result<(), AllowError> {
        self.with(|state| {
            state.enter(process.tgid, family)?;
            state.life(family).sharers += 1;
            Ok(())
        })
    }

    fn shares(&self, tgid: u32) -> Option<Slot> {
        self.with(|state| {
            let slot = *state.allowed.get(&tgid)?;
            state.life(slot).process.is_none().then_some(slot)
        })
    }

    fn unshare(&mut self, tgid: u32, family: Slot) {
        self.with(|state| {
            if state.allowed.get(&tgid) == Some(&family) {
                state.leave(tgid);
            }
        });
    }

    fn deny(&mut self, tgid: u32, slot: Slot) -> bool {
        self.with(|state| {
            let listed = state.allowed.get(&tgid) == Some(&slot);
            if listed {
                state.allowed.remove(&tgid);
            }
            listed
        })
    }

    fn take_born_into(&mut self, slot: Slot) -> Option<Slot> {
        self.with(|state| state.life(slot).born_into.take())
    }

    fn close_family(&mut self, family: Slot) {
        self.with(|state| {
            state.allowed.retain(|_, slot| *slot != family);
            state.life(family).sharers = 0;
        });
    }

    fn set_family(&mut self, slot: Slot, family: Option<Slot>) {
        self.with(|state| state.life(slot).family = family);
    }

    fn set_budget(&mut self, family: Slot, budget: u32) {
        self.with(|state| state.life(family).budget = budget);
    }

    fn sharers(&self, family: Slot) -> u32 {
        self.with(|state| state.life(family).sharers)
    }

    fn births(&mut self) -> Vec<Birth> {
        self.with(|state| mem::take(&mut state.births))
    }

    fn life(&self, slot: Slot) -> LifeNow {
        let event = self.at_next_look.lock().map(|mut it| it.take());
        if let Ok(Some(event)) = event {
            event(self);
        }
        self.with(|state| state.life(slot).now)
    }

    fn name(&self, slot: Slot) -> Vec<u8> {
        self.with(|state| state.life(slot).name.clone())
    }

    fn read(&self, slot: Slot) -> Counters {
        self.with(|state| state.counters.get(&slot).copied().unwrap_or_default())
    }

    fn changes(&mut self) -> Option<Changes> {
        let (tell, told) = mpsc::unbounded_channel();
        self.with(|state| state.changes = Some(tell));
        Some(Box::pin(UnboundedReceiverStream::new(told)))
    }

    fn wish_changes(&mut self, wish: bool) {
        self.with(|state| state.wishes = wish);
    }

    fn taken(&mut self) -> Vec<Taken> {
        self.with(|state| {
            state.births.clear();
            let slots = (1..=self.slots).map(Slot);
            let free: BTreeSet<Slot> = state.pool.iter().copied().collect();
            let slots: Vec<Slot> = slots.filter(|it| !free.contains(it)).collect();
            let taken = slots.into_iter().map(|slot| {
                let life = state.life(slot).clone();
                Taken {
                    slot,
                    process: life.process,
                    family: life.family,
                    name: life.name,
                    is_told: life.is_born || life.now.exited,
                    is_listed: life
                        .process
                        .is_some_and(|it| state.allowed.get(&it.tgid) == Some(&slot)),
                }
            });
            taken.collect()
        })
    }

    fn set_base(&mut self, slot: Slot, counters: Counters) {
        self.with(|state| state.kept.entry(slot).or_default()[0] = counters);
    }

    fn base(&self, slot: Slot) -> Counters {
        self.with(|state| {
            state
                .kept
                .get(&slot)
                .map_or_else(Counters::default, |it| it[0])
        })
    }

    fn set_told(&mut self, slot: Slot, counters: Counters) {
        self.with(|state| state.kept.entry(slot).or_default()[1] = counters);
    }

    fn told(&self, slot: Slot) -> Counters {
        self.with(|state| {
            state
                .kept
                .get(&slot)
                .map_or_else(Counters::default, |it| it[1])
        })
    }

    fn set_mark(&mut self, mark: Mark, number: u64) {
        self.with(|state| state.marks.insert(mark, number));
    }

    fn mark(&self, mark: Mark) -> u64 {
        self.with(|state| state.marks.get(&mark).copied().unwrap_or_default())
    }
}
