//! A real cgroup of this machine.

use std::{fs, io, path::PathBuf, time::Duration};

use netio::v1::target::Selector as Wire;

use super::{
    super::{ProcFs, Processes as _, Selector},
    running::{Running, pids},
};

/// A cgroup within another, removed in the end; its processes have to be gone by
/// then.
struct Cgroups {
    inner: PathBuf,
    outer: PathBuf,
}

impl Cgroups {
    /// Below the root of version 2's hierarchy.
    fn new(outer: &str, inner: &str) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4))
            .ok_or_else(|| io::Error::other("no mount of it"))?;
        let outer = PathBuf::from(mount).join(outer);
        let inner = outer.join(inner);
        fs::create_dir(&outer)?;
        fs::create_dir(&inner)?;
        Ok(Self { inner, outer })
    }

    /// Puts a process into the inner one.
    fn take(&self, pid: u32) -> io::Result<()> {
        fs::write(self.inner.join("cgroup.procs"), pid.to_string())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // The kernel may need a moment to let a killed process go.
        for _ in 0..1000 {
            if fs::remove_dir(&self.inner).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = fs::remove_dir(&self.outer);
    }
}

#[tokio::test]
async fn a_real_process_is_found_by_its_cgroup() {
    // The process's id in hexadecimal digits makes the names unique to this run.
    let id = format!("{:064x}", std::process::id()).replace('0', "f");
    let unit = format!("netio-test-{}.service", std::process::id());
    let scope = format!("docker-{id}.scope");
    let cgroups = match Cgroups::new(&unit, &scope) {
        Ok(cgroups) => cgroups,
        Err(error) => return eprintln!("skipping test - lacks a cgroup (v2) to write: {error}"),
    };
    let (there, elsewhere) = (Running::sleep(), Running::sleep());
    cgroups.take(there.pid()).unwrap();

    let proc = ProcFs::new("/proc");
    let cgroup = format!("/{unit}/{scope}");
    let found = proc.find(there.pid()).unwrap();
    assert_eq!(found.process.cgroup, cgroup);
    let selectors = [
        Wire::Cgroup(format!("/{unit}")),
        Wire::Cgroup(cgroup),
        Wire::Cgroup(cgroups.outer.to_str().unwrap().to_owned()),
        Wire::Unit(unit),
        Wire::Container(id.clone()),
        Wire::Container(id[..60].to_uppercase()),
    ];
    for selector in selectors {
        let selector = Selector::parse(&selector).unwrap();
        let found = proc.matching(&selector).unwrap();
        assert_eq!(pids(&found), [there.pid()], "{selector}");
        let rules = [selector];
        assert!(proc.matches(there.pid(), &rules).is_some());
        assert!(proc.matches(elsewhere.pid(), &rules).is_none());
    }
}
