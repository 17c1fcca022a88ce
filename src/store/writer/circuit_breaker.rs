//! The circuit breaker of a store that fails.

use std::time::{Duration, Instant};

use super::{LONGEST_PAUSE, Writer};
use crate::job_server::StoreFailure;
use crate::log_level::audit;
use crate::stats::StoreState;

/// How long the breaker of a store that was full may stay half-open while small writes succeed.
const HALF_OPEN_FOR: Duration = Duration::from_secs(30);

/// The state of a store that fails. "Open" means that a retry is not due yet, and "half-open" that one small
/// write has succeeded since:
///
/// | `is_half_open` | `is_writable` | new jobs | changes without new jobs | reads |
/// | --- | --- | --- | --- | --- |
/// | false | false | rejected while open | backlog while open | rejected while open, if `is_unreadable` |
/// | false | true | rejected while open | committed | done |
/// | true | either | tried | committed | done |
///
/// Only a [full](StoreFailure::Full) store is ever writable or half-open, and each failure opens the breaker
/// again. Operations that need the store wait until `again` or `asked_again`, whichever is sooner.
/// [`act_unasked`](super::Writer::act_unasked) waits until `again`.
pub(super) struct CircuitBreaker {
    pub(super) failure: StoreFailure,
    pub(super) since: Instant,
    /// Time of the last failure.
    pub(super) failed: Instant,
    /// When the store is retried without a request.
    pub(super) again: Instant,
    /// When the store is retried for an operation that needs it.
    pub(super) asked_again: Instant,
    pub(super) pause: Duration,
    /// Whether the breaker is half-open: a small write has succeeded since the failure.
    pub(super) is_half_open: bool,
    /// Whether the store is full but accepts changes without new jobs.
    pub(super) is_writable: bool,
}

impl CircuitBreaker {
    /// Whether the breaker is open, also for an operation that needs the store.
    pub(super) fn is_open(&self) -> bool {
        !self.is_half_open && self.again.min(self.asked_again) > Instant::now()
    }
}

impl Writer {
    /// The error for new jobs while the circuit breaker is open. They are rejected without trying the store.
    pub(super) fn rejection(&self) -> Option<StoreFailure> {
        self.breaker.as_ref().filter(|breaker| breaker.is_open()).map(|breaker| breaker.failure)
    }

    /// Records a successful commit, `with_jobs` or without. A full disk may have room for a small write but
    /// not for the next job. Until the store has accepted a job, or for a while, it gets new jobs but is
    /// still reported as failing (half-open).
    pub(super) fn recover(&mut self, with_jobs: bool) {
        self.set_writable(true);
        match self.has_room_again() {
            Some(true) => return self.work_again(),
            Some(false) => return,
            None => {}
        }
        if let Some(breaker) = &mut self.breaker
            && breaker.failure == StoreFailure::Full
            && !with_jobs
            && breaker.failed.elapsed() < HALF_OPEN_FOR
        {
            breaker.is_half_open = true;
            breaker.again = Instant::now() + LONGEST_PAUSE;
            return;
        }
        self.work_again();
    }

    /// Closes the circuit breaker.
    pub(super) fn work_again(&mut self) {
        if let Some(breaker) = self.breaker.take() {
            audit!("the store works again after {:.1} s", breaker.since.elapsed().as_secs_f64());
            self.stats.store.set_state(StoreState::Working);
        }
    }
}
