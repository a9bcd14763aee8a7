//! Kernel TLS: the process sends and receives plaintext, the socket ciphertext.
#![forbid(unsafe_code)]

use std::ffi::c_int;
use std::net::TcpStream;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::net::RecvFlags;

use super::plain::join;
use super::{exchange, splicing};
use crate::driver::{Run, Unavailable};
use crate::link::Link;
use crate::sys;
use crate::tally::{Pipe, end};

/// TLS 1.2 on the wire.
const VERSION: u16 = 0x0303;

/// Not a whole number of records, which are at most 16 KiB.
const BULK: usize = 300_001;

/// Keys of the two directions. No handshake is needed to agree on them, and
/// nothing secret travels.
fn keys(direction: u8) -> libc::tls12_crypto_info_aes_gcm_128 {
    libc::tls12_crypto_info_aes_gcm_128 {
        info: libc::tls_crypto_info {
            version: VERSION,
            cipher_type: libc::TLS_CIPHER_AES_GCM_128,
        },
        iv: [direction; 8],
        key: [direction; 16],
        salt: [direction; 4],
        rec_seq: [0; 8],
    }
}

fn set_keys(socket: &TcpStream, name: c_int, direction: u8) -> Result<()> {
    sys::set_option(socket, libc::SOL_TLS, name, &keys(direction))
        .map_err(|error| Unavailable(format!("cannot give keys to the kernel's TLS: {error}")))?;
    Ok(())
}

/// A link whose ends both encrypt and decrypt.
fn tls_link() -> Result<Link> {
    let link = one_way_link()?;
    set_keys(&link.far, libc::TLS_TX, 2)?;
    set_keys(&link.near, libc::TLS_RX, 2)?;
    Ok(link)
}

/// A link whose near end encrypts and whose far end decrypts; the other way it
/// is plain. Nothing was sent over it yet.
fn one_way_link() -> Result<Link> {
    let link = Link::new()?;
    for socket in [&link.near, &link.far] {
        sys::set_option(socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls").map_err(|error| {
            Unavailable(format!(
                "cannot set TCP_ULP to \"tls\" (is the module tls loaded?): {error}"
            ))
        })?;
    }
    set_keys(&link.near, libc::TLS_TX, 1)?;
    set_keys(&link.far, libc::TLS_RX, 1)?;
    Ok(link)
}

pub(super) fn ktls(run: &mut Run) -> Result<()> {
    let link = tls_link()?;
    run.ready_alone()?;
    let tally = &run.tally;
    exchange(tally, &link, 5 * run.scale)?;
    let mut buffer = [0; 1000];
    for _ in 0..10 * run.scale {
        tally.send_all(&link.near, &[1; 1000])?;
        let peeked = tally
            .recv(&link.far, &mut buffer, RecvFlags::PEEK)
            .context("peek")?;
        ensure!(peeked > 0, "there was nothing to peek at");
        tally.recv_exact(&link.far, 1000)?;
    }
    let file = splicing::file(BULK)?;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| tally.recv_exact(&link.far, 2 * BULK));
        let sent = tally
            .send_all(&link.near, &vec![3; BULK])
            .and_then(|()| splicing::send_file(tally, &link.near, &file, BULK));
        sent.and(join(vec![receiver]))
    })
}

/// All that one end receives, it splices; the other direction stays ordinary.
pub(super) fn splice(run: &mut Run) -> Result<()> {
    let link = tls_link()?;
    run.ready_alone()?;
    let tally = &run.tally;
    let pipe = Pipe::new()?;
    tally.send_all(&link.far, &[1; 2000])?;
    tally.recv_exact(&link.near, 2000)?;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| tally.splice_to_end(&link.far, &pipe));
        let sent = tally
            .send_all(&link.near, &vec![3; BULK * run.scale])
            .and_then(|()| end(&link.near));
        sent.and(join(vec![receiver]))
    })
}

/// What one end sends is encrypted; what it receives is plain, and partly spliced.
pub(super) fn one_way(run: &mut Run) -> Result<()> {
    let link = one_way_link()?;
    run.ready_alone()?;
    let tally = &run.tally;
    exchange(tally, &link, 5 * run.scale)?;
    let pipe = Pipe::new()?;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| tally.splice_to_end(&link.near, &pipe));
        let sent = tally
            .send_all(&link.far, &vec![3; BULK * run.scale])
            .and_then(|()| end(&link.far));
        sent.and(join(vec![receiver]))
    })
}
