//! Writing to Redis: one transaction, sent in one piece.

use std::collections::HashSet;

use ::redis::{Connection, Pipeline, cmd, pipe};

use super::super::Changes;
use super::super::row::{NO_UNIQUE, flags_of};
use super::edits::Edits;
use super::errors::Failed;
use super::keys::Keys;
use crate::job_server::{FORMAT, JobKey, StoredJob};

/// Applies the changes. Returns how many foreign entries made way.
pub(super) fn commit(
    keys: &Keys,
    connection: &mut Connection,
    changes: &Changes,
    last_number: u64,
) -> Result<u64, Failed> {
    let key_of = |job: &JobKey| keys.job(job.number, job.function.as_bytes(), &job.unique);
    // By now, the key of a job may belong to a later job with the same unique id, or to an entry without a
    // number. Neither may be touched. No other server writes, so what is read here still holds for the
    // transaction.
    let named: Vec<&JobKey> = changes.removes.iter().chain(changes.attempts.iter().map(|(job, _)| job)).collect();
    let present = present(connection, named.iter().map(|job| (job.number, keys.side(&key_of(job)))))?;
    let (removable, attempted) = present.split_at(changes.removes.len());
    let removable = changes.removes.iter().zip(removable).filter(|(_, present)| **present);
    let removable: HashSet<Vec<u8>> = removable.map(|(job, _)| key_of(job)).collect();
    if changes.only_removes() {
        remove(keys, connection, &removable)?;
        return Ok(0);
    }
    let edits = Edits::find(keys, connection, changes, &removable)?;
    let made_way = make_way(keys, connection, &changes.adds, |key| removable.contains(key) || edits.vacates(key))?;

    let removed: HashSet<u64> = changes.removes.iter().map(|job| job.number).collect();
    let added: HashSet<u64> = changes.adds.iter().map(|job| job.number).collect();
    let mut transaction = pipe();
    transaction.atomic();
    for key in &removable {
        transaction.cmd("DEL").arg(keys.side(key)).arg(key).ignore();
    }
    edits.make(&mut transaction, keys);
    for job in &changes.adds {
        add(&mut transaction, keys, job);
    }
    for ((job, attempts), present) in changes.attempts.iter().zip(attempted) {
        let is_new = added.contains(&job.number) || edits.contains(job.number);
        if is_new || *present && !removed.contains(&job.number) {
            transaction.cmd("HSET").arg(keys.side(&key_of(job))).arg("attempts").arg(*attempts).ignore();
        }
    }
    for (name, value) in &changes.settings {
        match value {
            Some(value) => transaction.cmd("HSET").arg(keys.settings()).arg(name).arg(value).ignore(),
            None => transaction.cmd("HDEL").arg(keys.settings()).arg(name).ignore(),
        };
    }
    // Written even if nothing else is, to show that Redis accepts writes.
    transaction.cmd("HSET").arg(keys.meta()).arg("format").arg(FORMAT).arg("last_number").arg(last_number).ignore();
    transaction.exec(connection)?;
    Ok(made_way)
}

/// Renames foreign entries that occupy the keys of new jobs, except those whose keys are vacated in this
/// transaction. Returns how many entries were renamed.
fn make_way(
    keys: &Keys,
    connection: &mut Connection,
    adds: &[StoredJob],
    leaves: impl Fn(&Vec<u8>) -> bool,
) -> Result<u64, Failed> {
    let key_of = |job: &StoredJob| keys.job(job.number, job.function.as_bytes(), job.unique());
    let targets: Vec<(&StoredJob, Vec<u8>)> =
        adds.iter().map(|job| (job, key_of(job))).filter(|(_, key)| !leaves(key)).collect();
    if targets.is_empty() {
        return Ok(0);
    }
    let mut any = cmd("EXISTS");
    for (_, key) in &targets {
        any.arg(key);
    }
    if any.query::<u64>(connection)? == 0 {
        return Ok(0);
    }
    let mut query = pipe();
    for (_, key) in &targets {
        query.cmd("EXISTS").arg(key);
    }
    let taken: Vec<bool> = query.query(connection)?;
    // The job itself exists if this is a retry.
    let own = present(connection, targets.iter().map(|(job, key)| (job.number, keys.side(key))))?;
    let mut made_way = 0;
    for ((job, key), _) in targets.iter().zip(taken.iter().zip(own)).filter(|(_, (taken, own))| **taken && !own) {
        let mut attempt = 0;
        let name = loop {
            let name = keys.made_way(job.number, job.function.as_bytes(), attempt);
            if !cmd("EXISTS").arg(&name).query::<bool>(connection)? {
                break name;
            }
            attempt += 1;
        };
        let mut transaction = pipe();
        transaction.atomic().cmd("RENAME").arg(key).arg(&name).ignore();
        transaction.cmd("DEL").arg(keys.side(key)).ignore();
        // It has no number yet, and its unique id now belongs to another job.
        let mut set = cmd("HSET");
        set.arg(keys.side(&name)).arg("function").arg(job.function.as_bytes()).arg("unique").arg("");
        set.arg("flags").arg(NO_UNIQUE);
        transaction.add_command(set).ignore();
        transaction.exec(connection)?;
        made_way += 1;
    }
    Ok(made_way)
}

/// Removes jobs with a single, atomic command: Redis rejects transactions when its memory is full.
fn remove(keys: &Keys, connection: &mut Connection, removable: &HashSet<Vec<u8>>) -> Result<(), Failed> {
    let mut delete = cmd("DEL");
    // Sent even if no job exists, to show that Redis accepts writes.
    delete.arg(keys.never());
    for key in removable {
        delete.arg(keys.side(key)).arg(key);
    }
    Ok(delete.exec(connection)?)
}

/// Which of these side hashes have these numbers.
pub(super) fn present(
    connection: &mut Connection,
    named: impl ExactSizeIterator<Item = (u64, Vec<u8>)>,
) -> Result<Vec<bool>, Failed> {
    if named.len() == 0 {
        return Ok(Vec::new());
    }
    let mut query = pipe();
    let mut numbers = Vec::with_capacity(named.len());
    for (number, key) in named {
        query.cmd("HGET").arg(key).arg("id");
        numbers.push(number.to_string().into_bytes());
    }
    let found: Vec<Option<Vec<u8>>> = query.query(connection)?;
    Ok(found.iter().zip(&numbers).map(|(found, number)| found.as_ref() == Some(number)).collect())
}

/// Writes a job: the fields that C++ gearmand reads, in its order, and the side hash.
pub(super) fn add(transaction: &mut Pipeline, keys: &Keys, job: &StoredJob) {
    let key = keys.job(job.number, job.function.as_bytes(), job.unique());
    let mut set = cmd("HSET");
    set.arg(&key).arg("data").arg(job.workload()).arg("priority").arg(job.priority.index());
    transaction.add_command(set).ignore();
    add_side(transaction, keys, &key, job);
}

/// Writes the side hash of a job with this key. All fields are set, so that none of an earlier job with this
/// key remains.
pub(super) fn add_side(transaction: &mut Pipeline, keys: &Keys, key: &[u8], job: &StoredJob) {
    let unique = job.unique();
    let mut set = cmd("HSET");
    set.arg(keys.side(key)).arg("id").arg(job.number);
    set.arg("function").arg(job.function.as_bytes()).arg("unique").arg(unique);
    set.arg("handle").arg(job.handle().to_string()).arg("when").arg(job.due_s);
    set.arg("reducer").arg(job.reducer()).arg("submitted").arg(job.submitted_s);
    set.arg("flags").arg(flags_of(unique)).arg("attempts").arg(job.attempts);
    transaction.add_command(set).ignore();
}
