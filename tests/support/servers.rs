//! What the database servers of the tests have in common: a free port, a log, and
//! how one sees that a server listens without connecting to it.

use std::{
    env, fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use super::{PATIENCE, Result};

/// `TCP_LISTEN` in /proc/net/tcp.
const LISTENS: &str = "0A";

/// An address on loopback that is free now; the server has it a moment later.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Whether anybody listens there. Asking is no connection: those count.
pub fn listens(address: SocketAddr) -> io::Result<bool> {
    let port = format!(":{:04X}", address.port());
    let listens = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some(LISTENS)
    };
    Ok(fs::read_to_string("/proc/net/tcp")?.lines().any(listens))
}

/// Waits until `server` listens at `address`.
pub fn await_listening(server: &mut Child, address: SocketAddr, log: &Path) -> Result {
    let start = Instant::now();
    while !listens(address)? {
        if server.try_wait()?.is_some() || start.elapsed() > PATIENCE {
            return Err(text(log).into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// What a log says, for an error.
pub fn text(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    format!("{} says: {text}", log.display())
}

/// Runs a client program to its end, which must be good; what it complained about
/// is in the error.
pub fn succeed(program: &mut Command) -> Result {
    let output = program.output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program:?} ended with {}: {complaint}", output.status).into())
}

/// The file that typing this command would run.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| {
            fs::metadata(file).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
        })
}

/// The processes whose name, as the kernel has it, is this.
pub fn processes_named(name: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for pid in pids()? {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        if comm.is_ok_and(|comm| comm.trim_end() == name) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The children of a process, those that have exited and are not waited for
/// left out.
pub fn children(parent: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for pid in pids()? {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue; // it has exited
        };
        // "pid (name) state ppid ...", and a name may hold anything.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = rest.split_whitespace();
        if fields.next() != Some("Z") && fields.next() == Some(&parent.to_string()) {
            children.push(pid);
        }
    }
    Ok(children)
}

fn pids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}
