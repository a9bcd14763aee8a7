//! The tracepoint mode: what the socket layer's send and receive functions
//! return, by `sock:sock_send_length` and `sock:sock_recv_length` (Linux 6.3).
//!
//! They fire for every send and receive call on every socket, io_uring's and
//! sendfile's (6.5) included, after the call and with its result. Not for
//! receives that bypass the receive call, splice first of all: those are the
//! business of [`crate::fexit`] where it loads, else of
//! [`crate::receive_queue`].

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    account::{Watched, received, sent},
    sock::{Btf, is_stream},
};

pub(crate) const MSG_PEEK: i32 = 0x2;
pub(crate) const MSG_ERRQUEUE: i32 = 0x2000;

/// `sock_send_length(sk, ret, flags)`
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_send(ctx: BtfTracePointContext) -> i32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    if ctx.arg::<i32>(1) > 0 && is_stream(Btf(ctx.arg(0))) {
        sent(watched, || result(&ctx));
    }
    0
}

/// `sock_recv_length(sk, ret, flags)`
#[btf_tracepoint(function = "sock_recv_length")]
pub fn sock_recv(ctx: BtfTracePointContext) -> i32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let flags: i32 = ctx.arg(2);
    if ctx.arg::<i32>(1) > 0 && flags & (MSG_PEEK | MSG_ERRQUEUE) == 0 && is_stream(Btf(ctx.arg(0)))
    {
        received(watched, || result(&ctx));
    }
    0
}

/// The result of the call, which is positive. The kernel widens it from its 32 bits
/// by zeros (`CAST_TO_U64` in `include/trace/bpf_probe.h`).
#[inline(always)]
fn result(ctx: &BtfTracePointContext) -> u64 {
    ctx.arg(1)
}
