//! Editing stored jobs. The key of a job contains its function, so a job that is moved gets a new key.

use std::collections::{HashMap, HashSet};

use ::redis::{Connection, Pipeline, cmd, pipe};

use super::super::Changes;
use super::changes::present;
use super::errors::Failed;
use super::keys::Keys;
use super::replay;
use crate::job_server::{Edit, JobKey, StoreFailure};

/// Edits of existing jobs.
pub(super) struct Edits<'a> {
    /// Keyed by job number: the current key, the new key, and the edit.
    found: Found<'a>,
}

type Found<'a> = HashMap<u64, (Vec<u8>, Vec<u8>, &'a Edit)>;

/// Leaves out jobs that have only a side hash: C++ gearmand has run them.
fn with_hashes<'a>(connection: &mut Connection, found: Found<'a>) -> Result<Found<'a>, Failed> {
    if found.is_empty() {
        return Ok(found);
    }
    let mut query = pipe();
    for (now, ..) in found.values() {
        query.cmd("EXISTS").arg(now);
    }
    let exist: Vec<bool> = query.query(connection)?;
    Ok(found.into_iter().zip(exist).filter(|(_, exists)| *exists).map(|(edit, _)| edit).collect())
}

impl<'a> Edits<'a> {
    /// Finds the jobs under their old names, or, if an edit is retried, under their new names. `removed` has
    /// the keys of jobs that are removed in the same transaction. Any other entry at the target of a move is
    /// quarantined.
    pub(super) fn find(
        keys: &Keys,
        connection: &mut Connection,
        changes: &'a Changes,
        removed: &HashSet<Vec<u8>>,
    ) -> Result<Self, Failed> {
        let mut found = Found::with_capacity(changes.edits.len());
        let now = |job: &JobKey| keys.job(job.number, job.function.as_bytes(), &job.unique);
        let then = |job: &JobKey, edit: &Edit| keys.job(job.number, edit.function.as_bytes(), &job.unique);
        let edits = &changes.edits;
        let had = present(connection, edits.iter().map(|(job, _)| (job.number, keys.side(&now(job)))))?;
        let has = present(connection, edits.iter().map(|(job, edit)| (job.number, keys.side(&then(job, edit)))))?;
        for (((job, edit), had), has) in edits.iter().zip(had).zip(has) {
            if had || has {
                let then = then(job, edit);
                let now = if has { then.clone() } else { now(job) };
                if !removed.contains(&now) {
                    found.insert(job.number, (now, then, edit));
                }
            }
        }
        let edits = Self { found: with_hashes(connection, found)? };
        edits.make_way(keys, connection, removed)?;
        Ok(edits)
    }

    /// Quarantines entries at the targets of moves, unless they are vacated in this transaction.
    fn make_way(&self, keys: &Keys, connection: &mut Connection, removed: &HashSet<Vec<u8>>) -> Result<(), Failed> {
        let leaving: HashSet<&Vec<u8>> = self.found.values().map(|(now, ..)| now).chain(removed).collect();
        let targets: Vec<&Vec<u8>> =
            self.found.values().map(|(_, then, _)| then).filter(|then| !leaving.contains(then)).collect();
        if targets.is_empty() {
            return Ok(());
        }
        let mut query = pipe();
        for target in &targets {
            query.cmd("EXISTS").arg(target);
        }
        if targets.iter().collect::<HashSet<_>>().len() < targets.len() {
            let text = "two jobs cannot both be moved to the same function and unique id".to_owned();
            return Err(Failed::Here(StoreFailure::Refused, text));
        }
        let taken: Vec<bool> = query.query(connection)?;
        for (target, _) in targets.into_iter().zip(taken).filter(|(_, taken)| *taken) {
            replay::move_aside(keys, connection, target, "the operator moved a job to its place")?;
        }
        Ok(())
    }

    /// Whether this job exists and is edited.
    pub(super) fn contains(&self, number: u64) -> bool {
        self.found.contains_key(&number)
    }

    /// Whether a move vacates this key.
    pub(super) fn vacates(&self, key: &[u8]) -> bool {
        self.found.values().any(|(now, then, _)| now == key && now != then)
    }

    /// Adds the edits to a transaction. Jobs may swap places, so all moved jobs go to temporary keys first.
    pub(super) fn make(&self, transaction: &mut Pipeline, keys: &Keys) {
        let moved = || self.found.iter().filter(|(_, (now, then, _))| now != then);
        for (number, (now, ..)) in moved() {
            let away = keys.away(*number);
            transaction.cmd("RENAME").arg(now).arg(&away).ignore();
            transaction.cmd("RENAME").arg(keys.side(now)).arg(keys.side(&away)).ignore();
        }
        for (number, (_, then, _)) in moved() {
            let away = keys.away(*number);
            transaction.cmd("RENAME").arg(&away).arg(then).ignore();
            transaction.cmd("RENAME").arg(keys.side(&away)).arg(keys.side(then)).ignore();
        }
        for (_, then, edit) in self.found.values() {
            transaction.cmd("HSET").arg(then).arg("priority").arg(edit.priority.index()).ignore();
            let mut set = cmd("HSET");
            set.arg(keys.side(then)).arg("function").arg(edit.function.as_bytes()).arg("when").arg(edit.due_s);
            transaction.add_command(set).ignore();
        }
    }
}
