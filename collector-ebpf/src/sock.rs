//! Fields of the kernel's sockets.
//!
//! Their offsets differ from kernel to kernel; the collector takes them from
//! the kernel's BTF and sets them at load. Two ways to read: [`Btf`] pointers
//! are known to the verifier, which turns each read into one checked load;
//! [`Raw`] ones are read by the probe-read helper.

use core::ptr::read_volatile;

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_skc_to_tcp_sock};

const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_MPTCP: u16 = 262;
/// State of a listening socket (`include/net/tcp_states.h`).
pub(crate) const TCP_LISTEN: i32 = 10;
/// Bit of `sock.sk_flags` that is set when a FIN has arrived (`SOCK_DONE`).
const SOCK_DONE_BIT: u64 = 1 << 1;

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub(crate) static $name: u32 = 0;)*
    };
}

offsets! {
    /// `socket.sk`
    OFF_SOCKET_SK,
    /// `sock.sk_type`
    OFF_SK_TYPE,
    /// `sock.sk_protocol`
    OFF_SK_PROTOCOL,
    /// `sock.sk_bpf_storage`
    OFF_SK_BPF_STORAGE,
    /// `sock_common.skc_flags`
    OFF_SKC_FLAGS,
    /// `sock_common.skc_state`
    OFF_SKC_STATE,
    /// `inet_connection_sock.icsk_accept_queue`
    OFF_ICSK_ACCEPT_QUEUE,
    /// `request_sock_queue.rskq_accept_head`
    OFF_RSKQ_ACCEPT_HEAD,
    /// `request_sock.dl_next`
    OFF_REQ_NEXT,
    /// `request_sock.sk`
    OFF_REQ_SK,
    /// `sock_common.skc_prot`
    OFF_SK_PROT,
    /// `sock.sk_lock.owned`
    OFF_SK_LOCK_OWNED,
    /// `proto.recvmsg`
    OFF_PROTO_RECVMSG,
    /// `tcp_ulp_ops.name`
    OFF_ULP_NAME,
    /// `inet_connection_sock.icsk_ulp_ops`
    OFF_ICSK_ULP_OPS,
    /// `tcp_sock.copied_seq`
    OFF_COPIED_SEQ,
    /// `tcp_sock.rcv_nxt`
    OFF_RCV_NXT,
    /// `tcp_sock.bytes_received`
    OFF_BYTES_RECEIVED,
    /// `tcp_sock.urg_seq`
    OFF_URG_SEQ,
    /// `tcp_zerocopy_receive.length`
    OFF_ZC_LENGTH,
    /// `tcp_zerocopy_receive.copybuf_len`
    OFF_ZC_COPYBUF_LEN,
    /// `task_struct.tgid`
    OFF_TASK_TGID,
    /// `task_struct.start_boottime`
    OFF_TASK_START,
    /// `task_struct.signal`
    OFF_TASK_SIGNAL,
    /// `signal_struct.live`
    OFF_SIGNAL_LIVE,
}

/// The address of `tcp_recvmsg`; 0 if the kernel does not tell it.
#[unsafe(no_mangle)]
static TCP_RECVMSG: u64 = 0;

/// An offset as the collector set it.
#[inline(always)]
pub(crate) fn offset(of: &'static u32) -> usize {
    // SAFETY: a reference is readable; volatile, because the loader rewrites it.
    unsafe { read_volatile(of) as usize }
}

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
    if sk.field::<u16>(offset(&OFF_SK_TYPE)) != SOCK_STREAM {
        return Kind::Other;
    }
    match sk.field::<u16>(offset(&OFF_SK_PROTOCOL)) {
        IPPROTO_TCP => Kind::Tcp,
        IPPROTO_MPTCP => Kind::Mptcp,
        _ => Kind::Other,
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
    Btf(socket.field::<usize>(offset(&OFF_SOCKET_SK)) as *const u8)
}

/// Whether some BPF program keeps storage with the socket: one load.
#[inline(always)]
pub(crate) fn has_bpf_storage(sk: Btf) -> bool {
    sk.field::<usize>(offset(&OFF_SK_BPF_STORAGE)) != 0
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
    let ulp: usize = tp.field(offset(&OFF_ICSK_ULP_OPS));
    if ulp == 0 {
        return true;
    }
    let name: u32 = Raw(ulp as *const u8).field(offset(&OFF_ULP_NAME));
    let proto: usize = tp.field(offset(&OFF_SK_PROT));
    let recvmsg: u64 = Raw(proto as *const u8).field(offset(&OFF_PROTO_RECVMSG));
    // SAFETY: a plain static; volatile, because the loader rewrites it.
    let tcp_recvmsg = unsafe { read_volatile(&raw const TCP_RECVMSG) };
    name.to_le_bytes() == *b"tls\0" && recvmsg == tcp_recvmsg
}

/// Whether a process holds the socket's lock, as whoever reads does. If not, the
/// bytes are taken in an interrupt, on behalf of nobody who is known here.
#[inline(always)]
pub(crate) fn is_owned(sk: impl Object) -> bool {
    sk.field::<u32>(offset(&OFF_SK_LOCK_OWNED)) != 0
}

/// Where the process's reading stands: the sequence number of the next byte,
/// not counting a FIN that was read past.
#[inline(always)]
pub(crate) fn position(tp: impl Object) -> u32 {
    let copied: u32 = tp.field(offset(&OFF_COPIED_SEQ));
    copied.wrapping_sub(fin_consumed(tp, copied))
}

/// Bytes taken from the receive queue since the connection began, modulo 2^32.
///
/// What arrived in order, less what still waits; a FIN is in both terms of the
/// difference until it is read past.
#[inline(always)]
pub(crate) fn consumed(tp: impl Object) -> u32 {
    let arrived = tp.field::<u64>(offset(&OFF_BYTES_RECEIVED)) as u32;
    let copied: u32 = tp.field(offset(&OFF_COPIED_SEQ));
    let next: u32 = tp.field(offset(&OFF_RCV_NXT));
    let waiting = next.wrapping_sub(copied);
    arrived
        .wrapping_sub(waiting)
        .wrapping_sub(fin_consumed(tp, copied))
}

/// Whether the socket listens for connections.
#[inline(always)]
pub(crate) fn is_listening(sk: impl Object) -> bool {
    sk.field::<u8>(offset(&OFF_SKC_STATE)) == TCP_LISTEN as u8
}

/// The first connection that waits for a listening socket's process to accept
/// it, null if there is none; [`after`] gives the next.
#[inline(always)]
pub(crate) fn first_unaccepted(tp: Btf) -> Btf {
    let queue = offset(&OFF_ICSK_ACCEPT_QUEUE) + offset(&OFF_RSKQ_ACCEPT_HEAD);
    Btf(tp.field::<usize>(queue) as *const u8)
}

/// The next connection in the queue, null at its end.
#[inline(always)]
pub(crate) fn after(request: Btf) -> Btf {
    Btf(request.field::<usize>(offset(&OFF_REQ_NEXT)) as *const u8)
}

/// The socket of a connection in the queue.
#[inline(always)]
pub(crate) fn sk_of_request(request: Btf) -> Btf {
    Btf(request.field::<usize>(offset(&OFF_REQ_SK)) as *const u8)
}

/// Whether no byte has arrived yet.
#[inline(always)]
pub(crate) fn nothing_arrived(tp: impl Object) -> bool {
    tp.field::<u64>(offset(&OFF_BYTES_RECEIVED)) == 0
}

/// Whether the urgent pointer lies in `from..to`: reading skips that byte.
#[inline(always)]
pub(crate) fn urgent_between(tp: impl Object, from: u32, to: u32) -> bool {
    let urgent: u32 = tp.field(offset(&OFF_URG_SEQ));
    urgent.wrapping_sub(from) < to.wrapping_sub(from)
}

/// 1 if a FIN has arrived and was read past, as the end of a splice and the
/// last `recv` do, else 0. Most often none has arrived, which the flags tell: so
/// they are read first, and nothing else.
#[inline(always)]
fn fin_consumed(tp: impl Object, copied: u32) -> u32 {
    let flags: u64 = tp.field(offset(&OFF_SKC_FLAGS));
    if flags & SOCK_DONE_BIT == 0 {
        return 0;
    }
    let next: u32 = tp.field(offset(&OFF_RCV_NXT));
    u32::from(copied == next)
}
