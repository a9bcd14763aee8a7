//! The few kernel calls that the BPF library has no room for: a pinned
//! program without CAP_SYS_ADMIN, an iteration over one process's files, and a
//! kretprobe with many return slots.
#![allow(unsafe_code)] // raw system calls

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
const BPF_TRACE_ITER: u32 = 28;

const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;
const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;

/// `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct GetAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` for `BPF_LINK_CREATE` of an iterator.
#[repr(C)]
struct IterLinkAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    reserved: u32,
}

/// `union bpf_iter_link_info` for tasks.
#[repr(C)]
#[derive(Default)]
struct IterTaskInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
    reserved: u32,
}

/// `union bpf_attr` for `BPF_ITER_CREATE`.
#[repr(C)]
struct IterCreateAttr {
    link_fd: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attr`, of the size given, and what it points
    // to, which the callers keep alive.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: all of these commands return a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens what is pinned there. The library's way to a pinned program asks for the
/// kernel's BTF by its id, which takes CAP_SYS_ADMIN.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(
        BPF_OBJ_GET,
        &GetAttr {
            pathname: path.as_ptr() as u64,
            bpf_fd: 0,
            file_flags: 0,
        },
    )
}

/// Runs an iterator program over the open files of process `tgid`. Before 6.1
/// the kernel walks every process's files, so the program has to check.
pub(super) fn iterate_files(program: BorrowedFd<'_>, tgid: u32) -> io::Result<()> {
    let link = |pid| {
        let info = IterTaskInfo {
            pid,
            ..IterTaskInfo::default()
        };
        let narrowed = pid != 0;
        bpf(
            BPF_LINK_CREATE,
            &IterLinkAttr {
                prog_fd: program.as_raw_fd().cast_unsigned(),
                target_fd: 0,
                attach_type: BPF_TRACE_ITER,
                flags: 0,
                iter_info: if narrowed { &raw const info as u64 } else { 0 },
                iter_info_len: if narrowed {
                    size_of::<IterTaskInfo>() as u32
                } else {
                    0
                },
                reserved: 0,
            },
        )
    };
    let link = match link(tgid) {
        // An older kernel does not know the selection of a process.
        Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::EINVAL)) => link(0),
        other => other,
    }?;
    let iteration = bpf(
        BPF_ITER_CREATE,
        &IterCreateAttr {
            link_fd: link.as_raw_fd().cast_unsigned(),
            flags: 0,
        },
    )?;
    // Reading is what makes the iteration run; the program prints nothing.
    io::copy(&mut File::from(iteration), &mut io::sink())?;
    Ok(())
}

/// `struct perf_event_attr` as of its first version.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

/// Runs `program` at the trace event `event_id` (a kprobe event of tracefs)
/// until the descriptor is dropped.
pub(super) fn attach_to_event(program: BorrowedFd<'_>, event_id: u64) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<PerfEventAttr>() as u32,
        config: event_id,
        sample_period: 1,
        ..PerfEventAttr::default()
    };
    // SAFETY: the kernel reads `attr`, whose size is in it. Any process, CPU 0:
    // the program runs on all CPUs, because it belongs to the event.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            -1,
            0,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a new descriptor.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    for (request, argument) in [
        (PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()),
        (PERF_EVENT_IOC_ENABLE, 0),
    ] {
        // SAFETY: both take an integer.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(event)
}
