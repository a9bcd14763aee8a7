//! Data that moves between a socket and a file or pipe inside the kernel.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::MemfdFlags;
use rustix::pipe::SpliceFlags;

use super::plain::join;
use crate::audit::Left;
use crate::driver::Run;
use crate::link::{self, Link, LinkOptions};
use crate::tally::{Pipe, Tally, end};

/// Connections in the accept queue at once; it has room for 16.
const QUEUED: usize = 4;

/// A file in memory with `length` bytes.
pub(super) fn file(length: usize) -> Result<File> {
    let file = rustix::fs::memfd_create("netio-traffic", MemfdFlags::CLOEXEC)
        .context("make a file in memory")?;
    let mut file = File::from(file);
    file.write_all(&vec![5; length]).context("fill the file")?;
    Ok(file)
}

/// Sends all of `file`, from its beginning, by sendfile.
pub(super) fn send_file(
    tally: &Tally,
    socket: &std::net::TcpStream,
    file: &File,
    length: usize,
) -> Result<()> {
    let mut offset = 0;
    while offset < length as u64 {
        let sent =
            rustix::fs::sendfile(socket, file, Some(&mut offset), length).context("sendfile")?;
        ensure!(sent > 0, "sendfile stopped at {offset} of {length}");
        tally.add_sent(sent);
    }
    Ok(())
}

pub(super) fn sendfile(run: &mut Run) -> Result<()> {
    // Not a whole number of pages, and more than fits into a socket's buffer.
    const LENGTH: usize = 1_000_001;
    run.ready_alone()?;
    let file = file(LENGTH)?;
    let (tally, rounds) = (&run.tally, 3 * run.scale);
    let link = Link::new()?;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| tally.recv_exact(&link.far, LENGTH * rounds));
        let sent = (0..rounds).try_for_each(|_| send_file(tally, &link.near, &file, LENGTH));
        sent.and(join(vec![receiver]))
    })?;
    run.audit.link(&link)
}

pub(super) fn splice_out(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let link = Link::new()?;
    let pipe = Pipe::new()?;
    let data = [6; 16 * 1024];
    for round in 0..100 * run.scale {
        let length = 1 + (round * 997) % data.len();
        let mut rest =
            rustix::io::write(&pipe.writer, &data[..length]).context("write to the pipe")?;
        // A half that announces more, then all that is left.
        for (part, flags) in [
            (rest.div_ceil(2), SpliceFlags::MORE),
            (rest, SpliceFlags::empty()),
        ] {
            let part = part.min(rest);
            if part == 0 {
                break;
            }
            let sent = rustix::pipe::splice(&pipe.reader, None, &link.near, None, part, flags)
                .context("splice to a socket")?;
            run.tally.add_sent(sent);
            rest -= sent;
        }
        ensure!(rest == 0, "{rest} of {length} bytes were not spliced");
        run.tally.recv_exact(&link.far, length)?;
    }
    run.audit.link(&link)
}

pub(super) fn splice_in(run: &mut Run) -> Result<()> {
    const PAIRS: usize = 4;
    let before = &run.before;
    let old = (0..2 * PAIRS)
        .map(|_| {
            let link = Link::new()?;
            before.send_all(&link.near, &[1; 3000])?;
            before.recv_exact(&link.far, 3000)?;
            before.send_all(&link.far, &[1; 10])?;
            before.recv_exact(&link.near, 10)?;
            Ok(link)
        })
        .collect::<Result<Vec<_>>>()?;
    run.ready_alone()?;
    let new = (0..2 * PAIRS)
        .map(|_| Link::new())
        .collect::<Result<Vec<_>>>()?;
    let (tally, rounds) = (&run.tally, run.scale);
    for links in [&old, &new] {
        let (by_one, by_many) = links.split_at(PAIRS);
        for (number, link) in by_one.iter().enumerate() {
            both_ways(tally, link, number, rounds)?;
        }
        thread::scope(|scope| {
            let threads = by_many.iter().enumerate();
            join(
                threads
                    .map(|(number, link)| {
                        scope.spawn(move || both_ways(tally, link, number, rounds))
                    })
                    .collect(),
            )
        })?;
        for link in links {
            run.audit.socket(&link.near, Left::FIN)?;
            run.audit.socket(&link.far, Left::FIN)?;
        }
    }
    Ok(())
}

/// The connection waits to be accepted, with data, when the watch begins.
pub(super) fn splice_queued(run: &mut Run) -> Result<()> {
    let listener = link::listener(LinkOptions::IPV4)?;
    let near = (0..QUEUED)
        .map(|_| {
            let near = link::connected(LinkOptions::IPV4, &listener)?;
            run.before.send_all(&near, &[8; 3000])?;
            Ok(near)
        })
        .collect::<Result<Vec<_>>>()?;
    run.ready_alone()?;
    let pipe = Pipe::new()?;
    for near in near {
        let far = link::accepted(&listener)?;
        let first = run.tally.splice_in(&far, &pipe, 3000, SpliceFlags::empty());
        ensure!(
            first.context("splice from a socket")? > 0,
            "splice from a socket moved nothing"
        );
        run.tally.send_all(&near, &vec![8; 5000])?;
        end(&near)?;
        run.tally.splice_to_end(&far, &pipe)?;
        run.audit.socket(&near, Left::default())?;
        run.audit.socket(&far, Left::FIN)?;
    }
    Ok(())
}

/// Each end splices what the other sends, up to and with the FIN. The number
/// decides which end goes first and whether the FIN comes with data or alone.
fn both_ways(tally: &Tally, link: &Link, number: usize, rounds: usize) -> Result<()> {
    let pipe = Pipe::new()?;
    let (first, second) = if number.is_multiple_of(2) {
        (&link.near, &link.far)
    } else {
        (&link.far, &link.near)
    };
    for (sender, receiver) in [(first, second), (second, first)] {
        tally.send_all(sender, &[7; 2000])?;
        // Receives and splices in turn on one connection.
        tally.recv_exact(receiver, 500)?;
        let spliced = tally
            .splice_in(receiver, &pipe, 700, SpliceFlags::empty())
            .context("splice from a socket")?;
        ensure!(spliced > 0, "splice from a socket moved nothing");
        tally.recv_exact(receiver, 2000 - 500 - spliced)?;
        nothing_waits(tally, receiver, &pipe)?;
        thread::scope(|scope| {
            let sender = scope.spawn(move || -> Result<()> {
                for round in 0..8 * rounds {
                    tally.send_all(sender, &[7; 16 * 1024][..15_000 + round % 1000])?;
                }
                if (number / 2).is_multiple_of(2) {
                    sleep(Duration::from_millis(20));
                }
                end(sender)
            });
            let received = tally.splice_to_end(receiver, &pipe);
            received.and(join(vec![sender]))
        })?;
    }
    Ok(())
}

/// A splice that does not wait finds nothing.
fn nothing_waits(tally: &Tally, receiver: &std::net::TcpStream, pipe: &Pipe) -> Result<()> {
    // The socket decides whether it waits, not SPLICE_F_NONBLOCK alone.
    receiver.set_nonblocking(true)?;
    let spliced = tally.splice_in(receiver, pipe, 700, SpliceFlags::NONBLOCK);
    receiver.set_nonblocking(false)?;
    ensure!(
        spliced
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::WouldBlock),
        "a splice from an empty socket gave {spliced:?}"
    );
    Ok(())
}
