//! The MySQL table: finding, creating and converting it, and locking it against other servers.

use std::collections::HashMap;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::super::OUR_LAST;
use super::super::driver::{LOCK_LIMIT, STATEMENT_LIMIT, within};
use super::super::location::Access;
use super::super::table::foreign;
use super::errors::Failed;
use super::{Session, answer};
use crate::job_server::{FORMAT, StoreFailure};
use crate::log_level::audit;

/// Timeout for a conversion, and for a statement that reads a whole table.
pub(super) const CONVERSION_LIMIT: Duration = Duration::from_mins(10);
/// Maximum length of the table name in characters: the additional tables have longer names, and MySQL's limit
/// is 64.
const TABLE_MAX: usize = 53;

/// C++ gearmand's columns, with bytes instead of texts.
const COLUMNS: &str = "unique_key VARBINARY(64), function_name VARBINARY(512), priority INT, data LONGBLOB, \
                       when_to_run INT, UNIQUE KEY unique_key (unique_key, function_name)";
/// Columns that C++ gearmand does not have. It lacks the first one only in old versions.
const ADDED: &[(&str, &str)] = &[
    ("when_to_run", "INT"),
    ("job_id", "BIGINT"),
    ("handle", "VARBINARY(80)"),
    ("reducer", "VARBINARY(64)"),
    ("submitted", "BIGINT"),
    ("flags", "INT"),
    ("attempts", "INT"),
    ("due", "BIGINT"),
    ("unique_bytes", "VARBINARY(64)"),
];
/// C++ gearmand's text columns, with the maximum width of their characters in bytes.
const TEXTS: &[(&str, &str)] = &[("unique_key", "VARBINARY(256)"), ("function_name", "VARBINARY(1020)")];

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
    /// Its columns and their types, in lower case.
    pub(super) columns: HashMap<String, String>,
    /// Whether [`meta`](Self::meta) exists.
    pub(super) has_meta: bool,
    /// Whether it uses an engine other than InnoDB, without transactions: a confirmed INSERT may be lost in a
    /// crash.
    is_elsewhere: bool,
    bare: String,
}

impl Table {
    fn new(name: &str) -> Result<Self, Failed> {
        if name.is_empty() || name.chars().count() > TABLE_MAX || name.contains('\0') {
            let text = format!("the name of the table must have 1 to {TABLE_MAX} characters; choose another");
            return Err(Failed::Here(StoreFailure::Io, text));
        }
        let beside = |suffix: &str| format!("`{}{suffix}`", name.replace('`', "``"));
        Ok(Self {
            name: beside(""),
            meta: beside("_meta"),
            settings: beside("_settings"),
            quarantine: beside("_quarantine"),
            columns: HashMap::new(),
            has_meta: false,
            is_elsewhere: false,
            bare: name.to_owned(),
        })
    }

    /// The column, or NULL if it does not exist.
    pub(super) fn column(&self, name: &str) -> String {
        if self.columns.contains_key(name) { name.to_owned() } else { "NULL".to_owned() }
    }
}

/// Prepares a new connection. `last` is the id of the previous one.
pub(super) async fn prepare(
    mut connection: Conn,
    table: &str,
    access: Access,
    last: Option<u64>,
) -> Result<Session, Failed> {
    let lock_s = STATEMENT_LIMIT.as_secs();
    // Strict mode, so that nothing is truncated silently. A long timeout, so that the server does not close a
    // connection that is idle overnight.
    let settings = format!(
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', wait_timeout = 31536000, \
         lock_wait_timeout = {lock_s}, innodb_lock_wait_timeout = {lock_s}, autocommit = 1"
    );
    answer(connection.query_drop(settings)).await?;
    let query = "SELECT @@max_allowed_packet, @@innodb_flush_log_at_trx_commit, CONNECTION_ID()";
    let (packet_max, flush, id): (usize, u64, u64) = answer(connection.query_first(query)).await?.unwrap_or((0, 1, 0));
    let mut table = Table::new(table)?;
    match access {
        Access::Own => own(&mut connection, &mut table, last).await?,
        Access::Read => {
            look(&mut connection, &mut table).await?;
            if table.columns.is_empty() {
                let text = "no such table; check the names of table and database";
                return Err(Failed::Here(StoreFailure::Io, text.to_owned()));
            }
            check_owner(&table)?;
            check_format(&mut connection, &table).await?;
        }
    }
    limit_statements(&mut connection, if access == Access::Own { STATEMENT_LIMIT } else { CONVERSION_LIMIT }).await?;
    Ok(Session { connection, id, table, packet_max, flushes_late: (flush != 1).then_some(flush) })
}

/// Sets the server's statement timeout.
pub(super) async fn limit_statements(connection: &mut Conn, limit: Duration) -> Result<(), Failed> {
    // MariaDB's setting first; MySQL's applies to reads only.
    let mariadb = format!("SET SESSION max_statement_time = {}", limit.as_secs());
    let mysql = format!("SET SESSION max_execution_time = {}", limit.as_millis());
    match answer(connection.query_drop(mariadb)).await {
        Err(Failed::Driver(mysql_async::Error::Server(_))) => answer(connection.query_drop(mysql)).await,
        other => other,
    }
}

/// Takes ownership of the table: locks it, and creates or converts it if needed.
async fn own(connection: &mut Conn, table: &mut Table, last: Option<u64>) -> Result<(), Failed> {
    lock(connection, table, last).await?;
    look(connection, table).await?;
    let is_new = table.columns.is_empty();
    if is_new {
        answer(connection.query_drop(format!("CREATE TABLE {} ({COLUMNS}) ENGINE = InnoDB", table.name))).await?;
        look(connection, table).await?;
    }
    check_owner(table)?;
    make_settings(connection, table).await?;
    if let Err(failed) = rename_quarantine(connection, table).await {
        // The user may lack the privilege. Nothing but the quarantine needs it.
        tracing::warn!("{}", failed.explain(&table.name, "cannot rename its quarantine table TABLE_set_aside"));
    }
    let has_all = ADDED.iter().all(|(column, _)| table.columns.contains_key(*column));
    if check_format(connection, table).await? && has_all && !table.is_elsewhere {
        return Ok(());
    }
    convert(connection, table).await?;
    if !is_new && !has_all {
        audit!("the table {} of C++ gearmand was taken over", table.name);
    }
    look(connection, table).await
}

/// Reads the current schema.
async fn look(connection: &mut Conn, table: &mut Table) -> Result<(), Failed> {
    let query = "SELECT LOWER(column_name), LOWER(data_type) FROM information_schema.columns \
                 WHERE table_schema = DATABASE() AND table_name = ?";
    let columns: Vec<(String, String)> = answer(connection.exec(query, (&table.bare,))).await?;
    table.columns = columns.into_iter().collect();
    let meta = format!("{}_meta", table.bare);
    let meta: Vec<(String, String)> = answer(connection.exec(query, (meta,))).await?;
    table.has_meta = !meta.is_empty();
    let query = "SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
    let engine: Option<Option<String>> = answer(connection.exec_first(query, (&table.bare,))).await?;
    table.is_elsewhere = engine.flatten().is_some_and(|engine| !engine.eq_ignore_ascii_case("InnoDB"));
    Ok(())
}

/// Rejects a table that is not gearmand's.
fn check_owner(table: &Table) -> Result<(), Failed> {
    foreign(&table.bare, table.columns.keys()).map_or(Ok(()), |text| Err(Failed::Here(StoreFailure::Io, text)))
}

/// Whether the table already has the current format.
async fn check_format(connection: &mut Conn, table: &Table) -> Result<bool, Failed> {
    if !table.has_meta {
        return Ok(false);
    }
    let format: Option<i64> = answer(connection.query_first(format!("SELECT format FROM {}", table.meta))).await?;
    let Some(format) = format else { return Ok(false) };
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

/// Adds the columns that C++ gearmand's table lacks, and converts its texts to bytes. One statement does it
/// atomically. The format version is written last.
async fn convert(connection: &mut Conn, table: &Table) -> Result<(), Failed> {
    let Table { name, meta, columns, .. } = table;
    let mut steps: Vec<String> = ADDED
        .iter()
        .filter(|(column, _)| !columns.contains_key(*column))
        .map(|(column, kind)| format!("ADD COLUMN {column} {kind}"))
        .collect();
    if !columns.contains_key("job_id") {
        steps.push("ADD UNIQUE KEY job_id (job_id)".to_owned());
    }
    let texts = TEXTS.iter().filter(|(column, _)| columns.get(*column).is_some_and(|kind| kind != "varbinary"));
    steps.extend(texts.map(|(column, kind)| format!("MODIFY {column} {kind}")));
    if !steps.is_empty() || table.is_elsewhere {
        steps.push("ENGINE = InnoDB".to_owned());
        let alter = format!("ALTER TABLE {name} {}", steps.join(", "));
        within(CONVERSION_LIMIT, connection.query_drop(alter)).await.ok_or(Failed::NoAnswer)??;
    }
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {meta} (format INT NOT NULL, last_number BIGINT NOT NULL, commits BIGINT NOT NULL) \
         ENGINE = InnoDB"
    );
    answer(connection.query_drop(create)).await?;
    let insert = format!("INSERT INTO {meta} SELECT {FORMAT}, 0, 0 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM {meta})");
    answer(connection.query_drop(insert)).await
}

/// Creates the settings table, which earlier versions did not have.
async fn make_settings(connection: &mut Conn, table: &Table) -> Result<(), Failed> {
    // A read-only database rejects even CREATE IF NOT EXISTS for an existing table, and must stay readable.
    let query = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
    let found: Option<i64> = answer(connection.exec_first(query, (format!("{}_settings", table.bare),))).await?;
    if found.is_some() {
        return Ok(());
    }
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {} (name BLOB NOT NULL, value BLOB NOT NULL, KEY name (name(64))) ENGINE = InnoDB",
        table.settings
    );
    answer(connection.query_drop(create)).await
}

/// Renames the quarantine of earlier versions, unless there is a table with the new name.
async fn rename_quarantine(connection: &mut Conn, table: &Table) -> Result<(), Failed> {
    let query = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
    let former: Option<i64> = answer(connection.exec_first(query, (format!("{}_set_aside", table.bare),))).await?;
    if former.is_none() {
        return Ok(());
    }
    let taken: Option<i64> = answer(connection.exec_first(query, (format!("{}_quarantine", table.bare),))).await?;
    if taken.is_some() {
        return Ok(());
    }
    let former = format!("`{}_set_aside`", table.bare.replace('`', "``"));
    answer(connection.query_drop(format!("RENAME TABLE {former} TO {}", table.quarantine))).await?;
    audit!("the table {former} was renamed to {}", table.quarantine);
    Ok(())
}

/// Keeps other servers away as long as this connection lives. The previous connection is killed if it still
/// holds the lock, because MySQL has not noticed a network failure yet.
async fn lock(connection: &mut Conn, table: &Table, last: Option<u64>) -> Result<(), Failed> {
    // Lock names are global for the server, and at most 64 characters long.
    let lock = "CONCAT('gearmand:', MD5(CONCAT(DATABASE(), '.', ?)))";
    let used = format!("SELECT IS_USED_LOCK({lock})");
    if let Some(last) = last {
        let holder: Option<Option<u64>> = answer(connection.exec_first(used.as_str(), (&table.bare,))).await?;
        if holder.flatten() == Some(last) {
            // It may have ended by itself by now.
            let _ = answer(connection.query_drop(format!("KILL {last}"))).await;
        }
    }
    // MySQL may take a moment to notice that the previous connection is gone.
    let query = format!("SELECT GET_LOCK({lock}, {})", LOCK_LIMIT.as_secs());
    let taken: Option<Option<i64>> = answer(connection.exec_first(query, (&table.bare,))).await?;
    if taken.flatten() == Some(1) {
        return Ok(());
    }
    let id: Option<Option<u64>> = answer(connection.exec_first(used, (&table.bare,))).await?;
    let id = id.flatten();
    let query = "SELECT CONCAT(user, ' from ', host) FROM information_schema.processlist WHERE id = ?";
    // The owner is visible only with the necessary privilege.
    let whose: Option<String> = answer(connection.exec_first(query, (id,))).await.unwrap_or(None);
    let holder = match (id, whose) {
        (Some(id), Some(whose)) => format!("connection {id}, {whose}"),
        (Some(id), None) => format!("connection {id} of SHOW PROCESSLIST"),
        (None, _) => "a connection that has just ended".to_owned(),
    };
    let text = if id.is_some() && id == last {
        format!("{} is held by {OUR_LAST} ({holder})", table.bare)
    } else {
        format!("another gearmand uses {} ({holder}); stop it, or use another table", table.bare)
    };
    Err(Failed::Here(StoreFailure::Locked, text))
}
