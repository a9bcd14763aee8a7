//! The tracepoint mode: what the socket layer's send and receive functions
//! return, by `sock:sock_send_length` and `sock:sock_recv_length` (Linux 6.3).
//!
//! They fire for every send and receive call on every socket, io_uring's and
//! sendfile's (6.5) included, after the call and with its result. Not for
//! receives that bypass the receive call, splice first of all: those are the
//! business of [`crate::fexit`] where it loads, else of
//! [`crate::receive_queue`].

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use netio_abi::NO_SLOT;

use crate::{
    account::{received, sent, watched_slot},
    sock::{Btf, is_stream},
};

pub(crate) const MSG_PEEK: i32 = 0x2;
pub(crate) const MSG_ERRQUEUE: i32 = 0x2000;

/// `sock_send_length(sk, ret, flags)`
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send(ctx: BtfTracePointContext) -> i32 {
    let slot = watched_slot();
    if slot == NO_SLOT {
        return 0;
    }
    let ret: i32 = ctx.arg(1);
    if ret > 0 && is_stream(Btf(ctx.arg(0))) {
        sent(slot, u64::from(ret as u32));
    }
    0
}

/// `sock_recv_length(sk, ret, flags)`
#[btf_tracepoint(function = "sock_recv_length")]
pub fn sock_recv(ctx: BtfTracePointContext) -> i32 {
    let slot = watched_slot();
    if slot == NO_SLOT {
        return 0;
    }
    let ret: i32 = ctx.arg(1);
    let flags: i32 = ctx.arg(2);
    if ret > 0 && flags & (MSG_PEEK | MSG_ERRQUEUE) == 0 && is_stream(Btf(ctx.arg(0))) {
        received(slot, u64::from(ret as u32));
    }
    0
}
