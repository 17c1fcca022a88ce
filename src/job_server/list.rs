//! Listings of jobs, a bounded number at a time.
//!
//! Jobs come and go between two calls: a listing of several calls is no snapshot.

use std::ops::{ControlFlow, Range};

use super::attempt_history::FailedAttempt;
use super::control::LOOKS_PER_CALL;
use super::ids::{FunctionSlot, RunSlot, SlotId, WaitSlot};
use super::index::NONE;
use super::job::{JobRef, JobState, Residency};
use super::{ConnectionId, JobServer, WORK_PER_CALL};
use crate::protocol::{FunctionName, JobHandle, Priority};

/// A job as listings show it.
#[derive(Clone, Copy, Debug)]
pub struct JobView<'a> {
    /// Its handle.
    pub handle: JobHandle<'a>,
    /// Its function.
    pub function: &'a FunctionName,
    /// Its unique id, which may be empty.
    pub unique: &'a [u8],
    /// Its priority.
    pub priority: Priority,
    /// Its stage.
    pub stage: Stage,
    /// When it was submitted, in milliseconds since 1970; 0 if unknown.
    pub submitted_ms: u64,
    /// When it may run, in seconds since 1970; 0 means immediately.
    pub due_s: u64,
    /// The number of failed attempts: how often a worker was lost with it.
    pub attempts: u32,
    /// Its failed attempts, oldest first: at most eight, and none from before a restart.
    pub failed_attempts: &'a [FailedAttempt],
    /// Whether it runs although it has no waits and is no background job.
    pub abandoned: bool,
    /// Whether it is a background job, which lives on without its client.
    pub background: bool,
    /// Whether a store has it.
    pub stored: bool,
    /// The number of submissions that wait for its end.
    pub clients: u32,
    /// Its workload, unless only the store has it.
    pub workload: Option<&'a [u8]>,
}

/// The stage of a job, as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is not due yet.
    Scheduled,
    /// It waits for a worker.
    Queued,
    /// A worker has it.
    Running(RunView),
}

/// The run of a job that a worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunView {
    /// The worker.
    pub holder: ConnectionId,
    /// When it began, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// Its timeout, on the monotonic clock.
    pub deadline_us: Option<u64>,
    /// The progress that the worker has reported.
    pub numerator: u64,
    /// The total of that progress.
    pub denominator: u64,
}

/// The number of lists with queued jobs of a function: see [`JobServer::list_of`].
pub(super) const QUEUED_LISTS: usize = 3 * Priority::ALL.len();
/// The number of lists with jobs of a function that do not run.
pub(super) const LISTS: usize = QUEUED_LISTS + Priority::ALL.len();

/// A cursor in the listing of a function's queues: after a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QueuePlace {
    list: usize,
    /// The job's number; 0 for the beginning.
    number: u64,
    /// The job's attempts modulo 256: with each attempt it was queued again.
    attempts: u8,
}

/// The bits of a job number.
const NUMBER_BITS: u32 = 40;
/// The bits of a list number.
const LIST_BITS: u32 = 4;

impl QueuePlace {
    /// The cursor after a job in this list.
    fn of(list: usize, job: JobRef<'_>) -> Self {
        let [attempts, _] = job.attempts.to_le_bytes();
        Self { list, number: job.number(), attempts }
    }

    fn read(place: u64) -> Self {
        let number = place & ((1 << NUMBER_BITS) - 1);
        let list = usize::try_from(place >> NUMBER_BITS & ((1 << LIST_BITS) - 1)).unwrap_or(LISTS);
        let [attempts, ..] = (place >> (NUMBER_BITS + LIST_BITS)).to_le_bytes();
        Self { list, number, attempts }
    }

    fn write(self) -> u64 {
        u64::from(self.attempts) << (NUMBER_BITS + LIST_BITS) | (self.list as u64) << NUMBER_BITS | self.number
    }
}

impl JobServer {
    /// Passes a bounded number of jobs to `show`, beginning at a cursor, which is 0 at first, until `show`
    /// breaks. Returns the cursor for the next call, or `None` after the last job.
    pub fn list_jobs(&self, place: usize, mut show: impl FnMut(JobView<'_>) -> ControlFlow<()>) -> Option<usize> {
        let bound = self.jobs.slot_bound();
        let end = place.saturating_add(WORK_PER_CALL).min(bound);
        for slot in place..end {
            if let Some(view) = u32::try_from(slot).ok().and_then(|slot| self.view(self.jobs.find(slot)?))
                && show(view).is_break()
            {
                return Some(slot + 1);
            }
        }
        (end < bound).then_some(end)
    }

    /// The same for running jobs.
    pub fn list_running_jobs(
        &self,
        place: usize,
        mut show: impl FnMut(JobView<'_>) -> ControlFlow<()>,
    ) -> Option<usize> {
        let bound = self.runs.bound();
        let end = place.saturating_add(WORK_PER_CALL).min(bound);
        for slot in place..end {
            if let Some(view) =
                self.runs.get(RunSlot::from_index(slot)).and_then(|run| self.view(self.jobs.get(run.job)))
                && show(view).is_break()
            {
                return Some(slot + 1);
            }
        }
        (end < bound).then_some(end)
    }

    /// Whether a connection has set this client id.
    pub fn has_client(&self, id: &[u8]) -> bool {
        self.clients.of(id).next().is_some()
    }

    /// Passes the queued jobs of a function to `show`, in the order in which they will be handed out: a
    /// bounded number of those after a cursor, or from the first job if it is 0, until `show` breaks. Returns
    /// the cursor for the next call, or `None` after the last job.
    ///
    /// If the job at the cursor is gone, the listing continues with the first job that has a higher number
    /// and the same priority. Some jobs may be shown twice then, and a job that was queued behind younger
    /// ones may be left out.
    pub fn list_queued_jobs(
        &self,
        function: &[u8],
        place: u64,
        mut show: impl FnMut(JobView<'_>) -> ControlFlow<()>,
    ) -> Option<u64> {
        let function = self.function_names.get(function).copied()?;
        self.list_in_lists(function, 0..QUEUED_LISTS, place, &mut 0, |job| {
            self.view(job).map_or(ControlFlow::Continue(()), &mut show)
        })
    }

    /// Passes a bounded number of the jobs in these lists of a function to `act`, as
    /// [`list_queued_jobs`](Self::list_queued_jobs) does.
    pub(super) fn list_in_lists(
        &self,
        function: FunctionSlot,
        lists: Range<usize>,
        place: u64,
        looks: &mut usize,
        mut act: impl FnMut(JobRef<'_>) -> ControlFlow<()>,
    ) -> Option<u64> {
        let place = match QueuePlace::read(place) {
            QueuePlace { list, .. } if list < lists.start => QueuePlace { list: lists.start, number: 0, attempts: 0 },
            place => place,
        };
        let (mut list, mut next) = match self.behind(function, place, looks) {
            ControlFlow::Continue(found) => found,
            ControlFlow::Break(looked_through) => return Some(looked_through.write()),
        };
        let mut reached = None;
        for _ in 0..WORK_PER_CALL {
            while next == NONE {
                list += 1;
                if list >= lists.end {
                    return None;
                }
                next = self.list_of(function, list).first;
            }
            *looks += 1;
            let job = self.jobs.get(next);
            reached = Some(QueuePlace::of(list, job).write());
            if act(job).is_break() {
                break;
            }
            next = job.state.links().map_or(NONE, |links| links.next);
        }
        reached
    }

    /// The list in which a listing continues, and the job there; [`NONE`] for the next list. Or the cursor
    /// that one call has reached in looking for it.
    fn behind(
        &self,
        function: FunctionSlot,
        place: QueuePlace,
        looks: &mut usize,
    ) -> ControlFlow<QueuePlace, (usize, u32)> {
        let QueuePlace { list, number, .. } = place;
        if list >= LISTS {
            return ControlFlow::Continue((list, NONE));
        }
        if number == 0 {
            return ControlFlow::Continue((list, self.list_of(function, list).first));
        }
        let known = self.jobs.find_number(number).map(|job| self.jobs.get(job)).filter(|job| job.function == function);
        if let Some(job) = known
            && let Some(links) = job.state.links()
            && QueuePlace::of(list_index(job), job) == place
        {
            return ControlFlow::Continue((list, links.next));
        }
        // Paged-out jobs may have been read since, and be ready.
        let ready = if list < QUEUED_LISTS { list - list % 3 } else { list };
        let mut passed = 0;
        for list in ready..=list {
            let mut next = self.list_of(function, list).first;
            while let Some(job) = self.jobs.find(next).filter(|job| job.number() <= number) {
                *looks += 1;
                passed += 1;
                if passed == LOOKS_PER_CALL {
                    return ControlFlow::Break(QueuePlace::of(list, job));
                }
                next = job.state.links().map_or(NONE, |links| links.next);
            }
            if next != NONE {
                return ControlFlow::Continue((list, next));
            }
        }
        ControlFlow::Continue((list, NONE))
    }

    /// Passes the jobs that a connection holds to `show`, oldest first, a bounded number of them.
    pub fn list_held_jobs(&self, holder: ConnectionId, mut show: impl FnMut(JobView<'_>)) {
        let Some(connection) = self.slot_of(holder) else { return };
        let mut run = self.connections[connection].first_run;
        for _ in 0..WORK_PER_CALL {
            let Some(held) = self.runs.get(run) else { return };
            if let Some(view) = self.view(self.jobs.get(held.job)) {
                show(view);
            }
            run = held.next;
        }
    }

    /// Passes one job to `show`. Returns `None` if it does not exist.
    pub fn show_job<R>(&self, handle: &[u8], show: impl FnOnce(JobView<'_>) -> R) -> Option<R> {
        self.find_handle(handle).and_then(|job| self.view(self.jobs.get(job))).map(show)
    }

    /// The view of a job. `None` if it is not stored yet, and so not visible, or has ended.
    pub(super) fn view<'a>(&'a self, job: JobRef<'a>) -> Option<JobView<'a>> {
        let stage = match job.state {
            JobState::Storing(_) | JobState::Ended => return None,
            JobState::Scheduled(_) => Stage::Scheduled,
            JobState::Ready(_) | JobState::PagedOut(_) | JobState::Loading(_) => Stage::Queued,
            JobState::Running(run) => {
                let run = &self.runs[run];
                Stage::Running(RunView {
                    holder: self.id_of(run.connection),
                    since_unix_ms: run.since_unix_ms,
                    deadline_us: run.deadline_us,
                    numerator: run.numerator,
                    denominator: run.denominator,
                })
            }
        };
        Some(JobView {
            handle: job.handle(&self.prefixes),
            function: &self.functions[job.function].name,
            unique: job.unique(),
            priority: job.priority,
            stage,
            submitted_ms: job.submitted_ms(),
            due_s: job.due_s(),
            attempts: u32::from(job.attempts),
            failed_attempts: if job.attempts > 0 { self.attempt_history.of(job.number()) } else { &[] },
            abandoned: job.waits == WaitSlot::NONE && !job.background,
            background: job.background,
            stored: job.residency.is_stored(),
            clients: self.count_waits(job.waits),
            workload: (job.residency != Residency::Store).then(|| job.bytes()),
        })
    }
}

/// The list that a job is in. For a job in no list, the first list of its priority.
pub(super) fn list_index(job: JobRef<'_>) -> usize {
    let priority = job.priority.index();
    match job.state {
        JobState::Ready(_) | JobState::Storing(_) | JobState::Running(_) | JobState::Ended => 3 * priority,
        JobState::Loading(_) => 3 * priority + 1,
        JobState::PagedOut(_) => 3 * priority + 2,
        JobState::Scheduled(_) => QUEUED_LISTS + priority,
    }
}
