//! Editing jobs stored in PostgreSQL.
//!
//! The table has C++ gearmand's UNIQUE constraint, which is checked row by row: two jobs that swap places
//! would conflict. So all moved jobs first get the function NULL, and then the new one: NULL never equals
//! NULL.

use std::borrow::Cow;

use tokio_postgres::types::ToSql;

use super::super::driver::signed;
use super::changes::Names;
use super::schema::Table;
use crate::job_server::{Edit, JobKey};

/// What may occupy the target of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// Nothing.
    Nothing,
    /// Rows that no server knows. They stay, and the job gets no `unique_key`: its unique id is only in
    /// `unique_bytes`. This reads the whole table.
    Twins,
}

/// The statement that sets functions to NULL.
pub(super) fn lift(table: &Table) -> String {
    format!("UPDATE {} SET function_name = NULL WHERE job_id = ANY($1::bigint[])", table.name)
}

/// Its parameter: the numbers of moved jobs.
pub(super) fn lifted(edits: &[(JobKey, Edit)]) -> Vec<i64> {
    edits.iter().filter(|(key, edit)| key.function != edit.function).map(|(key, _)| signed(key.number)).collect()
}

/// The statement that applies the edits.
pub(super) fn statement(Table { name, .. }: &Table, beside: Beside) -> String {
    let is_taken = match beside {
        Beside::Nothing => "FALSE".to_owned(),
        // Tables of C++ gearmand have the collation of the database. With "C", equal means equal bytes.
        Beside::Twins => format!(
            "EXISTS (SELECT 1 FROM {name} o WHERE o.job_id IS DISTINCT FROM n.job_id \
             AND o.function_name COLLATE \"C\" = n.function_name \
             AND o.unique_key COLLATE \"C\" = coalesce(n.unique_text, r.handle))"
        ),
    };
    format!(
        "UPDATE {name} t SET function_name = e.function_name, function_bytes = e.function_bytes, \
         unique_key = CASE WHEN e.is_taken THEN NULL ELSE coalesce(e.unique_text, t.handle) END, \
         unique_bytes = CASE WHEN e.is_taken AND e.flags = 0 THEN e.unique_id ELSE e.unique_bytes END, \
         flags = e.flags, priority = e.priority, when_to_run = e.when_to_run, due = e.due \
         FROM (SELECT n.*, {is_taken} AS is_taken FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::text[], \
               $5::bytea[], $6::bytea[], $7::integer[], $8::integer[], $9::integer[], $10::bigint[]) \
               AS n(job_id, function_name, function_bytes, unique_text, unique_bytes, unique_id, flags, priority, \
               when_to_run, due) JOIN {name} r ON r.job_id = n.job_id) e \
         WHERE t.job_id = e.job_id"
    )
}

/// Edits, column by column.
#[derive(Default)]
pub(super) struct Columns<'a> {
    job_id: Vec<i64>,
    function_name: Vec<Cow<'a, str>>,
    function_bytes: Vec<Option<&'a [u8]>>,
    unique_text: Vec<Option<&'a str>>,
    unique_bytes: Vec<Option<&'a [u8]>>,
    unique_id: Vec<&'a [u8]>,
    flags: Vec<i32>,
    priority: Vec<i32>,
    when_to_run: Vec<i32>,
    due: Vec<Option<i64>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(edits: &'a [(JobKey, Edit)], utf8: bool) -> Self {
        let mut columns = Self::default();
        for (key, edit) in edits {
            let names = Names::of(edit.function.as_bytes(), &key.unique, utf8);
            columns.job_id.push(signed(key.number));
            columns.function_name.push(names.function_name);
            columns.function_bytes.push(names.function_bytes);
            columns.unique_text.push(names.unique_text);
            columns.unique_bytes.push(names.unique_bytes);
            columns.unique_id.push(&key.unique);
            columns.flags.push(names.flags);
            columns.priority.push(i32::from(edit.priority as u8));
            let (when_to_run, due) = due_columns(edit.due_s);
            columns.when_to_run.push(when_to_run);
            columns.due.push(due);
        }
        columns
    }

    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 10] {
        [
            &self.job_id,
            &self.function_name,
            &self.function_bytes,
            &self.unique_text,
            &self.unique_bytes,
            &self.unique_id,
            &self.flags,
            &self.priority,
            &self.when_to_run,
            &self.due,
        ]
    }
}

/// The values of `when_to_run` and `due`.
pub(super) fn due_columns(due_s: u64) -> (i32, Option<i64>) {
    (i32::try_from(due_s).unwrap_or(i32::MAX), i32::try_from(due_s).is_err().then(|| signed(due_s)))
}
