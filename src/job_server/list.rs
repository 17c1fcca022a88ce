//! Listings of jobs, a bounded number at a time.
//!
//! Between two calls jobs come and go: a listing of several calls is no picture of one moment.

use std::ops::ControlFlow;

use super::index::NONE;
use super::job::{Job, JobState, Kept, Links};
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
    /// Where it is.
    pub stage: Stage,
    /// When it was submitted, in milliseconds since 1970; 0 where that is not known.
    pub submitted_ms: u64,
    /// When it may run, in seconds since 1970; 0 for always.
    pub due_s: u64,
    /// How often a worker was lost with it.
    pub attempts: u32,
    /// Whether it runs although nobody wants it any more.
    pub abandoned: bool,
    /// Whether it lives on without its client.
    pub background: bool,
    /// Whether a store has it.
    pub stored: bool,
    /// How many submissions wait for its end.
    pub clients: u32,
    /// Its workload, unless only the store has that.
    pub workload: Option<&'a [u8]>,
}

/// Where a job is, as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is not due yet.
    Scheduled,
    /// It waits for a worker.
    Queued,
    /// A worker has it.
    Running(RunView),
}

/// What is known of a job that a worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunView {
    /// The worker.
    pub holder: ConnectionId,
    /// Since when, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// When it is taken away again, on the monotonic clock.
    pub deadline_us: Option<u64>,
    /// How far it has come, by the worker's word.
    pub numerator: u32,
    /// Of how much.
    pub denominator: u32,
}

impl JobServer {
    /// Shows a bounded number of jobs to `show`, from a place in the listing on that starts at 0, until it breaks off.
    /// Returns the place to go on from, or `None` after the last job.
    pub fn list_jobs(&self, place: usize, mut show: impl FnMut(JobView<'_>) -> ControlFlow<()>) -> Option<usize> {
        let bound = self.jobs.slot_bound();
        let end = place.saturating_add(WORK_PER_CALL).min(bound);
        for slot in place..end {
            if let Some(view) = self.jobs.in_slot(slot).and_then(|job| self.view(job))
                && show(view).is_break()
            {
                return Some(slot + 1);
            }
        }
        (end < bound).then_some(end)
    }

    /// The same for jobs that workers have.
    pub fn list_running_jobs(
        &self,
        place: usize,
        mut show: impl FnMut(JobView<'_>) -> ControlFlow<()>,
    ) -> Option<usize> {
        let bound = if self.runs.is_empty() { 0 } else { self.runs.capacity() };
        let end = place.saturating_add(WORK_PER_CALL).min(bound);
        for slot in place..end {
            if let Some(view) = self.runs.get(slot).and_then(|run| self.view(self.jobs.get(run.job)))
                && show(view).is_break()
            {
                return Some(slot + 1);
            }
        }
        (end < bound).then_some(end)
    }

    /// Shows jobs of a function that wait for a worker, in the order in which they will be handed out: a bounded number of
    /// those behind the job of this number, or from the first on, until `show` breaks off. Returns the number of the job to
    /// go on behind, or `None` after the last.
    ///
    /// Where that job does not wait any more, the listing goes on with the first of all.
    pub fn list_queued_jobs(
        &self,
        function: &[u8],
        after: u64,
        mut show: impl FnMut(JobView<'_>) -> ControlFlow<()>,
    ) -> Option<u64> {
        let slot = self.function_names.get(function).copied()?;
        let function = &self.functions[slot as usize];
        let places = Priority::ALL.map(Priority::index).map(|index| [function.ready[index], function.parked[index]]);
        let mut firsts = places.as_flattened().iter().map(|list| list.first);
        let mut next = NONE;
        let known = self.jobs.find_number(after).map(|job| self.jobs.get(job)).filter(|job| job.function == slot);
        if let Some((known, links)) = known.and_then(|known| Some((known, links_of(known)?))) {
            next = links.next;
            let is_parked = matches!(known.state, JobState::Parked(_));
            let passed = 2 * known.priority.index() + usize::from(is_parked) + 1;
            firsts.by_ref().take(passed).for_each(drop);
        }
        let mut last = None;
        for _ in 0..WORK_PER_CALL {
            while next == NONE {
                next = firsts.next()?;
            }
            let job = self.jobs.get(next);
            last = Some(job.number());
            if self.view(job).is_some_and(|view| show(view).is_break()) {
                break;
            }
            next = links_of(job).map_or(NONE, |links| links.next);
        }
        last
    }

    /// Shows the jobs that a connection holds, oldest first, a bounded number of them.
    pub fn list_held_jobs(&self, holder: ConnectionId, mut show: impl FnMut(JobView<'_>)) {
        let Some(connection) = self.slot_of(holder) else { return };
        let mut run = self.connections[connection as usize].first_run;
        for _ in 0..WORK_PER_CALL {
            let Some(held) = self.runs.get(run as usize) else { return };
            if let Some(view) = self.view(self.jobs.get(held.job)) {
                show(view);
            }
            run = held.next;
        }
    }

    /// Shows one job. Returns `None` where there is none.
    pub fn show_job<R>(&self, handle: &[u8], show: impl FnOnce(JobView<'_>) -> R) -> Option<R> {
        self.find_handle(handle).and_then(|job| self.view(self.jobs.get(job))).map(show)
    }

    /// A job as it is shown. One that is not stored yet is nobody's business.
    fn view<'a>(&'a self, job: &'a Job) -> Option<JobView<'a>> {
        let stage = match job.state {
            JobState::Storing(_) => return None,
            JobState::Scheduled => Stage::Scheduled,
            JobState::Ready(_) | JobState::Parked(_) | JobState::Loading => Stage::Queued,
            JobState::Running(run) => {
                let run = &self.runs[run as usize];
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
            function: &self.functions[job.function as usize].name,
            unique: job.unique(),
            priority: job.priority,
            stage,
            submitted_ms: job.submitted_ms(),
            due_s: job.due_s(),
            attempts: u32::from(job.attempts),
            abandoned: job.waits == NONE && !job.background,
            background: job.background,
            stored: job.kept.is_stored(),
            clients: self.count_waits(job.waits),
            workload: (job.kept != Kept::Store).then(|| job.bytes()),
        })
    }
}

/// The neighbours of a job that waits for a worker, unless it is just being read.
fn links_of(job: &Job) -> Option<Links> {
    match job.state {
        JobState::Ready(links) | JobState::Parked(links) => Some(links),
        JobState::Storing(_) | JobState::Scheduled | JobState::Loading | JobState::Running(_) => None,
    }
}
