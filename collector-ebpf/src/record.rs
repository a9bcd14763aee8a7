//! The tracepoint mode on a kernel without BTF: the same two tracepoints, by
//! the record that they write for any listener, which tells protocol, result
//! and flags. Nothing of the kernel's own structures can be read there, so
//! receives that bypass the receive call stay unseen.

use aya_ebpf::{EbpfContext as _, macros::tracepoint, programs::TracePointContext};

use crate::{
    account::{Watched, received, sent},
    tracepoint::{MSG_ERRQUEUE, MSG_PEEK},
};

const IPPROTO_TCP: u16 = 6;
const IPPROTO_MPTCP: u16 = 262;

/// The record of `sock:sock_send_length` and `sock:sock_recv_length`; the
/// collector compares it with the kernel's description before it attaches.
#[repr(C)]
struct Record {
    common: [u8; 8],
    sk: u64,
    family: u16,
    protocol: u16,
    ret: i32,
    flags: i32,
}

#[tracepoint(category = "sock", name = "sock_send_length")]
pub fn record_send(ctx: TracePointContext) -> u32 {
    if let Some(watched) = Watched::current_without_btf()
        && let Some((bytes, _)) = stream_bytes(&ctx)
    {
        sent(watched, || bytes);
    }
    0
}

#[tracepoint(category = "sock", name = "sock_recv_length")]
pub fn record_recv(ctx: TracePointContext) -> u32 {
    if let Some(watched) = Watched::current_without_btf()
        && let Some((bytes, flags)) = stream_bytes(&ctx)
        && flags & (MSG_PEEK | MSG_ERRQUEUE) == 0
    {
        received(watched, || bytes);
    }
    0
}

/// The bytes and flags of a call on a TCP socket that moved at least one byte.
#[inline(always)]
fn stream_bytes(ctx: &TracePointContext) -> Option<(u64, i32)> {
    // SAFETY: the context is the record; the verifier checks each field.
    let record = unsafe { &*ctx.as_ptr().cast_const().cast::<Record>() };
    let ours = matches!(record.protocol, IPPROTO_TCP | IPPROTO_MPTCP) && record.ret > 0;
    ours.then_some((record.ret as u64, record.flags))
}
