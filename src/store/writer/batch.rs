//! Merges the operations of one transaction, so that no job appears in two of its parts.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::super::Changes;
use super::added;
use crate::job_server::{Durability, Edit, JobKey, StoreOp, StoreReport, StoredJob};

/// A new job whose client waits for the result.
pub(super) struct Addition {
    pub(super) ticket: u32,
    pub(super) durability: Durability,
    pub(super) job: StoredJob,
}

/// New jobs and other changes.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) additions: Vec<Addition>,
    removes: Vec<JobKey>,
    /// Keyed by job number: the name of the job in the store, and its latest edit.
    edits: HashMap<u64, (JobKey, Edit)>,
    /// Index into `additions` by job number, for the first `indexed` of them. Built only when there are
    /// edits.
    added: HashMap<u64, usize>,
    indexed: usize,
}

impl Batch {
    /// Merges operations in order.
    pub(super) fn of(operations: Vec<StoreOp>) -> Self {
        let mut batch = Self::default();
        for operation in operations {
            match operation {
                StoreOp::Add { ticket, durability, job } => batch.additions.push(Addition { ticket, durability, job }),
                // The store still has the job under the name it had before the pending edits.
                StoreOp::Remove(key) => {
                    let key = batch.edits.remove(&key.number).map_or(key, |(key, _)| key);
                    batch.removes.push(key);
                }
                StoreOp::Edit { key, edit } => batch.edit(key, edit),
                // The queue handles these separately.
                StoreOp::Attempts { .. } | StoreOp::Set { .. } | StoreOp::Load { .. } => {}
            }
        }
        batch
    }

    fn edit(&mut self, key: JobKey, edit: Edit) {
        for (index, addition) in self.additions.iter().enumerate().skip(self.indexed) {
            self.added.insert(addition.job.number, index);
        }
        self.indexed = self.additions.len();
        if let Some(new) = self.added.get(&key.number).and_then(|index| self.additions.get_mut(*index)) {
            let Edit { function, priority, due_s } = edit;
            (new.job.function, new.job.priority, new.job.due_s) = (function, priority, due_s);
            return;
        }
        match self.edits.entry(key.number) {
            Entry::Occupied(mut known) => known.get_mut().1 = edit,
            Entry::Vacant(unknown) => {
                unknown.insert((key, edit));
            }
        }
    }

    /// Returns the new jobs that still have to be stored, and all other changes. A job that ended before it
    /// was stored need not be written. Its clients are told that it was stored.
    pub(super) fn finish(
        self,
        attempts: Vec<(JobKey, u16)>,
        reports: &mut Vec<StoreReport>,
    ) -> (Vec<Addition>, Changes) {
        let Self { mut additions, mut removes, edits, .. } = self;
        cancel_pairs(&mut additions, &mut removes, reports);
        (additions, Changes { removes, edits: edits.into_values().collect(), attempts, ..Changes::default() })
    }
}

fn cancel_pairs(additions: &mut Vec<Addition>, removes: &mut Vec<JobKey>, reports: &mut Vec<StoreReport>) {
    let Some(lowest) = additions.iter().map(|addition| addition.job.number).min() else {
        return;
    };
    // Usually all removed jobs are older than the new ones.
    if removes.iter().all(|key| key.number < lowest) {
        return;
    }
    let ended: HashSet<u64> = removes.iter().map(|key| key.number).collect();
    let mut cancelled = HashSet::new();
    additions.retain(|addition| {
        let is_ended = ended.contains(&addition.job.number);
        if is_ended {
            cancelled.insert(addition.job.number);
            reports.push(added(addition.ticket, Ok(())));
        }
        !is_ended
    });
    removes.retain(|key| !cancelled.contains(&key.number));
}
