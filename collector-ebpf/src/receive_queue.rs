//! Receives counted by how far the socket's read position advances
//! (`tcp_sock.copied_seq`), for hooks that give no return value.
//!
//! Exact for whatever takes bytes from the queue: `recv` with any flags,
//! splice, zero-copy receive, readers in the kernel. A peek and a QUICKACK do
//! not move the position; a FIN moves it by one, which is taken off
//! ([`crate::sock::position`]).
//!
//! What it needs is where the position stood before:
//! - A socket that was listening or connecting while its process was watched
//!   carries a mark from birth (a listener's connections inherit it), so that
//!   all it consumed counts.
//! - When a watch begins, `iter/task_file` notes the position of every socket
//!   that the process holds ([`note_storage`], [`note_table`]), and marks the
//!   connections that wait for it to accept them as new-born.
//! - Other processes that read from a followed socket move the noted position
//!   along; they pay one load if the socket is not followed.
//! - A socket with no history (handed over by a process that is not watched) is
//!   noted at its first read, and that read's own return value settles what it
//!   brought.

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE},
    btf_maps::HashMap,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_sk_storage_get, bpf_sock_from_file},
    },
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};
use netio_abi::{WISH_TGID, fields::TASK_TGID};

use crate::{
    account::{Watched, add, received_bytes, received_call, sockets_full},
    lives::WISHES,
    sock::{
        Btf, Kind, Object as _, TCP_LISTEN, after, consumed, first_unaccepted, has_bpf_storage,
        is_listening, is_owned, is_received_by_tcp, kind, nothing_arrived, position, reads_plainly,
        sk_of, sk_of_request, tcp_sock,
    },
    tracepoint::{MSG_ERRQUEUE, MSG_PEEK},
};

/// State of a connecting socket (`include/net/tcp_states.h`).
pub(crate) const TCP_SYN_SENT: i32 = 2;
/// Connections of one listening socket that are noted while they wait to be
/// accepted; the kernel's default limit is 4,096 of them (`somaxconn`), but a
/// busy server accepts them at once.
const MAX_UNACCEPTED: u32 = 512;

/// The socket is new: all that was consumed since its birth counts.
const SINCE_BIRTH: u32 = 0;
/// `position` is where the reading stood.
const KNOWN: u32 = 1;
/// The thread `reader` is in the first read that was ever seen.
const FIRST_READ: u32 = 2;

/// What is kept with a followed socket. All zeros means new-born, which is what
/// a connection inherits from its listener.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Followed {
    position: u32,
    base: u32,
    reader: u32,
    /// Bytes of the first read that were counted before it returned.
    counted: u32,
}

/// The map definition that the library's own has no room for: storage with a
/// socket, which a connection inherits from its listener.
#[repr(C)]
struct InheritedSkStorage {
    r#type: *const [i32; aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const Followed,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: a definition for the loader; never dereferenced.
unsafe impl Sync for InheritedSkStorage {}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static FOLLOWED: InheritedSkStorage = InheritedSkStorage {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
    map_flags: core::ptr::null(),
};

/// Sockets that the kprobe mode follows: `struct sock` address → read position.
/// Those programs cannot reach a socket's storage.
#[btf_map]
pub(crate) static POSITIONS: HashMap<u64, u32, 65536> = HashMap::new();

/// First reads that were seen and not settled yet: while there are none, which is
/// nearly always, no receive call need look for its socket's note. A first read that
/// no receive call settles (a splice, or the socket goes in the middle of it) is in
/// it for good, which costs each call a look-up and nothing else.
#[unsafe(no_mangle)]
static mut FIRST_READS: u64 = 0;

#[inline(always)]
fn first_reads() -> *mut u64 {
    &raw mut FIRST_READS
}

#[inline(always)]
fn followed(sk: Btf) -> Option<&'static mut Followed> {
    storage(sk, core::ptr::null_mut(), 0)
}

#[inline(always)]
fn follow(sk: Btf, mut initial: Followed) -> Option<&'static mut Followed> {
    let followed = storage(sk, &raw mut initial, u64::from(BPF_SK_STORAGE_GET_F_CREATE));
    if followed.is_none() {
        sockets_full();
    }
    followed
}

#[inline(always)]
fn storage(sk: Btf, initial: *mut Followed, flags: u64) -> Option<&'static mut Followed> {
    // SAFETY: the verifier checks the arguments; what comes back is null or a
    // value that lives as long as the program runs.
    unsafe {
        bpf_sk_storage_get(
            (&raw const FOLLOWED).cast_mut().cast(),
            sk.0.cast_mut().cast(),
            initial.cast(),
            flags,
        )
        .cast::<Followed>()
        .as_mut()
    }
}

/// `tcp:tcp_rcv_space_adjust(sk)`: the process that owns the socket's lock has
/// just taken bytes from the queue, so nobody else changes position or note.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn queue_read(ctx: BtfTracePointContext) -> i32 {
    let sk = Btf(ctx.arg(0));
    let watched = Watched::current();
    if watched.is_none() && !has_bpf_storage(sk) {
        return 0;
    }
    let Some(tp) = tcp_sock(sk) else { return 0 };
    if !is_owned(sk) || !reads_plainly(tp) {
        return 0;
    }
    let position = position(tp);
    let Some(note) = followed(sk) else {
        if watched.is_some() {
            let reader = bpf_get_current_pid_tgid() as u32;
            let note = Followed {
                position,
                base: FIRST_READ,
                reader,
                counted: 0,
            };
            if follow(sk, note).is_some() {
                // SAFETY: a word that is only ever changed by atomic additions.
                unsafe { add(first_reads(), 1) };
            }
        }
        return 0;
    };
    let advance = if note.base == SINCE_BIRTH {
        note.base = KNOWN;
        consumed(tp)
    } else {
        position.wrapping_sub(note.position)
    };
    note.position = position;
    let Some(watched) = watched else { return 0 };
    if advance == 0 {
        return 0;
    }
    if note.base == FIRST_READ && note.reader == bpf_get_current_pid_tgid() as u32 {
        note.counted = note.counted.wrapping_add(advance);
    }
    received_bytes(watched, u64::from(advance));
    0
}

/// `sock:sock_recv_length(sk, ret, flags)` beside [`queue_read`]: counts the
/// calls, the bytes of streams that have no receive queue of their own
/// (Multipath TCP, kernel TLS), and settles a socket's first read.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn queue_recv(ctx: BtfTracePointContext) -> i32 {
    let Some(watched) = Watched::current() else {
        return 0;
    };
    let ret: i32 = ctx.arg(1);
    let flags: i32 = ctx.arg(2);
    if ret <= 0 || flags & (MSG_PEEK | MSG_ERRQUEUE) != 0 {
        return 0;
    }
    let sk = Btf(ctx.arg(0));
    match kind(sk) {
        Kind::Other => return 0,
        Kind::Mptcp => received_bytes(watched, ret as u64),
        // SAFETY: an aligned word.
        Kind::Tcp if is_received_by_tcp(sk) && unsafe { read_volatile(first_reads()) } == 0 => {}
        Kind::Tcp => {
            let Some(tp) = tcp_sock(sk) else { return 0 };
            if !reads_plainly(tp) {
                received_bytes(watched, ret as u64);
            } else if let Some(note) = followed(sk)
                && note.base == FIRST_READ
                && note.reader == bpf_get_current_pid_tgid() as u32
            {
                note.base = KNOWN;
                // SAFETY: as where it was added.
                unsafe { add(first_reads(), u64::MAX) };
                received_bytes(
                    watched,
                    u64::from((ret as u32).saturating_sub(note.counted)),
                );
            }
        }
    }
    received_call(watched);
    0
}

/// `sock:inet_sock_set_state(sk, oldstate, newstate)`: marks the sockets that
/// are born while their process is watched. Both states are entered by the
/// process itself.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn queue_birth(ctx: BtfTracePointContext) -> i32 {
    let newstate: i32 = ctx.arg(2);
    if newstate != TCP_SYN_SENT && newstate != TCP_LISTEN {
        return 0;
    }
    let sk = Btf(ctx.arg(0));
    let is_watched = Watched::current().is_some();
    if !is_watched && !has_bpf_storage(sk) {
        return 0;
    }
    if kind(sk) != Kind::Tcp {
        return 0;
    }
    match followed(sk) {
        // A socket that was disconnected and is used again.
        Some(note) => *note = Followed::default(),
        None if is_watched => {
            follow(sk, Followed::default());
        }
        None => {}
    }
    0
}

/// A TCP socket in an open file of the process being noted.
#[inline(always)]
fn noted_socket(ctx: &BtfTracePointContext) -> Option<(Btf, Btf)> {
    // struct bpf_iter__task_file { meta, task, fd, file }, each in 8 bytes.
    let ctx = Btf(ctx.as_ptr().cast_const().cast());
    let task = ctx.field::<usize>(8) as *const u8;
    let file = ctx.field::<usize>(24) as *mut u8;
    if task.is_null() || file.is_null() {
        return None;
    }
    let tgid: u32 = Btf(task).field(TASK_TGID);
    if WISHES.get(WISH_TGID) != Some(&u64::from(tgid)) {
        return None;
    }
    // SAFETY: the verifier checks the argument.
    let socket = unsafe { bpf_sock_from_file(file.cast()) };
    if socket.is_null() {
        return None;
    }
    let sk = sk_of(Btf(socket.cast_const().cast()));
    if sk.0.is_null() || kind(sk) != Kind::Tcp {
        return None;
    }
    Some((sk, tcp_sock(sk)?))
}

/// Runs over a process's sockets just before it is put on the allow-list.
/// A socket that is followed already is left alone: its note is in step.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn note_storage(ctx: *mut core::ffi::c_void) -> i32 {
    let Some((sk, tp)) = noted_socket(&BtfTracePointContext::new(ctx)) else {
        return 0;
    };
    if followed(sk).is_none() {
        let base = if nothing_arrived(tp) {
            SINCE_BIRTH
        } else {
            KNOWN
        };
        follow(
            sk,
            Followed {
                position: position(tp),
                base,
                reader: 0,
                counted: 0,
            },
        );
    }
    if is_listening(sk) {
        let mut request = first_unaccepted(tp);
        for _ in 0..MAX_UNACCEPTED {
            if request.0.is_null() {
                break;
            }
            let sk = sk_of_request(request);
            if !sk.0.is_null() && kind(sk) == Kind::Tcp && followed(sk).is_none() {
                follow(sk, Followed::default());
            }
            request = after(request);
        }
    }
    0
}

/// The same for the kprobe mode. A socket of which nothing has arrived needs no
/// note: its first read is taken for what it is, the first.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn note_table(ctx: *mut core::ffi::c_void) -> i32 {
    let Some((sk, tp)) = noted_socket(&BtfTracePointContext::new(ctx)) else {
        return 0;
    };
    let key = sk.0 as u64;
    if POSITIONS.get_ptr(key).is_none()
        && !nothing_arrived(tp)
        && POSITIONS
            .insert(key, position(tp), u64::from(BPF_ANY))
            .is_err()
    {
        sockets_full();
    }
    0
}
