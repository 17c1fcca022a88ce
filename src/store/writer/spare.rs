//! Housekeeping of the store while the writer is idle.

use std::time::Instant;

use super::{REST_AFTER, Writer};

impl Writer {
    /// Lets the store prepare for the next commits.
    pub(super) fn prepare(&mut self) {
        if !self.may_prepare || self.breaker.is_some() {
            return;
        }
        match self.store.prepare() {
            Ok(has_more) => self.may_prepare = has_more,
            Err(error) => self.fail(&error),
        }
    }

    /// Whether the longer housekeeping is due.
    pub(super) fn is_rest_due(&self) -> bool {
        self.breaker.is_none() && self.rest_at.is_some_and(|at| at <= Instant::now())
    }

    /// Runs the longer housekeeping.
    pub(super) fn rest(&mut self) {
        self.rest_at = match self.store.rest() {
            Ok(true) => Some(Instant::now() + REST_AFTER),
            Ok(false) => None,
            Err(error) => {
                self.fail(&error);
                None
            }
        };
    }
}
