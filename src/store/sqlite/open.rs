//! Opening the file: how SQLite is set up, and what is made good after a crash or a failed write.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::error::Trouble;
use super::layout::{self, Sql};
use crate::job_server::StoreFailure;

/// How long one statement waits for a lock that another program holds. As C++ gearmand does.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(6);

/// The WAL's pages are copied into the database when there are so many. SQLite's own 1000 means four times as many
/// syncs; more than this makes single commits slower than it saves.
const CHECKPOINT_PAGES: u32 = 4000;
/// On a small disk there are fewer: the WAL takes this part of it, and the reserve has room for the copy. But so many at least.
const CHECKPOINT_SHARE: u64 = 32;
const CHECKPOINT_PAGES_MIN: u32 = 64;
/// Where the WAL does not begin anew after a checkpoint, since a reader needs it, the next one waits for so many more.
const CHECKPOINT_AGAIN_PAGES: u32 = 1000;
/// The transaction with which the WAL has enough pages to be copied may have so many.
const LAST_PAGES: u32 = 64;
/// A commit does a checkpoint itself when there are so many times as many, in case nobody found the time.
const CHECKPOINT_FORCED: u32 = 4;
/// What the WAL begins with, and what stands before each page in it, in bytes.
const WAL_HEADER_SIZE: usize = 32;
const FRAME_HEADER_SIZE: usize = 24;
const WAL_HEADER: u64 = WAL_HEADER_SIZE as u64;
const FRAME_HEADER: u64 = FRAME_HEADER_SIZE as u64;
/// What the header begins with, but for its last bit, which says in what order the bytes of checksums are
/// read.
const WAL_MAGIC: u32 = 0x377f_0682;
/// Where the size of pages stands in the header, and the salt, which each frame of the log has as well.
const HEADER_PAGE_SIZE: std::ops::Range<usize> = 8..12;
const HEADER_SALT: std::ops::Range<usize> = 16..24;
const FRAME_SALT: std::ops::Range<usize> = 8..16;

/// Bytes of the WAL that are written again at a time.
const REWRITE_BYTES: usize = 1 << 20;

/// What the connection is set up with. In WAL mode, and without an automatic checkpoint: an error of that one
/// would be reported as if the commit had failed. The cache is small, since rows are appended, and read again
/// only to be removed, in order: the system has them in its own. A transaction may have 32 MiB until its end,
/// before it writes pages that it may have to write again.
const PRAGMAS: &str = "PRAGMA cache_size = -2048; PRAGMA cache_spill = -32768; PRAGMA temp_store = MEMORY; \
     PRAGMA locking_mode = NORMAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; \
     PRAGMA journal_size_limit = 67108864;";

/// An open file.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) connection: Connection,
    pub(super) sql: Sql,
    /// Whether a commit syncs.
    syncs: bool,
    /// How many pages the WAL had after the last commit.
    wal_pages: Arc<AtomicU32>,
    checkpoint_at: u32,
    checkpoint_pages: u32,
    /// What the last checkpoint said: how many pages the WAL had, and how many of them are in the database now.
    copied: (u32, u32),
    /// Bytes of a page.
    pub(super) page_size: u64,
}

impl OpenFile {
    /// Opens the file to keep jobs in it: makes it where there is none, converts it where it is older. Where an earlier
    /// write or sync has `failed`, nothing is done with the file before all of it is on the disk.
    pub(super) fn own(path: &Path, queue: &str, keep_primary_key: bool, failed: bool) -> Result<Self, Trouble> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        // Until all is well, closing must not copy the WAL into the database: it may not be on the disk.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA page_size = 4096")?;
        let version = layout::check_version(&connection)?;
        check_encoding(&connection)?;
        // A file that is refused stays as it is.
        layout::check_table(&connection, queue)?;
        use_wal(&connection)?;
        connection.execute_batch(PRAGMAS)?;
        make_good(&mut connection, path, failed)?;
        let sql = layout::prepare(&mut connection, queue, version, keep_primary_key)?;
        let wal_pages = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&wal_pages);
        connection.wal_hook(Some(move |_: &mut _, pages| {
            counter.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        let page_size: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let page_size = u64::from(page_size);
        let checkpoint_pages = checkpoint_pages(path, page_size);
        let checkpoint_at = checkpoint_pages;
        Ok(Self { connection, sql, syncs: true, wal_pages, checkpoint_at, checkpoint_pages, copied: (0, 0), page_size })
    }

    /// Opens the file to look at it.
    pub(super) fn read(path: &Path, queue: &str) -> Result<Self, Trouble> {
        // Opening what is no file may wait for ever.
        if std::fs::metadata(path).is_ok_and(|file| !file.is_file() && !file.is_dir()) {
            return Err(Trouble::Refused(StoreFailure::Corrupt, "it is no file; name one".to_owned()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let look = |connection: Connection| -> Result<Self, Trouble> {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            layout::check_version(&connection)?;
            let sql = layout::look(&connection, queue)?;
            let (wal_pages, at) = (Arc::default(), CHECKPOINT_PAGES);
            let (syncs, copied, page_size) = (true, (0, 0), 0);
            Ok(Self { connection, sql, syncs, wal_pages, checkpoint_at: at, checkpoint_pages: at, copied, page_size })
        };
        let result = Connection::open_with_flags(path, flags).map_err(Trouble::from).and_then(look);
        // Even to look, SQLite makes a file beside one in WAL mode, which takes the right to write the directory. Where
        // nothing is left in a WAL there is no server either, and the database alone is all there is.
        let cannot_make = matches!(&result, Err(Trouble::Sqlite(error))
            if matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)));
        if cannot_make && path.exists() && has_no_log(path) {
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            return look(Connection::open_with_flags(immutable_uri(path), flags)?);
        }
        result
    }

    /// Whether commits sync.
    pub(super) fn syncs(&self) -> bool {
        self.syncs
    }

    /// Makes commits sync, or not.
    pub(super) fn set_sync(&mut self, sync: bool) -> Result<(), rusqlite::Error> {
        if self.syncs != sync {
            // A failure leaves the connection unusable, so what is noted does not matter then.
            self.syncs = sync;
            self.connection.execute_batch(if sync {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            })?;
        }
        Ok(())
    }

    /// Whether there is so much in the WAL that it is to be copied into the database.
    pub(super) fn is_checkpoint_due(&mut self) -> bool {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        if pages < self.checkpoint_pages {
            self.checkpoint_at = self.checkpoint_pages;
        }
        pages >= self.checkpoint_at
    }

    /// Copies what is in the WAL into the database, once there is enough of it. Neither waits for readers nor
    /// stops them.
    pub(super) fn checkpoint_when_due(&mut self) -> Result<(), Trouble> {
        if !self.is_checkpoint_due() {
            return Ok(());
        }
        let pages = self.wal_pages.load(Ordering::Relaxed);
        // Normally the next commit begins the WAL anew. Where a reader still needs it, there is no hurry.
        self.checkpoint_at = pages.saturating_add(CHECKPOINT_AGAIN_PAGES.min(self.checkpoint_pages));
        self.checkpoint().map(drop)
    }

    /// The same for a caller that cannot wait, unless it has become urgent. Where there is no room for it, there may be some for
    /// the caller.
    pub(super) fn checkpoint_when_overdue(&mut self) -> Result<(), Trouble> {
        if self.wal_pages.load(Ordering::Relaxed) < self.checkpoint_pages.saturating_mul(CHECKPOINT_FORCED) {
            return Ok(());
        }
        match self.checkpoint_when_due() {
            Err(Trouble::Sqlite(error)) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Ok(()),
            result => result,
        }
    }

    /// Copies what is in the WAL into the database, and syncs both. Returns whether the database has all of it.
    pub(super) fn checkpoint(&mut self) -> Result<bool, Trouble> {
        match self.connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
            // Another program does one.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
            Ok((pages, copied)) => {
                let count = |pages| u32::try_from(pages).unwrap_or(0);
                self.copied = (count(pages), count(copied));
                Ok(pages == copied)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Copies the WAL into the database and gives the room that it takes back to the disk, unless a reader needs it.
    pub(super) fn empty_wal(&mut self) -> Result<(), Trouble> {
        self.connection.busy_timeout(Duration::ZERO)?;
        let emptied = self.connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::TRUNCATE);
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        match emptied {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
            Ok(_) => {
                self.wal_pages.store(0, Ordering::Relaxed);
                self.copied = (0, 0);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// How many pages of the WAL are not in the database yet, at most.
    pub(super) fn pages_to_copy(&self) -> u64 {
        let (pages, (seen, copied)) = (self.wal_pages.load(Ordering::Relaxed), self.copied);
        u64::from(if pages == seen { seen.saturating_sub(copied) } else { pages })
    }

    /// How many bytes of the WAL were written since it began, the last commit included.
    pub(super) fn wal_bytes(&self) -> u64 {
        match u64::from(self.wal_pages.load(Ordering::Relaxed)) {
            0 => 0,
            pages => self.bytes_of(pages),
        }
    }

    /// How many bytes the WAL has when it is copied after a transaction of ordinary size.
    pub(super) fn wal_bytes_at_checkpoint(&self) -> u64 {
        self.bytes_of(u64::from(self.checkpoint_pages + LAST_PAGES))
    }

    fn bytes_of(&self, pages: u64) -> u64 {
        WAL_HEADER + pages * (self.page_size + FRAME_HEADER)
    }

    /// Closes the file after an error of input or output: nothing that may not be on the disk is built upon.
    pub(super) fn close_untouched(self) {
        // Where even this fails the file is closed all the same, as it would be without an error.
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }
}

/// How many pages the WAL has when it is copied.
fn checkpoint_pages(path: &Path, page_size: u64) -> u32 {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(disk) = nix::sys::statvfs::statvfs(directory) else { return CHECKPOINT_PAGES };
    let disk = disk.blocks().saturating_mul(disk.fragment_size());
    let pages = (disk / CHECKPOINT_SHARE).checked_div(page_size).and_then(|pages| u32::try_from(pages).ok());
    pages.unwrap_or(CHECKPOINT_PAGES).clamp(CHECKPOINT_PAGES_MIN, CHECKPOINT_PAGES)
}

/// Bytes that are no UTF-8 are kept as they are only where no other encoding is in between.
fn check_encoding(connection: &Connection) -> Result<(), Trouble> {
    let encoding: String = connection.pragma_query_value(None, "encoding", |row| row.get(0))?;
    if encoding == "UTF-8" {
        return Ok(());
    }
    let text = format!("its text is in {encoding}, and names may be any bytes; choose another file");
    Err(Trouble::Refused(StoreFailure::Corrupt, text))
}

fn use_wal(connection: &Connection) -> Result<(), Trouble> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode == "wal" {
        return Ok(());
    }
    let text = format!("its journal mode stays {mode}, since this file system has no shared memory; use a local disk");
    Err(Trouble::Refused(StoreFailure::Io, text))
}

/// Brings what an earlier process, or an earlier connection, left in the WAL to the disk.
///
/// After a failed sync the system takes the pages for written although the disk may not have them. Frames that are added
/// behind such pages are synced, and still end at the hole after a power cut; and a checkpoint that copies from them
/// damages the database if the power is cut in its middle, since then the frames that would repair it are missing. So
/// the same bytes are written into the WAL again, which makes the system write them, and are synced through a descriptor
/// that has seen no failure; then all of it is copied into the database, synced, and the WAL starts empty. Nobody
/// remembers whether the last process ended after a failed sync, so each opening does it; after a clean end there is no WAL.
pub(super) fn make_good(connection: &mut Connection, path: &Path, failed: bool) -> Result<(), Trouble> {
    if wal_length(path) > 0 {
        // Nobody else appends meanwhile.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write_again(&wal_path(path))?;
        transaction.rollback()?;
    }
    match connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)) {
        Ok(0) => Ok(()),
        // The WAL is on the disk, and may wait until a reader has gone or there is space.
        Ok(_) if !failed => Ok(()),
        Err(error) if !failed && error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Ok(()),
        Ok(_) => Err(Trouble::Refused(
            StoreFailure::Locked,
            "after a failed write the file must be completed first, and a reader holds it up; end that program".into(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Writes the frames of the log again, and its header. What is behind the first frame of another log, such as
/// zeros, is never read.
fn write_again(path: &Path) -> Result<(), Trouble> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    if let Some((header, frame)) = read_header(&mut file)? {
        file.rewind()?;
        file.write_all(&header)?;
        let mut buffer = vec![0; REWRITE_BYTES.div_ceil(frame) * frame];
        let mut position = WAL_HEADER;
        loop {
            let length = read_most(&mut file, &mut buffer)?;
            let is_of_log = |bytes: &&[u8]| bytes.len() == frame && bytes[FRAME_SALT] == header[HEADER_SALT];
            let whole = buffer[..length].chunks(frame).take_while(is_of_log).count() * frame;
            file.seek(SeekFrom::Start(position))?;
            file.write_all(&buffer[..whole])?;
            position += whole as u64;
            if whole < buffer.len() {
                break;
            }
        }
    }
    file.sync_all()?;
    Ok(())
}

/// The header of a WAL, and how many bytes a frame has; `None` where it holds no log.
fn read_header(file: &mut File) -> Result<Option<([u8; WAL_HEADER_SIZE], usize)>, Trouble> {
    let mut header = [0; WAL_HEADER_SIZE];
    if read_most(file, &mut header)? < header.len() {
        return Ok(None);
    }
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_be_bytes);
    let page = number(&header[HEADER_PAGE_SIZE]);
    let is_log = number(&header[..4]) & !1 == WAL_MAGIC && page.is_power_of_two() && (512..=65_536).contains(&page);
    Ok(is_log.then_some((header, page as usize + FRAME_HEADER_SIZE)))
}

/// Fills the buffer, or reads to the end of the file. Answers how many bytes were read.
fn read_most(file: &mut File, buffer: &mut [u8]) -> Result<usize, Trouble> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}

fn wal_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push("-wal");
    PathBuf::from(name)
}

/// Whether nothing is in the WAL: there is none, or it has no header.
fn has_no_log(path: &Path) -> bool {
    wal_length(path) == 0 || File::open(wal_path(path)).is_ok_and(|mut wal| matches!(read_header(&mut wal), Ok(None)))
}

fn wal_length(path: &Path) -> u64 {
    wal_path(path).metadata().map_or(0, |metadata| metadata.len())
}

/// The file as an address that says that nobody changes it.
fn immutable_uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri.push_str("?immutable=1");
    uri
}
