//! The number of waits of one connection for one job.
//!
//! It is counted only for jobs that have as many waits in all as one connection may have for them: in most
//! jobs no connection could be near the limit.

use std::collections::HashMap;

use super::connection::Wait;
use super::ids::{ConnectionSlot, SlotId, WaitSlot};
use super::{JobServer, price};
use crate::protocol::PeerError;

/// Waits of a job by connection.
pub(super) type Crowd = HashMap<ConnectionSlot, u32>;

/// A job with fewer waits has no counts: its waits are walked instead.
const LEAST_CROWD: u32 = 16;

impl JobServer {
    /// Checks that a connection may wait once more for an existing job.
    pub(super) fn check_crowd(&mut self, connection: ConnectionSlot, job: u32) -> Result<(), PeerError> {
        let (most, first) = (self.policy.max_waits_per_job, self.jobs.get(job).waits);
        if self.count_waits(first) < most {
            return Ok(());
        }
        if self.count_waits(first) < LEAST_CROWD {
            let is_too_much = self.count_waits_of(connection, first) >= most;
            return if is_too_much { Err(PeerError::TOO_MANY_WAITS_FOR_JOB) } else { Ok(()) };
        }
        // Counted as soon as a job has this many waits, and not when one connection could have too many: by
        // then there might be a million.
        let waits = &self.waits;
        let mut looked_at = 0;
        let crowd = self.crowds.entry(job).or_insert_with(|| {
            let (mut crowd, mut wait) = (Crowd::new(), first);
            while wait != WaitSlot::NONE {
                let Wait { connection, next_of_job, .. } = waits[wait];
                *crowd.entry(connection).or_default() += 1;
                (wait, looked_at) = (next_of_job, looked_at + 1);
            }
            crowd
        });
        let count = crowd.get(&connection).copied().unwrap_or(0);
        self.work_budget.spend_entries(looked_at);
        self.work_budget.spend(price::ENTRY);
        if count < most { Ok(()) } else { Err(PeerError::TOO_MANY_WAITS_FOR_JOB) }
    }

    /// The number of waits of a connection in the list that begins with `wait`, by a walk.
    fn count_waits_of(&self, connection: ConnectionSlot, mut wait: WaitSlot) -> u32 {
        let mut count = 0;
        while wait != WaitSlot::NONE {
            self.work_budget.spend(price::ENTRY);
            let Wait { connection: owner, next_of_job, .. } = self.waits[wait];
            count += u32::from(owner == connection);
            wait = next_of_job;
        }
        count
    }

    pub(super) fn join_crowd(&mut self, job: u32, connection: ConnectionSlot) {
        if let Some(crowd) = self.crowds.get_mut(&job) {
            *crowd.entry(connection).or_default() += 1;
        }
    }

    pub(super) fn leave_crowd(&mut self, job: u32, connection: ConnectionSlot) {
        let Some(crowd) = self.crowds.get_mut(&job) else { return };
        if let Some(count) = crowd.get_mut(&connection) {
            *count -= 1;
            if *count == 0 {
                crowd.remove(&connection);
            }
        }
        if crowd.is_empty() {
            self.crowds.remove(&job);
        }
    }

    /// Checks that the counts are right.
    pub(super) fn check_crowds(&self) {
        for (job, crowd) in &self.crowds {
            let of_job = self.waits.iter().filter(|(_, wait)| wait.job == *job);
            let mut counted = Crowd::new();
            of_job.for_each(|(_, wait)| *counted.entry(wait.connection).or_default() += 1);
            assert_eq!(*crowd, counted, "waits for a job are miscounted");
        }
    }
}
