//! Paging of workloads: a durable backlog must not need memory for what is in the store anyway.
//!
//! Within the limit a stored job has its workload in memory too. Beyond it the workload is evicted, and the
//! job is paged out: it is queued behind the ready jobs of its function and priority, in order, and so is
//! every stored job that follows. When the ready jobs run low, and there are workers, the first paged-out
//! jobs are read, and become ready in order. Jobs that no store has are never paged out and never wait for
//! the disk.

use bytes::Bytes;

use super::account::weight::OPERATION;
use super::effects::{Effects, Event};
use super::ids::{FunctionSlot, RunSlot, SlotId};
use super::job::{JobState, Residency, SHARED_FROM};
use super::stored::{StoreFailure, StoreOp, StoreReport, StoredJob};
use super::tell::Said;
use super::{JobServer, Now, US_PER_S, price};
use crate::protocol::{PeerError, Priority};

/// Paged-out jobs of a function and priority are read when fewer jobs than this are ready, or when this many
/// were handed out since the last read. This many are read at once, too.
const READ_AHEAD: u32 = 1024;
/// The price of requesting one of them.
const KEY: u32 = 2;
/// The same slightly beyond the memory limit, where no function keeps more jobs ready than its workers soon
/// need. Far beyond it one job is read when none is ready.
const READ_AHEAD_BEYOND_LIMIT: u32 = 64;
/// The delay before a retry after the store could not read paged-out jobs, in microseconds.
const LOAD_AGAIN_US: u64 = US_PER_S;

/// Running totals of memory: bytes of workloads in memory, by where else they are, and other counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemoryTotals {
    /// Bytes of jobs that no store has.
    pub(super) volatile: u64,
    /// Bytes of jobs that the store was asked to add. Its queue holds about as much again.
    pub(super) storing: u64,
    /// Bytes of jobs that ended while their addition was pending, and that are still in the store's queue.
    pub(super) ended: u64,
    /// Bytes of jobs that the store also has.
    pub(super) stored: u64,
    /// The number of jobs that the store has.
    pub(super) stored_jobs: usize,
    /// The number of those that run.
    pub(super) stored_running: usize,
    /// Bytes of unique ids and reducers, and of their index entries.
    pub(super) heads: u64,
    /// Bytes of workloads that are shared with packets.
    pub(super) shared: u64,
    /// Bytes of function names.
    pub(super) names: u64,
    /// The number of revoked jobs that connections remember.
    pub(super) revoked: usize,
}

/// A read of paged-out jobs. Its slot is the ticket of the operation.
#[derive(Debug)]
pub(super) struct Load {
    function: FunctionSlot,
    priority: Priority,
    /// The slots and numbers of the jobs: some may have ended meanwhile.
    jobs: Vec<(u32, u64)>,
}

impl JobServer {
    /// Adds a job as it is to the counts, after it was created or changed.
    pub(super) fn count(&mut self, job: u32) {
        let (workload, residency, is_running) = self.counted(job);
        self.memory_totals.heads += self.jobs.get(job).head_memory();
        self.memory_totals.shared += self.jobs.get(job).shared_memory();
        let MemoryTotals { volatile, storing, stored, stored_jobs, stored_running, .. } = &mut self.memory_totals;
        match residency {
            Residency::Memory => *volatile += workload,
            Residency::Storing => *storing += workload,
            Residency::Both | Residency::Store => *stored += workload,
        }
        *stored_jobs += usize::from(residency.is_stored());
        *stored_running += usize::from(residency.is_stored() && is_running);
    }

    /// Subtracts a job as it is from the counts, before it changes or ends.
    pub(super) fn uncount(&mut self, job: u32) {
        let (workload, residency, is_running) = self.counted(job);
        self.memory_totals.heads -= self.jobs.get(job).head_memory();
        self.memory_totals.shared -= self.jobs.get(job).shared_memory();
        let MemoryTotals { volatile, storing, stored, stored_jobs, stored_running, .. } = &mut self.memory_totals;
        match residency {
            Residency::Memory => *volatile -= workload,
            Residency::Storing => *storing -= workload,
            Residency::Both | Residency::Store => *stored -= workload,
        }
        *stored_jobs -= usize::from(residency.is_stored());
        *stored_running -= usize::from(residency.is_stored() && is_running);
    }

    /// Marks a job as running. Its weight stays the same.
    pub(super) fn start_run(&mut self, job: u32, run: RunSlot) {
        let job = self.jobs.get_mut(job);
        job.state = JobState::Running(run);
        self.memory_totals.stored_running += usize::from(job.residency.is_stored());
    }

    /// Bytes of workloads in memory.
    pub fn workload_bytes(&self) -> u64 {
        let MemoryTotals { volatile, storing, ended, stored, .. } = self.memory_totals;
        volatile + storing + ended + stored
    }

    fn counted(&self, job: u32) -> (u64, Residency, bool) {
        let job = self.jobs.get(job);
        (job.workload_memory(), job.residency, matches!(job.state, JobState::Running(_)))
    }

    pub(super) fn set_residency(&mut self, job: u32, residency: Residency) {
        self.uncount(job);
        self.jobs.get_mut(job).residency = residency;
        self.count(job);
    }

    /// Checks that there is memory for the workload of a new job.
    pub(super) fn check_memory(&self, workload: usize, is_durable: bool) -> Result<(), PeerError> {
        let (taken, most, error) = if is_durable {
            let entries = self.pending_adds.len() as u64 * OPERATION;
            let taken = self.memory_totals.storing + self.memory_totals.ended + entries;
            (taken, self.policy.storing_workloads_max, PeerError::STORE_BEHIND)
        } else {
            (self.memory_totals.volatile, self.policy.volatile_workloads_max, PeerError::OUT_OF_MEMORY)
        };
        // One job of any size fits if nothing else is held.
        let fits = taken == 0 || taken.saturating_add(workload as u64) <= most;
        if fits {
            return Ok(());
        }
        self.stats.memory.refused.bump(1);
        Err(error)
    }

    /// Whether a stored job that would be ready must be paged out.
    pub(super) fn must_page_out(&self, job: u32) -> bool {
        let job = self.jobs.get(job);
        let (function, priority) = (&self.functions[job.function], job.priority.index());
        let limit = self.policy.stored_workloads_max;
        let over_limit = match function.ready[priority].len {
            // Short queues get some more, so that their jobs need not be read back at once.
            0 => self.memory_totals.stored > limit.saturating_add(limit / 4),
            _ => self.memory_totals.stored > limit,
        };
        match job.residency {
            Residency::Memory | Residency::Storing => false,
            Residency::Store => true,
            Residency::Both => over_limit || function.paged_out[priority].len > 0 || function.loading[priority].len > 0,
        }
    }

    /// Evicts the workload of a job that the store has.
    pub(super) fn evict(&mut self, job: u32) {
        self.uncount(job);
        self.jobs.evict(job);
        self.count(job);
    }

    /// Evicts a stored job's workload, and appends the job to the paged-out ones of its function and
    /// priority.
    pub(super) fn page_out(&mut self, job: u32, effects: &mut impl Effects) {
        if self.jobs.get(job).residency == Residency::Both {
            self.evict(job);
        }
        let (function, priority) = (self.jobs.get(job).function, self.jobs.get(job).priority);
        self.functions[function].paged_out[priority.index()].push(&mut self.jobs, job, JobState::PagedOut);
        self.publish(function);
        self.read_ahead(function, effects);
    }

    /// Reads paged-out jobs of a function ahead if its workers will soon need them.
    pub(super) fn read_ahead(&mut self, function: FunctionSlot, effects: &mut impl Effects) {
        if self.functions[function].paged_out.iter().all(|list| list.len == 0) {
            return;
        }
        for priority in Priority::ALL {
            let Self { functions, policy, memory_totals, .. } = self;
            let state = &mut functions[function];
            let index = priority.index();
            let limit = policy.stored_workloads_max;
            let ahead = match memory_totals.stored {
                stored if stored <= limit => READ_AHEAD,
                stored if stored <= limit.saturating_add(limit / 4) => READ_AHEAD_BEYOND_LIMIT,
                _ => 1,
            };
            let wanted = state.ready[index].len < ahead || state.assigned_since_load[index] >= READ_AHEAD;
            let has_takers = state.workers > 0 && !state.paused;
            let possible = state.paged_out[index].len > 0 && state.loading[index].len == 0 && has_takers;
            if !wanted || !possible || self.draining || self.load_again_us.is_some() {
                continue;
            }
            let count = state.paged_out[index].len.min(ahead);
            state.assigned_since_load[index] = 0;
            let (mut jobs, mut keys, mut since_ms) = (Vec::new(), Vec::new(), None);
            for _ in 0..count {
                let job = state.paged_out[index].first;
                state.paged_out[index].remove(&mut self.jobs, job);
                state.loading[index].push(&mut self.jobs, job, JobState::Loading);
                since_ms = since_ms.into_iter().chain(self.jobs.get(job).waits_since_ms()).min();
                jobs.push((job, self.jobs.get(job).number()));
                keys.push(self.jobs.get(job).key(&state.name));
            }
            self.work_budget.spend(count.saturating_mul(KEY));
            state.loading_since_ms[index] = since_ms;
            state.publish(&self.jobs);
            let load = self.loads.insert(Load { function, priority, jobs });
            effects.store(StoreOp::Load { ticket: u32::try_from(load).unwrap_or(super::index::NONE), jobs: keys });
        }
    }

    /// Processes the store's answer to a read: at least the first of the requested jobs, or a failure.
    /// Returns the unprocessed rest, if any: call again with it.
    pub(super) fn loaded(
        &mut self,
        now: Now,
        ticket: u32,
        result: Result<Vec<Option<Bytes>>, StoreFailure>,
        effects: &mut impl Effects,
    ) -> Option<StoreReport> {
        let Some(Load { function, priority, jobs }) = self.loads.get_mut(ticket as usize) else {
            debug_assert!(false, "the store read what it was not asked for");
            return None;
        };
        let (function, priority, jobs) = (*function, *priority, std::mem::take(jobs));
        let workloads = self.page_out_unread(now, function, priority, &jobs, result);
        let mut read = jobs.into_iter().zip(workloads);
        while let Some(((job, number), workload)) = read.next() {
            self.work_budget.spend(price::CHANGE);
            if !self.is_loading(job, number) {
                continue;
            }
            let Some(workload) = workload else {
                self.drop_missing(job, effects);
                continue;
            };
            let state = &mut self.functions[function];
            state.loading[priority.index()].remove(&mut self.jobs, job);
            state.returns = state.returns.wrapping_add(1);
            self.uncount(job);
            let workload =
                if workload.len() >= SHARED_FROM { self.stats.memory.count_once(workload) } else { workload };
            self.jobs.load(job, &workload);
            self.count(job);
            self.make_ready_now(now, job, effects);
            if self.is_turn_over() && read.len() > 0 {
                break;
            }
        }
        let (left, workloads): (Vec<_>, Vec<_>) = read.unzip();
        if !left.is_empty() {
            self.loads[ticket as usize].jobs = left;
            return Some(StoreReport::Loaded { ticket, result: Ok(workloads) });
        }
        self.loads.remove(ticket as usize);
        // The function may have been removed with its last job.
        if self.functions.contains(function) {
            self.publish(function);
            self.read_ahead(function, effects);
        }
        None
    }

    /// Pages out the requested jobs that were not read again, ahead of the others. Returns what was read.
    fn page_out_unread(
        &mut self,
        now: Now,
        function: FunctionSlot,
        priority: Priority,
        jobs: &[(u32, u64)],
        result: Result<Vec<Option<Bytes>>, StoreFailure>,
    ) -> Vec<Option<Bytes>> {
        let is_damaged = matches!(result, Err(StoreFailure::Corrupt));
        let workloads = result.unwrap_or_else(|_| {
            self.load_again_us.get_or_insert(now.monotonic_us.saturating_add(LOAD_AGAIN_US));
            Vec::new()
        });
        for (job, number) in jobs.iter().skip(workloads.len()).rev() {
            self.work_budget.spend(price::ENTRY);
            if self.is_loading(*job, *number) {
                let state = &mut self.functions[function];
                state.loading[priority.index()].remove(&mut self.jobs, *job);
                state.returns = state.returns.wrapping_add(1);
                let paged_out = &mut state.paged_out[priority.index()];
                // A job that cannot be read must not block those behind it forever.
                if is_damaged && jobs.first().is_some_and(|(first, _)| first == job) {
                    paged_out.push(&mut self.jobs, *job, JobState::PagedOut);
                } else {
                    paged_out.push_front(&mut self.jobs, *job, JobState::PagedOut);
                }
            }
        }
        workloads
    }

    /// Whether a job is still being read.
    fn is_loading(&self, job: u32, number: u64) -> bool {
        self.jobs.find_in(job, number).is_some_and(|job| matches!(job.state, JobState::Loading(_)))
    }

    /// Drops a job that is missing from the store.
    fn drop_missing(&mut self, job: u32, effects: &mut impl Effects) {
        let gone = self.jobs.get(job);
        let handle = gone.handle(&self.prefixes);
        let function = &self.functions[gone.function].name;
        effects.report(Event::JobMissing { function, handle, unique: gone.unique() });
        self.tally(gone.function, |counters| &counters.dropped);
        self.end(job, None, Said::Fail, effects);
    }

    /// Starts the retry after a failed read when it is due, for every function that has paged-out jobs.
    pub(super) fn load_again(&mut self, now: Now) {
        if self.load_again_us.is_some_and(|at_us| at_us <= now.monotonic_us) {
            self.load_again_us = None;
            self.loads_cursor = Some(0);
        }
    }

    /// Continues the retry until the budget is spent.
    pub(super) fn go_on_loading(&mut self, effects: &mut impl Effects) {
        while let Some(slot) = self.loads_cursor.filter(|_| !self.is_turn_over()) {
            self.loads_cursor = (slot + 1 < self.functions.bound()).then_some(slot + 1);
            self.work_budget.spend(price::ENTRY);
            let function = FunctionSlot::from_index(slot);
            if self.functions.contains(function) {
                self.read_ahead(function, effects);
            }
        }
    }

    /// Restores a job from the store as it was, with or without its workload; a job whose unique id is `-`
    /// coalesces only once it has its workload. Returns whether there is memory for the workload of the next
    /// job.
    pub fn restore(&mut self, now: Now, mut job: StoredJob, has_workload: bool, effects: &mut impl Effects) -> bool {
        // The limit of functions is for peers, not for acknowledged jobs.
        let function = self.function_or_new(job.function.as_bytes());
        let duplicate = self
            .jobs
            .find_number(job.number)
            .map_or_else(|| self.jobs.find_equal(function, job.unique(), job.workload()), Ok);
        match duplicate {
            Ok(_) => effects.report(Event::DuplicateUnique { handle: job.handle(), unique: job.unique() }),
            Err(vacant) => {
                let prefix = self.prefixes.index(&job.prefix);
                self.stats.set_handle_prefix(prefix, &job.prefix);
                job.body = job.body.counted_once(&self.stats.memory);
                let residency = if has_workload { Residency::Both } else { Residency::Store };
                let slot = self.jobs.restore(function, job, prefix, residency, vacant);
                self.count(slot);
                self.schedule(now, slot, effects);
            }
        }
        self.debug_check_invariants();
        self.memory_totals.stored <= self.policy.stored_workloads_max
    }
}
