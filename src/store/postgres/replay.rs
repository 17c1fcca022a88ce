//! Reading from PostgreSQL: all jobs at the start, and workloads later.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::super::driver::{Reader, STATEMENT_LIMIT, Take, trusted_number_max, within};
use super::super::location::Access;
use super::super::row::{Prefixes, RawRow, WORKLOAD_IS_UNIQUE};
use super::super::{Replayed, Workloads, fitting};
use super::errors::Failed;
use super::schema::{CONVERSION_LIMIT, Table};
use super::{Session, answer};
use crate::job_server::JobKey;
use crate::log_level::notice;

/// Rows per query.
const PAGE_ROWS: i64 = 4096;

/// Reads all jobs.
pub(super) async fn run(
    session: &Session,
    access: Access,
    prefixes: &mut Prefixes,
    take: Take<'_>,
) -> Result<Replayed, Failed> {
    if access == Access::Own {
        // A page may take as long as the consumer needs for it.
        limit_statements(session, CONVERSION_LIMIT).await?;
        give_numbers(session, prefixes.default()).await?;
    }
    let table = &session.table;
    let mut reader = Reader::new(take, prefixes, last_number(session).await?);
    if table.columns.contains("job_id") {
        let query = |data: &str| {
            let columns = selected(table, data);
            format!("SELECT {columns} FROM {} WHERE job_id > $1 ORDER BY job_id LIMIT {PAGE_ROWS}", table.name)
        };
        let by_workload = format!(
            "(CASE WHEN coalesce({}, 0) & {WORKLOAD_IS_UNIQUE} <> 0 OR unique_key::text = '-' THEN data END)::bytea",
            table.column("flags", "integer")
        );
        let (with, without) = (query("data::bytea"), query(&by_workload));
        let mut after = i64::MIN;
        loop {
            let wanted = reader.wanted == Workloads::Wanted;
            let page = if wanted { &with } else { &without };
            let (rows, last) = read_page(&mut reader, session, page, &[&after], wanted).await?;
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
        let filter = if table.columns.contains("job_id") { "WHERE job_id IS NULL" } else { "" };
        let query = format!("SELECT {} FROM {} {filter} ORDER BY ctid", selected(table, "data::bytea"), table.name);
        read_page(&mut reader, session, &query, &[], true).await?;
    } else {
        limit_statements(session, STATEMENT_LIMIT).await?;
        reader.replayed.settings = settings(session).await?;
    }
    Ok(reader.replayed)
}

/// Operator settings, as names and values.
async fn settings(session: &Session) -> Result<Vec<(String, String)>, Failed> {
    let query = format!("SELECT name, value FROM {} ORDER BY name", session.table.settings);
    let rows = answer(session.client.query(&query, &[])).await?;
    Ok(rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, tokio_postgres::Error>>()?)
}

/// Sets the server's statement timeout.
async fn limit_statements(session: &Session, limit: Duration) -> Result<(), Failed> {
    answer(session.client.batch_execute(&format!("SET statement_timeout = {}", limit.as_millis()))).await
}

/// Assigns numbers and handles, in table order, to rows of C++ gearmand and other programs that have no valid
/// job number.
async fn give_numbers(session: &Session, prefix: &str) -> Result<(), Failed> {
    let client = &session.client;
    let Table { name, meta, .. } = &session.table;
    answer(client.batch_execute("BEGIN")).await?;
    let last = last_number(session).await?;
    let trusted = trusted_number_max(last);
    let update = format!(
        "UPDATE {name} t SET job_id = n.job_id, handle = $2::text || ':' || n.job_id \
         FROM (SELECT ctid AS place, $1::bigint + row_number() OVER (ORDER BY ctid) AS job_id \
               FROM {name} WHERE job_id IS NULL OR job_id < 1 OR job_id > $3) n \
         WHERE t.ctid = n.place"
    );
    let parameters: [&(dyn ToSql + Sync); 3] = [&last, &prefix, &trusted];
    let updated = within(CONVERSION_LIMIT, client.execute(&update, &parameters)).await.ok_or(Failed::NoAnswer)??;
    if updated > 0 {
        let last = last.saturating_add(i64::try_from(updated).unwrap_or(i64::MAX));
        answer(client.execute(&format!("UPDATE {meta} SET last_number = $1"), &[&last])).await?;
    }
    answer(client.batch_execute("COMMIT")).await?;
    if updated > 0 {
        notice!("{name}: {updated} rows of other programs were taken over as jobs");
    }
    Ok(())
}

/// The highest known job number. Rows with numbers that this server cannot have assigned are ignored.
async fn last_number(session: &Session) -> Result<i64, Failed> {
    let client = &session.client;
    let Table { name, meta, columns, .. } = &session.table;
    let has_meta = answer(client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[meta])).await?;
    let noted = if has_meta.try_get(0)? { format!("(SELECT max(last_number) FROM {meta})") } else { "0".to_owned() };
    let query = format!("SELECT greatest({noted}, 0)::bigint");
    let noted: i64 = answer(client.query_one(&query, &[])).await?.try_get(0)?;
    if !columns.contains("job_id") {
        return Ok(noted);
    }
    let query = format!("SELECT max(job_id) FROM {name} WHERE job_id <= $1");
    let row = answer(client.query_one(&query, &[&trusted_number_max(noted)])).await?;
    Ok(noted.max(row.try_get::<_, Option<i64>>(0)?.unwrap_or(0)))
}

/// The columns in the order in which [`raw_row`] reads them. Texts are read as the bytes sent to clients, so
/// that no invalid encoding aborts the scan.
fn selected(table: &Table, data: &str) -> String {
    let column = |name: &str, kind: &str| table.column(name, kind);
    [
        column("job_id", "bigint"),
        format!("textsend({})", column("handle", "text")),
        format!("coalesce({}, textsend(function_name::text))", column("function_bytes", "bytea")),
        format!("coalesce({}, textsend(unique_key::text))", column("unique_bytes", "bytea")),
        column("flags", "integer"),
        "priority::bigint".to_owned(),
        format!("coalesce({}, {})", column("due", "bigint"), column("when_to_run", "bigint")),
        column("reducer", "bytea"),
        column("submitted", "bigint"),
        column("attempts", "bigint"),
        data.to_owned(),
    ]
    .join(", ")
}

fn raw_row(row: &Row) -> Result<RawRow<'_>, tokio_postgres::Error> {
    Ok(RawRow {
        number: row.try_get::<_, Option<i64>>(0)?.unwrap_or(0),
        handle: row.try_get(1)?,
        function: row.try_get(2)?,
        unique: row.try_get::<_, Option<&[u8]>>(3)?.unwrap_or_default(),
        flags: row.try_get::<_, Option<i32>>(4)?.unwrap_or(0),
        priority: row.try_get(5)?,
        due_s: row.try_get::<_, Option<i64>>(6)?.unwrap_or(0),
        reducer: row.try_get::<_, Option<&[u8]>>(7)?.unwrap_or_default(),
        submitted_s: row.try_get::<_, Option<i64>>(8)?.unwrap_or(0),
        attempts: row.try_get::<_, Option<i64>>(9)?.unwrap_or(0),
        workload: row.try_get::<_, Option<&[u8]>>(10)?.unwrap_or_default(),
    })
}

/// Passes on the rows of a query. Returns their number, and the job number of the last one.
async fn read_page(
    reader: &mut Reader<'_, '_>,
    session: &Session,
    query: &str,
    parameters: &[&(dyn ToSql + Sync)],
    has_workloads: bool,
) -> Result<(i64, i64), Failed> {
    let parameters = parameters.iter().copied();
    let mut rows = pin!(answer(session.client.query_raw(query, parameters)).await?);
    let (mut count, mut last) = (0, i64::MIN);
    while let Some(row) = answer(rows.try_next()).await? {
        let raw = raw_row(&row)?;
        count += 1;
        last = raw.number;
        reader.enter(raw, row.try_get::<_, Option<i64>>(0)?.is_some(), has_workloads);
    }
    Ok((count, last))
}

/// Moves rows to the quarantine, with the reason.
async fn quarantine(session: &Session, bad: &[(i64, String)]) -> Result<(), Failed> {
    if bad.is_empty() {
        return Ok(());
    }
    let client = &session.client;
    let Table { name, quarantine, columns, .. } = &session.table;
    let (numbers, reasons): (Vec<i64>, Vec<&str>) =
        bad.iter().map(|(number, reason)| (*number, reason.as_str())).unzip();
    let mut columns: Vec<String> = columns.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    columns.sort_unstable();
    let columns = columns.join(", ");
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {quarantine} (LIKE {name}); \
                          ALTER TABLE {quarantine} ADD COLUMN IF NOT EXISTS reason TEXT"
    );
    let fill = format!(
        "WITH bad AS (SELECT * FROM unnest($1::bigint[], $2::text[]) AS b(number, why)), \
         moved AS (DELETE FROM {name} t USING bad WHERE t.job_id = bad.number RETURNING t.*, bad.why) \
         INSERT INTO {quarantine} ({columns}, reason) SELECT {columns}, why FROM moved"
    );
    answer(client.batch_execute("BEGIN")).await?;
    answer(client.batch_execute(&create)).await?;
    answer(client.execute(&fill, &[&numbers, &reasons])).await?;
    answer(client.batch_execute("COMMIT")).await
}

/// Reads workloads in the requested order.
pub(super) async fn load(session: &Session, jobs: &[JobKey], most_bytes: usize) -> Result<Vec<Option<Bytes>>, Failed> {
    if !session.table.columns.contains("job_id") {
        return Ok(vec![None; jobs.len()]);
    }
    let mut numbers: Vec<i64> = jobs.iter().map(|key| i64::try_from(key.number).unwrap_or(i64::MAX)).collect();
    let query = |what: &str| {
        format!(
            "SELECT w.place, {what} FROM unnest($1::bigint[]) WITH ORDINALITY AS w(job_id, place) \
             JOIN {} t ON t.job_id = w.job_id",
            session.table.name
        )
    };
    let place_of = |row: &Row| Ok::<_, Failed>(usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or(usize::MAX));
    let mut lengths = vec![0; numbers.len()];
    for row in answer(session.client.query(&query("octet_length(t.data)"), &[&numbers])).await? {
        if let Some(length) = lengths.get_mut(place_of(&row)?) {
            *length = usize::try_from(row.try_get::<_, Option<i32>>(1)?.unwrap_or(0)).unwrap_or(0);
        }
    }
    numbers.truncate(fitting(lengths, most_bytes));
    let mut loaded = vec![None; numbers.len()];
    let parameters: [&(dyn ToSql + Sync); 1] = [&numbers];
    let mut rows = pin!(answer(session.client.query_raw(&query("t.data::bytea"), parameters)).await?);
    while let Some(row) = answer(rows.try_next()).await? {
        if let Some(slot) = loaded.get_mut(place_of(&row)?) {
            *slot = Some(Bytes::copy_from_slice(row.try_get::<_, Option<&[u8]>>(1)?.unwrap_or_default()));
        }
    }
    Ok(loaded)
}
