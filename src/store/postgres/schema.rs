//! The PostgreSQL table: finding, creating and converting it, and locking it against other servers.

use std::collections::HashSet;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::super::OUR_LAST;
use super::super::driver::{LOCK_LIMIT, STATEMENT_LIMIT, within};
use super::super::location::Access;
use super::super::table::foreign;
use super::changes::Statements;
use super::errors::Failed;
use super::{Session, answer};
use crate::job_server::{FORMAT, StoreFailure};
use crate::log_level::audit;

/// Timeout for a conversion statement, and for one that reads a whole table.
pub(super) const CONVERSION_LIMIT: Duration = Duration::from_mins(10);
/// Maximum length of the table name: the additional tables have longer names, and PostgreSQL truncates names
/// at 63 bytes.
const TABLE_MAX: usize = 52;
/// High half of the advisory lock key; the low half is the table's oid.
const LOCK_CLASS: i64 = 0x6765_6172 << 32;

/// C++ gearmand's columns. Texts are compared byte by byte.
const COLUMNS: &str = "unique_key VARCHAR(64) COLLATE \"C\", function_name VARCHAR(255) COLLATE \"C\", priority INTEGER, \
                       data BYTEA, when_to_run INTEGER, UNIQUE (unique_key, function_name)";
/// Columns that C++ gearmand does not have. It lacks the first one only in old versions.
const ADDED: &[(&str, &str)] = &[
    ("when_to_run", "INTEGER"),
    ("job_id", "BIGINT"),
    ("handle", "TEXT"),
    ("reducer", "BYTEA"),
    ("submitted", "BIGINT"),
    ("flags", "INTEGER"),
    ("attempts", "INTEGER"),
    ("due", "BIGINT"),
    ("unique_bytes", "BYTEA"),
    ("function_bytes", "BYTEA"),
];

/// The quoted SQL names of a table and its companions, and what is known of it.
pub(super) struct Table {
    /// The table.
    pub(super) name: String,
    /// The table with one row: format version and highest job number.
    pub(super) meta: String,
    /// Operator settings by name.
    pub(super) settings: String,
    /// The quarantine for invalid rows.
    pub(super) quarantine: String,
    /// Its columns.
    pub(super) columns: HashSet<String>,
    index: String,
    schema: String,
    relation: String,
    oid: i64,
}

impl Table {
    fn new(schema: String, relation: String, oid: i64) -> Self {
        let beside = |suffix: &str| format!("{}.{}", quoted(&schema), quoted(&format!("{relation}{suffix}")));
        Self {
            name: beside(""),
            meta: beside("_meta"),
            settings: beside("_settings"),
            quarantine: beside("_quarantine"),
            index: quoted(&format!("{relation}_job_id")),
            columns: HashSet::new(),
            schema,
            relation,
            oid,
        }
    }

    /// The column, or NULL if it does not exist.
    pub(super) fn column(&self, name: &str, kind: &str) -> String {
        if self.columns.contains(name) { format!("{name}::{kind}") } else { format!("NULL::{kind}") }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Identifies the backend of a connection. The start time is needed because process ids are reused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pid: i32,
    start: String,
}

/// Prepares a new connection. `last` is the backend of the previous one.
pub(super) async fn prepare(
    client: Client,
    table: &str,
    access: Access,
    last: Option<&Backend>,
) -> Result<Session, Failed> {
    let limit_ms = match access {
        Access::Own => STATEMENT_LIMIT.as_millis(),
        Access::Read => CONVERSION_LIMIT.as_millis(),
    };
    // Keepalives, so that the server notices when this host is gone, and releases the lock.
    let settings = format!(
        "SET statement_timeout = {limit_ms}; SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 5; \
         SET tcp_keepalives_count = 4"
    );
    answer(client.batch_execute(&settings)).await?;
    let row = answer(client.query_one(
        "SELECT current_setting('server_encoding'), current_setting('synchronous_commit'), current_setting('fsync'), \
         pg_backend_pid(), (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid())",
        &[],
    ))
    .await?;
    let start = row.try_get::<_, Option<String>>(4)?.unwrap_or_default();
    let backend = Backend { pid: row.try_get(3)?, start };
    let utf8 = row.try_get::<_, &str>(0)? == "UTF8";
    let asynchronous = row.try_get::<_, &str>(1)? == "off" || row.try_get::<_, &str>(2)? == "off";
    let (table, statements) = match access {
        Access::Own => {
            let table = own(&client, table, last).await?;
            let statements = Statements::prepare(&client, &table).await?;
            (table, Some(statements))
        }
        Access::Read => {
            answer(client.batch_execute("SET default_transaction_read_only = on")).await?;
            let mut found = find(&client, table).await?.ok_or_else(|| {
                Failed::Here(StoreFailure::Io, "no such table; check its name and the search_path".to_owned())
            })?;
            found.columns = columns(&client, &found).await?;
            check_owner(&found)?;
            check_format(&client, &found).await?;
            (found, None)
        }
    };
    Ok(Session { client, backend, table, utf8, asynchronous, statements })
}

/// Takes ownership of the table: locks it, and creates or converts it if needed.
async fn own(client: &Client, name: &str, last: Option<&Backend>) -> Result<Table, Failed> {
    let found = find(client, name).await?;
    let is_new = found.is_none();
    let mut table = match found {
        Some(table) => table,
        None => create(client, name).await?,
    };
    table.columns = columns(client, &table).await?;
    check_owner(&table)?;
    if let Some(last) = last {
        end(client, last).await;
    }
    lock(client, &table, last).await?;
    let limit_ms = CONVERSION_LIMIT.as_millis();
    answer(client.batch_execute(&format!("BEGIN; SET LOCAL statement_timeout = {limit_ms}"))).await?;
    table.columns = columns(client, &table).await?;
    let is_taken_over = !is_new && !ADDED.iter().all(|(column, _)| table.columns.contains(*column));
    if !check_format(client, &table).await? {
        convert(client, &mut table).await?;
    }
    make_settings(client, &table).await?;
    answer(client.batch_execute("COMMIT")).await?;
    if let Err(failed) = rename_quarantine(client, &table).await {
        // The user may lack the privilege. Nothing but the quarantine needs it.
        tracing::warn!("{}", failed.explain(&table.name, "cannot rename its quarantine table TABLE_set_aside"));
    }
    if is_taken_over {
        audit!("the table {} of C++ gearmand was taken over", table.name);
    }
    Ok(table)
}

/// Resolves the table name by the server's search path.
async fn find(client: &Client, name: &str) -> Result<Option<Table>, Failed> {
    let query = "SELECT n.nspname::text, c.relname::text, c.oid::bigint FROM pg_class c \
                 JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1::text)";
    let Some(row) = answer(client.query_opt(query, &[&name])).await? else { return Ok(None) };
    let table = Table::new(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if table.relation.len() > TABLE_MAX {
        let text = format!("the name of the table is longer than {TABLE_MAX} bytes; choose a shorter one");
        return Err(Failed::Here(StoreFailure::Io, text));
    }
    Ok(Some(table))
}

async fn create(client: &Client, name: &str) -> Result<Table, Failed> {
    let plain = |c: char| c.is_alphanumeric() || "_$.\"".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        let text = "the name of the table has characters other than letters, digits, _ and $; choose another";
        return Err(Failed::Here(StoreFailure::Io, text.to_owned()));
    }
    // Unquoted, as in C++ gearmand, so that Queue means queue.
    answer(client.batch_execute(&format!("CREATE TABLE {name} ({COLUMNS})"))).await?;
    find(client, name).await?.ok_or_else(|| {
        Failed::Here(StoreFailure::Io, "the table was created, but is not found in the search_path".to_owned())
    })
}

async fn columns(client: &Client, table: &Table) -> Result<HashSet<String>, Failed> {
    let query = "SELECT attname::text FROM pg_attribute \
                 WHERE attrelid::bigint = $1 AND attnum > 0 AND NOT attisdropped";
    let rows = answer(client.query(query, &[&table.oid])).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Rejects a table that is not gearmand's.
fn check_owner(table: &Table) -> Result<(), Failed> {
    let name = format!("{}.{}", table.schema, table.relation);
    foreign(&name, table.columns.iter()).map_or(Ok(()), |text| Err(Failed::Here(StoreFailure::Io, text)))
}

/// Whether the table already has the current format.
async fn check_format(client: &Client, table: &Table) -> Result<bool, Failed> {
    let row = answer(client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&table.meta])).await?;
    if !row.try_get::<_, bool>(0)? {
        return Ok(false);
    }
    let query = format!("SELECT format FROM {}", table.meta);
    let Some(row) = answer(client.query_opt(&query, &[])).await? else { return Ok(false) };
    let format: i32 = row.try_get(0)?;
    if u32::try_from(format).is_ok_and(|format| format <= FORMAT) {
        return Ok(true);
    }
    Err(Failed::Here(
        StoreFailure::Corrupt,
        format!(
            "the table has format {format}, and this program supports formats up to {FORMAT}; use the newer program \
             that wrote it"
        ),
    ))
}

/// Adds the columns that C++ gearmand's table lacks.
async fn convert(client: &Client, table: &mut Table) -> Result<(), Failed> {
    let Table { name, meta, index, .. } = table;
    let missing: Vec<String> = ADDED
        .iter()
        .filter(|(column, _)| !table.columns.contains(*column))
        .map(|(column, kind)| format!("ADD COLUMN {column} {kind}"))
        .collect();
    let mut statements = Vec::new();
    if !missing.is_empty() {
        statements.push(format!("ALTER TABLE {name} {}", missing.join(", ")));
    }
    statements.push(format!("CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {name} (job_id)"));
    statements
        .push(format!("CREATE TABLE IF NOT EXISTS {meta} (format INTEGER NOT NULL, last_number BIGINT NOT NULL)"));
    statements.push(format!("INSERT INTO {meta} SELECT {FORMAT}, 0 WHERE NOT EXISTS (SELECT 1 FROM {meta})"));
    within(CONVERSION_LIMIT, client.batch_execute(&statements.join("; "))).await.ok_or(Failed::NoAnswer)??;
    table.columns.extend(ADDED.iter().map(|(column, _)| (*column).to_owned()));
    Ok(())
}

/// Creates the settings table, which earlier versions did not have.
async fn make_settings(client: &Client, table: &Table) -> Result<(), Failed> {
    let row = answer(client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&table.settings])).await?;
    if row.try_get(0)? {
        return Ok(());
    }
    // No index: names may exceed the size limit of an index entry, and there are few.
    let create = format!("CREATE TABLE {} (name TEXT NOT NULL, value TEXT NOT NULL)", table.settings);
    answer(client.batch_execute(&create)).await
}

/// Renames the quarantine of earlier versions, unless there is a table with the new name.
async fn rename_quarantine(client: &Client, table: &Table) -> Result<(), Failed> {
    let (schema, relation) = (&table.schema, &table.relation);
    let former = format!("{}.{}", quoted(schema), quoted(&format!("{relation}_set_aside")));
    let query = "SELECT to_regclass($1::text) IS NOT NULL AND to_regclass($2::text) IS NULL";
    let row = answer(client.query_one(query, &[&former, &table.quarantine])).await?;
    if row.try_get(0)? {
        let name = quoted(&format!("{relation}_quarantine"));
        answer(client.batch_execute(&format!("ALTER TABLE {former} RENAME TO {name}"))).await?;
        audit!("the table {former} was renamed to {}", table.quarantine);
    }
    Ok(())
}

/// Terminates our previous backend. It still holds the lock if PostgreSQL has not noticed a network failure
/// yet.
async fn end(client: &Client, backend: &Backend) {
    let query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2";
    // If that is not permitted, locking fails next, and its error names the holder.
    let _ = answer(client.execute(query, &[&backend.pid, &backend.start])).await;
}

/// Keeps other servers away as long as this connection lives.
async fn lock(client: &Client, table: &Table, last: Option<&Backend>) -> Result<(), Failed> {
    let key = LOCK_CLASS | table.oid;
    // PostgreSQL may take a moment to notice that the previous connection is gone.
    let limit_ms = LOCK_LIMIT.as_millis();
    answer(client.batch_execute(&format!("SET lock_timeout = {limit_ms}"))).await?;
    match answer(client.execute("SELECT pg_advisory_lock($1)", &[&key])).await {
        Err(Failed::Driver(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {}
        Err(failed) => return Err(failed),
        Ok(_) => return answer(client.batch_execute("RESET lock_timeout")).await,
    }
    let query = "SELECT concat_ws(' ', 'process', a.pid, 'of user', a.usename, 'from', \
                 coalesce(a.client_addr::text, 'this host'), 'since', a.backend_start), a.pid, a.backend_start::text FROM pg_locks l \
                 JOIN pg_stat_activity a ON a.pid = l.pid \
                 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                 AND l.classid::bigint = $1::bigint >> 32 AND l.objid::bigint = $2::bigint";
    let holder = answer(client.query_opt(query, &[&key, &table.oid])).await?;
    let (mut whose, mut is_last) = ("holder no longer in pg_locks".to_owned(), false);
    if let Some(row) = holder {
        whose = row.try_get(0)?;
        let start = row.try_get::<_, Option<String>>(2)?.unwrap_or_default();
        is_last = last == Some(&Backend { pid: row.try_get(1)?, start });
    }
    let (schema, relation) = (&table.schema, &table.relation);
    let text = if is_last {
        format!("{schema}.{relation} is held by {OUR_LAST} (PostgreSQL's {whose})")
    } else {
        format!("another gearmand uses {schema}.{relation} (PostgreSQL's {whose}); stop it, or use another table")
    };
    Err(Failed::Here(StoreFailure::Locked, text))
}
