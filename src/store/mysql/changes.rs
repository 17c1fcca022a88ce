//! Writing to MySQL: a transaction of multi-row statements.

use mysql_async::Value;
use mysql_async::prelude::Queryable;

use super::super::Changes;
use super::super::entry::flags_of;
use super::super::table::is_own_key;
use super::errors::{Failed, is_refusal};
use super::{Session, answer, edits};
use crate::job_server::{JobKey, StoredJob};

/// Rows in one statement: statements for powers of two up to this are prepared once in a connection.
pub(super) const ROWS_MAX: usize = 512;
/// Bytes of workloads in one statement, where the server takes as much.
const STATEMENT_BYTES: usize = 4 << 20;
/// What a job has beside its workload, in bytes, and then some.
const HEAD_BYTES: usize = 2048;

/// The columns of an INSERT.
const COLUMNS: &str = "job_id, handle, unique_key, function_name, priority, data, when_to_run, reducer, submitted, flags, \
                       attempts, due, unique_bytes";
const PLACEHOLDERS: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Why the changes cannot be made, whatever the state of the database. `packet_max` is 0 where it is not known.
pub(super) fn refusal(changes: &Changes, packet_max: usize) -> Option<String> {
    let most = packet_max.saturating_sub(HEAD_BYTES);
    let job = changes.adds.iter().find(|job| packet_max > 0 && job.workload().len() > most)?;
    Some(format!(
        "the workload of {} has {} bytes, more than the server takes: its max_allowed_packet is {packet_max}; raise it",
        job.handle(),
        job.workload().len()
    ))
}

/// Makes the changes.
pub(super) async fn commit(session: &mut Session, changes: &Changes) -> Result<(), Failed> {
    let done = transaction(session, changes).await;
    if let Err(failed) = &done
        && is_refusal(failed)
    {
        // Other failures end the connection, which does the same.
        answer(session.connection.query_drop("ROLLBACK")).await?;
    }
    done
}

async fn transaction(session: &mut Session, changes: &Changes) -> Result<(), Failed> {
    let Session { connection, table, packet_max, .. } = session;
    answer(connection.query_drop("BEGIN")).await?;
    for keys in changes.removes.chunks(ROWS_MAX) {
        let list = vec!["?"; keys.len().next_power_of_two()].join(", ");
        let statement = format!("DELETE FROM {} WHERE job_id IN ({list})", table.name);
        answer(connection.exec_drop(statement, padded(keys.iter()))).await?;
    }
    edits::make(connection, table, &changes.edits).await?;
    let most = STATEMENT_BYTES.min(*packet_max / 2);
    let mut rest = &changes.adds[..];
    while !rest.is_empty() {
        let (jobs, after) = rest.split_at(rows(rest, most));
        let list = vec![PLACEHOLDERS; jobs.len()].join(", ");
        let statement = format!("INSERT INTO {} ({COLUMNS}) VALUES {list}", table.name);
        let values: Vec<Value> = jobs.iter().flat_map(row).collect();
        answer(connection.exec_drop(statement, values)).await?;
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
    // Also where there is nothing else: it shows that the table can be written to. An update to the same value writes
    // nothing, so a counter goes along.
    let statement = format!("UPDATE {} SET last_number = GREATEST(last_number, ?), commits = commits + 1", table.meta);
    answer(connection.exec_drop(statement, (changes.last_number,))).await?;
    answer(connection.query_drop("COMMIT")).await
}

/// How many of the first jobs go into one statement: a power of two, so that few different statements are prepared.
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

/// The numbers of jobs, and the last one repeated up to a power of two.
pub(super) fn padded<'a>(keys: impl Iterator<Item = &'a JobKey>) -> Vec<Value> {
    let mut values: Vec<Value> = keys.map(|key| Value::UInt(key.number)).collect();
    if let Some(last) = values.last().cloned() {
        values.resize(values.len().next_power_of_two(), last);
    }
    values
}

/// What stands in `when_to_run` and `due`.
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
