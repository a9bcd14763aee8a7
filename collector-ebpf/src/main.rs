//! netio's programs in the kernel.
//!
//! Three sets of hooks, of which the collector loads one, and one accounting
//! ([`account`]): who sends or receives is looked up in the allow-list, and the
//! bytes are added to that process's counters on this CPU.
//!
//! - [`tracepoint`]: the socket layer's tracepoints, by return value ([`record`]
//!   on a kernel without BTF).
//! - [`fexit`]: trampolines on the functions that the socket layer calls for
//!   every Internet socket, by return value.
//! - [`kprobe`]: probes on TCP's own functions.
//!
//! Where no return value is to be had (receives that bypass the hooks, or the
//! kprobe mode's receives), [`receive_queue`] counts by how far the socket's
//! read position advances.
//!
//! Beside them, [`lives`] follows processes from birth to exit.
//!
//! Nothing here depends on the CPU architecture except the kprobe programs,
//! which read their arguments from the registers of x86-64.
#![no_std]
#![no_main]
// For atomic operations (see account.rs, lives.rs).
#![allow(internal_features)]
#![feature(core_intrinsics)]

mod account;
mod fexit;
mod kprobe;
mod lives;
mod receive_queue;
mod record;
mod sock;
mod tracepoint;

/// Several kernel helpers are for programs under a GPL-compatible licence only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no path leads here.
    loop {}
}
