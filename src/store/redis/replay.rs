//! Reading from Redis: all jobs at the start, and workloads later.
//!
//! SCAN returns keys in no order, and all workloads together may not fit into memory. So the first pass reads
//! the names and numbers of all jobs, and the second one the jobs themselves, in order and in batches.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use ::redis::{Connection, FromRedisValue, Value, cmd, pipe};
use bytes::Bytes;

use super::super::location::Access;
use super::super::{HasWorkload, Replayed, Workloads, fitting, trusted_number_max};
use super::errors::Failed;
use super::keys::Keys;
use super::read::{self, DATA, FIELDS, SIDE_FIELDS, Values, decimal, job};
use super::{Redis, changes};
use crate::job_server::{JobKey, StoredJob};
use crate::protocol::names::{FUNCTION_MAX, UNIQUE_MAX};

/// Fields read in the first pass, from both hashes.
const SEARCHED: &[&str] = &["id", "function", "unique", "priority"];
/// Keys per SCAN request.
const SCAN_KEYS: usize = 1000;
/// Jobs per batch, and workload bytes per batch.
const READ_JOBS: usize = 512;
const READ_BYTES: usize = 16 << 20;
/// Number of guessed functions that are logged individually; the rest are counted.
const NAMED_GUESSES: usize = 20;
/// Number of names to try for a quarantined entry.
const QUARANTINE_ATTEMPTS: u32 = 1000;
/// The field of the metadata that says that the quarantine has its present name.
pub(super) const QUARANTINE: &str = "quarantine";

/// The consumer of the jobs.
type Take<'a> = &'a mut dyn FnMut(StoredJob, HasWorkload) -> Workloads;

/// The format of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A plain string, written by C++ gearmand before 1.1.16.
    Plain,
    /// All fields in one hash, written by earlier versions of this server.
    Former,
    /// The current format of C++ gearmand and this server.
    Usual,
}

/// An entry found in the first pass.
struct Found {
    /// 0 if C++ gearmand wrote it.
    number: i64,
    /// Size of its workload in bytes.
    size: usize,
    form: Form,
    /// Whether it has no fields for function and unique id, so that they are parsed from its key.
    unnamed: bool,
    /// Whether its key differs from the one for its function, unique id and number.
    misplaced: bool,
    key: Vec<u8>,
}

impl Found {
    /// Orders by number; entries without one come last.
    fn order(&self, other: &Self) -> Ordering {
        (self.number < 1, self.number, &self.key).cmp(&(other.number < 1, other.number, &other.key))
    }
}

/// Reads all jobs.
pub(super) fn run(store: &mut Redis, connection: &mut Connection, take: Take<'_>) -> Result<Replayed, Failed> {
    let own = store.access == Access::Own;
    let mut search = Search { keys: &store.keys, found: Vec::new(), functions: HashSet::new() };
    search.scan(connection)?;
    if own {
        rename_quarantine(&store.keys, connection)?;
        forget_gone(&store.keys, connection)?;
    }
    let Search { mut found, functions, .. } = search;
    found.sort_unstable_by(Found::order);
    // SCAN may return a key twice. If two entries have the same number, because somebody copied a key, the
    // first one keeps it.
    found.dedup_by(|a, b| a.key == b.key);
    let copies: Vec<usize> = (1..found.len())
        .filter(|index| found[*index].number > 0 && found[*index].number == found[index - 1].number)
        .collect();
    for index in copies {
        found[index].number = 0;
    }
    let trusted = trusted_number_max(store.last_number);
    for entry in found.iter_mut().filter(|entry| entry.number.max(0).unsigned_abs() > trusted) {
        entry.number = 0;
    }
    found.sort_unstable_by(Found::order);
    let highest = found.iter().map(|entry| entry.number).max().unwrap_or(0).max(0).unsigned_abs();
    let mut reader = Reader {
        keys: store.keys.clone(),
        own,
        functions,
        replayed: Replayed { last_number: store.last_number.max(highest), ..Replayed::default() },
        guesses: BTreeMap::new(),
    };
    let mut wanted = Workloads::Wanted;
    let mut rest = &found[..];
    while !rest.is_empty() {
        let has_workloads = wanted == Workloads::Wanted;
        let (chunk, after) = rest.split_at(chunk_length(rest, has_workloads));
        rest = after;
        for (entry, values) in chunk.iter().zip(values(&store.keys, connection, chunk, has_workloads)?) {
            let Some(mut values) = values else { continue };
            // The workload that a job coalesces by is always read.
            let has_workload = has_workloads || entry.form == Form::Plain || read::is_workload_unique(&values);
            if has_workload && values.len() == FIELDS.len() {
                values.push(cmd("HGET").arg(&entry.key).arg(DATA).query(connection)?);
            }
            match reader.enter(connection, entry, values, &mut store.prefixes)? {
                Ok(job) => {
                    reader.replayed.jobs += 1;
                    wanted = take(job, has_workload);
                }
                Err(reason) => reader.quarantine(connection, &entry.key, &reason)?,
            }
        }
    }
    reader.tell_guesses(&store.name);
    store.last_number = reader.replayed.last_number;
    if own {
        let settings: Vec<(Vec<u8>, Vec<u8>)> = cmd("HGETALL").arg(store.keys.settings()).query(connection)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        reader.replayed.settings = settings.into_iter().map(|(name, value)| (text(name), text(value))).collect();
        reader.replayed.settings.sort_unstable();
    }
    Ok(reader.replayed)
}

struct Search<'a> {
    keys: &'a Keys,
    found: Vec<Found>,
    /// Functions that appear in the field of some entry.
    functions: HashSet<Vec<u8>>,
}

impl Search<'_> {
    fn scan(&mut self, connection: &mut Connection) -> Result<(), Failed> {
        let pattern = self.keys.pattern();
        let mut cursor = 0_u64;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_KEYS);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query(connection)?;
            if !keys.is_empty() {
                self.look_at(connection, keys)?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    fn look_at(&mut self, connection: &mut Connection, keys: Vec<Vec<u8>>) -> Result<(), Failed> {
        let mut query = pipe();
        for key in &keys {
            query.cmd("TYPE").arg(key);
        }
        let kinds: Vec<String> = query.query(connection)?;
        let entries: Vec<(Vec<u8>, bool)> = keys
            .into_iter()
            .zip(kinds)
            .filter(|(_, kind)| kind == "hash" || kind == "string")
            .map(|(key, kind)| (key, kind == "string"))
            .collect();
        if entries.is_empty() {
            return Ok(());
        }
        let mut query = pipe();
        for (key, plain) in &entries {
            if *plain {
                query.cmd("STRLEN").arg(key);
            } else {
                query.cmd("HSTRLEN").arg(key).arg(DATA);
                query.cmd("HMGET").arg(key).arg(SEARCHED);
                query.cmd("HMGET").arg(self.keys.side(key)).arg(SEARCHED);
            }
        }
        let answers: Vec<Value> = query.query(connection)?;
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or(Value::Nil);
        for (key, plain) in entries {
            let size = usize::from_redis_value(next()).unwrap_or(0);
            let (mut fields, mut form) = (Values::new(), Form::Plain);
            if !plain {
                let main = Values::from_redis_value(next())?;
                form = if main.first().is_some_and(Option::is_some) { Form::Former } else { Form::Usual };
                fields = beside(Values::from_redis_value(next())?, main);
            }
            self.found.extend(self.judge(key, form, size, &fields));
            if let Some(Some(function)) = fields.into_iter().nth(1) {
                self.functions.insert(function);
            }
        }
        Ok(())
    }

    /// Builds an entry, unless the key belongs to something else.
    fn judge(&self, key: Vec<u8>, form: Form, size: usize, fields: &Values) -> Option<Found> {
        let field = |index: usize| fields.get(index).and_then(Option::as_deref);
        let unnamed = field(1).is_none() || field(2).is_none();
        if unnamed && self.keys.read(&key, &HashSet::new()).is_none() {
            return None;
        }
        if form != Form::Plain && size == 0 && field(3).is_none() {
            return None;
        }
        // An invalid number is detected again when the whole entry is read, and the entry is quarantined
        // then.
        let number = decimal(field(0), "id").ok().flatten().unwrap_or(0);
        let misplaced = number > 0
            && field(1)
                .zip(field(2))
                .is_some_and(|(function, unique)| self.keys.job(number.unsigned_abs(), function, unique) != key);
        Some(Found { number, size, form, unnamed, misplaced, key })
    }
}

/// The fields of an entry: from its side hash, or from its main hash if the side hash lacks them.
fn beside(side: Values, main: Values) -> Values {
    side.into_iter().zip(main).map(|(side, main)| side.or(main)).collect()
}

/// Renames quarantined entries of earlier versions with their side hashes, unless the new name is taken. The
/// metadata records that it is done, so that only the first start scans for them.
fn rename_quarantine(keys: &Keys, connection: &mut Connection) -> Result<(), Failed> {
    if cmd("HEXISTS").arg(keys.meta()).arg(QUARANTINE).query(connection)? {
        return Ok(());
    }
    let pattern = keys.former_quarantine_pattern();
    let mut cursor = 0_u64;
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_KEYS);
        let (next, found): (u64, Vec<Vec<u8>>) = scan.query(connection)?;
        for former in found {
            let Some(name) = keys.quarantine_of_former(&former) else { continue };
            let side = keys.side(&former);
            let mut query = pipe();
            query.cmd("EXISTS").arg(&former).cmd("EXISTS").arg(&name).cmd("EXISTS").arg(&side);
            let (is_there, is_taken, has_side): (bool, bool, bool) = query.query(connection)?;
            // SCAN may return a key twice.
            if !is_there || is_taken {
                continue;
            }
            let mut transaction = pipe();
            transaction.atomic().cmd("RENAME").arg(&former).arg(&name).ignore();
            if has_side {
                transaction.cmd("RENAME").arg(&side).arg(keys.side(&name)).ignore();
            }
            if let Err(error) = transaction.exec(connection) {
                // The user may lack the permission. Jobs must be read all the same.
                tracing::warn!("cannot rename the quarantined key {}: {error}", former.escape_ascii());
                return Ok(());
            }
        }
        if next == 0 {
            break;
        }
        cursor = next;
    }
    // Jobs of a read-only Redis must stay readable; then the next start scans again.
    let _ = cmd("HSET").arg(keys.meta()).arg(QUARANTINE).arg(1).exec(connection);
    Ok(())
}

/// Deletes the side hashes of jobs that C++ gearmand has run.
fn forget_gone(keys: &Keys, connection: &mut Connection) -> Result<(), Failed> {
    let pattern = keys.side_pattern();
    let mut cursor = 0_u64;
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_KEYS);
        let (next, sides): (u64, Vec<Vec<u8>>) = scan.query(connection)?;
        let mut query = pipe();
        for side in &sides {
            query.cmd("EXISTS").arg(keys.main(side).unwrap_or_default());
        }
        let present: Vec<bool> = if sides.is_empty() { Vec::new() } else { query.query(connection)? };
        let gone: Vec<&Vec<u8>> =
            sides.iter().zip(present).filter(|(_, present)| !present).map(|(side, _)| side).collect();
        if !gone.is_empty() {
            cmd("DEL").arg(gone).exec(connection)?;
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

/// How many of the first entries to read in one batch.
fn chunk_length(entries: &[Found], has_workloads: bool) -> usize {
    let mut bytes = 0;
    let fitting = entries.iter().take(READ_JOBS).take_while(|entry| {
        bytes += if has_workloads || entry.form == Form::Plain { entry.size } else { 0 };
        bytes <= READ_BYTES
    });
    fitting.count().max(1)
}

/// The fields of entries; `None` for one that no longer exists.
fn values(
    keys: &Keys,
    connection: &mut Connection,
    entries: &[Found],
    has_workloads: bool,
) -> Result<Vec<Option<Values>>, Failed> {
    let mut query = pipe();
    for entry in entries {
        if entry.form == Form::Plain {
            query.cmd("GET").arg(&entry.key);
        } else {
            let side = keys.side(&entry.key);
            let fields = query.cmd("HMGET").arg(&entry.key).arg(FIELDS);
            if has_workloads {
                fields.arg(DATA);
            }
            query.cmd("HMGET").arg(side).arg(FIELDS).arg(DATA);
        }
    }
    let answers: Vec<Value> = query.query(connection)?;
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or(Value::Nil);
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        if entry.form == Form::Plain {
            let mut values = vec![None; FIELDS.len()];
            values.push(Option::<Vec<u8>>::from_redis_value(next())?);
            all.push(values.iter().any(Option::is_some).then_some(values));
        } else {
            let main = Values::from_redis_value(next())?;
            let side = Values::from_redis_value(next())?;
            all.push(main.iter().any(Option::is_some).then(|| beside(side, main)));
        }
    }
    Ok(all)
}

struct Reader {
    keys: Keys,
    own: bool,
    functions: HashSet<Vec<u8>>,
    replayed: Replayed,
    /// By function: keys that were parsed as its jobs, and could also be those of a function with a hyphen.
    guesses: BTreeMap<Vec<u8>, Guess>,
}

/// Keys that can be parsed in several ways.
struct Guess {
    keys: u64,
    first: Vec<u8>,
    /// The function of the first key if it ended at the next hyphen.
    other: Vec<u8>,
}

impl Reader {
    /// Converts an entry into a job. Fields that C++ gearmand did not write are added in memory, and also in
    /// Redis if this server owns the queue.
    fn enter(
        &mut self,
        connection: &mut Connection,
        entry: &Found,
        mut values: Values,
        prefixes: &mut super::Prefixes,
    ) -> Result<Result<StoredJob, String>, Failed> {
        if let Err(reason) = decimal(values[0].as_deref(), "id") {
            return Ok(Err(reason));
        }
        if entry.unnamed {
            let Some(named) = self.keys.read(&entry.key, &self.functions) else {
                return Ok(Err("its key names no function".to_owned()));
            };
            if named.function.len() > FUNCTION_MAX || named.unique.len() > UNIQUE_MAX {
                return Ok(Err("its key names a function or a unique id that is too long".to_owned()));
            }
            if named.ambiguous {
                self.guess(&entry.key, named.function);
            }
            values[1] = Some(named.function.to_vec());
            values[2] = Some(named.unique.to_vec());
        }
        let fresh = entry.number == 0;
        let number =
            if fresh { i64::try_from(self.replayed.last_number).unwrap_or(i64::MAX - 1) + 1 } else { entry.number };
        let job = match job(number, &values, prefixes) {
            Ok(job) => job,
            Err(reason) => return Ok(Err(reason)),
        };
        self.replayed.last_number = self.replayed.last_number.max(job.number);
        if self.own
            && (fresh || entry.misplaced || entry.form == Form::Former)
            && !self.adopt(connection, entry, &job)?
        {
            return Ok(Err("another job has the same function and unique id".to_owned()));
        }
        Ok(Ok(job))
    }

    /// Records that the function of a job was guessed, and may be wrong.
    fn guess(&mut self, key: &[u8], function: &[u8]) {
        let guess = self.guesses.entry(function.to_vec()).or_insert_with(|| {
            let place = key.windows(function.len() + 1).position(|part| part.strip_suffix(b"-") == Some(function));
            let begin = place.unwrap_or(0);
            let rest = &key[(begin + function.len() + 1).min(key.len())..];
            let more = rest.split(|byte| *byte == b'-').next().unwrap_or_default();
            Guess { keys: 0, first: key.to_vec(), other: [function, b"-", more].concat() }
        });
        guess.keys += 1;
    }

    /// Logs the guesses, and how to correct them, at a level that is always on.
    fn tell_guesses(&self, name: &str) {
        for (function, Guess { keys, first, other }) in self.guesses.iter().take(NAMED_GUESSES) {
            let (function, other) = (function.escape_ascii(), other.escape_ascii());
            tracing::error!(
                "{name}: {keys} keys of C++ gearmand, for example {}, are ambiguous, and were read as jobs of the \
                 function {function}; if their function has a hyphen, for example {other}, run gearmand admin \
                 move-jobs {function} {other} (move-job HANDLE FUNCTION for single ones)",
                first.escape_ascii()
            );
        }
        let more = self.guesses.len().saturating_sub(NAMED_GUESSES);
        if more > 0 {
            tracing::error!("{name}: the same applies to keys of {more} more functions");
        }
    }

    /// Converts an entry of C++ gearmand or an earlier version to the current format; false if its key is
    /// taken. The fields that C++ gearmand wrote into its hash stay unchanged.
    fn adopt(&self, connection: &mut Connection, entry: &Found, job: &StoredJob) -> Result<bool, Failed> {
        let key = self.keys.job(job.number, job.function.as_bytes(), job.unique());
        if key != entry.key {
            let taken: bool = cmd("EXISTS").arg(&key).query(connection)?;
            if taken {
                return Ok(false);
            }
        }
        let mut transaction = pipe();
        transaction.atomic();
        if entry.form == Form::Plain {
            transaction.cmd("DEL").arg(&entry.key).ignore();
            changes::add(&mut transaction, &self.keys, job);
        } else {
            if entry.form == Form::Former {
                transaction.cmd("HDEL").arg(&entry.key).arg(SIDE_FIELDS).ignore();
            }
            if key != entry.key {
                transaction.cmd("RENAME").arg(&entry.key).arg(&key).ignore();
                transaction.cmd("DEL").arg(self.keys.side(&entry.key)).ignore();
            }
            changes::add_side(&mut transaction, &self.keys, &key, job);
        }
        transaction.exec(connection)?;
        Ok(true)
    }

    /// Counts an invalid entry, and renames it if this server owns the queue.
    fn quarantine(&mut self, connection: &mut Connection, key: &[u8], reason: &str) -> Result<(), Failed> {
        self.replayed.quarantined += 1;
        if !self.own {
            return Ok(());
        }
        move_aside(&self.keys, connection, key, reason)
    }
}

/// Renames an entry, so that it is out of the way and the operator can find it.
pub(super) fn move_aside(keys: &Keys, connection: &mut Connection, key: &[u8], reason: &str) -> Result<(), Failed> {
    for attempt in 0..QUARANTINE_ATTEMPTS {
        let name = keys.quarantine(key, attempt);
        if cmd("RENAMENX").arg(key).arg(&name).query(connection)? {
            tracing::warn!("the key {} was renamed to {}: {reason}", key.escape_ascii(), name.escape_ascii());
            let side = keys.side(key);
            if cmd("EXISTS").arg(&side).query(connection)? {
                cmd("RENAME").arg(side).arg(keys.side(&name)).exec(connection)?;
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Reads workloads in the requested order.
pub(super) fn load(
    keys: &Keys,
    connection: &mut Connection,
    jobs: &[JobKey],
    most_bytes: usize,
) -> Result<Vec<Option<Bytes>>, Failed> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let key = |job: &JobKey| keys.job(job.number, job.function.as_bytes(), &job.unique);
    let mut query = pipe();
    for job in jobs {
        query.cmd("HSTRLEN").arg(key(job)).arg(DATA);
    }
    let lengths: Vec<usize> = query.query(connection)?;
    let jobs = &jobs[..fitting(lengths, most_bytes)];
    let mut query = pipe();
    for job in jobs {
        let key = key(job);
        query.cmd("HMGET").arg(keys.side(&key)).arg("id").arg(DATA);
        query.cmd("HMGET").arg(key).arg("id").arg(DATA);
    }
    let answers: Vec<Values> = query.query(connection)?;
    let mut answers = answers.into_iter();
    let loaded = jobs.iter().map(|job| {
        let values = beside(answers.next()?, answers.next()?);
        let [id, data] = <[_; 2]>::try_from(values).ok()?;
        // The key may belong to a later job by now.
        (id? == job.number.to_string().as_bytes()).then(|| Bytes::from(data.unwrap_or_default()))
    });
    Ok(loaded.collect())
}
