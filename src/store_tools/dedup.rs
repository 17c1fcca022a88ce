//! Detects jobs of one store that are already in another, so that an interrupted import can be run again.
//!
//! Handles alone are not enough: jobs from a queue of C++ gearmand have no handles of their own, and others
//! may get a new one. There are three rules, each exact where it applies:
//!
//! 1. Function and unique id, as in the server: a second job with both would be coalesced with the first. If
//!    the unique id is `-`, the workload takes its place.
//! 2. A job without a unique id is the one with its handle, if the submission time in seconds and the
//!    workload are equal too: a server assigns a handle only once.
//! 3. While an interrupted import is resumed, a job without a unique id counts as a copy made by that import
//!    if everything but its number is equal. Only jobs added after that import began can be copies, and each
//!    matches one job.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};

use crate::job_server::StoredJob;

/// The unique id of a job that coalesces by its workload.
const BY_WORKLOAD: &[u8] = b"-";

/// Two independent hashes. No two of the jobs that fit on a disk share both by chance.
type Fingerprint = (u64, u64);

/// The jobs of a store, by their identifying properties, in about 40 bytes a job.
pub(super) struct KnownJobs {
    hashers: (RandomState, RandomState),
    uniques: HashSet<Fingerprint>,
    handles: HashSet<Fingerprint>,
    /// Number of jobs without a unique id, by contents.
    contents: HashMap<Fingerprint, u32>,
}

impl KnownJobs {
    /// An empty set.
    pub(super) fn new() -> Self {
        Self {
            hashers: (RandomState::new(), RandomState::new()),
            uniques: HashSet::new(),
            handles: HashSet::new(),
            contents: HashMap::new(),
        }
    }

    /// Adds a job of the target. `may_be_copy`: an interrupted import may have added it.
    pub(super) fn note(&mut self, job: &StoredJob, may_be_copy: bool) {
        if !job.unique().is_empty() {
            self.uniques.insert(self.by_unique(job));
        } else if may_be_copy {
            *self.contents.entry(self.by_contents(job)).or_default() += 1;
        } else {
            self.handles.insert(self.by_handle(job));
        }
    }

    /// Whether the target has this job of the source. Afterwards it counts as present.
    pub(super) fn has(&mut self, job: &StoredJob) -> bool {
        if !job.unique().is_empty() {
            return !self.uniques.insert(self.by_unique(job));
        }
        let by_contents = self.by_contents(job);
        match self.contents.get_mut(&by_contents) {
            Some(copies) if *copies > 0 => {
                *copies -= 1;
                true
            }
            _ => job.submitted_s != 0 && self.handles.contains(&self.by_handle(job)),
        }
    }

    fn by_unique(&self, job: &StoredJob) -> Fingerprint {
        let workload = if job.unique() == BY_WORKLOAD { job.workload() } else { &[] };
        fingerprint(&self.hashers, &(job.function.as_bytes(), job.unique(), workload))
    }

    fn by_handle(&self, job: &StoredJob) -> Fingerprint {
        fingerprint(&self.hashers, &(job.number, contents(job)))
    }

    fn by_contents(&self, job: &StoredJob) -> Fingerprint {
        fingerprint(&self.hashers, &contents(job))
    }
}

fn contents(job: &StoredJob) -> impl Hash {
    let names = (&*job.prefix, job.function.as_bytes(), job.reducer());
    (names, job.priority, job.due_s, job.submitted_s, job.workload())
}

fn fingerprint((first, second): &(RandomState, RandomState), what: &impl Hash) -> Fingerprint {
    (first.hash_one(what), second.hash_one(what))
}
