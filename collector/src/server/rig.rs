//! A collector in a world made for a test.
#![forbid(unsafe_code)]

use std::{sync::Arc, time::Duration};

use netio::v1::{self, net_io_service_client::NetIoServiceClient};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{Collector, Listeners, MemoryConnector, RunError, World, run_in};
use crate::{
    Options,
    kernel::{Kernel, fake::FakeKernel},
    processes::fake::FakeProcesses,
    ticker::fake::FakeClock,
};

pub(crate) type Client = NetIoServiceClient<Channel>;

/// The collector and the strings by which a test moves its world. Dropping it
/// ends the collector.
pub(crate) struct Rig {
    pub(crate) kernel: FakeKernel,
    pub(crate) processes: FakeProcesses,
    pub(crate) memory: MemoryConnector,
    pub(crate) shutdown: CancellationToken,
    pub(crate) collector: JoinHandle<Result<(), RunError>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.collector.abort();
    }
}

impl Rig {
    /// A collector that is reached in memory only.
    pub(crate) fn new(options: Options) -> Self {
        Self::listening(options, Listeners::new())
    }

    /// A collector that is reached there, and in memory.
    pub(crate) fn listening(options: Options, listeners: Listeners) -> Self {
        let kernel = FakeKernel::new(options.limits.slots());
        Self::on(Box::new(kernel.clone()), kernel, options, listeners)
    }

    /// A collector on a kernel of the test's own; if that has a table, here is
    /// a handle to it.
    pub(crate) fn on(
        kernel: Box<dyn Kernel>,
        table: FakeKernel,
        options: Options,
        mut listeners: Listeners,
    ) -> Self {
        let processes = FakeProcesses::default();
        let world = World {
            clock: Arc::new(FakeClock::at(Duration::from_secs(1_000_000))),
            processes: Arc::new(processes.clone()),
        };
        let memory = listeners.memory();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let running = async {
            let collector = Collector::prepare(options, listeners)?;
            run_in(world, kernel, collector, stop).await
        };
        Self {
            kernel: table,
            processes,
            memory,
            shutdown,
            collector: tokio::spawn(running),
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.memory.channel())
    }

    /// Waits until the collector has run.
    pub(crate) async fn ended(&mut self) -> Result<(), RunError> {
        (&mut self.collector).await.unwrap()
    }
}

pub(crate) fn pid(pid: u32) -> Option<v1::Target> {
    Some(v1::Target::pid(pid))
}

/// Watches a process and returns the watch's id.
pub(crate) async fn watch(client: &mut Client, process: u32) -> String {
    let request = v1::WatchRequest::new(v1::Target::pid(process));
    let answer = client.watch(request).await.unwrap().into_inner();
    answer.watch.unwrap().watch_id
}
