//! A /proc made of files.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::super::ProcFs;

pub(super) struct ProcTree(tempfile::TempDir);

impl ProcTree {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn proc_fs(&self) -> ProcFs {
        ProcFs::new(self.0.path())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Adds a file that is no process's.
    pub(super) fn file(&self, name: &str) {
        fs::write(self.0.path().join(name), "").unwrap();
    }

    /// Adds a process of this name: a child of process 1, as old as its pid.
    pub(super) fn process(&self, pid: u32, comm: &str) -> ProcFolder {
        let folder = ProcFolder(self.0.path().join(pid.to_string()));
        fs::create_dir(&folder.0).unwrap();
        folder
            .stat(&stat(pid, 'S', 1, u64::from(pid)))
            .file("comm", format!("{comm}\n"))
    }
}

/// What is given is put into the process's folder.
pub(super) struct ProcFolder(PathBuf);

impl ProcFolder {
    pub(super) fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(super) fn link(self, path: &str, to: &str) -> Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
        self
    }

    pub(super) fn stat(self, stat: &str) -> Self {
        self.file("stat", stat)
    }

    pub(super) fn executable(self, path: &str) -> Self {
        self.link("exe", path)
    }

    /// Puts the process into a network namespace where these sockets listen, each
    /// given by port and inode.
    pub(super) fn network(self, namespace: &str, listening: &[(u16, u64)]) -> Self {
        let table = |local: &str| {
            let mut table = "  sl  local_address rem_address   st ...\n".to_owned();
            for (port, inode) in listening {
                table += &format!(
                    "   0: {local}:{port:04X} 00000000:0000 0A 0:0 00:0 0 101 0 {inode} 1\n"
                );
            }
            table
        };
        self.link("ns/net", namespace)
            .file("net/tcp", table("00000000"))
    }

    pub(super) fn holds(self, sockets: &[u64]) -> Self {
        let folder = self
            .link("fd/0", "/dev/null")
            .link("fd/1", "pipe:[12]")
            .link("fd/2", "anon_inode:[eventpoll]");
        sockets.iter().fold(folder, |folder, socket| {
            folder.link(&format!("fd/{socket}"), &format!("socket:[{socket}]"))
        })
    }
}

/// A whole line of /proc/PID/stat.
pub(super) fn stat(pid: u32, state: char, parent: u32, start_ticks: u64) -> String {
    let pages_and_so_on = ["0"; 30].join(" ");
    format!(
        "{pid} (a) b (c)) {state} {parent} 7 7 0 -1 4194560 10 0 0 0 1 2 0 0 20 0 1 0 {start_ticks} {pages_and_so_on}\n"
    )
}
