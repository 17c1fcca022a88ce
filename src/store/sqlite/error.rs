//! Converts SQLite and system errors into a [`StoreError`]: what failed, with which file, and what to do.

use std::io;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, eaccess};
use rusqlite::{ErrorCode, ffi};

use super::reserve::is_full;
use crate::job_server::StoreFailure;
use crate::store::StoreError;

/// An SQLite error during `what` ("cannot commit").
fn of_sqlite(path: &Path, what: &str, error: &rusqlite::Error) -> StoreError {
    let failure = failure(path, error);
    if let Some(cause) = not_openable(path, error) {
        return StoreError::new(failure, format!("SQLite file {}: {what}: {cause}", path.display()));
    }
    let said = match error {
        rusqlite::Error::SqliteFailure(code, Some(text)) => format!("{text} (SQLite error {})", code.extended_code),
        other => other.to_string(),
    };
    StoreError::new(failure, format!("SQLite file {}: {what}: {said}; {}", path.display(), advice(failure)))
}

/// Why the file cannot be opened, in simple cases.
fn not_openable(path: &Path, error: &rusqlite::Error) -> Option<String> {
    if error.sqlite_error_code() != Some(ErrorCode::CannotOpen) {
        return None;
    }
    match std::fs::metadata(path) {
        Ok(file) if file.is_dir() => Some("it is a directory; name a file".to_owned()),
        // Checked without opening the file: closing it again would release the locks that this process holds
        // on it.
        Ok(_) => eaccess(path, AccessFlags::R_OK)
            .err()
            .map(|error| format!("{}; let this user read and write it", io::Error::from(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let has_directory = path.parent().is_none_or(|parent| parent.as_os_str().is_empty() || parent.is_dir());
            Some(format!("{error}; {}", if has_directory { "name another file" } else { "create its directory" }))
        }
        Err(error) => Some(format!("{error}; grant this user access to it")),
    }
}

/// A system error during `what`.
pub(super) fn of_system(path: &Path, what: &str, error: &io::Error) -> StoreError {
    let failure = of_kind(error);
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "create its directory, or choose another file",
        _ => advice(failure),
    };
    StoreError::new(failure, format!("SQLite file {}: {what}: {error}; {advice}", path.display()))
}

fn failure(path: &Path, error: &rusqlite::Error) -> StoreFailure {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreFailure::Full,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => StoreFailure::ReadOnly,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            StoreFailure::Locked
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreFailure::Corrupt,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => cause(path),
        Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => StoreFailure::Refused,
        // Out of memory, misuse or an unexpected value: nothing that the operator could repair in the file.
        _ => StoreFailure::Io,
    }
}

/// SQLite reports some full and read-only file systems as I/O errors. The file system tells them apart.
fn cause(path: &Path) -> StoreFailure {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match statvfs(directory) {
        Ok(state) if state.flags().contains(FsFlags::ST_RDONLY) => StoreFailure::ReadOnly,
        Ok(state) if state.blocks_available() == 0 => StoreFailure::Full,
        // A quota only shows up on a write.
        _ => super::reserve::probe(path).err().map_or(StoreFailure::Io, |error| of_kind(&error)),
    }
}

fn of_kind(error: &io::Error) -> StoreFailure {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => StoreFailure::ReadOnly,
        _ if is_full(error) => StoreFailure::Full,
        _ => StoreFailure::Io,
    }
}

fn advice(failure: StoreFailure) -> &'static str {
    match failure {
        StoreFailure::Full => "free some space on its file system",
        StoreFailure::ReadOnly => "let this user write the file and its directory, and mount its file system writable",
        StoreFailure::Locked => "end the program that holds the lock",
        StoreFailure::Corrupt => {
            "restore a backup, save what can be read with `sqlite3 FILE .recover`, or move it away to start empty"
        }
        StoreFailure::Refused => "a job does not fit into the table",
        StoreFailure::Io | StoreFailure::Unreachable => "check the system log, the disk and the file's permissions",
    }
}

/// An error while working with the file, without its context.
#[derive(Debug)]
pub(super) enum Trouble {
    /// An SQLite error.
    Sqlite(rusqlite::Error),
    /// A system error.
    System(io::Error),
    /// An error detected by the store: what is wrong, and what to do.
    Refused(StoreFailure, String),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Trouble {
    /// The error for the operator, with the context `what`.
    pub(super) fn report(&self, path: &Path, what: &str) -> StoreError {
        match self {
            Self::Sqlite(error) => of_sqlite(path, what, error),
            Self::System(error) => of_system(path, what, error),
            Self::Refused(failure, text) => {
                StoreError::new(*failure, format!("SQLite file {}: {what}: {text}", path.display()))
            }
        }
    }

    /// Whether a sync may have failed, so that the file may differ between the page cache and the disk.
    pub(super) fn is_io(&self) -> bool {
        match self {
            Self::Sqlite(error) => matches!(error.sqlite_error_code(), Some(ErrorCode::SystemIoFailure)),
            Self::System(_) => true,
            Self::Refused(..) => false,
        }
    }

    /// Whether the file can still be used: it was not modified, and no sync has failed. `failure` is the code
    /// already derived from this error.
    pub(super) fn leaves_file_usable(&self, failure: StoreFailure) -> bool {
        match failure {
            StoreFailure::Full | StoreFailure::ReadOnly => self.is_failed_write(),
            StoreFailure::Locked | StoreFailure::Refused => !self.is_io(),
            StoreFailure::Io | StoreFailure::Unreachable | StoreFailure::Corrupt => false,
        }
    }

    /// Whether the system rejected a write, so that SQLite has rolled back.
    fn is_failed_write(&self) -> bool {
        const CODES: [i32; 3] = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_TRUNCATE, ffi::SQLITE_IOERR_SHMSIZE];
        let Self::Sqlite(error) = self else { return false };
        error.sqlite_error_code() == Some(ErrorCode::DiskFull)
            || error.sqlite_extended_error_code().is_some_and(|code| CODES.contains(&code))
    }
}
