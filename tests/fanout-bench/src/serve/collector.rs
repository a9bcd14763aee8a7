//! The collector itself, on a kernel made of a table, with limits that are no
//! obstacle.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process,
    time::Duration,
};

use anyhow::{Context as _, Result};
use netio::v1::{
    Target, WatchRequest, net_io_service_client::NetIoServiceClient, watch_request::Life,
};
use netio_collector::{Limits, Listeners, Options, kernel::fake::FakeKernel, run};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::Ready;
use crate::{
    INTERVAL,
    message::{RECEIVED, SENT},
    print,
};

/// More than any load opens.
const MAX_SUBSCRIBERS: u32 = 200_000;
/// As many as descriptors allow.
const MAX_CONNECTIONS: u32 = 20_000;
/// Calls a second that the watched process sends with, and receives with. Few, since
/// making them up costs this process CPU time that is no collector's.
const CALLS: u32 = 2;

/// Watches this very process, `watches` times.
pub(super) async fn serve(watches: u32, stop: CancellationToken) -> Result<()> {
    let kernel = FakeKernel::new(Limits::default().max_processes);
    let mut listeners = Listeners::new();
    let address = listeners.bind_tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let memory = listeners.memory();
    let options = Options {
        interval: INTERVAL,
        limits: Limits {
            max_subscribers: MAX_SUBSCRIBERS,
            max_connections: MAX_CONNECTIONS,
            ..Limits::default()
        },
        ..Options::default()
    };
    let running = run(Box::new(kernel.clone()), options, listeners, stop);
    let preparing = async {
        let mut client = NetIoServiceClient::new(memory.channel());
        let mut watch_ids = Vec::new();
        for _ in 0..watches {
            let request = WatchRequest {
                target: Some(Target::pid(process::id())),
                life: Some(Life::Standing(true)),
                ..Default::default()
            };
            let watch = client.watch(request).await?.into_inner().watch;
            watch_ids.push(watch.context("no watch in the answer")?.watch_id);
        }
        print(&Ready { address, watch_ids })?;
        move_bytes(&kernel).await;
        anyhow::Ok(())
    };
    tokio::select! {
        ran = running => Ok(ran?),
        prepared = preparing => prepared,
    }
}

/// So that samples hold figures.
async fn move_bytes(kernel: &FakeKernel) {
    let mut calls = interval(Duration::from_secs(1) / CALLS);
    loop {
        calls.tick().await;
        let calls = u64::from(CALLS);
        kernel.traffic(process::id(), SENT / calls, RECEIVED / calls);
    }
}
