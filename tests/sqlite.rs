//! The store in a SQLite file: what is kept comes back, files of C++ gearmand are taken over and given back,
//! and what goes wrong is said and survived.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

#[path = "sqlite/ahead.rs"]
mod ahead;
mod common;
#[path = "sqlite/damage.rs"]
mod damage;
#[path = "sqlite/edits.rs"]
mod edits;
#[path = "sqlite/faults.rs"]
mod faults;
#[path = "sqlite/files.rs"]
mod files;
#[path = "sqlite/keeping.rs"]
mod keeping;
#[path = "sqlite/space.rs"]
mod space;
#[path = "sqlite/strangers.rs"]
mod strangers;
#[path = "sqlite/take_over.rs"]
mod take_over;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use gearmand::job_server::{JobKey, StoreFailure, StoredJob, StoredParts};
use gearmand::protocol::{FunctionName, Priority};
use gearmand::store::location::{Access, Location, defaults};
use gearmand::store::{Changes, Replayed, Store, StoreError, Workloads};
use tempfile::TempDir;

/// The prefix of the handles that jobs of C++ gearmand get.
const PREFIX: &str = "H:here";

/// A job with all that is kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    number: u64,
    prefix: String,
    function: Vec<u8>,
    unique: Vec<u8>,
    reducer: Vec<u8>,
    priority: Priority,
    due_s: u64,
    submitted_s: u64,
    attempts: u16,
    workload: Vec<u8>,
}

impl Kept {
    /// A plain job of this number.
    fn plain(number: u64) -> Self {
        Self {
            number,
            prefix: PREFIX.to_owned(),
            function: b"reverse".to_vec(),
            unique: format!("unique-{number}").into_bytes(),
            reducer: Vec::new(),
            priority: Priority::Normal,
            due_s: 0,
            submitted_s: 1_700_000_000 + number,
            attempts: 0,
            workload: format!("workload of {number}").into_bytes(),
        }
    }

    fn stored(&self) -> StoredJob {
        StoredJob::new(StoredParts {
            number: self.number,
            prefix: Arc::from(self.prefix.as_str()),
            function: FunctionName::new(&self.function),
            unique: &self.unique,
            reducer: &self.reducer,
            priority: self.priority,
            due_s: self.due_s,
            submitted_s: self.submitted_s,
            attempts: self.attempts,
            workload: &self.workload,
        })
        .unwrap()
    }

    fn key(&self) -> JobKey {
        self.stored().key()
    }

    fn of(job: &StoredJob) -> Self {
        Self {
            number: job.number,
            prefix: job.prefix.to_string(),
            function: job.function.as_bytes().to_vec(),
            unique: job.unique().to_vec(),
            reducer: job.reducer().to_vec(),
            priority: job.priority,
            due_s: job.due_s,
            submitted_s: job.submitted_s,
            attempts: job.attempts,
            workload: job.workload().to_vec(),
        }
    }
}

/// A temporary directory with room for a file.
struct Place {
    _directory: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let path = gearmand::process::state_directory::queue_file(directory.path(), 4730);
        Self { _directory: directory, path }
    }

    /// Another test may be about to run a program, which has the locks of this process until it begins.
    fn own(&self) -> Box<dyn Store> {
        common::wait_for("the file to be free", || match own(&self.path) {
            Err(error) if error.failure == StoreFailure::Locked => None,
            result => Some(result.unwrap()),
        })
    }

    fn keeping_primary_key(&self) -> Box<dyn Store> {
        open(&self.path, true, Access::Own).unwrap()
    }

    fn read(&self) -> Box<dyn Store> {
        open(&self.path, false, Access::Read).unwrap()
    }

    /// The file as another program sees it.
    fn raw(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.path).unwrap()
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        PathBuf::from(format!("{}{suffix}", self.path.display()))
    }
}

/// Held while a process is started, and while a store is opened.
///
/// Until a new process runs its program it has copies of all descriptors of this one, and with them the locks
/// of all stores that are open. So where one is closed meanwhile and opened again it is still locked. A test
/// that runs beside others has not started that process, and cannot know: all of them start processes by
/// [`starting`].
static STARTING: RwLock<()> = RwLock::new(());

/// Starts a process, or several, whose programs run when this returns.
fn starting<P>(start: impl FnOnce() -> P) -> P {
    let _nothing_is_opened = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    start()
}

/// Opens a store, or does something else that takes its lock.
fn opening<T>(open: impl FnOnce() -> T) -> T {
    let _nothing_is_started = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    open()
}

fn open(path: &Path, keep_primary_key: bool, access: Access) -> Result<Box<dyn Store>, StoreError> {
    let table = defaults::SQLITE_TABLE.to_owned();
    let location = Location::Sqlite { path: path.to_owned(), table, keep_primary_key };
    opening(|| location.open(access, &Arc::from(PREFIX)))
}

fn own(path: &Path) -> Result<Box<dyn Store>, StoreError> {
    open(path, false, Access::Own)
}

/// Why the file cannot be opened.
#[track_caller]
fn refusal(path: &Path) -> StoreError {
    own(path).map(drop).expect_err("the file should be refused")
}

fn add(store: &mut dyn Store, jobs: &[Kept]) -> Result<(), StoreError> {
    let adds: Vec<StoredJob> = jobs.iter().map(Kept::stored).collect();
    let last_number = jobs.iter().map(|job| job.number).max().unwrap_or(0);
    store.commit(&Changes { adds, last_number, sync: true, ..Changes::default() })
}

fn remove(store: &mut dyn Store, jobs: &[Kept]) {
    let removes = jobs.iter().map(Kept::key).collect();
    store.commit(&Changes { removes, ..Changes::default() }).unwrap();
}

/// All jobs with their workloads.
#[track_caller]
fn replay(store: &mut dyn Store) -> (Vec<Kept>, Replayed) {
    let mut jobs = Vec::new();
    let replayed = store
        .replay(&mut |job, has_workload| {
            assert!(has_workload, "all workloads were wanted");
            jobs.push(Kept::of(&job));
            Workloads::Wanted
        })
        .unwrap();
    assert_eq!(replayed.jobs, jobs.len() as u64);
    assert!(jobs.is_sorted_by_key(|job| job.number), "jobs come in the order of their numbers");
    (jobs, replayed)
}
