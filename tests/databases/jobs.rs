//! Jobs for the tests, and what is compared of them.

use std::sync::Arc;

use gearmand::job_server::{JobKey, StoredJob, StoredParts};
use gearmand::protocol::{FunctionName, Priority};
use gearmand::store::location::{Access, Location};
use gearmand::store::{Changes, Replayed, Store, StoreError, Workloads};

/// Handles of jobs that have none begin with this.
pub(crate) const PREFIX: &str = "H:here";

/// A job of a test, in parts that can be compared and printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestJob {
    pub(crate) number: u64,
    pub(crate) prefix: &'static str,
    pub(crate) function: Vec<u8>,
    pub(crate) unique: Vec<u8>,
    pub(crate) reducer: Vec<u8>,
    pub(crate) priority: Priority,
    pub(crate) due_s: u64,
    pub(crate) submitted_s: u64,
    pub(crate) attempts: u16,
    pub(crate) workload: Vec<u8>,
}

impl TestJob {
    /// A plain job.
    pub(crate) fn new(number: u64, function: &str, unique: &str, workload: &[u8]) -> Self {
        Self {
            number,
            prefix: "H:elsewhere",
            function: function.as_bytes().to_vec(),
            unique: unique.as_bytes().to_vec(),
            reducer: Vec::new(),
            priority: Priority::Normal,
            due_s: 0,
            submitted_s: 1_700_000_000,
            attempts: 0,
            workload: workload.to_vec(),
        }
    }

    /// The job as stores have it.
    pub(crate) fn stored(&self) -> StoredJob {
        StoredJob::new(StoredParts {
            number: self.number,
            prefix: Arc::from(self.prefix),
            function: FunctionName::new(&self.function),
            unique: &self.unique,
            reducer: &self.reducer,
            priority: self.priority,
            due_s: self.due_s,
            submitted_s: self.submitted_s,
            attempts: self.attempts,
            workload: &self.workload,
        })
        .expect("a job within the limits")
    }

    /// What names it.
    pub(crate) fn key(&self) -> JobKey {
        self.stored().key()
    }

    fn of(job: &StoredJob) -> Self {
        Self {
            number: job.number,
            prefix: if &*job.prefix == PREFIX { PREFIX } else { "H:elsewhere" },
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

/// Opens a store, which must work.
#[track_caller]
pub(crate) fn open(location: &Location, access: Access) -> Box<dyn Store> {
    try_open(location, access).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn try_open(location: &Location, access: Access) -> Result<Box<dyn Store>, StoreError> {
    location.open(access, &Arc::from(PREFIX))
}

/// All that a store holds, with workloads.
#[track_caller]
pub(crate) fn read(store: &mut dyn Store) -> (Vec<TestJob>, Replayed) {
    let mut jobs = Vec::new();
    let replayed = store
        .replay(&mut |job, has_workload| {
            assert!(has_workload, "the workload of {} was asked for", job.handle());
            assert!(["H:elsewhere", PREFIX].contains(&&*job.prefix), "prefix {}", job.prefix);
            jobs.push(TestJob::of(&job));
            Workloads::Wanted
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(replayed.jobs, jobs.len() as u64);
    assert!(jobs.is_sorted_by_key(|job| job.number), "jobs come in the order of their numbers");
    (jobs, replayed)
}

/// Changes that add these jobs.
pub(crate) fn adding(jobs: &[TestJob]) -> Changes {
    Changes {
        adds: jobs.iter().map(TestJob::stored).collect(),
        last_number: jobs.iter().map(|job| job.number).max().unwrap_or(0),
        sync: true,
        ..Changes::default()
    }
}

/// Fails with all of the first job that differs, but not with a MiB of workload.
#[track_caller]
pub(crate) fn assert_same(found: &[TestJob], expected: &[TestJob]) {
    let numbers = |jobs: &[TestJob]| jobs.iter().map(|job| job.number).collect::<Vec<_>>();
    assert_eq!(numbers(found), numbers(expected));
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.workload == expected.workload, "the workload of job {}", expected.number);
        let plain = |job: &TestJob| TestJob { workload: Vec::new(), ..job.clone() };
        assert_eq!(plain(found), plain(expected));
    }
}
