//! A kernel made of a table, for tests without privileges.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use netio::v1;

use super::{AllowError, Counters, Kernel, KernelInfo, Slot};

/// What a [`FakeKernel`] holds; tests keep a handle to it.
#[derive(Debug, Default)]
pub struct State {
    /// The allow-list.
    pub allowed: BTreeMap<u32, Slot>,
    /// The counters.
    pub counters: BTreeMap<Slot, Counters>,
}

/// A kernel made of a table. Clones share the table.
#[derive(Clone, Debug)]
pub struct FakeKernel {
    state: Arc<Mutex<State>>,
    info: KernelInfo,
    slots: u32,
}

impl FakeKernel {
    /// A kernel with this many slots.
    pub fn new(slots: u32) -> Self {
        Self {
            state: Arc::default(),
            info: KernelInfo {
                hook_mode: v1::HookMode::Tracepoint,
                ..KernelInfo::default()
            },
            slots,
        }
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
}

impl Kernel for FakeKernel {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn missed_events(&self) -> v1::MissedEvents {
        v1::MissedEvents::default()
    }

    fn slots(&self) -> u32 {
        self.slots
    }

    fn max_pid(&self) -> u32 {
        1 << 22
    }

    fn allow(&mut self, tgid: u32, slot: Slot) -> Result<(), AllowError> {
        self.with(|state| state.allowed.insert(tgid, slot));
        Ok(())
    }

    fn deny(&mut self, tgid: u32) {
        self.with(|state| state.allowed.remove(&tgid));
    }

    fn read(&self, slot: Slot) -> Counters {
        self.with(|state| state.counters.get(&slot).copied().unwrap_or_default())
    }
}
