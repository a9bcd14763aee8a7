//! The loop against the real collector, in memory, above a kernel made of a
//! table. The processes are real ones that idle.

use std::process::{Child, Command};

use netio::v1::unwatch_request::Selector;
use netio_collector::{
    Options,
    kernel::{Counters, fake::FakeKernel},
};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use super::*;
use crate::{conn::without_token, embedded::Embedded, failure::Origin};

mod bench;
mod history;
mod leases;
mod narrow;
mod outages;
mod rules;
#[path = "../../tests/support/scripted.rs"]
mod scripted;
mod slow;

/// The shortest that the collector allows.
const INTERVAL: Duration = Duration::from_millis(100);

/// A process that does nothing until it is dropped.
struct Idler(Child);

impl Idler {
    fn new() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Idler {
    fn drop(&mut self) {
        self.end();
    }
}

struct Bench {
    kernel: FakeKernel,
    embedded: Embedded,
    channel: Channel,
    stop: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        let kernel = FakeKernel::new(4096);
        let options = Options {
            interval: INTERVAL,
            ..Options::default()
        };
        let (embedded, channel) = Embedded::start_on(Box::new(kernel.clone()), options);
        Self {
            kernel,
            embedded,
            channel,
            stop: CancellationToken::new(),
        }
    }

    fn rpc(&self) -> Rpc {
        let channel = without_token(self.channel.clone());
        Rpc::new(channel, Origin::InProcess, self.stop.clone())
    }

    /// Watches as a command would; produces its outcome, lines and notes.
    async fn watch(
        &self,
        pids: &[u32],
        count: Option<u64>,
    ) -> (Result<(), Failure>, Vec<Value>, String) {
        let mut output = Output {
            out: Vec::new(),
            err: Vec::new(),
        };
        let order = order_of(pids, count);
        let outcome = run(&self.rpc(), &order, View::Json, &mut output, &self.stop).await;
        let notes = String::from_utf8(output.err).unwrap();
        (outcome, parse(&output.out), notes)
    }

    /// Waits until the kernel counts this process.
    async fn counts(&self, pid: u32) {
        until(|| self.kernel.with(|state| state.allowed.contains_key(&pid))).await;
    }

    fn counts_nothing(&self) -> bool {
        self.kernel.with(|state| state.allowed.is_empty())
    }
}

fn order_of(pids: &[u32], count: Option<u64>) -> Order {
    Order {
        subject: Subject::Made(Wanted::new(
            pids.iter().copied().map(v1::Target::pid),
            false,
        )),
        lease: LEASE,
        shape: Shape::default(),
        count,
        patience: PATIENCE,
    }
}

fn request_for(pid: u32) -> v1::WatchRequest {
    v1::WatchRequest::new(v1::Target::pid(pid))
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it never came true");
        sleep(Duration::from_millis(5)).await;
    }
}

fn parse(lines: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(lines).unwrap().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn column(lines: &[Value], key: &str) -> Vec<u64> {
    lines
        .iter()
        .map(|line| line[key].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn samples_add_up_and_the_watch_ends_with_the_command() {
    let bench = Bench::new();
    let idler = Idler::new();
    let traffic = async {
        bench.counts(idler.pid()).await;
        for _ in 0..10 {
            bench.kernel.traffic(idler.pid(), 1000, 7);
            sleep(INTERVAL / 4).await;
        }
    };
    let pids = [idler.pid()];
    let ((outcome, lines, notes), ()) = tokio::join!(bench.watch(&pids, Some(6)), traffic);
    assert_eq!((outcome, notes.as_str()), (Ok(()), ""));
    assert_eq!(lines.len(), 6);
    assert_eq!(column(&lines, "sent_bytes").iter().sum::<u64>(), 10_000);
    assert_eq!(column(&lines, "received_calls").iter().sum::<u64>(), 10);
    assert_eq!(lines[5]["sent_bytes_total"], 10_000);
    assert_eq!(lines[5]["received_bytes_total"], 70);
    assert_eq!(lines[5]["pid"], idler.pid());
    assert_eq!(lines[5]["name"], "sleep");
    let sequences = column(&lines, "sequence");
    assert!(
        sequences.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{sequences:?}"
    );
    assert!(bench.counts_nothing());
}

#[tokio::test]
async fn ends_when_every_process_has_exited() {
    let bench = Bench::new();
    let (mut first, mut second) = (Idler::new(), Idler::new());
    let pids = [first.pid(), second.pid(), first.pid()];
    let exits = async {
        bench.counts(pids[1]).await;
        bench.kernel.traffic(pids[0], 5, 0);
        first.end();
        sleep(INTERVAL * 3).await;
        second.end();
    };
    let ((outcome, lines, notes), ()) = tokio::join!(bench.watch(&pids, None), exits);
    assert_eq!((outcome, notes.as_str()), (Ok(()), ""));
    for pid in &pids[..2] {
        let states: Vec<_> = lines
            .iter()
            .filter(|line| line["pid"] == *pid)
            .map(|line| line["state"].as_str().unwrap())
            .collect();
        assert_eq!(states.iter().filter(|state| **state == "exited").count(), 1);
        assert_eq!(states.last(), Some(&"exited"));
    }
    let last_of_first = lines.iter().rfind(|line| line["pid"] == pids[0]).unwrap();
    assert_eq!(last_of_first["sent_bytes_total"], 5);
    assert_eq!(lines[0]["pid"], pids[0], "in the order given");
}

#[tokio::test]
async fn stops_when_asked_to() {
    let bench = Bench::new();
    let idler = Idler::new();
    let asked = async {
        bench.counts(idler.pid()).await;
        sleep(INTERVAL * 2).await;
        bench.stop.cancel();
    };
    let pids = [idler.pid()];
    let ((outcome, ..), ()) = tokio::join!(bench.watch(&pids, None), asked);
    assert_eq!(outcome, Ok(()));
    assert!(bench.counts_nothing());
}

#[tokio::test]
async fn a_refused_process_leaves_no_watch_of_the_others() {
    let bench = Bench::new();
    let idler = Idler::new();
    let mut gone = Idler::new();
    gone.end();
    let (outcome, lines, _) = bench.watch(&[idler.pid(), gone.pid()], None).await;
    let failure = outcome.unwrap_err().to_string();
    assert!(failure.contains("PROCESS_NOT_FOUND"), "{failure}");
    assert!(lines.is_empty());
    assert!(bench.counts_nothing());
}

#[tokio::test]
async fn a_watch_ended_by_somebody_else_is_noticed() {
    let bench = Bench::new();
    let idler = Idler::new();
    let rpc = bench.rpc();
    let ended = async {
        bench.counts(idler.pid()).await;
        sleep(INTERVAL * 2).await;
        let target = v1::Target::pid(idler.pid());
        rpc.unwatch(Selector::Target(target)).await.unwrap();
    };
    let pids = [idler.pid()];
    let ((outcome, _, notes), ()) = tokio::join!(bench.watch(&pids, None), ended);
    assert_eq!(outcome, Ok(()));
    assert!(
        notes.contains("ended by somebody else with the same owner"),
        "{notes}"
    );
}

#[tokio::test]
async fn a_collector_that_stops_is_a_failure() {
    let bench = Bench::new();
    let idler = Idler::new();
    let pids = [idler.pid()];
    let rpc = bench.rpc();
    let Bench {
        kernel,
        embedded,
        stop,
        ..
    } = bench;
    let stopping = async {
        until(|| kernel.with(|state| !state.allowed.is_empty())).await;
        sleep(INTERVAL * 2).await;
        embedded.stop().await
    };
    let mut output = Output {
        out: Vec::new(),
        err: Vec::new(),
    };
    let order = order_of(&pids, None);
    let watching = run(&rpc, &order, View::Json, &mut output, &stop);
    let (outcome, _) = tokio::join!(watching, stopping);
    let failure = outcome.unwrap_err().to_string();
    assert!(failure.contains("SHUTTING_DOWN"), "{failure}");
}

#[tokio::test]
async fn the_largest_total_is_shown_whole() {
    let bench = Bench::new();
    let idler = Idler::new();
    let traffic = async {
        bench.counts(idler.pid()).await;
        bench.kernel.with(|state| {
            let slot = state.allowed[&idler.pid()];
            let huge = Counters {
                sent_bytes: u64::MAX,
                ..Counters::default()
            };
            state.counters.insert(slot, huge);
        });
    };
    let pids = [idler.pid()];
    let ((outcome, lines, _), ()) = tokio::join!(bench.watch(&pids, Some(3)), traffic);
    assert_eq!(outcome, Ok(()));
    assert_eq!(lines[2]["sent_bytes_total"], u64::MAX);
}
