//! Rouses the runtime from outside.
//!
//! Of the runtime's threads one waits for timers and sockets on behalf of all. Where
//! that one is given the sampler to run, and the sampler hangs, the others sleep on:
//! nobody is left to wake them. So a thread that the runtime knows nothing of gives it
//! an empty task every so often, upon which another takes over.
#![forbid(unsafe_code)]

use std::{
    io,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use tokio::runtime::{Handle, RuntimeFlavor};

/// The thread ends when this is dropped.
pub(super) struct Rouser {
    _alive: Sender<()>,
}

impl Rouser {
    /// Called within a tokio runtime. One that has a single thread cannot be helped.
    pub(super) fn start(every: Duration) -> io::Result<Option<Self>> {
        let runtime = Handle::current();
        if runtime.runtime_flavor() != RuntimeFlavor::MultiThread {
            return Ok(None);
        }
        let (alive, ended) = channel();
        thread::Builder::new()
            .name("netio-rouser".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || {
                while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    runtime.spawn(async {});
                }
            })?;
        Ok(Some(Self { _alive: alive }))
    }
}
