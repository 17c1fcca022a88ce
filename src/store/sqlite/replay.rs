//! Reading the jobs back, and setting aside the rows that are none.

use std::collections::{HashSet, hash_map::RandomState};
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, TransactionBehavior};

use super::error::Trouble;
use super::open::OpenFile;
use super::{DASH, NO_UNIQUE, WORKLOAD_IS_UNIQUE, integer, layout, text};
use crate::job_server::{NUMBER_MAX, StoredJob, StoredParts};
use crate::protocol::names::{FUNCTION_MAX, is_prefix};
use crate::protocol::{FunctionName, JobHandle, Priority};
use crate::store::{HasWorkload, ReadJobs, Reading, Replayed, StoreError, Workloads};

/// So many rows that were set aside have a line of their own in the log.
const NAMED_IN_LOG: usize = 10;
/// About so many bytes of workloads are read at one time at most.
const PAGE_BYTES: usize = 4 << 20;

/// A row that is no job: its row number, and why.
pub(super) type Senseless = (i64, &'static str);

/// What a scan found.
pub(super) struct Found {
    pub(super) replayed: Replayed,
    pub(super) senseless: Vec<Senseless>,
}

/// Hands the jobs to `take`, in the order of the table.
pub(super) fn scan(
    file: &OpenFile,
    queue: &str,
    prefix: &Arc<str>,
    take: &mut dyn FnMut(StoredJob, HasWorkload) -> Workloads,
) -> Result<Found, Trouble> {
    let connection = &file.connection;
    let noted = layout::last_number(connection, queue)?;
    let last_number = layout::highest(connection, &file.sql, noted)?;
    let mut reader = Reader::new(file.sql.is_duplicate.clone(), prefix, last_number);
    let mut replayed = Replayed { last_number, ..Replayed::default() };
    let mut senseless = Vec::new();
    let mut wants = Workloads::Wanted;
    for scan in &file.sql.scans {
        let mut after = i64::MIN;
        loop {
            let has_workloads = wants == Workloads::Wanted;
            let page = Page::read(connection, &scan[usize::from(has_workloads)], after, &mut reader, has_workloads)?;
            for job in page.jobs {
                replayed.jobs += 1;
                let (job, has_workload) = with_workload(job, has_workloads);
                wants = take(job, has_workload);
            }
            senseless.extend(page.senseless);
            match page.last {
                Some(last) => after = last,
                None => break,
            }
        }
    }
    // Nothing of what was read is read soon again.
    connection.execute_batch("PRAGMA shrink_memory")?;
    replayed.last_number = reader.last_number;
    replayed.set_aside = senseless.len() as u64;
    Ok(Found { replayed, senseless })
}

fn with_workload(job: StoredJob, has_workloads: bool) -> (StoredJob, HasWorkload) {
    let has_workload = has_workloads || job.unique() == DASH;
    (job, has_workload)
}

/// Rows that are no jobs, found by who reads, for who writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Aside(Arc<Mutex<Vec<Senseless>>>);

impl Aside {
    /// These are to be set aside.
    pub(super) fn add(&self, senseless: Vec<Senseless>) {
        if !senseless.is_empty() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(senseless);
        }
    }

    /// Those that were found since this was asked last.
    pub(super) fn take(&self) -> Vec<Senseless> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads the jobs by a connection of its own, which cannot write.
pub(super) struct SideReader {
    path: PathBuf,
    file: OpenFile,
    reader: Reader,
    aside: Aside,
    senseless: u64,
    /// Which of the scans is next, and behind what it goes on.
    scan: usize,
    after: i64,
}

impl SideReader {
    pub(super) fn open(
        path: &Path,
        queue: &str,
        prefix: &Arc<str>,
        last_number: u64,
        aside: Aside,
    ) -> Result<Self, Trouble> {
        let file = OpenFile::read(path, queue)?;
        let reader = Reader::new(file.sql.is_duplicate.clone(), prefix, last_number);
        Ok(Self { path: path.to_owned(), file, reader, aside, senseless: 0, scan: 0, after: i64::MIN })
    }
}

impl Reading for SideReader {
    fn next(&mut self, workloads: Workloads) -> Result<Option<ReadJobs>, StoreError> {
        let has_workloads = workloads == Workloads::Wanted;
        let Some(scan) = self.file.sql.scans.get(self.scan) else { return Ok(None) };
        let sql = &scan[usize::from(has_workloads)];
        let page = Page::read(&self.file.connection, sql, self.after, &mut self.reader, has_workloads)
            .map_err(|error| Trouble::from(error).report(&self.path, "cannot read the jobs"))?;
        (self.scan, self.after) = page.last.map_or((self.scan + 1, i64::MIN), |last| (self.scan, last));
        self.senseless += page.senseless.len() as u64;
        self.aside.add(page.senseless);
        Ok(Some(page.jobs.into_iter().map(|job| with_workload(job, has_workloads)).collect()))
    }

    fn set_aside(&self) -> u64 {
        self.senseless
    }
}

/// Some jobs, read in one transaction, which is over before anybody looks at them: while it lasts the WAL cannot begin anew, and
/// whoever looks may take as long as they like.
struct Page {
    jobs: Vec<StoredJob>,
    senseless: Vec<Senseless>,
    /// What the next page is read behind, if there is one.
    last: Option<i64>,
}

impl Page {
    fn read(
        connection: &Connection,
        sql: &str,
        after: i64,
        reader: &mut Reader,
        has_workloads: bool,
    ) -> Result<Self, rusqlite::Error> {
        let mut page = Self { jobs: Vec::new(), senseless: Vec::new(), last: None };
        let (mut count, mut bytes) = (0, 0);
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([after])?;
        while let Some(row) = rows.next()? {
            let row_number: i64 = row.get(0)?;
            match reader.job(connection, row, row_number, has_workloads)? {
                Ok(job) => {
                    bytes += job.workload().len();
                    page.jobs.push(job);
                }
                Err(reason) => page.senseless.push((row_number, reason)),
            }
            count += 1;
            if count == layout::PAGE_ROWS || bytes >= PAGE_BYTES {
                page.last = Some(row.get(12)?);
                break;
            }
        }
        Ok(page)
    }
}

/// Moves rows out of the queue into a table for the operator, all of them or none, and tells the log.
pub(super) fn set_aside(file: &mut OpenFile, queue: &str, path: &Path, senseless: &[Senseless]) -> Result<(), Trouble> {
    if senseless.is_empty() {
        return Ok(());
    }
    file.set_sync(true)?;
    let OpenFile { connection, sql, .. } = file;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(layout::CREATE_SET_ASIDE)?;
    {
        let mut copy = transaction.prepare(&sql.set_aside)?;
        let mut delete = transaction.prepare(&sql.delete_row)?;
        for (row, reason) in senseless {
            copy.execute((row, reason, queue))?;
            delete.execute([row])?;
        }
    }
    transaction.commit()?;
    let path = path.display();
    for (row, reason) in senseless.iter().take(NAMED_IN_LOG) {
        tracing::error!("SQLite file {path}: row {row} of {queue} was moved to gearman_set_aside: {reason}");
    }
    if senseless.len() > NAMED_IN_LOG {
        let count = senseless.len();
        tracing::error!("SQLite file {path}: {count} rows of {queue} in all were moved to gearman_set_aside");
    }
    Ok(())
}

/// Makes jobs of rows.
struct Reader {
    /// The statement that looks for an earlier row of the same function and unique id.
    is_duplicate: String,
    /// The highest number that is known of: rows whose numbers are none that a job can have get the next ones, as
    /// [`layout::renumber`] does it in the file.
    last_number: u64,
    /// Of jobs without a handle.
    default_prefix: Arc<str>,
    /// The prefix of the last handle: most are the same.
    prefix: Arc<str>,
    functions: HashSet<FunctionName>,
    /// Hashes of (function, unique id): the names themselves would take as much memory as the jobs.
    seen: HashSet<u64, BuildHasherDefault<AsItIs>>,
    hasher: RandomState,
}

/// The hash of a hash.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl Reader {
    fn new(is_duplicate: String, default_prefix: &Arc<str>, last_number: u64) -> Self {
        Self {
            is_duplicate,
            last_number,
            default_prefix: Arc::clone(default_prefix),
            prefix: Arc::clone(default_prefix),
            functions: HashSet::new(),
            seen: HashSet::default(),
            hasher: RandomState::new(),
        }
    }

    /// The job in a row, or why it is none. The outer error is SQLite's.
    fn job(
        &mut self,
        connection: &Connection,
        row: &Row<'_>,
        row_number: i64,
        has_workload: bool,
    ) -> Result<Result<StoredJob, &'static str>, rusqlite::Error> {
        let parts = match self.parts(row, has_workload)? {
            Ok(parts) => parts,
            Err(reason) => return Ok(Err(reason)),
        };
        let is_named = !parts.unique.is_empty() && parts.unique != DASH;
        if is_named && self.is_duplicate(connection, row_number, parts.unique, &parts.function)? {
            return Ok(Err("an earlier row has the same function and unique id"));
        }
        Ok(StoredJob::new(parts))
    }

    /// What cannot be done without must make sense; what can (the handle's prefix, the time of submission, the attempts) is
    /// taken for unknown where it does not.
    fn parts<'row>(
        &mut self,
        row: &'row Row<'_>,
        has_workload: bool,
    ) -> Result<Result<StoredParts<'row>, &'static str>, rusqlite::Error> {
        let number = positive(row.get_ref(1)?).filter(|number| (1..=NUMBER_MAX).contains(number));
        let number = number.unwrap_or_else(|| {
            self.last_number += 1;
            self.last_number
        });
        let flags = match row.get_ref(9)? {
            ValueRef::Integer(flags) => flags,
            _ => 0,
        };
        let unique = match row.get_ref(2)? {
            _ if flags & NO_UNIQUE != 0 => &[],
            _ if flags & WORKLOAD_IS_UNIQUE != 0 => DASH,
            ValueRef::Null => &[],
            value => match bytes(value) {
                // Where C++ gearmand was sent 64 bytes, it has kept 63 and a NUL, which no unique id has.
                Some(unique) => unique.strip_suffix(b"\0").unwrap_or(unique),
                None => return Ok(Err("its unique id is a number")),
            },
        };
        // The empty name is one: a peer may submit jobs of it.
        let Some(function) = bytes(row.get_ref(3)?).filter(|name| name.len() <= FUNCTION_MAX) else {
            return Ok(Err("its function is missing, or longer than 512 bytes"));
        };
        let Some(priority) = priority(row.get_ref(4)?) else {
            return Ok(Err("its priority is not 0, 1 or 2"));
        };
        let due_s = match row.get_ref(5)? {
            ValueRef::Null => 0,
            value => match positive(value) {
                Some(due_s) => due_s,
                None => return Ok(Err("its due time is negative or no number")),
            },
        };
        let has_workload = has_workload || unique == DASH;
        let workload = match row.get_ref(11)? {
            ValueRef::Null => &[],
            ValueRef::Text(kind) if !has_workload => match kind {
                b"integer" | b"real" => return Ok(Err("its workload is a number")),
                _ => &[],
            },
            value => match bytes(value) {
                Some(workload) => workload,
                None => return Ok(Err("its workload is a number")),
            },
        };
        let attempts = positive(row.get_ref(10)?).unwrap_or(0);
        Ok(Ok(StoredParts {
            number,
            prefix: self.prefix_of(bytes(row.get_ref(6)?).unwrap_or_default(), number),
            function: self.function(function),
            unique,
            reducer: bytes(row.get_ref(7)?).unwrap_or_default(),
            priority,
            due_s,
            submitted_s: positive(row.get_ref(8)?).unwrap_or(0),
            attempts: u16::try_from(attempts).unwrap_or(u16::MAX),
            workload,
        }))
    }

    /// The prefix of a handle of this number; the default one where the handle is missing or of another job.
    fn prefix_of(&mut self, handle: &[u8], number: u64) -> Arc<str> {
        let fits = |prefix: &str| JobHandle::parse_number(prefix, handle) == Some(number);
        if fits(&self.prefix) {
            return Arc::clone(&self.prefix);
        }
        let prefix = str::from_utf8(handle).ok().and_then(|handle| handle.rsplit_once(':')).map(|(prefix, _)| prefix);
        match prefix.filter(|prefix| is_prefix(prefix) && fits(prefix)) {
            Some(prefix) => {
                self.prefix = Arc::from(prefix);
                Arc::clone(&self.prefix)
            }
            None => Arc::clone(&self.default_prefix),
        }
    }

    /// The name, shared with the other jobs of the function.
    fn function(&mut self, name: &[u8]) -> FunctionName {
        if let Some(known) = self.functions.get(name) {
            return known.clone();
        }
        let function = FunctionName::new(name);
        self.functions.insert(function.clone());
        function
    }

    /// Whether an earlier row has the same function and unique id. Equal hashes are a reason to look, not an answer.
    fn is_duplicate(
        &mut self,
        connection: &Connection,
        row_number: i64,
        unique: &[u8],
        function: &FunctionName,
    ) -> Result<bool, rusqlite::Error> {
        if self.seen.insert(self.hasher.hash_one((function.as_bytes(), unique))) {
            return Ok(false);
        }
        let mut earlier = connection.prepare_cached(&self.is_duplicate)?;
        earlier.exists((row_number, text(unique), text(function.as_bytes())))
    }
}

/// The bytes of text or of a blob; `None` for anything else.
pub(super) fn bytes(value: ValueRef<'_>) -> Option<&[u8]> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => None,
    }
}

fn positive(value: ValueRef<'_>) -> Option<u64> {
    match value {
        ValueRef::Integer(number) => u64::try_from(number).ok(),
        _ => None,
    }
}

fn priority(value: ValueRef<'_>) -> Option<Priority> {
    let ValueRef::Integer(number) = value else { return None };
    Priority::ALL.into_iter().find(|priority| integer(priority.index() as u64) == number)
}
