//! Status queries, and the jobs of handles.

use std::iter::successors;

use super::effects::Effects;
use super::ids::ConnectionSlot;
use super::job::{JobRef, JobState};
use super::{JobServer, price};
use crate::protocol::Response;
use crate::protocol::response::Status;

/// The maximum number of jobs with one unique id and different functions that GET_STATUS_UNIQUE examines.
const MOST_SIBLINGS: usize = 4096;

impl JobServer {
    pub(super) fn get_status(&self, from: ConnectionSlot, handle: &[u8], effects: &mut impl Effects) {
        let status = self.find_handle(handle).map_or_else(Status::default, |job| self.status(self.jobs.get(job)));
        self.say(self.id_of(from), Response::StatusRes { handle, status }, effects);
    }

    pub(super) fn get_status_unique(&self, from: ConnectionSlot, unique: &[u8], effects: &mut impl Effects) {
        let newest_first = successors(self.jobs.find_unique(unique), |newer| self.jobs.older_sibling(*newer));
        // Beyond that, so many of its siblings are not stored yet that no client can have been told of the
        // job for long.
        let newest_first = newest_first.take(MOST_SIBLINGS).inspect(|_| self.work_budget.spend(price::ENTRY));
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
            JobState::Scheduled(_) | JobState::Ready(_) | JobState::PagedOut(_) | JobState::Loading(_) => {
                Status { known: true, ..Status::default() }
            }
            JobState::Running(run) => {
                let run = &self.runs[run];
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
}
