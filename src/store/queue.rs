//! What the store is asked for and has not begun: filled under the hub's lock, emptied by the writer's thread.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::chunked_queue::ChunkedQueue;
use super::commit::{Commit, Waiter, Waiters};
use super::look::{Looking, Looks, Wanted};
use super::writer::Settings;
use crate::job_server::{Edit, JobKey, StoreOp};
use crate::stats::account::{Account, Amount, Part};

/// The operations that wait for the writer, in order.
///
/// It has no bound of its own. The job server bounds the bytes of jobs that are not stored yet, and everything else in it
/// concerns jobs that are there.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State {
    changes: ChunkedQueue<StoreOp>,
    /// Attempts of jobs, the last word on each: a worker may grab and lose one faster than any store takes it down.
    attempts: HashMap<u64, (JobKey, u16)>,
    /// Of jobs whose edits wait in `changes`: their names without these, and how many edits wait.
    edited: HashMap<u64, (JobKey, usize)>,
    /// Reads overtake changes: they concern jobs that are stored, and workers wait for them. So they name jobs as they are
    /// before those changes.
    loads: VecDeque<StoreOp>,
    /// Who looks waits behind those who work: one is taken at a time.
    looks: Looks,
    /// Who waits until what was asked before is committed.
    waiters: Waiters,
    /// What the operator has decided, by name: the last word on each.
    decisions: BTreeMap<String, Option<String>>,
    /// What the writer has not heard of yet.
    settings: Option<Settings>,
    closed: Option<u64>,
    /// Memory of all that waits, of what the writer has taken last, and of what it has put aside, in bytes.
    memory: usize,
    taken_memory: usize,
    owed_memory: usize,
    /// What the account was told of these.
    amount: Amount,
}

/// Some operations, and what else the writer should know.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) changes: Vec<StoreOp>,
    pub(super) attempts: Vec<(JobKey, u16)>,
    pub(super) loads: Vec<StoreOp>,
    pub(super) look: Option<Wanted>,
    /// Who is to be told when all of this is committed.
    pub(super) waiters: Vec<Waiter>,
    pub(super) decisions: BTreeMap<String, Option<String>>,
    /// The settings, where they have changed.
    pub(super) settings: Option<Settings>,
    /// Once there will be no more operations than these: the highest number that was given to a job.
    pub(super) closed: Option<u64>,
}

impl State {
    fn new(account: Arc<Account>) -> Self {
        let (changes, attempts, edited, loads, looks, waiters, decisions, settings, closed) = Default::default();
        let (memory, taken_memory, owed_memory) = (0, 0, 0);
        let amount = Amount::new(account, Part::StoreQueue);
        Self {
            changes,
            attempts,
            edited,
            loads,
            looks,
            waiters,
            decisions,
            settings,
            closed,
            memory,
            taken_memory,
            owed_memory,
            amount,
        }
    }

    /// Tells the account what is held.
    fn publish(&mut self) {
        let attempts = (self.attempts.len() + self.edited.len()) * KEY;
        self.amount.set(self.memory + self.taken_memory + self.owed_memory + attempts);
    }

    /// Whether there is nothing that the writer should know.
    fn is_idle(&self) -> bool {
        self.changes.is_empty()
            && self.attempts.is_empty()
            && self.loads.is_empty()
            && self.looks.is_empty()
            && self.waiters.is_empty()
            && self.decisions.is_empty()
            && self.settings.is_none()
            && self.closed.is_none()
    }

    /// Notes an edit. Attempts are set after it, so they name the job as it is then.
    fn edit(&mut self, key: &JobKey, edit: &Edit) {
        if let Some((attempted, _)) = self.attempts.get_mut(&key.number) {
            attempted.function.clone_from(&edit.function);
        }
        self.edited.entry(key.number).or_insert_with(|| (key.clone(), 0)).1 += 1;
    }

    /// What the job is named while its edits wait.
    fn name_now(&self, key: JobKey) -> JobKey {
        self.edited.get(&key.number).map_or(key, |(name, _)| name.clone())
    }

    /// These do not wait any more.
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

impl Default for Queue {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Queue {
    /// An empty queue, whose memory `account` counts.
    pub fn new(account: Arc<Account>) -> Self {
        Self { state: Mutex::new(State::new(account)), arrived: Condvar::new() }
    }

    /// The writer has put so many removals and edits aside, to make them later.
    pub(super) fn set_owed(&self, count: usize) {
        let mut state = self.lock();
        state.owed_memory = count * KEY;
        state.publish();
    }

    /// Adds operations. The writer is to be told with [`wake`](Self::wake), after locks are released.
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

    /// Tells the writer that there is something.
    pub fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Asks for the beginning of a workload that is not in memory, and tells the writer. `None` where too many have asked already.
    pub fn look(&self, job: JobKey) -> Option<Looking> {
        let mut state = self.lock();
        let job = state.name_now(job);
        let looking = state.looks.ask(job);
        drop(state);
        self.wake();
        looking
    }

    /// Waits until everything that was asked for until now is committed, and tells the writer.
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

    /// Nothing will come after this. `last_number` is the highest number that was given to a job.
    pub fn close(&self, last_number: u64) {
        self.lock().closed = Some(last_number);
        self.wake();
    }

    /// How many changes wait.
    pub fn len(&self) -> usize {
        self.lock().changes.len()
    }

    /// Whether no change waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until there is something or `until` has come, and takes as many changes as weigh up to `bytes` and number up
    /// to `count`, but one at least, and all loads. Changed settings are something, too: they change `until`.
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
        // What was taken before is done.
        state.taken_memory = changes.iter().chain(&state.loads).map(memory_of).sum();
        state.memory -= state.taken_memory;
        // Of jobs whose addition is not taken yet none is: they come later than it.
        let attempts = if state.changes.is_empty() { take_some(&mut state.attempts, count) } else { Vec::new() };
        let closed = state.closed.filter(|_| state.changes.is_empty() && state.attempts.is_empty());
        let (loads, decisions) = (state.loads.drain(..).collect(), std::mem::take(&mut state.decisions));
        let look = state.looks.next();
        let waiters = state.waiters.take(changes.len());
        state.publish();
        Taken { changes, attempts, loads, look, waiters, decisions, settings: state.settings.take(), closed }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes up to `count` of them.
pub(super) fn take_some(attempts: &mut HashMap<u64, (JobKey, u16)>, count: usize) -> Vec<(JobKey, u16)> {
    if attempts.len() <= count {
        return attempts.drain().map(|(_, attempts)| attempts).collect();
    }
    let numbers: Vec<u64> = attempts.keys().take(count).copied().collect();
    numbers.iter().filter_map(|number| attempts.remove(number)).collect()
}

/// What a job's name takes in a table, in bytes.
const KEY: usize = 96;

/// How many bytes of memory an operation takes. A large workload is shared with its job.
fn memory_of(operation: &StoreOp) -> usize {
    let entry = size_of::<StoreOp>() + size_of::<StoreOp>() / 3;
    match operation {
        StoreOp::Add { job, .. } => entry + job.memory(),
        StoreOp::Remove(key) => entry + key.unique.len(),
        StoreOp::Edit { key, .. } => entry + key.unique.len() + KEY,
        StoreOp::Load { jobs, .. } => entry + jobs.len() * KEY,
        // They stand in tables, where the last word counts.
        StoreOp::Attempts { .. } | StoreOp::Set { .. } => 0,
    }
}

/// About how many bytes an operation brings into a transaction.
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
