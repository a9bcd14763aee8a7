//! Sends and receives through io_uring, in each way that the kernel may carry
//! one out: inside the submitting call, when data arrives, by a worker thread,
//! by a polling thread, and as a zero-copy send.
#![allow(unsafe_code)] // Submission hands the kernel raw pointers to buffers.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;
use io_uring::{IoUring, Probe, cqueue, opcode};

use crate::driver::{Run, Unavailable};
use crate::link::Link;
use crate::tally::Tally;

/// The length of each send.
const LENGTH: usize = 12_000;
/// Milliseconds for which the polling thread goes on looking.
const POLL: u32 = 100;

/// A ring and the buffers that its operations use. These live as long as the
/// process, so that no operation outlives its buffer, whatever fails.
struct Ring {
    ring: IoUring,
    output: &'static [u8],
    input: &'static mut [u8],
}

impl Ring {
    fn new(ring: IoUring) -> Self {
        Self {
            ring,
            output: vec![1; LENGTH].leak(),
            input: vec![0; LENGTH].leak(),
        }
    }

    fn send(&self, socket: &TcpStream, zerocopy: bool) -> Entry {
        let (fd, data) = (Fd(socket.as_raw_fd()), self.output.as_ptr());
        if zerocopy {
            opcode::SendZc::new(fd, data, LENGTH as u32).build()
        } else {
            opcode::Send::new(fd, data, LENGTH as u32).build()
        }
    }

    fn receive(&mut self, socket: &TcpStream) -> Entry {
        opcode::Recv::new(
            Fd(socket.as_raw_fd()),
            self.input.as_mut_ptr(),
            LENGTH as u32,
        )
        .build()
    }

    fn submit(&mut self, entry: &Entry) -> Result<()> {
        // SAFETY: entries are made by `send` and `receive` alone; their buffers
        // live as long as the process, and one receive is in flight at a time.
        unsafe { self.ring.submission().push(entry) }.context("the submission queue is full")?;
        self.ring.submit().context("submit")?;
        Ok(())
    }

    /// Waits for a completion.
    fn next(&mut self) -> Result<cqueue::Entry> {
        loop {
            if let Some(entry) = self.ring.completion().next() {
                return Ok(entry);
            }
            self.ring
                .submit_and_wait(1)
                .context("wait for a completion")?;
        }
    }

    /// Moves `LENGTH` bytes from one end of the link to the other.
    fn pass(&mut self, tally: &Tally, link: &Link, how: How) -> Result<()> {
        let flags = if how.by_worker {
            Flags::ASYNC
        } else {
            Flags::empty()
        };
        let send = self.send(&link.near, how.zerocopy);
        let send = send.flags(flags).user_data(SEND);
        let receive = self.receive(&link.far);
        let receive = receive.flags(flags).user_data(RECEIVE);
        let both = if how.receive_first {
            [&receive, &send]
        } else {
            [&send, &receive]
        };
        both.into_iter().try_for_each(|entry| self.submit(entry))?;
        let (mut in_flight, mut sent, mut received) = (both.len(), 0, 0);
        while in_flight > 0 {
            let entry = self.next()?;
            in_flight -= usize::from(!cqueue::more(entry.flags()));
            if cqueue::notif(entry.flags()) {
                continue; // A zero-copy send has let go of its buffer.
            }
            let bytes = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(-entry.result()))
                .context("an operation failed")?;
            ensure!(bytes > 0, "an operation moved nothing");
            if entry.user_data() == SEND {
                tally.add_sent(bytes);
                sent += bytes;
            } else {
                tally.add_received(bytes);
                received += bytes;
                if received < LENGTH {
                    self.submit(&receive)?;
                    in_flight += 1;
                }
            }
        }
        ensure!(
            sent == LENGTH && received == LENGTH,
            "{sent} bytes were sent and {received} received of {LENGTH}"
        );
        Ok(())
    }
}

/// How the kernel is to carry out the operations.
#[derive(Clone, Copy, Default)]
struct How {
    /// The receive waits for data: it is finished when that arrives.
    receive_first: bool,
    /// By a worker thread instead of the submitting one.
    by_worker: bool,
    /// By IORING_OP_SEND_ZC.
    zerocopy: bool,
}

/// Tags of operations.
const SEND: u64 = 1;
const RECEIVE: u64 = 2;

pub(super) fn send_and_receive(run: &mut Run) -> Result<()> {
    let ring =
        IoUring::new(8).map_err(|error| Unavailable(format!("io_uring_setup fails: {error}")))?;
    run.ready_alone()?;
    let zerocopy = supports_zerocopy(&ring)?;
    let mut ring = Ring::new(ring);
    // A polling thread is made for its ring when that is made.
    let polled = IoUring::builder().setup_sqpoll(POLL).build(8);
    let mut polled = Ring::new(polled.context("make a ring with a polling thread")?);
    let link = Link::new()?;
    for round in 0..20 * run.scale {
        let how = How {
            receive_first: round % 2 == 1,
            ..How::default()
        };
        let worker = How {
            by_worker: true,
            ..how
        };
        ring.pass(&run.tally, &link, how)?;
        ring.pass(&run.tally, &link, worker)?;
        polled.pass(&run.tally, &link, how)?;
        if zerocopy {
            let zerocopy = How { zerocopy, ..how };
            ring.pass(&run.tally, &link, zerocopy)?;
        }
    }
    if !zerocopy {
        run.note = Some("this kernel has no zero-copy send in io_uring".to_owned());
    }
    run.audit.link(&link)
}

fn supports_zerocopy(ring: &IoUring) -> Result<bool> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .context("ask io_uring what it can do")?;
    Ok(probe.is_supported(opcode::SendZc::CODE))
}
