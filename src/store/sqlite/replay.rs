//! Reading the jobs back, and quarantining invalid rows.

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

/// Number of quarantined rows that are logged individually.
const NAMED_IN_LOG: usize = 10;
/// Approximate maximum of workload bytes in a page.
const PAGE_BYTES: usize = 4 << 20;

/// An invalid row: its rowid, and the reason.
pub(super) type InvalidRow = (i64, &'static str);

/// The result of a scan.
pub(super) struct Found {
    pub(super) replayed: Replayed,
    pub(super) invalid: Vec<InvalidRow>,
}

/// Passes the jobs to `take`, in table order.
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
    let mut invalid = Vec::new();
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
            invalid.extend(page.invalid);
            match page.last {
                Some(last) => after = last,
                None => break,
            }
        }
    }
    // The pages just read are not needed again soon.
    connection.execute_batch("PRAGMA shrink_memory")?;
    replayed.last_number = reader.last_number;
    replayed.quarantined = invalid.len() as u64;
    Ok(Found { replayed, invalid })
}

fn with_workload(job: StoredJob, has_workloads: bool) -> (StoredJob, HasWorkload) {
    let has_workload = has_workloads || job.unique() == DASH;
    (job, has_workload)
}

/// Invalid rows, passed from the incremental reader to the writer.
#[derive(Clone, Debug, Default)]
pub(super) struct InvalidRows(Arc<Mutex<Vec<InvalidRow>>>);

impl InvalidRows {
    /// Adds rows to quarantine.
    pub(super) fn add(&self, invalid: Vec<InvalidRow>) {
        if !invalid.is_empty() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(invalid);
        }
    }

    /// Removes and returns all rows.
    pub(super) fn take(&self) -> Vec<InvalidRow> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The incremental reader, with a separate read-only connection.
pub(super) struct SideReader {
    path: PathBuf,
    file: OpenFile,
    reader: Reader,
    invalid_rows: InvalidRows,
    invalid: u64,
    /// The current scan, and the key after which its next page starts.
    scan: usize,
    after: i64,
}

impl SideReader {
    pub(super) fn open(
        path: &Path,
        queue: &str,
        prefix: &Arc<str>,
        last_number: u64,
        invalid_rows: InvalidRows,
    ) -> Result<Self, Trouble> {
        let file = OpenFile::read(path, queue)?;
        let reader = Reader::new(file.sql.is_duplicate.clone(), prefix, last_number);
        Ok(Self { path: path.to_owned(), file, reader, invalid_rows, invalid: 0, scan: 0, after: i64::MIN })
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
        self.invalid += page.invalid.len() as u64;
        self.invalid_rows.add(page.invalid);
        Ok(Some(page.jobs.into_iter().map(|job| with_workload(job, has_workloads)).collect()))
    }

    fn quarantined(&self) -> u64 {
        self.invalid
    }
}

/// A page of jobs, read in one transaction. The transaction ends before the jobs are passed on: while it
/// lasts the WAL cannot restart, and the consumer may take any time.
struct Page {
    jobs: Vec<StoredJob>,
    invalid: Vec<InvalidRow>,
    /// The key after which the next page starts, if there is one.
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
        let mut page = Self { jobs: Vec::new(), invalid: Vec::new(), last: None };
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
                Err(reason) => page.invalid.push((row_number, reason)),
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

/// Moves rows from the queue to the quarantine table in one transaction, and logs them.
pub(super) fn quarantine(file: &mut OpenFile, queue: &str, path: &Path, invalid: &[InvalidRow]) -> Result<(), Trouble> {
    if invalid.is_empty() {
        return Ok(());
    }
    file.set_sync(true)?;
    let OpenFile { connection, sql, .. } = file;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(layout::CREATE_QUARANTINE)?;
    {
        let mut copy = transaction.prepare(&sql.quarantine)?;
        let mut delete = transaction.prepare(&sql.delete_row)?;
        for (row, reason) in invalid {
            copy.execute((row, reason, queue))?;
            delete.execute([row])?;
        }
    }
    transaction.commit()?;
    let path = path.display();
    for (row, reason) in invalid.iter().take(NAMED_IN_LOG) {
        tracing::error!("SQLite file {path}: row {row} of {queue} was moved to gearman_quarantine: {reason}");
    }
    if invalid.len() > NAMED_IN_LOG {
        let count = invalid.len();
        tracing::error!("SQLite file {path}: {count} rows of {queue} in all were moved to gearman_quarantine");
    }
    Ok(())
}

/// Converts rows into jobs.
struct Reader {
    /// The statement that looks for an earlier row with the same function and unique id.
    is_duplicate: String,
    /// The highest known number. Rows without a valid job number get the following ones, as
    /// [`layout::renumber`] does in the file.
    last_number: u64,
    /// For jobs without a handle.
    default_prefix: Arc<str>,
    /// The prefix of the last handle: most are the same.
    prefix: Arc<str>,
    functions: HashSet<FunctionName>,
    /// Hashes of (function, unique id): the names themselves would take as much memory as the jobs.
    seen: HashSet<u64, BuildHasherDefault<AsItIs>>,
    hasher: RandomState,
}

/// An identity hasher for values that are already hashes.
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

    /// The job in a row, or why the row is invalid. The outer error is SQLite's.
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

    /// Validates a row. Required columns must be valid. Optional ones (the handle's prefix, the submission
    /// time, the attempts) are treated as unknown if they are invalid.
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
                // When C++ gearmand received 64 bytes, it stored 63 and a NUL. No unique id contains a NUL.
                Some(unique) => unique.strip_suffix(b"\0").unwrap_or(unique),
                None => return Ok(Err("its unique id is a number")),
            },
        };
        // The empty name is valid: a peer may submit jobs with it.
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
                None => return Ok(Err("its due time is negative or not a number")),
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

    /// The prefix of a handle with this number; the default one if the handle is missing or belongs to
    /// another job.
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

    /// The interned function name, shared by all jobs of the function.
    fn function(&mut self, name: &[u8]) -> FunctionName {
        if let Some(known) = self.functions.get(name) {
            return known.clone();
        }
        let function = FunctionName::new(name);
        self.functions.insert(function.clone());
        function
    }

    /// Whether an earlier row has the same function and unique id. Equal hashes only trigger the lookup.
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

/// The bytes of a text or blob; `None` for other types.
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
