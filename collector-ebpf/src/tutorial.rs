//! The well-known tutorial's program, its logic unchanged: a kretprobe on
//! `tcp_sendmsg`, a kprobe on `tcp_cleanup_rbuf`, and a hash map that is looked
//! up and then updated. Here only so that the accuracy table can show what it
//! gets wrong; nothing of netio uses it.
#![no_std]
#![no_main]

use aya_ebpf::{
    btf_maps::HashMap,
    helpers::bpf_get_current_pid_tgid,
    macros::{btf_map, kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};

/// Bytes of one process.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

#[btf_map]
static WATCHED: HashMap<u32, u8, 1024> = HashMap::new();

#[btf_map]
static TRAFFIC: HashMap<u32, Traffic, 1024> = HashMap::new();

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[kretprobe]
pub fn tutorial_tcp_sendmsg(ctx: RetProbeContext) -> u32 {
    let ret: i32 = ctx.ret();
    if ret > 0 {
        account(ret as u64, 0);
    }
    0
}

#[kprobe]
pub fn tutorial_cleanup_rbuf(ctx: ProbeContext) -> u32 {
    if let Some(copied) = ctx.arg::<i32>(1)
        && copied > 0
    {
        account(0, copied as u64);
    }
    0
}

#[inline(always)]
fn account(sent: u64, received: u64) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if WATCHED.get_ptr(tgid).is_none() {
        return;
    }
    // SAFETY: the value is copied at once, as the tutorial does.
    let mut traffic = unsafe { TRAFFIC.get(tgid) }.copied().unwrap_or_default();
    traffic.sent += sent;
    traffic.received += received;
    let _ = TRAFFIC.insert(tgid, traffic, 0);
}
