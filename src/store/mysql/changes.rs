//! Writing to MySQL: a transaction of multi-row statements.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Value};

use super::super::Changes;
use super::super::driver::swallowed;
use super::super::row::{NO_UNIQUE, flags_of};
use super::super::table::is_own_key;
use super::errors::Failed;
use super::schema::Table;
use super::{Session, answer, edits};
use crate::job_server::{JobKey, StoreFailure, StoredJob};

/// Maximum number of rows in a statement. Statements are prepared for powers of two, once per connection.
pub(super) const ROWS_MAX: usize = 512;
/// Maximum workload bytes in a statement, if the server accepts that much.
const STATEMENT_BYTES: usize = 4 << 20;
/// Upper bound for the size of a job without its workload, in bytes.
const HEAD_BYTES: usize = 2048;

/// The columns of an INSERT.
const COLUMNS: &str = "job_id, handle, unique_key, function_name, priority, data, when_to_run, reducer, submitted, flags, \
                       attempts, due, unique_bytes";
const PLACEHOLDERS: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Why the changes cannot be applied in any state of the database. `packet_max` is 0 if unknown.
pub(super) fn refusal(changes: &Changes, packet_max: usize) -> Option<String> {
    let most = packet_max.saturating_sub(HEAD_BYTES);
    let job = changes.adds.iter().find(|job| packet_max > 0 && job.workload().len() > most)?;
    Some(format!(
        "the workload of {} has {} bytes, more than the server accepts: its max_allowed_packet is {packet_max}; raise \
         it",
        job.handle(),
        job.workload().len()
    ))
}

/// Applies the changes, which may have been applied already if this is a retry (`again`). Returns how many
/// foreign rows made way.
pub(super) async fn commit(session: &mut Session, changes: &Changes, again: bool) -> Result<u64, Failed> {
    let done = transaction(session, changes, again).await;
    if let Err(failed) = &done
        && failed.is_refusal()
    {
        // Any other failure closes the connection, which rolls back too.
        answer(session.connection.query_drop("ROLLBACK")).await?;
    }
    done
}

async fn transaction(session: &mut Session, changes: &Changes, again: bool) -> Result<u64, Failed> {
    let Session { connection, table, packet_max, .. } = session;
    answer(connection.query_drop("BEGIN")).await?;
    if again {
        remove_own(connection, table, &changes.adds).await?;
    }
    for keys in changes.removes.chunks(ROWS_MAX) {
        let list = vec!["?"; keys.len().next_power_of_two()].join(", ");
        let statement = format!("DELETE FROM {} WHERE job_id IN ({list})", table.name);
        answer(connection.exec_drop(statement, padded(keys.iter()))).await?;
    }
    edits::make(connection, table, &changes.edits).await?;
    let most = STATEMENT_BYTES.min(*packet_max / 2);
    let (mut rest, mut made_way) = (&changes.adds[..], 0);
    while !rest.is_empty() {
        let (jobs, after) = rest.split_at(rows(rest, most));
        if !insert(connection, table, jobs).await? {
            made_way += make_way(connection, table, jobs).await?;
            if !insert(connection, table, jobs).await? {
                let text = "two new jobs have the same number, or the same function and unique id".to_owned();
                return Err(Failed::Here(StoreFailure::Refused, text));
            }
        }
        rest = after;
    }
    for (key, attempts) in &changes.attempts {
        let statement = format!("UPDATE {} SET attempts = ? WHERE job_id = ?", table.name);
        answer(connection.exec_drop(statement, (*attempts, key.number))).await?;
    }
    for (name, value) in &changes.settings {
        let statement = format!("DELETE FROM {} WHERE name = ?", table.settings);
        answer(connection.exec_drop(statement, (name,))).await?;
        if let Some(value) = value {
            let statement = format!("INSERT INTO {} (name, value) VALUES (?, ?)", table.settings);
            answer(connection.exec_drop(statement, (name, value))).await?;
        }
    }
    let is_empty = changes.removes.is_empty() && changes.edits.is_empty() && changes.adds.is_empty();
    if changes.last_number > 0 || is_empty && changes.attempts.is_empty() && changes.settings.is_empty() {
        // Updated even if nothing else is, to show that the table accepts writes. An update to the same value
        // writes nothing, so a counter is incremented too. Each update leaves an old version of the row as
        // long as any transaction is open.
        let statement =
            format!("UPDATE {} SET last_number = GREATEST(last_number, ?), commits = commits + 1", table.meta);
        answer(connection.exec_drop(statement, (changes.last_number,))).await?;
    }
    answer(connection.query_drop("COMMIT")).await?;
    Ok(made_way)
}

/// Inserts jobs with one statement. Returns false if a unique key of the table was violated. Then none was
/// inserted, and the transaction stays open.
async fn insert(connection: &mut Conn, table: &Table, jobs: &[StoredJob]) -> Result<bool, Failed> {
    let list = vec![PLACEHOLDERS; jobs.len()].join(", ");
    let statement = format!("INSERT INTO {} ({COLUMNS}) VALUES {list}", table.name);
    let values: Vec<Value> = jobs.iter().flat_map(row).collect();
    match answer(connection.exec_drop(statement, values)).await {
        Ok(()) => {}
        Err(Failed::Driver(Error::Server(error))) if error.code == edits::DUPLICATE => return Ok(false),
        Err(failed) => return Err(failed),
    }
    let inserted = connection.affected_rows();
    if inserted == jobs.len() as u64 {
        return Ok(true);
    }
    Err(Failed::Here(StoreFailure::Refused, swallowed(inserted, jobs.len())))
}

/// Removes jobs that this server inserted earlier without receiving the confirmation.
async fn remove_own(connection: &mut Conn, table: &Table, jobs: &[StoredJob]) -> Result<(), Failed> {
    for job in jobs {
        let statement = format!("DELETE FROM {} WHERE job_id = ? AND handle = ?", table.name);
        answer(connection.exec_drop(statement, (job.number, job.handle().to_string().into_bytes()))).await?;
    }
    Ok(())
}

/// Moves rows that no server knows out of the way. Returns their number.
async fn make_way(connection: &mut Conn, table: &Table, jobs: &[StoredJob]) -> Result<u64, Failed> {
    let mut rows = 0;
    for job in jobs {
        let numbers = format!("UPDATE {} SET job_id = NULL, handle = NULL WHERE job_id = ?", table.name);
        answer(connection.exec_drop(numbers, (job.number,))).await?;
        rows += connection.affected_rows();
        let names = format!(
            "UPDATE {} SET unique_key = NULL, flags = COALESCE(flags, 0) | {NO_UNIQUE} WHERE unique_key = ? AND function_name = ?",
            table.name
        );
        let [_, _, unique_key, function, ..] = row(job);
        answer(connection.exec_drop(names, (unique_key, function))).await?;
        rows += connection.affected_rows();
    }
    Ok(rows)
}

/// How many of the first jobs go into one statement: a power of two, so that few different statements are
/// prepared.
fn rows(jobs: &[StoredJob], most: usize) -> usize {
    let mut bytes = 0;
    let fitting = jobs
        .iter()
        .take(ROWS_MAX)
        .take_while(|job| {
            bytes += job.workload().len() + HEAD_BYTES / 4;
            bytes <= most
        })
        .count()
        .max(1);
    1 << fitting.ilog2()
}

/// Job numbers, with the last one repeated up to a power of two.
pub(super) fn padded<'a>(keys: impl Iterator<Item = &'a JobKey>) -> Vec<Value> {
    let mut values: Vec<Value> = keys.map(|key| Value::UInt(key.number)).collect();
    if let Some(last) = values.last().cloned() {
        values.resize(values.len().next_power_of_two(), last);
    }
    values
}

/// The values of `when_to_run` and `due`.
pub(super) fn due_columns(due_s: u64) -> (Value, Value) {
    let due = i64::try_from(due_s).unwrap_or(i64::MAX);
    let is_late = due > i64::from(i32::MAX);
    (Value::Int(due.min(i64::from(i32::MAX))), if is_late { Value::Int(due) } else { Value::NULL })
}

fn row(job: &StoredJob) -> [Value; 13] {
    let (unique, reducer) = (job.unique(), job.reducer());
    let flags = flags_of(unique);
    let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
    let (when_to_run, due) = due_columns(job.due_s);
    let handle = job.handle().to_string().into_bytes();
    let is_own_key = is_own_key(unique);
    [
        Value::UInt(job.number),
        bytes(&handle),
        if is_own_key { bytes(unique) } else { Value::Bytes(handle) },
        bytes(job.function.as_bytes()),
        Value::Int(i64::from(job.priority as u8)),
        bytes(job.workload()),
        when_to_run,
        if reducer.is_empty() { Value::NULL } else { bytes(reducer) },
        Value::Int(i64::try_from(job.submitted_s).unwrap_or(i64::MAX)),
        Value::Int(i64::from(flags)),
        Value::UInt(u64::from(job.attempts)),
        due,
        if flags == 0 && !is_own_key { bytes(unique) } else { Value::NULL },
    ]
}
