//! Operations waiting for the writer: pushed under the hub's lock, taken by the writer thread.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::chunked_queue::ChunkedQueue;
use super::commit::{Commit, Waiter, Waiters};
use super::preview::{PendingPreview, PreviewQueue, PreviewRequest};
use super::writer::Settings;
use crate::job_server::{Edit, JobKey, StoreOp};
use crate::stats::account::{Account, Amount, Part};

/// The queue of operations for the writer, in order.
///
/// It has no limit of its own. The job server limits the bytes of jobs that are not stored yet, and all other
/// operations concern existing jobs.
#[derive(Debug)]
pub struct WriteQueue {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State {
    changes: ChunkedQueue<StoreOp>,
    /// Attempt counts, only the latest for each job: a worker may grab and lose a job faster than any store
    /// can record it.
    attempts: HashMap<u64, (JobKey, u16)>,
    /// Jobs with edits waiting in `changes`: the name before these edits, and the number of edits.
    edited: HashMap<u64, (JobKey, usize)>,
    /// Reads overtake changes: they concern stored jobs, and workers wait for them. So they use the names
    /// that jobs had before the waiting changes.
    loads: VecDeque<StoreOp>,
    /// Workload previews have lower priority than the loads of workers: one is taken at a time.
    previews: PreviewQueue,
    /// Callers waiting until all earlier operations are committed.
    waiters: Waiters,
    /// Operator settings, only the latest value for each name.
    decisions: BTreeMap<String, Option<String>>,
    /// New settings that the writer has not picked up yet.
    settings: Option<Settings>,
    closed: Option<u64>,
    /// Memory in bytes: of all waiting operations, of those the writer took last, and of those waiting for a
    /// retry.
    memory: usize,
    taken_memory: usize,
    backlog_memory: usize,
    /// The amount last reported to the account.
    amount: Amount,
}

/// A batch of operations and notifications for the writer.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) changes: Vec<StoreOp>,
    pub(super) attempts: Vec<(JobKey, u16)>,
    pub(super) loads: Vec<StoreOp>,
    pub(super) preview: Option<PreviewRequest>,
    /// Callers to notify when this batch is committed.
    pub(super) waiters: Vec<Waiter>,
    pub(super) decisions: BTreeMap<String, Option<String>>,
    /// The settings, if they have changed.
    pub(super) settings: Option<Settings>,
    /// Set if this is the last batch: the highest job number ever assigned.
    pub(super) closed: Option<u64>,
}

impl State {
    fn new(account: Arc<Account>) -> Self {
        let (changes, attempts, edited, loads, previews, waiters, decisions, settings, closed) = Default::default();
        let (memory, taken_memory, backlog_memory) = (0, 0, 0);
        let amount = Amount::new(account, Part::StoreQueue);
        Self {
            changes,
            attempts,
            edited,
            loads,
            previews,
            waiters,
            decisions,
            settings,
            closed,
            memory,
            taken_memory,
            backlog_memory,
            amount,
        }
    }

    /// Updates the memory account.
    fn publish(&mut self) {
        let attempts = (self.attempts.len() + self.edited.len()) * KEY;
        self.amount.set(self.memory + self.taken_memory + self.backlog_memory + attempts);
    }

    /// Whether the writer has nothing to do.
    fn is_idle(&self) -> bool {
        self.changes.is_empty()
            && self.attempts.is_empty()
            && self.loads.is_empty()
            && self.previews.is_empty()
            && self.waiters.is_empty()
            && self.decisions.is_empty()
            && self.settings.is_none()
            && self.closed.is_none()
    }

    /// Records an edit. Attempts are applied after edits, so they use the name that the job has then.
    fn edit(&mut self, key: &JobKey, edit: &Edit) {
        if let Some((attempted, _)) = self.attempts.get_mut(&key.number) {
            attempted.function.clone_from(&edit.function);
        }
        self.edited.entry(key.number).or_insert_with(|| (key.clone(), 0)).1 += 1;
    }

    /// The name that the job has in the store while its edits are waiting.
    fn name_now(&self, key: JobKey) -> JobKey {
        self.edited.get(&key.number).map_or(key, |(name, _)| name.clone())
    }

    /// Drops the bookkeeping for edits that were taken.
    fn forget_edits(&mut self, taken: &[StoreOp]) {
        for operation in taken {
            let StoreOp::Edit { key, edit } = operation else { continue };
            let Entry::Occupied(mut entry) = self.edited.entry(key.number) else { continue };
            let (name, waiting) = entry.get_mut();
            *waiting -= 1;
            name.function.clone_from(&edit.function);
            if *waiting == 0 {
                entry.remove();
            }
        }
    }
}

impl Default for WriteQueue {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl WriteQueue {
    /// An empty queue that reports its memory to `account`.
    pub fn new(account: Arc<Account>) -> Self {
        Self { state: Mutex::new(State::new(account)), arrived: Condvar::new() }
    }

    /// Sets how many removals and edits the writer holds back for a retry.
    pub(super) fn set_backlog(&self, count: usize) {
        let mut state = self.lock();
        state.backlog_memory = count * KEY;
        state.publish();
    }

    /// Adds operations. Call [`wake`](Self::wake) after releasing the locks.
    pub fn push(&self, operations: Vec<StoreOp>) {
        let mut state = self.lock();
        for operation in operations {
            state.memory += memory_of(&operation);
            if matches!(operation, StoreOp::Add { .. } | StoreOp::Remove(_) | StoreOp::Edit { .. }) {
                state.waiters.count_asked();
            }
            match operation {
                StoreOp::Load { ticket, jobs } => {
                    let jobs = jobs.into_iter().map(|key| state.name_now(key)).collect();
                    state.loads.push_back(StoreOp::Load { ticket, jobs });
                }
                StoreOp::Attempts { key, attempts } => {
                    state.attempts.insert(key.number, (key, attempts));
                }
                StoreOp::Remove(ref key) => {
                    state.attempts.remove(&key.number);
                    state.changes.push_back(operation);
                }
                StoreOp::Edit { key, edit } => {
                    state.edit(&key, &edit);
                    state.changes.push_back(StoreOp::Edit { key, edit });
                }
                StoreOp::Set { name, value } => {
                    state.decisions.insert(name, value);
                }
                StoreOp::Add { .. } => state.changes.push_back(operation),
            }
        }
        state.publish();
    }

    /// Wakes the writer.
    pub fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Requests a preview of a workload that is not in memory, and wakes the writer. `None` if too many
    /// requests are waiting.
    pub fn request_preview(&self, job: JobKey) -> Option<PendingPreview> {
        let mut state = self.lock();
        let job = state.name_now(job);
        let pending = state.previews.request(job);
        drop(state);
        self.wake();
        pending
    }

    /// Returns a handle that resolves when all operations so far are committed, and wakes the writer.
    pub fn commit(&self) -> Commit {
        let commit = self.lock().waiters.wait();
        self.wake();
        commit
    }

    /// Changes the settings of the writer.
    pub fn set_settings(&self, settings: Settings) {
        self.lock().settings = Some(settings);
        self.wake();
    }

    /// Closes the queue: no more operations follow. `last_number` is the highest job number ever assigned.
    pub fn close(&self, last_number: u64) {
        self.lock().closed = Some(last_number);
        self.wake();
    }

    /// Number of waiting changes.
    pub fn len(&self) -> usize {
        self.lock().changes.len()
    }

    /// Whether no changes are waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for work or until `until`. Returns at most `count` changes with a total weight of at most
    /// `bytes`, but at least one, and all loads. New settings wake the caller too, since they may change
    /// `until`.
    pub(super) fn take(&self, until: Option<Instant>, count: usize, bytes: usize) -> Taken {
        let mut state = self.lock();
        while state.is_idle() {
            let Some(until) = until else {
                state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return Taken::default();
            };
            state = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut weight = 0;
        let heavy = state.changes.iter().take(count).position(|operation| {
            weight += weight_of(operation);
            weight > bytes
        });
        let taken = heavy.map_or(count, |heavy| heavy.max(1)).min(state.changes.len());
        let changes: Vec<StoreOp> = std::iter::from_fn(|| state.changes.pop_front()).take(taken).collect();
        state.forget_edits(&changes);
        // The previous batch is done.
        state.taken_memory = changes.iter().chain(&state.loads).map(memory_of).sum();
        state.memory -= state.taken_memory;
        // Attempts come last: the batch may only contain those of jobs whose addition was taken.
        let attempts = if state.changes.is_empty() { take_some(&mut state.attempts, count) } else { Vec::new() };
        let closed = state.closed.filter(|_| state.changes.is_empty() && state.attempts.is_empty());
        let (loads, decisions) = (state.loads.drain(..).collect(), std::mem::take(&mut state.decisions));
        let preview = state.previews.next();
        let waiters = state.waiters.take(changes.len());
        state.publish();
        Taken { changes, attempts, loads, preview, waiters, decisions, settings: state.settings.take(), closed }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes and returns up to `count` of them.
pub(super) fn take_some(attempts: &mut HashMap<u64, (JobKey, u16)>, count: usize) -> Vec<(JobKey, u16)> {
    if attempts.len() <= count {
        return attempts.drain().map(|(_, attempts)| attempts).collect();
    }
    let numbers: Vec<u64> = attempts.keys().take(count).copied().collect();
    numbers.iter().filter_map(|number| attempts.remove(number)).collect()
}

/// Memory of a job's name in a hash table, in bytes.
const KEY: usize = 96;

/// Memory of an operation in bytes. A large workload is shared with its job.
fn memory_of(operation: &StoreOp) -> usize {
    let entry = size_of::<StoreOp>() + size_of::<StoreOp>() / 3;
    match operation {
        StoreOp::Add { job, .. } => entry + job.memory(),
        StoreOp::Remove(key) => entry + key.unique.len(),
        StoreOp::Edit { key, .. } => entry + key.unique.len() + KEY,
        StoreOp::Load { jobs, .. } => entry + jobs.len() * KEY,
        // These are kept in maps, one entry for each job or name.
        StoreOp::Attempts { .. } | StoreOp::Set { .. } => 0,
    }
}

/// Approximate size of an operation in a transaction, in bytes.
fn weight_of(operation: &StoreOp) -> usize {
    const ENTRY: usize = 100;
    match operation {
        StoreOp::Add { job, .. } => ENTRY + job.workload().len(),
        StoreOp::Remove(_)
        | StoreOp::Attempts { .. }
        | StoreOp::Edit { .. }
        | StoreOp::Set { .. }
        | StoreOp::Load { .. } => ENTRY,
    }
}
