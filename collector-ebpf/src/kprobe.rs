//! The kprobe mode: the tutorial's own hooks, corrected.
//!
//! - Sends: what `tcp_sendmsg` and, before 6.5, `tcp_sendpage` return, and what
//!   Multipath TCP's and kernel TLS's twins of them return, where present.
//! - Receives: `tcp_cleanup_rbuf(sk, copied)` is called again and again within
//!   one receive, each time with all that was copied so far, after a peek, and
//!   with a made-up byte for QUICKACK. So it only tells that something may have
//!   been read; what is counted is the advance of the read position.
//!
//! A kretprobe on `tcp_recvmsg` would run out of return slots as soon as many
//! threads wait for data, on any process's behalf, so there is none. Multipath
//! TCP and kernel TLS have no such counter as the read position; their receive
//! functions, which plain connections never call, are hooked at entry (for the
//! flags) and at return.

use aya_ebpf::{
    bindings::BPF_ANY,
    btf_maps::HashMap,
    helpers::bpf_get_current_pid_tgid,
    macros::{btf_map, kprobe, kretprobe, raw_tracepoint},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};

use crate::{
    account::{Watched, received, sent, sockets_full, widened},
    receive_queue::{POSITIONS, TCP_SYN_SENT},
    sock::{Raw, consumed, is_owned, position, reads_plainly, urgent_between},
    tracepoint::{MSG_ERRQUEUE, MSG_PEEK},
};

/// Threads inside a receive function that is hooked at both ends → its flags.
#[btf_map]
static RECEIVING: HashMap<u64, i32, 8192> = HashMap::new();

/// The return of a function that sends on a TCP socket and returns the bytes it
/// accepted or a negative error.
#[kretprobe]
pub fn send_return(ctx: RetProbeContext) -> u32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let ret = || ctx.ret::<i32>();
    if ret() > 0 {
        sent(watched, || widened(ret()));
    }
    0
}

/// `void tcp_cleanup_rbuf(struct sock *sk, int copied)`, called with the
/// socket's lock held.
#[kprobe]
pub fn cleanup_rbuf(ctx: ProbeContext) -> u32 {
    let Some(sk) = ctx.arg::<*const u8>(0) else {
        return 0;
    };
    let watched = Watched::current();
    let noted = POSITIONS.get_ptr_mut(sk as u64);
    // Another process's reading moves the note of a followed socket along.
    if watched.is_none() && noted.is_none() {
        return 0;
    }
    // Only TCP's own sockets come here, so none is asked what it is: each field
    // read is a call of a helper.
    let tp = Raw(sk);
    if !is_owned(tp) || !reads_plainly(tp) {
        return 0;
    }
    let now = position(tp);
    let bytes = match noted {
        // SAFETY: the pointer is to a map's value. The socket's lock is held,
        // so nobody else writes it.
        Some(noted) => now.wrapping_sub(unsafe { noted.replace(now) }),
        None => {
            if POSITIONS
                .insert(sk as u64, now, u64::from(BPF_ANY))
                .is_err()
            {
                sockets_full();
            }
            first_read(tp, now, ctx.arg::<i32>(1).unwrap_or_default().max(0) as u32)
        }
    };
    if let Some(watched) = watched
        && bytes > 0
    {
        received(watched, || u64::from(bytes));
    }
    0
}

/// What the first read that is seen of a socket took: all that was ever taken,
/// if the socket is new, and no more than the call says; but for the urgent
/// byte, which reading skips and a call that does not come here fetches.
#[inline(always)]
fn first_read(tp: Raw, now: u32, copied: u32) -> u32 {
    let consumed = consumed(tp);
    if consumed == copied.wrapping_add(1) && urgent_between(tp, now.wrapping_sub(consumed), now) {
        consumed
    } else {
        consumed.min(copied)
    }
}

/// `int mptcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len,
/// int flags, int *addr_len)`, and `tls_sw_recvmsg` alike.
#[kprobe]
pub fn recv_entry(ctx: ProbeContext) -> u32 {
    on_recv_entry(ctx.arg(3))
}

/// The same until 5.18, with `int nonblock` before the flags.
#[kprobe]
pub fn recv_entry_5_18(ctx: ProbeContext) -> u32 {
    on_recv_entry(ctx.arg(4))
}

#[inline(always)]
fn on_recv_entry(flags: Option<i32>) -> u32 {
    if Watched::current().is_some()
        && let Some(flags) = flags
        && RECEIVING
            .insert(bpf_get_current_pid_tgid(), flags, u64::from(BPF_ANY))
            .is_err()
    {
        sockets_full();
    }
    0
}

/// The return of those.
#[kretprobe]
pub fn recv_return(ctx: RetProbeContext) -> u32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread writes its element.
    let flags = unsafe { RECEIVING.get(thread) }.copied();
    let _ = RECEIVING.remove(thread);
    let ret: i32 = ctx.ret();
    if let Some(flags) = flags
        && ret > 0
        && flags & (MSG_PEEK | MSG_ERRQUEUE) == 0
    {
        received(watched, || ret as u64);
    }
    0
}

/// The return of `tls_sw_splice_read`.
#[kretprobe]
pub fn splice_return(ctx: RetProbeContext) -> u32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let ret: i64 = ctx.ret();
    if ret > 0 {
        received(watched, || ret as u64);
    }
    0
}

/// `tcp:tcp_destroy_sock(sk)`: nothing reads from the socket after this, and
/// its address may be used again.
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub fn forget_sock(ctx: RawTracePointContext) -> i32 {
    let _ = POSITIONS.remove(ctx.arg::<u64>(0));
    0
}

/// `sock:inet_sock_set_state(sk, oldstate, newstate)`: a socket that connects
/// anew after a disconnect begins with another sequence number.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn forget_reused(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<i32>(2) == TCP_SYN_SENT {
        let _ = POSITIONS.remove(ctx.arg::<u64>(0));
    }
    0
}
