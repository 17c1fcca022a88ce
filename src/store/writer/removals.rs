//! Removals wait a little for new jobs to be committed with.
//!
//! Nobody waits for the removal of a job that has ended. Where jobs come one after the other, a transaction
//! of its own would be on its way to the disk when the next job comes, which would have to wait for it. In
//! the transaction of that job it costs next to nothing. It is not held back from anything else: whoever
//! waits until all is committed, an edit, a decision of the operator or the end of the server takes it along.
//!
//! A process that is killed in this time leaves the job in the store, and it runs again, as it would if it
//! were killed just before the result came.

use std::time::{Duration, Instant};

use super::Writer;
use crate::job_server::{Durability, StoreOp};

/// The longest time that a removal waits for a new job.
pub(super) const REMOVAL_WAIT: Duration = Duration::from_millis(5);
/// This many removals get a transaction of their own.
pub(super) const MOST_REMOVALS: usize = 1024;

/// Removals that wait.
#[derive(Default)]
pub(super) struct HeldBack {
    removals: Vec<StoreOp>,
    /// When they are committed without a new job.
    pub(super) due: Option<Instant>,
}

impl Writer {
    /// When removals are to be committed by themselves.
    pub(super) fn removals_due(&self) -> Option<Instant> {
        self.held_back.due
    }

    /// Holds removals back for the next transaction with something else in it. Returns what is to be
    /// committed now: nothing where `changes` are only removals and may wait, else what was held back before
    /// and then `changes`. With `has_more` nothing waits.
    pub(super) fn hold_back_removals(&mut self, changes: Vec<StoreOp>, has_more: bool) -> Vec<StoreOp> {
        let only_removes = changes.iter().all(|operation| matches!(operation, StoreOp::Remove(_)));
        // Below that level a removal is not synced by itself. While the store fails each change is a try.
        let may_wait = self.settings.durability == Durability::Always && self.failing.is_none();
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
