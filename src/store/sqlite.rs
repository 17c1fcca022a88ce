//! Jobs in a SQLite file.
//!
//! # The file
//! One table, with the name and the five columns that C++ gearmand uses, so that C++ gearmand can read it
//! unchanged:
//!
//! | column | what |
//! | --- | --- |
//! | `job_id` | the number in the handle; also SQLite's rowid, hence the order of the table |
//! | `unique_key` | the unique id; the handle if there is none or it is the workload (see `flags`) |
//! | `function_name` | the function, any bytes |
//! | `priority` | 0 high, 1 normal, 2 low |
//! | `when_to_run` | seconds since 1970, 0 for immediately |
//! | `handle` | the complete handle; NULL for a job written by C++ gearmand |
//! | `reducer` | the reducer; NULL for none |
//! | `submitted` | seconds since 1970, NULL or 0 if unknown |
//! | `flags` | 1: the client sent no unique id; 2: it sent `-` |
//! | `attempts` | how often a worker was lost while running the job; NULL for never |
//! | `data` | the workload; never NULL, since C++ gearmand exits on NULL |
//!
//! There is no primary key on the unique id: the job server enforces uniqueness, and in a file with a million
//! jobs the index costs ten times as much as everything else. Text columns hold bytes: names and unique ids
//! need not be UTF-8. `gearman_meta` holds, for each table, the highest assigned job number;
//! `gearman_settings` the operator settings of functions and workers; `gearman_quarantine` the quarantined
//! invalid rows, with the reason. The format version is SQLite's `user_version`.
//!
//! # Downgrade
//! C++ gearmand opens the file and runs every job. It removes each by unique id and function, which needs an
//! index: `CREATE UNIQUE INDEX gq_c ON gearman_queue (unique_key, function_name)`. This store drops that
//! index when it opens the file again. A table that keeps C++ gearmand's primary key gets our columns
//! appended to its own, with an index on `job_id`.
//!
//! # Durability
//! The file is in WAL mode. A commit with sync is on disk after one `fdatasync` of the WAL, together with all
//! earlier commits; a commit without sync is in the operating system's cache. [`Store::idle`] checkpoints the
//! WAL into the database, and [`Store::prepare`] extends the WAL to its full size in advance.

mod adds;
mod ahead;
mod edits;
mod error;
mod files;
mod layout;
mod lock;
mod maintenance;
mod open;
mod replay;
mod reserve;
mod room;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

pub use self::maintenance::{backup, compact};

use self::ahead::Ahead;
use self::error::Trouble;
use self::files::Files;
use self::lock::LockFile;
use self::open::OpenFile;
use self::replay::{InvalidRows, SideReader};
use self::reserve::Reserve;
use super::location::Access;
use super::strangers::Strangers;
use super::{Begun, Changes, HasWorkload, Reading, Replayed, Room, Store, StoreError, Workloads};
use crate::job_server::{JobKey, StoreFailure, StoredJob};
use crate::stats::StoreSpace;

/// `flags` of a job whose client sent no unique id.
const NO_UNIQUE: i64 = 1;
/// `flags` of a job whose unique id is its workload.
const WORKLOAD_IS_UNIQUE: i64 = 2;
/// The unique id that the client sends for that.
const DASH: &[u8] = b"-";

/// Jobs in a SQLite file. See the [module](self).
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    queue: String,
    keep_primary_key: bool,
    /// Handle prefix for jobs without a handle.
    prefix: Arc<str>,
    /// `None` after a failure, until the next call.
    file: Option<OpenFile>,
    /// Whether an I/O error has occurred since the file was last known to be completely on disk.
    failed: bool,
    /// The lock on the store, held even while the file is closed, and released after `file` above. `None` for
    /// read access.
    lock: Option<LockFile>,
    /// The open files, and their expected sizes.
    files: Files,
    /// Preallocation of the WAL with zeros.
    ahead: Ahead,
    /// Invalid rows found by the incremental replay.
    invalid_rows: InvalidRows,
    reserve: Reserve,
    strangers: Strangers,
    /// Whether the file had much unused space at the last check.
    had_slack: bool,
}

/// Resolves links: the path of the existing file, or of the file to be created.
fn real_path(path: &Path) -> PathBuf {
    let through_directory = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(through_directory).unwrap_or_else(|| path.to_owned())
}

impl SqliteStore {
    /// Opens the file and its table. See [`Access`] for what that changes, and
    /// [`Location`](super::location::Location) for the parameters.
    ///
    /// # Errors
    /// Another server uses the file, it cannot be opened or created, it is damaged or of a newer version, or
    /// its table is not a queue.
    pub fn open(
        path: &Path,
        table: &str,
        keep_primary_key: bool,
        access: Access,
        prefix: &Arc<str>,
    ) -> Result<Self, StoreError> {
        // Absolute, because the file is reopened after a failure and the process may have changed its
        // directory by then.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // The same file under another name must have the same lock.
        let path = real_path(&path);
        let lock = match access {
            Access::Own => Some(LockFile::take(&path)?),
            Access::Read => None,
        };
        let mut store = Self {
            queue: table.to_owned(),
            keep_primary_key,
            prefix: Arc::clone(prefix),
            file: None,
            failed: false,
            lock,
            files: Files::of(&path),
            ahead: Ahead::default(),
            invalid_rows: InvalidRows::default(),
            reserve: Reserve::new(&path),
            path,
            strangers: Strangers::default(),
            had_slack: false,
        };
        let file = match store.opened() {
            // An earlier server left its reserve behind, and the space is needed.
            Err(error) if store.lock.is_some() && is_short_of_room(&error) && reserve::remove_of(&store.path) => {
                store.opened()?
            }
            result => result?,
        };
        store.file = Some(file);
        Ok(store)
    }

    fn opened(&mut self) -> Result<OpenFile, StoreError> {
        self.compare_files()?;
        let file = if self.lock.is_some() {
            OpenFile::own(&self.path, &self.queue, self.keep_primary_key, self.failed)
        } else {
            OpenFile::read(&self.path, &self.queue)
        };
        match file {
            Ok(file) => {
                self.failed = false;
                if self.lock.is_some() {
                    self.files.note();
                }
                Ok(file)
            }
            Err(trouble) => Err(self.note("cannot open it", &trouble)),
        }
    }

    /// Runs `work` on the open file. After an error that may have left the file incomplete it is closed, and
    /// the next call reopens it.
    fn with_file<T>(
        &mut self,
        what: &str,
        work: impl FnOnce(&mut OpenFile) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        self.mend_index()?;
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.opened()?,
        };
        match work(&mut file) {
            Ok(value) => {
                self.file = Some(file);
                Ok(value)
            }
            Err(trouble) => {
                let error = self.note(what, &trouble);
                if trouble.leaves_file_usable(error.failure) {
                    // It can still be read. On a full disk it could not be reopened.
                    self.file = Some(file);
                } else {
                    file.close_untouched();
                }
                Err(error)
            }
        }
    }

    fn note(&mut self, what: &str, trouble: &Trouble) -> StoreError {
        let error = trouble.report(&self.path, what);
        self.failed |= trouble.is_io() && !trouble.leaves_file_usable(error.failure);
        error
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // Closing checkpoints the WAL into the database.
        if self.mend_index().is_err()
            && let Some(file) = self.file.take()
        {
            file.close_untouched();
        }
    }
}

impl Store for SqliteStore {
    fn replay(&mut self, take: &mut dyn FnMut(StoredJob, HasWorkload) -> Workloads) -> Result<Replayed, StoreError> {
        let (queue, prefix, owns) = (self.queue.clone(), Arc::clone(&self.prefix), self.lock.is_some());
        let path = self.path.clone();
        self.with_file("cannot read the jobs", |file| {
            if owns {
                file.set_sync(true)?;
                layout::renumber(&mut file.connection, &file.sql, &queue)?;
            }
            let mut found = replay::scan(file, &queue, &prefix, take)?;
            if owns {
                replay::quarantine(file, &queue, &path, &found.invalid)?;
                found.replayed.settings = layout::settings(&file.connection, &queue)?;
            }
            Ok(found.replayed)
        })
    }

    fn begin_replay(&mut self) -> Result<Option<Begun>, StoreError> {
        if self.lock.is_none() {
            return Ok(None);
        }
        let (queue, prefix, path, invalid_rows) =
            (self.queue.clone(), Arc::clone(&self.prefix), self.path.clone(), self.invalid_rows.clone());
        self.with_file("cannot read the jobs", |file| {
            file.set_sync(true)?;
            layout::renumber(&mut file.connection, &file.sql, &queue)?;
            let noted = layout::last_number(&file.connection, &queue)?;
            let last_number = layout::highest(&file.connection, &file.sql, noted)?;
            let settings = layout::settings(&file.connection, &queue)?;
            let reading = SideReader::open(&path, &queue, &prefix, last_number, invalid_rows)?;
            let known = Replayed { last_number, settings, ..Replayed::default() };
            Ok(Some((known, Box::new(reading) as Box<dyn Reading>)))
        })
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        if self.lock.is_none() {
            let text = format!("SQLite file {}: it was opened read-only", self.path.display());
            return Err(StoreError::new(StoreFailure::ReadOnly, text));
        }
        self.check_files()?;
        let done = match self.write(changes) {
            // Changes without new jobs free space, and may use the reserve.
            Err(error) if error.failure == StoreFailure::Full && self.reserve.give_up() && changes.adds.is_empty() => {
                self.write(changes)
            }
            done => done,
        };
        done?;
        if let Some(file) = &self.file {
            self.files.set_wal_length(file.wal_bytes());
        }
        self.check_commit()
    }

    fn load(&mut self, jobs: &[JobKey], most_bytes: usize) -> Result<Vec<Option<Bytes>>, StoreError> {
        // A file that is not writable may still be readable.
        if self.file.is_none()
            && let Some(workloads) = self.load_only(jobs, most_bytes)
        {
            return Ok(workloads);
        }
        self.with_file("cannot read workloads", |file| read(file, jobs, most_bytes))
    }

    fn idle(&mut self) -> Result<(), StoreError> {
        if !self.file.as_mut().is_some_and(OpenFile::is_checkpoint_due) {
            return Ok(());
        }
        // A file that was truncated must not be extended with holes.
        self.check_files()?;
        let done = self.with_file("cannot copy the WAL into the database", OpenFile::checkpoint_when_due);
        match done {
            // Nothing is lost. Either giving up the reserve makes room for a later checkpoint, or there is no
            // room, and that is known already.
            Err(error) if error.failure == StoreFailure::Full && self.reserve.is_wanted() && !self.failed => {
                self.reserve.give_up();
                Ok(())
            }
            done => done,
        }
    }

    fn prepare(&mut self) -> Result<bool, StoreError> {
        self.write_ahead()
    }

    fn rest(&mut self) -> Result<bool, StoreError> {
        if self.file.is_none() || self.lock.is_none() {
            return Ok(false);
        }
        self.check_files()?;
        let had_slack = self.had_slack;
        self.had_slack = self.with_file("cannot compact it", |file| {
            let is_loose = maintenance::has_slack(file)?;
            // Only if both checks found slack: shrinking for a recurring backlog would only make the file
            // grow again.
            if had_slack && is_loose {
                maintenance::shrink(file)?;
                return Ok(false);
            }
            Ok(is_loose)
        })?;
        if had_slack && let Some(file) = &self.file {
            self.files.allow_shorter_database();
            self.files.set_wal_length(file.wal_bytes());
        }
        Ok(self.had_slack)
    }

    fn set_reserve(&mut self, bytes: Option<u64>) {
        if self.lock.is_some() {
            self.reserve.set(bytes);
        }
    }

    fn room(&mut self, bytes: u64) -> Room {
        self.room_for(bytes)
    }

    fn room_again(&mut self) -> Room {
        self.room_again()
    }

    fn check(&mut self) -> Result<(), StoreError> {
        if self.file.is_none() || self.lock.is_none() {
            return Ok(());
        }
        self.check_files()?;
        self.quarantine()
    }

    fn missing(&mut self) -> Option<String> {
        if self.lock.is_none() || self.check_files().is_ok() {
            return None;
        }
        self.files.check_holders().err().map(|mismatch| mismatch.to_string())
    }

    fn space(&mut self) -> Option<StoreSpace> {
        self.measure()
    }
}

impl SqliteStore {
    /// Quarantines the invalid rows found by the incremental replay.
    fn quarantine(&mut self) -> Result<(), StoreError> {
        let found = self.invalid_rows.take();
        if found.is_empty() {
            return Ok(());
        }
        let (queue, path) = (self.queue.clone(), self.path.clone());
        let done = self.with_file("cannot quarantine rows", |file| replay::quarantine(file, &queue, &path, &found));
        if done.is_err() {
            self.invalid_rows.add(found);
        }
        done
    }

    fn write(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let queue = self.queue.clone();
        let mut made_way = 0;
        self.with_file("cannot commit", |file| {
            file.checkpoint_when_overdue()?;
            file.set_sync(changes.sync)?;
            let OpenFile { connection, sql, .. } = file;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            remove(&transaction, sql, &changes.removes)?;
            edits::make(&transaction, sql, &queue, &changes.edits)?;
            made_way = adds::make(&transaction, sql, &changes.adds)?;
            set_attempts(&transaction, &sql.attempts, &changes.attempts)?;
            set(&transaction, &queue, &changes.settings)?;
            // SQLite syncs nothing if no page changes, and a removal may match no row.
            let is_empty = changes.removes.is_empty() && changes.edits.is_empty() && changes.attempts.is_empty();
            let is_probe = changes.adds.is_empty() && (is_empty || changes.sync);
            if is_probe || changes.last_number > 0 {
                let mut note = transaction.prepare_cached(layout::NOTE)?;
                note.execute((queue.as_str(), integer(changes.last_number), i64::from(is_probe)))?;
            }
            transaction.commit()?;
            Ok(())
        })?;
        self.strangers.note(format_args!("SQLite file {}", self.path.display()), made_way);
        Ok(())
    }
}

/// Reads workloads in one transaction, so that the locks are taken only once.
fn read(file: &mut OpenFile, jobs: &[JobKey], most_bytes: usize) -> Result<Vec<Option<Bytes>>, Trouble> {
    let transaction = file.connection.transaction()?;
    let workloads = load(&transaction, &file.sql.load, jobs, most_bytes)?;
    transaction.commit()?;
    Ok(workloads)
}

/// Whether the disk is full. If there is no room for the index of the WAL, SQLite reports an I/O error.
fn is_short_of_room(error: &StoreError) -> bool {
    matches!(error.failure, StoreFailure::Full | StoreFailure::Io)
}

/// Jobs end roughly in the order of their arrival, so removals often have consecutive numbers. A range delete
/// of two rows costs two thirds of two statements, and one of sixteen rows two fifths of sixteen. A list of
/// numbers costs more than a statement for each.
fn remove(transaction: &Transaction<'_>, sql: &layout::Sql, removes: &[JobKey]) -> Result<(), rusqlite::Error> {
    if removes.is_empty() {
        return Ok(());
    }
    let mut numbers: Vec<i64> = removes.iter().map(|key| integer(key.number)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut delete = transaction.prepare_cached(&sql.delete)?;
    let mut delete_run = transaction.prepare_cached(&sql.delete_run)?;
    for run in numbers.chunk_by(|number, next| number + 1 == *next) {
        match run {
            [number] => delete.execute([number])?,
            run => delete_run.execute([run[0], run[run.len() - 1]])?,
        };
    }
    Ok(())
}

fn set_attempts(transaction: &Transaction<'_>, sql: &str, attempts: &[(JobKey, u16)]) -> Result<(), rusqlite::Error> {
    if attempts.is_empty() {
        return Ok(());
    }
    let mut update = transaction.prepare_cached(sql)?;
    for (key, attempts) in attempts {
        update.execute((integer(key.number), attempts))?;
    }
    Ok(())
}

fn set(
    transaction: &Transaction<'_>,
    queue: &str,
    settings: &[(String, Option<String>)],
) -> Result<(), rusqlite::Error> {
    for (name, value) in settings {
        match value {
            Some(value) => transaction.prepare_cached(layout::SET)?.execute((queue, name, value))?,
            None => transaction.prepare_cached(layout::UNSET)?.execute((queue, name))?,
        };
    }
    Ok(())
}

fn load(
    connection: &Connection,
    sql: &str,
    jobs: &[JobKey],
    most_bytes: usize,
) -> Result<Vec<Option<Bytes>>, rusqlite::Error> {
    let mut select = connection.prepare_cached(sql)?;
    let (mut workloads, mut bytes) = (Vec::with_capacity(jobs.len()), 0);
    for key in jobs {
        let workload = select.query_row([integer(key.number)], |row| {
            let data = replay::bytes(row.get_ref(0)?).unwrap_or_default();
            bytes += data.len();
            Ok((bytes <= most_bytes || workloads.is_empty()).then(|| Bytes::copy_from_slice(data)))
        });
        match workload.optional() {
            Ok(None) => workloads.push(None),
            Ok(Some(Some(workload))) => workloads.push(Some(workload)),
            Ok(Some(None)) => break,
            // The caller asks for it again, and then it is the first.
            Err(_) if !workloads.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(workloads)
}

/// A number as SQLite stores it. A time beyond its range is as good as never.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Bytes as SQLite text, UTF-8 or not.
fn text(bytes: &[u8]) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(ValueRef::Text(bytes))
}
