//! Looking at data without taking it, taking it without looking, and sockets
//! that were in use before the watch.
#![forbid(unsafe_code)]

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::net::sockopt::{set_socket_oobinline, set_tcp_quickack};
use rustix::net::{RecvFlags, SendFlags};

use crate::audit::Left;
use crate::driver::Run;
use crate::link::Link;
use crate::tally::{Pipe, Tally, end};

/// Peeks `times` times, a different length each time.
fn peek_at(tally: &Tally, link: &Link, times: usize) -> Result<()> {
    let mut buffer = [0; 4096];
    for time in 1..=times {
        let peeked = tally
            .recv(&link.far, &mut buffer[..time * 700], RecvFlags::PEEK)
            .context("peek")?;
        ensure!(peeked > 0, "there was nothing to peek at");
    }
    Ok(())
}

pub(super) fn peek(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let link = Link::new()?;
    for _ in 0..100 * run.scale {
        run.tally.send_all(&link.near, &[1; 3000])?;
        peek_at(&run.tally, &link, 5)?;
        // A part, a look at the rest, the rest.
        run.tally.recv_exact(&link.far, 1000)?;
        peek_at(&run.tally, &link, 2)?;
        run.tally.recv_exact(&link.far, 2000)?;
    }
    run.audit.link(&link)
}

/// Sets TCP_QUICKACK while an acknowledgement is owed, so that it is sent now.
fn acknowledge_now(link: &Link) -> Result<()> {
    // Off first: that is the mode in which acknowledgements are delayed.
    set_tcp_quickack(&link.far, false).context("clear TCP_QUICKACK")?;
    set_tcp_quickack(&link.far, true).context("set TCP_QUICKACK")
}

pub(super) fn quickack(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let link = Link::new()?;
    for _ in 0..100 * run.scale {
        set_tcp_quickack(&link.far, false).context("clear TCP_QUICKACK")?;
        run.tally.send_all(&link.near, &[1; 300])?;
        acknowledge_now(&link)?;
        run.tally.recv_exact(&link.far, 100)?;
        acknowledge_now(&link)?;
        run.tally.recv_exact(&link.far, 200)?;
        acknowledge_now(&link)?;
        // A reply makes the connection interactive, which delays them again.
        run.tally.send_all(&link.far, &[1; 10])?;
        run.tally.recv_exact(&link.near, 10)?;
    }
    run.audit.link(&link)
}

pub(super) fn truncate(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let link = Link::new()?;
    let mut buffer = [0; 4000];
    for _ in 0..100 * run.scale {
        run.tally.send_all(&link.near, &[1; 6000])?;
        run.tally.recv_exact(&link.far, 500)?;
        let mut missing = 5500;
        while missing > 0 {
            let ask = missing.min(buffer.len());
            let discarded = run
                .tally
                .recv(&link.far, &mut buffer[..ask], RecvFlags::TRUNC)
                .context("receive with MSG_TRUNC")?;
            ensure!(
                (1..=ask).contains(&discarded),
                "asked to discard {ask}, discarded {discarded}"
            );
            missing -= discarded;
        }
    }
    ensure!(
        buffer == [0; 4000],
        "MSG_TRUNC delivered data instead of discarding it"
    );
    run.audit.link(&link)
}

pub(super) fn urgent(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let link = Link::new()?;
    let tally = &run.tally;
    for _ in 0..30 * run.scale {
        urgent_around(tally, &link)?;
        let mut byte = [0];
        for flags in [RecvFlags::OOB | RecvFlags::PEEK, RecvFlags::OOB] {
            let length = tally
                .recv(&link.far, &mut byte, flags)
                .context("receive the urgent byte")?;
            ensure!(length == 1 && byte == [9], "the urgent byte did not come");
        }
        tally.recv_exact(&link.far, 800)?;
    }
    set_socket_oobinline(&link.far, true).context("set SO_OOBINLINE")?;
    for _ in 0..30 * run.scale {
        urgent_around(tally, &link)?;
        tally.recv_exact(&link.far, 801)?;
    }
    run.audit.link(&link)
}

pub(super) fn urgent_unread(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let link = Link::new()?;
    let rounds = 30 * run.scale;
    for _ in 0..rounds {
        urgent_around(&run.tally, &link)?;
        run.tally.recv_exact(&link.far, 800)?;
    }
    run.audit.socket(&link.near, Left::default())?;
    let left = Left {
        fin: false,
        unread: rounds as u64,
    };
    run.audit.socket(&link.far, left)
}

/// 500 plain bytes, an urgent one, 300 plain bytes.
fn urgent_around(tally: &Tally, link: &Link) -> Result<()> {
    tally.send_all(&link.near, &[1; 500])?;
    let sent = tally
        .send(&link.near, &[9], SendFlags::OOB)
        .context("send with MSG_OOB")?;
    ensure!(sent == 1, "the urgent byte was not sent");
    tally.send_all(&link.near, &[2; 300])
}

/// What waits, unread, in each connection when the watch begins.
const UNREAD: usize = 2500;

/// A connection that both ends have used, with [`UNREAD`] bytes waiting that
/// have been peeked at.
fn used_link(before: &Tally) -> Result<Link> {
    let link = Link::new()?;
    before.send_all(&link.near, &[1; 4000])?;
    before.recv_exact(&link.far, 4000)?;
    before.send_all(&link.far, &[1; 700])?;
    before.recv_exact(&link.near, 700)?;
    before.send_all(&link.near, &[1; UNREAD])?;
    peek_at(before, &link, 3)?;
    Ok(link)
}

pub(super) fn opened_before(run: &mut Run) -> Result<()> {
    let links = (0..5)
        .map(|_| used_link(&run.before))
        .collect::<Result<Vec<_>>>()?;
    let [peeked, acknowledged, sent, received, spliced] = links.as_slice() else {
        anyhow::bail!("five links were made, {} came", links.len());
    };
    run.ready_alone()?;
    let tally = &run.tally;
    // Each connection's first event after the watch is another one.
    peek_at(tally, peeked, 3)?;
    acknowledge_now(acknowledged)?;
    tally.send_all(&sent.far, &[3; 50])?;
    tally.recv_exact(&received.far, 1)?;
    let pipe = Pipe::new()?;
    end(&spliced.near)?;
    tally.splice_to_end(&spliced.far, &pipe)?;
    run.audit.socket(&spliced.near, Left::default())?;
    run.audit.socket(&spliced.far, Left::FIN)?;

    acknowledge_now(peeked)?;
    peek_at(tally, acknowledged, 2)?;
    tally.recv_exact(&peeked.far, UNREAD)?;
    tally.recv_exact(&acknowledged.far, UNREAD)?;
    tally.recv_exact(&sent.far, UNREAD)?;
    tally.recv_exact(&sent.near, 50)?;
    tally.recv_exact(&received.far, UNREAD - 1)?;
    for round in 0..20 * run.scale {
        let length = 1 + (round * 997) % 5000;
        for link in [peeked, acknowledged, sent, received] {
            tally.send_all(&link.near, &[4; 5000][..length])?;
            peek_at(tally, link, 1)?;
            tally.recv_exact(&link.far, length)?;
        }
        sleep(Duration::from_millis(1));
    }
    [peeked, acknowledged, sent, received]
        .into_iter()
        .try_for_each(|link| run.audit.link(link))
}
