//! Blocking send and recv, nothing else: one thread, many threads, half-closed
//! and reset connections, and a process that exits.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::sync::Barrier;
use std::time::Duration;
use std::{process, thread};

use anyhow::{Context as _, Result, ensure};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{RecvFlags, SendFlags, connect, connect_unspec, getsockname};

use super::exchange;
use crate::audit::Left;
use crate::driver::Run;
use crate::link::{self, Link, LinkOptions};
use crate::protocol::Bytes;
use crate::tally::end;

pub(super) fn single_thread(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let link = Link::new()?;
    exchange(&run.tally, &link, 20 * run.scale)?;
    run.audit.link(&link)
}

pub(super) fn threads_16(run: &mut Run) -> Result<()> {
    const THREADS: usize = 16;
    run.ready_alone()?;
    let (tally, audit, rounds) = (&run.tally, &run.audit, 80 * run.scale);
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let start = &start;
                scope.spawn(move || -> Result<()> {
                    let link = Link::new();
                    start.wait();
                    let link = link?;
                    for round in 0..rounds {
                        let size = 1 + (round * 37 + thread) % 1024;
                        tally.send_all(&link.near, &[1; 1024][..size])?;
                        tally.recv_exact(&link.far, size)?;
                    }
                    audit.link(&link)
                })
            })
            .collect();
        join(threads)
    })
}

/// Waits for threads; fails with the first failure among them.
pub(super) fn join(threads: Vec<thread::ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    let mut all = Ok(());
    for thread in threads {
        let done = match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        all = all.and(done);
    }
    all
}

pub(super) fn half_close(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let (tally, audit) = (&run.tally, &run.audit);
    let data = [5; 10_000];
    for round in 0..10 * run.scale {
        let link = Link::new()?;
        // Either side may be the first to end.
        let (first, second) = if round % 2 == 0 {
            (&link.near, &link.far)
        } else {
            (&link.far, &link.near)
        };
        tally.send_all(first, &data)?;
        end(first)?;
        tally.recv_to_end(second)?;
        tally.send_all(second, &data[..3000])?;
        tally.send_all(second, &data[..1])?;
        end(second)?;
        tally.recv_to_end(first)?;
        audit.socket(first, Left::FIN)?;
        audit.socket(second, Left::FIN)?;
    }
    for _ in 0..10 * run.scale {
        reset(run)?;
    }
    Ok(())
}

/// A connection whose accepted end is reset while it holds unread data.
fn reset(run: &Run) -> Result<()> {
    let tally = &run.tally;
    let link = Link::new()?;
    tally.send_all(&link.near, &[6; 9000])?;
    tally.recv_exact(&link.far, 4000)?;
    tally.send_all(&link.far, &[6; 2000])?;
    tally.recv_exact(&link.near, 2000)?;
    run.audit.socket(&link.near, Left::default())?;
    let left = Left {
        fin: false,
        unread: 5000,
    };
    run.audit.socket(&link.far, left)?;
    set_socket_linger(&link.far, Some(Duration::ZERO)).context("set SO_LINGER")?;
    drop(link.far);
    let mut buffer = [0; 100];
    let received = tally.recv(&link.near, &mut buffer, RecvFlags::empty());
    ensure!(
        received
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
        "a reset connection gave {received:?} to a receive"
    );
    let sent = tally.send(&link.near, &buffer, SendFlags::empty());
    ensure!(
        sent.as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::BrokenPipe),
        "a reset connection gave {sent:?} to a send"
    );
    Ok(())
}

/// The same socket for one connection after another: each has a sequence number
/// of its own.
pub(super) fn reconnected(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let listener = link::listener(LinkOptions::IPV4)?;
    let mut near = link::connected(LinkOptions::IPV4, &listener)?;
    for _ in 0..10 * run.scale {
        let far = link::accepted(&listener)?;
        let link = Link { near, far };
        exchange(&run.tally, &link, 1)?;
        connect_unspec(&link.near).context("disconnect")?;
        connect(&link.near, &getsockname(&listener)?).context("connect anew")?;
        near = link.near;
    }
    Ok(())
}

pub(super) fn exit_mid_tick(run: &mut Run) -> Result<()> {
    const LAST: usize = 12_345;
    run.ready_alone()?;
    let link = Link::new()?;
    exchange(&run.tally, &link, 5 * run.scale)?;
    run.report_ahead(Bytes {
        sent: LAST as u64,
        received: LAST as u64,
    })?;
    // As late as can be: nothing but the exit itself follows the last receive.
    let mut buffer = vec![0; LAST];
    let sent = rustix::net::send(&link.near, &buffer, SendFlags::empty()).context("send")?;
    let (_, received) = rustix::net::recv(&link.far, buffer.as_mut_slice(), RecvFlags::WAITALL)
        .context("receive")?;
    ensure!(
        sent == LAST && received == LAST,
        "the last {LAST} bytes were sent as {sent} and received as {received}: the report is wrong"
    );
    process::exit(0)
}
