//! The schema: its tables, the conversion of a C++ gearmand table, and the SQL statements.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use super::error::Trouble;
use super::{NO_UNIQUE, WORKLOAD_IS_UNIQUE, integer};
use crate::job_server::{FORMAT, StoreFailure};
use crate::log_level::audit;
use crate::store::trusted_number_max;

/// The columns of a queue, in order.
///
/// `job_id` is SQLite's rowid: new rows go to the end of the table, and are found and removed without an
/// index. `data` comes last, so that a scan without workloads does not visit the overflow pages of large
/// ones.
pub(super) const COLUMNS: [(&str, &str); 11] = [
    ("job_id", "INTEGER PRIMARY KEY"),
    ("unique_key", "TEXT"),
    ("function_name", "TEXT"),
    ("priority", "INTEGER"),
    ("when_to_run", "INTEGER"),
    ("handle", "TEXT"),
    ("reducer", "TEXT"),
    ("submitted", "INTEGER"),
    ("flags", "INTEGER"),
    ("attempts", "INTEGER"),
    ("data", "BLOB"),
];

/// Number of jobs in a multi-row insert.
pub(super) const ROWS: usize = 16;
/// Maximum number of jobs in a page of a scan.
pub(super) const PAGE_ROWS: usize = 1000;

/// The columns of C++ gearmand's table; old ones have no `when_to_run`.
const CPP_COLUMNS: [&str; 5] = ["unique_key", "function_name", "priority", "when_to_run", "data"];
const CPP_REQUIRED: [&str; 4] = ["unique_key", "function_name", "priority", "data"];

/// An index that operators create for C++ gearmand when they go back to it. This store looks nothing up by
/// unique id, and the index costs most of the speed.
const CPP_INDEX: &str = "gq_c";

/// The schema of an existing table with the queue's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Missing,
    /// `job_id` is the rowid.
    Ours,
    /// C++ gearmand's table with its primary key, and with our columns added.
    Kept,
    Cpp,
}

/// An existing table with the queue's name.
#[derive(Debug)]
pub(super) struct Found {
    form: Form,
    /// Column names in lower case.
    columns: Vec<String>,
}

/// The SQL statements for one table. The comments list their parameters.
#[derive(Debug)]
pub(super) struct Sql {
    /// Eleven values, in column order.
    pub(super) insert: String,
    /// The same for [`ROWS`] jobs.
    pub(super) insert_rows: String,
    /// Number.
    pub(super) delete: String,
    /// First number, last number.
    pub(super) delete_run: String,
    /// Number, attempts.
    pub(super) attempts: String,
    /// Number, function, priority, due time.
    pub(super) edit: String,
    /// Number: sets the function to NULL; `None` if two jobs may have the same unique id and function.
    pub(super) lift: Option<String>,
    /// Number, flags: removes the unique id.
    pub(super) spare_key: String,
    /// Unique id, function: the rowid.
    pub(super) find: String,
    pub(super) load: String,
    /// Number: whether the job exists.
    pub(super) is_there: String,
    /// Number: takes it from the row that has it. That row gets another number at the next start.
    pub(super) free_number: String,
    /// Unique id, function: removes the unique id from the row with both; `None` if two rows may have the
    /// same.
    pub(super) free_key: Option<String>,
    /// Highest number to keep: the numbers of the rows that are not valid job numbers.
    foreign_numbers: String,
    /// The same: whether there are any.
    has_foreign_numbers: String,
    /// The same: the highest number that is kept.
    highest: String,
    /// Number, new number: renumbers the row.
    renumber: String,
    /// Read all jobs in pages, pass by pass: with and without workloads.
    pub(super) scans: Vec<[String; 2]>,
    /// Rowid, unique id, function: whether an earlier row has the same.
    pub(super) is_duplicate: String,
    /// Rowid, reason, queue: copies the row to the quarantine.
    pub(super) quarantine: String,
    /// Rowid.
    pub(super) delete_row: String,
}

/// Creates the quarantine table: the original values of any type, with reason and time.
pub(super) const CREATE_QUARANTINE: &str = "CREATE TABLE IF NOT EXISTS gearman_quarantine (queue TEXT, reason TEXT, \
     quarantined INTEGER, job_id, unique_key, function_name, priority, when_to_run, handle, reducer, submitted, flags, \
     attempts, data)";

/// Parameters: queue, last number, number of probes to add.
///
/// The probe counter changes a value, because SQLite writes nothing if a value stays the same.
pub(super) const NOTE: &str = "INSERT INTO gearman_meta (queue, last_number, probes) VALUES (?1, ?2, ?3) \
     ON CONFLICT (queue) DO UPDATE SET last_number = max(last_number, excluded.last_number), \
     probes = probes + excluded.probes";

const CREATE_META: &str = "CREATE TABLE IF NOT EXISTS gearman_meta (queue TEXT PRIMARY KEY, \
     last_number INTEGER NOT NULL, probes INTEGER NOT NULL) WITHOUT ROWID";

const CREATE_SETTINGS: &str = "CREATE TABLE IF NOT EXISTS gearman_settings (queue TEXT NOT NULL, name TEXT NOT NULL, \
     value TEXT NOT NULL, PRIMARY KEY (queue, name)) WITHOUT ROWID";

/// Parameters: queue, name, value.
pub(super) const SET: &str = "INSERT OR REPLACE INTO gearman_settings (queue, name, value) VALUES (?1, ?2, ?3)";
/// Parameters: queue, name.
pub(super) const UNSET: &str = "DELETE FROM gearman_settings WHERE queue = ?1 AND name = ?2";

/// The format version of the file; 0 for none.
///
/// # Errors
/// It cannot be read, or is newer than this program supports.
pub(super) fn check_version(connection: &Connection) -> Result<u32, Trouble> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match u32::try_from(version) {
        Ok(version) if version <= FORMAT => Ok(version),
        _ => Err(Trouble::Refused(
            StoreFailure::Corrupt,
            format!(
                "it has format version {version}, and this program supports versions up to {FORMAT}; use the newer \
                 program that wrote it, or choose another file"
            ),
        )),
    }
}

/// Rejects a table with the queue's name that is not a queue.
///
/// # Errors
/// The table is not a queue. The text says what it is.
pub(super) fn check_table(connection: &Connection, queue: &str) -> Result<(), Trouble> {
    Found::read(connection, queue).map(drop)
}

/// The highest job number that the file records as assigned in this queue.
pub(super) fn last_number(connection: &Connection, queue: &str) -> Result<u64, rusqlite::Error> {
    let known = connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'gearman_meta'")?.exists([])?;
    if !known {
        return Ok(0);
    }
    let sql = "SELECT last_number FROM gearman_meta WHERE queue = ?1";
    let number: Option<i64> = connection.query_row(sql, [queue], |row| row.get(0)).optional()?;
    Ok(number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0))
}

/// The highest job number ever assigned, given the recorded one. Numbers that no server can have assigned are
/// ignored.
pub(super) fn highest(connection: &Connection, sql: &Sql, noted: u64) -> Result<u64, rusqlite::Error> {
    let trusted = integer(trusted_number_max(noted));
    let highest: Option<i64> = connection.query_row(&sql.highest, [trusted], |row| row.get(0))?;
    Ok(highest.and_then(|highest| u64::try_from(highest).ok()).unwrap_or(0).max(noted))
}

/// Operator settings, as names and values.
pub(super) fn settings(connection: &Connection, queue: &str) -> Result<Vec<(String, String)>, rusqlite::Error> {
    let sql = "SELECT CAST(name AS BLOB), CAST(value AS BLOB) FROM gearman_settings WHERE queue = ?1 ORDER BY name";
    let mut select = connection.prepare(sql)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let rows = select.query_map([queue], |row| Ok((text(row.get(0)?), text(row.get(1)?))))?;
    rows.collect()
}

/// Creates or upgrades the schema in one transaction.
///
/// # Errors
/// A table with the queue's name is not a queue, or the file cannot be written.
pub(super) fn prepare(
    connection: &mut Connection,
    queue: &str,
    version: u32,
    keep_primary_key: bool,
) -> Result<Sql, Trouble> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(CREATE_META)?;
    transaction.execute_batch(CREATE_SETTINGS)?;
    let is_renamed = rename_quarantine(&transaction)?;
    let found = Found::read(&transaction, queue)?;
    match found.form {
        Form::Missing => create(&transaction, queue)?,
        Form::Ours => found.add_missing_columns(&transaction, queue)?,
        Form::Kept | Form::Cpp if keep_primary_key => keep(&transaction, queue, &found)?,
        Form::Kept => {
            number_rows(&transaction, queue)?;
            convert(&transaction, queue, &found)?;
        }
        Form::Cpp => convert(&transaction, queue, &found)?,
    }
    // Another queue in the same file may have an index with this name.
    let of_this = "SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?1 AND tbl_name = ?2 COLLATE NOCASE";
    if transaction.prepare(of_this)?.exists((CPP_INDEX, queue))? {
        transaction.execute_batch(&format!("DROP INDEX {CPP_INDEX}"))?;
    }
    if version != FORMAT {
        transaction.pragma_update(None, "user_version", FORMAT)?;
    }
    let sql = Found::read(&transaction, queue)?.sql(queue);
    transaction.commit()?;
    if is_renamed {
        audit!("the table gearman_set_aside was renamed to gearman_quarantine");
    }
    if found.form == Form::Cpp {
        let key = if keep_primary_key { "stays" } else { "was removed; --sqlite-keep-primary-key would keep it" };
        audit!("{queue} of C++ gearmand was taken over; its primary key {key}");
    }
    Ok(sql)
}

/// Renames the quarantine table of earlier versions and its column, unless the new name is taken. Returns
/// whether there was one.
fn rename_quarantine(transaction: &Transaction<'_>) -> Result<bool, rusqlite::Error> {
    let mut table = transaction.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?;
    let is_there = table.exists(["gearman_set_aside"])? && !table.exists(["gearman_quarantine"])?;
    if is_there {
        transaction.execute_batch(
            "ALTER TABLE gearman_set_aside RENAME TO gearman_quarantine; \
             ALTER TABLE gearman_quarantine RENAME COLUMN set_aside TO quarantined",
        )?;
    }
    Ok(is_there)
}

/// Renumbers rows of other programs whose numbers are not valid job numbers, or so high that hardly any
/// numbers would be left. They get the next numbers, in the order of their old ones. Returns how many there
/// were.
///
/// # Errors
/// The file cannot be read or written.
pub(super) fn renumber(connection: &mut Connection, sql: &Sql, queue: &str) -> Result<u64, Trouble> {
    let noted = last_number(connection, queue)?;
    let trusted = integer(trusted_number_max(noted));
    let is_any: bool = connection.query_row(&sql.has_foreign_numbers, [trusted], |row| row.get(0))?;
    if !is_any {
        return Ok(0);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut count = 0;
    {
        let mut select = transaction.prepare(&sql.foreign_numbers)?;
        let rows: Vec<i64> = select.query_map([trusted], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let first = integer(highest(&transaction, sql, noted)?).saturating_add(1);
        let mut update = transaction.prepare(&sql.renumber)?;
        for (number, new) in rows.into_iter().zip(first..) {
            update.execute((number, new))?;
            transaction.prepare_cached(NOTE)?.execute((queue, new, 0))?;
            count += 1;
        }
    }
    transaction.commit()?;
    audit!("{queue}: {count} rows of other programs were taken over as jobs");
    Ok(count)
}

/// The SQL statements for read-only access.
///
/// # Errors
/// The table does not exist, or is not a queue.
pub(super) fn look(connection: &Connection, queue: &str) -> Result<Sql, Trouble> {
    let found = Found::read(connection, queue)?;
    if found.form == Form::Missing {
        let text = format!("it has no table {queue}; name the table that the queue is in");
        return Err(Trouble::Refused(StoreFailure::Corrupt, text));
    }
    Ok(found.sql(queue))
}

impl Found {
    fn read(connection: &Connection, queue: &str) -> Result<Self, Trouble> {
        let kind = "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
        let kind: Option<(String, bool)> =
            connection.query_row(kind, [queue], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let mut statement = connection.prepare("SELECT lower(name), upper(type), pk FROM pragma_table_xinfo(?1)")?;
        let rows = statement.query_map([queue], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let columns: Vec<(String, String, i64)> = rows.collect::<Result<_, _>>()?;
        let is_row_number = columns.iter().filter(|(_, _, key)| *key > 0).count() == 1
            && columns.iter().any(|(name, kind, key)| name == "job_id" && kind == "INTEGER" && *key == 1);
        let names: Vec<String> = columns.into_iter().map(|(name, ..)| name).collect();
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        let complete = CPP_REQUIRED.iter().all(|name| has(name));
        let only_cpp = names.iter().all(|name| CPP_COLUMNS.contains(&name.as_str()));
        let form = match kind {
            None => Form::Missing,
            Some((kind, _)) if kind != "table" => return Err(refused(queue, &format!("a {kind}"))),
            Some((_, true)) => return Err(refused(queue, "a table without row numbers")),
            Some(_) if complete && is_row_number => Form::Ours,
            Some(_) if complete && has("job_id") => Form::Kept,
            Some(_) if complete && only_cpp => Form::Cpp,
            Some(_) => return Err(refused(queue, &format!("a table with the columns {}", names.join(", ")))),
        };
        Ok(Self { form, columns: names })
    }

    fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }

    /// The column, or NULL if the table does not have it.
    fn column(&self, name: &'static str) -> &'static str {
        if self.has(name) { name } else { "NULL" }
    }

    /// Adds optional columns without raising the format version.
    fn add_missing_columns(&self, connection: &Connection, queue: &str) -> Result<(), rusqlite::Error> {
        for (name, kind) in COLUMNS.iter().filter(|(name, _)| !self.has(name)) {
            let kind = kind.trim_end_matches(" PRIMARY KEY");
            connection.execute_batch(&format!("ALTER TABLE {} ADD COLUMN {name} {kind}", quoted(queue)))?;
        }
        Ok(())
    }

    /// The scan statements. Parameter: the key after which the page starts. Result columns: rowid, job
    /// number, the columns from `unique_key` to `attempts`, then `data` or only its type (except for jobs
    /// that coalesce by workload), and the key after which the next page starts.
    fn scans(&self, table: &str) -> Vec<[String; 2]> {
        let heads = COLUMNS[1..10].iter().map(|(name, _)| self.column(name)).collect::<Vec<_>>().join(", ");
        let type_of_data = format!(
            "CASE WHEN unique_key = '-' OR coalesce({}, 0) & {WORKLOAD_IS_UNIQUE} THEN data ELSE typeof(data) END",
            self.column("flags")
        );
        let pass = |number: &str, key: &str, only: &str| {
            [&*type_of_data, "data"].map(|data| {
                format!(
                    "SELECT rowid, {number}, {heads}, {data}, {key} FROM {table} WHERE {key} > ?1{only} ORDER BY {key} \
                     LIMIT {PAGE_ROWS}"
                )
            })
        };
        match self.form {
            // C++ gearmand adds rows without a number. They are numbered when a server opens the file.
            Form::Kept => vec![pass("job_id", "job_id", ""), pass("NULL", "rowid", " AND job_id IS NULL")],
            Form::Ours | Form::Missing => vec![pass("job_id", "rowid", "")],
            Form::Cpp => vec![pass("rowid", "rowid", "")],
        }
    }

    fn sql(&self, queue: &str) -> Sql {
        let table = quoted(queue);
        let names = COLUMNS.map(|(name, _)| name);
        // The raw column, because the index is on that and not on a computed value.
        let number = if self.has("job_id") { "job_id" } else { "rowid" };
        let row = format!("({})", ["?"; COLUMNS.len()].join(", "));
        let insert =
            |rows: usize| format!("INSERT INTO {table} ({}) VALUES {}", names.join(", "), vec![&*row; rows].join(", "));
        Sql {
            insert: insert(1),
            insert_rows: insert(ROWS),
            delete: format!("DELETE FROM {table} WHERE {number} = ?1"),
            delete_run: format!("DELETE FROM {table} WHERE {number} BETWEEN ?1 AND ?2"),
            attempts: format!("UPDATE {table} SET attempts = ?2 WHERE {number} = ?1"),
            edit: format!("UPDATE {table} SET function_name = ?2, priority = ?3, when_to_run = ?4 WHERE {number} = ?1"),
            lift: (self.form == Form::Kept)
                .then(|| format!("UPDATE {table} SET function_name = NULL WHERE {number} = ?1")),
            spare_key: format!("UPDATE {table} SET unique_key = NULL, flags = ?2 WHERE {number} = ?1"),
            find: format!("SELECT rowid FROM {table} WHERE unique_key = ?1 AND function_name = ?2"),
            load: format!("SELECT data FROM {table} WHERE {number} = ?1"),
            is_there: format!("SELECT 1 FROM {table} WHERE {number} = ?1"),
            // The rowid cannot be NULL, so the row gets a negative number, which no job has.
            free_number: if self.form == Form::Ours {
                format!(
                    "UPDATE {table} SET job_id = (SELECT min(min(job_id), 0) - 1 FROM {table}), handle = NULL \
                     WHERE job_id = ?1"
                )
            } else {
                format!("UPDATE {table} SET job_id = NULL, handle = NULL WHERE {number} = ?1")
            },
            free_key: (self.form == Form::Kept).then(|| {
                format!(
                    "UPDATE {table} SET unique_key = NULL, flags = coalesce(flags, 0) | {NO_UNIQUE} \
                     WHERE unique_key = ?1 AND function_name = ?2"
                )
            }),
            foreign_numbers: format!(
                "SELECT {number} FROM {table} WHERE {number} < 1 OR {number} > ?1 ORDER BY {number}"
            ),
            // Two conditions, each using the order of the table. A combined one would read all rows.
            has_foreign_numbers: format!(
                "SELECT EXISTS (SELECT 1 FROM {table} WHERE {number} < 1) \
                 OR EXISTS (SELECT 1 FROM {table} WHERE {number} > ?1)"
            ),
            highest: format!("SELECT max({number}) FROM {table} WHERE {number} <= ?1"),
            renumber: format!("UPDATE {table} SET {number} = ?2, handle = NULL WHERE {number} = ?1"),
            scans: self.scans(&table),
            is_duplicate: format!(
                "SELECT 1 FROM {table} WHERE rowid < ?1 AND unique_key = ?2 AND function_name = ?3 \
                 AND {} = 0 LIMIT 1",
                if self.has("flags") { "coalesce(flags, 0)" } else { "0" }
            ),
            quarantine: format!(
                "INSERT INTO gearman_quarantine SELECT ?3, ?2, unixepoch(), {} FROM {table} WHERE rowid = ?1",
                names.map(|name| self.column(name)).join(", ")
            ),
            delete_row: format!("DELETE FROM {table} WHERE rowid = ?1"),
        }
    }
}

fn refused(queue: &str, found: &str) -> Trouble {
    let text = format!(
        "{queue} is {found}, and not a table of gearmand with the columns {}; choose another file or table",
        CPP_REQUIRED.join(", ")
    );
    Trouble::Refused(StoreFailure::Corrupt, text)
}

fn create(connection: &Connection, queue: &str) -> Result<(), rusqlite::Error> {
    let columns: Vec<String> = COLUMNS.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    connection.execute_batch(&format!("CREATE TABLE {} ({})", quoted(queue), columns.join(", ")))
}

/// Copies a table of C++ gearmand into one with our schema, in rowid order.
///
/// C++ gearmand stores an empty workload as NULL, and rows older than the due time column have NULL there. It
/// does not start with either. With the values written here it does.
fn convert(transaction: &Transaction<'_>, queue: &str, found: &Found) -> Result<(), rusqlite::Error> {
    let new = format!("{queue}_converting");
    create(transaction, &new)?;
    let heads = ["handle", "reducer", "submitted", "flags", "attempts"].map(|name| found.column(name));
    transaction.execute_batch(&format!(
        "INSERT INTO {new} SELECT {job_id}, unique_key, function_name, priority, coalesce({when_to_run}, 0), {heads}, \
         CASE typeof(data) WHEN 'null' THEN x'' WHEN 'text' THEN CAST(data AS BLOB) ELSE data END \
         FROM {old} ORDER BY rowid; \
         DROP TABLE {old}; ALTER TABLE {new} RENAME TO {old}",
        new = quoted(&new),
        old = quoted(queue),
        job_id = found.column("job_id"),
        when_to_run = found.column("when_to_run"),
        heads = heads.join(", "),
    ))
}

/// Adds our columns to a table of C++ gearmand, and keeps its primary key.
///
/// Its rowids are not stable (VACUUM may change them), so the job number is a column with an index.
fn keep(transaction: &Transaction<'_>, queue: &str, found: &Found) -> Result<(), rusqlite::Error> {
    let table = quoted(queue);
    found.add_missing_columns(transaction, queue)?;
    transaction.execute_batch(&format!(
        "CREATE UNIQUE INDEX IF NOT EXISTS {} ON {table} (job_id)",
        quoted(&format!("{queue}_job_id"))
    ))?;
    if found.form == Form::Cpp {
        transaction.execute_batch(&format!(
            "UPDATE {table} SET when_to_run = coalesce(when_to_run, 0), data = coalesce(data, x'') \
             WHERE when_to_run IS NULL OR data IS NULL"
        ))?;
    }
    number_rows(transaction, queue)
}

/// Numbers the rows that have no job number, above all assigned ones.
fn number_rows(transaction: &Transaction<'_>, queue: &str) -> Result<(), rusqlite::Error> {
    let table = quoted(queue);
    let known = last_number(transaction, queue)?;
    let trusted = integer(trusted_number_max(known));
    let highest: Option<i64> =
        transaction
            .query_row(&format!("SELECT max(job_id) FROM {table} WHERE job_id <= ?1"), [trusted], |row| row.get(0))?;
    let first = highest.unwrap_or(0).max(integer(known)).saturating_add(1);
    let mut unnumbered =
        transaction.prepare(&format!("SELECT rowid FROM {table} WHERE job_id IS NULL ORDER BY rowid"))?;
    let rows: Vec<i64> = unnumbered.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut update = transaction.prepare(&format!("UPDATE {table} SET job_id = ?2 WHERE rowid = ?1"))?;
    for (row, number) in rows.into_iter().zip(first..) {
        update.execute((row, number))?;
    }
    Ok(())
}

/// Quotes an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
