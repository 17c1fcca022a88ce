//! What the store does while nothing waits.

use std::time::Instant;

use super::{REST_AFTER, Writer};

impl Writer {
    /// Nothing waits: the store may do something for the next commits.
    pub(super) fn prepare(&mut self) {
        if !self.may_prepare || self.failing.is_some() {
            return;
        }
        match self.store.prepare() {
            Ok(has_more) => self.may_prepare = has_more,
            Err(error) => self.fail(&error),
        }
    }

    /// Whether the store may do what takes longer.
    pub(super) fn is_rest_due(&self) -> bool {
        self.failing.is_none() && self.rest_at.is_some_and(|at| at <= Instant::now())
    }

    /// Does what takes longer.
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
