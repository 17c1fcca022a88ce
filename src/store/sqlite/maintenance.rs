//! What is done with a whole file: a copy of it, and giving back the space that a backlog has left behind.
//!
//! SQLite keeps the pages of removed rows for new ones, and the file never gets smaller by itself. Its incremental vacuum would
//! cost each transaction a tenth more, for ever. `VACUUM` copies what is in use, and blocks writers while it does: so the server
//! itself does it only where hardly anything is in use, which takes some milliseconds.

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

/// The server gives back space where so many pages are free, 8 MiB, and at most so many are in use, 1 MiB.
const FREE_PAGES: u32 = 2048;
const USED_PAGES: u32 = 256;

/// Whether the file is worth to be made smaller while the server uses it.
pub(super) fn has_slack(file: &OpenFile) -> Result<bool, Trouble> {
    let count = |name| file.connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let (free, all) = (count("freelist_count")?, count("page_count")?);
    Ok(free >= FREE_PAGES && all.saturating_sub(free) <= USED_PAGES)
}

/// Makes it smaller. Where another program is in the way, or there is no room for the copy, it stays as it is.
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

/// Copies a file as it is at one moment, also while a server uses it, which is neither stopped nor slowed: its WAL grows until
/// the copy is done. The copy has the rights of the file, and is on the disk when this is done. Answers its size in bytes.
///
/// # Errors
/// Where the file is no queue, something has the name of the copy already, or the copy cannot be written.
pub fn backup(path: &Path, table: &str, copy: &Path) -> Result<u64, StoreError> {
    let path = real_path(path);
    // SQLite may not take a name that is relative for what it is.
    let copy = std::path::absolute(copy).unwrap_or_else(|_| copy.to_owned());
    let failed = |trouble: &Trouble| trouble.report(&path, &format!("cannot copy it to {}", copy.display()));
    if copy.symlink_metadata().is_ok() {
        let text = "there is something of that name already; choose another".to_owned();
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
        // What is there of it is no backup. It may not be there at all.
        let _ = fs::remove_file(&part);
        failed(&trouble)
    })
}

fn write_copy(path: &Path, table: &str, part: &Path) -> Result<u64, Trouble> {
    let source = OpenFile::read(path, table)?;
    // An earlier one that was interrupted.
    if let Err(error) = fs::remove_file(part)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    // SQLite writes into an empty file.
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(part)?;
    source.connection.execute("VACUUM INTO ?1", [text(part.as_os_str().as_bytes())])?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// Makes a file that no server uses as small as it can be. Answers its size before and after, in bytes.
///
/// # Errors
/// Where a server uses it, it is no queue, or there is no room: it takes up to twice the size of what is in use.
pub fn compact(path: &Path, table: &str) -> Result<(u64, u64), StoreError> {
    let path = real_path(path);
    let size = || fs::metadata(&path).map(|file| file.len());
    let system = |error: &io::Error| error::of_system(&path, "cannot make it smaller", error);
    // Before the lock file is made.
    let before = size().map_err(|error| system(&error))?;
    let _lock = LockFile::take(&path)?;
    vacuum(&path, table).map_err(|trouble| trouble.report(&path, "cannot make it smaller"))?;
    Ok((before, size().map_err(|error| system(&error))?))
}

fn vacuum(path: &Path, table: &str) -> Result<(), Trouble> {
    let mut connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // What an earlier process left in the WAL may not be on the disk.
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
