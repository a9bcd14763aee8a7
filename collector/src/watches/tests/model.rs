//! Long random runs of several owners against a model that is too simple to be
//! wrong: per watch, the bytes since it was made.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Steps of one run.
const STEPS: usize = 2000;
const PIDS: u32 = 5;
const OWNERS: [&str; 3] = ["a", "b", "c"];
const MAX_WATCHES: u32 = 6;

/// xorshift: the same seed gives the same run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(limit)).unwrap()
    }
}

struct Expected {
    owner: &'static str,
    pid: u32,
    exited: bool,
    interval: u64,
    total: u64,
}

struct Model {
    bench: Bench,
    random: Random,
    watches: BTreeMap<String, Expected>,
    /// The slots that left the allow-list in this interval: late bytes may come.
    denied: BTreeSet<u32>,
    starts: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut model = Self {
            bench: Bench::new(MAX_WATCHES),
            random: Random(seed),
            watches: BTreeMap::new(),
            denied: BTreeSet::new(),
            starts: 0,
        };
        for pid in 1..=PIDS {
            model.start(pid);
        }
        model
    }

    fn start(&mut self, pid: u32) {
        self.starts += 1;
        self.bench.processes.start(pid, self.starts);
    }

    async fn step(&mut self) {
        let pid = 1 + self.random.below(PIDS);
        let owner = OWNERS[self.random.below(3) as usize];
        let before = self.bench.kernel.with(|it| it.allowed.clone());
        match self.random.below(10) {
            0..=2 => self.watch(pid, owner),
            3 => self.unwatch_id(owner),
            4 => self.unwatch_pid(pid, owner),
            5 => self.exit(pid).await,
            6 => self.late_bytes(),
            7 | 8 => self.traffic(pid),
            _ => self.tick(),
        }
        let after = self.bench.kernel.with(|it| it.allowed.clone());
        for (pid, slot) in before {
            if after.get(&pid) != Some(&slot) {
                self.denied.insert(slot.0);
            }
        }
        let running = self.watches.values().filter(|it| !it.exited);
        let watched: BTreeSet<_> = running.map(|it| it.pid).collect();
        assert_eq!(after.into_keys().collect::<BTreeSet<_>>(), watched);
    }

    fn watch(&mut self, pid: u32, owner: &'static str) {
        match self.bench.add(pid, owner) {
            Ok(watch) => {
                let expected = Expected {
                    owner,
                    pid,
                    exited: false,
                    interval: 0,
                    total: 0,
                };
                assert!(self.watches.insert(watch.watch_id, expected).is_none());
            }
            Err(WatchError::TooManyWatches { .. }) => {
                assert_eq!(self.watches.len(), MAX_WATCHES as usize);
            }
            // Slots in use and resting: watches alone are fewer than slots.
            Err(WatchError::NoFreeSlot { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn unwatch_id(&mut self, owner: &str) {
        let nth = self.random.below(MAX_WATCHES) as usize;
        let Some(id) = self.watches.keys().nth(nth).cloned() else {
            return;
        };
        let own = self.watches[&id].owner == owner;
        assert_eq!(self.bench.remove(&id, owner).is_ok(), own);
        if own {
            self.watches.remove(&id);
        }
    }

    fn unwatch_pid(&mut self, pid: u32, owner: &str) {
        let is_own = |it: &Expected| it.pid == pid && it.owner == owner;
        let own = self.watches.values().filter(|it| is_own(it)).count();
        let removed = self.bench.watches.remove(&Selection::Pid(pid), owner);
        assert_eq!(removed.map_or(0, |ids| ids.len()), own);
        self.watches.retain(|_, it| !is_own(it));
    }

    /// The process exits and another takes its pid.
    async fn exit(&mut self, pid: u32) {
        let is_watched = self.watches.values().any(|it| it.pid == pid && !it.exited);
        if is_watched {
            self.bench.exit(pid).await;
        } else {
            self.bench.processes.exit(pid);
        }
        for it in self.watches.values_mut().filter(|it| it.pid == pid) {
            it.exited = true;
        }
        self.start(pid);
    }

    fn traffic(&mut self, pid: u32) {
        let bytes = u64::from(self.random.below(1000));
        self.bench.kernel.traffic(pid, bytes, 0);
        for it in self.watches.values_mut() {
            if it.pid == pid && !it.exited {
                it.interval += bytes;
                it.total += bytes;
            }
        }
    }

    /// A call that was in the kernel when its process left the allow-list is
    /// credited now. Who still waits for a last sample may see it; a watch made
    /// later must not, which the check of its totals tells.
    fn late_bytes(&mut self) {
        let waiting = self.watches.values().any(|it| it.exited);
        if let (false, Some(slot)) = (waiting, self.denied.first()) {
            self.bench.kernel.with(|it| {
                it.counters.entry(Slot(*slot)).or_default().sent_bytes += 1_000_000;
            });
        }
    }

    fn tick(&mut self) {
        let samples = self.bench.tick();
        let ids: Vec<_> = samples.iter().map(|it| it.watch_id.as_str()).collect();
        let mut expected: Vec<_> = self.watches.keys().map(String::as_str).collect();
        expected.sort_by_key(|id| WatchId::parse(id));
        assert_eq!(ids, expected);
        for sample in &samples {
            let expected = &self.watches[&sample.watch_id];
            let exited = sample.state() == v1::ProcessState::Exited;
            assert_eq!(exited, expected.exited);
            assert_eq!(sample.sent_bytes, expected.interval, "{sample:?}");
            assert_eq!(sample.sent_bytes_total, expected.total, "{sample:?}");
        }
        self.watches.retain(|_, it| !it.exited);
        for it in self.watches.values_mut() {
            it.interval = 0;
        }
        self.denied.clear();
    }
}

#[tokio::test]
async fn random_runs_agree_with_the_model() {
    for seed in 1..=20 {
        let mut model = Model::new(seed);
        for _ in 0..STEPS {
            model.step().await;
        }
    }
}
