//! Moving a job to another function: only its place in the indexes changes.

use super::super::ids::FunctionSlot;
use super::{JobRef, Jobs, Residency, WORKLOAD_IS_UNIQUE, has_unique, key_hash};

impl Jobs {
    /// The job of `function` that this job of another function would equal after a move.
    pub(in crate::job_server) fn equal_in(&self, slot: u32, function: FunctionSlot) -> Option<u32> {
        let job = self.get(slot);
        if has_unique(job.unique()) {
            return self.find_equal(function, job.unique(), &[]).ok();
        }
        if !job.is_keyed_by_workload() {
            return None;
        }
        // The workload of either job may be only in the store.
        let is_equal = |other| {
            let other = self.get(other);
            other.function == function && other.unique() == WORKLOAD_IS_UNIQUE && self.have_one_workload(job, other)
        };
        self.by_key.find(key_hash(job.hash, function), is_equal)
    }

    /// Moves a job to another function, which must have no equal job.
    pub(in crate::job_server) fn set_function(&mut self, slot: u32, function: FunctionSlot) {
        let job = self.get(slot);
        let (hash, before) = (job.hash, job.function);
        // A unique id without siblings is indexed without its function.
        if job.is_keyed_by_workload() || self.siblings.contains_key(&slot) {
            self.by_key.remove(slot, key_hash(hash, before));
            self.by_key.insert(slot, key_hash(hash, function));
        }
        self.get_mut(slot).function = function;
    }

    fn have_one_workload(&self, one: JobRef<'_>, other: JobRef<'_>) -> bool {
        match (one.residency, other.residency) {
            (Residency::Store, Residency::Store) => one.rest().as_bytes() == other.rest().as_bytes(),
            (Residency::Store, _) => self.has_workload(one, other.rest().as_bytes()),
            _ => self.has_workload(other, one.rest().as_bytes()),
        }
    }
}
