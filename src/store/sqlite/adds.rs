//! Adding jobs: inserts several rows per statement, resolves conflicts with foreign rows, and verifies the
//! row count.

use rusqlite::types::Null;
use rusqlite::{CachedStatement, ErrorCode, Transaction};

use super::error::Trouble;
use super::layout::{self, Sql};
use super::{DASH, NO_UNIQUE, WORKLOAD_IS_UNIQUE, integer, text};
use crate::job_server::{StoreFailure, StoredJob};

/// Adds the jobs. Returns how many foreign rows made way.
pub(super) fn make(transaction: &Transaction<'_>, sql: &Sql, adds: &[StoredJob]) -> Result<u64, Trouble> {
    if adds.is_empty() {
        return Ok(0);
    }
    let before = transaction.total_changes();
    let (mut inserted, mut made_way) = (0, 0);
    // Several rows per statement: half the cost of a row is that of its statement.
    let (many, single) = adds.as_chunks::<{ layout::ROWS }>();
    if !many.is_empty() {
        let mut statement = transaction.prepare_cached(&sql.insert_rows)?;
        for jobs in many {
            inserted += insert(transaction, sql, &mut statement, jobs, &mut made_way)?;
        }
    }
    if !single.is_empty() {
        let mut statement = transaction.prepare_cached(&sql.insert)?;
        for job in single {
            inserted += insert(transaction, sql, &mut statement, std::slice::from_ref(job), &mut made_way)?;
        }
    }
    // If there were more changes than expected, a trigger made them, and may have deleted rows again.
    let changed = transaction.total_changes() - before;
    if inserted == adds.len() && changed != inserted as u64 + made_way {
        let mut select = transaction.prepare_cached(&sql.is_there)?;
        inserted = 0;
        for job in adds {
            inserted += usize::from(select.exists([integer(job.number)])?);
        }
    }
    if inserted == adds.len() {
        return Ok(made_way);
    }
    let text = format!(
        "only {inserted} of {} rows were inserted: a trigger of the table drops the others; check why",
        adds.len()
    );
    Err(Trouble::Refused(StoreFailure::Refused, text))
}

/// Inserts jobs with one statement. Returns the number of inserted rows.
fn insert(
    transaction: &Transaction<'_>,
    sql: &Sql,
    statement: &mut CachedStatement<'_>,
    jobs: &[StoredJob],
    made_way: &mut u64,
) -> Result<usize, rusqlite::Error> {
    let mut handle = Vec::new();
    for (place, job) in jobs.iter().enumerate() {
        handle.clear();
        job.handle().write(&mut handle);
        bind(statement, place * layout::COLUMNS.len(), job, &handle)?;
    }
    match statement.raw_execute() {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            // The statement was rolled back. The values stay bound.
            *made_way += make_way(transaction, sql, jobs)?;
            statement.raw_execute()
        }
        other => other,
    }
}

/// Moves rows that no server knows out of the way. Returns their number.
fn make_way(transaction: &Transaction<'_>, sql: &Sql, jobs: &[StoredJob]) -> Result<u64, rusqlite::Error> {
    let mut rows = 0;
    for job in jobs {
        rows += transaction.prepare_cached(&sql.free_number)?.execute([integer(job.number)])?;
        if let Some(free_key) = &sql.free_key {
            let mut handle = Vec::new();
            job.handle().write(&mut handle);
            let (unique, _) = unique_of(job, &handle);
            let parameters = (text(unique), text(job.function.as_bytes()));
            rows += transaction.prepare_cached(free_key)?.execute(parameters)?;
        }
    }
    Ok(rows as u64)
}

/// The value of the unique id column, and its flags.
fn unique_of<'a>(job: &'a StoredJob, handle: &'a [u8]) -> (&'a [u8], i64) {
    match job.unique() {
        b"" => (handle, NO_UNIQUE),
        DASH => (handle, WORKLOAD_IS_UNIQUE),
        unique => (unique, 0),
    }
}

/// Binds the values of a job in column order, after the first `before` parameters.
fn bind(
    insert: &mut CachedStatement<'_>,
    before: usize,
    job: &StoredJob,
    handle: &[u8],
) -> Result<(), rusqlite::Error> {
    let (unique, flags) = unique_of(job, handle);
    insert.raw_bind_parameter(before + 1, integer(job.number))?;
    insert.raw_bind_parameter(before + 2, text(unique))?;
    insert.raw_bind_parameter(before + 3, text(job.function.as_bytes()))?;
    insert.raw_bind_parameter(before + 4, job.priority as u8)?;
    insert.raw_bind_parameter(before + 5, integer(job.due_s))?;
    insert.raw_bind_parameter(before + 6, text(handle))?;
    if job.reducer().is_empty() {
        insert.raw_bind_parameter(before + 7, Null)?;
    } else {
        insert.raw_bind_parameter(before + 7, text(job.reducer()))?;
    }
    insert.raw_bind_parameter(before + 8, integer(job.submitted_s))?;
    insert.raw_bind_parameter(before + 9, flags)?;
    insert.raw_bind_parameter(before + 10, job.attempts)?;
    insert.raw_bind_parameter(before + 11, job.workload())
}
