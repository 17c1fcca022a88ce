//! Lines about what a server says or does unasked: so many, and then a count of those that were left out.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::tell;

/// So many lines are written in each [`WINDOW`].
const LINES: u32 = 10;
/// A flood of lines is counted anew after this time.
const WINDOW: Duration = Duration::from_secs(10);

/// What was written lately.
#[derive(Debug)]
struct Limiter {
    begin: Option<Instant>,
    written: u32,
    left_out: u64,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is written, after a line about those that were left out before.
    Written(u64),
    /// It is written, and says that no more follow for a while.
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

/// As [`tell`], for what a server makes the tool say: a server that floods it gets a few lines in each ten seconds.
pub(super) fn tell_limited(tool: &str, message: fmt::Arguments<'_>) {
    limited(message, |line| tell(tool, line));
}

/// The same with another way to write a line.
pub(super) fn limited(message: fmt::Arguments<'_>, write: impl Fn(fmt::Arguments<'_>)) {
    // A poisoned lock holds numbers all the same.
    let verdict = LIMITER.lock().unwrap_or_else(PoisonError::into_inner).judge(Instant::now());
    match verdict {
        Verdict::LeftOut => {}
        Verdict::Last => write(format_args!("{message} (no more lines like this for {} s)", WINDOW.as_secs())),
        Verdict::Written(0) => write(message),
        Verdict::Written(left_out) => {
            write(format_args!("{left_out} lines about the server were left out"));
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
