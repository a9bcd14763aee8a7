//! The system calls that the collector may make, as a seccomp filter.
//!
//! What is not listed fails with ENOSYS, as on a kernel that does not know the
//! call. Nothing is killed by it: a call that some version of libc makes and that
//! is missing here must not end the counting. And ENOSYS rather than EPERM, because
//! libc goes another way around a call that its kernel does not have (`clone3`,
//! whose flags a filter cannot see, is refused on purpose so). What was refused
//! shows in the error of whatever wanted it; `strace -f` names it.
//!
//! No program can be executed, no other process traced, read from, signalled or
//! entered, nothing mounted, no privilege gained, no packet socket opened, and no
//! memory both written and executed. The `bpf` call is not narrowed by command:
//! that is what the two capabilities for it do.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, env::consts::ARCH, process};

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Is,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::PrivilegeError;

/// Whatever their arguments.
const ALLOWED: &[&[c_long]] = &[
    // Memory and threads.
    &[
        libc::SYS_brk,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_futex,
        libc::SYS_getcpu,
        libc::SYS_gettid,
        libc::SYS_madvise,
        libc::SYS_membarrier,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_restart_syscall,
        libc::SYS_rseq,
        libc::SYS_sched_getaffinity,
        // To read what each CPU has counted, when hooks are handed over.
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
    ],
    // Signals.
    &[
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
    ],
    // Time, chance, and what this process and machine are.
    &[
        libc::SYS_clock_getres,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_getegid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_getrusage,
        libc::SYS_gettimeofday,
        libc::SYS_getuid,
        libc::SYS_nanosleep,
        libc::SYS_sysinfo,
        libc::SYS_uname,
    ],
    // Files: /proc, /sys, tracefs; its own socket's, pins, state and settings.
    &[
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fcntl,
        libc::SYS_fdatasync,
        libc::SYS_flock,
        libc::SYS_fstat,
        libc::SYS_fstatfs,
        libc::SYS_fsync,
        libc::SYS_ftruncate,
        libc::SYS_getcwd,
        libc::SYS_getdents64,
        libc::SYS_lseek,
        libc::SYS_mkdirat,
        libc::SYS_newfstatat,
        libc::SYS_openat,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_read,
        libc::SYS_readlinkat,
        libc::SYS_readv,
        libc::SYS_renameat2,
        libc::SYS_statfs,
        libc::SYS_statx,
        libc::SYS_unlinkat,
        libc::SYS_write,
        libc::SYS_writev,
    ],
    // Waiting; exits of processes.
    &[
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_eventfd2,
        libc::SYS_pidfd_open,
        libc::SYS_pipe2,
        libc::SYS_ppoll,
        libc::SYS_timerfd_create,
        libc::SYS_timerfd_gettime,
        libc::SYS_timerfd_settime,
    ],
    // Connections.
    &[
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_bind,
        libc::SYS_connect,
        libc::SYS_getpeername,
        libc::SYS_getsockname,
        libc::SYS_getsockopt,
        libc::SYS_listen,
        libc::SYS_recvfrom,
        libc::SYS_recvmmsg,
        libc::SYS_recvmsg,
        libc::SYS_sendmmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_setsockopt,
        libc::SYS_shutdown,
    ],
    // What it is all for.
    &[libc::SYS_bpf, libc::SYS_perf_event_open],
    #[cfg(target_arch = "x86_64")]
    OLDER,
];

/// What older architectures have beside, and libc still uses there.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];

/// What a descriptor may be asked: whether it is a terminal, not to block, to be
/// closed by exec, how much there is to read; and for a perf event to run a program.
const IOCTLS: &[u64] = &[
    0x5401,      // TCGETS
    0x802c_542a, // TCGETS2
    0x5413,      // TIOCGWINSZ
    0x541b,      // FIONREAD
    0x5421,      // FIONBIO
    0x5450,      // FIONCLEX
    0x5451,      // FIOCLEX
    0x2400,      // PERF_EVENT_IOC_ENABLE
    0x2401,      // PERF_EVENT_IOC_DISABLE
    0x4004_2408, // PERF_EVENT_IOC_SET_BPF
];

/// Names of threads and of memory, how exact timers are, and what the kernel told
/// at the start.
const PRCTLS: &[i32] = &[
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_TIMERSLACK,
    libc::PR_GET_TIMERSLACK,
    libc::PR_SET_VMA,
    PR_GET_AUXV,
];

const PR_GET_AUXV: i32 = 0x4155_5856;

/// Packet, netlink and other sockets reach further than a connection does.
const FAMILIES: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

/// Confines this process to the calls that are listed, all of its threads.
pub fn filter_system_calls() -> Result<(), PrivilegeError> {
    let program = program().map_err(PrivilegeError::unfiltered)?;
    apply_filter_all_threads(&program).map_err(PrivilegeError::unfiltered)
}

fn program() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for call in ALLOWED.iter().copied().flatten() {
        rules.insert(*call, Vec::new());
    }
    rules.insert(libc::SYS_ioctl, one_of(1, IOCTLS.iter().copied())?);
    let prctls = PRCTLS
        .iter()
        .map(|option| u64::from(option.cast_unsigned()));
    rules.insert(libc::SYS_prctl, one_of(0, prctls)?);
    let families = || FAMILIES.iter().map(|it| u64::from(it.cast_unsigned()));
    rules.insert(libc::SYS_socket, one_of(0, families())?);
    rules.insert(libc::SYS_socketpair, one_of(0, families())?);
    // Threads, but no processes.
    let thread = bits(libc::CLONE_THREAD);
    rules.insert(libc::SYS_clone, masked(0, &[(thread, thread)])?);
    let (write, exec) = (bits(libc::PROT_WRITE), bits(libc::PROT_EXEC));
    rules.insert(libc::SYS_mmap, masked(2, &[(write, 0), (exec, 0)])?);
    rules.insert(libc::SYS_mprotect, masked(2, &[(exec, 0)])?);
    // Reads limits, and sets none.
    let null = condition(2, Len::Qword, Is::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![null])?]);
    // As abort and raise do.
    rules.insert(libc::SYS_tgkill, one_of(0, [u64::from(process::id())])?);
    let refused = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let filter = SeccompFilter::new(
        rules,
        refused,
        SeccompAction::Allow,
        TargetArch::try_from(ARCH)?,
    )?;
    filter.try_into()
}

fn bits(flag: i32) -> u64 {
    u64::from(flag.cast_unsigned())
}

fn condition(argument: u8, len: Len, is: Is, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, len, is, value)
}

/// An argument of 32 bits is one of these.
fn one_of(
    argument: u8,
    values: impl IntoIterator<Item = u64>,
) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |value| SeccompRule::new(vec![condition(argument, Len::Dword, Is::Eq, value)?]);
    values.into_iter().map(rule).collect()
}

/// An argument has one of these bits under their masks.
fn masked(argument: u8, any: &[(u64, u64)]) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |&(mask, value): &(u64, u64)| {
        let condition = condition(argument, Len::Qword, Is::MaskedEq(mask), value)?;
        SeccompRule::new(vec![condition])
    };
    any.iter().map(rule).collect()
}
