//! The monotonic clock and the wall clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::job_server::Now;

/// How long the wall clock is assumed to advance like the monotonic one before it is read again, in
/// microseconds. A step of the wall clock is noticed after this time.
const WALL_CLOCK_AGE_US: u64 = 10_000;

/// Reads the time in the job server's units.
///
/// It is read for every batch of requests, the wall clock only at intervals.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    /// Wall clock minus monotonic clock at the last reading, in microseconds, and the monotonic time of that
    /// reading.
    offset_us: AtomicU64,
    read_at_us: AtomicU64,
}

impl Clock {
    /// Creates a clock whose monotonic time begins now.
    pub fn start() -> Self {
        let clock = Self { start: Instant::now(), offset_us: AtomicU64::new(0), read_at_us: AtomicU64::new(0) };
        clock.read_wall_clock(0);
        clock
    }

    /// The time by both clocks.
    pub fn now(&self) -> Now {
        let monotonic_us = micros(self.start.elapsed());
        if monotonic_us.saturating_sub(self.read_at_us.load(Ordering::Relaxed)) >= WALL_CLOCK_AGE_US {
            self.read_wall_clock(monotonic_us);
        }
        Now { monotonic_us, unix_us: monotonic_us.wrapping_add(self.offset_us.load(Ordering::Relaxed)) }
    }

    fn read_wall_clock(&self, monotonic_us: u64) {
        let unix_us = micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        self.offset_us.store(unix_us.wrapping_sub(monotonic_us), Ordering::Relaxed);
        self.read_at_us.store(monotonic_us, Ordering::Relaxed);
    }

    /// The instant that corresponds to `monotonic_us`.
    pub fn instant(&self, monotonic_us: u64) -> Instant {
        self.start + Duration::from_micros(monotonic_us)
    }
}

fn micros(duration: Duration) -> u64 {
    // Not `as_micros`, which counts in 128 bits.
    duration.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(duration.subsec_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_go_on() {
        let clock = Clock::start();
        let before = micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        let first = clock.now();
        // A reading older than allowed, so that the next one reads the wall clock again.
        clock.offset_us.store(0, Ordering::Relaxed);
        clock.read_at_us.store(0, Ordering::Relaxed);
        let late = clock.start + Duration::from_micros(WALL_CLOCK_AGE_US);
        while Instant::now() < late {
            std::hint::spin_loop();
        }
        let second = clock.now();
        assert!(second.monotonic_us > first.monotonic_us);
        assert!(first.unix_us.abs_diff(before) < 1_000_000);
        assert!(second.unix_us.abs_diff(before) < 1_000_000);
    }
}
