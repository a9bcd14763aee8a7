//! Holds on to a process, to hear of its exit.
//!
//! Takes a pid, produces a [`Hold`] on the process that has it now. Promises
//! that the hold stays that process's, even if the pid is reused later.
#![forbid(unsafe_code)]

use std::{io, os::fd::OwnedFd, pin::Pin, sync::Arc};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Completes when the process has exited, all of its threads included.
pub(crate) type ExitSignal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells at once whether the process has exited.
pub(crate) type HasExited = Box<dyn Fn() -> bool + Send>;

/// A pidfd.
pub(super) struct Hold(Arc<OwnedFd>);

/// Why there is nothing to hold on to.
#[derive(Debug)]
pub(super) enum HoldError {
    /// No process has this pid; a thread may have it.
    NoProcess,
    Failed(io::Error),
}

impl Hold {
    pub(super) fn on(pid: u32) -> Result<Self, HoldError> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(HoldError::NoProcess)?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self(Arc::new(pidfd))),
            // Kernels differ in what they answer for a thread that leads no group.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Err(HoldError::NoProcess),
            Err(error) => Err(HoldError::Failed(error.into())),
        }
    }

    pub(super) fn has_exited(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        Ok(poll(&mut fds, Some(&at_once))? > 0)
    }

    /// The same for later. What cannot be told counts as running.
    pub(super) fn watcher(&self) -> HasExited {
        let hold = Self(Arc::clone(&self.0));
        Box::new(move || hold.has_exited().unwrap_or(false))
    }

    /// Called within a tokio runtime.
    pub(super) fn exit_signal(self) -> io::Result<ExitSignal> {
        // Its successor is unsafe, for the sake of types whose descriptor may change
        // or close while they are registered; an OwnedFd's does not.
        #[expect(deprecated)]
        let pidfd = AsyncFd::with_interest(self.0, Interest::READABLE)?;
        Ok(Box::pin(async move {
            // Fails only when the runtime itself goes away.
            let _ = pidfd.readable().await;
        }))
    }
}
