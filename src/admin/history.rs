//! History and rates: the last hour in intervals, of all functions together and of the first that had jobs;
//! and the current rates of every function.
//!
//! A thread that no other thread waits for samples the published gauges at intervals.

use std::collections::{HashMap, VecDeque};

use super::view::{HistoryView, Rates};
use crate::job_server::Now;
use crate::protocol::FunctionName;
use crate::stats::histogram::Durations;
use crate::stats::{FunctionGauges, JobCounters, Stats};

/// Samples in an interval.
const SAMPLES_PER_INTERVAL: u64 = 5;
/// The length of an interval, in seconds: samples are taken every two.
const INTERVAL_S: u64 = 10;
/// How many intervals are kept: an hour.
const INTERVALS: usize = 360;
/// How many functions have an hour of history: the first that had jobs and are still known.
const MOST_HOURS: usize = 1000;

/// The history.
#[derive(Debug, Default)]
pub(super) struct History {
    all: Track,
    functions: HashMap<FunctionName, Track>,
    /// How many functions have an hour of history.
    hours: usize,
    samples: u64,
    sampled_us: u64,
    until_unix_ms: u64,
}

/// The history of one function, or of all.
#[derive(Debug, Default)]
struct Track {
    /// Counters at the last sample.
    sampled: Counts,
    rates: Rates,
    /// Kept for all functions together, and for some.
    hour: Option<Box<Hour>>,
    /// Whether the function existed at the last sample.
    is_alive: bool,
}

/// The intervals of the last hour, and the counters at the end of the last interval.
#[derive(Debug, Default)]
struct Hour {
    ended: Counts,
    wait: Durations,
    run: Durations,
    intervals: VecDeque<Interval>,
}

/// Counters at one time.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    submitted: u64,
    ended: u64,
    failed: u64,
}

/// The state of a function, or of all, at the end of an interval.
#[derive(Debug)]
struct State {
    queued: u64,
    running: u64,
    wait: Durations,
    run: Durations,
}

#[derive(Debug)]
struct Interval {
    queued: u64,
    running: u64,
    counts: Counts,
    /// Median and 99th percentile of the waiting times; then the same of the runs. In seconds.
    wait_s: [Option<f32>; 2],
    run_s: [Option<f32>; 2],
}

impl Counts {
    fn read(counters: &JobCounters) -> Self {
        let failed = counters.failed.get() + counters.exceptions.get() + counters.dropped.get();
        let others = counters.done.get() + counters.cancelled.get() + counters.abandoned.get();
        Self { submitted: counters.submitted.get(), ended: failed + others, failed }
    }

    /// A function that was dropped and created again counts from 0.
    fn since(self, earlier: Self) -> Self {
        Self {
            submitted: self.submitted.saturating_sub(earlier.submitted),
            ended: self.ended.saturating_sub(earlier.ended),
            failed: self.failed.saturating_sub(earlier.failed),
        }
    }
}

impl History {
    /// Takes a sample of the published gauges.
    pub(super) fn sample(&mut self, now: Now, stats: &Stats) {
        let elapsed_us = now.monotonic_us.saturating_sub(std::mem::replace(&mut self.sampled_us, now.monotonic_us));
        let is_first = self.samples == 0;
        self.samples += 1;
        let ends_interval = self.samples.is_multiple_of(SAMPLES_PER_INTERVAL);
        let mut all = State { queued: 0, running: 0, wait: Durations::default(), run: Durations::default() };
        for (name, gauges) in &stats.functions {
            let counts = gauges.counters.get().map_or_else(Counts::default, Counts::read);
            let end = ends_interval.then(|| State::read(&gauges));
            if let Some(end) = &end {
                all.add(end);
            }
            let track = match self.functions.get_mut(&name) {
                Some(track) => track,
                None if counts.submitted > 0 || gauges.total() > 0 => self.functions.entry(name).or_default(),
                None => continue,
            };
            if track.hour.is_none() && self.hours < MOST_HOURS {
                self.hours += 1;
                track.hour = Some(Box::new(Hour { ended: track.sampled, ..Hour::default() }));
                if let Some(hour) = track.hour.as_mut().filter(|hour| hour.ended.submitted > 0) {
                    // The function was known before, but there was no room for its hour.
                    (hour.wait, hour.run) = (gauges.wait.read(), gauges.run.read());
                }
            }
            track.sample(counts, elapsed_us, is_first);
            if let Some((end, hour)) = end.zip(track.hour.as_mut()) {
                hour.end_interval(counts, end);
            }
        }
        self.functions.retain(|_, track| {
            let is_alive = std::mem::take(&mut track.is_alive);
            self.hours -= usize::from(!is_alive && track.hour.is_some());
            is_alive
        });
        let counts = Counts::read(&stats.counters);
        self.all.sample(counts, elapsed_us, is_first);
        if ends_interval {
            self.all.hour.get_or_insert_default().end_interval(counts, all);
            self.until_unix_ms = now.unix_us / 1000;
        }
    }

    /// Current rates of one function, or of all.
    pub(super) fn rates(&self, function: Option<&FunctionName>) -> Rates {
        self.track(function.map(FunctionName::as_bytes)).map_or_else(Rates::default, |track| track.rates)
    }

    /// The last hour of one function, or of all.
    pub(super) fn view(&self, function: Option<&[u8]>) -> HistoryView {
        let mut view =
            HistoryView { interval_s: INTERVAL_S, until_unix_ms: self.until_unix_ms, ..HistoryView::default() };
        for interval in self.hour(function).iter().flat_map(|hour| &hour.intervals) {
            view.queued.push(interval.queued);
            view.running.push(interval.running);
            view.submitted.push(interval.counts.submitted);
            view.ended.push(interval.counts.ended);
            view.failed.push(interval.counts.failed);
            let [wait_p50_s, wait_p99_s] = interval.wait_s.map(|s| s.map(f64::from));
            let [run_p50_s, run_p99_s] = interval.run_s.map(|s| s.map(f64::from));
            view.wait_p50_s.push(wait_p50_s);
            view.wait_p99_s.push(wait_p99_s);
            view.run_p50_s.push(run_p50_s);
            view.run_p99_s.push(run_p99_s);
        }
        view
    }

    fn hour(&self, function: Option<&[u8]>) -> Option<&Hour> {
        self.track(function)?.hour.as_deref()
    }

    fn track(&self, function: Option<&[u8]>) -> Option<&Track> {
        function.map_or(Some(&self.all), |function| self.functions.get(function))
    }
}

impl State {
    fn read(gauges: &FunctionGauges) -> Self {
        Self {
            queued: gauges.queued(),
            running: gauges.running.get(),
            wait: gauges.wait.read(),
            run: gauges.run.read(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.queued += other.queued;
        self.running += other.running;
        self.wait.add(&other.wait);
        self.run.add(&other.run);
    }
}

impl Track {
    #[allow(clippy::cast_precision_loss, reason = "for people to read")]
    fn sample(&mut self, counts: Counts, elapsed_us: u64, is_first: bool) {
        let gained = counts.since(std::mem::replace(&mut self.sampled, counts));
        if elapsed_us > 0 && !is_first {
            let rate = |count: u64| count as f64 * 1e6 / elapsed_us as f64;
            self.rates = Rates {
                in_per_s: rate(gained.submitted),
                out_per_s: rate(gained.ended),
                failed_per_s: rate(gained.failed),
            };
        }
        self.is_alive = true;
    }
}

impl Hour {
    fn end_interval(&mut self, counts: Counts, state: State) {
        let State { queued, running, wait, run } = state;
        let [wait_s, run_s] = [(&wait, &self.wait), (&run, &self.run)].map(|(now, before)| {
            let gained = now.since(before);
            [0.5, 0.99].map(|part| gained.quantile_s(part).map(short))
        });
        let counts_of_interval = counts.since(std::mem::replace(&mut self.ended, counts));
        (self.wait, self.run) = (wait, run);
        if self.intervals.len() == INTERVALS {
            self.intervals.pop_front();
        }
        self.intervals.push_back(Interval { queued, running, counts: counts_of_interval, wait_s, run_s });
    }
}

#[allow(clippy::cast_possible_truncation, reason = "an estimate")]
fn short(seconds: f64) -> f32 {
    seconds as f32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn at(seconds: u64) -> Now {
        Now { monotonic_us: seconds * 1_000_000, unix_us: (1_800_000_000 + seconds) * 1_000_000 }
    }

    #[test]
    fn an_hour_is_remembered_and_rates_are_those_of_the_last_sample() {
        let (stats, mut history) = (Stats::default(), History::default());
        let name = FunctionName::new(b"f");
        let gauges = Arc::new(FunctionGauges::default());
        stats.functions.insert(name.clone(), Arc::clone(&gauges));
        for sample in 0..2000 {
            history.sample(at(2 * sample), &stats);
            for counters in [gauges.counters.get_or_make(), &stats.counters] {
                counters.submitted.bump(10);
                counters.done.bump(4);
                counters.failed.bump(2);
            }
            gauges.queued[1].set(sample);
            gauges.run.record(1000);
        }
        for function in [None, Some(&name)] {
            let rates = history.rates(function);
            assert_eq!(rates, Rates { in_per_s: 5.0, out_per_s: 3.0, failed_per_s: 1.0 });
            let view = history.view(function.map(FunctionName::as_bytes));
            assert_eq!(view.queued.len(), INTERVALS);
            assert_eq!((view.queued.first(), view.queued.last()), (Some(&203), Some(&1998)));
            assert_eq!(
                (view.submitted.last(), view.ended.last(), view.failed.last()),
                (Some(&50), Some(&30), Some(&10))
            );
            assert!(view.run_p50_s.last().unwrap().is_some_and(|p50_s| (0.0008..0.0012).contains(&p50_s)));
            assert_eq!(view.wait_p50_s.last(), Some(&None));
            assert_eq!(view.until_unix_ms, at(3998).unix_us / 1000);
        }
        let late = Arc::new(FunctionGauges::default());
        for index in 0..MOST_HOURS {
            let gauges = Arc::new(FunctionGauges::default());
            gauges.running.set(1);
            stats.functions.insert(FunctionName::new(format!("f{index}").as_bytes()), gauges);
        }
        history.sample(at(4000), &stats);
        late.counters.get_or_make().submitted.bump(1);
        stats.functions.insert(FunctionName::new(b"late"), Arc::clone(&late));
        history.sample(at(4002), &stats);
        late.counters.get_or_make().submitted.bump(6);
        history.sample(at(4004), &stats);
        let rates = history.rates(Some(&FunctionName::new(b"late")));
        assert_eq!(rates, Rates { in_per_s: 3.0, ..Rates::default() });
        assert_eq!(history.hours, MOST_HOURS);
        stats.functions.clear();
        history.sample(at(4006), &stats);
        assert_eq!((history.hours, history.functions.len()), (0, 0));
        assert!(history.view(Some(b"f")).queued.is_empty(), "a function that is gone is remembered");
    }
}
