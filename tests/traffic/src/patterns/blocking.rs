//! Calls that sleep in the kernel, and calls that refuse to.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{RecvFlags, SendFlags};

use super::plain::join;
use crate::audit::Left;
use crate::driver::Run;
use crate::link::{Link, LinkOptions, TIMEOUT};
use crate::sys;
use crate::tally::end;

/// Buffers of a few segments, so that little data fills them.
const SMALL: LinkOptions = LinkOptions {
    buffers: Some(8 * 1024),
    max_segment: Some(1460),
    ..LinkOptions::IPV4
};

/// How long threads get to enter a call in which they then sleep.
const ENTER: Duration = Duration::from_millis(100);

const CONNECTIONS: usize = 64;

pub(super) fn connections_64(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    for _ in 0..run.scale {
        blocked_senders(run)?;
        blocked_receivers(run)?;
    }
    Ok(())
}

fn small_links() -> Result<Vec<Link>> {
    (0..CONNECTIONS).map(|_| Link::with(SMALL)).collect()
}

/// Every sender is inside one send that does not fit, before anyone receives.
fn blocked_senders(run: &Run) -> Result<()> {
    const LENGTH: usize = 64 * 1024;
    let tally = &run.tally;
    let links = small_links()?;
    let returned = AtomicUsize::new(0);
    let receive = Barrier::new(CONNECTIONS + 1);
    thread::scope(|scope| {
        let mut threads = Vec::with_capacity(2 * CONNECTIONS);
        for link in &links {
            let (returned, receive) = (&returned, &receive);
            threads.push(scope.spawn(move || {
                let sent = tally.send(&link.near, &[2; LENGTH], SendFlags::empty());
                returned.fetch_add(1, Relaxed);
                let sent = sent.context("send")?;
                ensure!(sent == LENGTH, "a blocking send took {sent} of {LENGTH}");
                Ok(())
            }));
            threads.push(scope.spawn(move || {
                receive.wait();
                tally.recv_exact(&link.far, LENGTH)
            }));
        }
        let blocked = wait_until_blocked(&links, &returned);
        receive.wait();
        blocked.and(join(threads))
    })?;
    links.iter().try_for_each(|link| run.audit.link(link))
}

/// Waits until every sender has data in the kernel; none has returned, so all
/// of them are inside the call.
fn wait_until_blocked(links: &[Link], returned: &AtomicUsize) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT / 2;
    for link in links {
        loop {
            let info = sys::tcp_info(&link.near)?;
            if info.unacked > 0 || info.notsent_bytes > 0 {
                break;
            }
            ensure!(Instant::now() < deadline, "a sender did not begin to send");
            sleep(Duration::from_millis(1));
        }
    }
    sleep(ENTER);
    let returned = returned.load(Relaxed);
    ensure!(returned == 0, "{returned} senders were not blocked");
    Ok(())
}

/// Every receiver is inside recv before anything is sent.
fn blocked_receivers(run: &Run) -> Result<()> {
    const LENGTH: usize = 1000;
    let tally = &run.tally;
    let links = small_links()?;
    let entered = AtomicUsize::new(0);
    thread::scope(|scope| {
        let threads: Vec<_> = links
            .iter()
            .map(|link| {
                let entered = &entered;
                scope.spawn(move || {
                    entered.fetch_add(1, Relaxed);
                    tally.recv_exact(&link.far, LENGTH)
                })
            })
            .collect();
        while entered.load(Relaxed) < CONNECTIONS {
            sleep(Duration::from_millis(1));
        }
        sleep(ENTER);
        let sent = links
            .iter()
            .try_for_each(|link| tally.send_all(&link.near, &[3; LENGTH]));
        sent.and(join(threads))
    })?;
    links.iter().try_for_each(|link| run.audit.link(link))
}

pub(super) fn partial_sends(run: &mut Run) -> Result<()> {
    const LENGTH: usize = 256 * 1024;
    run.ready_alone()?;
    let link = Link::with(SMALL)?;
    link.near.set_nonblocking(true)?;
    let tally = &run.tally;
    let (mut partial, mut refused) = (0, 0);
    let data = vec![4; LENGTH];
    for _ in 0..2 * run.scale {
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            match tally.send(&link.near, rest, SendFlags::empty()) {
                Ok(sent) => {
                    partial += usize::from(sent < rest.len());
                    rest = &rest[sent..];
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    refused += 1;
                    take_what_waits(run, &link)?;
                }
                Err(error) => return Err(error).context("send"),
            }
        }
    }
    end(&link.near)?;
    tally.recv_to_end(&link.far)?;
    ensure!(
        partial > 0 && refused > 0,
        "{partial} partial sends and {refused} refused ones: the buffer was not filled"
    );
    run.note = Some(format!("{partial} partial sends, {refused} times EAGAIN"));
    run.audit.socket(&link.near, Left::default())?;
    run.audit.socket(&link.far, Left::FIN)
}

/// One blocking receive, then non-blocking ones until EAGAIN.
fn take_what_waits(run: &Run, link: &Link) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    run.tally
        .recv(&link.far, &mut buffer, RecvFlags::empty())
        .context("receive")?;
    loop {
        match run.tally.recv(&link.far, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("receive without waiting"),
        }
    }
}

pub(super) fn waitall(run: &mut Run) -> Result<()> {
    trickle(run, 1024 * 1024, 32 * 1024, RecvFlags::WAITALL)
}

pub(super) fn rcvlowat(run: &mut Run) -> Result<()> {
    trickle(run, 16 * 1024, 2 * 1024, RecvFlags::empty())
}

/// Sends 2 MiB per scale in `piece`s with pauses, received in calls of `whole`
/// with `flags`; without WAITALL, SO_RCVLOWAT makes a call wait for `whole`.
fn trickle(run: &mut Run, whole: usize, piece: usize, flags: RecvFlags) -> Result<()> {
    run.ready_alone()?;
    let wholes = if flags.contains(RecvFlags::WAITALL) {
        2
    } else {
        16
    } * run.scale;
    let link = Link::new()?;
    if !flags.contains(RecvFlags::WAITALL) {
        let low_water = whole as i32;
        sys::set_option(&link.far, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &low_water)
            .context("set SO_RCVLOWAT")?;
    }
    let tally = &run.tally;
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            for _ in 0..wholes * whole / piece {
                tally.send_all(&link.near, &vec![8; piece])?;
                sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let mut buffer = vec![0; whole];
        let mut received = Ok(());
        for _ in 0..wholes {
            received = tally
                .recv(&link.far, &mut buffer, flags)
                .context("receive")
                .and_then(|length| {
                    ensure!(length == whole, "a receive gave {length}, not {whole}");
                    Ok(())
                });
            if received.is_err() {
                break;
            }
        }
        received.and(join(vec![sender]))
    })?;
    run.audit.link(&link)
}
