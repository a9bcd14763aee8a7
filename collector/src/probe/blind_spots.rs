//! What each mode does not see, told to every user (`GetCollectorInfo`).

use std::fs;

use netio::v1;

use super::attach::Attached;
use crate::btf::Btf;

const RECORD_HOOK: &str = "tracepoint/sock:sock_recv_length";
const QUEUE_HOOK: &str = "tp_btf/tcp_rcv_space_adjust";

/// The blind spots of what is attached.
pub(super) fn of(
    mode: v1::HookMode,
    attached: &Attached,
    btf: Option<&Btf>,
    preemptible: bool,
) -> Vec<v1::BlindSpot> {
    let mut spots = vec![spot(
        "not-tcp",
        "Only TCP is counted (Multipath TCP included): Unix sockets, UDP and raw sockets are not.",
        "connect over TCP, to localhost too, to see the traffic",
    )];
    spots.push(spot(
        "kernel-requests",
        "What the kernel sends over TCP in a process's name, such as requests to an NFS or SMB \
         server, counts as sent by the process.",
        "keep the database's files off network file systems",
    ));
    if !attached.follows_children {
        spots.push(spot(
            "children",
            "Children that a watched process forks are not followed.",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ));
        spots.push(spot(
            "reused-pid",
            "A process's exit is noticed by the collector, not in the kernel: if its pid is used \
             again within that moment, what its next user moves until then is counted.",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ));
    }
    let sends_by_page = match btf {
        Some(btf) => btf.has_function("inet_sendpage"),
        // Not known; the function went away in 6.5.
        None => true,
    };
    if mode == v1::HookMode::Tracepoint
        && sends_by_page
        && !attached.has_hook("fexit/inet_sendpage")
    {
        spots.push(spot(
            "sendfile",
            "On a kernel before 6.5, sendfile and splice to a socket are not counted.",
            "use the fentry or the kprobe mode",
        ));
    }
    if attached.has_hook(RECORD_HOOK) {
        spots.push(spot(
            "splice-in",
            "Without BTF, receives that no receive call makes (splice, TCP_ZEROCOPY_RECEIVE) are \
             not counted.",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ));
        spots.push(spot(
            "raw-tcp",
            "Without BTF, raw sockets opened for the TCP protocol are counted as TCP.",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ));
    } else if attached.has_hook(QUEUE_HOOK) {
        spots.push(spot(
            "splice-handed-over",
            "The first read of a connection that a process which is not watched handed over \
             (SCM_RIGHTS), or that waited behind 512 others to be accepted when the watch began, \
             is not counted if it is a splice.",
            "a kernel that allows fexit programs has no such gap",
        ));
        spots.push(spot(
            "urgent-unread",
            "A byte of urgent data that the process never fetches is counted when its reading \
             passes it.",
            "a kernel that allows fexit programs does not count it",
        ));
    } else if mode != v1::HookMode::Kprobe {
        if !attached.has_hook("fexit/tcp_zerocopy_receive") {
            spots.push(spot(
                "zerocopy-receive",
                "Receives by TCP_ZEROCOPY_RECEIVE are not counted.",
                "none on this kernel, where the function cannot be hooked",
            ));
        }
        if btf.is_some_and(|btf| btf.has_function("io_zcrx_recv_skb")) {
            spots.push(spot(
                "io-uring-zcrx",
                "Receives by io_uring's zero-copy receive (IORING_OP_RECV_ZC) are not counted.",
                "use ordinary io_uring receives",
            ));
        }
    }
    if mode == v1::HookMode::Fentry {
        spots.push(spot(
            "under-way",
            "A call that is under way when probes are attached to its function or detached from \
             it, netio's or another program's, is not counted.",
            "keep the collector running and other fexit programs away, or use the tracepoint mode",
        ));
    } else if attached.has_trampolines() {
        spots.push(spot(
            "splice-under-way",
            "A splice from a connection (and before Linux 6.5 one to it, or a sendfile) that is \
             under way when probes are attached to its function or detached from it, netio's or \
             another program's, is not counted.",
            "keep the collector running, and other fexit programs away",
        ));
    }
    match mode {
        v1::HookMode::Kprobe => spots.extend(kprobe(attached)),
        _ if attached.has_hook(RECORD_HOOK) => {} // "splice-in" says it
        _ if attached.has_hook("fexit/sock_splice_read") => {}
        _ => spots.push(spot(
            "ktls-splice",
            "Data spliced in from a connection with kernel TLS is not counted.",
            "read it by receive calls",
        )),
    }
    if mode == v1::HookMode::Fentry
        && !attached.has_hook("fexit/inet6_sendmsg")
        && fs::exists("/proc/net/if_inet6").unwrap_or(true)
    {
        spots.push(spot(
            "ipv6",
            "IPv6 sockets are not counted: IPv6 is a module of this kernel.",
            "use the tracepoint or the kprobe mode",
        ));
    }
    if mode == v1::HookMode::Fentry && preemptible {
        spots.push(spot(
            "preemption",
            "This kernel may preempt a thread inside a trampoline's program, and misses the calls \
             of others on that CPU meanwhile; missed_events.recursion counts them.",
            "use the tracepoint or the kprobe mode (auto does), or boot with preempt=voluntary",
        ));
    }
    spots
}

fn kprobe(attached: &Attached) -> Vec<v1::BlindSpot> {
    let mut spots = vec![
        spot(
            "urgent-unread",
            "A byte of urgent data is counted when the reading of the stream passes it, also if \
             the process never fetches it.",
            "the fentry mode counts it when it is fetched",
        ),
        spot(
            "peek-handed-over",
            "If the first thing that happens to a connection which a process that is not watched \
             handed over (SCM_RIGHTS) is a peek, what was peeked at is counted.",
            "the tracepoint and fentry modes have no such gap",
        ),
        spot(
            "sockmap",
            "Connections that another program has put into a BPF sockmap are not counted.",
            "the tracepoint and fentry modes count them",
        ),
        spot(
            "bpf-calls",
            "On a kernel before 6.7 that preempts everywhere, events on a CPU are missed while \
             another program's bpf() call on it is preempted.",
            "the tracepoint mode (Linux 6.3 and later) has no such gap",
        ),
    ];
    if !attached.has_hook("kprobe/mptcp_recvmsg") {
        spots.push(spot(
            "mptcp",
            "Multipath TCP is not counted.",
            "none on this kernel, where its functions cannot be hooked",
        ));
    }
    if !attached.has_hook("kprobe/tls_sw_recvmsg") {
        spots.push(spot(
            "ktls",
            "Connections with kernel TLS are not counted, or only in part: its module was not \
             loaded when the collector started.",
            "load it (modprobe tls) and restart the collector, or use another mode",
        ));
    }
    spots
}

/// What `received_calls` counts.
pub(super) fn received_calls(mode: v1::HookMode, attached: &Attached) -> &'static str {
    if mode == v1::HookMode::Kprobe {
        "Portions taken from receive queues: one for each receive call, more for a call that had \
         to wait for its data."
    } else if attached.has_hook(QUEUE_HOOK) {
        "Receive calls that delivered at least one byte; splices are not among them, though their \
         bytes are counted."
    } else {
        "Receive calls that delivered at least one byte, and splices where they are counted."
    }
}

fn spot(id: &str, description: &str, remedy: &str) -> v1::BlindSpot {
    v1::BlindSpot {
        id: id.to_owned(),
        description: description.to_owned(),
        remedy: remedy.to_owned(),
    }
}
