//! Where background jobs are kept so that they outlive the process: one trait, a writer in front of it, a file for each
//! kind of store.
//!
//! A store is plain and blocking: it is called by one thread, the [`writer`], which is the only one that ever touches the
//! disk or the database. That thread gathers what has come in while it was busy into one [`Changes`], so a store need
//! only be good at committing many changes at once.

mod chunked_queue;
pub mod commit;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod driver;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
mod entry;
pub mod location;
pub mod look;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
pub mod queue;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"))]
mod strangers;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod table;
pub mod writer;

use std::fmt;

use bytes::Bytes;

use crate::job_server::{Edit, JobKey, StoreFailure, StoredJob};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"))]
use crate::job_server::{FOREIGN_NUMBER_MAX, NUMBER_MAX};
use crate::stats::StoreSpace;

/// What is changed in one transaction, in this order: removed, edited, added, attempts set; settings at any time.
///
/// The order lets a job go where another one was until now: what has ended, or was moved away, gives its function and unique
/// id to one that was moved there or is new. Among the edits there is no order, since two jobs may change places. Of no job
/// two of removal, edit and addition are asked for.
#[derive(Debug, Default)]
pub struct Changes {
    /// Jobs that have ended. One that is not there is no error.
    pub removes: Vec<JobKey>,
    /// Jobs, by the names under which the store has them, and what they are from now on. One that is not there, or is already
    /// what it should be, is no error: an edit may be made again after it has happened. Where that is not known, a job is there
    /// by each name that it may have, with the same edit.
    ///
    /// An entry that the job server does not know may have the place of an edited job. It must not keep the edit, or
    /// anything else, from being made.
    pub edits: Vec<(JobKey, Edit)>,
    /// New jobs.
    pub adds: Vec<StoredJob>,
    /// Jobs, by their names after the edits, and how often a worker was lost with them. One that is not there is no error.
    pub attempts: Vec<(JobKey, u16)>,
    /// What the operator has decided, by name, and `None` where it is as in the beginning. Of no name two are asked for. A store
    /// keeps them as the texts that they are, for itself and beside the jobs.
    pub settings: Vec<(String, Option<String>)>,
    /// A number that none given to any job, kept or not, is higher than: the next start goes on from there. 0 for unchanged;
    /// it never goes back.
    pub last_number: u64,
    /// Whether all of it, and everything that was committed before, must be on the disk when this is done; otherwise it is
    /// enough that it outlives the process.
    pub sync: bool,
}

impl Changes {
    /// Whether jobs are removed and nothing else is done.
    pub fn only_removes(&self) -> bool {
        let Self { removes, edits, adds, attempts, settings, last_number, .. } = self;
        let is_rest_empty = edits.is_empty() && adds.is_empty() && attempts.is_empty() && settings.is_empty();
        !removes.is_empty() && is_rest_empty && *last_number == 0
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        let Self { removes, edits, adds, attempts, settings, .. } = self;
        removes.is_empty() && edits.is_empty() && adds.is_empty() && attempts.is_empty() && settings.is_empty()
    }
}

/// Whether a store's reader still wants workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workloads {
    /// With the next jobs too.
    Wanted,
    /// The next jobs may come with an empty workload: it is loaded when it is needed.
    Unwanted,
}

/// What was read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// How many jobs.
    pub jobs: u64,
    /// How many entries made no sense and were set aside, where the operator can look at them.
    pub set_aside: u64,
    /// The highest number that was ever given to a job, as far as is known.
    pub last_number: u64,
    /// What the operator had decided: names and values. Only who opened the store to keep jobs is told.
    pub settings: Vec<(String, String)>,
}

/// A place where jobs are kept.
///
/// Each call finds its own way back after a failure of an earlier one: it opens the file anew, or connects anew, before
/// it does anything else. A store never tries the same handle again after a failed sync, and never waits without a bound.
pub trait Store: Send {
    /// Reads all jobs in the order of their numbers, and what the operator had decided. Jobs are handed to `take`, which
    /// says whether it wants workloads with those that follow. The second argument of `take` says whether this job came with
    /// its workload. One whose unique id is `-` always does: the workload is what it coalesces by.
    ///
    /// An entry that makes no sense is set aside and counted; it is never the reason to fail.
    ///
    /// # Errors
    /// Where the store as a whole cannot be read.
    fn replay(&mut self, take: &mut dyn FnMut(StoredJob, HasWorkload) -> Workloads) -> Result<Replayed, StoreError>;

    /// Begins to read the jobs while the store is used, where it can do both: answers with what is known
    /// before the first job, and with what reads them. Instead of [`replay`](Self::replay), by who keeps
    /// jobs.
    ///
    /// # Errors
    /// As those of [`replay`](Self::replay).
    fn begin_replay(&mut self) -> Result<Option<Begun>, StoreError> {
        Ok(None)
    }

    /// Makes the changes in one transaction: all of them or none. Empty changes still write something, so that they show
    /// whether the store works; a removal of what is not there fails where the store refuses to be written.
    ///
    /// A job is added only if its row is there afterwards: a store that can tell how many it has inserted counts them. An entry
    /// that another program has put where a new job is to be makes way; see `strangers.rs`.
    ///
    /// # Errors
    /// Then it is not known whether they were made: the writer removes afterwards what it could not add.
    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError>;

    /// Reads the workloads of jobs, in their order; `None` for one that is not there. It stops before the first one that
    /// would bring the bytes read above `most_bytes`, but reads one at least; a job that cannot be read ends the reading
    /// too. The rest is asked for again.
    ///
    /// # Errors
    /// Where the store, or the first job, cannot be read.
    fn load(&mut self, jobs: &[JobKey], most_bytes: usize) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// Housekeeping, called after a commit was reported: what need not be waited for.
    ///
    /// # Errors
    /// Where it fails. What was committed stays committed.
    fn idle(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Makes the next commits quicker by a piece of work of some milliseconds. Called when nothing waits.
    /// Answers whether there is more of it to do.
    ///
    /// # Errors
    /// As those of [`idle`](Self::idle).
    fn prepare(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Housekeeping that may take some milliseconds, called when nothing waits, some seconds after a commit. Answers whether to call it
    /// again after some more.
    ///
    /// # Errors
    /// As those of [`idle`](Self::idle).
    fn rest(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// How many bytes are kept free on the disk for removals, where the store is on a local disk; `None` for as many as suit the disk,
    /// 0 for none.
    fn set_reserve(&mut self, _bytes: Option<u64>) {}

    /// Whether there is room for new jobs of so many bytes in all. With 0 it tells whether the store is full: whether it has no
    /// room for a job of a few KiB. It is asked before each addition, and gets back a reserve that was given up.
    fn room(&mut self, _bytes: u64) -> Room {
        Room::Unknown
    }

    /// Whether a store that was full has room again: for more than one job, so that it is not full again at once.
    fn room_again(&mut self) -> Room {
        self.room(0)
    }

    /// Makes sure that what was stored can still be found. Called every few seconds, also while nothing is asked.
    ///
    /// # Errors
    /// Where it cannot: as a commit would fail.
    fn check(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Why the next start will not find what was stored, where that is known.
    fn missing(&mut self) -> Option<String> {
        None
    }

    /// What the store takes and has left on its disk; `None` where it is on no local disk, or where that is not known now.
    fn space(&mut self) -> Option<StoreSpace> {
        None
    }
}

/// What is known of the jobs before the first is read, and what reads them.
pub type Begun = (Replayed, Box<dyn Reading>);

/// Jobs read back, and whether each has come with its workload.
pub type ReadJobs = Vec<(StoredJob, HasWorkload)>;

/// Reads the jobs of a store that is used meanwhile, in the order of their numbers. No job may be added or
/// edited before all are read; one that is removed before its turn does not come. It must be dropped before
/// the store is.
pub trait Reading: Send {
    /// Reads the next jobs; `None` once all were read. It may answer with none where entries made no sense.
    ///
    /// # Errors
    /// Where the store cannot be read.
    fn next(&mut self, workloads: Workloads) -> Result<Option<ReadJobs>, StoreError>;

    /// How many entries made no sense so far. The store sets them aside.
    fn set_aside(&self) -> u64;
}

/// Whether a store has room for new jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// Nobody knows before it is tried.
    Unknown,
    /// It has, and the reserve is complete.
    Enough,
    /// It has not, as this error says. What is left is for removals.
    Short(StoreError),
}

/// Whether a job was read with its workload.
pub type HasWorkload = bool;

/// Who holds a queue in a database where no other server does.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
const OUR_LAST: &str = "our connection of before, which the database has not given up yet";

/// How many of these workloads, whose lengths are known, are read at once within `most_bytes`: one at least.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
fn fitting(lengths: impl IntoIterator<Item = usize>, most_bytes: usize) -> usize {
    let mut total = 0_usize;
    let within = lengths.into_iter().take_while(|length| {
        total = total.saturating_add(*length);
        total <= most_bytes
    });
    within.count().max(1)
}

/// The highest number that an entry of a store keeps, where the store has noted this one as the highest that was given. One with
/// another is numbered anew: see [`FOREIGN_NUMBER_MAX`].
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"))]
fn trusted_number_max(noted: u64) -> u64 {
    noted.clamp(FOREIGN_NUMBER_MAX, NUMBER_MAX)
}

/// What went wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// What clients are told.
    pub failure: StoreFailure,
    /// What the operator is told: what failed, where, and what to do.
    pub text: String,
}

impl StoreError {
    /// An error with its text.
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
