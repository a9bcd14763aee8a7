//! Sockets shared by two processes: who calls, pays.
//!
//! The child is forked before "ready" and does as it is told over a Unix socket,
//! so that the order of calls on the shared connection is fixed. It ends when
//! that socket closes, which is when the parent exits.
#![forbid(unsafe_code)]

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process;

use anyhow::{Context as _, Result};
use rustix::net::RecvFlags;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::driver::Run;
use crate::link::{Link, TIMEOUT};
use crate::protocol::Bytes;
use crate::sys::{self, Birth};
use crate::tally::Tally;

/// What the child does when told so.
#[derive(Clone, Copy, Debug)]
enum Order {
    SendNear,
    SendFar,
    ReceiveNear,
    ReceiveFar,
    PeekFar,
    /// Answer with the bytes so far.
    Report,
}

impl Order {
    const ALL: [Self; 6] = [
        Self::SendNear,
        Self::SendFar,
        Self::ReceiveNear,
        Self::ReceiveFar,
        Self::PeekFar,
        Self::Report,
    ];

    fn carry_out(self, tally: &Tally, link: &Link, length: usize) -> Result<()> {
        match self {
            Self::SendNear => tally.send_all(&link.near, &vec![1; length]),
            Self::SendFar => tally.send_all(&link.far, &vec![2; length]),
            Self::ReceiveNear => tally.recv_exact(&link.near, length),
            Self::ReceiveFar => tally.recv_exact(&link.far, length),
            Self::PeekFar => {
                tally.recv(&link.far, &mut vec![0; length], RecvFlags::PEEK)?;
                Ok(())
            }
            Self::Report => Ok(()),
        }
    }
}

/// The parent's side of a forked process; dropping it ends the child.
pub(crate) struct Child {
    pid: u32,
    control: Option<UnixStream>,
}

impl Child {
    /// Forks. The child never returns from here.
    fn fork(link: &Link) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("make a control socket")?;
        match sys::fork(Birth::Child).context("fork")? {
            None => {
                drop(ours);
                let done = obey(&theirs, link);
                if let Err(error) = &done {
                    eprintln!("netio-traffic: the child failed: {error:#}");
                }
                process::exit(i32::from(done.is_err()))
            }
            Some(pid) => {
                drop(theirs);
                ours.set_read_timeout(Some(TIMEOUT))?;
                Ok(Self {
                    pid,
                    control: Some(ours),
                })
            }
        }
    }

    /// Has the child do something, and waits until it is done.
    fn order(&self, order: Order, length: usize) -> Result<Bytes> {
        let mut control = self.control.as_ref().context("the child has ended")?;
        let mut message = [0; 9];
        message[0] = order as u8;
        message[1..].copy_from_slice(&(length as u64).to_ne_bytes());
        control.write_all(&message)?;
        let mut answer = [[0; 8]; 2];
        control
            .read_exact(answer.as_flattened_mut())
            .with_context(|| format!("the child did not carry out {order:?}"))?;
        Ok(Bytes {
            sent: u64::from_ne_bytes(answer[0]),
            received: u64::from_ne_bytes(answer[1]),
        })
    }

    /// What the child has sent and received.
    pub(crate) fn report(&self) -> Result<Bytes> {
        self.order(Order::Report, 0)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.control = None;
        if let Some(pid) = Pid::from_raw(self.pid as i32)
            && let Err(error) = waitpid(Some(pid), WaitOptions::empty())
        {
            eprintln!("netio-traffic: cannot wait for the child: {error}");
        }
    }
}

/// The child's life: carries out orders, and answers each with its bytes so far,
/// until the parent closes the control socket.
fn obey(mut control: &UnixStream, link: &Link) -> Result<()> {
    let tally = Tally::default();
    let mut message = [0; 9];
    loop {
        match control.read_exact(&mut message) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read.context("read an order")?,
        }
        let [order, length @ ..] = message;
        let order = Order::ALL
            .get(usize::from(order))
            .with_context(|| format!("there is no order {order}"))?;
        order.carry_out(&tally, link, u64::from_ne_bytes(length) as usize)?;
        let bytes = tally.bytes();
        control
            .write_all([bytes.sent.to_ne_bytes(), bytes.received.to_ne_bytes()].as_flattened())?;
    }
}

pub(super) fn inherited(run: &mut Run) -> Result<()> {
    share(run, true)
}

pub(super) fn inherited_unwatched(run: &mut Run) -> Result<()> {
    share(run, false)
}

fn share(run: &mut Run, watch_parent: bool) -> Result<()> {
    let link = Link::new()?;
    for socket in [&link.near, &link.far] {
        // Small sends in a row would wait for delayed acknowledgements.
        socket.set_nodelay(true).context("set TCP_NODELAY")?;
    }
    run.before.send_all(&link.near, &[1; 1000])?;
    run.before.recv_exact(&link.far, 1000)?;
    run.before.send_all(&link.far, &[1; 500])?;
    run.before.recv_exact(&link.near, 500)?;
    let child = Child::fork(&link)?;
    if watch_parent {
        run.ready(&[process::id(), child.pid])?;
    } else {
        run.ready(&[child.pid])?;
    }
    for _ in 0..50 * run.scale {
        take_turns(&run.tally, &link, &child)?;
    }
    run.child = Some(child);
    run.audit.link(&link)
}

/// Both processes send and receive on both ends; every byte is read by one.
fn take_turns(own: &Tally, link: &Link, child: &Child) -> Result<()> {
    own.send_all(&link.near, &[1; 3000])?;
    child.order(Order::SendNear, 2000)?;
    child.order(Order::ReceiveFar, 500)?;
    own.recv_exact(&link.far, 1000)?;
    child.order(Order::PeekFar, 800)?;
    own.recv_exact(&link.far, 2000)?;
    child.order(Order::ReceiveFar, 1500)?;

    child.order(Order::SendFar, 700)?;
    own.send_all(&link.far, &[2; 11])?;
    own.recv_exact(&link.near, 600)?;
    child.order(Order::ReceiveNear, 111)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_found_by_its_number() {
        for (number, order) in Order::ALL.into_iter().enumerate() {
            assert_eq!(order as usize, number, "{order:?}");
        }
    }
}
