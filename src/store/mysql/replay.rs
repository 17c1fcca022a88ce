//! Reading from MySQL: all jobs at the start, and workloads later.

use std::collections::HashMap;

use bytes::Bytes;
use mysql_async::prelude::Queryable;
use mysql_async::{Params, Row, Value};

use super::super::driver::{Reader, STATEMENT_LIMIT, Take, trusted_number_max, within};
use super::super::location::Access;
use super::super::row::{Prefixes, RawRow, WORKLOAD_IS_UNIQUE};
use super::super::{Replayed, Workloads, fitting};
use super::errors::Failed;
use super::schema::{CONVERSION_LIMIT, Table, limit_statements};
use super::{Session, answer};
use crate::job_server::JobKey;
use crate::log_level::notice;

/// Rows per query.
const PAGE_ROWS: u64 = 4096;

/// Reads all jobs.
pub(super) async fn run(
    session: &mut Session,
    access: Access,
    prefixes: &mut Prefixes,
    take: Take<'_>,
) -> Result<Replayed, Failed> {
    let last = if access == Access::Own {
        // A page may take as long as the consumer needs for it.
        limit_statements(&mut session.connection, CONVERSION_LIMIT).await?;
        give_numbers(session, prefixes.default()).await?
    } else {
        last_number(session).await?
    };
    let mut reader = Reader::new(take, prefixes, last);
    let has_numbers = session.table.columns.contains_key("job_id");
    if has_numbers {
        let query = |data: &str| {
            let (columns, name) = (selected(&session.table, data), &session.table.name);
            format!("SELECT {columns} FROM {name} WHERE job_id > ? ORDER BY job_id LIMIT {PAGE_ROWS}")
        };
        let by_workload = format!(
            "CASE WHEN COALESCE({}, 0) & {WORKLOAD_IS_UNIQUE} <> 0 OR unique_key = '-' THEN data END",
            session.table.column("flags")
        );
        let (with, without) = (query("data"), query(&by_workload));
        let mut after = i64::MIN;
        loop {
            let wanted = reader.wanted == Workloads::Wanted;
            let page = if wanted { &with } else { &without };
            let (rows, last) = read_page(&mut reader, session, page, (after,).into(), wanted).await?;
            if access == Access::Own {
                quarantine(session, &std::mem::take(&mut reader.bad)).await?;
            }
            if rows < PAGE_ROWS {
                break;
            }
            after = last;
        }
    }
    if access == Access::Read {
        // Rows of C++ gearmand that no server has adopted: read as if they had numbers, in table order.
        let filter = if has_numbers { "WHERE job_id IS NULL" } else { "" };
        let query = format!("SELECT {} FROM {} {filter}", selected(&session.table, "data"), session.table.name);
        read_page(&mut reader, session, &query, Params::Empty, true).await?;
    } else {
        limit_statements(&mut session.connection, STATEMENT_LIMIT).await?;
        reader.replayed.settings = settings(session).await?;
    }
    Ok(reader.replayed)
}

/// Operator settings, as names and values.
async fn settings(session: &mut Session) -> Result<Vec<(String, String)>, Failed> {
    let query = format!("SELECT name, value FROM {} ORDER BY name", session.table.settings);
    let rows: Vec<(Vec<u8>, Vec<u8>)> = answer(session.connection.query(query)).await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(rows.into_iter().map(|(name, value)| (text(name), text(value))).collect())
}

/// Assigns numbers and handles, in table order, to rows of C++ gearmand and other programs that have no valid
/// job number. Returns the highest number.
async fn give_numbers(session: &mut Session, prefix: &str) -> Result<i64, Failed> {
    let last = last_number(session).await?;
    let Session { connection, table: Table { name, meta, .. }, .. } = session;
    answer(connection.query_drop("BEGIN")).await?;
    answer(connection.exec_drop("SET @gearmand_number = ?", (last,))).await?;
    let update = format!(
        "UPDATE {name} SET job_id = (@gearmand_number := @gearmand_number + 1), \
         handle = CONCAT(?, ':', CAST(@gearmand_number AS CHAR)) WHERE job_id IS NULL OR job_id < 1 OR job_id > ?"
    );
    let updating = connection.exec_drop(update, (prefix, trusted_number_max(last)));
    within(CONVERSION_LIMIT, updating).await.ok_or(Failed::NoAnswer)??;
    let updated = connection.affected_rows();
    let last: Option<i64> = answer(connection.query_first("SELECT CAST(@gearmand_number AS SIGNED)")).await?;
    let last = last.unwrap_or(0);
    answer(connection.exec_drop(format!("UPDATE {meta} SET last_number = ?"), (last,))).await?;
    answer(connection.query_drop("COMMIT")).await?;
    if updated > 0 {
        notice!("{name}: {updated} rows of other programs were taken over as jobs");
    }
    Ok(last)
}

/// The highest known job number. Rows with numbers that this server cannot have assigned are ignored.
async fn last_number(session: &mut Session) -> Result<i64, Failed> {
    let Session { connection, table, .. } = session;
    let mut last = 0;
    if table.has_meta {
        let noted: Option<Option<i64>> =
            answer(connection.query_first(format!("SELECT MAX(last_number) FROM {}", table.meta))).await?;
        last = last.max(noted.flatten().unwrap_or(0));
    }
    if table.columns.contains_key("job_id") {
        let query = format!("SELECT MAX(job_id) FROM {} WHERE job_id <= ?", table.name);
        let given: Option<Option<i64>> = answer(connection.exec_first(query, (trusted_number_max(last),))).await?;
        last = last.max(given.flatten().unwrap_or(0));
    }
    Ok(last)
}

/// The columns in the order in which [`raw_row`] reads them.
fn selected(table: &Table, data: &str) -> String {
    let due = format!("COALESCE({}, {})", table.column("due"), table.column("when_to_run"));
    let unique = format!("COALESCE({}, CAST(unique_key AS BINARY))", table.column("unique_bytes"));
    [
        &table.column("job_id"),
        &table.column("handle"),
        "CAST(function_name AS BINARY)",
        &unique,
        &table.column("flags"),
        "priority",
        &due,
        &table.column("reducer"),
        &table.column("submitted"),
        &table.column("attempts"),
        data,
    ]
    .join(", ")
}

fn raw_row(row: &Row) -> RawRow<'_> {
    let bytes = |index| match row.as_ref(index) {
        Some(Value::Bytes(bytes)) => Some(&bytes[..]),
        _ => None,
    };
    RawRow {
        number: integer(row, 0).unwrap_or(0),
        handle: bytes(1),
        function: bytes(2),
        unique: bytes(3).unwrap_or_default(),
        flags: integer(row, 4).and_then(|flags| i32::try_from(flags).ok()).unwrap_or(0),
        priority: integer(row, 5),
        due_s: integer(row, 6).unwrap_or(0),
        reducer: bytes(7).unwrap_or_default(),
        submitted_s: integer(row, 8).unwrap_or(0),
        attempts: integer(row, 9).unwrap_or(0),
        workload: bytes(10).unwrap_or_default(),
    }
}

fn integer(row: &Row, index: usize) -> Option<i64> {
    match row.as_ref(index)? {
        Value::Int(value) => Some(*value),
        Value::UInt(value) => Some(i64::try_from(*value).unwrap_or(i64::MAX)),
        _ => None,
    }
}

/// Passes on the rows of a query. Returns their number, and the job number of the last one.
async fn read_page(
    reader: &mut Reader<'_, '_>,
    session: &mut Session,
    query: &str,
    parameters: Params,
    has_workloads: bool,
) -> Result<(u64, i64), Failed> {
    let mut rows = answer(session.connection.exec_iter(query, parameters)).await?;
    let (mut count, mut last) = (0, i64::MIN);
    while let Some(row) = answer(rows.next()).await? {
        let raw = raw_row(&row);
        count += 1;
        last = raw.number;
        reader.enter(raw, integer(&row, 0).is_some(), has_workloads);
    }
    answer(rows.drop_result()).await?;
    Ok((count, last))
}

/// Moves rows to the quarantine, with the reason.
async fn quarantine(session: &mut Session, bad: &[(i64, String)]) -> Result<(), Failed> {
    if bad.is_empty() {
        return Ok(());
    }
    let Session { connection, table: Table { name, quarantine, columns, .. }, .. } = session;
    // The quarantine table has no keys, so that no row is rejected.
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {quarantine} ENGINE = InnoDB AS SELECT t.*, '' AS reason FROM {name} t LIMIT 0"
    );
    answer(connection.query_drop(create)).await?;
    answer(connection.query_drop(format!("ALTER TABLE {quarantine} MODIFY reason TEXT"))).await?;
    let mut columns: Vec<String> = columns.keys().map(|name| format!("`{}`", name.replace('`', "``"))).collect();
    columns.sort_unstable();
    let columns = columns.join(", ");
    answer(connection.query_drop("BEGIN")).await?;
    for (number, reason) in bad {
        let copy =
            format!("INSERT INTO {quarantine} ({columns}, reason) SELECT {columns}, ? FROM {name} WHERE job_id = ?");
        answer(connection.exec_drop(copy, (reason, number))).await?;
        answer(connection.exec_drop(format!("DELETE FROM {name} WHERE job_id = ?"), (number,))).await?;
    }
    answer(connection.query_drop("COMMIT")).await
}

/// Reads workloads in the requested order.
pub(super) async fn load(
    session: &mut Session,
    jobs: &[JobKey],
    most_bytes: usize,
) -> Result<Vec<Option<Bytes>>, Failed> {
    let Session { connection, table, .. } = session;
    if jobs.is_empty() || !table.columns.contains_key("job_id") {
        return Ok(vec![None; jobs.len()]);
    }
    // Numbers need no quoting, and with placeholders each list length would be a separate prepared statement.
    let query = |what: &str, jobs: &[JobKey]| {
        let numbers: Vec<String> = jobs.iter().map(|key| key.number.to_string()).collect();
        format!("SELECT job_id, {what} FROM {} WHERE job_id IN ({})", table.name, numbers.join(", "))
    };
    let lengths: Vec<(u64, Option<u64>)> = answer(connection.query(query("LENGTH(data)", jobs))).await?;
    let lengths: HashMap<u64, Option<u64>> = lengths.into_iter().collect();
    let length_of = |key: &JobKey| lengths.get(&key.number).copied().flatten().unwrap_or(0);
    let lengths = jobs.iter().map(|key| usize::try_from(length_of(key)).unwrap_or(usize::MAX));
    let jobs = &jobs[..fitting(lengths, most_bytes)];
    let mut found: HashMap<u64, Bytes> = HashMap::with_capacity(jobs.len());
    let mut rows = answer(connection.query_iter(query("data", jobs))).await?;
    while let Some(mut row) = answer(rows.next()).await? {
        let number: Option<u64> = row.take(0);
        let data: Option<Option<Vec<u8>>> = row.take(1);
        if let Some(number) = number {
            found.insert(number, Bytes::from(data.flatten().unwrap_or_default()));
        }
    }
    answer(rows.drop_result()).await?;
    Ok(jobs.iter().map(|key| found.get(&key.number).cloned()).collect())
}
