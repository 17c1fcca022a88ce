//! The retry backlog: failed removals, edits and settings, to be committed before anything newer.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::Changes;
use super::super::write_queue::take_some;
use super::MOST_CHANGES;
use crate::job_server::{Edit, JobKey};

/// Failed changes that are to be retried. Each job appears at most once in each part.
#[derive(Default)]
pub(super) struct RetryBacklog {
    pub(super) removes: Vec<JobKey>,
    /// Numbers of jobs in `removes` that were refused but may be in the store all the same. All other jobs in
    /// `removes` have ended.
    refused: HashSet<u64>,
    /// Keyed by unique id and number. Two jobs can conflict only if they have the same unique id, so edits of
    /// one unique id share a transaction.
    edits: BTreeMap<(Box<[u8]>, u64), Edited>,
    /// Keyed by job number. The job is named as it is after its edits.
    attempts: HashMap<u64, (JobKey, u16)>,
    /// Operator settings by name. They never share a transaction with jobs, so that a rejected setting does
    /// not block jobs.
    pub(super) settings: BTreeMap<String, Option<String>>,
    /// Whether the store has rejected an edit. Then edits are committed one by one, to find the rejected one.
    is_picking: bool,
}

/// An edit that may have been applied, like those before it.
struct Edited {
    /// The names that the job may have in the store, at least one.
    keys: Vec<JobKey>,
    edit: Edit,
}

fn place_of(key: &JobKey) -> (Box<[u8]>, u64) {
    (key.unique.clone(), key.number)
}

impl RetryBacklog {
    pub(super) fn is_empty(&self) -> bool {
        self.removes.is_empty() && self.edits.is_empty() && self.attempts.is_empty() && self.settings.is_empty()
    }

    /// Whether the backlog consists only of removals of refused new jobs. Then everything that other callers
    /// wait for is committed.
    pub(super) fn has_only_refused(&self) -> bool {
        let is_rest_empty = self.edits.is_empty() && self.attempts.is_empty() && self.settings.is_empty();
        is_rest_empty && self.removes.iter().all(|key| self.refused.contains(&key.number))
    }

    /// Human-readable consequences if the process ends now; empty if the backlog is.
    pub(super) fn outcomes(&self) -> Vec<String> {
        let ended = self.ended();
        let refused = self.removes.len() - ended;
        let parts = [
            (ended, "finished jobs will run again after the next start"),
            (refused, "rejected jobs may run after the next start"),
            (self.edits.len(), "edited jobs may be as they were before the edit"),
            (self.attempts.len(), "jobs may have too low an attempt count"),
            (self.settings.len(), "operator settings may be reverted"),
        ];
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, outcome)| format!("{count} {outcome}")).collect()
    }

    /// Number of ended jobs that are still to be removed.
    pub(super) fn ended(&self) -> usize {
        self.removes.iter().filter(|key| !self.refused.contains(&key.number)).count()
    }

    /// Records refused new jobs that may have been stored.
    pub(super) fn add_refused(&mut self, keys: impl Iterator<Item = JobKey>) {
        for key in keys {
            self.refused.insert(key.number);
            self.removes.push(key);
        }
    }

    /// Adds everything except new jobs from `changes`, which are newer than the backlog.
    pub(super) fn add(&mut self, changes: Changes) {
        for key in changes.removes {
            self.attempts.remove(&key.number);
            // Remove the job under every name it may have; this one is the latest.
            if let Some(Edited { keys, .. }) = self.edits.remove(&place_of(&key)) {
                self.removes.extend(keys.into_iter().filter(|other| *other != key));
            }
            self.removes.push(key);
        }
        for (key, edit) in changes.edits {
            if let Some((attempted, _)) = self.attempts.get_mut(&key.number) {
                attempted.function.clone_from(&edit.function);
            }
            let edited = self
                .edits
                .entry(place_of(&key))
                .or_insert_with(|| Edited { keys: Vec::with_capacity(1), edit: edit.clone() });
            if !edited.keys.contains(&key) {
                edited.keys.push(key);
            }
            edited.edit = edit;
        }
        for (name, value) in changes.settings {
            // A newer value may have been set meanwhile.
            self.settings.entry(name).or_insert(value);
        }
        self.attempts.extend(changes.attempts.into_iter().map(|(key, attempts)| (key.number, (key, attempts))));
    }

    /// The next transaction; `None` if the backlog is empty. Settings come first, alone, and are always
    /// synced. Then removals, then edits, then attempts: an edit may take the place of a removed job, and
    /// attempts name jobs as they are after the edits.
    pub(super) fn take(&mut self, sync: bool) -> Option<Changes> {
        if self.is_empty() {
            self.is_picking = false;
            self.refused.clear();
            return None;
        }
        if !self.settings.is_empty() {
            let rest = self.settings.keys().nth(MOST_CHANGES).cloned().map(|next| self.settings.split_off(&next));
            let settings = std::mem::replace(&mut self.settings, rest.unwrap_or_default()).into_iter().collect();
            return Some(Changes { settings, sync: true, ..Changes::default() });
        }
        // Taken from the end: their order does not matter, since each job appears once.
        let removes = self.removes.split_off(self.removes.len().saturating_sub(MOST_CHANGES));
        if !removes.is_empty() {
            // Alone, because a full store may have room for nothing else.
            return Some(Changes { removes, sync, ..Changes::default() });
        }
        let edits = self.take_edits();
        let attempts = if self.edits.is_empty() { take_some(&mut self.attempts, MOST_CHANGES) } else { Vec::new() };
        Some(Changes { edits, attempts, sync, ..Changes::default() })
    }

    fn take_edits(&mut self) -> Vec<(JobKey, Edit)> {
        let most = if self.is_picking { 1 } else { MOST_CHANGES };
        let mut taken: Vec<(JobKey, Edit)> = Vec::new();
        while let Some(next) = self.edits.first_entry() {
            let unique = &next.key().0;
            // Only a job's own unique id can conflict with that of another job.
            let belongs =
                !matches!(**unique, [] | [b'-']) && taken.last().is_some_and(|(key, _)| key.unique == *unique);
            if taken.len() >= most && !belongs {
                break;
            }
            let Edited { keys, edit } = next.remove();
            taken.extend(keys.into_iter().map(|key| (key, edit.clone())));
        }
        taken
    }

    /// Puts back changes that the store rejected. With several edits, the rejected one is unknown, so they
    /// are then retried one by one. Returns the edits to drop.
    pub(super) fn refused(&mut self, mut changes: Changes) -> Vec<(JobKey, Edit)> {
        let given_up = if self.is_picking { std::mem::take(&mut changes.edits) } else { Vec::new() };
        self.is_picking = true;
        self.add(changes);
        given_up
    }

    /// The names that this job may have in the store, if it is uncertain.
    pub(super) fn names(&self, key: &JobKey) -> &[JobKey] {
        if self.edits.is_empty() {
            return &[];
        }
        self.edits.get(&place_of(key)).map_or(&[], |edited| &edited.keys)
    }
}
