//! A function: its queues, and the workers that sleep until it has work.

use std::sync::Arc;

use super::index::NONE;
use super::job::{JobState, Jobs};
use crate::protocol::{FunctionName, Priority};
use crate::stats::FunctionGauges;

/// A list of jobs in the order in which they are handed out, linked through the jobs.
#[derive(Clone, Copy, Debug)]
pub(super) struct JobList {
    pub(super) first: u32,
    last: u32,
    pub(super) len: u32,
}

impl JobList {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE, len: 0 };

    pub(super) fn push(&mut self, jobs: &mut Jobs, slot: u32) {
        jobs.get_mut(slot).state = JobState::Ready { previous: self.last, next: NONE };
        if self.last == NONE {
            self.first = slot;
        } else if let JobState::Ready { next, .. } = &mut jobs.get_mut(self.last).state {
            *next = slot;
        }
        self.last = slot;
        self.len += 1;
    }

    /// Takes out `slot`, whose state must be changed by the caller.
    pub(super) fn remove(&mut self, jobs: &mut Jobs, slot: u32) {
        let JobState::Ready { previous, next } = jobs.get(slot).state else {
            debug_assert!(false, "a job that is not ready was taken out of a list of ready jobs");
            return;
        };
        if previous == NONE {
            self.first = next;
        } else if let JobState::Ready { next: link, .. } = &mut jobs.get_mut(previous).state {
            *link = next;
        }
        if next == NONE {
            self.last = previous;
        } else if let JobState::Ready { previous: link, .. } = &mut jobs.get_mut(next).state {
            *link = previous;
        }
        self.len -= 1;
    }
}

/// A function, with or without jobs and workers.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: FunctionName,
    /// By priority.
    pub(super) ready: [JobList; 3],
    pub(super) scheduled: u32,
    pub(super) running: u32,
    /// Connections that can do it.
    pub(super) workers: u32,
    /// The abilities of sleeping connections; the first is woken next.
    pub(super) first_sleeper: u32,
    pub(super) last_sleeper: u32,
    /// Connections that were sent a NOOP for a job of this function, and have not answered it yet.
    pub(super) waking: u32,
    /// By priority of the new job; 0 for none.
    pub(super) limits: [u32; 3],
    /// Whether the job server counts it among the functions in use.
    pub(super) counted_in_use: bool,
    gauges: Arc<FunctionGauges>,
}

impl Function {
    pub(super) fn new(name: FunctionName, gauges: Arc<FunctionGauges>) -> Self {
        Self {
            name,
            ready: [JobList::EMPTY; 3],
            scheduled: 0,
            running: 0,
            workers: 0,
            first_sleeper: NONE,
            last_sleeper: NONE,
            waking: 0,
            limits: [0; 3],
            counted_in_use: false,
            gauges,
        }
    }

    pub(super) fn ready(&self) -> u32 {
        self.ready.iter().map(|list| list.len).sum()
    }

    pub(super) fn total(&self) -> u32 {
        self.ready() + self.scheduled + self.running
    }

    pub(super) fn list(&mut self, priority: Priority) -> &mut JobList {
        &mut self.ready[priority.index()]
    }

    /// Whether nothing would be lost with this function.
    pub(super) fn is_unused(&self) -> bool {
        self.total() == 0 && self.workers == 0 && self.limits == [0; 3]
    }

    /// Whether there is a ready job for which no worker is on its way.
    pub(super) fn has_uncovered(&self) -> bool {
        self.ready() > self.waking
    }

    /// Tells the world.
    pub(super) fn publish(&self) {
        for (gauge, list) in self.gauges.ready.iter().zip(&self.ready) {
            gauge.set(u64::from(list.len));
        }
        self.gauges.scheduled.set(u64::from(self.scheduled));
        self.gauges.running.set(u64::from(self.running));
        self.gauges.workers.set(u64::from(self.workers));
    }
}
