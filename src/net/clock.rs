//! The two clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::job_server::Now;

/// Reads the time as the job server counts it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time by both clocks.
    pub fn now(&self) -> Now {
        Now {
            monotonic_us: micros(self.start.elapsed()),
            unix_us: micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        }
    }

    /// The moment that is called `monotonic_us`.
    pub fn instant(&self, monotonic_us: u64) -> Instant {
        self.start + Duration::from_micros(monotonic_us)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
