//! Sends without copying (MSG_ZEROCOPY) and receives without copying
//! (TCP_ZEROCOPY_RECEIVE).
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{RecvFlags, SendFlags};

use crate::driver::{Run, Unavailable};
use crate::link::{Link, LinkOptions, TIMEOUT};
use crate::sys::{self, Window};
use crate::tally::Tally;

const PAGE: usize = 4096;
/// The most whole pages that fit into one packet of loopback's 64 KiB.
const BLOCK: usize = 15 * PAGE;
/// Room for the timestamps of each segment, so that a segment holds one page.
const TIMESTAMPS: i32 = 12;
/// Small enough for the kernel to copy instead of mapping.
const MESSAGE: usize = 1000;

/// A page-aligned part of `memory`, which is a page longer.
fn aligned(memory: &[u8]) -> &[u8] {
    let offset = memory.as_ptr().align_offset(PAGE);
    &memory[offset..offset + memory.len() - PAGE]
}

fn allow_zerocopy(socket: &TcpStream) -> Result<()> {
    sys::set_option(socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, &1_i32)
        .map_err(|error| Unavailable(format!("cannot set SO_ZEROCOPY: {error}")))?;
    Ok(())
}

/// One MSG_ZEROCOPY send of all of `data`.
fn send_block(tally: &Tally, socket: &TcpStream, data: &[u8]) -> Result<()> {
    let zerocopy = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
    let sent = tally
        .send(socket, data, zerocopy)
        .context("send with MSG_ZEROCOPY")?;
    ensure!(
        sent == data.len(),
        "{sent} of {} bytes were sent",
        data.len()
    );
    Ok(())
}

/// Reads the error queue until it has told `sends` completions.
fn complete(socket: &TcpStream, sends: u32) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let mut completed = 0;
    while completed < sends {
        match sys::completed_zerocopy_sends(socket) {
            Ok(more) => completed += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ensure!(
                    Instant::now() < deadline,
                    "{completed} of {sends} zero-copy sends completed"
                );
                sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).context("read the error queue"),
        }
    }
    ensure!(
        completed == sends,
        "{completed} completions of {sends} sends"
    );
    Ok(())
}

pub(super) fn send(run: &mut Run) -> Result<()> {
    let link = Link::new()?;
    allow_zerocopy(&link.near)?;
    run.ready_alone()?;
    let memory = vec![1; BLOCK + PAGE];
    for _ in 0..8 * run.scale {
        for length in [BLOCK, 12_345] {
            send_block(&run.tally, &link.near, &aligned(&memory)[..length])?;
            run.tally.recv_exact(&link.far, length)?;
        }
        complete(&link.near, 2)?;
        run.tally.send_all(&link.near, &[2; 100])?;
        run.tally.recv_exact(&link.far, 100)?;
    }
    run.audit.link(&link)
}

pub(super) fn receive(run: &mut Run) -> Result<()> {
    let link = Link::with(LinkOptions {
        max_segment: Some(PAGE as i32 + TIMESTAMPS),
        ..LinkOptions::IPV4
    })?;
    let window = Window::new(&link.far, 2 * BLOCK)
        .map_err(|error| Unavailable(format!("cannot map a socket: {error}")))?;
    window
        .receive(&link.far, &mut [0; MESSAGE])
        .map_err(|error| Unavailable(format!("TCP_ZEROCOPY_RECEIVE fails: {error}")))?;
    allow_zerocopy(&link.near)?;
    run.ready_alone()?;
    let memory = vec![1; BLOCK + PAGE];
    let mut ways = Ways::default();
    for _ in 0..20 * run.scale {
        send_block(&run.tally, &link.near, aligned(&memory))?;
        take(run, &link, &window, BLOCK, &mut ways)?;
        complete(&link.near, 1)?;
        run.tally.send_all(&link.near, &[2; MESSAGE])?;
        take(run, &link, &window, MESSAGE, &mut ways)?;
    }
    run.note = Some(format!(
        "{} bytes were mapped, {} copied, {} left to ordinary receives",
        ways.mapped, ways.copied, ways.read
    ));
    ensure!(
        ways.mapped + ways.copied > 0,
        "TCP_ZEROCOPY_RECEIVE delivered nothing: all was left to ordinary receives"
    );
    run.audit.link(&link)
}

/// How the bytes came.
#[derive(Default)]
struct Ways {
    mapped: usize,
    copied: usize,
    read: usize,
}

/// Receives `length` bytes by TCP_ZEROCOPY_RECEIVE, and by an ordinary receive
/// where that asks for one.
fn take(run: &Run, link: &Link, window: &Window, length: usize, ways: &mut Ways) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let mut copy = [0; MESSAGE];
    let mut missing = length;
    while missing > 0 {
        let came = window
            .receive(&link.far, &mut copy)
            .context("TCP_ZEROCOPY_RECEIVE")?;
        run.tally.add_received(came.mapped + came.copied);
        ways.mapped += came.mapped;
        ways.copied += came.copied;
        missing -= came.mapped + came.copied;
        if came.to_read > 0 {
            let mut buffer = vec![0; came.to_read.min(missing)];
            let read = run
                .tally
                .recv(&link.far, &mut buffer, RecvFlags::DONTWAIT)
                .context("receive what cannot be mapped")?;
            ways.read += read;
            missing -= read;
        } else if came.mapped + came.copied == 0 {
            ensure!(Instant::now() < deadline, "{missing} bytes did not come");
            sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}
