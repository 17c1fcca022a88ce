//! Delays removals briefly, so that they share a transaction with new jobs.
//!
//! No client waits for the removal of a job that has ended. When jobs arrive one after another, a separate
//! transaction for the removal would still be in progress when the next job arrives, and that job would have
//! to wait for it. In the transaction of that job the removal costs next to nothing. Removals are not delayed
//! by anything else: a caller waiting for a commit, an edit, an operator setting and the shutdown each commit
//! them at once.
//!
//! If the process is killed during this delay, the job is still in the store and runs again, as if the
//! process had been killed just before the result arrived.

use std::time::{Duration, Instant};

use super::Writer;
use crate::job_server::{Durability, StoreOp};

/// Maximum delay of a removal.
pub(super) const REMOVAL_WAIT: Duration = Duration::from_millis(5);
/// This many removals get a transaction of their own.
pub(super) const MOST_REMOVALS: usize = 1024;

/// Delayed removals.
#[derive(Default)]
pub(super) struct HeldBack {
    removals: Vec<StoreOp>,
    /// When they are committed even without a new job.
    pub(super) due: Option<Instant>,
}

impl Writer {
    /// When the delayed removals are due.
    pub(super) fn removals_due(&self) -> Option<Instant> {
        self.held_back.due
    }

    /// Delays removals until the next transaction with other changes. Returns what to commit now: nothing if
    /// `changes` consists only of removals that may wait, otherwise the delayed removals followed by
    /// `changes`. With `has_more` nothing is delayed.
    pub(super) fn hold_back_removals(&mut self, changes: Vec<StoreOp>, has_more: bool) -> Vec<StoreOp> {
        let only_removes = changes.iter().all(|operation| matches!(operation, StoreOp::Remove(_)));
        // With any other durability, a removal does not cause a sync of its own. While the store fails, each
        // change triggers an attempt.
        let may_wait = self.settings.durability == Durability::Always && self.breaker.is_none();
        let is_due = self.held_back.due.is_some_and(|due| due <= Instant::now());
        let is_many = self.held_back.removals.len() + changes.len() >= MOST_REMOVALS;
        if only_removes && may_wait && !has_more && !is_due && !is_many {
            if !changes.is_empty() {
                self.held_back.due.get_or_insert_with(|| Instant::now() + REMOVAL_WAIT);
                self.held_back.removals.extend(changes);
            }
            return Vec::new();
        }
        self.held_back.due = None;
        let mut all = std::mem::take(&mut self.held_back.removals);
        if all.is_empty() {
            return changes;
        }
        all.extend(changes);
        all
    }
}
