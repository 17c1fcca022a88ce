//! Status queries, and the operator's commands for jobs and functions.

use std::iter::successors;

use super::control::ControlError;
use super::effects::Effects;
use super::job::{JobRef, JobState};
use super::tell::Said;
use super::{JobServer, Now, price};
use crate::protocol::response::Status;
use crate::protocol::{PeerError, Response};

/// The maximum number of jobs with one unique id and different functions that GET_STATUS_UNIQUE examines.
const MOST_NAMESAKES: usize = 4096;

/// The result of `drop function`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropFunction {
    /// It was removed.
    Dropped,
    /// It did not exist.
    NotFound,
    /// It has workers, or running jobs.
    InUse,
    /// It has jobs, none of which runs.
    HasJobs,
}

impl JobServer {
    pub(super) fn get_status(&self, from: u32, handle: &[u8], effects: &mut impl Effects) {
        let status = self.find_handle(handle).map_or_else(Status::default, |job| self.status(self.jobs.get(job)));
        self.say(self.id_of(from), Response::StatusRes { handle, status }, effects);
    }

    pub(super) fn get_status_unique(&self, from: u32, unique: &[u8], effects: &mut impl Effects) {
        let newest_first = successors(self.jobs.find_unique(unique), |newer| self.jobs.older_namesake(*newer));
        // Beyond that, so many of its namesakes are not stored yet that no client can have been told of the
        // job for long.
        let newest_first = newest_first.take(MOST_NAMESAKES).inspect(|_| self.work_budget.spend(price::ENTRY));
        let mut visible =
            newest_first.map(|job| self.jobs.get(job)).filter(|job| !matches!(job.state, JobState::Storing(_)));
        let job = visible.next();
        let status = job.map_or_else(Status::default, |job| self.status(job));
        let clients = job.map_or(0, |job| u64::from(self.count_waits(job.waits)));
        self.say(self.id_of(from), Response::StatusResUnique { unique, status, clients }, effects);
    }

    fn status(&self, job: JobRef<'_>) -> Status {
        match job.state {
            JobState::Storing(_) | JobState::Ended => Status::default(),
            JobState::Scheduled(_) | JobState::Ready(_) | JobState::Parked(_) | JobState::Loading(_) => {
                Status { known: true, ..Status::default() }
            }
            JobState::Running(run) => {
                let run = &self.runs[run as usize];
                Status { known: true, running: true, numerator: run.numerator, denominator: run.denominator }
            }
        }
    }

    /// The job of a handle that a client was given.
    pub(super) fn find_handle(&self, handle: &[u8]) -> Option<u32> {
        let (prefix, number) = self.prefixes.parse(handle)?;
        self.find_named(prefix, number)
    }

    /// The same for a handle that is parsed already.
    pub(super) fn find_named(&self, prefix: u8, number: u64) -> Option<u32> {
        let slot = self.jobs.find_number(number)?;
        let job = self.jobs.get(slot);
        (job.prefix == prefix && !matches!(job.state, JobState::Storing(_))).then_some(slot)
    }

    /// Cancels a job: its clients get WORK_FAIL, and packets about it from a worker that runs it are ignored.
    /// Returns whether the job existed.
    pub fn cancel_job(&mut self, now: Now, handle: &[u8], effects: &mut impl Effects) -> bool {
        let Some(slot) = self.find_handle(handle) else {
            return false;
        };
        let function = self.jobs.get(slot).function;
        self.cancel(slot, effects);
        self.cover(now, function, effects);
        self.cover_freed(now, effects);
        self.debug_check_invariants();
        true
    }

    /// Ends a visible job. The caller must cover its function again, since another job may run now, and a
    /// worker that was at its job limit.
    pub(super) fn cancel(&mut self, slot: u32, effects: &mut impl Effects) {
        self.forfeit_run(slot);
        let job = self.jobs.get(slot);
        self.tally(job.function, |counters| &counters.cancelled);
        self.end(slot, None, Said::Fail, effects);
    }

    /// Creates a function, unless it exists.
    ///
    /// # Errors
    /// [`PeerError::TOO_MANY_FUNCTIONS`].
    pub fn create_function(&mut self, name: &[u8]) -> Result<(), PeerError> {
        self.function_slot(name).map(|_| ())
    }

    /// Removes a function that has neither workers nor jobs.
    pub fn drop_function(&mut self, name: &[u8], effects: &mut impl Effects) -> DropFunction {
        let Some(slot) = self.function_names.get(name).copied() else {
            return DropFunction::NotFound;
        };
        let function = &self.functions[slot as usize];
        if function.workers > 0 || function.running > 0 {
            return DropFunction::InUse;
        }
        if function.total() > 0 {
            return DropFunction::HasJobs;
        }
        self.forget_decisions(function, effects);
        // A limit alone does not keep it.
        self.remove_function(slot);
        self.debug_check_invariants();
        DropFunction::Dropped
    }

    /// Limits the number of jobs of a function, which need not be known yet: by priority of the new job, 0
    /// for no limit. Returns the number of functions affected now, as
    /// [`pause_function`](Self::pause_function) does.
    ///
    /// # Errors
    /// [`ControlError::TooManyFunctions`], [`ControlError::TooManySettings`].
    pub fn limit_function(
        &mut self,
        name: &[u8],
        limits: [u32; 3],
        effects: &mut impl Effects,
    ) -> Result<usize, ControlError> {
        let Some(slot) = self.function_for_setting(name, limits != [0; 3])? else { return Ok(0) };
        self.decide(slot, |function| function.limits = limits, effects);
        self.functions[slot as usize].publish_settings();
        self.publish(slot);
        Ok(self.end_setting(slot))
    }
}
