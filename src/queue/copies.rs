//! Which jobs of one store are in another already: what makes an interrupted import one that can be run again.
//!
//! Handles alone cannot tell: jobs out of a queue of C++ gearmand have none of their own, and others may get a new one. Three
//! rules, each of which knows a job for certain where it applies:
//!
//! 1. Function and unique id, as in the server: one job has them, so a second one would be joined to it. Where the unique id is
//!    `-` the workload stands for it.
//! 2. A job without a unique id is the one with its handle, if it was submitted in the same second and has the same workload: a
//!    server gives a handle once.
//! 3. While an interrupted import is taken up, a job without a unique id is one that the import may have copied if nothing
//!    but the number differs. Only jobs that came after that import began may be copies, and each stands for one job.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};

use crate::job_server::StoredJob;

/// The unique id for which the workload stands.
const BY_WORKLOAD: &[u8] = b"-";

/// Two independent hashes: among all jobs that fit on a disk no two share them by chance.
type Fingerprint = (u64, u64);

/// The jobs that a store holds, by what makes them the same. It takes about 40 bytes a job.
pub(super) struct Copies {
    hashers: (RandomState, RandomState),
    uniques: HashSet<Fingerprint>,
    handles: HashSet<Fingerprint>,
    /// How many jobs without a unique id have the same contents.
    contents: HashMap<Fingerprint, u32>,
}

impl Copies {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            hashers: (RandomState::new(), RandomState::new()),
            uniques: HashSet::new(),
            handles: HashSet::new(),
            contents: HashMap::new(),
        }
    }

    /// Notes a job of the target. `may_be_copy`: an import that was interrupted may have put it there.
    pub(super) fn note(&mut self, job: &StoredJob, may_be_copy: bool) {
        if !job.unique().is_empty() {
            self.uniques.insert(self.by_unique(job));
        } else if may_be_copy {
            *self.contents.entry(self.by_contents(job)).or_default() += 1;
        } else {
            self.handles.insert(self.by_handle(job));
        }
    }

    /// Whether the target has this job of the source; from now on it has.
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
