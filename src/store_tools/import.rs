//! `gearmand import`: moves all jobs of one store into another.
//!
//! First all jobs are copied, in order and in batches. Then the jobs in the target are counted, and only then
//! the source is emptied. A marker in the target, a scheduled job that no worker runs, says that an import is
//! in progress. If a marker exists at the start, that import was interrupted, and it is resumed.

use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};

use indicatif::{ProgressBar, ProgressStyle};

use super::dedup::KnownJobs;
use super::url::{FORMS, QueueUrl, QueueUrlParser};
use super::{ToolError, configured, tell};
use crate::client;
use crate::job_server::{JobKey, NUMBER_MAX, StoredJob, StoredParts};
use crate::process::state_directory;
use crate::protocol::names::IMPORT_HANDLE_PREFIX;
use crate::protocol::{FunctionName, Priority};
use crate::store::location::{Access, Location};
use crate::store::{Changes, Replayed, Store, StoreError, Workloads};

/// Maximum size of a batch: number of jobs, and bytes of workloads.
const BATCH_JOBS: usize = 4096;
const BATCH_BYTES: usize = 8 << 20;
/// Number of jobs per pass when the source is emptied. Their names are in memory, about 100 bytes each.
const PASS_JOBS: usize = 1 << 20;

/// Function, unique id and due time of the marker: a function that no worker registers, and the last second
/// that every store and C++ gearmand can represent.
const MARKER_FUNCTION: &[u8] = b"gearmand-import";
const MARKER_UNIQUE: &[u8] = b"unfinished";
const MARKER_DUE_S: u64 = 0x7fff_ffff;

/// What `gearmand import` is told.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "QUEUE is a path of a SQLite file, sqlite:PATH[?table=T], postgres://USER:PASSWORD@HOST:PORT/DB?table=T, \
    'postgres:host=... dbname=... [table=T]', mysql://USER:PASSWORD@HOST:PORT/DB?table=T or \
    redis://:PASSWORD@HOST:PORT?prefix=P. Queues of C++ gearmand are read in every form.\n\n\
    Stop the servers of both queues first: a queue that a server of this program holds is rejected; a running C++ \
    gearmand cannot be detected. Jobs keep their order, priority, due time, unique id and attempts; they keep their \
    handles if the target has assigned no higher number, otherwise they get the next ones. Only invalid entries are left in \
    the source.\n\n\
    An import that was interrupted, or that failed, has removed nothing that is not in the target. Run it again, before a \
    server uses the target: jobs that were copied are not copied twice, and none is lost. Until then the target \
    holds a scheduled job of the function gearmand-import as a marker. A job whose function and unique id are in the \
    target already is not copied either, since a server would coalesce the two.\n\n\
    Exit status: 0 all jobs were moved, 1 a queue failed, and nothing was lost, 2 usage, 3 a queue does not exist, \
    cannot be reached, or is held by a server."
)]
pub struct ImportArgs {
    /// The source queue
    #[arg(long, value_name = "QUEUE", value_parser = QueueUrlParser)]
    from: QueueUrl,
    /// The target queue; created if it does not exist
    #[arg(long, value_name = "QUEUE", value_parser = QueueUrlParser)]
    to: QueueUrl,
    /// Keep the jobs in the source
    #[arg(long)]
    keep: bool,
    /// Show no progress bar, not even on a terminal
    #[arg(short, long)]
    quiet: bool,
}

/// The result of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Copied jobs.
    pub(super) copied: u64,
    /// Jobs that the target already had.
    pub(super) known: u64,
    /// Jobs removed from the source.
    pub(super) removed: u64,
    /// Invalid entries in the source.
    pub(super) quarantined: u64,
}

/// Moves the jobs, and prints how many they were.
pub(super) fn run(args: &ImportArgs) -> Result<u8, ToolError> {
    let (from, to) = (source_of(&args.from.0), &args.to.0);
    if is_same(&from, to) {
        return Err(ToolError::Usage(format!("--from and --to are the same queue, {to}; write {FORMS}")));
    }
    let prefix = configured::handle_prefix("import");
    // Opened for reading first, since `Access::Own` would create a missing source.
    open(&from, Access::Read, &prefix)?;
    let mut source = open(&from, Access::Own, &prefix)?;
    let mut target = open(to, Access::Own, &prefix)?;
    let bar = if args.quiet || !io::stderr().is_terminal() { ProgressBar::hidden() } else { ProgressBar::no_length() };
    let import = Import {
        source: &mut *source,
        target: &mut *target,
        from: identity(&from),
        keep: args.keep,
        bar: &bar,
        batch_jobs: BATCH_JOBS,
    };
    let outcome = import.run();
    bar.finish_and_clear();
    if let Location::Sqlite { path, .. } = to
        && let Err(error) = state_directory::give_to_owner_of_directory(path)
    {
        let path = path.display();
        tell(
            "import",
            format_args!("cannot give {path} to the owner of its directory: {error}; the server may need that"),
        );
    }
    let Moved { copied, known, removed, quarantined } = outcome?;
    if quarantined > 0 {
        tell("import", format_args!("{quarantined} invalid entries of {from} were quarantined there"));
    }
    let known = if known > 0 { format!(", {known} were there already") } else { String::new() };
    let left =
        if args.keep { ", and all are still in the source".to_owned() } else { format!(", {removed} left the source") };
    writeln!(io::stdout(), "{}", client::printable(&format!("{copied} jobs copied to {to}{known}{left}")))?;
    Ok(0)
}

/// How the source is opened: a table of C++ gearmand keeps its schema, since it is only emptied.
fn source_of(location: &Location) -> Location {
    match location.clone() {
        Location::Sqlite { path, table, .. } => Location::Sqlite { path, table, keep_primary_key: true },
        other => other,
    }
}

fn is_same(from: &Location, to: &Location) -> bool {
    match (from, to) {
        (Location::Sqlite { path, table, .. }, Location::Sqlite { path: other, table: other_table, .. }) => {
            real(path) == real(other) && table == other_table
        }
        _ => from == to,
    }
}

/// Resolves links, if the path exists.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Identifies a queue across runs, without secrets.
fn identity(location: &Location) -> String {
    match location {
        Location::Sqlite { path, table, .. } => format!("sqlite:{} (table {table})", real(path).display()),
        Location::Postgres { conninfo, table } => {
            let place = if let Some((_, url)) = conninfo.split_once("://") {
                let url = url.split('?').next().unwrap_or_default();
                url.rsplit_once('@').map_or(url, |(_, place)| place).to_owned()
            } else {
                let keys = ["host=", "hostaddr=", "port=", "dbname="];
                let says_where = |word: &&str| keys.iter().any(|key| word.starts_with(key));
                conninfo.split_whitespace().filter(says_where).collect::<Vec<_>>().join(" ")
            };
            format!("PostgreSQL at {place} (table {table})")
        }
        Location::Mysql { .. } | Location::Redis { .. } => location.to_string(),
    }
}

fn open(location: &Location, access: Access, prefix: &Arc<str>) -> Result<Box<dyn Store>, ToolError> {
    location.open(access, prefix).map_err(|error| ToolError::Open(error.text))
}

/// An import between two open stores.
pub(super) struct Import<'a> {
    pub(super) source: &'a mut dyn Store,
    pub(super) target: &'a mut dyn Store,
    /// Identifies the source in the marker, without secrets.
    pub(super) from: String,
    /// Whether to leave the jobs in the source.
    pub(super) keep: bool,
    pub(super) bar: &'a ProgressBar,
    /// Maximum number of jobs in a commit.
    pub(super) batch_jobs: usize,
}

/// The contents of the target at the start.
struct Survey {
    known_jobs: KnownJobs,
    jobs: u64,
    /// The highest assigned number, without that of a marker.
    last_number: u64,
    marker: Option<ImportMarker>,
}

/// The marker in the target for an import in progress.
struct ImportMarker {
    key: JobKey,
    /// The source of that import.
    from: String,
    /// The target's highest number when that import began.
    last_number: u64,
}

impl Import<'_> {
    /// Moves the jobs.
    ///
    /// # Errors
    /// A store failed, or does not have the expected contents. Nothing was removed from the source that is
    /// not in the target.
    pub(super) fn run(mut self) -> Result<Moved, ToolError> {
        let (here, has_marker) = self.look_at_source()?;
        if has_marker {
            let from = &self.from;
            return Err(ToolError::Usage(format!(
                "an import into {from} was interrupted; finish that one first, by running it again"
            )));
        }
        self.bar.set_length(here.jobs);
        self.bar.set_style(style("{wide_bar} {pos}/{len} jobs, {rate}, {eta} left"));
        let there = self.look_at_target()?;
        // The target must not reuse a handle that the source assigned to a job that no longer exists.
        let last_number = here.last_number;
        if here.jobs == 0 && there.marker.is_none() {
            if last_number > there.last_number {
                self.target.commit(&Changes { last_number, sync: true, ..Changes::default() })?;
            }
            return Ok(Moved { quarantined: here.quarantined, ..Moved::default() });
        }
        let before = there.jobs;
        let marker = self.add_marker(&there, &here)?;
        let mut moved = self.copy(there)?;
        moved.quarantined = here.quarantined;
        self.count(&marker, before + moved.copied)?;
        if !self.keep {
            moved.removed = self.empty_source(here.jobs)?;
        }
        self.target.commit(&Changes { removes: vec![marker], last_number, sync: true, ..Changes::default() })?;
        Ok(moved)
    }

    /// Counts the jobs of the source, and checks it for a marker.
    fn look_at_source(&mut self) -> Result<(Replayed, bool), StoreError> {
        let mut has_marker = false;
        let replayed = self.source.replay(&mut |job, _| {
            has_marker |= is_marker(&job);
            Workloads::Unwanted
        })?;
        Ok((replayed, has_marker))
    }

    fn look_at_target(&mut self) -> Result<Survey, ToolError> {
        let mut marker = None;
        let (mut known_jobs, jobs, mut last_number) = self.note_target(u64::MAX, &mut marker)?;
        if let Some(ImportMarker { key, from, last_number: at_start }) = &marker {
            if *from != self.from {
                let from = client::printable(from);
                return Err(ToolError::Usage(format!(
                    "an import from {from} into this queue was interrupted; finish that one first, by running it again, or \
                     give it up: cancel the job of the function gearmand-import on a server that uses the queue"
                )));
            }
            let (noted, _, highest) = self.note_target(*at_start, &mut None)?;
            known_jobs = noted;
            // The highest number is that of the marker, and not an assigned one, unless a server has used the
            // target since.
            last_number = if last_number <= key.number { highest.max(*at_start) } else { last_number };
        }
        Ok(Survey { known_jobs, jobs, last_number, marker })
    }

    /// Records the jobs of the target, and finds the marker. Jobs with a number above `copies_from` may be
    /// copies. Returns the records, the number of jobs, and the highest number. Without a marker, that
    /// includes jobs that no longer exist.
    fn note_target(
        &mut self,
        copies_from: u64,
        marker: &mut Option<ImportMarker>,
    ) -> Result<(KnownJobs, u64, u64), ToolError> {
        let (mut known_jobs, mut jobs, mut highest) = (KnownJobs::new(), 0, 0);
        let is_resumed = copies_from != u64::MAX;
        let replayed = self.target.replay(&mut |job, _| {
            if is_marker(&job) {
                *marker = Some(ImportMarker::read(&job));
            } else {
                known_jobs.note(&job, job.number > copies_from);
                jobs += 1;
                highest = highest.max(job.number);
            }
            Workloads::Wanted
        })?;
        Ok((known_jobs, jobs, if is_resumed { highest } else { highest.max(replayed.last_number) }))
    }

    /// Adds the marker to the target if it is missing. Returns its key.
    fn add_marker(&mut self, there: &Survey, here: &Replayed) -> Result<JobKey, ToolError> {
        if let Some(marker) = &there.marker {
            return Ok(marker.key.clone());
        }
        // Above the numbers of all jobs that will be copied.
        let number = here.last_number.max(there.last_number).saturating_add(here.jobs).saturating_add(1);
        if number > NUMBER_MAX {
            let text = "job numbers are exhausted in one of the queues: let workers drain the source, and start with \
                        an empty queue";
            return Err(ToolError::Store(text.to_owned()));
        }
        let workload = format!(
            "{}\n{}\nAn import into this queue is running, or was interrupted: then run it again.\n",
            there.last_number, self.from
        );
        let parts = StoredParts {
            number,
            prefix: IMPORT_HANDLE_PREFIX.into(),
            function: FunctionName::new(MARKER_FUNCTION),
            unique: MARKER_UNIQUE,
            reducer: b"",
            priority: Priority::Low,
            due_s: MARKER_DUE_S,
            submitted_s: 0,
            attempts: 0,
            workload: workload.as_bytes(),
        };
        let job = StoredJob::new(parts)
            .map_err(|why| ToolError::Store(format!("the marker of the import is invalid: {why}")))?;
        let key = job.key();
        self.target.commit(&Changes { adds: vec![job], sync: true, ..Changes::default() })?;
        Ok(key)
    }

    /// Copies all jobs that the target does not have.
    ///
    /// The source is read on a separate thread: it may call back inside its own runtime, where the target
    /// could not start another. While a batch is committed, the next one is read.
    fn copy(&mut self, there: Survey) -> Result<Moved, ToolError> {
        let (source, target, bar, batch_jobs) = (&mut *self.source, &mut *self.target, self.bar, self.batch_jobs);
        let (sender, batches) = mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || read(source, there, batch_jobs, bar, &sender));
            // The reader ends when the receiver is dropped.
            let committed = batches.into_iter().try_for_each(|batch| target.commit(&batch));
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            committed?;
            read
        })
    }

    /// Verifies the number of jobs in the target.
    fn count(&mut self, marker: &JobKey, expected: u64) -> Result<(), ToolError> {
        let mut jobs = 0_u64;
        self.target.replay(&mut |job, _| {
            jobs += u64::from(job.key() != *marker);
            Workloads::Unwanted
        })?;
        if jobs == expected {
            return Ok(());
        }
        Err(ToolError::Store(format!(
            "the target holds {jobs} jobs where there should be {expected}; nothing was removed from the source. Run \
             `gearmand queue verify` on both"
        )))
    }

    /// Removes all jobs from the source, after their copies were counted. `jobs` is their number.
    fn empty_source(&mut self, jobs: u64) -> Result<u64, ToolError> {
        self.bar.set_style(style("{spinner} {pos} jobs copied; emptying the source"));
        let mut removed = 0;
        loop {
            let mut keys = Vec::new();
            self.source.replay(&mut |job, _| {
                if keys.len() < PASS_JOBS {
                    keys.push(job.key());
                }
                Workloads::Unwanted
            })?;
            if keys.is_empty() {
                return Ok(removed);
            }
            if removed >= jobs {
                return Err(ToolError::Store(
                    "the source still holds jobs after all were removed; their copies are in the target, so delete \
                     them from the source by hand"
                        .to_owned(),
                ));
            }
            while !keys.is_empty() {
                let rest = keys.split_off(keys.len().min(self.batch_jobs));
                removed += u64::try_from(keys.len()).unwrap_or(u64::MAX);
                self.source.commit(&Changes { removes: keys, sync: true, ..Changes::default() })?;
                keys = rest;
            }
        }
    }
}

/// Reads all jobs, and sends those missing in the target in batches, with new numbers.
fn read(
    source: &mut dyn Store,
    there: Survey,
    batch_jobs: usize,
    bar: &ProgressBar,
    sender: &SyncSender<Changes>,
) -> Result<Moved, ToolError> {
    let Survey { mut known_jobs, mut last_number, .. } = there;
    let mut moved = Moved::default();
    let mut failure = None;
    let mut is_wanted = true;
    let (mut adds, mut bytes) = (Vec::new(), 0);
    let send = |adds: &mut Vec<StoredJob>, last_number| {
        sender.send(Changes { adds: std::mem::take(adds), last_number, sync: true, ..Changes::default() }).is_ok()
    };
    source.replay(&mut |mut job, has_workload| {
        if !has_workload && is_wanted {
            let handle = client::printable(&job.handle().to_string());
            failure = Some(format!("the source returned job {handle} without its workload"));
            is_wanted = false;
        }
        if !is_wanted {
            return Workloads::Unwanted;
        }
        bar.inc(1);
        if known_jobs.has(&job) {
            moved.known += 1;
            return Workloads::Wanted;
        }
        last_number = job.number.max(last_number + 1);
        job.number = last_number;
        bytes += job.workload().len();
        adds.push(job);
        moved.copied += 1;
        if adds.len() >= batch_jobs || bytes >= BATCH_BYTES {
            bytes = 0;
            is_wanted = send(&mut adds, last_number);
        }
        Workloads::Wanted
    })?;
    if is_wanted && !adds.is_empty() {
        send(&mut adds, last_number);
    }
    failure.map_or(Ok(moved), |text| Err(ToolError::Store(text)))
}

impl ImportMarker {
    fn read(job: &StoredJob) -> Self {
        let text = String::from_utf8_lossy(job.workload());
        let mut lines = text.lines();
        let number = lines.next().and_then(|line| line.parse().ok());
        let last_number = number.filter(|number| *number <= NUMBER_MAX).unwrap_or_default();
        Self { key: job.key(), from: lines.next().unwrap_or_default().to_owned(), last_number }
    }
}

/// Whether this job is the marker of an import.
pub(super) fn is_marker(job: &StoredJob) -> bool {
    // No server assigns handles with this prefix, so no client can create a marker.
    job.function.as_bytes() == MARKER_FUNCTION && job.unique() == MARKER_UNIQUE && *job.prefix == *IMPORT_HANDLE_PREFIX
}

fn style(template: &str) -> ProgressStyle {
    client::progress_style(template)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_known_again_without_their_secrets() {
        for (url, expected) in [
            ("postgres://u:pw@h:1/d?table=t&sslmode=disable", "PostgreSQL at h:1/d (table t)"),
            ("postgres:user=u password=pw host=h dbname=d", "PostgreSQL at host=h dbname=d (table queue)"),
            ("mysql://u:pw@h/d", "MySQL at h:3306 (database d, table gearman_queue)"),
            ("redis://:pw@h", "Redis at h:6379 (prefix _gear_)"),
            ("/not/there", "sqlite:/not/there (table gearman_queue)"),
        ] {
            assert_eq!(identity(&url.parse::<QueueUrl>().unwrap().0), expected);
        }
    }

    #[test]
    fn a_queue_is_the_same_however_its_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("q");
        std::fs::write(&path, "").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let location = |path: &Path| format!("sqlite:{}", path.display()).parse::<QueueUrl>().unwrap().0;
        assert!(is_same(&source_of(&location(&path)), &location(&link)));
        assert!(!is_same(&location(&path), &location(&directory.path().join("other"))));
    }
}
