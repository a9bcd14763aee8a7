//! Real sockets of this machine.

use std::{
    env,
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use rustix::{
    io::FdFlags,
    net::{AddressFamily, SocketType, ipproto},
};

use super::{
    super::{ProcFs, Processes as _, Selector},
    running::{Running, eventually, pids},
};

fn holders(port: u16) -> Vec<u32> {
    let proc = ProcFs::new("/proc");
    pids(&proc.matching(&Selector::Port(port)).unwrap())
}

/// What finds a listener in this process, and no longer once it is closed.
fn is_found(listener: TcpListener) {
    let port = listener.local_addr().unwrap().port();
    let me = std::process::id();
    assert!(holders(port).contains(&me));
    let rules = [Selector::Port(1), Selector::Port(port)];
    let (matched, _) = ProcFs::new("/proc").matches(me, &rules).unwrap();
    assert_eq!(matched, [1]);
    drop(listener);
    // A process that is being forked off this one may hold it a moment longer.
    eventually("nobody listens", || !holders(port).contains(&me));
}

#[tokio::test]
async fn a_listener_is_found_and_its_connections_are_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let (_accepted, _) = listener.accept().unwrap();
    let clients_port = client.local_addr().unwrap().port();
    assert!(!holders(clients_port).contains(&std::process::id()));
    is_found(listener);
}

#[tokio::test]
async fn a_listener_by_ipv6_is_found() {
    match TcpListener::bind("[::1]:0") {
        Ok(listener) => is_found(listener),
        Err(error) => eprintln!("skipping test - lacks IPv6: {error}"),
    }
}

#[tokio::test]
async fn a_listener_by_multipath_tcp_is_found() {
    let protocol = Some(ipproto::MPTCP);
    let socket = match rustix::net::socket(AddressFamily::INET, SocketType::STREAM, protocol) {
        Ok(socket) => socket,
        Err(error) => return eprintln!("skipping test - lacks Multipath TCP: {error}"),
    };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&socket, &any).unwrap();
    rustix::net::listen(&socket, 1).unwrap();
    is_found(TcpListener::from(socket));
}

#[tokio::test]
async fn all_that_share_a_listener_are_found() {
    let program = env::current_exe().unwrap();
    let Some((server, port)) = listens(Command::new(program).env(SHARE, "")) else {
        panic!("it does not listen");
    };
    eventually("its child has started", || holders(port).len() == 2);
    let (servers, _children): (Vec<_>, Vec<_>) = holders(port)
        .into_iter()
        .partition(|pid| *pid == server.pid());
    assert_eq!(servers, [server.pid()]);
}

#[tokio::test]
async fn a_listener_in_another_network_namespace_is_found() {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.arg("--net").arg(env::current_exe().unwrap());
    let Some((server, port)) = listens(&mut command) else {
        return eprintln!("skipping test - lacks the right to make a network namespace");
    };
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(namespace(&server.pid().to_string()), namespace("self"));
    assert!(holders(port).contains(&server.pid()));
    let rules = [Selector::Port(port)];
    assert!(ProcFs::new("/proc").matches(server.pid(), &rules).is_some());
}

#[tokio::test]
async fn a_database_is_told_with_the_port_it_listens_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis-server");
    symlink(env::current_exe().unwrap(), &path).unwrap();
    let (server, port) = listens(&mut Command::new(&path)).unwrap();
    let databases = ProcFs::new("/proc").databases().unwrap();
    let told = databases
        .into_iter()
        .find(|it| it.process.as_ref().unwrap().pid == server.pid())
        .unwrap();
    assert_eq!(told.engine, "Redis");
    assert_eq!(told.ports, [u32::from(port)]);
    assert_eq!(told.target, Some(netio::v1::Target::port(port)));
}

/// A process that listens and tells its port: this program, started by the given
/// command. `None` if that fails.
fn listens(command: &mut Command) -> Option<(Running, u16)> {
    // A test's name has no crate in it.
    let (_, module) = module_path!().split_once("::").unwrap();
    command
        .arg(format!("{module}::listens_for_another_test"))
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(LISTEN, "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut server = Running::start(command);
    loop {
        let line = server.read_line();
        if line.is_empty() {
            return None;
        }
        if let Some((_, port)) = line.trim_end().split_once(LISTENS_ON) {
            return Some((server, port.parse().unwrap()));
        }
    }
}

const LISTEN: &str = "NETIO_TEST_LISTEN";
/// Whether a child is to hold the listener, too.
const SHARE: &str = "NETIO_TEST_SHARE";
const LISTENS_ON: &str = "listens on port ";

#[test]
#[ignore = "a process that other tests start"]
fn listens_for_another_test() {
    if env::var_os(LISTEN).is_none() {
        return;
    }
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let child = env::var_os(SHARE).map(|_| {
        rustix::io::fcntl_setfd(&listener, FdFlags::empty()).unwrap();
        // In the process group of this process, and so ended with it.
        Command::new("sleep").arg("60").spawn().unwrap()
    });
    println!("{LISTENS_ON}{}", listener.local_addr().unwrap().port());
    // Until the other test ends.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    if let Some(mut child) = child {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
