//! The registry against a kernel made of a table, and against a model.

use std::{mem::take, time::Duration};

use super::keeping::nanoseconds;
use super::*;
use crate::{
    keep::State,
    kernel::{AllowError, KernelInfo, Mark, fake::FakeKernel, refusing::RefusingKernel},
    processes::{Processes as _, fake::FakeProcesses},
};

mod children;
mod leases;
mod model;
mod races;

const TTL: Duration = Duration::from_secs(10);

struct Bench {
    kernel: FakeKernel,
    processes: FakeProcesses,
    watches: Watches,
    now: Instant,
    /// The samples of the last tick.
    used: Vec<v1::NetIoSample>,
    limits: Limits,
    start: Instant,
    /// The state that was written down last.
    saved: State,
}

impl Bench {
    fn new(max_watches: u32) -> Self {
        Self::within(Limits {
            max_watches,
            ..Limits::default()
        })
    }

    fn within(limits: Limits) -> Self {
        Self::with_slots(limits, limits.slots())
    }

    fn with_slots(limits: Limits, slots: u32) -> Self {
        let kernel = FakeKernel::new(slots);
        let now = Instant::now();
        Self {
            watches: Watches::new(Box::new(kernel.clone()), limits),
            processes: FakeProcesses::default(),
            kernel,
            now,
            used: Vec::new(),
            limits,
            start: now,
            saved: State::default(),
        }
    }

    fn clocks(&self) -> Now {
        Now {
            monotonic: self.now,
            boot: self.now - self.start,
        }
    }

    /// Writes down what has changed, as the sampler does; tells whether anything has.
    fn save(&mut self) -> bool {
        let state = self.watches.changed_state(self.clocks());
        let has_changed = state.is_some();
        self.saved = state.unwrap_or_else(|| take(&mut self.saved));
        has_changed
    }

    /// The collector is killed, and another one goes on.
    fn kill(&mut self) {
        let found = Watches::processes_of(&self.saved).into_iter();
        let found = found.filter_map(|id| {
            let found = self.processes.find(id.tgid).ok()?;
            (found.id() == id).then_some((id, found))
        });
        let kernel = Box::new(self.kernel.clone());
        let (found, now) = (found.collect(), self.clocks());
        self.watches = Watches::go_on(kernel, self.limits, &self.saved, found, now);
        self.used.clear();
        self.save();
    }

    fn add(&mut self, pid: u32, owner: &str) -> Result<v1::Watch, WatchError> {
        let id = self.begin(Selector::Pid(pid), Follow::Never, owner)?;
        match self.join(id, pid) {
            Ok(_) => Ok(self.watches.describe(id, self.now).unwrap()),
            Err(error) => {
                self.watches.end(id);
                Err(error)
            }
        }
    }

    fn begin(
        &mut self,
        selector: Selector,
        follow: Follow,
        owner: &str,
    ) -> Result<WatchId, WatchError> {
        let new = NewWatch {
            target: match selector {
                Selector::Pid(pid) => v1::Target::pid(pid),
                _ => v1::Target::default(),
            },
            selector,
            follow,
            owner: owner.to_owned(),
            lease_ttl: Some(TTL),
            create_time: Timestamp::default(),
        };
        self.watches.begin(new, self.now)
    }

    fn join(&mut self, id: WatchId, pid: u32) -> Result<bool, WatchError> {
        let found = self.processes.find(pid).unwrap();
        self.watches.join(id, found, false, Past::Refuse)
    }

    fn remove(&mut self, id: &str, owner: &str) -> Result<Vec<WatchId>, WatchError> {
        self.watches.remove(&Selection::Id(id.to_owned()), owner)
    }

    fn tick(&mut self) -> Vec<v1::NetIoSample> {
        self.watches.read();
        let boot = nanoseconds(self.clocks().boot);
        self.watches.kernel().set_mark(Mark::Time, boot);
        let mut used = take(&mut self.used);
        // Nothing may stay of what they were, whosever they were.
        used.reverse();
        let samples = self.watches.diff(true, used);
        self.used.clone_from(&samples);
        self.watches.retire(self.now);
        self.save();
        samples
    }

    /// The exit is noticed by its pidfd.
    async fn exit(&mut self, pid: u32) {
        self.processes.exit(pid);
        self.kernel.exit(pid);
        let process = self.watches.next_exit().await;
        assert_eq!(process.tgid, pid);
        self.watches.exited(process);
    }

    fn list(&mut self) -> Vec<v1::Watch> {
        self.watches.list(self.now)
    }

    fn allowed(&self) -> Vec<u32> {
        self.kernel.with(|it| it.allowed.keys().copied().collect())
    }

    fn slot(&self, pid: u32) -> Slot {
        self.kernel.with(|it| it.allowed[&pid])
    }
}

/// Sent in the interval, sent in all, received in the interval, received in all.
fn bytes(sample: &v1::NetIoSample) -> [u64; 4] {
    [
        sample.sent_bytes,
        sample.sent_bytes_total,
        sample.received_bytes,
        sample.received_bytes_total,
    ]
}

#[tokio::test]
async fn samples_are_differences_and_totals() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    let watch = bench.add(7, "a").unwrap();
    assert_eq!(watch.watch_id, "w-1");
    assert_eq!(watch.processes[0].name, "process-7");
    bench.kernel.traffic(7, 10, 3);
    bench.kernel.traffic(7, 10, 0);
    let sample = bench.tick().remove(0);
    assert_eq!(bytes(&sample), [20, 20, 3, 3]);
    assert_eq!((sample.sent_calls, sample.received_calls), (2, 1));
    assert_eq!(sample.state(), v1::ProcessState::Running);

    let idle = bench.tick().remove(0);
    assert_eq!(bytes(&idle), [0, 20, 0, 3]);
    assert_eq!(idle.state(), v1::ProcessState::Running);
    assert_eq!((idle.sent_calls, idle.sent_calls_total), (0, 2));

    bench.kernel.traffic(7, 1, 1);
    assert_eq!(bytes(&bench.tick()[0]), [1, 21, 1, 4]);
}

#[tokio::test]
async fn watches_of_one_process_share_a_slot_and_begin_at_zero_each() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    bench.add(7, "a").unwrap();
    bench.kernel.traffic(7, 100, 0);
    bench.add(7, "b").unwrap();
    bench.kernel.traffic(7, 1, 0);
    let samples = bench.tick();
    assert_eq!(bytes(&samples[0]), [101, 101, 0, 0]);
    assert_eq!(bytes(&samples[1]), [1, 1, 0, 0]);

    bench.remove("w-1", "a").unwrap();
    assert_eq!(bench.allowed(), [7]);
    bench.kernel.traffic(7, 5, 0);
    assert_eq!(bytes(&bench.tick()[0]), [5, 6, 0, 0]);
    bench.remove("w-2", "b").unwrap();
    assert!(bench.allowed().is_empty());
    assert!(bench.tick().is_empty());
}

#[tokio::test]
async fn fault_11_only_own_watches_can_be_ended() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    bench.processes.start(8, 1);
    for (pid, owner) in [(7, "a"), (7, "b"), (8, "a"), (7, "a")] {
        bench.add(pid, owner).unwrap();
    }
    let refused = bench.remove("w-2", "a").unwrap_err();
    assert!(matches!(&refused, WatchError::NotTheOwner { owner, .. } if owner == "b"));
    let unknown = bench.remove("w-9", "a").unwrap_err();
    assert!(matches!(unknown, WatchError::NotFound { .. }));

    let ended = bench
        .watches
        .remove(&Selection::Selector(Selector::Pid(7)), "a")
        .unwrap();
    assert_eq!(ended, [WatchId(1), WatchId(4)]);
    assert_eq!(bench.allowed(), [7, 8]);
    let none_left = bench
        .watches
        .remove(&Selection::Selector(Selector::Pid(7)), "a")
        .unwrap_err();
    assert!(matches!(none_left, WatchError::NoneOfOwn { others: 1, .. }));
    let ids: Vec<_> = bench.list().into_iter().map(|it| it.watch_id).collect();
    assert_eq!(ids, ["w-2", "w-3"]);
}

#[tokio::test]
async fn fault_12_the_limit_holds_and_an_end_makes_room() {
    let mut bench = Bench::new(2);
    bench.processes.start(7, 1);
    bench.add(7, "a").unwrap();
    bench.add(7, "a").unwrap();
    let refused = bench.add(7, "a").unwrap_err();
    assert!(matches!(refused, WatchError::TooManyWatches { limit: 2 }));
    assert_eq!(bench.list().len(), 2);
    bench.remove("w-1", "a").unwrap();
    assert_eq!(bench.add(7, "a").unwrap().watch_id, "w-3");
}

#[tokio::test]
async fn an_exit_is_sampled_once_with_the_last_bytes() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    bench.processes.start(8, 1);
    bench.add(7, "a").unwrap();
    bench.add(8, "a").unwrap();
    bench.add(7, "b").unwrap();
    bench.tick();
    bench.kernel.traffic(7, 9, 0);
    bench.exit(7).await;
    assert_eq!(bench.allowed(), [8]);

    let samples = bench.tick();
    let states: Vec<_> = samples.iter().map(v1::NetIoSample::state).collect();
    use v1::ProcessState::{Exited, Running};
    assert_eq!(states, [Exited, Running, Exited]);
    assert_eq!(bytes(&samples[0]), [9, 9, 0, 0]);
    assert_eq!(bytes(&samples[2]), [9, 9, 0, 0]);

    let ids: Vec<_> = bench.tick().into_iter().map(|it| it.watch_id).collect();
    assert_eq!(ids, ["w-2"]);
}

#[tokio::test]
async fn fault_13_the_next_user_of_a_pid_is_a_process_of_its_own() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    bench.add(7, "a").unwrap();
    bench.kernel.traffic(7, 10, 0);
    bench.processes.exit(7);
    // Its successor is watched before its exit is noticed.
    bench.processes.start(7, 2);
    bench.add(7, "b").unwrap();
    bench.kernel.traffic(7, 5, 0);
    let predecessor = bench.watches.next_exit().await;
    bench.watches.exited(predecessor);
    assert_eq!(bench.allowed(), [7]);

    let samples = bench.tick();
    assert_eq!(samples[0].state(), v1::ProcessState::Exited);
    assert_eq!(bytes(&samples[0]), [10, 10, 0, 0]);
    assert_eq!(samples[1].state(), v1::ProcessState::Running);
    assert_eq!(bytes(&samples[1]), [5, 5, 0, 0]);
    bench.kernel.traffic(7, 1, 0);
    assert_eq!(bytes(&bench.tick()[0]), [1, 6, 0, 0]);
}

#[tokio::test]
async fn fault_13_an_ended_watch_leaves_a_pids_next_user_alone() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    bench.add(7, "a").unwrap();
    bench.exit(7).await;
    bench.processes.start(7, 2);
    bench.add(7, "a").unwrap();
    bench.remove("w-1", "a").unwrap();
    assert_eq!(bench.allowed(), [7]);
}

#[tokio::test]
async fn a_slot_in_use_or_resting_is_not_handed_out() {
    let limits = Limits {
        max_watches: 1,
        ..Limits::default()
    };
    let mut bench = Bench::with_slots(limits, 2); // one is kept for families
    for pid in [7, 8] {
        bench.processes.start(pid, 1);
    }
    bench.add(7, "a").unwrap();
    let freed = bench.slot(7);
    bench.remove("w-1", "a").unwrap();
    for _ in 0..2 {
        let refused = bench.add(8, "a").unwrap_err();
        assert!(matches!(refused, WatchError::TooManyProcesses { .. }));
        bench.tick();
    }
    bench.add(8, "a").unwrap();
    assert_eq!(bench.slot(8), freed);
}

#[tokio::test]
async fn a_process_may_have_its_resting_slot_back() {
    let limits = Limits {
        max_watches: 1,
        ..Limits::default()
    };
    let mut bench = Bench::with_slots(limits, 2);
    bench.processes.start(7, 1);
    for round in 1..=100 {
        let id = bench.add(7, "a").unwrap().watch_id;
        bench.kernel.traffic(7, round, 0);
        if round % 10 == 0 {
            assert_eq!(bytes(&bench.tick()[0]), [round, round, 0, 0]);
        }
        bench.remove(&id, "a").unwrap();
    }
}

#[tokio::test]
async fn fault_12_each_owner_has_a_limit_of_its_own() {
    let mut bench = Bench::within(Limits {
        max_watches_per_owner: 2,
        ..Limits::default()
    });
    bench.processes.start(7, 1);
    for owner in ["a", "a", "b"] {
        bench.add(7, owner).unwrap();
    }
    let refused = bench.add(7, "a").unwrap_err();
    assert!(matches!(
        refused,
        WatchError::TooManyWatchesOfOwner { limit: 2, .. }
    ));
    bench.add(7, "b").unwrap();
}

#[tokio::test]
async fn fault_12_the_limits_of_processes_refuse_a_watch_and_leave_the_rest_exact() {
    let mut bench = Bench::within(Limits {
        max_processes: 2,
        max_processes_per_watch: 1,
        ..Limits::default()
    });
    for pid in [7, 8, 9] {
        bench.processes.start(pid, 1);
    }
    bench.add(7, "a").unwrap();
    let rule = bench
        .begin(Selector::Name("x".to_owned()), Follow::Never, "a")
        .unwrap();
    bench.join(rule, 8).unwrap();
    let refused = bench.join(rule, 9).unwrap_err();
    assert!(matches!(refused, WatchError::TooManyProcesses { limit: 2 }));
    bench.remove("w-1", "a").unwrap();
    let refused = bench.join(rule, 9).unwrap_err();
    assert!(matches!(
        refused,
        WatchError::TooManyProcessesOfWatch { limit: 1 }
    ));
    bench.kernel.traffic(8, 5, 0);
    bench.kernel.traffic(9, 1000, 0);
    assert_eq!(bytes(&bench.tick()[0]), [5, 5, 0, 0]);
}

#[tokio::test]
async fn a_process_that_executes_keeps_its_watch_and_changes_its_name() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    bench.add(7, "a").unwrap();
    bench.kernel.traffic(7, 1, 0);
    bench.kernel.exec(7, "executed");
    bench.kernel.traffic(7, 2, 0);
    let sample = bench.tick().remove(0);
    assert_eq!(bytes(&sample), [3, 3, 0, 0]);
    assert_eq!(sample.process.unwrap().name, "executed");
}

#[tokio::test]
async fn a_rule_goes_on_without_processes() {
    let mut bench = Bench::new(8);
    let rule = bench
        .begin(Selector::Name("db".to_owned()), Follow::Never, "a")
        .unwrap();
    use v1::ProcessState::{Running, Waiting};
    let sample = bench.tick().remove(0);
    assert_eq!((sample.state(), sample.process), (Waiting, None));

    let mut total = 0;
    for start in 1..=3 {
        bench.processes.start(7, start);
        bench.join(rule, 7).unwrap();
        bench.kernel.traffic(7, 10, 0);
        total += 10;
        let sample = bench.tick().remove(0);
        assert_eq!(sample.state(), Running);
        assert_eq!(bytes(&sample), [10, total, 0, 0]);
        bench.kernel.traffic(7, 1, 0);
        total += 1;
        bench.exit(7).await;
        let sample = bench.tick().remove(0);
        assert_eq!((sample.state(), sample.process_count), (Waiting, 1));
        assert_eq!(bytes(&sample), [1, total, 0, 0]);
        assert_eq!(sample.process.unwrap().start_time_ns, start);
        assert_eq!(bytes(&bench.tick()[0]), [0, total, 0, 0]);
    }
    assert_eq!(bench.list()[0].process_count, 0);
}

#[tokio::test]
async fn a_refusal_of_the_kernel_costs_no_slot() {
    let not_attached = |_| AllowError::NotAttached("why".to_owned());
    let mut bench = Bench::new(8);
    bench.watches = Watches::new(
        Box::new(RefusingKernel::new(KernelInfo::default(), not_attached)),
        Limits::default(),
    );
    bench.processes.start(7, 1);
    for _ in 0..3 {
        let refused = bench.add(7, "a").unwrap_err();
        assert!(matches!(refused, WatchError::NotAllowed(_)), "{refused}");
    }
    assert!(bench.list().is_empty());
}
