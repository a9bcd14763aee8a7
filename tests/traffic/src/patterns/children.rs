//! Children that are born after the watch began, and die young; and children
//! that were there before.
#![forbid(unsafe_code)]

use std::io::{self, PipeWriter, Read as _, Write as _};
use std::mem;

use anyhow::{Context as _, Result, ensure};
use rustix::net::SendFlags;

use crate::driver::Run;
use crate::kin::{Member, Reports, Start, fork, wait_for};
use crate::link::{self, Link, LinkOptions};
use crate::sys::Birth;

/// Children at a time; as many connections fit into the listener's queue.
const WAVE: usize = 16;
const WAVES: usize = 125;
/// What each of them sends.
const LENGTH: usize = 100;

/// The parent receives what its children send, so that both sums are the same.
pub(super) fn short_lived(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let listener = link::listener(LinkOptions::IPV4)?;
    for wave in 0..WAVES * run.scale {
        let children = (0..WAVE)
            .map(|_| {
                fork(Birth::Child, || {
                    let near = link::connected(LinkOptions::IPV4, &listener)?;
                    let sent = rustix::net::send(&near, &[1; LENGTH], SendFlags::empty())?;
                    // It has no time to report: that it ends well says so.
                    ensure!(sent == LENGTH, "{sent} of {LENGTH} bytes were sent");
                    if wave % 2 == 0 {
                        // Some leave the closing to their exit.
                        mem::forget(near);
                    }
                    Ok(())
                })
            })
            .collect::<Result<Vec<u32>>>()?;
        for _ in &children {
            let far = link::accepted(&listener)?;
            run.tally.recv_to_end(&far)?;
            run.audit.with_sender(&far)?;
        }
        for child in children {
            wait_for(Some(child))?;
            run.tally.add_sent(LENGTH);
        }
    }
    Ok(())
}

/// Children that the watch finds, each with one of its own.
const ADOPTED: usize = 4;
/// Bytes that wait unread in each of them.
const UNREAD: usize = 600;

pub(super) fn before(run: &mut Run) -> Result<()> {
    let reports = Reports::new()?;
    let mut start = Start::new()?;
    let (mut prepared, preparing) = io::pipe()?;
    let children = (0..ADOPTED)
        .map(|_| {
            fork(Birth::Child, || {
                adopted(&mut start, &preparing, &reports, true)
            })
        })
        .collect::<Result<Vec<u32>>>()?;
    drop(preparing);
    prepared
        .read_exact(&mut [0; 2 * ADOPTED])
        .context("wait for the children")?;
    run.ready_alone()?;
    start.give();
    let exchanged = Link::new()?;
    super::exchange(&run.tally, &exchanged, 1)?;
    run.audit.link(&exchanged)?;
    for child in children {
        wait_for(Some(child))?;
    }
    // Each of the adopted, and the one that each has forked since.
    let bytes = reports.collect(2 * 2 * ADOPTED)?;
    run.tally.add(bytes);
    run.audit.verified(bytes);
    Ok(())
}

/// The life of a process that is there before the watch; the elder ones have a
/// child that is, too.
fn adopted(
    start: &mut Start,
    mut preparing: &PipeWriter,
    reports: &Reports,
    elder: bool,
) -> Result<()> {
    let own = Member::default();
    let link = Link::new()?;
    own.before.send_all(&link.near, &[1; 1000])?;
    own.before.recv_exact(&link.far, 1000 - UNREAD)?;
    let child = elder
        .then(|| fork(Birth::Child, || adopted(start, preparing, reports, false)))
        .transpose()?;
    preparing
        .write_all(&[1])
        .context("say that it is prepared")?;
    start.wait()?;
    own.tally.recv_exact(&link.far, UNREAD)?;
    let late = fork(Birth::Child, || {
        let own = Member::default();
        let link = Link::new()?;
        own.exchange(&link)?;
        own.audit.link(&link)?;
        own.report(reports)
    })?;
    own.exchange(&link)?;
    for child in child.into_iter().chain([late]) {
        wait_for(Some(child))?;
    }
    own.audit.link(&link)?;
    own.report(reports)
}
