//! Fields of the kernel's sockets.
//!
//! Their offsets differ from kernel to kernel; [`netio_abi::fields`] tells how the
//! collector sets them. Two ways to read: [`Btf`] pointers
//! are known to the verifier, which turns each read into one checked load;
//! [`Raw`] ones are read by the probe-read helper.

use core::ptr::read_volatile;

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_skc_to_tcp_sock};
use netio_abi::fields::{
    ACCEPT_HEAD, BYTES_RECEIVED, COPIED_SEQ, PROTO_RECVMSG, RCV_NXT, REQUEST_NEXT, REQUEST_SK,
    SK_BPF_STORAGE, SK_LOCK_OWNED, SK_PROTOCOL, SK_TYPE, SKC_FLAGS, SKC_PROT, SKC_STATE, SOCKET_SK,
    ULP_NAME, ULP_OPS, URG_SEQ,
};

const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_MPTCP: u16 = 262;
/// State of a listening socket (`include/net/tcp_states.h`).
pub(crate) const TCP_LISTEN: i32 = 10;
/// Bit of `sock.sk_flags` that is set when a FIN has arrived (`SOCK_DONE`).
const SOCK_DONE_BIT: u64 = 1 << 1;

/// The address of `tcp_recvmsg`; 0 if the kernel does not tell it.
#[unsafe(no_mangle)]
static TCP_RECVMSG: u64 = 0;

/// A kernel object whose fields can be read at an offset.
pub(crate) trait Object: Copy {
    /// Reads the field of type `T` at `offset`; zero if it cannot be read.
    fn field<T: Copy + Default>(self, offset: usize) -> T;
}

/// An object that the verifier knows the type of.
#[derive(Clone, Copy)]
pub(crate) struct Btf(pub(crate) *const u8);

impl Object for Btf {
    #[inline(always)]
    fn field<T: Copy + Default>(self, offset: usize) -> T {
        // SAFETY: the verifier checks the type and the offset, and turns the
        // load into one that cannot fault.
        unsafe { read_volatile(self.0.add(offset).cast()) }
    }
}

/// An object that is just an address.
#[derive(Clone, Copy)]
pub(crate) struct Raw(pub(crate) *const u8);

impl Object for Raw {
    #[inline(always)]
    fn field<T: Copy + Default>(self, offset: usize) -> T {
        // SAFETY: the helper checks the address and cannot fault.
        unsafe { bpf_probe_read_kernel(self.0.wrapping_add(offset).cast()) }.unwrap_or_default()
    }
}

/// Which accounting a socket falls under.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A TCP stream.
    Tcp,
    /// A Multipath TCP stream, as the process sees it.
    Mptcp,
    /// Anything else, raw sockets that carry TCP included.
    Other,
}

/// Tells a `struct sock`'s kind.
#[inline(always)]
pub(crate) fn kind(sk: impl Object) -> Kind {
    if sk.field::<u16>(SK_TYPE) != SOCK_STREAM {
        return Kind::Other;
    }
    // Read twice, so that TCP needs one comparison.
    if sk.field::<u16>(SK_PROTOCOL) == IPPROTO_TCP {
        Kind::Tcp
    } else if sk.field::<u16>(SK_PROTOCOL) == IPPROTO_MPTCP {
        Kind::Mptcp
    } else {
        Kind::Other
    }
}

/// Whether the socket is a stream of bytes that we count.
#[inline(always)]
pub(crate) fn is_stream(sk: impl Object) -> bool {
    kind(sk) != Kind::Other
}

/// The `struct sock` of a `struct socket`.
#[inline(always)]
pub(crate) fn sk_of(socket: Btf) -> Btf {
    Btf(socket.field::<usize>(SOCKET_SK) as *const u8)
}

/// Whether some BPF program keeps storage with the socket: one load.
#[inline(always)]
pub(crate) fn has_bpf_storage(sk: Btf) -> bool {
    sk.field::<usize>(SK_BPF_STORAGE) != 0
}

/// The `struct tcp_sock` of a `struct sock`, if it is one.
#[inline(always)]
pub(crate) fn tcp_sock(sk: Btf) -> Option<Btf> {
    // SAFETY: the verifier checks the argument.
    let tp = unsafe { bpf_skc_to_tcp_sock(sk.0.cast_mut().cast()) };
    (!tp.is_null()).then_some(Btf(tp.cast_const().cast()))
}

/// Whether the stream's receive queue is what the process reads. It is not if
/// the socket is a part of a Multipath TCP stream, or if kernel TLS decrypts what
/// arrives; kernel TLS that only encrypts leaves receives as they are.
#[inline(always)]
pub(crate) fn reads_plainly(tp: impl Object) -> bool {
    let ulp: usize = tp.field(ULP_OPS);
    if ulp == 0 {
        return true;
    }
    let name: u32 = Raw(ulp as *const u8).field(ULP_NAME);
    let proto: usize = tp.field(SKC_PROT);
    let recvmsg: u64 = Raw(proto as *const u8).field(PROTO_RECVMSG);
    name.to_le_bytes() == *b"tls\0" && recvmsg == tcp_recvmsg()
}

/// Whether TCP itself serves the receive calls on a stream of the process's, with
/// nothing such as kernel TLS in between. "No" if it cannot be told.
#[inline(always)]
pub(crate) fn is_received_by_tcp(sk: Btf) -> bool {
    let proto = Btf(sk.field::<usize>(SKC_PROT) as *const u8);
    let recvmsg: u64 = proto.field(PROTO_RECVMSG);
    recvmsg != 0 && recvmsg == tcp_recvmsg()
}

#[inline(always)]
fn tcp_recvmsg() -> u64 {
    // SAFETY: a plain static; volatile, because the loader rewrites it.
    unsafe { read_volatile(&raw const TCP_RECVMSG) }
}

/// Whether a process holds the socket's lock, as whoever reads does. If not, the
/// bytes are taken in an interrupt, on behalf of nobody who is known here.
#[inline(always)]
pub(crate) fn is_owned(sk: impl Object) -> bool {
    sk.field::<u32>(SK_LOCK_OWNED) != 0
}

/// Where the process's reading stands: the sequence number of the next byte,
/// not counting a FIN that was read past.
#[inline(always)]
pub(crate) fn position(tp: impl Object) -> u32 {
    let copied: u32 = tp.field(COPIED_SEQ);
    copied.wrapping_sub(fin_consumed(tp, copied))
}

/// Bytes taken from the receive queue since the connection began, modulo 2^32.
///
/// What arrived in order, less what still waits; a FIN is in both terms of the
/// difference until it is read past.
#[inline(always)]
pub(crate) fn consumed(tp: impl Object) -> u32 {
    let arrived = tp.field::<u64>(BYTES_RECEIVED) as u32;
    let copied: u32 = tp.field(COPIED_SEQ);
    let next: u32 = tp.field(RCV_NXT);
    let waiting = next.wrapping_sub(copied);
    arrived
        .wrapping_sub(waiting)
        .wrapping_sub(fin_consumed(tp, copied))
}

/// Whether the socket listens for connections.
#[inline(always)]
pub(crate) fn is_listening(sk: impl Object) -> bool {
    sk.field::<u8>(SKC_STATE) == TCP_LISTEN as u8
}

/// The first connection that waits for a listening socket's process to accept
/// it, null if there is none; [`after`] gives the next.
#[inline(always)]
pub(crate) fn first_unaccepted(tp: Btf) -> Btf {
    Btf(tp.field::<usize>(ACCEPT_HEAD) as *const u8)
}

/// The next connection in the queue, null at its end.
#[inline(always)]
pub(crate) fn after(request: Btf) -> Btf {
    Btf(request.field::<usize>(REQUEST_NEXT) as *const u8)
}

/// The socket of a connection in the queue.
#[inline(always)]
pub(crate) fn sk_of_request(request: Btf) -> Btf {
    Btf(request.field::<usize>(REQUEST_SK) as *const u8)
}

/// Whether no byte has arrived yet.
#[inline(always)]
pub(crate) fn nothing_arrived(tp: impl Object) -> bool {
    tp.field::<u64>(BYTES_RECEIVED) == 0
}

/// Whether the urgent pointer lies in `from..to`: reading skips that byte.
#[inline(always)]
pub(crate) fn urgent_between(tp: impl Object, from: u32, to: u32) -> bool {
    let urgent: u32 = tp.field(URG_SEQ);
    urgent.wrapping_sub(from) < to.wrapping_sub(from)
}

/// 1 if a FIN has arrived and was read past, as the end of a splice and the
/// last `recv` do, else 0. Most often none has arrived, which the flags tell: so
/// they are read first, and nothing else.
#[inline(always)]
fn fin_consumed(tp: impl Object, copied: u32) -> u32 {
    let flags: u64 = tp.field(SKC_FLAGS);
    if flags & SOCK_DONE_BIT == 0 {
        return 0;
    }
    let next: u32 = tp.field(RCV_NXT);
    u32::from(copied == next)
}
