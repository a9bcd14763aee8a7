//! The fentry mode: return values, by trampolines at function exit.
//!
//! The functions hooked are those that the socket layer calls for every
//! Internet stream (`inet_sendmsg`, `inet_recvmsg` and their IPv6 twins), one
//! step above `tcp_sendmsg` and `tcp_recvmsg`: kernel TLS and Multipath TCP do
//! not pass through TCP's own, and `tcp_recvmsg` changed its signature in 5.19
//! where these never did. UDP passes too and is told apart by the socket.
//!
//! [`splice_read`] and [`zerocopy_receive`] also complete the tracepoint mode.

use aya_ebpf::{helpers::generated::bpf_sock_from_file, macros::fexit, programs::FExitContext};
use netio_abi::fields::{ZC_COPYBUF_LEN, ZC_LENGTH};

use crate::{
    account::{Watched, received, sent, widened},
    sock::{Btf, Kind, Object as _, is_stream, kind, sk_of},
    tracepoint::{MSG_ERRQUEUE, MSG_PEEK},
};

/// `int inet_sendmsg(struct socket *sock, struct msghdr *msg, size_t size)`
#[fexit(function = "inet_sendmsg")]
pub fn send_v4(ctx: FExitContext) -> i32 {
    on_sendmsg(&ctx)
}

/// `inet6_sendmsg`: as `inet_sendmsg`.
#[fexit(function = "inet6_sendmsg")]
pub fn send_v6(ctx: FExitContext) -> i32 {
    on_sendmsg(&ctx)
}

/// `int inet_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`
#[fexit(function = "inet_recvmsg")]
pub fn recv_v4(ctx: FExitContext) -> i32 {
    on_recvmsg(&ctx)
}

/// `inet6_recvmsg`: as `inet_recvmsg`.
#[fexit(function = "inet6_recvmsg")]
pub fn recv_v6(ctx: FExitContext) -> i32 {
    on_recvmsg(&ctx)
}

/// `ssize_t inet_sendpage(struct socket *sock, struct page *page, int offset,
/// size_t size, int flags)`, before 6.5. For Multipath TCP it goes on to
/// `inet_sendmsg`, which counts it.
#[fexit(function = "inet_sendpage")]
pub fn sendpage(ctx: FExitContext) -> i32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let ret: i64 = ctx.arg(5);
    if ret > 0 && kind(sk_of(Btf(ctx.arg(0)))) == Kind::Tcp {
        sent(watched, || ret as u64);
    }
    0
}

/// `ssize_t sock_splice_read(struct file *file, loff_t *ppos,
/// struct pipe_inode_info *pipe, size_t len, unsigned int flags)`, which calls
/// `tcp_splice_read` or kernel TLS's twin of it. Multipath TCP has none: its
/// splices are receive calls, which are counted as such.
#[fexit(function = "sock_splice_read")]
pub fn splice_read(ctx: FExitContext) -> i32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let ret: i64 = ctx.arg(5);
    if ret <= 0 {
        return 0;
    }
    // SAFETY: the verifier checks the argument.
    let socket = unsafe { bpf_sock_from_file(ctx.arg::<*mut u8>(0).cast()) };
    if !socket.is_null() && kind(sk_of(Btf(socket.cast_const().cast()))) == Kind::Tcp {
        received(watched, || ret as u64);
    }
    0
}

/// `ssize_t tcp_splice_read(struct socket *sock, ...)`, where the former cannot
/// be hooked.
#[fexit(function = "tcp_splice_read")]
pub fn splice_read_tcp(ctx: FExitContext) -> i32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let ret: i64 = ctx.arg(5);
    if ret > 0 {
        received(watched, || ret as u64);
    }
    0
}

/// `int tcp_zerocopy_receive(struct sock *sk, struct tcp_zerocopy_receive *zc,
/// struct scm_timestamping_internal *tss)`: `zc` tells the bytes mapped and the
/// bytes copied instead.
#[fexit(function = "tcp_zerocopy_receive")]
pub fn zerocopy_receive(ctx: FExitContext) -> i32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let ret: i32 = ctx.arg(3);
    let zc = Btf(ctx.arg(1));
    let mapped: u32 = zc.field(ZC_LENGTH);
    let copied: i32 = zc.field(ZC_COPYBUF_LEN);
    let bytes = u64::from(mapped) + copied.max(0) as u64;
    if ret == 0 && bytes > 0 {
        received(watched, || bytes);
    }
    0
}

#[inline(always)]
fn on_sendmsg(ctx: &FExitContext) -> i32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let ret = || ctx.arg::<i32>(3);
    if ret() > 0 && is_stream(sk_of(Btf(ctx.arg(0)))) {
        sent(watched, || widened(ret()));
    }
    0
}

#[inline(always)]
fn on_recvmsg(ctx: &FExitContext) -> i32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let flags: i32 = ctx.arg(3);
    let ret = || ctx.arg::<i32>(4);
    if ret() > 0 && flags & (MSG_PEEK | MSG_ERRQUEUE) == 0 && is_stream(sk_of(Btf(ctx.arg(0)))) {
        received(watched, || widened(ret()));
    }
    0
}
