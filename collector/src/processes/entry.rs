//! Reads one process's folder in /proc.
//!
//! Takes a pid, produces facts about its process. Promises that everything that
//! is read through one [`Entry`] is the same process's, or an error: the folder
//! is held open, and the kernel does not give a dead process's folder to the
//! next user of its pid.
//!
//! `comm`, `status` and `cgroup` are read as bytes and not by `procfs`, which
//! fails on the whole file for a name that is no UTF-8, and any process may
//! choose such a name.
#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};

use netio::{printable, v1};
use procfs::process::Process;
use rustix::fs::{Dir, OFlags, readlinkat_raw};

use super::cgroup::cgroup_path;

/// More than any of these files has.
const MAX_FILE: u64 = 1 << 20;

/// A process's folder, held open.
pub(super) struct Entry {
    pub(super) pid: u32,
    folder: Process,
}

/// What of `stat` is of use.
pub(super) struct Stat {
    pub(super) parent: u32,
    pub(super) start_time_ns: u64,
    /// Whether any of its threads runs.
    pub(super) running: bool,
}

impl Stat {
    /// Whether this is when it started, as told to the nanosecond or with the
    /// resolution of `stat`.
    pub(super) fn started_at(&self, start_time_ns: u64) -> bool {
        let tick = nanoseconds(1, rustix::param::clock_ticks_per_second());
        start_time_ns
            .checked_sub(self.start_time_ns)
            .is_some_and(|later| later < tick)
    }
}

impl Entry {
    /// Opens a process's folder; a thread that leads no process has one, too,
    /// though it is not listed.
    pub(super) fn open(proc: &Path, pid: u32) -> io::Result<Self> {
        let folder = Process::new_with_root(proc.join(pid.to_string()));
        let folder = folder.map_err(io::Error::other)?;
        Ok(Self { pid, folder })
    }

    /// The folder of a process that was found in a listing.
    pub(super) fn of(folder: Process) -> Option<Self> {
        let pid = u32::try_from(folder.pid()).ok()?;
        Some(Self { pid, folder })
    }

    pub(super) fn stat(&self) -> io::Result<Stat> {
        let stat = self.folder.stat().map_err(io::Error::other)?;
        Ok(Stat {
            parent: u32::try_from(stat.ppid).unwrap_or(0),
            start_time_ns: nanoseconds(stat.starttime, rustix::param::clock_ticks_per_second()),
            // A leader may exit before the other threads.
            running: !matches!(stat.state, 'Z' | 'X' | 'x') || stat.num_threads > 1,
        })
    }

    /// The kernel's name of it.
    pub(super) fn comm(&self) -> io::Result<Vec<u8>> {
        let mut comm = self.read("comm")?;
        if comm.last() == Some(&b'\n') {
            comm.pop();
        }
        Ok(comm)
    }

    /// The path of its executable, even if the file has been replaced since, as
    /// when a package is upgraded under a running server. Kernel threads have none.
    pub(super) fn executable(&self) -> io::Result<Vec<u8>> {
        let path = self.folder.exe().map_err(io::Error::other)?;
        let mut path = path.into_os_string().into_encoded_bytes();
        if path.ends_with(DELETED) {
            path.truncate(path.len() - DELETED.len());
        }
        Ok(path)
    }

    /// Its `cgroup` file, a line for each hierarchy.
    pub(super) fn cgroups(&self) -> io::Result<String> {
        let file = self.read("cgroup")?;
        Ok(String::from_utf8_lossy(&file).into_owned())
    }

    /// Which process the thread belongs to; its own pid if it is one.
    pub(super) fn thread_group(&self) -> Option<u32> {
        let status = self.read("status").ok()?;
        status_field(&status, "Tgid:")?.parse().ok()
    }

    /// Its pid in its own pid namespace; 0 if that cannot be read any more.
    fn container_pid(&self) -> u32 {
        let Ok(status) = self.read("status") else {
            return 0;
        };
        // One number for each namespace, from the outermost to its own. Kernels
        // without pid namespaces tell none.
        match status_field(&status, "NSpid:") {
            Some(pids) => pids
                .split_ascii_whitespace()
                .last()
                .and_then(|pid| pid.parse().ok())
                .unwrap_or(0),
            None => self.pid,
        }
    }

    /// Everything that is told about a process, of which these are known already.
    pub(super) fn describe(&self, stat: &Stat, comm: &[u8], cgroups: &str) -> v1::Process {
        v1::Process {
            pid: self.pid,
            start_time_ns: stat.start_time_ns,
            name: printable::without_controls(comm),
            container_pid: self.container_pid(),
            cgroup: printable::without_controls(
                cgroup_path(cgroups).unwrap_or_default().as_bytes(),
            ),
        }
    }

    /// Names its network namespace, as long as any process is in it.
    pub(super) fn network_namespace(&self) -> io::Result<Vec<u8>> {
        let namespaces = self.open_folder("ns")?;
        let mut link = [0; 64];
        let length = readlinkat_raw(&namespaces, "net", &mut link)?;
        Ok(link.iter().copied().take(length).collect())
    }

    /// A file about its network namespace.
    pub(super) fn network(&self, file: &str) -> io::Result<impl BufRead + use<>> {
        Ok(BufReader::new(self.open_file(&format!("net/{file}"))?))
    }

    /// The inodes of the sockets that it holds, in no order; one that it holds
    /// twice, twice.
    pub(super) fn sockets(&self) -> io::Result<impl Iterator<Item = u64> + use<>> {
        let folder = self.open_folder("fd")?;
        let fds = Dir::new(folder.try_clone()?)?;
        Ok(fds.filter_map(move |fd| {
            let fd = fd.ok()?;
            // Longer than the link of any socket.
            let mut link = [0; 32];
            let length = readlinkat_raw(&folder, fd.file_name(), &mut link).ok()?;
            let link = std::str::from_utf8(link.get(..length)?).ok()?;
            let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
            inode.parse().ok()
        }))
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(1024);
        self.open_file(file)?
            .take(MAX_FILE)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn open_file(&self, path: &str) -> io::Result<File> {
        self.folder.open_relative(path).map_err(io::Error::other)
    }

    fn open_folder(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.folder
            .open_relative_flags(path, flags)
            .map_err(io::Error::other)
    }
}

/// What the kernel appends to the link of a file that is gone.
const DELETED: &[u8] = b" (deleted)";

/// The last component of a path.
pub(super) fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// A time since boot.
fn nanoseconds(ticks: u64, ticks_per_second: u64) -> u64 {
    let nanoseconds = u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second.max(1));
    u64::try_from(nanoseconds).unwrap_or(u64::MAX)
}

/// A line of `status`. The process's name is in there, but cannot look like a
/// line: the kernel escapes newlines.
fn status_field<'a>(status: &'a [u8], field: &str) -> Option<&'a str> {
    status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(field.as_bytes()))
        .and_then(|value| std::str::from_utf8(value).ok())
        .map(str::trim)
}
