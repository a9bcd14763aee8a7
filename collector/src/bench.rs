//! The registry of watches by itself, so that a benchmark can tell what a tick
//! costs with the real maps, without as many processes.

use std::{future::pending, ops::Range};

use netio::v1;
use tokio::time::Instant;

use crate::{
    Limits,
    kernel::Kernel,
    processes::{Found, Selector},
    watches::{Follow, NewWatch, Past, Watches},
};

/// Owns a kernel and the watches on it, as the sampler does.
pub struct Registry(Watches);

impl Registry {
    /// Watches nobody yet.
    pub fn new(kernel: Box<dyn Kernel>, limits: Limits) -> Self {
        Self(Watches::new(kernel, limits))
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
        let watches = &mut self.0;
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
    pub fn tick(&mut self, detail: bool) -> Vec<v1::NetIoSample> {
        self.0.read();
        self.0.diff(detail)
    }
}
