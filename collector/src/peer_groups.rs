//! The groups of who is at the other end of a Unix socket.
//!
//! SO_PEERCRED tells one group only; SO_PEERGROUPS (Linux 4.13) the supplementary ones,
//! as they were when the peer connected.
// It has no safe wrapper in the libraries that are used here.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Groups that are asked for at first; more make a second call.
const USUAL: usize = 64;

/// The supplementary groups; the kernel allows 65,536.
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; USUAL];
    loop {
        let room = groups.len() * size_of::<libc::gid_t>();
        let mut bytes = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open for as long as it is borrowed; `groups` has room
        // for the `bytes` that the kernel may write, any bits of which are a gid_t; and
        // it writes how many they were into `bytes`.
        let failed = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        } != 0;
        let needed = bytes as usize / size_of::<libc::gid_t>();
        if !failed {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Then the kernel has said how many there are.
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd as _, unix::net::UnixStream};

    use super::*;

    #[test]
    fn they_are_those_of_the_process() {
        let (near, _far) = UnixStream::pair().unwrap();
        let own = rustix::process::getgroups().unwrap();
        let mut own: Vec<_> = own.into_iter().map(rustix::process::Gid::as_raw).collect();
        let mut told = peer_groups(near.as_fd()).unwrap();
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
    }
}
