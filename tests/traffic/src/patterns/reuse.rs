//! A pid that outlives its process.
//!
//! The kernel hands out pids in turn, so it takes as many forks as there are pids
//! until one comes again. clone3 can ask for it at once (`set_tid`, for restoring
//! checkpoints), and the process that then has it is like any other: the same pid
//! a moment later is the worst that can happen to a counter by pid.
#![forbid(unsafe_code)]

use std::io;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::driver::{Run, Unavailable};
use crate::kin::{Member, Reports, Start, fork, wait_for};
use crate::link::Link;
use crate::sys::Birth;

/// What each of the two successors sends and receives.
const LENGTH: usize = 25_000;
/// Longer than a few ticks.
const PAUSE: Duration = Duration::from_millis(700);

pub(super) fn reused_pid(run: &mut Run) -> Result<()> {
    let reports = Reports::new()?;
    let mut start = Start::new()?;
    let pid = fork(Birth::Child, || {
        start.wait()?;
        let own = Member::default();
        let link = Link::new()?;
        own.exchange(&link)?;
        own.audit.link(&link)?;
        own.report(&reports)
    })?;
    run.ready(&[pid])?;
    start.give();
    run.add_ended(reports.collect(1)?);
    wait_for(Some(pid))?;
    // One at once, one when everybody has had the time to forget the first.
    succeed(pid)?;
    sleep(PAUSE);
    succeed(pid)
}

/// Another process with that pid, which is free.
fn succeed(pid: u32) -> Result<()> {
    let reports = Reports::new()?;
    let successor = fork(Birth::WithPid(pid), || {
        let own = Member::default();
        let link = Link::new()?;
        own.tally.send_all(&link.near, &[1; LENGTH])?;
        own.tally.recv_exact(&link.far, LENGTH)?;
        own.audit.link(&link)?;
        own.report(&reports)
    });
    if let Err(error) = successor {
        return Err(match error.root_cause().downcast_ref::<io::Error>() {
            Some(cause) => {
                Unavailable(format!("cannot make a process with a given pid: {cause}")).into()
            }
            None => error,
        });
    }
    wait_for(Some(pid)).context("a process with a pid that was another's")?;
    // Their bytes are nobody's that is watched, but they must have been sent.
    reports.collect(1).map(drop)
}
