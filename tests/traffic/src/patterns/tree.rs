//! Every way for a process to have descendants: generations of forks, an orphan,
//! a sibling, vfork and exec.
//!
//! The watched process is the generator's child, so that its orphans become the
//! generator's, which nobody watches, and which sees them to their end.
#![forbid(unsafe_code)]

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{getpid, getppid, set_child_subreaper};

use crate::audit::Left;
use crate::driver::Run;
use crate::kin::{Member, Reports, Start, fork, wait_for, wait_for_all};
use crate::link::{Link, TIMEOUT};
use crate::sys::Birth;
use crate::tally::Tally;

const GENERATIONS: usize = 3;
/// Children of each process but those of the last generation.
const CHILDREN: usize = 2;
/// All generations together: 2 + 4 + 8.
const FAMILY: usize = 14;

pub(super) fn forking_tree(run: &mut Run) -> Result<()> {
    set_child_subreaper(Some(getpid())).context("adopt orphans")?;
    let reports = Reports::new()?;
    let mut start = Start::new()?;
    let rounds = 2 * run.scale;
    let eldest = fork(Birth::Child, || {
        start.wait()?;
        let eldest = Member::default();
        for _ in 0..rounds {
            generations(&eldest)?;
            orphan(&eldest)?;
            sibling(&eldest)?;
            spawned(&eldest)?;
            executed(&eldest)?;
        }
        eldest.report(&reports)
    })?;
    run.ready(&[eldest])?;
    start.give();
    run.add_ended(reports.collect(1)?);
    wait_for_all()
}

/// Three generations, each in its place until the next has ended.
fn generations(eldest: &Member) -> Result<()> {
    let reports = Reports::new()?;
    for _ in 0..CHILDREN {
        fork(Birth::Child, || descendant(1, &reports))?;
    }
    for _ in 0..CHILDREN {
        wait_for(None)?;
    }
    eldest.add(reports.collect(FAMILY)?);
    Ok(())
}

/// The life of a descendant: it sends and receives before it has children and
/// while it has.
fn descendant(generation: usize, reports: &Reports) -> Result<()> {
    let own = Member::default();
    let link = Link::new()?;
    own.exchange(&link)?;
    let children = if generation < GENERATIONS {
        CHILDREN
    } else {
        0
    };
    for _ in 0..children {
        fork(Birth::Child, || descendant(generation + 1, reports))?;
    }
    own.exchange(&link)?;
    for _ in 0..children {
        wait_for(None)?;
    }
    own.audit.link(&link)?;
    own.report(reports)
}

/// A process that goes on when its parent has exited.
fn orphan(eldest: &Member) -> Result<()> {
    let reports = Reports::new()?;
    let parent = fork(Birth::Child, || {
        let parent = getpid();
        fork(Birth::Child, || {
            let own = Member::default();
            let link = Link::new()?;
            own.exchange(&link)?;
            let deadline = Instant::now() + TIMEOUT;
            while getppid() == Some(parent) {
                ensure!(Instant::now() < deadline, "the parent did not exit");
                sleep(Duration::from_millis(1));
            }
            own.exchange(&link)?;
            own.audit.link(&link)?;
            own.report(&reports)
        })?;
        once(&reports)
    })?;
    wait_for(Some(parent))?;
    // The orphan is not this process's to wait for, but its report is.
    eldest.add(reports.collect(2)?);
    Ok(())
}

/// A process that another child made, and that is the eldest's nevertheless.
fn sibling(eldest: &Member) -> Result<()> {
    let reports = Reports::new()?;
    fork(Birth::Child, || {
        fork(Birth::Sibling, || once(&reports))?;
        once(&reports)
    })?;
    for _ in 0..2 {
        wait_for(None)?;
    }
    eldest.add(reports.collect(2)?);
    Ok(())
}

/// The life of a process that sends and receives a little.
fn once(reports: &Reports) -> Result<()> {
    let own = Member::default();
    let link = Link::new()?;
    own.exchange(&link)?;
    own.audit.link(&link)?;
    own.report(reports)
}

/// A process made by vfork that executes a program at once, and sends on a socket
/// of its parent's.
fn spawned(eldest: &Member) -> Result<()> {
    const LENGTH: usize = 30_000;
    let link = Link::new()?;
    // It has nothing to do between fork and exec, so that the C library vforks.
    let mut child = sender(&link, LENGTH)?.spawn().context("start a program")?;
    eldest.tally.recv_exact(&link.far, LENGTH)?;
    let status = child.wait().context("wait for a program")?;
    ensure!(status.success(), "a program ended with {status}");
    eldest.tally.add_sent(LENGTH);
    eldest.audit.link(&link)
}

/// A process that sends, executes a program, and sends as that.
fn executed(eldest: &Member) -> Result<()> {
    const BEFORE: usize = 5_000;
    const AFTER: usize = 7_000;
    let link = Link::new()?;
    let child = fork(Birth::Child, || {
        Tally::default().send_all(&link.near, &[1; BEFORE])?;
        Err(sender(&link, AFTER)?.exec()).context("execute a program")
    })?;
    eldest.tally.recv_exact(&link.far, BEFORE + AFTER)?;
    wait_for(Some(child))?;
    eldest.tally.add_sent(BEFORE + AFTER);
    eldest.audit.socket(&link.near, Left::default())?;
    eldest.audit.socket(&link.far, Left::default())
}

/// This program, to send so many bytes on the near end.
fn sender(link: &Link, length: usize) -> Result<Command> {
    let near = OwnedFd::from(link.near.try_clone()?);
    let mut command = Command::new(env::current_exe().context("find this program")?);
    command
        .args(["send-on-stdin", &length.to_string()])
        .stdin(Stdio::from(near))
        .stdout(Stdio::null());
    Ok(command)
}

/// What [`sender`] executes: fails unless all is sent.
pub fn send_on_stdin(bytes: usize) -> Result<()> {
    Tally::default().send_all(io::stdin(), &vec![2; bytes])
}
