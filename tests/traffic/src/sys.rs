//! The system calls that no safe wrapper offers: TCP_INFO, any socket option,
//! recvmmsg, the error queue, TCP_ZEROCOPY_RECEIVE, alarm, fork and its kin.
//!
//! Every function takes borrowed descriptors and slices and is safe to call.
#![allow(unsafe_code)] // It exists to hold the crate's raw system calls.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd as _};
use std::ptr;

/// The kernel's `struct tcp_info`, as far as it is needed (Linux 4.19).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    bytes: [u8; 5],
    /// TCPI_OPT_* flags.
    pub options: u8,
    bits: [u8; 2],
    before_unacked: [u32; 4],
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    before_bytes: [u32; 19],
    rates: [u64; 2],
    bytes_acked: u64,
    /// How far the receive sequence has advanced: data, and 1 for a FIN.
    pub bytes_received: u64,
    segments: [u32; 2],
    /// Bytes accepted from the process and not sent yet.
    pub notsent_bytes: u32,
    before_sent: [u32; 3],
    rates_and_limits: [u64; 4],
    delivered: [u32; 2],
    /// Data bytes sent, with retransmissions.
    pub bytes_sent: u64,
    /// Data bytes retransmitted.
    pub bytes_retrans: u64,
}

/// TCPI_OPT_SYN_DATA: data in the SYN was acknowledged.
pub(crate) const OPTION_SYN_DATA: u8 = 32;

/// Reads TCP_INFO.
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut info: TcpInfo = unsafe { zeroed() };
    let length = get_option(&socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    if length < size_of::<TcpInfo>() {
        return Err(io::Error::other(format!(
            "the kernel's TCP_INFO has {length} bytes; {} are needed (Linux 4.19 or later)",
            size_of::<TcpInfo>()
        )));
    }
    Ok(info)
}

/// Sets a socket option to an integer or to a C struct.
pub(crate) fn set_option<T: Copy>(
    socket: impl AsFd,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel only reads `size_of::<T>()` bytes at `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result as isize).map(drop)
}

/// A C struct.
///
/// # Safety
///
/// It holds integers only, so that any bytes are a value.
unsafe trait Plain: Copy {}
// SAFETY: integers only.
unsafe impl Plain for TcpInfo {}
// SAFETY: integers only.
unsafe impl Plain for ZerocopyReceive {}
// SAFETY: integers only.
unsafe impl Plain for MptcpInfo {}

/// Exchanges `value` with a socket option; returns the bytes written.
fn get_option<T: Plain>(
    socket: impl AsFd,
    level: c_int,
    name: c_int,
    value: &mut T,
) -> io::Result<usize> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`, which is
    // valid whatever they are.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            ptr::from_mut(value).cast(),
            &mut length,
        )
    };
    check(result as isize)?;
    Ok(length as usize)
}

/// The beginning of the kernel's `struct mptcp_info` (Linux 5.16).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct MptcpInfo {
    counts: [u8; 8],
    flags: u32,
}

const SOL_MPTCP: c_int = 284;
const MPTCP_INFO: c_int = 1;
/// MPTCP_INFO_FLAG_FALLBACK
const FLAG_FALLBACK: u32 = 1;

/// Whether the MPTCP socket speaks plain TCP because its peer does.
pub(crate) fn mptcp_fell_back(socket: impl AsFd) -> io::Result<bool> {
    let mut info = MptcpInfo::default();
    match get_option(socket, SOL_MPTCP, MPTCP_INFO, &mut info) {
        Ok(_) => Ok(info.flags & FLAG_FALLBACK != 0),
        // After a fallback the option is looked up in the plain TCP socket.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(true),
        Err(error) => Err(error),
    }
}

/// One recvmmsg, a message per buffer. Returns the length of each message that
/// came; it waits for the first only.
pub(crate) fn receive_many(socket: impl AsFd, buffers: &mut [Vec<u8>]) -> io::Result<Vec<usize>> {
    let mut vectors: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: a header of zeros is one without address and control data.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    // SAFETY: every header points to one vector, every vector to one exclusively
    // borrowed buffer; all outlive the call.
    let result = unsafe {
        libc::recvmmsg(
            socket.as_fd().as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as u32,
            libc::MSG_WAITFORONE as _,
            ptr::null_mut(),
        )
    };
    let count = check(result as isize)?;
    Ok(messages[..count]
        .iter()
        .map(|message| message.msg_len as usize)
        .collect())
}

/// SO_EE_ORIGIN_ZEROCOPY: an entry of the error queue that tells completions.
const ORIGIN_ZEROCOPY: u8 = 5;

/// One read of the error queue: how many zero-copy sends it tells to be done.
pub(crate) fn completed_zerocopy_sends(socket: impl AsFd) -> io::Result<u32> {
    let mut control = [0_u64; 32];
    // SAFETY: a header of zeros is one without data, address and control data.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the header points to an exclusively borrowed, aligned buffer.
    let result = unsafe {
        libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &mut message,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    check(result)?;
    let mut completed = 0;
    // SAFETY: the header is as recvmsg left it and its buffer is alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    while !header.is_null() {
        // SAFETY: a control message of the error queue holds a
        // sock_extended_err; CMSG_NXTHDR stays within the buffer.
        unsafe {
            let error: libc::sock_extended_err =
                ptr::read_unaligned(libc::CMSG_DATA(header).cast());
            if error.ee_origin == ORIGIN_ZEROCOPY {
                completed += error.ee_data - error.ee_info + 1;
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok(completed)
}

/// The kernel's `struct tcp_zerocopy_receive` (Linux 5.11).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct ZerocopyReceive {
    address: u64,
    length: u32,
    recv_skip_hint: u32,
    inq: u32,
    err: i32,
    copybuf_address: u64,
    copybuf_len: i32,
    flags: u32,
    msg_control: u64,
    msg_controllen: u64,
    msg_flags: u32,
    reserved: u32,
}

/// What one TCP_ZEROCOPY_RECEIVE delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped {
    /// Bytes mapped into the window.
    pub(crate) mapped: usize,
    /// Bytes copied into the copy buffer.
    pub(crate) copied: usize,
    /// Bytes that wait and must be read by an ordinary receive.
    pub(crate) to_read: usize,
}

/// Pages of a socket's receive queue, mapped into this process.
pub(crate) struct Window {
    address: *mut c_void,
    length: usize,
}

impl Window {
    pub(crate) fn new(socket: impl AsFd, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address the kernel chooses.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                socket.as_fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address, length })
    }

    /// One TCP_ZEROCOPY_RECEIVE; never blocks. `socket` is the one mapped.
    pub(crate) fn receive(&self, socket: impl AsFd, copy: &mut [u8]) -> io::Result<Mapped> {
        let mut request = ZerocopyReceive {
            address: self.address as u64,
            length: self.length as u32,
            copybuf_address: copy.as_mut_ptr() as u64,
            copybuf_len: copy.len() as i32,
            ..ZerocopyReceive::default()
        };
        let name = libc::TCP_ZEROCOPY_RECEIVE;
        get_option(socket, libc::IPPROTO_TCP, name, &mut request)?;
        if request.err != 0 || request.copybuf_len < 0 {
            // Both are negative error numbers.
            let code = -request.err.min(request.copybuf_len);
            return Err(io::Error::from_raw_os_error(code));
        }
        Ok(Mapped {
            mapped: request.length as usize,
            copied: request.copybuf_len as usize,
            to_read: request.recv_skip_hint as usize,
        })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and nothing points into it.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

/// Has the kernel end this process after that many seconds; 0: not any more.
/// Forked processes do not inherit it.
pub(crate) fn alarm(seconds: u32) {
    // SAFETY: it takes and gives numbers.
    unsafe { libc::alarm(seconds) };
}

/// How a new process comes to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Birth {
    /// fork
    Child,
    /// CLONE_PARENT: the parent of the caller is its parent, too.
    Sibling,
    /// A child with this pid, which must be free. Needs root.
    WithPid(u32),
}

/// Forks a process that has one thread. None in the new process, its pid in the
/// old one.
pub(crate) fn fork(birth: Birth) -> io::Result<Option<u32>> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "fork with {threads} threads: their locks would stay held in the child"
        )));
    }
    // SAFETY: an integer or a pointer, for both of which zero is a value.
    let mut arguments: libc::clone_args = unsafe { zeroed() };
    let pids: [libc::pid_t; 1];
    match birth {
        Birth::Child => {
            // SAFETY: with one thread no lock is held by another, so the child may
            // go on as if nothing had happened.
            let pid = unsafe { libc::fork() };
            return forked(pid as isize);
        }
        // The signal at its exit is as its parent has it.
        Birth::Sibling => arguments.flags = libc::CLONE_PARENT as u64,
        Birth::WithPid(pid) => {
            pids = [pid as libc::pid_t];
            arguments.exit_signal = libc::SIGCHLD as u64;
            arguments.set_tid = pids.as_ptr() as u64;
            arguments.set_tid_size = pids.len() as u64;
        }
    }
    // SAFETY: the arguments ask for a copy of this process on a copy of its stack,
    // as fork does; `pids`, where they point to it, outlives the call. With one
    // thread no lock is held by another. That the C library does not know of the
    // new process, whose one thread has another id, matters to robust and
    // recursive locks only.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_mut(&mut arguments),
            size_of::<libc::clone_args>(),
        )
    };
    forked(pid as isize)
}

fn forked(result: isize) -> io::Result<Option<u32>> {
    let pid = check(result)?;
    Ok((pid != 0).then_some(pid as u32))
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
