//! Rate limit for messages that a server causes: a few lines per time window, then a count of the omitted
//! ones.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::tell;

/// Lines written in each [`WINDOW`].
const LINES: u32 = 10;
/// Length of the window.
const WINDOW: Duration = Duration::from_secs(10);

/// Lines written in the current window.
#[derive(Debug)]
struct Limiter {
    begin: Option<Instant>,
    written: u32,
    left_out: u64,
}

/// What happens to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Written, after a line with the number of omitted ones.
    Written(u64),
    /// Written, with a note that no more follow for a while.
    Last,
    LeftOut,
}

static LIMITER: Mutex<Limiter> = Mutex::new(Limiter { begin: None, written: 0, left_out: 0 });

impl Limiter {
    fn judge(&mut self, now: Instant) -> Verdict {
        if self.begin.is_none_or(|begin| now.saturating_duration_since(begin) >= WINDOW) {
            (self.begin, self.written) = (Some(now), 0);
        }
        if self.written >= LINES {
            self.left_out += 1;
            return Verdict::LeftOut;
        }
        self.written += 1;
        if self.written == LINES { Verdict::Last } else { Verdict::Written(std::mem::take(&mut self.left_out)) }
    }
}

/// Like [`tell`], but rate limited, for messages that a server causes: a flood results in a few lines every
/// ten seconds.
pub(super) fn tell_limited(tool: &str, message: fmt::Arguments<'_>) {
    limited(message, |line| tell(tool, line));
}

/// Like [`tell_limited`], with another way to write a line.
pub(super) fn limited(message: fmt::Arguments<'_>, write: impl Fn(fmt::Arguments<'_>)) {
    // A poisoned lock still holds valid numbers.
    let verdict = LIMITER.lock().unwrap_or_else(PoisonError::into_inner).judge(Instant::now());
    match verdict {
        Verdict::LeftOut => {}
        Verdict::Last => {
            write(format_args!("{message} (further messages about the server suppressed for {} s)", WINDOW.as_secs()));
        }
        Verdict::Written(0) => write(message),
        Verdict::Written(left_out) => {
            write(format_args!("{left_out} messages about the server suppressed"));
            write(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_few_lines_and_a_count() {
        let mut limiter = Limiter { begin: None, written: 0, left_out: 0 };
        let now = Instant::now();
        let verdicts: Vec<Verdict> = (0..1000).map(|_| limiter.judge(now)).collect();
        assert_eq!(verdicts[0], Verdict::Written(0));
        assert_eq!(verdicts[9], Verdict::Last);
        assert!(verdicts[10..].iter().all(|verdict| *verdict == Verdict::LeftOut));
        assert_eq!(limiter.judge(now + WINDOW), Verdict::Written(990));
        assert_eq!(limiter.judge(now + WINDOW), Verdict::Written(0));
    }
}
