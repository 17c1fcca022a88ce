//! The lock that keeps two servers from using the same file.
//!
//! It is a separate file next to the database, because SQLite's own locks last only for a transaction. It may
//! be removed, and then another server could lock a new one. So the database is locked too, with `flock`,
//! which does not affect SQLite or any other program that reads the database.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use nix::libc::{O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
    fstatfs,
};

use super::error;
use super::reserve::is_full;
use crate::job_server::StoreFailure;
use crate::store::StoreError;

/// Readable by everyone, writable by the owner.
const MODE: u32 = 0o644;
/// Maximum length of a process id, in bytes.
const MAX_LENGTH: u64 = 32;

/// File systems on which `flock` is independent of the locks that SQLite takes. On network file systems both
/// are the same, and SQLite would be locked out.
const LOCAL: [FsType; 7] = [
    BTRFS_SUPER_MAGIC,
    EXT4_SUPER_MAGIC,
    F2FS_SUPER_MAGIC,
    OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC,
    XFS_SUPER_MAGIC,
    // ZFS, for which nix has no constant.
    FsType(0x2fc1_2fc1),
];

/// An exclusive lock on `FILE.lock`, which contains our process id. It is held until it is dropped or the
/// process ends in any way.
///
/// The file stays when the lock is released: if it were removed, two other servers could each lock a
/// different file with that name.
#[derive(Debug)]
pub(super) struct LockFile {
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    /// The database, locked. Closing any descriptor of it releases SQLite's locks in this process, so it is
    /// opened before the first connection and must be dropped after the last. `None` if it cannot be opened
    /// or is not on a local disk.
    _database: Option<File>,
}

impl LockFile {
    /// Locks the file next to `database`, without waiting.
    ///
    /// # Errors
    /// Another process holds the lock, or the lock file cannot be created.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let (file, identity) = take_file(database)?;
        Ok(Self { file, identity, _database: take_database(database)? })
    }

    /// Locks the current file next to `database`, after the locked one was removed.
    ///
    /// # Errors
    /// See [`take`](Self::take).
    pub(super) fn take_again(&mut self, database: &Path) -> Result<(), StoreError> {
        (self.file, self.identity) = take_file(database)?;
        Ok(())
    }

    /// Whether the lock file of `database` is still the locked one. Otherwise another server could lock a new
    /// one.
    pub(super) fn is_in_place(&self, database: &Path) -> bool {
        std::fs::metadata(lock_path(database)).is_ok_and(|file| (file.dev(), file.ino()) == self.identity)
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Clears the process id. If that fails, the lock is released all the same.
        let _ = self.file.set_len(0);
    }
}

fn take_file(database: &Path) -> Result<(File, (u64, u64)), StoreError> {
    let path = lock_path(database);
    let system_error = |source| error::of_system(database, "cannot create its lock file", &source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(O_NOFOLLOW)
        .open(&path)
        .map_err(system_error)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(database, &path, &mut file)),
        Err(TryLockError::Error(source)) => return Err(system_error(source)),
    }
    match file.set_len(0).and_then(|()| writeln!(file, "{}", process::id())) {
        // Only the lock matters. On a full disk the file stays without a process id.
        Err(source) if !is_full(&source) => Err(system_error(source)),
        _ => {
            let identity = file.metadata().map(|file| (file.dev(), file.ino())).map_err(system_error)?;
            Ok((file, identity))
        }
    }
}

/// Locks the database itself. If it does not exist it is created empty, as SQLite does.
fn take_database(database: &Path) -> Result<Option<File>, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        // Opening a device or a pipe must not block the start.
        .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
        .open(database);
    // SQLite gets the same error, and reports it in more detail.
    let Ok(file) = file else { return Ok(None) };
    if !fstatfs(&file).is_ok_and(|system| LOCAL.contains(&system.filesystem_type())) {
        return Ok(None);
    }
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::new(
            StoreFailure::Locked,
            format!(
                "SQLite file {}: another server uses it and has locked it, although its lock file was removed; choose \
                 another file or port, or stop that server",
                database.display()
            ),
        )),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

fn lock_path(database: &Path) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(".lock");
    PathBuf::from(name)
}

fn in_use(database: &Path, lock: &Path, file: &mut File) -> StoreError {
    let mut content = String::new();
    // The file is empty until the other server has written its process id.
    let _ = Read::take(file, MAX_LENGTH).read_to_string(&mut content);
    let owner = match content.trim() {
        "" => "another server".to_owned(),
        pid => format!("another server (pid {pid})"),
    };
    StoreError::new(
        StoreFailure::Locked,
        format!(
            "SQLite file {}: {owner} uses it and holds {}; choose another file or port, or stop that server",
            database.display(),
            lock.display()
        ),
    )
}
