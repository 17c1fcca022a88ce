//! Failed attempts of jobs, for monitoring: a bounded number, of jobs that still exist.

use std::collections::BTreeMap;

use super::connection::Run;
use super::ids::RunSlot;
use super::{ConnectionId, JobServer, Now, US_PER_S};

/// The maximum number of attempts that are remembered of one job: the last ones.
const MOST_OF_JOB: usize = 8;
/// The maximum number of attempts that are remembered in all. Beyond it those of the oldest jobs are
/// forgotten.
const MOST: usize = 100_000;

/// How often a job may be requeued without an attempt: after a worker left that had probably not read it, or
/// gave it back as not begun. Where every worker sends its result and GRAB_JOB and leaves, half of the jobs
/// are missed once, a quarter twice, and so on: this is enough for queues of tens of thousands.
const MOST_MISSES: u8 = 16;

/// A failed attempt: a run of a job whose job was requeued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// When it began, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// When it ended, by the same clock, as if that had not been set meanwhile.
    pub until_unix_ms: u64,
    /// The worker, which may have disconnected.
    pub holder: ConnectionId,
    /// The client id of the worker; empty for none.
    pub client: Box<[u8]>,
    /// The address of the worker.
    pub host: Box<str>,
    /// Why the job was requeued.
    pub reason: RequeueReason,
}

/// Why a job was requeued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequeueReason {
    /// The worker exceeded its timeout.
    TimedOut,
    /// The worker's connection ended.
    Disconnected,
    /// The worker gave the job back: it no longer does the function.
    GivenBack,
}

/// All remembered attempts, by job number.
#[derive(Debug, Default)]
pub(super) struct AttemptHistory {
    of_jobs: BTreeMap<u64, Vec<FailedAttempt>>,
    count: usize,
    /// How often jobs were requeued without an attempt. At most [`MOST`] jobs; for others every lost worker
    /// counts as an attempt.
    misses: BTreeMap<u64, u8>,
}

impl AttemptHistory {
    fn add(&mut self, number: u64, attempt: FailedAttempt) {
        while self.count >= MOST
            && let Some((_, oldest)) = self.of_jobs.pop_first()
        {
            self.count -= oldest.len();
        }
        let of_job = self.of_jobs.entry(number).or_default();
        if of_job.len() >= MOST_OF_JOB {
            of_job.remove(0);
        } else {
            self.count += 1;
        }
        of_job.push(attempt);
    }

    /// The number of remembered attempts.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// The failed attempts of a job, oldest first.
    pub(super) fn of(&self, number: u64) -> &[FailedAttempt] {
        self.of_jobs.get(&number).map_or(&[], Vec::as_slice)
    }

    /// Counts a job that is requeued and was not begun, or probably not even read. Returns whether the job is
    /// spared the attempt.
    fn miss(&mut self, number: u64) -> bool {
        if self.misses.len() >= MOST && !self.misses.contains_key(&number) {
            return false;
        }
        let misses = self.misses.entry(number).or_default();
        let is_spared = *misses < MOST_MISSES;
        *misses = misses.saturating_add(1);
        is_spared
    }

    /// Forgets the misses of a job that has ended.
    pub(super) fn forget_misses(&mut self, number: u64) {
        // Mostly there are none, and then the number need not be hashed.
        if !self.misses.is_empty() {
            self.misses.remove(&number);
        }
    }

    /// Forgets the failed attempts of a job that has ended.
    pub(super) fn forget(&mut self, number: u64) {
        self.count -= self.of_jobs.remove(&number).map_or(0, |of_job| of_job.len());
    }
}

impl JobServer {
    /// Whether the worker has declared that it has not begun the job of this run.
    pub(super) fn is_unbegun(&self, run: RunSlot) -> bool {
        self.connections[self.runs[run].connection].holds_unbegun
    }

    /// Counts a requeue of the job of this run, which was not begun, or probably not even read. Returns
    /// whether the job is spared the attempt.
    pub(super) fn may_miss(&mut self, run: RunSlot) -> bool {
        let number = self.jobs.get(self.runs[run].job).number();
        self.attempt_history.miss(number)
    }

    /// Records a failed attempt, whose job is requeued.
    pub(super) fn record_attempt(&mut self, now: Now, run: RunSlot, reason: RequeueReason) {
        let Run { job, connection, since_us, since_unix_ms, .. } = self.runs[run];
        let gauges = &self.connections[connection].gauges;
        let took_ms = now.monotonic_us.saturating_sub(since_us) * 1000 / US_PER_S;
        let attempt = FailedAttempt {
            since_unix_ms,
            until_unix_ms: since_unix_ms.saturating_add(took_ms),
            holder: self.id_of(connection),
            client: gauges.client_id().unwrap_or_default().into(),
            host: gauges.peer.as_str().into(),
            reason,
        };
        self.attempt_history.add(self.jobs.get(job).number(), attempt);
    }

    /// Checks that attempts are remembered only of jobs that exist and were requeued.
    pub(super) fn check_attempt_history(&self) {
        let AttemptHistory { of_jobs, count, misses } = &self.attempt_history;
        assert_eq!(of_jobs.values().map(Vec::len).sum::<usize>(), *count, "failed attempts are counted wrongly");
        assert!(*count <= MOST && misses.len() <= MOST, "too many failed attempts are remembered");
        assert!(misses.keys().all(|number| self.jobs.find_number(*number).is_some()), "a miss of a job that is gone");
        for (number, remembered) in of_jobs {
            let attempts = self.jobs.find_number(*number).map(|slot| self.jobs.get(slot).attempts);
            assert!(
                attempts
                    .is_some_and(|attempts| (1..=usize::from(attempts).min(MOST_OF_JOB)).contains(&remembered.len())),
                "more failed attempts are remembered than the job has"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(since_unix_ms: u64) -> FailedAttempt {
        FailedAttempt {
            since_unix_ms,
            until_unix_ms: since_unix_ms,
            holder: ConnectionId { slot: 0, generation: 0 },
            client: Box::default(),
            host: Box::default(),
            reason: RequeueReason::TimedOut,
        }
    }

    #[test]
    fn a_job_is_spared_a_bounded_number_of_times_and_so_are_jobs() {
        let mut history = AttemptHistory::default();
        let spared = |history: &mut AttemptHistory, number| (0..100).filter(|_| history.miss(number)).count();
        assert_eq!(spared(&mut history, 7), usize::from(MOST_MISSES));
        history.forget_misses(7);
        assert_eq!((history.misses.len(), spared(&mut history, 7)), (0, usize::from(MOST_MISSES)));
        (10..).take(MOST).for_each(|number| assert_eq!(history.miss(number), number < 9 + MOST as u64));
        assert_eq!(history.misses.len(), MOST);
    }

    #[test]
    fn the_last_attempts_of_a_job_are_remembered() {
        let mut history = AttemptHistory::default();
        (0..20).for_each(|since| history.add(7, attempt(since)));
        let since: Vec<u64> = history.of(7).iter().map(|run| run.since_unix_ms).collect();
        assert_eq!((since, history.count), ((12..20).collect(), MOST_OF_JOB));
        history.forget(7);
        history.forget(7);
        assert_eq!((history.of(7).len(), history.count), (0, 0));
    }

    #[test]
    fn the_attempts_of_all_jobs_are_bounded_and_those_of_the_oldest_go_first() {
        let mut history = AttemptHistory::default();
        (0..3).for_each(|since| history.add(1, attempt(since)));
        (10..).take(MOST).for_each(|number| history.add(number, attempt(number)));
        assert_eq!((history.of(1).len(), history.of(10).len()), (0, 1));
        assert!(history.count <= MOST && history.count > MOST - 3, "{}", history.count);
        // Attempts of an older job are remembered while nothing newer needs the room.
        history.add(2, attempt(0));
        assert_eq!(history.of(2).len(), 1);
    }
}
