//! UNIX sockets: access is controlled by the file's owner and mode, and the file has to be removed before
//! binding and at exit.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::libc::{O_NOFOLLOW, O_PATH};
use nix::unistd::{Gid, Uid, fchownat};
use socket2::{Domain, SockAddr, Socket, Type};

use super::ListenError;

/// Where to listen with a UNIX socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixTarget {
    /// The socket's file.
    pub path: PathBuf,
    /// Its permissions; a client needs write permission to connect.
    pub mode: u32,
    /// Owning user and group; `None` for those of this process.
    pub owner: Option<(u32, u32)>,
}

/// The file of one of our UNIX sockets. Dropping it removes the file, if it is still the same.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if same {
            // If it cannot be removed, the next start finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds the target, and replaces a stale socket file.
pub(super) fn bind(target: &UnixTarget, backlog: i32) -> Result<(UnixListener, SocketFile), ListenError> {
    let path = &target.path;
    let error = |source| ListenError::Unix { path: path.clone(), source };
    let address = SockAddr::unix(path).map_err(error)?;
    remove_stale(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(error)?;
    socket.bind(&address).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse { ListenError::UnixInUse(path.clone()) } else { error(source) }
    })?;
    // No client can connect before listen, so the owner and mode are set in time.
    let file = own(target).map_err(error)?;
    socket.listen(backlog).map_err(error)?;
    socket.set_nonblocking(true).map_err(error)?;
    Ok((socket.into(), file))
}

/// Removes a socket file on which no process answers.
fn remove_stale(path: &Path, address: &SockAddr) -> Result<(), ListenError> {
    let error = |source| ListenError::Unix { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(error(source)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(error)?;
    // A running server with a full backlog would block a blocking connect.
    probe.set_nonblocking(true).map_err(error)?;
    match probe.connect(address) {
        Err(source) if source.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(error),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(()) => Err(ListenError::UnixInUse(path.to_owned())),
        Err(source) if source.kind() == io::ErrorKind::WouldBlock => Err(ListenError::UnixInUse(path.to_owned())),
        Err(source) => Err(error(source)),
    }
}

/// Sets the owner and mode of the new socket file. The file is held by descriptor: in a directory that other
/// users can write to, its name could lead elsewhere by now.
fn own(target: &UnixTarget) -> io::Result<SocketFile> {
    let held: File = OpenOptions::new().read(true).custom_flags(O_PATH | O_NOFOLLOW).open(&target.path)?;
    let metadata = held.metadata()?;
    if !metadata.file_type().is_socket() {
        return Err(io::Error::other("replaced while it was being bound"));
    }
    let file = SocketFile { path: target.path.clone(), identity: (metadata.dev(), metadata.ino()) };
    if let Some((uid, gid)) = target.owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fchownat(&held, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    // fchmod fails on a descriptor opened with O_PATH, but chmod works on its name under /proc.
    fs::set_permissions(format!("/proc/self/fd/{}", held.as_raw_fd()), Permissions::from_mode(target.mode & 0o777))?;
    Ok(file)
}

/// `unix:/path`, or `unix:@name` for an abstract socket.
pub(super) fn name(listener: &UnixListener) -> String {
    let Ok(address) = listener.local_addr() else {
        return "unix:".to_owned();
    };
    match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => format!("unix:{}", path.display()),
        (None, Some(name)) => format!("unix:@{}", String::from_utf8_lossy(name)),
        (None, None) => "unix:".to_owned(),
    }
}
