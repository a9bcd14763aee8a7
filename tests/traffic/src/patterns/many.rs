//! Several buffers, or several messages, in one call.
#![forbid(unsafe_code)]

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;

use anyhow::{Context as _, Result, ensure};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

use crate::driver::Run;
use crate::link::Link;
use crate::sys;
use crate::tally::Tally;

pub(super) fn vectored(run: &mut Run) -> Result<()> {
    run.ready_alone()?;
    let link = Link::new()?;
    let (a, b, c) = ([1; 10], [2; 3000], [3; 7]);
    let (mut x, mut y) = ([0; 1000], [0; 4000]);
    for _ in 0..200 * run.scale {
        let sent = (&link.near)
            .write_vectored(&[
                IoSlice::new(&a),
                IoSlice::new(&[]),
                IoSlice::new(&b),
                IoSlice::new(&c),
            ])
            .context("writev")?;
        run.tally.add_sent(sent);
        let received = (&link.far)
            .read_vectored(&mut [IoSliceMut::new(&mut x), IoSliceMut::new(&mut y)])
            .context("readv")?;
        run.tally.add_received(received);
        run.tally.recv_exact(&link.far, sent - received)?;
    }
    run.audit.link(&link)
}

pub(super) fn mmsg(run: &mut Run) -> Result<()> {
    const MESSAGES: usize = 8;
    run.ready_alone()?;
    let link = Link::new()?;
    let mut most = 0;
    for _ in 0..100 * run.scale {
        let sent = send_many(&run.tally, &link)?;
        let mut missing = sent;
        while missing > 0 {
            // Smaller than what waits, so that one call gives several messages.
            let mut buffers = vec![vec![0; 500]; MESSAGES];
            let lengths = sys::receive_many(&link.far, &mut buffers).context("recvmmsg")?;
            most = most.max(lengths.len());
            let received = lengths.iter().sum();
            run.tally.add_received(received);
            ensure!(
                (1..=missing).contains(&received),
                "recvmmsg gave {received} of {missing} bytes"
            );
            missing -= received;
        }
    }
    ensure!(most > 1, "no recvmmsg gave more than one message");
    run.audit.link(&link)
}

/// One sendmmsg of three messages; returns the bytes that were accepted.
fn send_many(tally: &Tally, link: &Link) -> Result<usize> {
    let data = [[1; 100].as_slice(), &[2; 2000], &[3; 1]];
    let slices = data.map(|data| [IoSlice::new(data)]);
    let mut none: [[MaybeUninit<u8>; 0]; 3] = [[]; 3];
    let [n0, n1, n2] = &mut none;
    let mut controls = [n0, n1, n2].map(|none| SendAncillaryBuffer::new(none));
    let mut messages: Vec<MMsgHdr<'_>> = slices
        .iter()
        .zip(&mut controls)
        .map(|(slice, control)| MMsgHdr::new(slice, control))
        .collect();
    let count = sendmmsg(&link.near, &mut messages, SendFlags::empty()).context("sendmmsg")?;
    let sent = messages[..count].iter().map(MMsgHdr::bytes_sent).sum();
    tally.add_sent(sent);
    Ok(sent)
}
