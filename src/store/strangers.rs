//! Rows that another program has inserted into the store of a running server, where a new job of the server
//! belongs. These foreign rows make way: clients already know the server's job numbers and unique ids, but
//! not those of the foreign rows. At the next start, a row that had the job's number gets a new number, and a
//! row that had its function and unique id becomes a job without a unique id. No job is refused, and no row
//! is lost.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Minimum interval between log messages.
const INTERVAL: Duration = Duration::from_mins(1);

/// Log state for foreign rows.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    untold: u64,
    told: Option<Instant>,
}

impl Strangers {
    /// Counts rows that made way in the store `name`, and logs them.
    pub(super) fn note(&mut self, name: impl Display, entries: u64) {
        self.untold += entries;
        if self.untold == 0 || self.told.is_some_and(|told| told.elapsed() < INTERVAL) {
            return;
        }
        // The error level is always logged.
        tracing::error!(
            "{name}: another program has inserted {} entries with numbers or unique ids of new jobs; they are kept, and run after \
             the next start of this server",
            self.untold
        );
        (self.untold, self.told) = (0, Some(Instant::now()));
    }
}
