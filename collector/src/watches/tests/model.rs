//! Long random runs of several owners against a model that is too simple to be
//! wrong: who is in which watch, and the bytes since it joined.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Steps of one run.
const STEPS: usize = 2000;
/// The processes that a watch can be made for; their children have other pids.
const PIDS: u32 = 5;
const MAX_PIDS: u32 = 40;
const OWNERS: [&str; 3] = ["a", "b", "c"];

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

/// A watch as the model sees it.
struct Expected {
    owner: &'static str,
    pid: u32,
    follows: bool,
    /// The processes in it that run.
    members: BTreeSet<ProcessId>,
    held: Option<Hold>,
    deadline: Instant,
    /// The same, as far as it was written down.
    kept: Instant,
    interval: u64,
    total: u64,
}

struct Model {
    bench: Bench,
    random: Random,
    limits: Limits,
    watches: BTreeMap<String, Expected>,
    /// Every process that runs, and its parent's pid.
    running: BTreeMap<u32, (ProcessId, u32)>,
    /// The slots that left the allow-list in this interval: late bytes may come.
    denied: BTreeSet<u32>,
    starts: u64,
    /// Whether the collector is killed now and then.
    is_killed: bool,
}

impl Model {
    fn new(seed: u64, limits: Limits) -> Self {
        let mut model = Self {
            bench: Bench::within(limits),
            random: Random(seed),
            limits,
            watches: BTreeMap::new(),
            running: BTreeMap::new(),
            denied: BTreeSet::new(),
            starts: 0,
            is_killed: false,
        };
        for pid in 1..=PIDS {
            model.start(pid, 0);
        }
        model
    }

    fn start(&mut self, pid: u32, parent: u32) -> ProcessId {
        self.starts += 1;
        let process = ProcessId {
            tgid: pid,
            start_time_ns: self.starts,
        };
        let name = format!("process-{pid}");
        self.bench
            .processes
            .start_as(pid, self.starts, &name, parent);
        self.running.insert(pid, (process, parent));
        process
    }

    /// A process that runs.
    fn any(&mut self) -> ProcessId {
        let nth = self
            .random
            .below(u32::try_from(self.running.len()).unwrap());
        self.running.values().nth(nth as usize).unwrap().0
    }

    async fn step(&mut self) {
        let owner = OWNERS[self.random.below(3) as usize];
        let before = self.bench.kernel.with(|it| it.allowed.clone());
        let step = self.random.below(16);
        let is_told = matches!(step, 0..=4 | 9 | 10);
        match step {
            _ if self.is_killed && self.random.below(8) == 0 => self.kill(),
            0..=2 => self.watch(owner),
            3 => self.unwatch(owner),
            4 => self.unwatch_pid(owner),
            5 | 6 => self.fork(),
            7 => self.exit().await,
            8 => self.late_bytes(),
            9 => self.time_passes(),
            10 => self.hold_or_let_go(),
            11..=13 => self.traffic(),
            _ => self.tick(),
        }
        // Births, exits and bytes are not written down before the next tick.
        if is_told && self.bench.save() {
            for it in self.watches.values_mut() {
                it.kept = it.deadline;
            }
        }
        let after = self.bench.kernel.with(|it| it.allowed.clone());
        for (pid, slot) in before {
            if after.get(&pid) != Some(&slot) {
                self.denied.insert(slot.0);
            }
        }
        // The kernel's list is the model's, whatever happened.
        let members = self.watches.values().flat_map(|it| &it.members);
        let watched: BTreeSet<_> = members.map(|it| it.tgid).collect();
        assert_eq!(after.into_keys().collect::<BTreeSet<_>>(), watched);
    }

    /// Holds are gone then, and so is what was not written down; the kernel's list is
    /// as it was.
    fn kill(&mut self) {
        self.bench.kill();
        for it in self.watches.values_mut() {
            it.held = None;
            it.deadline = it.kept;
        }
    }

    fn watch(&mut self, owner: &'static str) {
        let process = self.any();
        let follows = self.random.below(2) == 0;
        let follow = if follows {
            Follow::Always
        } else {
            Follow::Never
        };
        let selector = Selector::Pid(process.tgid);
        let id = match self.bench.begin(selector, follow, owner) {
            Ok(id) => id,
            Err(WatchError::TooManyWatches { .. }) => {
                assert_eq!(self.watches.len(), self.limits.max_watches as usize);
                return;
            }
            Err(other) => panic!("{other}"),
        };
        let mut members = BTreeSet::from([process]);
        let mut joined = self.bench.join(id, process.tgid);
        if follows && joined.is_ok() {
            let below = self.below(process.tgid);
            for descendant in &below {
                let found = self.bench.processes.find(descendant.tgid).unwrap();
                let refusal = self.bench.watches.join(id, found, true, Past::Refuse);
                joined = joined.and(refusal);
            }
            members.extend(below);
        }
        if let Err(refused) = joined {
            // Only for want of room: the kernel lists children beyond the limit.
            assert!(
                matches!(refused, WatchError::TooManyProcesses { .. }),
                "{refused}"
            );
            self.bench.watches.end(id);
            return;
        }
        let expected = Expected {
            owner,
            pid: process.tgid,
            follows,
            members,
            held: None,
            deadline: self.bench.now + TTL,
            kept: self.bench.now + TTL,
            interval: 0,
            total: 0,
        };
        assert!(self.watches.insert(id.to_string(), expected).is_none());
    }

    /// The descendants of a process.
    fn below(&self, pid: u32) -> BTreeSet<ProcessId> {
        let children = self.running.values().filter(|(_, parent)| *parent == pid);
        children
            .flat_map(|(child, _)| {
                let mut below = self.below(child.tgid);
                below.insert(*child);
                below
            })
            .collect()
    }

    fn unwatch(&mut self, owner: &str) {
        let Some(id) = self.any_watch() else { return };
        let own = self.watches[&id].owner == owner;
        assert_eq!(self.bench.remove(&id, owner).is_ok(), own);
        if own {
            self.watches.remove(&id);
        }
    }

    fn any_watch(&mut self) -> Option<String> {
        let count = u32::try_from(self.watches.len()).unwrap();
        let nth = self.random.below(count.max(1)) as usize;
        self.watches.keys().nth(nth).cloned()
    }

    fn unwatch_pid(&mut self, owner: &str) {
        let pid = 1 + self.random.below(PIDS);
        let is_own = |it: &Expected| it.pid == pid && it.owner == owner;
        let own = self.watches.values().filter(|it| is_own(it)).count();
        let selection = Selection::Selector(Selector::Pid(pid));
        let removed = self.bench.watches.remove(&selection, owner);
        assert_eq!(removed.map_or(0, |ids| ids.len()), own);
        self.watches.retain(|_, it| !is_own(it));
    }

    fn fork(&mut self) {
        let parent = self.any();
        // Pids are used again as soon as they are free.
        let Some(pid) = (PIDS + 1..MAX_PIDS).find(|pid| !self.running.contains_key(pid)) else {
            return;
        };
        let child = self.start(pid, parent.tgid);
        self.bench.kernel.fork(parent.tgid, child);
        for it in self.watches.values_mut() {
            if it.follows && it.members.contains(&parent) {
                it.members.insert(child);
            }
        }
    }

    /// A process exits; one that watches are made for is followed by another
    /// with its pid.
    async fn exit(&mut self) {
        let gone = self.any();
        self.bench.kernel.exit(gone.tgid);
        self.bench.processes.exit(gone.tgid);
        // Not every exit is told by a pidfd, and not at once.
        if self.random.below(2) == 0 {
            let wait = Duration::from_millis(1);
            if let Ok(told) = tokio::time::timeout(wait, self.bench.watches.next_exit()).await {
                self.bench.watches.exited(told);
            }
        }
        for it in self.watches.values_mut() {
            it.members.remove(&gone);
        }
        self.running.remove(&gone.tgid);
        // Its children are orphans now.
        for (_, parent) in self.running.values_mut() {
            if *parent == gone.tgid {
                *parent = 0;
            }
        }
        if gone.tgid <= PIDS {
            self.start(gone.tgid, 0);
        }
    }

    fn traffic(&mut self) {
        let process = self.any();
        let bytes = u64::from(self.random.below(1000));
        self.bench.kernel.traffic(process.tgid, bytes, 0);
        for it in self.watches.values_mut() {
            if it.members.contains(&process) {
                it.interval += bytes;
                it.total += bytes;
            }
        }
    }

    /// A call that was in the kernel when its process left the allow-list is
    /// credited now. Nobody who joins later may see it.
    fn late_bytes(&mut self) {
        let in_use: BTreeSet<u32> = self
            .bench
            .kernel
            .with(|it| it.allowed.values().map(|slot| slot.0).collect());
        let resting = self.denied.iter().find(|slot| !in_use.contains(slot));
        // Who still waits for a last sample may.
        let waiting = self.bench.watches.watches.values().any(|watch| {
            let exited = |member: &Member| {
                let pulse = self.bench.watches.table.pulse(member.slot);
                pulse.is_some_and(|it| it.exited || self.bench.kernel.life(member.slot).exited)
            };
            watch.members.iter().any(exited)
        });
        if let (false, Some(slot)) = (waiting, resting) {
            self.bench.kernel.with(|it| {
                let of_process = it
                    .lives
                    .get(&Slot(*slot))
                    .is_some_and(|it| it.process.is_some());
                if of_process && !it.pool.contains(&Slot(*slot)) {
                    it.counters.entry(Slot(*slot)).or_default().sent_bytes += 1_000_000;
                }
            });
        }
    }

    /// Some leases may run out.
    fn time_passes(&mut self) {
        self.bench.now += TTL / 4;
        let now = self.bench.now;
        let expired: BTreeSet<_> = self.bench.watches.expire(now).into_iter().collect();
        let mut expected = BTreeSet::new();
        self.watches.retain(|id, it| {
            let runs_out = it.held.is_none() && it.deadline <= now;
            if runs_out {
                expected.insert(WatchId::parse(id).unwrap());
            }
            if it.held.is_some() && it.deadline <= now {
                it.deadline = now + TTL;
            }
            !runs_out
        });
        assert_eq!(expired, expected);
    }

    fn hold_or_let_go(&mut self) {
        let Some(id) = self.any_watch() else { return };
        let it = self.watches.get_mut(&id).unwrap();
        if it.held.take().is_none() {
            let held = self
                .bench
                .watches
                .hold(&[id], it.owner, false, self.bench.now);
            it.held = held.unwrap().pop();
            it.deadline = self.bench.now + TTL;
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
            assert_eq!(exited, expected.members.is_empty());
            assert_eq!(sample.sent_bytes, expected.interval, "{sample:?}");
            assert_eq!(sample.sent_bytes_total, expected.total, "{sample:?}");
            let parts: u64 = sample.processes.iter().map(|it| it.sent_bytes).sum();
            let unlisted = sample.unlisted.as_ref().map_or(0, |it| it.sent_bytes);
            assert_eq!(parts + unlisted, expected.interval, "{sample:?}");
        }
        self.watches.retain(|_, it| !it.members.is_empty());
        for it in self.watches.values_mut() {
            it.interval = 0;
            if it.held.is_some() {
                it.deadline = self.bench.now + TTL;
            }
            it.kept = it.deadline;
        }
        self.denied.clear();
    }
}

async fn run(limits: Limits) {
    run_to_its_end(limits, false).await;
}

async fn run_to_its_end(limits: Limits, is_killed: bool) {
    for seed in 1..=20 {
        let mut model = Model::new(seed, limits);
        model.is_killed = is_killed;
        for _ in 0..STEPS {
            model.step().await;
        }
    }
}

#[tokio::test]
async fn fault_17_random_runs_agree_with_the_model() {
    run(Limits {
        max_watches: 6,
        ..Limits::default()
    })
    .await;
}

#[tokio::test]
async fn fault_17_random_runs_past_the_limits_agree_with_the_model() {
    run(Limits {
        max_watches: 6,
        max_processes: 5,
        ..Limits::default()
    })
    .await;
}

#[tokio::test]
async fn random_runs_of_collectors_that_are_killed_agree_with_the_model() {
    let limits = Limits {
        max_watches: 6,
        max_processes: 100,
        ..Limits::default()
    };
    run_to_its_end(limits, true).await;
    let limits = Limits {
        max_processes: 5,
        ..limits
    };
    run_to_its_end(limits, true).await;
}
