//! Operations on the whole file: backup, and returning unused space to the file system.
//!
//! SQLite keeps the pages of removed rows for new ones, and the file never shrinks by itself. Incremental
//! vacuum would slow down every transaction by a tenth, permanently. `VACUUM` copies the pages in use, and
//! blocks writers meanwhile. So the server runs it only when hardly any pages are in use, which takes some
//! milliseconds.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::{self, Trouble};
use super::lock::LockFile;
use super::open::{self, BUSY_TIMEOUT, OpenFile};
use super::{layout, real_path, text};
use crate::job_server::StoreFailure;
use crate::store::StoreError;

/// The server shrinks the file if at least this many pages are free (8 MiB), and at most this many are in use
/// (1 MiB).
const FREE_PAGES: u32 = 2048;
const USED_PAGES: u32 = 256;

/// Whether shrinking the file is worthwhile while the server uses it.
pub(super) fn has_slack(file: &OpenFile) -> Result<bool, Trouble> {
    let count = |name| file.connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let (free, all) = (count("freelist_count")?, count("page_count")?);
    Ok(free >= FREE_PAGES && all.saturating_sub(free) <= USED_PAGES)
}

/// Shrinks the file. It stays unchanged if another program holds a lock or there is no room for the copy.
pub(super) fn shrink(file: &mut OpenFile) -> Result<(), Trouble> {
    file.set_sync(true)?;
    file.connection.busy_timeout(Duration::ZERO)?;
    let done = file.connection.execute_batch("VACUUM");
    file.connection.busy_timeout(BUSY_TIMEOUT)?;
    match done {
        Ok(()) => file.checkpoint().map(drop),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull) => Ok(()),
            _ => Err(error.into()),
        },
    }
}

/// Copies a consistent snapshot of a file, even while a server uses it. The server is neither stopped nor
/// slowed down; its WAL grows until the copy is done. The copy has the permissions of the file, and is synced
/// to disk. Returns its size in bytes.
///
/// # Errors
/// The file is not a queue, something with the name of the copy exists, or the copy cannot be written.
pub fn backup(path: &Path, table: &str, copy: &Path) -> Result<u64, StoreError> {
    let path = real_path(path);
    // SQLite may misinterpret a relative name.
    let copy = std::path::absolute(copy).unwrap_or_else(|_| copy.to_owned());
    let failed = |trouble: &Trouble| trouble.report(&path, &format!("cannot copy it to {}", copy.display()));
    if copy.symlink_metadata().is_ok() {
        let text = "target exists already; choose another name".to_owned();
        return Err(failed(&Trouble::Refused(StoreFailure::Refused, text)));
    }
    let mut part = OsString::from(&copy);
    part.push(".part");
    let part = PathBuf::from(part);
    let done = write_copy(&path, table, &part).and_then(|bytes| {
        fs::rename(&part, &copy)?;
        let directory = copy.parent().unwrap_or(Path::new("/"));
        File::open(directory)?.sync_all()?;
        Ok(bytes)
    });
    done.map_err(|trouble| {
        // A partial copy is not a backup. It may not exist at all.
        let _ = fs::remove_file(&part);
        failed(&trouble)
    })
}

fn write_copy(path: &Path, table: &str, part: &Path) -> Result<u64, Trouble> {
    let source = OpenFile::read(path, table)?;
    // Left behind by an interrupted backup.
    if let Err(error) = fs::remove_file(part)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    // SQLite accepts an empty target file.
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(part)?;
    source.connection.execute("VACUUM INTO ?1", [text(part.as_os_str().as_bytes())])?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// Shrinks a file that no server uses as far as possible. Returns its size before and after, in bytes.
///
/// # Errors
/// A server uses the file, it is not a queue, or there is no room: it takes up to twice the size of the data
/// in use.
pub fn compact(path: &Path, table: &str) -> Result<(u64, u64), StoreError> {
    let path = real_path(path);
    let size = || fs::metadata(&path).map(|file| file.len());
    let system = |error: &io::Error| error::of_system(&path, "cannot compact it", error);
    // Before the lock file is created.
    let before = size().map_err(|error| system(&error))?;
    let _lock = LockFile::take(&path)?;
    vacuum(&path, table).map_err(|trouble| trouble.report(&path, "cannot compact it"))?;
    Ok((before, size().map_err(|error| system(&error))?))
}

fn vacuum(path: &Path, table: &str) -> Result<(), Trouble> {
    let mut connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // The WAL that an earlier process left may not be on disk.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    layout::check_version(&connection)?;
    layout::look(&connection, table)?;
    open::make_good(&mut connection, path, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.execute_batch("PRAGMA synchronous = FULL; VACUUM")?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}
