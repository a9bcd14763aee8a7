//! Which programs make up each mode, and what to do if one does not attach.

use std::fs;

use netio::v1;
use netio_abi::fields::{
    ACCEPT_HEAD, BYTES_RECEIVED, COPIED_SEQ, PROTO_RECVMSG, RCV_NXT, REQUEST_NEXT, REQUEST_SK,
    SIGNAL_LIVE, SK_BPF_STORAGE, SK_LOCK_OWNED, SK_PROTOCOL, SK_TYPE, SKC_FLAGS, SKC_PROT,
    SKC_STATE, SOCKET_SK, TASK_CPU, TASK_SIGNAL, TASK_START, TASK_TGID, ULP_NAME, ULP_OPS, URG_SEQ,
    ZC_COPYBUF_LEN, ZC_LENGTH,
};

use super::{
    AttachError,
    attach::Attached,
    kretprobe,
    object::{Object, Room},
    preemption, tracefs,
};
use crate::btf::Btf;

/// Fields that telling who calls, and TCP from the rest, needs.
const KIND: [usize; 4] = [SK_TYPE, SK_PROTOCOL, TASK_TGID, TASK_CPU];
/// Fields that counting by the read position needs.
const POSITION: [usize; 11] = [
    SOCKET_SK,
    SKC_FLAGS,
    SKC_PROT,
    SK_LOCK_OWNED,
    PROTO_RECVMSG,
    ULP_NAME,
    ULP_OPS,
    COPIED_SEQ,
    RCV_NXT,
    BYTES_RECEIVED,
    TASK_TGID,
];

/// Fields that following sockets by storage of their own needs.
const QUEUE: [usize; 5] = [
    SK_BPF_STORAGE,
    SKC_STATE,
    ACCEPT_HEAD,
    REQUEST_NEXT,
    REQUEST_SK,
];

/// Fields that following processes needs.
const LIVES: [usize; 4] = [TASK_TGID, TASK_START, TASK_SIGNAL, SIGNAL_LIVE];

/// Loads and attaches a mode's programs, with so much room; all of them or none.
pub(super) fn attach(
    mode: v1::HookMode,
    btf: Option<&Btf>,
    room: &Room,
) -> Result<Attached, AttachError> {
    let follows_sockets = mode == v1::HookMode::Kprobe;
    let load = || Attached::new(Object::load(btf, room, follows_sockets)?);
    let Some(btf) = btf else {
        if mode != v1::HookMode::Tracepoint {
            return Err(AttachError::new("the kernel has no BTF"));
        }
        return attached(load()?, records);
    };
    let with_types = |programs: fn(&mut Attached, &Btf) -> Result<(), AttachError>| {
        attached(load()?, |to| {
            to.object.require(&KIND)?;
            programs(to, btf)
        })
    };
    match mode {
        v1::HookMode::Tracepoint if preemption::is_full() => with_types(at_receive_queue),
        v1::HookMode::Tracepoint => with_types(with_trampolines).or_else(|error| {
            tracing::info!(cause = %error, "no trampolines: receives are counted at the receive queue");
            with_types(at_receive_queue)
        }),
        v1::HookMode::Fentry => with_types(fentry),
        v1::HookMode::Kprobe => with_types(kprobe),
        v1::HookMode::Unspecified => Err(AttachError::new("no mode was named")),
    }
}

/// Attaches programs; if one of them fails, those before it detach.
fn attached(
    mut to: Attached,
    programs: impl FnOnce(&mut Attached) -> Result<(), AttachError>,
) -> Result<Attached, AttachError> {
    programs(&mut to)?;
    if let Err(error) = lives(&mut to) {
        tracing::warn!(cause = %error, "children cannot be followed");
        to.cannot_be_pinned(
            "exits are not seen in the kernel, so that without a collector the next user of a \
             pid would be counted",
        );
    }
    if let Err(error) = changes(&mut to) {
        tracing::warn!(cause = %error, "processes that start are found only by looking for them");
    }
    Ok(to)
}

/// What follows processes from birth to exit. An exit that is not seen in the
/// kernel would let a child's entry go stale, so births come last.
fn lives(to: &mut Attached) -> Result<(), AttachError> {
    to.object.require(&LIVES)?;
    to.tp_btf("life_ends", "sched_process_exit")?;
    to.tp_btf("life_begins", "task_newtask")?;
    to.follows_children = true;
    Ok(())
}

/// What tells of processes that rules may match from now on.
fn changes(to: &mut Attached) -> Result<(), AttachError> {
    to.raw_tp("life_renamed", "sched_process_exec")?;
    to.raw_tp("life_listens", "inet_sock_set_state")?;
    to.object.require(&[TASK_TGID])?;
    to.tp_btf("life_moves", "cgroup_attach_task")
}

/// The tracepoints' own records, all there is without BTF.
fn records(to: &mut Attached) -> Result<(), AttachError> {
    for (program, event) in [
        ("record_send", "sock_send_length"),
        ("record_recv", "sock_recv_length"),
    ] {
        let tracefs = tracefs()?;
        let format = fs::read_to_string(tracefs.join("events/sock").join(event).join("format"))?;
        if !has_fields(&format, &RECORD) {
            return Err(AttachError::new(format!(
                "the record of {event} has another layout"
            )));
        }
        to.tracepoint(program, "sock", event)?;
    }
    Ok(())
}

/// Fields of the records and where the programs expect them (record.rs).
const RECORD: [(&str, &str); 3] = [
    ("__u16 protocol;", "offset:18;"),
    ("int ret;", "offset:20;"),
    ("int flags;", "offset:24;"),
];

/// Whether a description in tracefs has these fields at these offsets.
fn has_fields(format: &str, fields: &[(&str, &str)]) -> bool {
    fields.iter().all(|(field, offset)| {
        let field = format!("field:{field}");
        format
            .lines()
            .any(|line| line.trim().starts_with(&field) && line.contains(offset))
    })
}

/// The tracepoint mode, with trampolines for what bypasses it.
fn with_trampolines(to: &mut Attached, btf: &Btf) -> Result<(), AttachError> {
    splices(to)?;
    zerocopy_receives(to)?;
    sendpage(to, btf)?;
    to.tp_btf("sock_send", "sock_send_length")?;
    to.tp_btf("sock_recv", "sock_recv_length")
}

/// The tracepoint mode, with all receives counted by what is taken from the
/// receive queue.
fn at_receive_queue(to: &mut Attached, _btf: &Btf) -> Result<(), AttachError> {
    to.object.require(&POSITION)?;
    to.object.require(&QUEUE)?;
    to.tp_btf("sock_send", "sock_send_length")?;
    to.noting("note_storage")?;
    to.tp_btf("queue_birth", "inet_sock_set_state")?;
    to.tp_btf("queue_read", "tcp_rcv_space_adjust")?;
    to.tp_btf("queue_recv", "sock_recv_length")
}

fn fentry(to: &mut Attached, btf: &Btf) -> Result<(), AttachError> {
    to.object.require(&[SOCKET_SK])?;
    to.fexit("send_v4", "inet_sendmsg")?;
    to.fexit("recv_v4", "inet_recvmsg")?;
    // A kernel may do without IPv6, or have it as a module.
    if btf.has_function("inet6_sendmsg") {
        to.fexit("send_v6", "inet6_sendmsg")?;
        to.fexit("recv_v6", "inet6_recvmsg")?;
    }
    sendpage(to, btf)?;
    splices(to)?;
    if let Err(error) = zerocopy_receives(to) {
        tracing::debug!(cause = %error, "TCP_ZEROCOPY_RECEIVE cannot be hooked");
    }
    Ok(())
}

/// Until 6.5, sendfile and splice sent by a function of their own.
fn sendpage(to: &mut Attached, btf: &Btf) -> Result<(), AttachError> {
    if btf.has_function("inet_sendpage") {
        to.object.require(&[SOCKET_SK])?;
        to.fexit("sendpage", "inet_sendpage")?;
    }
    Ok(())
}

/// Splices from sockets, by the function above tcp_splice_read, which kernel TLS
/// passes too.
fn splices(to: &mut Attached) -> Result<(), AttachError> {
    to.object.require(&[SOCKET_SK])?;
    to.fexit("splice_read", "sock_splice_read")
        .or_else(|error| {
            tracing::debug!(cause = %error, "sock_splice_read cannot be hooked");
            to.fexit("splice_read_tcp", "tcp_splice_read")
        })
}

fn zerocopy_receives(to: &mut Attached) -> Result<(), AttachError> {
    to.object.require(&[ZC_LENGTH, ZC_COPYBUF_LEN])?;
    to.fexit("zerocopy_receive", "tcp_zerocopy_receive")
}

fn kprobe(to: &mut Attached, btf: &Btf) -> Result<(), AttachError> {
    if !cfg!(target_arch = "x86_64") {
        return Err(AttachError::new(
            "the shipped kprobe programs read the registers of x86-64",
        ));
    }
    to.object.require(&POSITION)?;
    to.object.require(&[URG_SEQ])?;
    to.noting("note_table")?;
    to.raw_tp("forget_sock", "tcp_destroy_sock")?;
    to.raw_tp("forget_reused", "inet_sock_set_state")?;
    kretprobe::sweep();
    to.kretprobe("send_return", "tcp_sendmsg")?;
    to.kprobe("cleanup_rbuf", "tcp_cleanup_rbuf")?;
    // Until 6.5, sendfile and splice came by here.
    if btf.has_function("tcp_sendpage") {
        to.kretprobe("send_return", "tcp_sendpage")?;
    }
    if btf.has_function("mptcp_recvmsg") {
        to.kretprobe("send_return", "mptcp_sendmsg")?;
        received_by_return(to, btf, "mptcp_recvmsg")?;
    }
    if let Err(error) = kernel_tls(to, btf) {
        tracing::debug!(cause = %error, "kernel TLS is not there to be hooked");
    }
    Ok(())
}

/// Kernel TLS's own functions; they are a module's, which may not be loaded.
fn kernel_tls(to: &mut Attached, btf: &Btf) -> Result<(), AttachError> {
    to.kretprobe("send_return", "tls_sw_sendmsg")?;
    to.kretprobe("splice_return", "tls_sw_splice_read")?;
    // Gone since 6.5, as tcp_sendpage is.
    if btf.has_function("tcp_sendpage") {
        to.kretprobe("send_return", "tls_sw_sendpage")?;
    }
    received_by_return(to, btf, "tls_sw_recvmsg")
}

fn received_by_return(to: &mut Attached, btf: &Btf, function: &str) -> Result<(), AttachError> {
    // The return first: an entry without return is not counted, a return
    // without entry neither.
    to.kretprobe("recv_return", function)?;
    // All receive functions lost an argument, `nonblock`, in 5.19.
    let entry = match btf.parameters("tcp_recvmsg") {
        Some(6) => "recv_entry_5_18",
        _ => "recv_entry",
    };
    to.kprobe(entry, function)
}

/// What a user can do about a mode that does not attach.
pub(super) fn remedy(mode: v1::HookMode, error: &AttachError) -> &'static str {
    let cause = error.to_string();
    let denied = ["not permitted", "ermission denied", "may not be read"];
    if !rustix::process::geteuid().is_root() && denied.iter().any(|word| cause.contains(word)) {
        return if mode == v1::HookMode::Kprobe {
            "run as root: the kprobe mode writes to tracefs"
        } else {
            "run as root, or with CAP_BPF and CAP_PERFMON"
        };
    }
    if mode == v1::HookMode::Kprobe && cause.contains("ermission denied") {
        return "start it with --hooks kprobe, which keeps CAP_SYS_ADMIN: where \
                kernel.perf_event_paranoid is 3 or more, perf events need it";
    }
    if mode != v1::HookMode::Tracepoint && cause.contains("no BTF") {
        return "use a kernel built with CONFIG_DEBUG_INFO_BTF=y";
    }
    if cause.contains("do not count") {
        return "this kernel's functions cannot be hooked rightly: use another mode, and report it";
    }
    match mode {
        v1::HookMode::Tracepoint if cause.contains("not mounted") => {
            "mount tracefs: mount -t tracefs nodev /sys/kernel/tracing"
        }
        v1::HookMode::Tracepoint => "needs Linux 6.3 or later, with CONFIG_DEBUG_INFO_BTF=y",
        v1::HookMode::Fentry if cause.contains("not permitted") => {
            "this kernel refuses trampolines (lockdown, or a hardened configuration); use another mode"
        }
        v1::HookMode::Fentry => {
            "needs BPF trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS; on arm64 Linux 6.0 or later)"
        }
        v1::HookMode::Kprobe if cause.contains("not mounted") => {
            "mount tracefs: mount -t tracefs nodev /sys/kernel/tracing"
        }
        v1::HookMode::Kprobe => {
            "needs a kernel built with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y"
        }
        v1::HookMode::Unspecified => "name a mode",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_layout_is_noticed() {
        let format = "\tfield:__u16 protocol;\toffset:18;\tsize:2;\n\tfield:int ret;\toffset:20;\n\
                      \tfield:int flags;\toffset:24;\n";
        assert!(has_fields(format, &RECORD));
        assert!(!has_fields(
            &format.replace("offset:20", "offset:22"),
            &RECORD
        ));
        assert!(!has_fields("", &RECORD));
    }
}
