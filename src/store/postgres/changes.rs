//! Writing to PostgreSQL: a transaction of a few statements with array parameters, sent as a pipeline.

use std::borrow::Cow;
use std::pin::Pin;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use super::super::Changes;
use super::super::driver::{in_order, signed, swallowed};
use super::super::row::{NO_UNIQUE, flags_of};
use super::super::table::is_own_key;
use super::edits::{self, Beside, due_columns};
use super::errors::Failed;
use super::schema::Table;
use super::{Session, answer};
use crate::job_server::{StoreFailure, StoredJob};

/// Maximum workload bytes in one INSERT. PostgreSQL holds a whole statement in memory, and accepts at most 1
/// GiB.
const INSERT_BYTES: usize = 16 << 20;
/// Maximum workload size: PostgreSQL limits both a value and the message that contains it to 1 GiB.
const WORKLOAD_MAX: usize = 512 << 20;
/// Maximum characters in the column `function_name`.
const FUNCTION_COLUMN: usize = 255;

/// A statement in flight.
type Request<'a> = Pin<Box<dyn Future<Output = Result<u64, Error>> + 'a>>;

/// The statements prepared once per connection.
pub(super) struct Statements {
    insert: Statement,
    delete: Statement,
    edit: Statement,
    lift: Statement,
    attempts: Statement,
    unset: Statement,
    set: Statement,
    last_number: Statement,
}

impl Statements {
    pub(super) async fn prepare(client: &Client, table: &Table) -> Result<Self, Failed> {
        let (name, meta) = (&table.name, &table.meta);
        let insert = format!(
            "INSERT INTO {name} (job_id, handle, unique_key, function_name, priority, data, when_to_run, reducer, \
             submitted, flags, attempts, due, unique_bytes, function_bytes) \
             SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::bytea[], \
             $7::integer[], $8::bytea[], $9::bigint[], $10::integer[], $11::integer[], $12::bigint[], $13::bytea[], \
             $14::bytea[])"
        );
        let delete = format!("DELETE FROM {name} WHERE job_id = ANY($1::bigint[])");
        let attempts = format!(
            "UPDATE {name} t SET attempts = a.attempts FROM unnest($1::bigint[], $2::integer[]) AS a(job_id, attempts) \
             WHERE t.job_id = a.job_id"
        );
        let unset = format!("DELETE FROM {} WHERE name = ANY($1::text[])", table.settings);
        let set = format!("INSERT INTO {} (name, value) SELECT * FROM unnest($1::text[], $2::text[])", table.settings);
        let last_number = format!("UPDATE {meta} SET last_number = greatest(last_number, $1::bigint)");
        Ok(Self {
            insert: answer(client.prepare(&insert)).await?,
            delete: answer(client.prepare(&delete)).await?,
            edit: answer(client.prepare(&edits::statement(table, Beside::Nothing))).await?,
            lift: answer(client.prepare(&edits::lift(table))).await?,
            attempts: answer(client.prepare(&attempts)).await?,
            unset: answer(client.prepare(&unset)).await?,
            set: answer(client.prepare(&set)).await?,
            last_number: answer(client.prepare(&last_number)).await?,
        })
    }
}

/// Why the changes cannot be applied in any state of the database.
pub(super) fn refusal(changes: &Changes) -> Option<String> {
    let job = changes.adds.iter().find(|job| job.workload().len() > WORKLOAD_MAX)?;
    Some(format!(
        "the workload of {} has {} bytes, more than the limit of {WORKLOAD_MAX} for PostgreSQL",
        job.handle(),
        job.workload().len()
    ))
}

/// Additional statements of a transaction, if needed.
#[derive(Default)]
struct Besides {
    /// Removes new jobs: number, handle.
    own: Option<Statement>,
    /// Applies the edits, instead of the usual statement.
    edit: Option<Statement>,
    /// Takes the numbers of new jobs from other rows: number.
    numbers: Option<Statement>,
    /// Takes unique ids from rows that conflict with new jobs: unique key, function.
    names: Option<Statement>,
}

impl Besides {
    /// Removes jobs that this server inserted earlier without receiving the confirmation.
    async fn own(&mut self, session: &Session) -> Result<(), Failed> {
        let sql = format!(
            "DELETE FROM {} t USING unnest($1::bigint[], $2::text[]) AS n(job_id, handle) \
             WHERE t.job_id = n.job_id AND t.handle = n.handle",
            session.table.name
        );
        self.own = Some(answer(session.client.prepare(&sql)).await?);
        Ok(())
    }

    /// Resolves conflicts with rows that no server knows.
    async fn make_way(&mut self, session: &Session) -> Result<(), Failed> {
        let (client, name) = (&session.client, &session.table.name);
        let numbers = format!("UPDATE {name} SET job_id = NULL, handle = NULL WHERE job_id = ANY($1::bigint[])");
        let names = format!(
            "UPDATE {name} t SET unique_key = NULL, flags = coalesce(flags, 0) | {NO_UNIQUE} \
             FROM unnest($1::text[], $2::text[]) AS n(unique_key, function_name) \
             WHERE t.unique_key = n.unique_key AND t.function_name = n.function_name"
        );
        self.edit = Some(answer(client.prepare(&edits::statement(&session.table, Beside::Twins))).await?);
        self.numbers = Some(answer(client.prepare(&numbers)).await?);
        self.names = Some(answer(client.prepare(&names)).await?);
        Ok(())
    }
}

/// Row counts of a transaction.
#[derive(Debug, Default)]
struct Done {
    inserted: u64,
    made_way: u64,
    /// All changed rows.
    written: u64,
}

/// Applies the changes, which may have been applied already if this is a retry (`again`). Returns how many
/// foreign rows made way.
pub(super) async fn commit(session: &Session, changes: &Changes, again: bool) -> Result<u64, Failed> {
    let mut besides = Besides::default();
    if again && !changes.adds.is_empty() {
        besides.own(session).await?;
    }
    let done = match transaction(session, changes, &besides).await {
        Err(Failed::Driver(error)) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            besides.make_way(session).await?;
            transaction(session, changes, &besides).await?
        }
        done => done?,
    };
    if done.inserted != changes.adds.len() as u64 {
        // Clients are told that none of these jobs is stored.
        besides.own(session).await?;
        let removing = Changes { sync: changes.sync, ..Changes::default() };
        remove_own(session, &changes.adds, &removing, &besides).await?;
        let text = swallowed(done.inserted, changes.adds.len());
        return Err(Failed::Here(StoreFailure::Refused, text));
    }
    if changes.sync && done.written == 0 && !notes_number(changes) {
        // A transaction without writes does not sync, and earlier commits must be on disk.
        transaction(session, &Changes { sync: true, ..Changes::default() }, &Besides::default()).await?;
    }
    Ok(done.made_way)
}

/// Whether to write the highest number: if there is one, or if nothing else shows that the table accepts
/// writes. Each update leaves a dead row, which remains and slows down later updates as long as any
/// transaction is open.
fn notes_number(changes: &Changes) -> bool {
    let Changes { removes, edits, adds, attempts, settings, last_number, .. } = changes;
    let is_empty =
        removes.is_empty() && edits.is_empty() && adds.is_empty() && attempts.is_empty() && settings.is_empty();
    is_empty || *last_number > 0
}

/// Removes jobs of which only some were inserted.
async fn remove_own(session: &Session, jobs: &[StoredJob], changes: &Changes, besides: &Besides) -> Result<(), Failed> {
    let Some(own) = &besides.own else { return Ok(()) };
    let (numbers, handles) = named(jobs);
    answer(session.client.execute(own, &[&numbers, &handles])).await?;
    transaction(session, changes, &Besides::default()).await.map(drop)
}

/// Numbers and handles.
fn named(jobs: &[StoredJob]) -> (Vec<i64>, Vec<String>) {
    jobs.iter().map(|job| (signed(job.number), job.handle().to_string())).unzip()
}

/// What the row count of a statement is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Nothing,
    Inserted,
    MadeWay,
    Written,
}

async fn transaction(session: &Session, changes: &Changes, besides: &Besides) -> Result<Done, Failed> {
    let Some(statements) = &session.statements else {
        return Err(Failed::Here(StoreFailure::ReadOnly, "the table was opened read-only".to_owned()));
    };
    let removes: Vec<i64> = changes.removes.iter().map(|key| signed(key.number)).collect();
    let attempt_ids: Vec<i64> = changes.attempts.iter().map(|(key, _)| signed(key.number)).collect();
    let attempt_counts: Vec<i32> = changes.attempts.iter().map(|(_, attempts)| i32::from(*attempts)).collect();
    let last_number = signed(changes.last_number);
    let lifted = edits::lifted(&changes.edits);
    let edits = edits::Columns::of(&changes.edits, session.utf8);
    let decided: Vec<&str> = changes.settings.iter().map(|(name, _)| name.as_str()).collect();
    let settings = changes.settings.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
    let (names, values): (Vec<&str>, Vec<&str>) = settings.unzip();
    let decided: [&(dyn ToSql + Sync); 1] = [&decided];
    let settings: [&(dyn ToSql + Sync); 2] = [&names, &values];
    let batches: Vec<Columns<'_>> = chunks(&changes.adds).map(|jobs| Columns::of(jobs, session.utf8)).collect();
    let rows: Vec<[&(dyn ToSql + Sync); 14]> = batches.iter().map(Columns::parameters).collect();
    let numbers: Vec<[&(dyn ToSql + Sync); 1]> = batches.iter().map(Columns::numbers).collect();
    let keys: Vec<[&(dyn ToSql + Sync); 2]> = batches.iter().map(Columns::keys).collect();
    let own: Vec<[&(dyn ToSql + Sync); 2]> = batches.iter().map(Columns::named).collect();
    let attempts: [&(dyn ToSql + Sync); 2] = [&attempt_ids, &attempt_counts];
    let (edits, lifted) = (edits.parameters(), [&lifted as &(dyn ToSql + Sync)]);
    let removes: [&(dyn ToSql + Sync); 1] = [&removes];
    let last_number: [&(dyn ToSql + Sync); 1] = [&last_number];
    let client = &session.client;
    let mut requests: Vec<(Counted, Request<'_>)> = Vec::new();
    let begin = match (changes.sync, session.asynchronous) {
        (true, false) => "BEGIN",
        (true, true) => "BEGIN; SET LOCAL synchronous_commit = on",
        (false, _) => "BEGIN; SET LOCAL synchronous_commit = off",
    };
    requests.push((Counted::Nothing, Box::pin(async { client.batch_execute(begin).await.map(|()| 0) })));
    let mut execute = |counted, statement, parameters| -> () {
        requests.push((counted, Box::pin(client.execute(statement, parameters)) as Request<'_>));
    };
    for own in besides.own.iter().flat_map(|statement| own.iter().map(move |own| (statement, own))) {
        execute(Counted::Written, own.0, own.1);
    }
    if !changes.removes.is_empty() {
        execute(Counted::Written, &statements.delete, &removes);
    }
    if !changes.edits.is_empty() {
        execute(Counted::Written, &statements.lift, &lifted);
        execute(Counted::Written, besides.edit.as_ref().unwrap_or(&statements.edit), &edits);
    }
    for ((row, numbers), keys) in rows.iter().zip(&numbers).zip(&keys) {
        if let (Some(of_numbers), Some(of_names)) = (&besides.numbers, &besides.names) {
            execute(Counted::MadeWay, of_numbers, numbers);
            execute(Counted::MadeWay, of_names, keys);
        }
        execute(Counted::Inserted, &statements.insert, row);
    }
    if !changes.attempts.is_empty() {
        execute(Counted::Written, &statements.attempts, &attempts);
    }
    if !changes.settings.is_empty() {
        execute(Counted::Written, &statements.unset, &decided);
        execute(Counted::Written, &statements.set, &settings);
    }
    if notes_number(changes) {
        execute(Counted::Written, &statements.last_number, &last_number);
    }
    // After a failed statement this rolls back without an error of its own; the statement's is reported.
    requests.push((Counted::Nothing, Box::pin(async { client.batch_execute("COMMIT").await.map(|()| 0) })));
    let (counted, requests): (Vec<Counted>, Vec<Request<'_>>) = requests.into_iter().unzip();
    let rows = answer(async { in_order(requests).await.into_iter().collect::<Result<Vec<u64>, Error>>() }).await?;
    let count =
        |what: Counted| counted.iter().zip(&rows).filter(|(counted, _)| **counted == what).map(|(_, rows)| rows).sum();
    Ok(Done { inserted: count(Counted::Inserted), made_way: count(Counted::MadeWay), written: rows.iter().sum() })
}

/// Splits the new jobs into parts that fit into a statement.
fn chunks(jobs: &[StoredJob]) -> impl Iterator<Item = &[StoredJob]> {
    let mut rest = jobs;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let count = rest
            .iter()
            .take_while(|job| {
                bytes += job.workload().len();
                bytes <= INSERT_BYTES
            })
            .count()
            .max(1);
        let (chunk, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(chunk)
    })
}

/// The column values for function and unique id.
pub(super) struct Names<'a> {
    pub(super) function_name: Cow<'a, str>,
    pub(super) function_bytes: Option<&'a [u8]>,
    /// `None` if the column holds the handle instead.
    pub(super) unique_text: Option<&'a str>,
    pub(super) unique_bytes: Option<&'a [u8]>,
    pub(super) flags: i32,
}

impl<'a> Names<'a> {
    pub(super) fn of(function: &'a [u8], unique: &'a [u8], utf8: bool) -> Self {
        let flags = flags_of(unique);
        let function_text = text(function, utf8).filter(|text| text.chars().count() <= FUNCTION_COLUMN);
        // With a truncated function name, two jobs could look equal to the UNIQUE constraint.
        let unique_text = text(unique, utf8).filter(|_| is_own_key(unique) && function_text.is_some());
        Self {
            function_name: function_text.map_or_else(|| Cow::Owned(shortened(function)), Cow::Borrowed),
            function_bytes: function_text.is_none().then_some(function),
            unique_text,
            unique_bytes: (flags == 0 && unique_text.is_none()).then_some(unique),
            flags,
        }
    }
}

/// Jobs, column by column.
#[derive(Default)]
struct Columns<'a> {
    job_id: Vec<i64>,
    handle: Vec<String>,
    unique_key: Vec<Cow<'a, str>>,
    function_name: Vec<Cow<'a, str>>,
    priority: Vec<i32>,
    data: Vec<&'a [u8]>,
    when_to_run: Vec<i32>,
    reducer: Vec<Option<&'a [u8]>>,
    submitted: Vec<i64>,
    flags: Vec<i32>,
    attempts: Vec<i32>,
    due: Vec<Option<i64>>,
    unique_bytes: Vec<Option<&'a [u8]>>,
    function_bytes: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    fn of(jobs: &'a [StoredJob], utf8: bool) -> Self {
        let mut columns = Self::default();
        for job in jobs {
            columns.push(job, utf8);
        }
        columns
    }

    fn push(&mut self, job: &'a StoredJob, utf8: bool) {
        let reducer = job.reducer();
        let Names { function_name, function_bytes, unique_text, unique_bytes, flags } =
            Names::of(job.function.as_bytes(), job.unique(), utf8);
        let handle = job.handle().to_string();
        self.job_id.push(signed(job.number));
        self.unique_key.push(unique_text.map_or_else(|| Cow::Owned(handle.clone()), Cow::Borrowed));
        self.unique_bytes.push(unique_bytes);
        self.handle.push(handle);
        self.function_bytes.push(function_bytes);
        self.function_name.push(function_name);
        self.priority.push(i32::from(job.priority as u8));
        self.data.push(job.workload());
        let (when_to_run, due) = due_columns(job.due_s);
        self.when_to_run.push(when_to_run);
        self.due.push(due);
        self.reducer.push((!reducer.is_empty()).then_some(reducer));
        self.submitted.push(signed(job.submitted_s));
        self.flags.push(flags);
        self.attempts.push(i32::from(job.attempts));
    }

    fn numbers(&self) -> [&(dyn ToSql + Sync); 1] {
        [&self.job_id]
    }

    fn keys(&self) -> [&(dyn ToSql + Sync); 2] {
        [&self.unique_key, &self.function_name]
    }

    fn named(&self) -> [&(dyn ToSql + Sync); 2] {
        [&self.job_id, &self.handle]
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 14] {
        [
            &self.job_id,
            &self.handle,
            &self.unique_key,
            &self.function_name,
            &self.priority,
            &self.data,
            &self.when_to_run,
            &self.reducer,
            &self.submitted,
            &self.flags,
            &self.attempts,
            &self.due,
            &self.unique_bytes,
            &self.function_bytes,
        ]
    }
}

/// The bytes as text, if the database accepts them as such.
fn text(bytes: &[u8], utf8: bool) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!bytes.contains(&0) && (utf8 || text.is_ascii())).then_some(text)
}

/// A readable substitute for a function name that is not text or is too long for its column.
fn shortened(function: &[u8]) -> String {
    let mut text = function.escape_ascii().to_string();
    text.truncate(FUNCTION_COLUMN);
    text
}
