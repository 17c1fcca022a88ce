//! Changing jobs that are kept.
//!
//! In a table with C++ gearmand's primary key a job can find another one where it is to go: one that goes away in the same
//! transaction, or an entry that no server knows of. So all that are moved lose their function first, and then get the new
//! one: NULL is never equal to NULL.

use rusqlite::types::ToSqlOutput;
use rusqlite::{ErrorCode, OptionalExtension as _, Transaction};

use super::error::Trouble;
use super::layout::{self, Sql};
use super::{DASH, NO_UNIQUE, WORKLOAD_IS_UNIQUE, integer, text};
use crate::job_server::{Edit, JobKey};

/// Makes the edits. `queue` is the table's name.
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

/// Takes away what an edit cannot be made beside.
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
            // The job server has no other job of this name.
            let parameters = (text(unique), text(edit.function.as_bytes()));
            let twin: Option<i64> = transaction.query_row(&sql.find, parameters, |row| row.get(0)).optional()?;
            if let Some(row) = twin {
                let reason = format!("job {} was moved to its place by the operator", key.number);
                transaction.execute_batch(layout::CREATE_SET_ASIDE)?;
                transaction.execute(&sql.set_aside, (row, &reason, queue))?;
                transaction.execute(&sql.delete_row, [row])?;
                tracing::error!("row {row} of {queue} was moved to gearman_set_aside: {reason}");
            }
            return Ok(());
        }
    };
    // Somebody's unique id looks like this job's handle, which stands for no unique id and can be spared.
    transaction.execute(&sql.spare_key, (integer(key.number), flags)).map(drop)
}
