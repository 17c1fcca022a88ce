//! Opening the file: SQLite settings, and recovery after a crash or a failed write.

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

/// How long a statement waits for a lock of another program, as in C++ gearmand.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(6);

/// WAL size in pages at which a checkpoint runs. SQLite's own 1000 means four times as many syncs. More than
/// this makes single commits slower than it saves.
const CHECKPOINT_PAGES: u32 = 4000;
/// On a small disk the checkpoint runs earlier, when the WAL takes this fraction of the disk, so that the
/// reserve has room for the copy. But not below this number of pages.
const CHECKPOINT_SHARE: u64 = 32;
const CHECKPOINT_PAGES_MIN: u32 = 64;
/// If the WAL cannot restart after a checkpoint because a reader needs it, the next checkpoint runs after
/// this many more pages.
const CHECKPOINT_AGAIN_PAGES: u32 = 1000;
/// Assumed size in pages of the transaction that triggers a checkpoint.
const LAST_PAGES: u32 = 64;
/// A commit runs the checkpoint itself at this multiple of the size, in case there was never an idle moment.
const CHECKPOINT_FORCED: u32 = 4;
/// Sizes of the WAL header and of the frame header before each page, in bytes.
const WAL_HEADER_SIZE: usize = 32;
const FRAME_HEADER_SIZE: usize = 24;
const WAL_HEADER: u64 = WAL_HEADER_SIZE as u64;
const FRAME_HEADER: u64 = FRAME_HEADER_SIZE as u64;
/// The magic number of the WAL, without its last bit, which gives the byte order of checksums.
const WAL_MAGIC: u32 = 0x377f_0682;
/// Offsets in the WAL header of the page size and the salt, and the offset of the salt in a frame header.
const HEADER_PAGE_SIZE: std::ops::Range<usize> = 8..12;
const HEADER_SALT: std::ops::Range<usize> = 16..24;
const FRAME_SALT: std::ops::Range<usize> = 8..16;

/// Bytes of the WAL that are rewritten at a time.
const REWRITE_BYTES: usize = 1 << 20;

/// The settings of a connection. There is no automatic checkpoint, since its error would be reported as a
/// failed commit. The cache is small: rows are appended, and read again only to be removed, in order, and the
/// page cache of the system has them. A transaction may use 32 MiB before it spills pages that it may have to
/// write again.
const PRAGMAS: &str = "PRAGMA cache_size = -2048; PRAGMA cache_spill = -32768; PRAGMA temp_store = MEMORY; \
     PRAGMA locking_mode = NORMAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; \
     PRAGMA journal_size_limit = 67108864;";

/// An open file.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) connection: Connection,
    pub(super) sql: Sql,
    /// Whether commits sync.
    syncs: bool,
    /// Pages in the WAL after the last commit.
    wal_pages: Arc<AtomicU32>,
    checkpoint_at: u32,
    checkpoint_pages: u32,
    /// The result of the last checkpoint: pages in the WAL, and how many of them are in the database now.
    copied: (u32, u32),
    /// Page size in bytes.
    pub(super) page_size: u64,
}

impl OpenFile {
    /// Opens the file to keep jobs: creates it if it does not exist, upgrades it if it is older. If an
    /// earlier write or sync has `failed`, the file is not used before all of it is on disk.
    pub(super) fn own(path: &Path, queue: &str, keep_primary_key: bool, failed: bool) -> Result<Self, Trouble> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        // Until recovery is complete, closing must not checkpoint the WAL: it may not be on disk.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA page_size = 4096")?;
        let version = layout::check_version(&connection)?;
        check_encoding(&connection)?;
        // A rejected file stays unchanged.
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

    /// Opens the file for reading.
    pub(super) fn read(path: &Path, queue: &str) -> Result<Self, Trouble> {
        // Opening something other than a regular file may block forever.
        if std::fs::metadata(path).is_ok_and(|file| !file.is_file() && !file.is_dir()) {
            return Err(Trouble::Refused(StoreFailure::Corrupt, "it is not a regular file".to_owned()));
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
        // Even for reading, SQLite creates a file next to a database in WAL mode, which needs write
        // permission on the directory. If the WAL is empty, no server is running, and the database alone is
        // complete.
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

    /// Turns syncing of commits on or off.
    pub(super) fn set_sync(&mut self, sync: bool) -> Result<(), rusqlite::Error> {
        if self.syncs != sync {
            // A failure leaves the connection unusable, so the recorded value does not matter then.
            self.syncs = sync;
            self.connection.execute_batch(if sync {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            })?;
        }
        Ok(())
    }

    /// Whether the WAL is large enough for a checkpoint.
    pub(super) fn is_checkpoint_due(&mut self) -> bool {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        if pages < self.checkpoint_pages {
            self.checkpoint_at = self.checkpoint_pages;
        }
        pages >= self.checkpoint_at
    }

    /// Runs a checkpoint if it is due. It neither waits for readers nor blocks them.
    pub(super) fn checkpoint_when_due(&mut self) -> Result<(), Trouble> {
        if !self.is_checkpoint_due() {
            return Ok(());
        }
        let pages = self.wal_pages.load(Ordering::Relaxed);
        // Usually the next commit restarts the WAL. If a reader still needs it, there is no hurry.
        self.checkpoint_at = pages.saturating_add(CHECKPOINT_AGAIN_PAGES.min(self.checkpoint_pages));
        self.checkpoint().map(drop)
    }

    /// The same before a commit, which waits for it only if it is overdue. If there is no room for it, there
    /// may still be room for the commit.
    pub(super) fn checkpoint_when_overdue(&mut self) -> Result<(), Trouble> {
        if self.wal_pages.load(Ordering::Relaxed) < self.checkpoint_pages.saturating_mul(CHECKPOINT_FORCED) {
            return Ok(());
        }
        match self.checkpoint_when_due() {
            Err(Trouble::Sqlite(error)) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Ok(()),
            result => result,
        }
    }

    /// Checkpoints the WAL into the database, and syncs both. Returns whether the checkpoint is complete.
    pub(super) fn checkpoint(&mut self) -> Result<bool, Trouble> {
        match self.connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
            // Another program is running a checkpoint.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
            Ok((pages, copied)) => {
                let count = |pages| u32::try_from(pages).unwrap_or(0);
                self.copied = (count(pages), count(copied));
                Ok(pages == copied)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Checkpoints the WAL and truncates it, to free its space, unless a reader needs it.
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

    /// Maximum number of WAL pages that are not in the database yet.
    pub(super) fn pages_to_copy(&self) -> u64 {
        let (pages, (seen, copied)) = (self.wal_pages.load(Ordering::Relaxed), self.copied);
        u64::from(if pages == seen { seen.saturating_sub(copied) } else { pages })
    }

    /// Bytes written to the WAL since its restart, including the last commit.
    pub(super) fn wal_bytes(&self) -> u64 {
        match u64::from(self.wal_pages.load(Ordering::Relaxed)) {
            0 => 0,
            pages => self.bytes_of(pages),
        }
    }

    /// Size of the WAL in bytes at a checkpoint after a transaction of ordinary size.
    pub(super) fn wal_bytes_at_checkpoint(&self) -> u64 {
        self.bytes_of(u64::from(self.checkpoint_pages + LAST_PAGES))
    }

    fn bytes_of(&self, pages: u64) -> u64 {
        WAL_HEADER + pages * (self.page_size + FRAME_HEADER)
    }

    /// Closes the file after an I/O error, without a checkpoint: nothing may be based on data that may not be
    /// on disk.
    pub(super) fn close_untouched(self) {
        // Even if this fails the file is closed, as it would be without an error.
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }
}

/// WAL size in pages at which a checkpoint runs.
fn checkpoint_pages(path: &Path, page_size: u64) -> u32 {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(disk) = nix::sys::statvfs::statvfs(directory) else { return CHECKPOINT_PAGES };
    let disk = disk.blocks().saturating_mul(disk.fragment_size());
    let pages = (disk / CHECKPOINT_SHARE).checked_div(page_size).and_then(|pages| u32::try_from(pages).ok());
    pages.unwrap_or(CHECKPOINT_PAGES).clamp(CHECKPOINT_PAGES_MIN, CHECKPOINT_PAGES)
}

/// Non-UTF-8 bytes survive only if SQLite does not convert the encoding.
fn check_encoding(connection: &Connection) -> Result<(), Trouble> {
    let encoding: String = connection.pragma_query_value(None, "encoding", |row| row.get(0))?;
    if encoding == "UTF-8" {
        return Ok(());
    }
    let text = format!("its text encoding is {encoding}, which cannot represent all names; choose another file");
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

/// Recovery: makes sure that the WAL of an earlier process or connection is on disk.
///
/// After a failed sync the system marks the pages as written, although the disk may not have them. Frames
/// appended after such pages are synced, but after a power failure the log still ends at the hole. A
/// checkpoint that copies from such pages damages the database if the power fails in its middle, since the
/// frames that would repair it are missing. So the same bytes are rewritten to the WAL, which makes the
/// system write them, and are synced through a descriptor that has seen no failure. Then the WAL is
/// checkpointed into the database, synced, and truncated. There is no record of whether the last process
/// ended after a failed sync, so each opening does this. After a clean shutdown there is no WAL.
pub(super) fn make_good(connection: &mut Connection, path: &Path, failed: bool) -> Result<(), Trouble> {
    if wal_length(path) > 0 {
        // Keeps other programs from appending meanwhile.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write_again(&wal_path(path))?;
        transaction.rollback()?;
    }
    match connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)) {
        Ok(0) => Ok(()),
        // The WAL is on disk. The checkpoint may wait until a reader is gone or there is space.
        Ok(_) if !failed => Ok(()),
        Err(error) if !failed && error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Ok(()),
        Ok(_) => Err(Trouble::Refused(
            StoreFailure::Locked,
            "recovery after a failed write is blocked by a reader; end that program".into(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Rewrites the frames of the log and its header. Anything after the first frame of another log, such as
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

/// The header of a WAL, and the size of a frame in bytes; `None` if there is no log in it.
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

/// Fills the buffer, or reads to the end of the file. Returns the number of bytes read.
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

/// Whether the WAL is empty: it does not exist, or has no header.
fn has_no_log(path: &Path) -> bool {
    wal_length(path) == 0 || File::open(wal_path(path)).is_ok_and(|mut wal| matches!(read_header(&mut wal), Ok(None)))
}

fn wal_length(path: &Path) -> u64 {
    wal_path(path).metadata().map_or(0, |metadata| metadata.len())
}

/// An SQLite URI that declares the file immutable.
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
