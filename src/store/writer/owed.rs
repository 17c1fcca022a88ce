//! What failed to be removed, edited or set, and is to be done before anything newer.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::Changes;
use super::super::queue::take_some;
use super::MOST_CHANGES;
use crate::job_server::{Edit, JobKey};

/// Each job is there once in each part.
#[derive(Default)]
pub(super) struct Owed {
    pub(super) removes: Vec<JobKey>,
    /// The numbers of those jobs among them that were refused, and may be in the store all the same. The others have ended.
    refused: HashSet<u64>,
    /// By unique id and number: two jobs can be in each other's way only if they have the same unique id, so those that have
    /// are done in one transaction.
    edits: BTreeMap<(Box<[u8]>, u64), Edited>,
    /// By number of the job, which is named as it is after its edits.
    attempts: HashMap<u64, (JobKey, u16)>,
    /// What the operator has decided, by name. It is never in one transaction with jobs: what a store refuses of it must not be
    /// in their way.
    pub(super) settings: BTreeMap<String, Option<String>>,
    /// Whether the store has refused an edit: then they are made one by one, until it is known which.
    is_picking: bool,
}

/// An edit that may have happened, and so may those before it.
struct Edited {
    /// The names that the job may have in the store: at least one.
    keys: Vec<JobKey>,
    edit: Edit,
}

fn place_of(key: &JobKey) -> (Box<[u8]>, u64) {
    (key.unique.clone(), key.number)
}

impl Owed {
    pub(super) fn is_empty(&self) -> bool {
        self.removes.is_empty() && self.edits.is_empty() && self.attempts.is_empty() && self.settings.is_empty()
    }

    /// Whether nothing is owed but removals of new jobs that were refused: whoever waits for other changes has them.
    pub(super) fn has_only_refused(&self) -> bool {
        let is_rest_empty = self.edits.is_empty() && self.attempts.is_empty() && self.settings.is_empty();
        is_rest_empty && self.removes.iter().all(|key| self.refused.contains(&key.number))
    }

    /// What comes of it if the process ends now, for people to read: nothing where nothing is owed.
    pub(super) fn outcomes(&self) -> Vec<String> {
        let ended = self.ended();
        let refused = self.removes.len() - ended;
        let parts = [
            (ended, "finished jobs will run again after the next start"),
            (refused, "jobs that were refused may run after the next start"),
            (self.edits.len(), "jobs that were moved or changed may be as they were before"),
            (self.attempts.len(), "jobs may have too low a count of lost workers"),
            (self.settings.len(), "decisions of the operator may be as they were before"),
        ];
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, outcome)| format!("{count} {outcome}")).collect()
    }

    /// How many jobs that have ended are still to be removed.
    pub(super) fn ended(&self) -> usize {
        self.removes.iter().filter(|key| !self.refused.contains(&key.number)).count()
    }

    /// Remembers new jobs that may have been stored, and were refused.
    pub(super) fn add_refused(&mut self, keys: impl Iterator<Item = JobKey>) {
        for key in keys {
            self.refused.insert(key.number);
            self.removes.push(key);
        }
    }

    /// Remembers what is not new in `changes`, which come after all that is owed already.
    pub(super) fn add(&mut self, changes: Changes) {
        for key in changes.removes {
            self.attempts.remove(&key.number);
            // Whatever name it has by now: this one is the last.
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
            // Newer ones may have come meanwhile.
            self.settings.entry(name).or_insert(value);
        }
        self.attempts.extend(changes.attempts.into_iter().map(|(key, attempts)| (key.number, (key, attempts))));
    }

    /// What is to be done next, in one transaction; `None` if nothing is. Settings come alone, and are on the disk at once.
    /// Removals first, then edits, then attempts: what is moved takes the places of what was removed, and attempts name
    /// jobs as they are after the edits.
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
        // From the end: the order among them does not matter, since each job is there once.
        let removes = self.removes.split_off(self.removes.len().saturating_sub(MOST_CHANGES));
        if !removes.is_empty() {
            // Alone: a store that is full may have room for nothing else.
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
            // Only what is a unique id of the job's own can be another's too.
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

    /// The store has refused these changes, which were owed. Returns the edits that are given up: of many it is not known
    /// which one it was, so they are tried one by one.
    pub(super) fn refused(&mut self, mut changes: Changes) -> Vec<(JobKey, Edit)> {
        let given_up = if self.is_picking { std::mem::take(&mut changes.edits) } else { Vec::new() };
        self.is_picking = true;
        self.add(changes);
        given_up
    }

    /// Names that this job may have in the store, if it is not known which.
    pub(super) fn names(&self, key: &JobKey) -> &[JobKey] {
        if self.edits.is_empty() {
            return &[];
        }
        self.edits.get(&place_of(key)).map_or(&[], |edited| &edited.keys)
    }
}
