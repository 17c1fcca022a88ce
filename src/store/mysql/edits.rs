//! Editing jobs stored in MySQL.
//!
//! The table has C++ gearmand's unique key, which is checked row by row: two jobs that swap places would
//! conflict. So all moved jobs first get the function NULL, and then the new one: NULL never equals NULL.

use std::collections::HashMap;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Value};

use super::super::row::flags_of;
use super::answer;
use super::changes::{ROWS_MAX, due_columns, padded};
use super::errors::Failed;
use super::schema::Table;
use crate::job_server::{Edit, JobKey};

/// The server's error code for a unique key violation.
pub(super) const DUPLICATE: u16 = 1062;

/// Applies the edits within a transaction.
pub(super) async fn make(connection: &mut Conn, table: &Table, edits: &[(JobKey, Edit)]) -> Result<(), Failed> {
    let moved: Vec<&JobKey> =
        edits.iter().filter(|(key, edit)| key.function != edit.function).map(|(key, _)| key).collect();
    for keys in moved.chunks(ROWS_MAX) {
        let statement = statement(table, "function_name = NULL", keys);
        answer(connection.exec_drop(statement, padded(keys.iter().copied()))).await?;
    }
    // Jobs that are moved together usually get the same values.
    let mut alike: HashMap<(&[u8], u8, u64), Vec<&JobKey>> = HashMap::new();
    for (key, edit) in edits {
        alike.entry((edit.function.as_bytes(), edit.priority as u8, edit.due_s)).or_default().push(key);
    }
    for ((function, priority, due_s), keys) in alike {
        let (when_to_run, due) = due_columns(due_s);
        let values = [Value::Bytes(function.to_vec()), Value::UInt(u64::from(priority)), when_to_run, due];
        for keys in keys.chunks(ROWS_MAX) {
            if !change(connection, table, "", &values, keys).await? {
                // One of them conflicts with a row that no server knows.
                for key in keys {
                    change_one(connection, table, &values, key).await?;
                }
            }
        }
    }
    Ok(())
}

/// Edits one job even if its target is occupied: the other row stays, and the job gets no `unique_key`.
async fn change_one(connection: &mut Conn, table: &Table, values: &[Value], key: &JobKey) -> Result<(), Failed> {
    if change(connection, table, "", values, &[key]).await? {
        return Ok(());
    }
    let flags = flags_of(&key.unique);
    let unique_bytes = if flags == 0 { Value::Bytes(key.unique.to_vec()) } else { Value::NULL };
    let values = [values, &[unique_bytes, Value::Int(i64::from(flags))]].concat();
    change(connection, table, ", unique_key = NULL, unique_bytes = ?, flags = ?", &values, &[key]).await.map(drop)
}

/// Sets function, priority, due time and the columns in `besides`. Returns false if the table's unique key
/// was violated. Then nothing was changed, and the transaction stays open.
async fn change(
    connection: &mut Conn,
    table: &Table,
    besides: &str,
    values: &[Value],
    keys: &[&JobKey],
) -> Result<bool, Failed> {
    let set = format!("function_name = ?, priority = ?, when_to_run = ?, due = ?{besides}");
    let mut values = values.to_vec();
    values.extend(padded(keys.iter().copied()));
    match answer(connection.exec_drop(statement(table, &set, keys), values)).await {
        Ok(()) => Ok(true),
        Err(Failed::Driver(mysql_async::Error::Server(error))) if error.code == DUPLICATE => Ok(false),
        Err(failed) => Err(failed),
    }
}

fn statement(table: &Table, set: &str, keys: &[&JobKey]) -> String {
    let list = vec!["?"; keys.len().next_power_of_two()].join(", ");
    format!("UPDATE {} SET {set} WHERE job_id IN ({list})", table.name)
}
