//! The Unix socket's file.
//!
//! Takes a path and a group, produces a listener. Promises: the socket can be connected to
//! only once its group and mode are right; a dead collector's file is replaced, a live
//! one's is refused; the file goes when [`SocketFile`] is dropped, if it is
//! still ours.
#![forbid(unsafe_code)]

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
    },
};

/// For the owner and the group: whoever may connect may watch.
const MODE: u32 = 0o660;
/// For a folder that is made: everybody may look inside.
const FOLDER_MODE: u32 = 0o755;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The file of a bound socket; dropping it removes the file.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else's by now, if another collector has replaced it.
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a listening socket at this path, of this group if it is not to be the
/// process's own.
pub(super) fn listen_at(path: &Path, gid: Option<u32>) -> io::Result<(SocketFile, UnixListener)> {
    let (folder, name) = match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if path.is_absolute() => (folder, name),
        _ => return Err(error(path, "give an absolute path of a file")),
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(|why| error(path, format!("cannot make its folder: {why}")))?;
    refuse_unless_free(path)?;

    // Bound under a name of its own, given its group and mode, made to listen, and only
    // then moved to where others look for it.
    let mut own_name = OsString::from(".");
    own_name.push(name);
    own_name.push(format!(".{}", std::process::id()));
    let own_path = folder.join(own_name);
    remove_if_there(&own_path)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    bind(&socket, &address(&own_path)?).map_err(|why| error(path, why))?;
    let mut file = SocketFile {
        identity: identity(&own_path)?,
        path: own_path,
    };
    if gid.is_some() {
        lchown(&file.path, None, gid)
            .map_err(|why| error(path, format!("cannot give it to its group: {why}")))?;
    }
    fs::set_permissions(&file.path, fs::Permissions::from_mode(MODE))?;
    listen(&socket, BACKLOG)?;
    fs::rename(&file.path, path).map_err(|why| error(path, why))?;
    path.clone_into(&mut file.path);
    Ok((file, UnixListener::from(socket)))
}

/// Free: nothing is there, or a socket that nobody listens on.
fn refuse_unless_free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(error(path, why)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(error(
                path,
                "something that is no socket is there; remove it, or choose another path",
            ));
        }
        Ok(_) => {}
    }
    let probe = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        // A full queue must not keep us waiting; it is a sign of life, too.
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match connect(&probe, &address(path)?) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::AGAIN) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!(
                "cannot listen on {}: another collector listens there; stop it, or choose another path",
                path.display()
            ),
        )),
        Err(why) => Err(error(
            path,
            format!("cannot tell whether it is in use: {why}"),
        )),
    }
}

fn address(path: &Path) -> io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).map_err(|_| {
        error(
            path,
            "the path is too long for a socket; choose one below 80 bytes",
        )
    })
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

fn error(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("cannot listen on {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    }

    #[test]
    fn the_socket_has_its_mode_and_folder_and_goes_when_dropped() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("made/here/netio.sock");
        let bound = listen_at(&path, None).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, MODE);
        assert_eq!(names(path.parent().unwrap()), ["netio.sock"]);
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(names(path.parent().unwrap()).is_empty());
    }

    #[test]
    fn the_group_is_set_with_the_mode() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("netio.sock");
        // Root may give it to any group; others only to one of their own.
        let gid = match rustix::process::geteuid().is_root() {
            true => 12_345,
            false => rustix::process::getgid().as_raw(),
        };
        let _bound = listen_at(&path, Some(gid)).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.gid(), gid);
        assert_eq!(metadata.permissions().mode() & 0o777, MODE);
    }

    #[test]
    fn a_dead_collectors_file_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("netio.sock");
        drop(UnixListener::bind(&path).unwrap()); // leaves its file behind
        let _bound = listen_at(&path, None).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_live_collector_is_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("netio.sock");
        let live = UnixListener::bind(&path).unwrap();
        let refused = listen_at(&path, None).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(
            refused.to_string().contains("another collector"),
            "{refused}"
        );
        live.set_nonblocking(true).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn other_files_are_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("precious");
        fs::write(&path, "data").unwrap();
        let refused = listen_at(&path, None).err().unwrap();
        assert!(refused.to_string().contains("no socket"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_successors_file_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("netio.sock");
        let bound = listen_at(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = listen_at(&path, None).unwrap();
        drop(bound);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_path_that_cannot_be_is_explained() {
        let root = tempfile::tempdir().unwrap();
        let long = root.path().join("x".repeat(120));
        let refused = listen_at(&long, None).err().unwrap();
        assert!(refused.to_string().contains("too long"), "{refused}");
        let relative = listen_at(Path::new("netio.sock"), None).err().unwrap();
        assert!(relative.to_string().contains("absolute"), "{relative}");
        assert!(names(root.path()).is_empty());
    }
}
