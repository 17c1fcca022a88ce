//! Audit log: the operators' actions, written at every log level, with a rate limit.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::log_level::audit;

/// Maximum number of lines in a second. Any peer that reaches the port could fill the disk with them
/// otherwise.
const LINES: u32 = 200;
const SECOND: Duration = Duration::from_secs(1);

/// The lines of the current second.
#[derive(Debug)]
pub(super) struct AuditLog(Mutex<Written>);

#[derive(Debug)]
struct Written {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Default for AuditLog {
    fn default() -> Self {
        Self(Mutex::new(Written { since: Instant::now(), lines: 0, left_out: 0 }))
    }
}

impl AuditLog {
    /// Writes a line. Beyond the limit it is only counted.
    pub(super) fn write(&self, line: fmt::Arguments<'_>) {
        match self.admit(Instant::now()) {
            Some(0) => audit!("{line}"),
            Some(left_out) => {
                audit!("{left_out} earlier actions not logged (rate limit {LINES} per second)");
                audit!("{line}");
            }
            None => {}
        }
    }

    /// Whether a line may be written. If so, returns how many lines before it were left out.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(written.since) >= SECOND {
            (written.since, written.lines) = (now, 0);
        }
        if written.lines == LINES {
            written.left_out += 1;
            return None;
        }
        written.lines += 1;
        Some(std::mem::take(&mut written.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_for_a_second_is_counted_and_said_in_the_next() {
        let log = AuditLog::default();
        let start = Instant::now();
        for _ in 0..LINES {
            assert_eq!(log.admit(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(log.admit(start), None);
        }
        assert_eq!(log.admit(start + SECOND), Some(7));
        assert_eq!(log.admit(start + SECOND), Some(0));
    }
}
