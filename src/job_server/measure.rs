//! What is counted and timed for those who look.

use super::work::Outcome;
use super::{JobServer, Now};
use crate::stats::histogram::bucket_of;
use crate::stats::{Gauge, JobCounters};

impl JobServer {
    /// Counts something that happened to a job of a function, there and among all.
    pub(super) fn tally(&self, function: u32, counter: fn(&JobCounters) -> &Gauge) {
        counter(self.functions[function as usize].gauges.counters.get_or_make()).bump(1);
        counter(&self.stats.counters).bump(1);
    }

    /// A job is handed out: measures how long it waited, unless it has been handed out before.
    pub(super) fn measure_wait(&self, now: Now, job: u32) {
        let job = self.jobs.get(job);
        if let Some(since_ms) = job.waits_since_ms()
            && job.attempts == 0
        {
            let waited_us = now.unix_us.saturating_sub(since_ms * 1000);
            self.functions[job.function as usize].gauges.wait.record(waited_us);
        }
    }

    /// A worker is through with a job.
    pub(super) fn measure_run(&self, now: Now, run: u32, outcome: &Outcome<'_>) {
        let run = &self.runs[run as usize];
        let function = self.jobs.get(run.job).function;
        let took_us = now.monotonic_us.saturating_sub(run.since_us);
        let bucket = bucket_of(took_us);
        run.gauges.run.get_or_make().record_in(bucket, took_us);
        self.functions[function as usize].gauges.run.get_or_make().record_in(bucket, took_us);
        match outcome {
            Outcome::Complete(_) => {
                run.gauges.counters.get_or_make().done.bump(1);
                self.tally(function, |counters| &counters.done);
            }
            Outcome::Fail => {
                run.gauges.counters.get_or_make().failed.bump(1);
                self.tally(function, |counters| &counters.failed);
            }
            Outcome::Exception(_) => {
                run.gauges.counters.get_or_make().excepted.bump(1);
                self.tally(function, |counters| &counters.excepted);
            }
        }
    }
}
