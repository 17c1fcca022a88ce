//! Editing stored jobs.
//!
//! In a table with C++ gearmand's primary key, another row may occupy the target of a move: a job that moves
//! away in the same transaction, or a row that no server knows. So all moved jobs first get the function
//! NULL, and then the new one: NULL never equals NULL.

use rusqlite::types::ToSqlOutput;
use rusqlite::{ErrorCode, OptionalExtension as _, Transaction};

use super::error::Trouble;
use super::layout::{self, Sql};
use super::{DASH, NO_UNIQUE, WORKLOAD_IS_UNIQUE, integer, text};
use crate::job_server::{Edit, JobKey};

/// Applies the edits. `queue` is the name of the table.
pub(super) fn make(
    transaction: &Transaction<'_>,
    sql: &Sql,
    queue: &str,
    edits: &[(JobKey, Edit)],
) -> Result<(), Trouble> {
    if edits.is_empty() {
        return Ok(());
    }
    if let Some(lift) = &sql.lift {
        let mut lift = transaction.prepare_cached(lift)?;
        for (key, _) in edits.iter().filter(|(key, edit)| key.function != edit.function) {
            lift.execute([integer(key.number)])?;
        }
    }
    let mut statement = transaction.prepare_cached(&sql.edit)?;
    for (key, edit) in edits {
        match statement.execute(values(key, edit)) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                make_way(transaction, sql, queue, key, edit)?;
                statement.execute(values(key, edit))?;
            }
            other => drop(other?),
        }
    }
    Ok(())
}

/// Number, function, priority, due time.
fn values<'a>(key: &JobKey, edit: &'a Edit) -> (i64, ToSqlOutput<'a>, u8, i64) {
    (integer(key.number), text(edit.function.as_bytes()), edit.priority as u8, integer(edit.due_s))
}

/// Removes the conflict that blocks an edit.
fn make_way(
    transaction: &Transaction<'_>,
    sql: &Sql,
    queue: &str,
    key: &JobKey,
    edit: &Edit,
) -> Result<(), rusqlite::Error> {
    let flags = match &*key.unique {
        b"" => NO_UNIQUE,
        DASH => WORKLOAD_IS_UNIQUE,
        unique => {
            // A row with this function and unique id is foreign: the job server has no other job with this
            // name.
            let parameters = (text(unique), text(edit.function.as_bytes()));
            let twin: Option<i64> = transaction.query_row(&sql.find, parameters, |row| row.get(0)).optional()?;
            if let Some(row) = twin {
                let reason = format!("job {} was moved to its place by the operator", key.number);
                transaction.execute_batch(layout::CREATE_QUARANTINE)?;
                transaction.execute(&sql.quarantine, (row, &reason, queue))?;
                transaction.execute(&sql.delete_row, [row])?;
                tracing::error!("row {row} of {queue} was moved to gearman_quarantine: {reason}");
            }
            return Ok(());
        }
    };
    // A foreign unique id equals this job's handle, which the job has as a placeholder. The placeholder can
    // be dropped.
    transaction.execute(&sql.spare_key, (integer(key.number), flags)).map(drop)
}
