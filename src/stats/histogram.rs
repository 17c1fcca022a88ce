//! Histograms of durations: cheap to add to, and small enough to have many of.

use std::sync::OnceLock;

use super::Gauge;

/// The base-2 logarithm of [`STEPS`].
const STEPS_POWER: u32 = 2;
/// Buckets for each doubling. With four of them no bound exceeds the one before by more than a quarter, so no
/// estimate of a quantile from 64 µs on is further than that from the true value.
const STEPS: usize = 1 << STEPS_POWER;
/// The upper bound of the first bucket is 2 to this power, in microseconds: 64 µs.
const FIRST_POWER: u32 = 6;
/// The upper bound of the last bounded bucket is 2 to this power, in microseconds: some nine and a half
/// hours.
const LAST_POWER: u32 = 35;
/// The number of buckets, including the open one.
pub const BUCKETS: usize = (LAST_POWER - FIRST_POWER) as usize * STEPS + 2;
/// Buckets that are allocated together: four doublings. The durations of a function are mostly in one or two
/// blocks.
const BLOCK: usize = 4 * STEPS;

/// Measured durations. There is one writer at a time; readers may see a sum slightly newer than its counts.
#[derive(Debug, Default)]
pub struct Histogram {
    sum_us: Gauge,
    blocks: [OnceLock<Box<[Gauge; BLOCK]>>; BUCKETS.div_ceil(BLOCK)],
}

/// The content of a [`Histogram`] at some time, or its gain between two times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    /// By bucket; see [`bound_us`].
    pub counts: [u64; BUCKETS],
    /// The sum of all durations, in microseconds.
    pub sum_us: u64,
}

impl Default for Durations {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum_us: 0 }
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&self, duration_us: u64) {
        self.record_in(bucket_of(duration_us), duration_us);
    }

    /// The same for a duration that is counted more than once: `bucket` is the result of [`bucket_of`] for
    /// it.
    pub fn record_in(&self, bucket: usize, duration_us: u64) {
        let block = self.blocks.get(bucket / BLOCK).map(|block| block.get_or_init(Box::default));
        if let Some(count) = block.and_then(|block| block.get(bucket % BLOCK)) {
            count.bump(1);
        }
        self.sum_us.bump(duration_us);
    }

    /// The present content.
    pub fn read(&self) -> Durations {
        let mut durations = Durations { sum_us: self.sum_us.get(), ..Durations::default() };
        for (counts, block) in durations.counts.chunks_mut(BLOCK).zip(&self.blocks) {
            for (count, gauge) in counts.iter_mut().zip(block.get().into_iter().flat_map(|block| block.iter())) {
                *count = gauge.get();
            }
        }
        durations
    }
}

impl Durations {
    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their mean, in seconds.
    pub fn mean_s(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| seconds(self.sum_us) / as_float(count))
    }

    /// The duration that `part` of them, from 0 to 1, do not exceed, in seconds. It is estimated within a
    /// bucket.
    pub fn quantile_s(&self, part: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = as_float(count) * part;
        let mut below = 0.0;
        for (index, in_bucket) in self.counts.iter().enumerate() {
            let with_bucket = below + as_float(*in_bucket);
            if *in_bucket > 0 && with_bucket >= wanted {
                let lower = index.checked_sub(1).and_then(bound_us).unwrap_or(0);
                // The open bucket has no upper bound: its durations are at least its lower bound.
                let upper = bound_us(index).unwrap_or(lower);
                let share = ((wanted - below) / as_float(*in_bucket)).clamp(0.0, 1.0);
                return Some(seconds(lower) + (seconds(upper) - seconds(lower)) * share);
            }
            below = with_bucket;
        }
        None
    }

    /// Adds other durations.
    pub fn add(&mut self, others: &Self) {
        for (count, other) in self.counts.iter_mut().zip(others.counts) {
            *count += other;
        }
        self.sum_us += others.sum_us;
    }

    /// The durations recorded since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            counts: std::array::from_fn(|index| self.counts[index].saturating_sub(earlier.counts[index])),
            sum_us: self.sum_us.saturating_sub(earlier.sum_us),
        }
    }
}

/// The longest duration that a bucket counts, in microseconds; `None` for the last, which counts all longer
/// ones.
pub fn bound_us(bucket: usize) -> Option<u64> {
    if bucket >= BUCKETS - 1 {
        return None;
    }
    let power = FIRST_POWER + u32::try_from(bucket / STEPS).ok()?;
    // Between two powers of two the bounds are equally spaced.
    Some((1 << power) + (bucket % STEPS) as u64 * (1 << (power - STEPS_POWER)))
}

/// The bucket that counts a duration, in microseconds.
pub fn bucket_of(duration_us: u64) -> usize {
    // A bucket includes its bound.
    let Some(past) = duration_us.checked_sub(1) else { return 0 };
    let Some(power) = past.checked_ilog2().filter(|power| *power >= FIRST_POWER) else { return 0 };
    // The bits after the highest one.
    let step = usize::try_from(past >> (power - STEPS_POWER)).map_or(0, |bits| bits % STEPS);
    ((power - FIRST_POWER) as usize * STEPS + 1 + step).min(BUCKETS - 1)
}

#[allow(clippy::cast_precision_loss, reason = "for people to read")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[allow(clippy::cast_precision_loss, reason = "for people to read")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_counts_what_is_above_the_bound_before_it_and_up_to_its_own() {
        for bucket in 0..BUCKETS {
            let least = bucket.checked_sub(1).and_then(bound_us).map_or(0, |bound| bound + 1);
            assert_eq!(bucket_of(least), bucket, "{least} us");
            assert_eq!(bucket_of(bound_us(bucket).unwrap_or(u64::MAX)), bucket);
        }
        assert_eq!(bound_us(0), Some(64));
        assert_eq!(bound_us(1), Some(80));
        assert_eq!(bound_us(4), Some(128));
        assert_eq!(bound_us(BUCKETS - 2), Some(1 << LAST_POWER));
    }

    #[test]
    fn no_quantile_is_further_than_a_quarter_from_the_truth() {
        // The worst case: every duration is the same, just above a bound.
        for bucket in 0..BUCKETS - 2 {
            let truth_us = bound_us(bucket).unwrap() + 1;
            let histogram = Histogram::default();
            (0..100).for_each(|_| histogram.record(truth_us));
            for part in [0.01, 0.5, 0.99, 1.0] {
                let ratio = histogram.read().quantile_s(part).unwrap() / seconds(truth_us);
                assert!((0.8..=1.25).contains(&ratio), "{part} of {truth_us} us: {ratio}");
            }
        }
    }

    #[test]
    fn few_distinct_durations_take_little_memory() {
        let histogram = Histogram::default();
        for duration_us in [1000, 2000, 4000, 9000] {
            histogram.record(duration_us);
        }
        let blocks = histogram.blocks.iter().filter(|block| block.get().is_some()).count();
        assert!(size_of::<Histogram>() + blocks * size_of::<[Gauge; BLOCK]>() < 488, "{blocks} blocks");
        histogram.record(u64::MAX);
        let durations = histogram.read();
        assert_eq!((durations.count(), durations.counts[BUCKETS - 1]), (5, 1));
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read().quantile_s(0.5), None);
        assert_eq!(histogram.read().mean_s(), None);
        for ms in 1..=1000 {
            histogram.record(ms * 1000);
        }
        let durations = histogram.read();
        assert_eq!(durations.count(), 1000);
        assert!((durations.mean_s().unwrap() - 0.5005).abs() < 1e-9);
        for (part, truth) in [(0.5, 0.5), (0.9, 0.9), (0.99, 0.99)] {
            let estimate = durations.quantile_s(part).unwrap();
            assert!((estimate / truth - 1.0_f64).abs() < 0.2, "{part}: {estimate} for {truth}");
        }
        let later = {
            histogram.record(10);
            histogram.read().since(&durations)
        };
        assert_eq!((later.count(), later.sum_us), (1, 10));
    }
}
