//! Notices the exit of watched processes.
//!
//! Takes exit signals, produces the key of each process that has exited, once.
//! Holds one small task per watched process; dropping an [`ExitGuard`] ends it.
#![forbid(unsafe_code)]

use std::future::pending;

use tokio::task::{AbortHandle, JoinSet};

use crate::{kernel::ProcessId, processes::ExitSignal};

#[derive(Default)]
pub(super) struct Exits {
    tasks: JoinSet<ProcessId>,
}

impl Exits {
    /// Called within a tokio runtime.
    pub(super) fn add(&mut self, key: ProcessId, exited: ExitSignal) -> ExitGuard {
        ExitGuard(self.tasks.spawn(async move {
            exited.await;
            key
        }))
    }

    /// Waits for the next exit; for ever, if no process is left to exit. A call
    /// that is dropped while it waits loses nothing.
    pub(super) async fn next(&mut self) -> ProcessId {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(key)) => return key,
                // The guard was dropped.
                Some(Err(_)) => {}
                None => return pending().await,
            }
        }
    }
}

/// Keeps an eye on one process for as long as it lives.
pub(super) struct ExitGuard(AbortHandle);

impl Drop for ExitGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}
