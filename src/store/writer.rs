//! The writer thread, the only one that touches the store: it groups operations into transactions and reports
//! their results.
//!
//! This is group commit without tuning: while one transaction is written to disk, operations for the next one
//! accumulate. Only when transactions are large does the writer linger a fraction of a millisecond. A job is
//! reported as stored after its transaction was committed. Removals, for which no client waits, are delayed
//! briefly so that they share a transaction with new jobs: see `removals.rs`.
//!
//! # Failures
//! A failed transaction may have been applied all the same. Its new jobs are reported as not stored, and
//! their removal goes to the retry backlog, which is committed before anything newer. Removals of jobs that
//! ended stay in the backlog until they succeed. So do edits by the operator, with every name that the job
//! may have in the store.
//!
//! While the store fails, new jobs are rejected at once (circuit breaker). The store is retried after a delay
//! that grows to a few seconds, or once a second if an operation needs it; after a slow attempt, after as
//! long as that took. Reads continue, unless the store is unreachable or corrupt.
//!
//! A store that knows its free space rejects new jobs before the space runs out. Then jobs are still handed
//! out and removed, until there is room again. See `full.rs`.

mod batch;
mod circuit_breaker;
mod full;
mod removals;
mod retry_backlog;
mod spare;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{error, warn};

use self::batch::{Addition, Batch};
use self::circuit_breaker::CircuitBreaker;
use self::full::Measured;
use self::removals::HeldBack;
use self::retry_backlog::RetryBacklog;
use super::commit::Committed;
use super::preview::Preview;
use super::write_queue::{Taken, WriteQueue};
use super::{Changes, Room, Store, StoreError};
use crate::job_server::{Durability, JobKey, NUMBER_MAX, StoreFailure, StoreOp, StoreReport, StoredJob};
use crate::stats::{Stats, StoreState};

/// Limits of one transaction: number of changes, and approximate number of bytes.
const MOST_CHANGES: usize = 8192;
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// A transaction of at least `BUSY` changes indicates load. Then the writer lingers for more changes, up to
/// `BATCH_LINGERS` times for `BATCH_LINGER`.
const BUSY: usize = 16;
const BATCH_LINGER: Duration = Duration::from_micros(100);
const BATCH_LINGERS: usize = 5;
/// Job numbers are reserved in blocks of this size, so that hardly any transaction has to record the highest
/// number. A restart skips the unused numbers of a block.
const NUMBER_RESERVATION: u64 = 1000;
/// Delay after a commit before the longer housekeeping, which runs only while idle.
const REST_AFTER: Duration = Duration::from_secs(5);
/// Retry delay for a failed store: initial and maximum.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Minimum retry delay when an operation needs the store. After an attempt that took longer, the delay is as
/// long as the attempt took, up to [`LONGEST_PAUSE`].
const ASKED_PAUSE: Duration = Duration::from_secs(1);

/// Settings of the writer. They may change while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Durability of changes for which no client waits, such as the removal of jobs that ended.
    pub durability: Durability,
    /// Changes with [`Durability::Interval`] are on disk within this time.
    pub interval: Duration,
    /// How often an idle store is probed, to detect that it is gone.
    pub probe: Option<Duration>,
    /// See [`Store::set_reserve`].
    pub reserve: Option<u64>,
}

/// Callback for the results of operations.
pub type Report = Box<dyn FnMut(Vec<StoreReport>) + Send>;

/// Starts the writer thread. It ends when `queue` is closed and its operations are done or cannot be done.
///
/// # Errors
/// The system cannot create another thread.
pub fn spawn(
    store: Box<dyn Store>,
    queue: Arc<WriteQueue>,
    settings: Settings,
    stats: Arc<Stats>,
    report: Report,
) -> io::Result<JoinHandle<()>> {
    let writer = Writer::new(store, queue, settings, stats, report);
    std::thread::Builder::new().name("store".to_owned()).spawn(move || writer.run())
}

struct Writer {
    store: Box<dyn Store>,
    queue: Arc<WriteQueue>,
    settings: Settings,
    stats: Arc<Stats>,
    report: Report,
    held_back: HeldBack,
    retry_backlog: RetryBacklog,
    /// Set while the store fails.
    breaker: Option<CircuitBreaker>,
    /// The last error logged about unreadable jobs.
    unreadable: Option<String>,
    /// Whether the last transaction was large.
    is_busy: bool,
    /// Whether the store has rejected an edit or a setting of the current batch. A caller who waits for a
    /// commit waits for all earlier operations, so everyone waiting for this batch gets the error.
    has_refused: bool,
    /// The end of the reserved job numbers: the store has recorded that numbers up to this one may have been
    /// assigned.
    noted: u64,
    /// When the last transaction was attempted.
    tried: Instant,
    /// Duration of the last transaction or read.
    tried_for: Duration,
    /// Whether `prepare` may have work that makes the next commits faster.
    may_prepare: bool,
    /// When the longer housekeeping is due.
    rest_at: Option<Instant>,
    /// Commit time of the oldest change that must still be synced within the interval.
    unsynced_since: Option<Instant>,
    measured: Measured,
}

impl Writer {
    /// A new writer that has not touched the store yet.
    fn new(
        store: Box<dyn Store>,
        queue: Arc<WriteQueue>,
        settings: Settings,
        stats: Arc<Stats>,
        report: Report,
    ) -> Self {
        Self {
            store,
            queue,
            settings,
            stats,
            report,
            held_back: HeldBack::default(),
            retry_backlog: RetryBacklog::default(),
            breaker: None,
            unreadable: None,
            is_busy: false,
            has_refused: false,
            noted: 0,
            tried: Instant::now(),
            tried_for: Duration::ZERO,
            may_prepare: true,
            rest_at: None,
            unsynced_since: None,
            measured: Measured::default(),
        }
    }

    fn run(mut self) {
        self.store.set_reserve(self.settings.reserve);
        if let Room::Short(error) = self.store.room(0) {
            self.fill_up(&error);
        }
        loop {
            self.measure();
            if self.is_busy {
                self.linger();
            }
            let taken = self.queue.take(self.wake_at(), MOST_CHANGES, MOST_BYTES);
            let Taken { changes, attempts, loads, preview, waiters, decisions, settings, closed } = taken;
            if let Some(settings) = settings {
                if settings.reserve != self.settings.reserve {
                    self.store.set_reserve(settings.reserve);
                }
                self.settings = settings;
            }
            self.load_all(loads);
            if let Some(request) = preview {
                let preview = self.read_preview(&request.job);
                request.answer(preview);
            }
            self.is_busy = changes.len() >= BUSY;
            self.has_refused = false;
            let has_more = !attempts.is_empty() || !decisions.is_empty();
            self.retry_backlog.settings.extend(decisions);
            let changes = self.hold_back_removals(changes, has_more || !waiters.is_empty() || closed.is_some());
            if !changes.is_empty() || has_more {
                self.change(changes, attempts);
            } else if self.is_rest_due() {
                self.rest();
            } else {
                self.act_unasked();
                self.prepare();
            }
            if !waiters.is_empty() {
                let committed = self.committed();
                for waiter in waiters {
                    waiter.give(committed);
                }
            }
            if let Some(last_number) = closed {
                return self.finish(last_number);
            }
            self.stats.store.pending_removals.set(self.retry_backlog.removes.len() as u64);
            self.queue.set_backlog(self.retry_backlog.removes.len());
        }
    }

    /// Under load the fixed cost of a transaction dominates. While changes keep arriving, this lingers a
    /// little, so that they share a transaction.
    fn linger(&self) {
        for _ in 0..BATCH_LINGERS {
            let there = self.queue.len();
            if there == 0 {
                return;
            }
            std::thread::park_timeout(BATCH_LINGER);
            if self.queue.len() < there + there / 4 {
                return;
            }
        }
    }

    /// Whether all operations so far, except new jobs, are committed.
    fn committed(&self) -> Committed {
        if self.has_refused {
            return Err(StoreFailure::Refused);
        }
        if self.retry_backlog.has_only_refused() {
            return Ok(());
        }
        Err(self.breaker.as_ref().map_or(StoreFailure::Io, |breaker| breaker.failure))
    }

    /// The next time at which the writer must act without a request.
    fn wake_at(&self) -> Option<Instant> {
        if self.may_prepare && self.breaker.is_none() {
            return Some(Instant::now());
        }
        let rest_at = self.rest_at.filter(|_| self.breaker.is_none());
        self.commit_at().into_iter().chain(self.measure_at()).chain(rest_at).chain(self.removals_due()).min()
    }

    fn commit_at(&self) -> Option<Instant> {
        if let Some(breaker) = &self.breaker {
            return Some(breaker.again);
        }
        let sync = self.unsynced_since.map(|since| since + self.settings.interval);
        let probe = self.settings.probe.map(|interval| self.tried + interval);
        sync.into_iter().chain(probe).min()
    }

    fn change(&mut self, operations: Vec<StoreOp>, attempts: Vec<(JobKey, u16)>) {
        let batch = Batch::of(operations);
        let mut reports = Vec::with_capacity(batch.additions.len());
        // Clients hold the handles of all new jobs, including those that no longer need to be stored.
        let highest = batch.additions.iter().map(|addition| addition.job.number).max().unwrap_or(0);
        let (mut additions, mut changes) = batch.finish(attempts, &mut reports);
        if highest > self.noted {
            changes.last_number = highest.saturating_add(NUMBER_RESERVATION).min(NUMBER_MAX);
        }
        if let Some(failure) = self.rejection() {
            reports.extend(additions.drain(..).map(|addition| added(addition.ticket, Err(failure))));
        } else if !additions.is_empty() {
            self.refuse_beyond_room(&mut additions, &mut reports);
        }
        // A full store still has room to remove jobs.
        if additions.is_empty() && self.must_wait() {
            self.retry_backlog.add(changes);
        } else if self.breaker.is_none()
            || !additions.is_empty()
            || !changes.is_empty()
            || !self.retry_backlog.is_empty()
        {
            self.commit_all(additions, changes, &mut reports);
        }
        self.tell(reports);
        self.rest_at.get_or_insert_with(|| Instant::now() + REST_AFTER);
        self.may_prepare = true;
        // No client waits for this.
        if let Err(error) = self.store.idle() {
            self.fail(&error);
        }
    }

    fn commit_all(&mut self, additions: Vec<Addition>, mut changes: Changes, reports: &mut Vec<StoreReport>) {
        let is = |durability| additions.iter().any(|addition| addition.durability == durability);
        let is_unawaited = !changes.removes.is_empty() || !changes.edits.is_empty() || !changes.attempts.is_empty();
        let unawaited = self.settings.durability;
        let needs = |durability| is(durability) || is_unawaited && unawaited == durability;
        changes.sync = needs(Durability::Always) || self.is_sync_due();
        if !changes.sync && needs(Durability::Interval) {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        let mut tickets = Vec::with_capacity(additions.len());
        for Addition { ticket, job, .. } in additions {
            tickets.push(ticket);
            changes.adds.push(job);
        }
        self.commit_part(tickets, changes, reports);
    }

    fn commit_part(&mut self, mut tickets: Vec<u32>, changes: Changes, reports: &mut Vec<StoreReport>) {
        let (last_number, has_edits) = (changes.last_number, !changes.edits.is_empty());
        match self.commit(changes) {
            Ok(()) => reports.extend(tickets.into_iter().map(|ticket| added(ticket, Ok(())))),
            // The reason may be an oversized edit. The edits are in the backlog now, and are applied or
            // dropped before the additions are retried.
            Err(Failed { failure: StoreFailure::Refused, adds, sync }) if has_edits => {
                self.commit_part(tickets, Changes { adds, last_number, sync, ..Changes::default() }, reports);
            }
            Err(Failed { failure: StoreFailure::Refused, mut adds, sync }) if adds.len() > 1 => {
                // One of the jobs is rejected. Bisect, so that it does not block the others.
                let half = adds.len() / 2;
                let later = (tickets.split_off(half), adds.split_off(half));
                for (tickets, adds) in [(tickets, adds), later] {
                    if let Some(failure) = self.rejection() {
                        reports.extend(tickets.into_iter().map(|ticket| added(ticket, Err(failure))));
                    } else {
                        let part = Changes { adds, last_number, sync, ..Changes::default() };
                        self.commit_part(tickets, part, reports);
                    }
                }
            }
            Err(Failed { failure, .. }) => {
                reports.extend(tickets.into_iter().map(|ticket| added(ticket, Err(failure))));
            }
        }
    }

    fn is_sync_due(&self) -> bool {
        self.unsynced_since.is_some_and(|since| since.elapsed() >= self.settings.interval)
    }

    /// Commits the retry backlog, then `changes`. On failure, the part that must not be lost goes to the
    /// backlog.
    fn commit(&mut self, changes: Changes) -> Result<(), Failed> {
        while let Some(part) = self.retry_backlog.take(changes.sync) {
            match self.try_commit(&part) {
                Ok(()) => self.set_writable(true),
                Err(error) if error.failure == StoreFailure::Refused && !part.edits.is_empty() => {
                    self.has_refused = true;
                    for (key, edit) in self.retry_backlog.refused(part) {
                        let (number, from, to) = (key.number, key.function, edit.function);
                        error!(
                            "the store rejected an edit; job {number} stays as stored ({from} -> {to} not saved): \
                             {error}"
                        );
                    }
                }
                Err(error) if error.failure == StoreFailure::Refused && !part.settings.is_empty() => {
                    self.has_refused = true;
                    error!(
                        "the store rejected operator settings; a restart will revert the last {}: {error}",
                        part.settings.len()
                    );
                }
                Err(error) => {
                    self.fail(&error);
                    self.set_writable(false);
                    self.retry_backlog.add(part);
                    // The newer changes were not attempted, so they cannot have been applied.
                    let Changes { adds, sync, .. } = self.add_to_backlog(changes);
                    return Err(Failed { failure: error.failure, adds, sync });
                }
            }
        }
        match self.try_commit(&changes) {
            Ok(()) => {
                self.recover(!changes.adds.is_empty());
                self.noted = self.noted.max(changes.last_number);
                if changes.sync {
                    self.unsynced_since = None;
                }
                Ok(())
            }
            Err(error) if error.failure == StoreFailure::Refused => {
                error!("the store rejected a job: {error}");
                Err(self.give_up(error.failure, changes))
            }
            Err(error) => {
                self.fail(&error);
                if changes.adds.is_empty() && !changes.is_empty() {
                    self.set_writable(false);
                }
                Err(self.give_up(error.failure, changes))
            }
        }
    }

    fn try_commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let start = Instant::now();
        let result = self.store.commit(changes);
        self.tried = Instant::now();
        let (stats, took) = (&self.stats.store, start.elapsed());
        self.tried_for = took;
        stats.commits.add(1);
        stats.commit_ns.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        stats.commit_times.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if result.is_ok() {
            stats.added.add(changes.adds.len() as u64);
            stats.removed.add(changes.removes.len() as u64);
            stats.syncs.add(u64::from(changes.sync));
        }
        result
    }

    /// Handles changes that may or may not have been applied: the next start must not find the new jobs, so
    /// they are queued for removal. A store that rejected the transaction applied none of it, and a different
    /// job may be stored under the same number.
    fn give_up(&mut self, failure: StoreFailure, changes: Changes) -> Failed {
        let Changes { adds, sync, .. } = self.add_to_backlog(changes);
        if failure != StoreFailure::Refused {
            self.retry_backlog.add_refused(adds.iter().map(StoredJob::key));
        }
        Failed { failure, adds, sync }
    }

    /// Adds everything except new jobs to the retry backlog. Returns the rest.
    fn add_to_backlog(&mut self, changes: Changes) -> Changes {
        let Changes { removes, edits, adds, attempts, settings, last_number, sync } = changes;
        self.retry_backlog.add(Changes { removes, edits, attempts, settings, ..Changes::default() });
        Changes { adds, last_number, sync, ..Changes::default() }
    }

    /// Records a failure: logs it if it is a new one, and opens the circuit breaker for a while.
    fn fail(&mut self, error: &StoreError) {
        let now = Instant::now();
        let known = self.breaker.take().filter(|known| known.failure == error.failure);
        if known.is_none() {
            error!("the store is failing, and background jobs are rejected: {error}");
        }
        self.stats.store.failures.add(1);
        self.stats.store.set_state(StoreState::Failing(error.text.clone()));
        let is_writable = known.as_ref().is_some_and(|known| known.is_writable);
        let (since, pause) = known.map_or((now, FIRST_PAUSE), |known| (known.since, known.pause * 2));
        let pause = pause.max(self.tried_for).min(LONGEST_PAUSE);
        let (failure, again) = (error.failure, now + pause);
        let asked_again = now + self.tried_for.clamp(ASKED_PAUSE, LONGEST_PAUSE);
        let breaker =
            CircuitBreaker { failure, since, failed: now, again, asked_again, pause, is_half_open: false, is_writable };
        self.breaker = Some(breaker);
    }

    /// After a read failed for another reason than corruption, the remaining loads fail without an attempt:
    /// each could take seconds, and changes wait for them. The job server asks for them again.
    fn load_all(&mut self, loads: Vec<StoreOp>) {
        let mut failed = None;
        for load in loads {
            let StoreOp::Load { ticket, jobs } = load else {
                continue;
            };
            let result = match failed.or_else(|| self.rejection().filter(|failure| is_unreadable(*failure))) {
                Some(failure) => Err(failure),
                None => self.read(&jobs).map_err(|error| {
                    self.fail_to_read(&error);
                    failed = Some(error.failure).filter(|failure| *failure != StoreFailure::Corrupt);
                    error.failure
                }),
            };
            self.tell(vec![StoreReport::Loaded { ticket, result }]);
        }
    }

    /// Reads a workload for a preview. A failure is not logged, since no client waits. Only an unreachable
    /// store opens the circuit breaker.
    fn read_preview(&mut self, job: &JobKey) -> Option<Preview> {
        if self.rejection().is_some_and(is_unreadable) {
            return None;
        }
        let read = self.read(std::slice::from_ref(job));
        if let Err(error) = &read
            && error.failure == StoreFailure::Unreachable
        {
            self.fail(error);
        }
        let workload = read.ok()?.pop().flatten()?;
        Some(Preview::of(&workload))
    }

    fn read(&mut self, jobs: &[JobKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let start = Instant::now();
        let result = self.read_by_any_name(jobs);
        self.tried_for = start.elapsed();
        result
    }

    /// Reads workloads, also of jobs whose name in the store is uncertain.
    fn read_by_any_name(&mut self, jobs: &[JobKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut workloads = self.store.load(jobs, MOST_BYTES)?;
        for (place, job) in jobs.iter().enumerate().take(workloads.len()) {
            if workloads[place].is_some() {
                continue;
            }
            for name in self.retry_backlog.names(job) {
                let found = self.store.load(std::slice::from_ref(name), MOST_BYTES)?.pop().flatten();
                if found.is_some() {
                    // The caller asks for the rest again, so that one read stays within its limit.
                    workloads.truncate(place);
                    workloads.push(found);
                    return Ok(workloads);
                }
            }
        }
        Ok(workloads)
    }

    /// Corruption of a single job does not keep the store from accepting others. An unreachable store opens
    /// the circuit breaker again, since each attempt may take many seconds. Any other failing store keeps its
    /// earlier error, because writes may still work.
    fn fail_to_read(&mut self, error: &StoreError) {
        if error.failure != StoreFailure::Corrupt {
            if self.breaker.is_none() || error.failure == StoreFailure::Unreachable {
                self.fail(error);
            }
            return;
        }
        if self.unreadable.as_ref() != Some(&error.text) {
            error!("cannot read a job, which stays queued: {error}");
            self.unreadable = Some(error.text.clone());
        }
    }

    fn tell(&mut self, reports: Vec<StoreReport>) {
        if !reports.is_empty() {
            (self.report)(reports);
        }
    }

    /// Commits the last transaction.
    fn finish(mut self, last_number: u64) {
        let end = Changes { last_number, sync: true, ..Changes::default() };
        let is_failed = self.commit(end).is_err();
        self.stats.store.pending_removals.set(self.retry_backlog.ended() as u64);
        if is_failed && !self.is_missing() {
            let mut outcomes = self.retry_backlog.outcomes();
            if self.unsynced_since.is_some() {
                outcomes.push("the last commits are not synced: they are lost if the machine fails soon".to_owned());
            }
            if outcomes.is_empty() {
                warn!("the store failed at shutdown; all changes had been committed");
            } else {
                error!("the store failed at shutdown: {}", outcomes.join(", "));
            }
        }
    }
}

/// Whether a store with this failure is unreadable too. A full, read-only or locked one may be readable.
fn is_unreadable(failure: StoreFailure) -> bool {
    matches!(failure, StoreFailure::Unreachable | StoreFailure::Corrupt)
}

/// Changes that were not applied.
struct Failed {
    failure: StoreFailure,
    adds: Vec<StoredJob>,
    sync: bool,
}

fn added(ticket: u32, result: Result<(), StoreFailure>) -> StoreReport {
    StoreReport::Added { ticket, result }
}

#[cfg(test)]
mod tests;
