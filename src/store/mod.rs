//! Persistent storage of background jobs, so that they survive a restart: the [`Store`] trait, the writer
//! thread in front of it, and one module for each kind of store.
//!
//! A store is simple and blocking. Only one thread calls it: the [`writer`], which does all disk and database
//! access. While a transaction is in progress, new operations accumulate, and the writer commits them
//! together as one [`Changes`] (group commit). So a store only has to be good at committing many changes at
//! once.

mod chunked_queue;
pub mod commit;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod driver;
pub mod location;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
pub mod preview;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
mod row;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"))]
mod strangers;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod table;
pub mod write_queue;
pub mod writer;

use std::fmt;

use bytes::Bytes;

use crate::job_server::{Edit, JobKey, StoreFailure, StoredJob};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"))]
use crate::job_server::{FOREIGN_NUMBER_MAX, NUMBER_MAX};
use crate::stats::StoreSpace;

/// The changes of one transaction. They are applied in this order: removes, edits, adds, attempts. Settings
/// may be applied at any point.
///
/// The order lets a job take a place that another job frees in the same transaction: a job that ended or was
/// moved releases its function and unique id for one that was moved there or is new. Edits have no order
/// among themselves, since two jobs may swap places. A job appears in at most one of removes, edits and adds.
#[derive(Debug, Default)]
pub struct Changes {
    /// Jobs that have ended. A missing job is not an error.
    pub removes: Vec<JobKey>,
    /// Edited jobs: the name under which the store has the job, and its new values. A job that is missing or
    /// already has these values is not an error, because an edit may be retried after it was applied. If the
    /// stored name is unknown, the job is listed once under each possible name, with the same edit.
    ///
    /// A row that the job server does not know may occupy the target of an edit. It must not block the edit
    /// or anything else in the transaction.
    pub edits: Vec<(JobKey, Edit)>,
    /// New jobs.
    pub adds: Vec<StoredJob>,
    /// Jobs, by their names after the edits, and how often a worker was lost while running them. A missing
    /// job is not an error.
    pub attempts: Vec<(JobKey, u16)>,
    /// Operator settings by name; `None` resets one to its default. Each name appears at most once. A store
    /// keeps them as opaque text, apart from the jobs.
    pub settings: Vec<(String, Option<String>)>,
    /// An upper bound for all job numbers assigned so far, of stored and unstored jobs. After a restart,
    /// numbering continues from it. 0 means unchanged; the stored value never decreases.
    pub last_number: u64,
    /// Whether these changes and everything committed earlier must be on disk (fsync) when the commit
    /// returns. Otherwise they only need to survive the end of the process.
    pub sync: bool,
}

impl Changes {
    /// Whether the transaction consists of removes only.
    pub fn only_removes(&self) -> bool {
        let Self { removes, edits, adds, attempts, settings, last_number, .. } = self;
        let is_rest_empty = edits.is_empty() && adds.is_empty() && attempts.is_empty() && settings.is_empty();
        !removes.is_empty() && is_rest_empty && *last_number == 0
    }

    /// Whether nothing is changed. The highest job number is ignored.
    pub fn is_empty(&self) -> bool {
        let Self { removes, edits, adds, attempts, settings, .. } = self;
        removes.is_empty() && edits.is_empty() && adds.is_empty() && attempts.is_empty() && settings.is_empty()
    }
}

/// Whether the consumer of a replay still wants workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workloads {
    /// Load the workloads of the next jobs too.
    Wanted,
    /// The next jobs may come with an empty workload. It is loaded on demand.
    Unwanted,
}

/// The result of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Number of jobs read.
    pub jobs: u64,
    /// Number of invalid rows that were quarantined, where the operator can inspect them.
    pub quarantined: u64,
    /// The highest job number ever assigned, as far as the store knows.
    pub last_number: u64,
    /// Operator settings, as names and values. Filled in only if the store was opened to keep jobs.
    pub settings: Vec<(String, String)>,
}

/// A persistent job store.
///
/// Each call recovers by itself from the failure of an earlier one: it reopens the file or reconnects before
/// it does anything else. A store never reuses a handle after a failed fsync, and every wait has a bound.
pub trait Store: Send {
    /// Reads all jobs in the order of their numbers, and the operator settings. Each job is passed to `take`,
    /// which returns whether it wants workloads for the jobs that follow. The second argument of `take` says
    /// whether this job has its workload. A job whose unique id is `-` always has it, because such jobs
    /// coalesce by their workload.
    ///
    /// An invalid row is quarantined and counted. It never makes the replay fail.
    ///
    /// # Errors
    /// The store as a whole cannot be read.
    fn replay(&mut self, take: &mut dyn FnMut(StoredJob, HasWorkload) -> Workloads) -> Result<Replayed, StoreError>;

    /// Starts an incremental replay, for stores that can be used while their jobs are still being read.
    /// Returns what is known before the first job is read, and a reader for the jobs. It replaces
    /// [`replay`](Self::replay) for a server that keeps jobs. `None` means that the store does not support
    /// it.
    ///
    /// # Errors
    /// Same as [`replay`](Self::replay).
    fn begin_replay(&mut self) -> Result<Option<Begun>, StoreError> {
        Ok(None)
    }

    /// Applies the changes in one transaction: all of them or none. Empty changes still write something, so
    /// that they test whether the store works. Removing a job that does not exist fails if the store rejects
    /// writes.
    ///
    /// A job counts as added only if its row exists afterwards: stores that report the number of inserted
    /// rows check it. A row that another program has put where a new job belongs is moved out of the way; see
    /// `strangers.rs`.
    ///
    /// # Errors
    /// The changes may or may not have been applied. The writer later removes the jobs whose addition failed.
    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError>;

    /// Reads the workloads of jobs, in the given order; `None` for a job that does not exist. It returns at
    /// least one workload, and stops before the one that would raise the total above `most_bytes`. It also
    /// stops at a job that cannot be read. The caller asks again for the rest.
    ///
    /// # Errors
    /// The store or the first job cannot be read.
    fn load(&mut self, jobs: &[JobKey], most_bytes: usize) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// Housekeeping after a commit was reported, for work that no client has to wait for.
    ///
    /// # Errors
    /// The housekeeping failed. Committed changes stay committed.
    fn idle(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Does a few milliseconds of work that makes the next commits faster. Called while the writer is idle.
    /// Returns whether there is more of it to do.
    ///
    /// # Errors
    /// Same as [`idle`](Self::idle).
    fn prepare(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Housekeeping that may take some milliseconds. Called while the writer is idle, some seconds after a
    /// commit. Returns whether to call it again after another delay.
    ///
    /// # Errors
    /// Same as [`idle`](Self::idle).
    fn rest(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Sets how many bytes of disk space are reserved for removals, if the store is on a local disk. `None`
    /// picks a size that suits the disk, 0 disables the reserve.
    fn set_reserve(&mut self, _bytes: Option<u64>) {}

    /// Whether there is room for new jobs of this total size in bytes. With 0 it tells whether the store is
    /// full, that is, has no room for a job of a few KiB. Called before each addition. It also tries to
    /// restore a reserve that was given up.
    fn room(&mut self, _bytes: u64) -> Room {
        Room::Unknown
    }

    /// Whether a store that was full has room again, for more than one job, so that it does not fill up again
    /// at once.
    fn room_again(&mut self) -> Room {
        self.room(0)
    }

    /// Verifies that the stored data is still in place. Called every few seconds, even when idle.
    ///
    /// # Errors
    /// Something is missing, so that a commit would fail as well.
    fn check(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The reason why the next start will not find the stored data, if known.
    fn missing(&mut self) -> Option<String> {
        None
    }

    /// Disk usage and free disk space. `None` if the store is not on a local disk or the numbers are not
    /// available.
    fn space(&mut self) -> Option<StoreSpace> {
        None
    }
}

/// Replay metadata that is known before the first job is read, and the reader for the jobs.
pub type Begun = (Replayed, Box<dyn Reading>);

/// Jobs that were read, each with a flag that says whether its workload was read too.
pub type ReadJobs = Vec<(StoredJob, HasWorkload)>;

/// Reads the jobs of a store in the order of their numbers while the store is in use. No job may be added or
/// edited before all are read. A job that is removed before it was read is skipped. The reader must be
/// dropped before the store.
pub trait Reading: Send {
    /// Reads the next jobs; `None` after the last one. The batch may be empty if all of its rows were
    /// invalid.
    ///
    /// # Errors
    /// The store cannot be read.
    fn next(&mut self, workloads: Workloads) -> Result<Option<ReadJobs>, StoreError>;

    /// Number of invalid rows so far. The store quarantines them.
    fn quarantined(&self) -> u64;
}

/// Whether a store has room for new jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// Unknown until a write is tried.
    Unknown,
    /// There is room, and the reserve is complete.
    Enough,
    /// There is no room, for the reason in the error. The remaining space is for removals.
    Short(StoreError),
}

/// Whether a job was read together with its workload.
pub type HasWorkload = bool;

/// The lock holder to name in an error if no other server is connected to the database.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
const OUR_LAST: &str = "our previous connection, which the database has not closed yet";

/// How many of these workloads, given their lengths, fit into one read of `most_bytes`. At least one.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
fn fitting(lengths: impl IntoIterator<Item = usize>, most_bytes: usize) -> usize {
    let mut total = 0_usize;
    let within = lengths.into_iter().take_while(|length| {
        total = total.saturating_add(*length);
        total <= most_bytes
    });
    within.count().max(1)
}

/// The highest job number that a row may keep, given the highest assigned number that the store has recorded.
/// A row with a higher number is renumbered: see [`FOREIGN_NUMBER_MAX`].
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"))]
fn trusted_number_max(noted: u64) -> u64 {
    noted.clamp(FOREIGN_NUMBER_MAX, NUMBER_MAX)
}

/// A failure of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// The error code for clients.
    pub failure: StoreFailure,
    /// The message for the operator: what failed, where, and what to do.
    pub text: String,
}

impl StoreError {
    /// Creates an error.
    pub fn new(failure: StoreFailure, text: impl Into<String>) -> Self {
        Self { failure, text: text.into() }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for StoreError {}
