//! The registry of watches by itself, so that a benchmark can tell what a tick
//! costs with the real maps, without as many processes.

use std::{
    future::pending,
    mem::take,
    ops::Range,
    time::{Duration, SystemTime},
};

use netio::v1;
use tokio::time::Instant;

use crate::{
    Limits,
    hub::{Hub, HubOptions},
    kernel::Kernel,
    processes::{Found, Selector},
    watches::{Follow, NewWatch, Past, Watches},
};

/// Owns a kernel and the watches on it, as the sampler does.
pub struct Registry {
    watches: Watches,
    hub: Hub,
    /// Samples of an earlier tick, for their memory.
    used: Vec<v1::NetIoSample>,
    sequence: u64,
}

impl Registry {
    /// Watches nobody yet.
    pub fn new(kernel: Box<dyn Kernel>, limits: Limits) -> Self {
        Self {
            watches: Watches::new(kernel, limits),
            hub: Hub::new(HubOptions {
                max_subscribers: 1,
                interval: Duration::from_secs(1),
                max_history: Duration::from_secs(1),
                max_history_bytes: limits.max_history_bytes,
                last_sequence: 0,
            }),
            used: Vec::new(),
            sequence: 0,
        }
    }

    /// Makes one watch of these pids, whether or not there are such processes.
    /// Called within a tokio runtime.
    pub fn watch(&mut self, pids: Range<u32>) -> Result<(), String> {
        let new = NewWatch {
            target: v1::Target::pid(pids.start),
            selector: Selector::Pid(pids.start),
            follow: Follow::Never,
            owner: String::new(),
            lease_ttl: None,
            create_time: prost_types::Timestamp::default(),
        };
        let watches = &mut self.watches;
        let made = watches.begin(new, Instant::now());
        let id = made.map_err(|error| error.to_string())?;
        for pid in pids {
            let process = v1::Process {
                pid,
                name: "benchmarked".to_owned(),
                ..v1::Process::default()
            };
            let found = Found {
                has_exited: Box::new(|| false),
                process,
                forks_per_connection: false,
                exited: Box::pin(pending()),
            };
            let joined = watches.join(id, found, false, Past::Refuse);
            joined.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What the sampler does at a tick: reads every process's counters and gives
    /// the watches' samples; `detail`: with each process's part.
    pub fn tick(&mut self, detail: bool) -> &[v1::NetIoSample] {
        self.watches.read();
        self.used = self.watches.diff(detail, take(&mut self.used));
        &self.used
    }

    /// The same, and what the sampler does with the samples then: they are encoded
    /// for the history, and published to whoever subscribes.
    pub fn publish(&mut self) {
        self.watches.read();
        let samples = self.watches.diff(false, take(&mut self.used));
        self.sequence += 1;
        self.used = self.hub.publish(v1::SubscribeResponse {
            sequence: self.sequence,
            time: Some(SystemTime::now().into()),
            samples,
            ticks: 1,
            ..v1::SubscribeResponse::default()
        });
        self.watches.retire(Instant::now());
    }
}
