//! A job becomes one of another function: its place in the indexes changes, and nothing else of it.

use super::{JobRef, Jobs, Kept, WORKLOAD_IS_UNIQUE, has_unique, key_hash};

impl Jobs {
    /// The job of `function` that this job of another function would equal there.
    pub(in crate::job_server) fn equal_in(&self, slot: u32, function: u32) -> Option<u32> {
        let job = self.get(slot);
        if has_unique(job.unique()) {
            return self.find_equal(function, job.unique(), &[]).ok();
        }
        if !job.is_keyed_by_workload() {
            return None;
        }
        // Its workload may be in the store alone, and so may the other's.
        let is_equal = |other| {
            let other = self.get(other);
            other.function == function && other.unique() == WORKLOAD_IS_UNIQUE && self.have_one_workload(job, other)
        };
        self.by_key.find(key_hash(job.hash, function), is_equal)
    }

    /// Gives a job to another function, which must have none that equals it.
    pub(in crate::job_server) fn set_function(&mut self, slot: u32, function: u32) {
        let job = self.get(slot);
        let (hash, before) = (job.hash, job.function);
        // A unique id without namesakes is found without its function.
        if job.is_keyed_by_workload() || self.namesakes.contains_key(&slot) {
            self.by_key.remove(slot, key_hash(hash, before));
            self.by_key.insert(slot, key_hash(hash, function));
        }
        self.get_mut(slot).function = function;
    }

    fn have_one_workload(&self, one: JobRef<'_>, other: JobRef<'_>) -> bool {
        match (one.kept, other.kept) {
            (Kept::Store, Kept::Store) => one.rest().as_bytes() == other.rest().as_bytes(),
            (Kept::Store, _) => self.has_workload(one, other.rest().as_bytes()),
            _ => self.has_workload(other, one.rest().as_bytes()),
        }
    }
}
