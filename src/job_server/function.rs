//! A function: its queues, and the workers that sleep until it has work.

use std::sync::Arc;

use super::ids::{AbilitySlot, RunSlot, SlotId};
use super::index::NONE;
use super::job::{JobState, Jobs, Links};
use crate::protocol::{FunctionName, Priority};
use crate::stats::FunctionGauges;

/// A list of jobs in the order in which they are handed out, linked through the jobs.
#[derive(Clone, Copy, Debug)]
pub(super) struct JobList {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) len: u32,
}

impl JobList {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE, len: 0 };

    /// Appends a job; `state` makes its state from its links.
    pub(super) fn push(&mut self, jobs: &mut Jobs, slot: u32, state: fn(Links) -> JobState) {
        jobs.get_mut(slot).state = state(Links { previous: self.last, next: NONE });
        match jobs.links_mut(self.last) {
            Some(last) => last.next = slot,
            None => self.first = slot,
        }
        self.last = slot;
        self.len += 1;
    }

    /// Prepends a job.
    pub(super) fn push_front(&mut self, jobs: &mut Jobs, slot: u32, state: fn(Links) -> JobState) {
        jobs.get_mut(slot).state = state(Links { previous: NONE, next: self.first });
        match jobs.links_mut(self.first) {
            Some(first) => first.previous = slot,
            None => self.last = slot,
        }
        self.first = slot;
        self.len += 1;
    }

    /// Removes `slot`, whose state the caller must change.
    pub(super) fn remove(&mut self, jobs: &mut Jobs, slot: u32) {
        let Some(Links { previous, next }) = jobs.links_mut(slot).copied() else {
            debug_assert!(false, "a job that is in no list was taken out of one");
            return;
        };
        match jobs.links_mut(previous) {
            Some(links) => links.next = next,
            None => self.first = next,
        }
        match jobs.links_mut(next) {
            Some(links) => links.previous = previous,
            None => self.last = previous,
        }
        self.len -= 1;
    }
}

/// A function, with or without jobs and workers.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub(super) struct Function {
    pub(super) name: FunctionName,
    /// By priority: jobs that can be handed out.
    pub(super) ready: [JobList; 3],
    /// By priority: jobs behind the ready ones, whose workloads are only in the store.
    pub(super) paged_out: [JobList; 3],
    /// By priority: paged-out jobs that are being read.
    pub(super) loading: [JobList; 3],
    /// By priority, while jobs are being read: since when the oldest of them has waited, if known.
    pub(super) loading_since_ms: [Option<u64>; 3],
    /// By priority: how many ready jobs were handed out since paged-out ones were last requested.
    pub(super) assigned_since_load: [u32; 3],
    /// The number of jobs that the store has not confirmed yet.
    pub(super) storing: u32,
    /// By priority: jobs that are not due yet, in order of arrival.
    pub(super) scheduled: [JobList; 3],
    pub(super) running: u32,
    /// The head of the list of its runs: the one that began last.
    pub(super) first_run: RunSlot,
    /// How often one of its jobs became ready again, or moved between lists in some other way than to a
    /// worker: a walk over the lists may have missed it.
    pub(super) returns: u32,
    /// The number of connections that can do it.
    pub(super) workers: u32,
    /// The list of the abilities of sleeping connections; the first is woken next.
    pub(super) first_sleeper: AbilitySlot,
    pub(super) last_sleeper: AbilitySlot,
    /// The list of the abilities of wide connections, asleep or not, unordered, and its length.
    pub(super) first_wide: AbilitySlot,
    pub(super) wide: u32,
    /// The number of connections that were sent a NOOP for a job of this function and have not answered it
    /// yet.
    pub(super) waking: u32,
    /// The maximum number of its jobs, by priority of the new job; 0 for no limit.
    pub(super) limits: [u32; 3],
    /// Whether the operator withholds its jobs from all workers.
    pub(super) paused: bool,
    /// The maximum number of its jobs that run at once; 0 for no limit.
    pub(super) max_running: u32,
    /// Whether only the operator's settings have named it: no worker, job or other command has.
    pub(super) settings_only: bool,
    /// By priority, its index among the functions with ready jobs, while it has some.
    pub(super) ready_places: [u32; 3],
    /// Its index among the unused functions, while it is one.
    pub(super) unused_place: u32,
    /// Whether it is counted among the functions that the operator has paused or limited.
    pub(super) counted_with_settings: bool,
    pub(super) gauges: Arc<FunctionGauges>,
}

impl Function {
    pub(super) fn new(name: FunctionName, gauges: Arc<FunctionGauges>) -> Self {
        Self {
            name,
            ready: [JobList::EMPTY; 3],
            paged_out: [JobList::EMPTY; 3],
            loading: [JobList::EMPTY; 3],
            loading_since_ms: [None; 3],
            assigned_since_load: [0; 3],
            storing: 0,
            scheduled: [JobList::EMPTY; 3],
            running: 0,
            first_run: RunSlot::NONE,
            returns: 0,
            workers: 0,
            first_sleeper: AbilitySlot::NONE,
            last_sleeper: AbilitySlot::NONE,
            first_wide: AbilitySlot::NONE,
            wide: 0,
            waking: 0,
            limits: [0; 3],
            paused: false,
            max_running: 0,
            settings_only: false,
            ready_places: [NONE; 3],
            unused_place: NONE,
            counted_with_settings: false,
            gauges,
        }
    }

    /// The number of ready jobs.
    pub(super) fn ready(&self) -> u32 {
        self.ready.iter().map(|list| list.len).sum()
    }

    /// Whether it has jobs of a priority that can be handed out at once.
    pub(super) fn is_ready(&self, priority: usize) -> bool {
        self.ready[priority].len > 0
    }

    /// The number of jobs of a priority that wait for a worker, wherever their workloads are.
    pub(super) fn queued(&self, priority: Priority) -> u32 {
        let index = priority.index();
        self.ready[index].len + self.paged_out[index].len + self.loading[index].len
    }

    /// The number of all jobs, including those that the store has not confirmed yet.
    pub(super) fn total(&self) -> u32 {
        Priority::ALL.iter().map(|priority| self.queued(*priority)).sum::<u32>()
            + self.storing
            + self.scheduled()
            + self.running
    }

    /// The number of jobs that are not due yet, of any priority.
    pub(super) fn scheduled(&self) -> u32 {
        self.scheduled.iter().map(|list| list.len).sum()
    }

    pub(super) fn list(&mut self, priority: Priority) -> &mut JobList {
        &mut self.ready[priority.index()]
    }

    /// Whether it can be removed without loss.
    pub(super) fn is_unused(&self) -> bool {
        // The condition that most often fails comes first.
        self.workers == 0 && self.total() == 0 && !self.has_settings()
    }

    /// Whether the operator has paused or limited it.
    pub(super) fn has_settings(&self) -> bool {
        self.limits != [0; 3] || self.max_running > 0 || self.paused
    }

    /// Whether the operator's settings let workers have a job of it now.
    pub(super) fn is_open(&self) -> bool {
        !self.paused && (self.max_running == 0 || self.running < self.max_running)
    }

    /// Whether there is a ready job that may be handed out and that no woken worker covers.
    pub(super) fn has_uncovered(&self) -> bool {
        let ready = match self.max_running {
            0 => self.ready(),
            most => self.ready().min(most.saturating_sub(self.running)),
        };
        !self.paused && ready > self.waking
    }

    /// Publishes the numbers of its jobs and workers.
    ///
    /// Runs several times per job, so it visits each priority once, and skips empty lists.
    pub(super) fn publish(&self, jobs: &Jobs) {
        let gauges = &*self.gauges;
        // Since when the oldest head of a queue, or the oldest job being read, has waited, if known.
        let mut oldest_ms = u64::MAX;
        for index in 0..Priority::ALL.len() {
            let (ready, paged_out, loading) = (self.ready[index], self.paged_out[index], self.loading[index].len);
            gauges.queued[index].set(u64::from(ready.len + paged_out.len + loading));
            gauges.scheduled[index].set(u64::from(self.scheduled[index].len));
            if ready.len > 0 {
                oldest_ms = oldest_ms.min(jobs.get(ready.first).waits_since_ms().unwrap_or(u64::MAX));
            }
            if paged_out.len > 0 {
                oldest_ms = oldest_ms.min(jobs.get(paged_out.first).waits_since_ms().unwrap_or(u64::MAX));
            }
            if loading > 0 {
                oldest_ms = oldest_ms.min(self.loading_since_ms[index].unwrap_or(u64::MAX));
            }
        }
        gauges.oldest_ms.set(if oldest_ms == u64::MAX { 0 } else { oldest_ms });
        gauges.workers.set(u64::from(self.workers));
        self.publish_running();
    }

    /// Publishes only the number of its running jobs.
    pub(super) fn publish_running(&self) {
        self.gauges.running.set(u64::from(self.running));
    }

    /// Records that something other than a setting has named it.
    pub(super) fn mark_named(&mut self) {
        if self.settings_only {
            self.settings_only = false;
            self.gauges.settings_only.set(0);
        }
    }

    /// Publishes the operator's settings.
    pub(super) fn publish_settings(&self) {
        self.gauges.settings_only.set(u64::from(self.settings_only));
        self.gauges.paused.set(u64::from(self.paused));
        self.gauges.max_running.set(u64::from(self.max_running));
        for (gauge, limit) in self.gauges.max_queue.iter().zip(self.limits) {
            gauge.set(u64::from(limit));
        }
    }
}
