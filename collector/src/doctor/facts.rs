//! The facts that the doctor reads: each a file or two.

use std::{fs, io, path::Path};

use super::{Check, Status};
use crate::{
    btf::KERNEL_BTF,
    privilege::{self, Held, Need},
    probe::{pid_namespace, preemption_is_full, tracefs},
};

/// The name of the check without which no mode is of use.
pub(super) const PID_NAMESPACE: &str = "pid namespace";

/// All facts.
pub(super) fn all() -> Vec<Check> {
    let mut checks = vec![kernel(), btf()];
    checks.extend(capability_checks());
    checks.extend([
        seccomp(),
        lockdown(),
        preemption(),
        unprivileged_bpf(),
        perf_paranoid(),
        tracefs_mounted(),
        bpffs_mounted(),
        pids(),
    ]);
    checks
}

/// Its programs need helpers of 5.11 and a hook of 5.12.
const OLDEST: (u32, u32) = (5, 12);
const OLDEST_TESTED: (u32, u32) = (6, 1);

fn kernel() -> Check {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    match version(&release) {
        Some(version) if version < OLDEST => {
            Check::new("kernel", Status::Fail, release).remedy("netio needs Linux 5.12 or later")
        }
        Some(version) if version < OLDEST_TESTED => Check::new(
            "kernel",
            Status::Warn,
            format!("{release}: netio is tested from 6.1 on"),
        )
        .remedy("compare what it counts with what you know: cargo xtask accuracy"),
        _ => Check::new("kernel", Status::Ok, release),
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn btf() -> Check {
    match fs::metadata(KERNEL_BTF) {
        Ok(file) => Check::new(
            "BTF",
            Status::Ok,
            format!("{KERNEL_BTF}, {} KiB", file.len() / 1024),
        ),
        Err(error) => Check::new("BTF", Status::Warn, format!("{KERNEL_BTF}: {error}")).remedy(
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y; without it only the tracepoint mode \
             works, and it misses splices",
        ),
    }
}

/// One check for each capability that is of use, with what its absence costs.
fn capability_checks() -> Vec<Check> {
    match privilege::held() {
        Ok(held) => privilege::NEEDS
            .iter()
            .map(|need| capability(held, need))
            .collect(),
        Err(error) => vec![Check::new(
            "capabilities",
            Status::Warn,
            format!("unknown: {error}"),
        )],
    }
}

fn capability(held: Held, need: &Need) -> Check {
    let status = match (held.has(need), need.vital) {
        (true, _) => {
            return Check::new(need.name, Status::Ok, format!("here: it {}", need.purpose));
        }
        (false, true) => Status::Fail,
        (false, false) => Status::Warn,
    };
    let detail = format!("missing: without it, {}", need.cost);
    Check::new(need.name, status, detail)
        .remedy("run as root (sudo), or grant it to the service (AmbientCapabilities= of its unit)")
}

fn seccomp() -> Check {
    match sysctl("kernel/seccomp/actions_avail") {
        Some(actions) if actions.split_ascii_whitespace().any(|it| it == "errno") => {
            Check::new("seccomp", Status::Ok, "system calls can be filtered")
        }
        _ => Check::new(
            "seccomp",
            Status::Warn,
            "this kernel cannot filter system calls",
        )
        .remedy(
            "start the collector with --no-seccomp, or use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn lockdown() -> Check {
    match fs::read_to_string("/sys/kernel/security/lockdown") {
        Ok(text) => {
            let mode = selected(&text).unwrap_or("unknown").to_owned();
            if mode == "confidentiality" {
                Check::new("lockdown", Status::Warn, mode)
                    .remedy("this mode forbids reading kernel memory, which all hook modes need")
            } else {
                Check::new("lockdown", Status::Ok, mode)
            }
        }
        Err(_) => Check::new(
            "lockdown",
            Status::Ok,
            "not told (securityfs is not mounted, or no lockdown)",
        ),
    }
}

/// The word in brackets: `none [integrity] confidentiality`.
fn selected(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
}

fn preemption() -> Check {
    let detail = if preemption_is_full() {
        "everywhere, as far as can be told: auto takes the fentry mode last, which loses calls then"
    } else {
        "not inside BPF programs"
    };
    Check::new("preemption", Status::Ok, detail)
}

fn unprivileged_bpf() -> Check {
    let name = "unprivileged_bpf";
    match sysctl("kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => Check::new(name, Status::Warn, "0: any user may load BPF programs")
            .remedy("sysctl kernel.unprivileged_bpf_disabled=2 (netio does not need it)"),
        Some(value) => Check::new(
            name,
            Status::Ok,
            format!("disabled ({value}), as it should be"),
        ),
        None => Check::new(name, Status::Ok, "no such sysctl"),
    }
}

fn perf_paranoid() -> Check {
    let name = "perf_paranoid";
    let value = sysctl("kernel/perf_event_paranoid").unwrap_or_else(|| "no such sysctl".to_owned());
    let meaning = match value.parse::<i32>() {
        // Debian's and Ubuntu's kernels know these levels.
        Ok(3..) => "the kprobe mode, and none else, needs CAP_SYS_ADMIN here",
        _ => "CAP_PERFMON overrides it",
    };
    Check::new(name, Status::Ok, format!("{value} ({meaning})"))
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name))
        .ok()
        .map(|value| value.trim().to_owned())
}

fn tracefs_mounted() -> Check {
    match tracefs() {
        Ok(path) => Check::new("tracefs", Status::Ok, path.display().to_string()),
        Err(error) => Check::new(
            "tracefs",
            Status::Warn,
            format!("{error} (the kprobe mode needs it)"),
        )
        .remedy(if error.kind() == io::ErrorKind::PermissionDenied {
            "run as root; another user needs CAP_DAC_OVERRIDE too, and --hooks kprobe, which keeps it"
        } else {
            "mount -t tracefs nodev /sys/kernel/tracing"
        }),
    }
}

fn bpffs_mounted() -> Check {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    match mount_of(&mounts, "bpf") {
        Some(path) => Check::new("bpffs", Status::Ok, path),
        None => Check::new(
            "bpffs",
            Status::Ok,
            "not mounted (not needed now; mount -t bpf bpf /sys/fs/bpf)",
        ),
    }
}

/// Where a file system of this type is mounted.
fn mount_of<'a>(mounts: &'a str, kind: &str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let mut columns = line.split(' ');
        let path = columns.nth(1)?;
        (columns.next()? == kind).then_some(path)
    })
}

fn pids() -> Check {
    match pid_namespace::is_initial() {
        Ok(()) => Check::new(PID_NAMESPACE, Status::Ok, "the host's"),
        Err(elsewhere) => Check::new(PID_NAMESPACE, Status::Fail, elsewhere.to_string())
            .remedy(pid_namespace::REMEDY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_tells_what_it_costs() {
        let checks = capability_checks();
        let names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
        let all = [
            "CAP_BPF",
            "CAP_PERFMON",
            "CAP_SYS_PTRACE",
            "CAP_DAC_READ_SEARCH",
        ];
        assert_eq!(names, all);
        let held = Held::none();
        let told: Vec<_> = privilege::NEEDS
            .iter()
            .map(|need| capability(held, need))
            .collect();
        assert!(told.iter().all(|check| check.remedy.is_some()));
        assert_eq!(told[0].status, Status::Fail);
        assert!(told[0].detail.contains("nothing can be counted"));
        assert_eq!(told[3].status, Status::Warn);
        assert!(told[3].detail.contains("by port"), "{}", told[3].detail);
    }

    #[test]
    fn reads_versions() {
        assert_eq!(version("6.1.0-56-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("5.4.119"), Some((5, 4)));
        assert_eq!(version("odd"), None);
    }

    #[test]
    fn reads_the_selected_word_and_mounts() {
        assert_eq!(
            selected("none [integrity] confidentiality\n"),
            Some("integrity")
        );
        assert_eq!(selected("none"), None);
        let mounts = "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n";
        assert_eq!(mount_of(mounts, "bpf"), Some("/sys/fs/bpf"));
        assert_eq!(mount_of(mounts, "tracefs"), None);
    }
}
