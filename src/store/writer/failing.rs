//! The circuit breaker of a store that fails.

use std::time::{Duration, Instant};

use crate::job_server::StoreFailure;

/// The state of a store that fails. "Open" means that a retry is not due yet:
///
/// | `is_on_trial` | `is_writable` | new jobs | changes without new jobs | reads |
/// | --- | --- | --- | --- | --- |
/// | false | false | rejected while open | backlog while open | rejected while open, if `is_unreadable` |
/// | false | true | rejected while open | committed | done |
/// | true | either | tried | committed | done |
///
/// Only a [full](StoreFailure::Full) store is ever writable or on trial (half-open), and each failure ends a
/// trial. Operations that need the store wait until `again` or `asked_again`, whichever is sooner.
/// [`act_unasked`](super::Writer::act_unasked) waits until `again`.
pub(super) struct Failing {
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
    pub(super) is_on_trial: bool,
    /// Whether the store is full but accepts changes without new jobs.
    pub(super) is_writable: bool,
}

impl Failing {
    /// Whether the breaker is open, also for an operation that needs the store.
    pub(super) fn is_left_alone(&self) -> bool {
        self.again.min(self.asked_again) > Instant::now()
    }
}
