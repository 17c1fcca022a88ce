//! What is known of a store that does not work.

use std::time::{Duration, Instant};

use crate::job_server::StoreFailure;

/// A store that does not work. It is in one of three states:
///
/// | `is_on_trial` | `is_writable` | new jobs | changes without new jobs | reads |
/// | --- | --- | --- | --- | --- |
/// | false | false | refused while it is left alone | owed while it is left alone | refused while it is left alone, if `is_unreadable` |
/// | false | true | refused while it is left alone | committed | done |
/// | true | either | tried | committed | done |
///
/// Only a store that is [full](StoreFailure::Full) is ever writable or on trial, and each failure ends a trial. It is left
/// alone until `again` or `asked_again`, whichever is sooner, by those who need it, and until `again` by
/// [`act_unasked`](super::Writer::act_unasked).
pub(super) struct Failing {
    pub(super) failure: StoreFailure,
    pub(super) since: Instant,
    /// When it failed last.
    pub(super) failed: Instant,
    /// When it is tried though nobody needs it.
    pub(super) again: Instant,
    /// When it is tried if somebody needs it.
    pub(super) asked_again: Instant,
    pub(super) pause: Duration,
    /// Whether it has done something since, if only a little.
    pub(super) is_on_trial: bool,
    /// Whether it is full, and takes what has no new jobs in it.
    pub(super) is_writable: bool,
}

impl Failing {
    /// Whether it is not tried yet, by somebody who needs it.
    pub(super) fn is_left_alone(&self) -> bool {
        self.again.min(self.asked_again) > Instant::now()
    }
}
