//! The lock that keeps two servers from using one file.
//!
//! It is a file of its own beside the database: SQLite's own locks come and go with every transaction. It may be removed, and
//! then another server could lock one of its own. So the database is locked too, with `flock`, which SQLite, and with it every
//! other program that reads the database, does not notice.

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

/// Readable by all, written by the owner.
const MODE: u32 = 0o644;
/// No process id is longer, in bytes.
const MAX_LENGTH: u64 = 32;

/// File systems whose `flock` is apart from the locks that SQLite takes. Over a network both are one: SQLite would be locked out.
const LOCAL: [FsType; 7] = [
    BTRFS_SUPER_MAGIC,
    EXT4_SUPER_MAGIC,
    F2FS_SUPER_MAGIC,
    OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC,
    XFS_SUPER_MAGIC,
    // ZFS, which has no name there.
    FsType(0x2fc1_2fc1),
];

/// An exclusive lock on `FILE.lock`, which names our process, until dropped or until the process ends, however it ends.
///
/// The file stays when the lock goes: if it were removed, two others could each hold a lock on a file of that name.
#[derive(Debug)]
pub(super) struct LockFile {
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    /// The database, locked. Closing any descriptor of it releases the locks of SQLite in this process: so it is opened before
    /// the first connection, and must be dropped after the last. `None` where it cannot be opened, or is not on a local disk.
    _database: Option<File>,
}

impl LockFile {
    /// Locks the file beside `database`, without waiting.
    ///
    /// # Errors
    /// When another process holds the lock, or the lock file cannot be made.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let (file, identity) = take_file(database)?;
        Ok(Self { file, identity, _database: take_database(database)? })
    }

    /// Locks the file that is beside `database` now, in place of one that was removed.
    ///
    /// # Errors
    /// See [`take`](Self::take).
    pub(super) fn take_again(&mut self, database: &Path) -> Result<(), StoreError> {
        (self.file, self.identity) = take_file(database)?;
        Ok(())
    }

    /// Whether the lock file of `database` is still the one that is locked. Otherwise another server can lock one of its own.
    pub(super) fn is_in_place(&self, database: &Path) -> bool {
        std::fs::metadata(lock_path(database)).is_ok_and(|file| (file.dev(), file.ino()) == self.identity)
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // An empty file names nobody; if that fails, the lock is gone all the same.
        let _ = self.file.set_len(0);
    }
}

fn take_file(database: &Path) -> Result<(File, (u64, u64)), StoreError> {
    let path = lock_path(database);
    let system_error = |source| error::of_system(database, "cannot make its lock file", &source);
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
        // The lock is what matters. On a full disk its file names nobody.
        Err(source) if !is_full(&source) => Err(system_error(source)),
        _ => {
            let identity = file.metadata().map(|file| (file.dev(), file.ino())).map_err(system_error)?;
            Ok((file, identity))
        }
    }
}

/// Locks the database itself, which is made empty where there is none, as SQLite does.
fn take_database(database: &Path) -> Result<Option<File>, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        // Neither a device nor a pipe may hold up the start.
        .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
        .open(database);
    // SQLite meets the same error, and says more.
    let Ok(file) = file else { return Ok(None) };
    if !fstatfs(&file).is_ok_and(|system| LOCAL.contains(&system.filesystem_type())) {
        return Ok(None);
    }
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::new(
            StoreFailure::Locked,
            format!(
                "SQLite file {}: another server uses it and has locked it, though its lock file was removed; choose another \
                 file or port, or end that server",
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
    // In the moment before the other has written it there is no process id.
    let _ = Read::take(file, MAX_LENGTH).read_to_string(&mut content);
    let owner = match content.trim() {
        "" => "another server".to_owned(),
        pid => format!("another server (pid {pid})"),
    };
    StoreError::new(
        StoreFailure::Locked,
        format!(
            "SQLite file {}: {owner} uses it and holds {}; choose another file or port, or end that server",
            database.display(),
            lock.display()
        ),
    )
}
