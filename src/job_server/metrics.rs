//! Metrics of jobs: events that are counted and times that are measured.

use super::ids::{ConnectionSlot, FunctionSlot, RunSlot};
use super::work::Outcome;
use super::{JobServer, Now};
use crate::stats::histogram::bucket_of;
use crate::stats::{AbilityGauges, Gauge, JobCounters};

impl JobServer {
    /// Counts an event of a job, for its function and in total.
    pub(super) fn tally(&self, function: FunctionSlot, counter: fn(&JobCounters) -> &Gauge) {
        counter(self.functions[function].gauges.counters.get_or_make()).bump(1);
        counter(&self.stats.counters).bump(1);
    }

    /// Records how long a job waited, when it is handed out for the first time.
    pub(super) fn measure_wait(&self, now: Now, job: u32) {
        let job = self.jobs.get(job);
        if let Some(since_ms) = job.waits_since_ms()
            && job.attempts == 0
        {
            let waited_us = now.unix_us.saturating_sub(since_ms * 1000);
            self.functions[job.function].gauges.wait.record(waited_us);
        }
    }

    /// Records a worker's result for a job that was revoked from it. How long it took is no longer known.
    pub(super) fn measure_late(&self, connection: ConnectionSlot, job: u32, outcome: &Outcome<'_>) {
        let function = self.jobs.get(job).function;
        let ability = self.find_ability(connection, function);
        let gauges = ability.map(|ability| &*self.abilities[ability].gauges);
        self.count_outcome(function, gauges, outcome);
    }

    /// Records a worker's result for a job, and how long it took.
    pub(super) fn measure_run(&self, now: Now, run: RunSlot, outcome: &Outcome<'_>) {
        let run = &self.runs[run];
        let function = self.jobs.get(run.job).function;
        let took_us = now.monotonic_us.saturating_sub(run.since_us);
        let bucket = bucket_of(took_us);
        run.gauges.run.get_or_make().record_in(bucket, took_us);
        self.functions[function].gauges.run.get_or_make().record_in(bucket, took_us);
        self.count_outcome(function, Some(&run.gauges), outcome);
    }

    fn count_outcome(&self, function: FunctionSlot, worker: Option<&AbilityGauges>, outcome: &Outcome<'_>) {
        if let Some(worker) = worker.map(|worker| worker.counters.get_or_make()) {
            let counter = match outcome {
                Outcome::Complete(_) => &worker.done,
                Outcome::Fail => &worker.failed,
                Outcome::Exception(_) => &worker.exceptions,
            };
            counter.bump(1);
        }
        match outcome {
            Outcome::Complete(_) => self.tally(function, |counters| &counters.done),
            Outcome::Fail => self.tally(function, |counters| &counters.failed),
            Outcome::Exception(_) => self.tally(function, |counters| &counters.exceptions),
        }
    }
}
