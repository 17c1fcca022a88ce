//! Checks around each commit: whether the files are in place, and whether there is room for new jobs.

use bytes::Bytes;
use rusqlite::Connection;

use super::files::{Change, Mismatch, Part};
use super::open::OpenFile;
use super::{SqliteStore, read};
use crate::job_server::{JobKey, StoreFailure};
use crate::stats::StoreSpace;
use crate::store::{Room, StoreError};

/// A store without room for a job of this many bytes is full.
const ORDINARY: u64 = 16 << 10;
/// A store that was full has room again once jobs of this fraction of the reserve fit.
const AGAIN_SHARE: u64 = 4;

/// Space to check for, in bytes.
#[derive(Clone, Copy)]
struct Wanted {
    /// Written in one transaction.
    written: u64,
    /// Kept by the next transactions together, for which the WAL need not grow.
    kept: u64,
    /// Size of the jobs to name in the error; 0 to report that the disk is full.
    jobs: u64,
}

impl SqliteStore {
    /// Makes sure that committed data can be found again. Repairs what can be repaired.
    ///
    /// # Errors
    /// No commit may be acknowledged.
    pub(super) fn check_files(&mut self) -> Result<(), StoreError> {
        self.keep_lock()?;
        self.mend_index()?;
        let Err(mut mismatch) = self.files.check() else { return Ok(()) };
        if mismatch.change == Change::Cut && self.is_shortened_by_another(mismatch.part) {
            match self.files.check() {
                Ok(()) => return Ok(()),
                Err(other) => mismatch = other,
            }
        }
        self.repair(&mismatch)
    }

    /// The same after a commit.
    ///
    /// # Errors
    /// The commit must not be acknowledged.
    pub(super) fn check_commit(&mut self) -> Result<(), StoreError> {
        // The index may have grown.
        self.mend_index()?;
        match self.files.check_holders() {
            Ok(()) => Ok(()),
            Err(_) => self.check_files(),
        }
    }

    /// The same without repair, before the file is opened.
    pub(super) fn compare_files(&mut self) -> Result<(), StoreError> {
        let checked = self.files.check();
        checked.map_err(|mismatch| self.lost(&mismatch))
    }

    /// Restores the length of the WAL index as SQLite has mapped it, if it was truncated. A truncation
    /// between this call and SQLite's next access is not detected.
    ///
    /// # Errors
    /// SQLite must not access the file.
    pub(super) fn mend_index(&mut self) -> Result<(), StoreError> {
        if self.file.is_none() {
            return Ok(());
        }
        match self.files.mend_index() {
            Ok(false) => {}
            Ok(true) => tracing::warn!(
                "SQLite file {}: its index {}-shm was truncated while in use; it was recreated from the WAL, no data \
                 lost",
                self.path.display(),
                self.path.display()
            ),
            Err(mismatch) => return Err(self.lost(&mismatch)),
        }
        Ok(())
    }

    /// Restores a removed lock file, so that no other server can lock the same database.
    fn keep_lock(&mut self) -> Result<(), StoreError> {
        let Some(lock) = self.lock.as_mut().filter(|lock| !lock.is_in_place(&self.path)) else { return Ok(()) };
        lock.take_again(&self.path)?;
        tracing::warn!("SQLite file {}: its lock file was removed while in use; it was recreated", self.path.display());
        Ok(())
    }

    /// Whether another program has checkpointed and truncated the WAL, or compacted the database. Then SQLite
    /// knows, and nothing is missing.
    fn is_shortened_by_another(&mut self, part: Part) -> bool {
        let wal = self.files.length(Part::Wal);
        let Some(file) = &mut self.file else { return false };
        // The data written while opening is not counted.
        let is_whole = file.wal_bytes() > 0 && wal >= Some(file.wal_bytes());
        // The checkpoint fails if WAL pages that are not in the database are missing. It must not extend a
        // database that was truncated.
        let is_copied = |file: &mut OpenFile| is_whole || matches!(file.checkpoint(), Ok(true));
        if part == Part::Wal && !is_copied(file) {
            return false;
        }
        let database = self.files.length(Part::Database);
        let is_complete = pages(&file.connection, "page_count")
            .is_some_and(|count| count > 0 && database >= Some(count.saturating_mul(file.page_size)));
        if !is_complete || part != Part::Wal && !is_copied(file) {
            return false;
        }
        self.files.allow_shorter_database();
        if !is_whole {
            self.files.set_wal_length(0);
        }
        true
    }

    /// Repairs a mismatch. A removed WAL is still open: it is checkpointed into the database, and a new one
    /// is started. A replaced index may be that of another program that uses the same WAL: no checkpoint is
    /// done with the old one, and the file is reopened.
    fn repair(&mut self, mismatch: &Mismatch) -> Result<(), StoreError> {
        if mismatch.part == Part::Index && matches!(mismatch.change, Change::Replaced(_)) {
            if let Some(file) = self.file.take() {
                file.close_untouched();
            }
            self.files.forget_index();
            self.file = Some(self.opened()?);
            tracing::warn!(
                "SQLite file {}: {mismatch}; it was recreated from the WAL, no data lost",
                self.path.display()
            );
            return Ok(());
        }
        let is_free = matches!(mismatch.change, Change::Gone | Change::Replaced(0));
        if mismatch.part == Part::Database || !is_free {
            return Err(self.lost(mismatch));
        }
        let Some(mut file) = self.file.take() else { return Err(self.lost(mismatch)) };
        match file.checkpoint() {
            Ok(true) => file.close_untouched(),
            Ok(false) => {
                self.file = Some(file);
                return Err(self.lost(mismatch));
            }
            Err(trouble) => {
                self.file = Some(file);
                return Err(self.note("cannot copy the WAL into the database", &trouble));
            }
        }
        self.files.forget_wal();
        self.file = Some(self.opened()?);
        tracing::warn!(
            "SQLite file {}: {mismatch}; its contents were copied into the database, no data lost",
            self.path.display()
        );
        Ok(())
    }

    fn lost(&self, mismatch: &Mismatch) -> StoreError {
        let remedy = match mismatch.change {
            Change::Cut => {
                "restore a backup with the server stopped, or let workers finish the queued jobs and restart it"
            }
            Change::Gone | Change::Replaced(_) => {
                "put back the original file (the same one, not a copy), or let workers finish the queued jobs before \
                 you stop the server: they are lost when it stops"
            }
        };
        let text = format!(
            "SQLite file {}: {mismatch}; {remedy}: changes since the last backup exist only in this process",
            self.path.display()
        );
        StoreError::new(StoreFailure::Io, text)
    }

    /// Reads workloads from a file that cannot be opened for writing. `None` if that fails, too.
    pub(super) fn load_only(&mut self, jobs: &[JobKey], most_bytes: usize) -> Option<Vec<Option<Bytes>>> {
        self.files.check().ok()?;
        let mut file = OpenFile::read(&self.path, &self.queue).ok()?;
        read(&mut file, jobs, most_bytes).ok()
    }

    /// See [`Store::room`](crate::store::Store::room).
    pub(super) fn room_for(&mut self, bytes: u64) -> Room {
        let written = if bytes == 0 { ORDINARY } else { bytes };
        self.find_room(Wanted { written, kept: written, jobs: bytes })
    }

    /// See [`Store::room_again`](crate::store::Store::room_again).
    pub(super) fn room_again(&mut self) -> Room {
        let kept = (self.reserve.size() / AGAIN_SHARE).max(ORDINARY);
        self.find_room(Wanted { written: ORDINARY, kept, jobs: 0 })
    }

    fn find_room(&mut self, wanted: Wanted) -> Room {
        if self.mend_index().is_err() {
            return Room::Unknown;
        }
        let room = self.room_now(wanted);
        if !matches!(room, Room::Short(_)) {
            self.enlarge_reserve();
            return room;
        }
        // The WAL has grown into the free space or the reserve: truncate it.
        if self.files.length(Part::Wal) > Some(0) {
            let emptied = self.with_file("cannot copy the WAL into the database", OpenFile::empty_wal);
            if emptied.is_ok() {
                self.files.set_wal_length(0);
            }
        }
        self.enlarge_reserve();
        self.room_now(wanted)
    }

    /// Restores a reserve that was given up or is too small.
    fn enlarge_reserve(&mut self) {
        if self.reserve.is_wanted()
            && self.reserve.is_due()
            && let Some(free) = self.reserve.free()
        {
            let margin = self.reserve.margin();
            self.reserve.make(free.saturating_sub(self.needed(margin, margin)));
        }
    }

    fn room_now(&self, wanted: Wanted) -> Room {
        let Some(file) = self.file.as_ref().filter(|_| self.reserve.is_wanted()) else { return Room::Unknown };
        let Some(free) = self.reserve.free() else { return Room::Unknown };
        let margin = self.reserve.margin();
        let (written, kept) = (wanted.written.saturating_add(margin), wanted.kept.saturating_add(margin));
        let beside = self.reserve.left_free();
        // Upper bound that is usually met by far: everything is written twice, and no page is reused.
        let most =
            (file.pages_to_copy() * file.page_size).saturating_add(kept.saturating_mul(3)).saturating_add(beside);
        if self.reserve.is_held() && (free >= most || free >= self.needed(written, kept).saturating_add(beside)) {
            return Room::Enough;
        }
        self.short(free, wanted.jobs)
    }

    /// Bytes of disk space needed: growth of the WAL for `written` bytes in one transaction, and growth of
    /// the database at the checkpoint for `kept` bytes.
    pub(super) fn needed(&self, written: u64, kept: u64) -> u64 {
        let Some(file) = &self.file else { return 0 };
        let page = file.page_size.max(1);
        let (database, wal) = (self.files.length(Part::Database), self.files.length(Part::Wal));
        let (database, wal) = (database.unwrap_or(0), wal.unwrap_or(0));
        let count = pages(&file.connection, "page_count").unwrap_or(0);
        let unused = pages(&file.connection, "freelist_count").unwrap_or(0).saturating_mul(page);
        let to_copy = count.saturating_mul(page).saturating_sub(database);
        // Checkpointed frames are overwritten.
        let used = if file.pages_to_copy() == 0 { 0 } else { file.wal_bytes() };
        // Overhead for page and frame headers.
        let [written, kept] = [written, kept].map(|bytes| bytes.saturating_add(bytes / 64));
        to_copy
            .saturating_add(kept.saturating_sub(unused))
            .saturating_add(used.saturating_add(written).saturating_sub(wal))
    }

    fn short(&self, free: u64, bytes: u64) -> Room {
        let (path, mebibytes) = (self.path.display(), |bytes: u64| format!("{:.1} MiB", in_mebibytes(bytes)));
        let (free, reserve) = (mebibytes(free), mebibytes(self.reserve.size()));
        let text = if bytes > 0 {
            format!(
                "SQLite file {path}: the disk has {free} free besides the reserve of {reserve}, too little for a job \
                 of {bytes} bytes; free some space, or lower --store-reserve"
            )
        } else {
            format!(
                "SQLite file {path}: the disk is full: {free} free, and the reserve of {reserve} is for removals only; \
                 queued jobs still run; free some space, let workers catch up, or lower --store-reserve"
            )
        };
        Room::Short(StoreError::new(StoreFailure::Full, text))
    }

    /// See [`Store::space`](crate::store::Store::space).
    pub(super) fn measure(&mut self) -> Option<StoreSpace> {
        let wal = self.files.length(Part::Wal).unwrap_or(0);
        Some(StoreSpace { free: self.reserve.free()?, reserve: self.reserve.held_bytes(), wal })
    }
}

#[allow(clippy::cast_precision_loss, reason = "for people to read")]
pub(super) fn in_mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A page count from the pragma `name`.
fn pages(connection: &Connection, name: &str) -> Option<u64> {
    let count: Option<i64> = connection.pragma_query_value(None, name, |row| row.get(0)).ok();
    count.and_then(|count| u64::try_from(count).ok())
}
