//! Listening sockets that a service manager made and handed over
//! (`sd_listen_fds(3)`).
//!
//! Takes `LISTEN_FDS` and `LISTEN_PID` of the environment, produces sockets that
//! listen; of each it is checked what it is. They are taken once: a second call
//! finds none.
#![allow(unsafe_code)] // descriptors that nothing in this process has opened

use std::{
    env, io,
    net::TcpListener,
    os::{
        fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    process,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    io::{FdFlags, fcntl_getfd, fcntl_setfd},
    net::{AddressFamily, SocketType, sockopt},
};

/// Where they begin, by the protocol.
const FIRST: RawFd = 3;
/// More than anybody has a use for.
const MAX: RawFd = 64;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// A socket that was handed over.
#[derive(Debug)]
pub(crate) enum Inherited {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// All of them. Fails if one is no stream socket that listens, on a Unix path, IPv4
/// or IPv6.
pub(crate) fn take() -> io::Result<Vec<Inherited>> {
    let number = |name| env::var(name).ok()?.parse::<RawFd>().ok();
    let own = i32::try_from(process::id()).ok();
    // Meant for somebody else, or nobody.
    let (Some(count), true) = (number("LISTEN_FDS"), number("LISTEN_PID") == own) else {
        return Ok(Vec::new());
    };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    if !(0..=MAX).contains(&count) {
        let why = format!("LISTEN_FDS is {count}: at most {MAX} sockets can be handed over");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    (FIRST..FIRST + count)
        .map(|fd| checked(open(fd)?, fd))
        .collect()
}

fn open(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only asked whether it is open, which harms none that is not.
    let flags = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) }).map_err(|why| bad(fd, why))?;
    // SAFETY: open, and by the protocol this process's own from its start, which
    // nothing else in it knows of; given out once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl_setfd(&fd, flags | FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// A socket that listens.
fn checked(socket: OwnedFd, fd: RawFd) -> io::Result<Inherited> {
    let stream = sockopt::socket_type(&socket).map_err(|why| bad(fd, why))? == SocketType::STREAM;
    if !stream || !sockopt::socket_acceptconn(&socket)? {
        return Err(bad(fd, "it is no stream socket that listens"));
    }
    let inherited = match sockopt::socket_domain(&socket)? {
        AddressFamily::UNIX => {
            let listener = UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            Inherited::Unix(listener)
        }
        AddressFamily::INET | AddressFamily::INET6 => {
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            Inherited::Tcp(listener)
        }
        other => {
            return Err(bad(
                fd,
                format_args!("it is of the address family {other:?}"),
            ));
        }
    };
    Ok(inherited)
}

fn bad(fd: RawFd, why: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!(
        "cannot listen on descriptor {fd}, which was handed over: {why}"
    ))
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn sockets_that_listen_are_told_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        assert!(matches!(
            checked(unix.into(), 3).unwrap(),
            Inherited::Unix(_)
        ));
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(checked(tcp.into(), 3).unwrap(), Inherited::Tcp(_)));

        let (connected, _other) = UnixStream::pair().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for other in [connected.into(), udp.into(), OwnedFd::from(file)] {
            let refused = checked(other, 3).unwrap_err().to_string();
            assert!(refused.contains("descriptor 3"), "{refused}");
        }
    }

    #[test]
    fn a_descriptor_that_is_not_there_is_an_error() {
        let refused = open(RawFd::from(i16::MAX)).unwrap_err().to_string();
        assert!(refused.contains("handed over"), "{refused}");
    }

    #[test]
    fn nothing_is_taken_that_was_not_handed_over() {
        assert!(take().unwrap().is_empty());
    }
}
