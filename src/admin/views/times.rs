//! Ages of wall-clock timestamps, correct even if the wall clock was set in the meantime.

use std::sync::{Arc, Mutex, PoisonError};

use super::seconds;
use crate::job_server::Now;

/// The wall clock counts as set when it has moved this much against the monotonic clock, in microseconds.
const STEP_US: i64 = 1_000_000;
/// Maximum delay until that is noticed: the time between two samples, and a margin.
const SLACK_US: i64 = 3_000_000;
/// How many clock changes are kept.
const SPANS_MAX: usize = 64;

/// The changes of the wall clock since the start of the server.
#[derive(Debug, Default)]
pub(super) struct WallClock(Mutex<Arc<Vec<Span>>>);

/// A period in which the wall clock was not set. It lasts until the next one begins.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Its beginning by the monotonic clock, in microseconds.
    from_us: i64,
    /// Wall clock minus monotonic clock, in microseconds.
    offset_us: i64,
}

/// The current time, and the earlier changes of the wall clock.
#[derive(Clone, Debug)]
pub(super) struct Times {
    pub(super) now: Now,
    spans: Arc<Vec<Span>>,
}

impl WallClock {
    /// Call it at least every two seconds, so that no change of the clock is missed.
    pub(super) fn times(&self, now: Now) -> Times {
        let offset_us = signed(now.unix_us).saturating_sub(signed(now.monotonic_us));
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |span: &Span| span.offset_us.saturating_sub(offset_us).saturating_abs() < STEP_US;
        if !spans.last().is_some_and(is_same) {
            // Timestamps from before the start use the clock of the start.
            let from_us = if spans.is_empty() { i64::MIN } else { signed(now.monotonic_us) };
            let spans = Arc::make_mut(&mut spans);
            if spans.len() == SPANS_MAX {
                spans.remove(1);
            }
            spans.push(Span { from_us, offset_us });
        }
        Times { now, spans: Arc::clone(&spans) }
    }
}

impl Times {
    /// The age of a timestamp in milliseconds since 1970 of the wall clock, in microseconds; never negative.
    /// If the timestamp is ambiguous, the later time counts.
    fn age_us(&self, noted_ms: u64) -> u64 {
        let now_us = signed(self.now.monotonic_us);
        let mut until_us = now_us;
        for span in self.spans.iter().rev() {
            let at_us = signed(noted_ms.saturating_mul(1000)).saturating_sub(span.offset_us);
            if at_us >= span.from_us.saturating_sub(SLACK_US) && at_us <= until_us.saturating_add(SLACK_US) {
                return u64::try_from(now_us.saturating_sub(at_us)).unwrap_or(0);
            }
            until_us = span.from_us;
        }
        0
    }

    /// The age in milliseconds.
    pub(super) fn age_ms(&self, noted_ms: u64) -> u64 {
        self.age_us(noted_ms) / 1000
    }

    /// The age in seconds.
    pub(super) fn age_s(&self, noted_ms: u64) -> f64 {
        seconds(self.age_us(noted_ms))
    }

    /// The timestamp converted to the current setting of the wall clock, in milliseconds since 1970.
    pub(super) fn unix_ms(&self, noted_ms: u64) -> u64 {
        // No rounding if the clock was never set.
        if self.spans.len() < 2 { noted_ms } else { self.now.unix_us.saturating_sub(self.age_us(noted_ms)) / 1000 }
    }
}

fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_S: u64 = 1_800_000_000;

    /// This many seconds after the start, by a wall clock that is set ahead by `ahead_s`.
    fn at(monotonic_s: u64, ahead_s: i64) -> Now {
        let unix_s = (START_S + monotonic_s).checked_add_signed(ahead_s).unwrap();
        Now { monotonic_us: monotonic_s * 1_000_000, unix_us: unix_s * 1_000_000 }
    }

    #[test]
    fn ages_do_not_change_when_the_clock_is_set() {
        const YEAR_S: i64 = 31_536_000;
        for step_s in [3600, -3600, 56 * YEAR_S, -56 * YEAR_S] {
            let clock = WallClock::default();
            let noted = |now: Now| now.unix_us / 1000;
            let [stored, early] = [noted(at(0, -500)), noted(at(10, 0))];
            assert!((clock.times(at(20, 0)).age_s(early) - 10.0).abs() < 1e-9);
            assert_eq!(clock.times(at(20, 0)).unix_ms(early), early);
            // The clock is set at 100 s, which is noticed a second later, and set back at 200 s.
            let late = noted(at(101, step_s));
            let times = clock.times(at(102, step_s));
            assert_eq!([stored, early, late].map(|ms| times.age_s(ms).to_string()), ["602", "92", "1"], "{step_s}");
            assert_eq!(times.unix_ms(early), noted(at(10, step_s)));
            let times = clock.times(at(202, 0));
            assert_eq!([stored, early, late].map(|ms| times.age_s(ms).to_string()), ["702", "192", "101"], "{step_s}");
            // Ages are never negative.
            assert_eq!(times.age_s(noted(at(9_000_000, 0))).to_bits(), 0_f64.to_bits());
        }
    }

    #[test]
    fn a_clock_that_is_set_without_end_takes_no_memory_without_end() {
        let clock = WallClock::default();
        for second in 0..1000 {
            let times = clock.times(at(second * 2, i64::try_from(second).unwrap() * 10));
            assert!(times.spans.len() <= SPANS_MAX);
        }
    }
}
