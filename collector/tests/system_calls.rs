//! What the filter of system calls refuses, and what it lets pass. A filter can be
//! tried in a thread of its own only where it is not put upon all threads, so each
//! trial is a process: this test program, run again.
#![allow(unsafe_code, reason = "raw system calls, which is what is tested")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is a test"
)]

use std::{
    env,
    io::Read as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    thread,
};

use netio_collector::privilege::filter_system_calls;

/// Set in the process that is filtered.
const FILTERED: &str = "TEST_FILTERED";

/// Calls that are refused, with arguments that do no harm if they are not: most are
/// bad addresses, descriptors or flags.
const REFUSED: [(&str, libc::c_long, [libc::c_long; 4]); 24] = [
    ("execve", libc::SYS_execve, [0; 4]),
    ("execveat", libc::SYS_execveat, [-1, 0, 0, 0]),
    ("ptrace", libc::SYS_ptrace, [-1, -1, 0, 0]),
    (
        "process_vm_readv",
        libc::SYS_process_vm_readv,
        [-1, 0, 0, 0],
    ),
    (
        "process_vm_writev",
        libc::SYS_process_vm_writev,
        [-1, 0, 0, 0],
    ),
    ("pidfd_getfd", libc::SYS_pidfd_getfd, [-1, -1, 0, 0]),
    (
        "open_by_handle_at",
        libc::SYS_open_by_handle_at,
        [-1, 0, 0, 0],
    ),
    ("mount", libc::SYS_mount, [0; 4]),
    ("umount2", libc::SYS_umount2, [0; 4]),
    ("chroot", libc::SYS_chroot, [0; 4]),
    ("setns", libc::SYS_setns, [-1, 0, 0, 0]),
    ("unshare", libc::SYS_unshare, [-1, 0, 0, 0]),
    ("init_module", libc::SYS_init_module, [0; 4]),
    ("kexec_load", libc::SYS_kexec_load, [-1, -1, 0, -1]),
    ("keyctl", libc::SYS_keyctl, [-1, 0, 0, 0]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0; 4]),
    ("userfaultfd", libc::SYS_userfaultfd, [-1, 0, 0, 0]),
    ("capset", libc::SYS_capset, [0; 4]),
    ("setuid", libc::SYS_setuid, [-1, 0, 0, 0]),
    ("kill", libc::SYS_kill, [i32::MAX as libc::c_long, 0, 0, 0]),
    ("tgkill of another", libc::SYS_tgkill, [1, 1, 0, 0]),
    (
        "socket AF_PACKET",
        libc::SYS_socket,
        [libc::AF_PACKET as libc::c_long, 3, 0, 0],
    ),
    (
        "socket AF_NETLINK",
        libc::SYS_socket,
        [libc::AF_NETLINK as libc::c_long, 3, 0, 0],
    ),
    (
        "ioctl TIOCSTI",
        libc::SYS_ioctl,
        [-1, libc::TIOCSTI as libc::c_long, 0, 0],
    ),
];

/// Those of them that every kernel knows.
const KNOWN: [&str; 6] = [
    "execve",
    "ptrace",
    "mount",
    "unshare",
    "capset",
    "socket AF_NETLINK",
];

/// The error number of a call; 0 if it succeeds.
fn errno(call: libc::c_long, [a, b, c, d]: [libc::c_long; 4]) -> i32 {
    // SAFETY: no pointer among the arguments but null, which the kernel checks.
    match unsafe { libc::syscall(call, a, b, c, d) } {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap(),
        _ => 0,
    }
}

/// Tries everything in this process; what does not come out as it should is said
/// on standard output.
fn try_all() {
    for (name, call, arguments) in REFUSED {
        match errno(call, arguments) {
            libc::ENOSYS => {}
            other => println!("{name} gives {other}"),
        }
    }
    if Command::new("/bin/true").status().is_ok() {
        println!("a program was executed");
    }
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: a mapping of its own, if it is made at all.
    if unsafe { libc::mmap(std::ptr::null_mut(), 4096, all, anonymous, -1, 0) } != libc::MAP_FAILED
    {
        println!("memory is both written and executed");
    }

    // What a program does all day. A thread shows that libc does without clone3.
    let own = thread::spawn(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        drop(near);
        far.read(&mut [0]).unwrap()
    });
    assert_eq!(own.join().unwrap(), 0);
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() > 2);
    println!("tried");
}

fn run_again(filtered: bool) -> String {
    let mut again = Command::new(env::current_exe().unwrap());
    again.args(["--exact", "what_is_not_listed_is_refused", "--nocapture"]);
    again.env(FILTERED, if filtered { "yes" } else { "no" });
    let output = again.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && said.contains("tried\n"),
        "{said}"
    );
    said
}

#[test]
fn what_is_not_listed_is_refused() {
    match env::var(FILTERED).as_deref() {
        Ok("yes") => {
            filter_system_calls().unwrap();
            try_all();
        }
        Ok(_) => try_all(),
        Err(_) => {
            let said = run_again(true);
            for wrong in [" gives ", "executed"] {
                assert!(!said.contains(wrong), "{said}");
            }
            // Or it would be the kernel that does not know them.
            let said = run_again(false);
            for (name, ..) in REFUSED {
                if !said.contains(&format!("{name} gives")) {
                    assert!(!KNOWN.contains(&name), "{name}: {said}");
                    eprintln!("skipping {name} - this kernel does not know it");
                }
            }
            assert!(said.contains("a program was executed"), "{said}");
            assert!(said.contains("both written and executed"), "{said}");
        }
    }
}
