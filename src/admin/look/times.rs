//! Ages of what was noted by the wall clock, though that may have been set since.

use std::sync::{Arc, Mutex, PoisonError};

use super::seconds;
use crate::job_server::Now;

/// The wall clock was set where it has moved so far against the monotonic one, in microseconds.
const STEP_US: i64 = 1_000_000;
/// How late that is noticed at most: the time between two samples, and some more.
const SLACK_US: i64 = 3_000_000;
/// How many settings of the clock are remembered.
const SPANS_MAX: usize = 64;

/// How the wall clock went since the start of the server.
#[derive(Debug, Default)]
pub(super) struct WallClock(Mutex<Arc<Vec<Span>>>);

/// A time in which nobody set the wall clock. It lasts to the beginning of the next one.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// When it began by the monotonic clock, in microseconds.
    from_us: i64,
    /// The wall clock less the monotonic one, in microseconds.
    offset_us: i64,
}

/// The time now, and how the wall clock went before.
#[derive(Clone, Debug)]
pub(super) struct Times {
    pub(super) now: Now,
    spans: Arc<Vec<Span>>,
}

impl WallClock {
    /// To be called at least every two seconds, so that no setting of the clock is missed.
    pub(super) fn times(&self, now: Now) -> Times {
        let offset_us = signed(now.unix_us).saturating_sub(signed(now.monotonic_us));
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |span: &Span| span.offset_us.saturating_sub(offset_us).saturating_abs() < STEP_US;
        if !spans.last().is_some_and(is_same) {
            // What is older than the server goes by the clock of its start.
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
    /// How long ago it was when the wall clock said so many milliseconds since 1970, in microseconds; never less than 0. Where two
    /// times said so it is the later one.
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

    /// The same in milliseconds.
    pub(super) fn age_ms(&self, noted_ms: u64) -> u64 {
        self.age_us(noted_ms) / 1000
    }

    /// The same in seconds.
    pub(super) fn age_s(&self, noted_ms: u64) -> f64 {
        seconds(self.age_us(noted_ms))
    }

    /// What the wall clock, as it is set now, would have said then, in milliseconds since 1970.
    pub(super) fn unix_ms(&self, noted_ms: u64) -> u64 {
        // Nothing is rounded where the clock was not set.
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

    /// The time so many seconds after the start, by a wall clock that was set forward by so many.
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
            // It is set at 100 s, noticed a second later, and set back at 200 s.
            let late = noted(at(101, step_s));
            let times = clock.times(at(102, step_s));
            assert_eq!([stored, early, late].map(|ms| times.age_s(ms).to_string()), ["602", "92", "1"], "{step_s}");
            assert_eq!(times.unix_ms(early), noted(at(10, step_s)));
            let times = clock.times(at(202, 0));
            assert_eq!([stored, early, late].map(|ms| times.age_s(ms).to_string()), ["702", "192", "101"], "{step_s}");
            // Nothing is of the future.
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
