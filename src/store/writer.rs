//! The one thread that touches the store: it gathers operations into transactions, and reports what became of them.
//!
//! There is no timer and nothing to tune: while one transaction is on its way to the disk the next one
//! gathers, so the disk sets the pace, and each transaction is as large as it need be. Only where
//! transactions are large already the next one waits a fraction of a millisecond for what is just coming.
//! Jobs are reported as stored when their transaction is, never before. Removals, for which nobody waits, go
//! with new jobs where some come soon: see `removals.rs`.
//!
//! # Failures
//! A transaction that failed may have happened all the same. Its new jobs are reported as not stored, and are removed
//! before anything else is done; so are jobs that ended meanwhile: what is to be removed is remembered until it is. So is
//! what the operator changed of a job, with every name that the job may have by then.
//! While the store fails, new jobs are refused at once, and it is tried again after a while that grows to a few seconds, or
//! sooner, once a second, where somebody needs it; after a try that took longer it is left alone as long as the try took, up
//! to those few seconds. It is read all the same, unless it cannot be reached or makes no sense.
//!
//! A store that knows how much room it has refuses new jobs before there is none: then jobs are still handed out and
//! removed, until there is room again. See `full.rs`.

mod batch;
mod failing;
mod full;
mod owed;
mod removals;
mod spare;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{error, warn};

use self::batch::{Addition, Batch};
use self::failing::Failing;
use self::full::Measured;
use self::owed::Owed;
use self::removals::HeldBack;
use super::commit::Committed;
use super::look::Sight;
use super::queue::{Queue, Taken};
use super::{Changes, Room, Store, StoreError};
use crate::job_server::{Durability, JobKey, NUMBER_MAX, StoreFailure, StoreOp, StoreReport, StoredJob};
use crate::log_level::audit;
use crate::stats::{Stats, StoreState};

/// The most changes in one transaction, and about how many bytes.
const MOST_CHANGES: usize = 8192;
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// A transaction of so many changes shows a load under which it is worth to wait for more, this long at a time and so often.
const BUSY: usize = 16;
const GATHERING: Duration = Duration::from_micros(100);
const GATHERINGS: usize = 5;
/// So many numbers are noted as given in advance, which spares nearly all transactions the note. A start skips them.
const NUMBERS_AHEAD: u64 = 1000;
/// So long after a commit the store may do what takes longer, once nothing waits.
const REST_AFTER: Duration = Duration::from_secs(5);
/// How long a store that failed is left alone: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Whoever needs a store that was left alone for so long has it tried: it may be back. After a try that took longer it is left
/// alone as long as the try took, and at most for [`LONGEST_PAUSE`].
const ASKED_PAUSE: Duration = Duration::from_secs(1);
/// How long a store that was full is called failing though it works a little.
const TRIAL: Duration = Duration::from_secs(30);

/// What the operator decides about the writer. It may change while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How far changes must have come that nobody waits for: those of jobs that ended.
    pub durability: Durability,
    /// Within this time changes of [`Durability::Interval`] are on the disk.
    pub interval: Duration,
    /// How often a store that nothing is asked of is tried, to see whether it is still there.
    pub probe: Option<Duration>,
    /// See [`Store::set_reserve`].
    pub reserve: Option<u64>,
}

/// Who is told what became of operations.
pub type Report = Box<dyn FnMut(Vec<StoreReport>) + Send>;

/// Starts the thread. It ends when `queue` is closed and everything in it is done, or cannot be done.
///
/// # Errors
/// Where the system has no thread left.
pub fn spawn(
    store: Box<dyn Store>,
    queue: Arc<Queue>,
    settings: Settings,
    stats: Arc<Stats>,
    report: Report,
) -> io::Result<JoinHandle<()>> {
    let writer = Writer::new(store, queue, settings, stats, report);
    std::thread::Builder::new().name("store".to_owned()).spawn(move || writer.run())
}

struct Writer {
    store: Box<dyn Store>,
    queue: Arc<Queue>,
    settings: Settings,
    stats: Arc<Stats>,
    report: Report,
    held_back: HeldBack,
    owed: Owed,
    failing: Option<Failing>,
    /// What was said last of jobs that cannot be read.
    unreadable: Option<String>,
    /// Whether the last transaction was a large one.
    is_busy: bool,
    /// Whether the store has refused an edit or a decision of those that were taken last. Who waits for a commit waits for all that
    /// was asked before, whoever asked it: so everyone who waits for what was taken with it is told.
    has_refused: bool,
    /// No job up to this number will have its number again.
    noted: u64,
    /// When the last transaction was tried.
    tried: Instant,
    /// How long the last transaction, or the last read, took.
    tried_for: Duration,
    /// Whether the store may make the next commits quicker.
    may_prepare: bool,
    /// When the store may do what takes longer.
    rest_at: Option<Instant>,
    /// Since when something is committed that must be on the disk within the interval.
    unsynced_since: Option<Instant>,
    measured: Measured,
}

impl Writer {
    /// A writer that has done nothing yet.
    fn new(store: Box<dyn Store>, queue: Arc<Queue>, settings: Settings, stats: Arc<Stats>, report: Report) -> Self {
        Self {
            store,
            queue,
            settings,
            stats,
            report,
            held_back: HeldBack::default(),
            owed: Owed::default(),
            failing: None,
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
                self.gather();
            }
            let taken = self.queue.take(self.wake_at(), MOST_CHANGES, MOST_BYTES);
            let Taken { changes, attempts, loads, look, waiters, decisions, settings, closed } = taken;
            if let Some(settings) = settings {
                if settings.reserve != self.settings.reserve {
                    self.store.set_reserve(settings.reserve);
                }
                self.settings = settings;
            }
            self.load_all(loads);
            if let Some(wanted) = look {
                let sight = self.look(&wanted.job);
                wanted.give(sight);
            }
            self.is_busy = changes.len() >= BUSY;
            self.has_refused = false;
            let has_more = !attempts.is_empty() || !decisions.is_empty();
            self.owed.settings.extend(decisions);
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
            self.stats.store.owed.set(self.owed.removes.len() as u64);
            self.queue.set_owed(self.owed.removes.len());
        }
    }

    /// Under load a transaction costs more than what is in it. While changes keep coming it waits a little, so that they share one.
    fn gather(&self) {
        for _ in 0..GATHERINGS {
            let there = self.queue.len();
            if there == 0 {
                return;
            }
            std::thread::park_timeout(GATHERING);
            if self.queue.len() < there + there / 4 {
                return;
            }
        }
    }

    /// Whether all that was asked for until now, apart from new jobs, is committed.
    fn committed(&self) -> Committed {
        if self.has_refused {
            return Err(StoreFailure::Refused);
        }
        if self.owed.has_only_refused() {
            return Ok(());
        }
        Err(self.failing.as_ref().map_or(StoreFailure::Io, |failing| failing.failure))
    }

    /// When something is to be done though nothing was asked.
    fn wake_at(&self) -> Option<Instant> {
        if self.may_prepare && self.failing.is_none() {
            return Some(Instant::now());
        }
        let rest_at = self.rest_at.filter(|_| self.failing.is_none());
        self.commit_at().into_iter().chain(self.measure_at()).chain(rest_at).chain(self.removals_due()).min()
    }

    fn commit_at(&self) -> Option<Instant> {
        if let Some(failing) = &self.failing {
            return Some(failing.again);
        }
        let sync = self.unsynced_since.map(|since| since + self.settings.interval);
        let probe = self.settings.probe.map(|interval| self.tried + interval);
        sync.into_iter().chain(probe).min()
    }

    fn change(&mut self, operations: Vec<StoreOp>, attempts: Vec<(JobKey, u16)>) {
        let batch = Batch::of(operations);
        let mut reports = Vec::with_capacity(batch.additions.len());
        // Clients hold the handles of all of them, also of those that need not be stored any more.
        let highest = batch.additions.iter().map(|addition| addition.job.number).max().unwrap_or(0);
        let (mut additions, mut changes) = batch.finish(attempts, &mut reports);
        if highest > self.noted {
            changes.last_number = highest.saturating_add(NUMBERS_AHEAD).min(NUMBER_MAX);
        }
        if let Some(failure) = self.refuses() {
            reports.extend(additions.drain(..).map(|addition| added(addition.ticket, Err(failure))));
        } else if !additions.is_empty() {
            self.refuse_beyond_room(&mut additions, &mut reports);
        }
        // A store that is full has room for what removes jobs.
        if additions.is_empty() && self.must_wait() {
            self.owed.add(changes);
        } else if self.failing.is_none() || !additions.is_empty() || !changes.is_empty() || !self.owed.is_empty() {
            self.commit_all(additions, changes, &mut reports);
        }
        self.tell(reports);
        self.rest_at.get_or_insert_with(|| Instant::now() + REST_AFTER);
        self.may_prepare = true;
        // Nobody waits for this.
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
            // It may be an edit that does not fit. Those are owed now, and made or given up before this is tried again.
            Err(Failed { failure: StoreFailure::Refused, adds, sync }) if has_edits => {
                self.commit_part(tickets, Changes { adds, last_number, sync, ..Changes::default() }, reports);
            }
            Err(Failed { failure: StoreFailure::Refused, mut adds, sync }) if adds.len() > 1 => {
                // One of them does not fit: it must not keep the others out.
                let half = adds.len() / 2;
                let later = (tickets.split_off(half), adds.split_off(half));
                for (tickets, adds) in [(tickets, adds), later] {
                    if let Some(failure) = self.refuses() {
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

    /// Why new jobs are refused without trying.
    fn refuses(&self) -> Option<StoreFailure> {
        self.failing
            .as_ref()
            .filter(|failing| !failing.is_on_trial && failing.is_left_alone())
            .map(|failing| failing.failure)
    }

    fn is_sync_due(&self) -> bool {
        self.unsynced_since.is_some_and(|since| since.elapsed() >= self.settings.interval)
    }

    /// Commits what is owed, then `changes`. What of it must not be forgotten is owed if that fails.
    fn commit(&mut self, changes: Changes) -> Result<(), Failed> {
        while let Some(part) = self.owed.take(changes.sync) {
            match self.try_commit(&part) {
                Ok(()) => self.set_writable(true),
                Err(error) if error.failure == StoreFailure::Refused && !part.edits.is_empty() => {
                    self.has_refused = true;
                    for (key, edit) in self.owed.refused(part) {
                        let (number, from, to) = (key.number, key.function, edit.function);
                        error!(
                            "the store refuses a change, and job {number} of {from}, now of {to}, stays as it was: {error}"
                        );
                    }
                }
                Err(error) if error.failure == StoreFailure::Refused && !part.settings.is_empty() => {
                    self.has_refused = true;
                    error!(
                        "the store refuses what the operator has decided, and a restart will undo the last {} decisions: {error}",
                        part.settings.len()
                    );
                }
                Err(error) => {
                    self.fail(&error);
                    self.set_writable(false);
                    self.owed.add(part);
                    // What comes after it was not tried: nothing of it can have happened.
                    let Changes { adds, sync, .. } = self.owe(changes);
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
                error!("the store refuses a job: {error}");
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

    /// Changes that may or may not have been made: the new jobs must not be found at the next start. A store that refuses
    /// has made none of them, and it may be another job of the same number that stands in the way.
    fn give_up(&mut self, failure: StoreFailure, changes: Changes) -> Failed {
        let Changes { adds, sync, .. } = self.owe(changes);
        if failure != StoreFailure::Refused {
            self.owed.add_refused(adds.iter().map(StoredJob::key));
        }
        Failed { failure, adds, sync }
    }

    /// Owes what is not new in the changes; returns the rest.
    fn owe(&mut self, changes: Changes) -> Changes {
        let Changes { removes, edits, adds, attempts, settings, last_number, sync } = changes;
        self.owed.add(Changes { removes, edits, attempts, settings, ..Changes::default() });
        Changes { adds, last_number, sync, ..Changes::default() }
    }

    /// The store does not work: says so, once, and leaves it alone for a while.
    fn fail(&mut self, error: &StoreError) {
        let now = Instant::now();
        let known = self.failing.take().filter(|known| known.failure == error.failure);
        if known.is_none() {
            error!("the store fails, and background jobs are refused: {error}");
        }
        self.stats.store.failures.add(1);
        self.stats.store.set_state(StoreState::Failing(error.text.clone()));
        let is_writable = known.as_ref().is_some_and(|known| known.is_writable);
        let (since, pause) = known.map_or((now, FIRST_PAUSE), |known| (known.since, known.pause * 2));
        let pause = pause.max(self.tried_for).min(LONGEST_PAUSE);
        let (failure, again) = (error.failure, now + pause);
        let asked_again = now + self.tried_for.clamp(ASKED_PAUSE, LONGEST_PAUSE);
        let failing =
            Failing { failure, since, failed: now, again, asked_again, pause, is_on_trial: false, is_writable };
        self.failing = Some(failing);
    }

    /// The store has done something, `with_jobs` or without. On a full disk there may be room for a little, and none for the next
    /// job: until it has taken one, or for a while, such a store gets jobs and is still called failing.
    fn recover(&mut self, with_jobs: bool) {
        self.set_writable(true);
        match self.has_room_again() {
            Some(true) => return self.work_again(),
            Some(false) => return,
            None => {}
        }
        if let Some(failing) = &mut self.failing
            && failing.failure == StoreFailure::Full
            && !with_jobs
            && failing.failed.elapsed() < TRIAL
        {
            failing.is_on_trial = true;
            failing.again = Instant::now() + LONGEST_PAUSE;
            return;
        }
        self.work_again();
    }

    fn work_again(&mut self) {
        if let Some(failing) = self.failing.take() {
            audit!("the store works again, after {:.1} s", failing.since.elapsed().as_secs_f64());
            self.stats.store.set_state(StoreState::Working);
        }
    }

    /// Where a read fails for another reason than damage, those behind it are answered without trying: each may take seconds,
    /// and changes wait for them. They are asked for again.
    fn load_all(&mut self, loads: Vec<StoreOp>) {
        let mut failed = None;
        for load in loads {
            let StoreOp::Load { ticket, jobs } = load else {
                continue;
            };
            let result = match failed.or_else(|| self.refuses().filter(|failure| is_unreadable(*failure))) {
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

    /// Where this fails nothing is said of it, since nobody is kept waiting: only a store that cannot be reached is left alone from
    /// then on.
    fn look(&mut self, job: &JobKey) -> Option<Sight> {
        if self.refuses().is_some_and(is_unreadable) {
            return None;
        }
        let read = self.read(std::slice::from_ref(job));
        if let Err(error) = &read
            && error.failure == StoreFailure::Unreachable
        {
            self.fail(error);
        }
        let workload = read.ok()?.pop().flatten()?;
        Some(Sight::of(&workload))
    }

    fn read(&mut self, jobs: &[JobKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let start = Instant::now();
        let result = self.read_by_any_name(jobs);
        self.tried_for = start.elapsed();
        result
    }

    /// Reads workloads, also of jobs of which it is not known what the store calls them.
    fn read_by_any_name(&mut self, jobs: &[JobKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut workloads = self.store.load(jobs, MOST_BYTES)?;
        for (place, job) in jobs.iter().enumerate().take(workloads.len()) {
            if workloads[place].is_some() {
                continue;
            }
            for name in self.owed.names(job) {
                let found = self.store.load(std::slice::from_ref(name), MOST_BYTES)?.pop().flatten();
                if found.is_some() {
                    // The rest is asked for again, so that no more is read at once than may be.
                    workloads.truncate(place);
                    workloads.push(found);
                    return Ok(workloads);
                }
            }
        }
        Ok(workloads)
    }

    /// Damage where a single job is does not keep the store from taking others. A store that cannot be reached is left alone anew,
    /// since each try may take many seconds; any other that fails already fails for what was said of it then, since it may
    /// be written to all the same.
    fn fail_to_read(&mut self, error: &StoreError) {
        if error.failure != StoreFailure::Corrupt {
            if self.failing.is_none() || error.failure == StoreFailure::Unreachable {
                self.fail(error);
            }
            return;
        }
        if self.unreadable.as_ref() != Some(&error.text) {
            error!("a job cannot be read, and waits: {error}");
            self.unreadable = Some(error.text.clone());
        }
    }

    fn tell(&mut self, reports: Vec<StoreReport>) {
        if !reports.is_empty() {
            (self.report)(reports);
        }
    }

    /// The last transaction.
    fn finish(mut self, last_number: u64) {
        let end = Changes { last_number, sync: true, ..Changes::default() };
        let is_failed = self.commit(end).is_err();
        self.stats.store.owed.set(self.owed.ended() as u64);
        if is_failed && !self.is_missing() {
            let mut outcomes = self.owed.outcomes();
            if self.unsynced_since.is_some() {
                outcomes.push("what was committed last is lost if the machine stops soon".to_owned());
            }
            if outcomes.is_empty() {
                warn!("the store fails at the end, and all changes were committed before");
            } else {
                error!("the store could not be written at the end: {}", outcomes.join(", "));
            }
        }
    }
}

/// Whether a store that fails so cannot be read either. What is full, read-only or locked may still be read.
fn is_unreadable(failure: StoreFailure) -> bool {
    matches!(failure, StoreFailure::Unreachable | StoreFailure::Corrupt)
}

/// Changes that were not made.
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
