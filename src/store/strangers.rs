//! Entries that another program has put into the store of a running server, where a new job of the server is to be. They make
//! way: the server's numbers and unique ids are known to clients already, theirs to nobody. An entry that had the job's number
//! gets one of its own at the next start, and one that had its function and unique id is a job without a unique id from then
//! on. Nobody is refused, and nothing is lost.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// The log says so once in this time at most.
const INTERVAL: Duration = Duration::from_mins(1);

/// What the log is still to be told of them.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    untold: u64,
    told: Option<Instant>,
}

impl Strangers {
    /// So many entries of the store of this name have made way.
    pub(super) fn note(&mut self, name: impl Display, entries: u64) {
        self.untold += entries;
        if self.untold == 0 || self.told.is_some_and(|told| told.elapsed() < INTERVAL) {
            return;
        }
        // It is said at a level that is always logged.
        tracing::error!(
            "{name}: another program has inserted {} entries with numbers or unique ids of new jobs; they are kept, and run after \
             the next start of this server",
            self.untold
        );
        (self.untold, self.told) = (0, Some(Instant::now()));
    }
}
