//! The registry against a kernel made of a table, and against a model.

use super::*;
use crate::{
    kernel::fake::FakeKernel,
    process::{Processes as _, fake::FakeProcesses},
    server::rig::RefusingKernel,
};

mod model;

const SLOTS: u32 = 8;

struct Bench {
    kernel: FakeKernel,
    processes: FakeProcesses,
    watches: Watches,
}

impl Bench {
    fn new(max_watches: u32) -> Self {
        let kernel = FakeKernel::new(SLOTS);
        Self {
            watches: Watches::new(Box::new(kernel.clone()), max_watches),
            processes: FakeProcesses::default(),
            kernel,
        }
    }

    fn add(&mut self, pid: u32, owner: &str) -> Result<v1::Watch, WatchError> {
        let new = NewWatch {
            target: target(pid),
            found: self.processes.find(pid).unwrap(),
            owner: owner.to_owned(),
            create_time: Timestamp::default(),
        };
        self.watches.add(new)
    }

    fn remove(&mut self, id: &str, owner: &str) -> Result<Vec<WatchId>, WatchError> {
        self.watches.remove(&Selection::Id(id.to_owned()), owner)
    }

    fn tick(&mut self) -> Vec<v1::NetIoSample> {
        self.watches.read();
        let samples = self.watches.diff();
        self.watches.retire();
        samples
    }

    async fn exit(&mut self, pid: u32) {
        self.processes.exit(pid);
        let key = self.watches.next_exit().await;
        assert_eq!(key.tgid, pid);
        self.watches.exited(key);
    }

    fn allowed(&self) -> Vec<u32> {
        self.kernel.with(|it| it.allowed.keys().copied().collect())
    }

    fn slot(&self, pid: u32) -> Slot {
        self.kernel.with(|it| it.allowed[&pid])
    }
}

fn target(pid: u32) -> v1::Target {
    v1::Target {
        selector: Some(v1::target::Selector::Pid(pid)),
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
    assert_eq!(watch.process.unwrap().name, "process-7");
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
async fn only_own_watches_can_be_ended() {
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

    let ended = bench.watches.remove(&Selection::Pid(7), "a").unwrap();
    assert_eq!(ended, [WatchId(1), WatchId(4)]);
    assert_eq!(bench.allowed(), [7, 8]);
    let none_left = bench.watches.remove(&Selection::Pid(7), "a").unwrap_err();
    assert!(matches!(none_left, WatchError::NoneOfOwn { others: 1, .. }));
    let ids: Vec<_> = bench
        .watches
        .list()
        .into_iter()
        .map(|it| it.watch_id)
        .collect();
    assert_eq!(ids, ["w-2", "w-3"]);
}

#[tokio::test]
async fn the_limit_holds_and_an_end_makes_room() {
    let mut bench = Bench::new(2);
    bench.processes.start(7, 1);
    bench.add(7, "a").unwrap();
    bench.add(7, "a").unwrap();
    let refused = bench.add(7, "a").unwrap_err();
    assert!(matches!(refused, WatchError::TooManyWatches { limit: 2 }));
    assert_eq!(bench.watches.list().len(), 2);
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
async fn the_next_user_of_a_pid_is_a_process_of_its_own() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    bench.add(7, "a").unwrap();
    bench.kernel.traffic(7, 10, 0);
    bench.processes.exit(7);
    // Its successor is watched before its exit is noticed.
    bench.processes.start(7, 2);
    bench.add(7, "b").unwrap();
    bench.kernel.traffic(7, 5, 0);
    let key = bench.watches.next_exit().await;
    bench.watches.exited(key);
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
async fn an_ended_watch_leaves_a_pids_next_user_alone() {
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
    let mut bench = Bench::new(100);
    for pid in 1..=SLOTS {
        bench.processes.start(pid, 1);
        bench.add(pid, "a").unwrap();
    }
    bench.processes.start(99, 1);
    let refused = bench.add(99, "a").unwrap_err();
    assert!(matches!(refused, WatchError::NoFreeSlot { limit: 100 }));
    let freed = bench.slot(1);
    bench.remove("w-1", "a").unwrap();
    assert!(bench.add(99, "a").is_err());
    bench.tick();
    assert!(bench.add(99, "a").is_err());
    bench.tick();
    bench.add(99, "a").unwrap();
    assert_eq!(bench.slot(99), freed);
}

#[tokio::test]
async fn a_new_watch_tells_the_present_name() {
    let mut bench = Bench::new(8);
    bench.processes.start(7, 1);
    bench.add(7, "a").unwrap();
    let mut new = NewWatch {
        target: target(7),
        found: bench.processes.find(7).unwrap(),
        owner: "a".to_owned(),
        create_time: Timestamp::default(),
    };
    new.found.process.name = "executed".to_owned();
    bench.watches.add(new).unwrap();
    let names: Vec<_> = bench
        .tick()
        .into_iter()
        .map(|sample| sample.process.unwrap().name)
        .collect();
    assert_eq!(names, ["executed", "executed"]);
}

#[tokio::test]
async fn a_refusal_of_the_kernel_costs_no_slot() {
    let not_attached = |_| AllowError::NotAttached("why".to_owned());
    let mut bench = Bench::new(8);
    bench.watches = Watches::new(Box::new(RefusingKernel::new(not_attached)), 8);
    bench.processes.start(7, 1);
    for _ in 0..3 {
        let refused = bench.add(7, "a").unwrap_err();
        assert!(matches!(refused, WatchError::NotAllowed(_)), "{refused}");
    }
    assert!(bench.watches.list().is_empty());
}
