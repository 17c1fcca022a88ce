//! The numbers that the server publishes about itself, read at any time without a lock.
//!
//! Numbers of jobs, functions and workers have one writer at a time, the holder of the hub's lock, so plain
//! relaxed loads and stores are enough. Counters of connections and locks have several writers. Readers may
//! see one number slightly older than another; no number is ever torn.

mod abilities;
pub mod account;
pub mod histogram;
mod ordered;

use std::cmp::Ordering as Order;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use self::ordered::{Entries, Ordered};

pub use self::abilities::Abilities;
use self::account::Account;
use self::histogram::{Durations, Histogram};
use crate::protocol::FunctionName;

/// Identifies a connection. A slot is reused, with another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// A small number that is reused.
    pub slot: u32,
    /// Counts connections.
    pub generation: u32,
}

/// By age: the oldest comes first.
impl Ord for ConnectionId {
    fn cmp(&self, other: &Self) -> Order {
        (self.generation, self.slot).cmp(&(other.generation, other.slot))
    }
}

impl PartialOrd for ConnectionId {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

/// A number that goes up and down, or only up.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Publishes a value that is kept elsewhere.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to a counter that has one writer at a time.
    pub fn bump(&self, amount: u64) {
        self.set(self.get().wrapping_add(amount));
    }

    /// Adds to a counter that has several writers.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }
}

/// What happened to jobs since the start.
#[derive(Debug, Default)]
pub struct JobCounters {
    /// New jobs.
    pub submitted: Gauge,
    /// Submissions that joined an existing job.
    pub coalesced: Gauge,
    /// Jobs that ended with WORK_COMPLETE.
    pub done: Gauge,
    /// Jobs that ended with WORK_FAIL from their worker.
    pub failed: Gauge,
    /// Jobs that ended with WORK_EXCEPTION.
    pub exceptions: Gauge,
    /// Runs that exceeded their timeout.
    pub timed_out: Gauge,
    /// Runs that failed and whose job was requeued, including those that exceeded their timeout.
    pub requeued: Gauge,
    /// Jobs that were dropped after too many of these, or that were missing from the store.
    pub dropped: Gauge,
    /// Jobs that the operator cancelled.
    pub cancelled: Gauge,
    /// Jobs that ended because no client waited for them any more.
    pub abandoned: Gauge,
}

/// Numbers that are allocated when there is something to count: most functions of most workers never have
/// any.
#[derive(Debug, Default)]
pub struct Lazy<T>(OnceLock<Box<T>>);

impl<T: Default> Lazy<T> {
    /// The numbers, allocated on first use, for counting.
    pub fn get_or_make(&self) -> &T {
        self.0.get_or_init(Box::default)
    }

    /// The numbers, if anything was counted.
    pub fn get(&self) -> Option<&T> {
        self.0.get().map(|numbers| &**numbers)
    }
}

impl Lazy<Histogram> {
    /// Counts a duration.
    pub fn record(&self, duration_us: u64) {
        self.get_or_make().record(duration_us);
    }

    /// The present content.
    pub fn read(&self) -> Durations {
        self.get().map_or_else(Durations::default, Histogram::read)
    }
}

/// The numbers of one function.
#[derive(Debug, Default)]
pub struct FunctionGauges {
    /// Jobs that wait for a worker, by priority.
    pub queued: [Gauge; 3],
    /// Jobs that are not due yet, by priority: normal, unless the operator gave them another.
    pub scheduled: [Gauge; 3],
    /// Running jobs.
    pub running: Gauge,
    /// Connections that can do the function, busy or not.
    pub workers: Gauge,
    /// Since when the first job in the queues has waited for a worker, in milliseconds since 1970; 0 if none
    /// waits, or if that is not known. Only the head of each priority's queue counts: a job that was
    /// requeued, moved or given another priority comes last, and may be older.
    pub oldest_ms: Gauge,
    /// 1 if only the operator's settings have named it: no worker, job or other command has.
    pub settings_only: Gauge,
    /// 1 if no job is handed out.
    pub paused: Gauge,
    /// The maximum number of jobs that run at once; 0 for no limit.
    pub max_running: Gauge,
    /// The maximum number of jobs when one of high, normal and low priority is submitted; 0 for no limit.
    pub max_queue: [Gauge; 3],
    /// What happened to its jobs.
    pub counters: Lazy<JobCounters>,
    /// How long jobs waited for their first worker.
    pub wait: Lazy<Histogram>,
    /// How long workers took for jobs that they finished.
    pub run: Lazy<Histogram>,
}

impl FunctionGauges {
    /// All jobs of the function, running ones included: the second column of `status`.
    pub fn total(&self) -> u64 {
        self.queued() + self.scheduled() + self.running.get()
    }

    /// Jobs that are not due yet, of any priority.
    pub fn scheduled(&self) -> u64 {
        self.scheduled.iter().map(Gauge::get).sum()
    }

    /// Jobs that wait for a worker, of any priority.
    pub fn queued(&self) -> u64 {
        self.queued.iter().map(Gauge::get).sum()
    }
}

/// The outcomes of a worker's runs.
#[derive(Debug, Default)]
pub struct WorkCounters {
    /// Ended with WORK_COMPLETE.
    pub done: Gauge,
    /// Ended with WORK_FAIL.
    pub failed: Gauge,
    /// Ended with WORK_EXCEPTION.
    pub exceptions: Gauge,
    /// Exceeded their timeout.
    pub timed_out: Gauge,
    /// Were revoked or lost, including those that exceeded their timeout.
    pub requeued: Gauge,
}

/// The numbers of a function on one connection.
#[derive(Debug)]
pub struct AbilityGauges {
    /// The function.
    pub function: FunctionName,
    mode: Gauge,
    /// Its key in the order of the connection's functions.
    place: Gauge,
    /// The number of its jobs that the connection holds, including those from before it was registered again.
    pub running: Gauge,
    /// The outcomes of its runs.
    pub counters: Lazy<WorkCounters>,
    /// How long the connection took for jobs that it finished.
    pub run: Lazy<Histogram>,
}

impl AbilityGauges {
    /// The numbers of a function that the connection has just registered.
    pub fn new(function: FunctionName) -> Self {
        let (mode, place, running, counters, run) = Default::default();
        Self { function, mode, place, running, counters, run }
    }

    /// Publishes the mode of the connection for this function; `None` if no rule applies.
    pub fn set_mode(&self, mode: Option<WorkerMode>) {
        self.mode.set(match mode {
            None => 0,
            Some(WorkerMode::Disabled) => 1,
            Some(WorkerMode::Draining) => 2,
        });
    }

    /// The mode of the connection for this function, by the operator's rules; `None` if no rule applies.
    pub fn mode(&self) -> Option<WorkerMode> {
        match self.mode.get() {
            0 => None,
            1 => Some(WorkerMode::Disabled),
            _ => Some(WorkerMode::Draining),
        }
    }
}

/// How a worker is restricted by the operator's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerMode {
    /// The worker gets no jobs until it is enabled.
    Disabled,
    /// The same, for a worker that is to finish its jobs and disconnect.
    Draining,
}

/// The sleep state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepState {
    /// It asks for jobs by itself.
    Awake,
    /// It waits to be woken for one.
    Asleep,
    /// It was woken, and has not asked yet.
    Woken,
}

/// The published state of one connection.
#[derive(Debug)]
pub struct ConnectionGauges {
    /// The server's file descriptor, which `workers` shows first.
    pub file_descriptor: i32,
    /// The peer's address without its port.
    pub peer: String,
    /// When it connected, in milliseconds since 1970.
    pub connected_ms: Gauge,
    /// When it last sent something, in milliseconds since 1970.
    pub heard_ms: Gauge,
    /// The number of jobs it holds.
    pub running: Gauge,
    job: Gauge,
    job_since_ms: Gauge,
    sleep: Gauge,
    identity: Mutex<Identity>,
}

/// The bits of [`ConnectionGauges::job`] above this one hold the prefix.
const PREFIX_SHIFT: u32 = 48;

/// The maximum number of functions remembered that a connection can no longer do.
const MOST_FORMER: usize = 100;

#[derive(Debug, Default)]
struct Identity {
    client_id: Vec<u8>,
    has_client_id: bool,
    functions: Abilities,
    former: Vec<Arc<AbilityGauges>>,
}

impl ConnectionGauges {
    /// A new connection from `peer`.
    pub fn new(file_descriptor: i32, peer: String) -> Self {
        let (connected_ms, heard_ms, running, job, job_since_ms, sleep, identity) = Default::default();
        Self { file_descriptor, peer, connected_ms, heard_ms, running, job, job_since_ms, sleep, identity }
    }

    /// Publishes the client id of the peer.
    pub fn set_client_id(&self, id: &[u8]) {
        let mut identity = self.lock();
        identity.client_id = id.to_vec();
        identity.has_client_id = true;
    }

    /// Publishes that the peer can do a function. Its numbers continue if it could before.
    pub fn add_function(&self, function: &FunctionName) -> Arc<AbilityGauges> {
        let mut identity = self.lock();
        let former = identity.former.iter().position(|former| former.function == *function);
        let gauges = match former {
            Some(index) => identity.former.remove(index),
            None => Arc::new(AbilityGauges::new(function.clone())),
        };
        identity.functions.add(&gauges);
        gauges
    }

    /// Publishes that the peer has registered a function again, which makes it the newest.
    pub fn renew_function(&self, ability: &Arc<AbilityGauges>) {
        let mut identity = self.lock();
        if identity.functions.remove(ability).is_some() {
            identity.functions.add(ability);
        }
    }

    /// Publishes that the peer no longer does a function.
    pub fn remove_function(&self, ability: &Arc<AbilityGauges>) {
        let mut identity = self.lock();
        if let Some(gone) = identity.functions.remove(ability) {
            if identity.former.len() == MOST_FORMER {
                identity.former.remove(0);
            }
            identity.former.push(gone);
        }
    }

    /// Publishes that the peer no longer does any function.
    pub fn remove_all_functions(&self) {
        let mut identity = self.lock();
        let Identity { functions, former, .. } = &mut *identity;
        former.extend(functions.take_all());
        let surplus = identity.former.len().saturating_sub(MOST_FORMER);
        identity.former.drain(..surplus);
    }

    /// Publishes the job assigned last to the peer: the index of its handle's prefix, its number, and since
    /// when.
    pub fn set_job(&self, prefix: u8, number: u64, since_ms: u64) {
        // Numbers have at most twelve digits.
        self.job.set(u64::from(prefix) << PREFIX_SHIFT | number);
        self.job_since_ms.set(since_ms);
    }

    /// The job assigned last to the peer, if it holds one: the index of its handle's prefix, its number, and
    /// since when.
    pub fn job(&self) -> Option<(usize, u64, u64)> {
        let job = self.job.get();
        let prefix = usize::try_from(job >> PREFIX_SHIFT).unwrap_or(0);
        (self.running.get() > 0).then(|| (prefix, job & ((1 << PREFIX_SHIFT) - 1), self.job_since_ms.get()))
    }

    /// Publishes whether the peer sleeps.
    pub fn set_sleep(&self, sleep: SleepState) {
        self.sleep.set(sleep as u64);
    }

    /// Whether the peer sleeps.
    pub fn sleep(&self) -> SleepState {
        match self.sleep.get() {
            0 => SleepState::Awake,
            1 => SleepState::Asleep,
            _ => SleepState::Woken,
        }
    }

    /// Calls `read` with the client id, `-` if none was set, and with the functions, newest first.
    pub fn with_identity<R>(&self, read: impl FnOnce(&[u8], &Abilities) -> R) -> R {
        let identity = self.lock();
        let client_id = if identity.has_client_id { identity.client_id.as_slice() } else { b"-" };
        read(client_id, &identity.functions)
    }

    /// The peer for a log line: its address, and its client id if one was set.
    pub fn name(&self) -> String {
        match self.client_id() {
            Some(id) => format!("{} ({})", self.peer, id.escape_ascii()),
            None => self.peer.clone(),
        }
    }

    /// The client id, if one was set.
    pub fn client_id(&self) -> Option<Vec<u8>> {
        let identity = self.lock();
        identity.has_client_id.then(|| identity.client_id.clone())
    }

    /// Whether the peer has set this client id.
    pub fn has_client_id(&self, id: &[u8]) -> bool {
        let identity = self.lock();
        identity.has_client_id && identity.client_id == id
    }

    /// The functions that the peer can do, newest first, and those that it could do before, latest last.
    pub fn functions(&self) -> (Vec<Arc<AbilityGauges>>, Vec<Arc<AbilityGauges>>) {
        let identity = self.lock();
        (identity.functions.iter().map(Arc::clone).collect(), identity.former.clone())
    }

    /// The functions that the peer could do before, latest last.
    pub fn former_functions(&self) -> Vec<Arc<AbilityGauges>> {
        self.lock().former.clone()
    }

    /// Of the `left` oldest functions of the peer, the newest `most`.
    pub fn functions_from_oldest(&self, left: usize, most: usize) -> Vec<Arc<AbilityGauges>> {
        let identity = self.lock();
        identity.functions.oldest(left).take(most).cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreState {
    /// There is none: jobs are kept in memory.
    #[default]
    Absent,
    /// It keeps jobs.
    Working,
    /// It works, but not all of its jobs are read yet.
    Restoring,
    /// It cannot keep jobs now, for this reason.
    Failing(String),
}

/// The space of a store on a local disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSpace {
    /// Free on its file system for this user, in addition to the reserve.
    pub free: u64,
    /// The present size of the reserve: 0 if there is none, or if it was released.
    pub reserve: u64,
    /// The size of the write-ahead log.
    pub wal: u64,
}

/// The numbers of the store.
#[derive(Debug, Default)]
pub struct StoreStats {
    state: Mutex<StoreState>,
    about: Mutex<(String, String)>,
    space: Mutex<Option<StoreSpace>>,
    missing: Mutex<Option<String>>,
    /// 1 while jobs are still being read, although workers are served.
    pub restoring: Gauge,
    /// Jobs that have ended, whose removal failed and will be retried.
    pub pending_removals: Gauge,
    /// Transactions, including failed ones.
    pub commits: Gauge,
    /// Their total time, in nanoseconds.
    pub commit_ns: Gauge,
    /// The time of each of them.
    pub commit_times: Histogram,
    /// Transactions that were on the disk when they were done.
    pub syncs: Gauge,
    /// Jobs that were stored.
    pub added: Gauge,
    /// Jobs that were removed.
    pub removed: Gauge,
    /// Failures.
    pub failures: Gauge,
}

impl StoreStats {
    /// The state of the store.
    pub fn state(&self) -> StoreState {
        match self.state.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            StoreState::Working if self.restoring.get() > 0 => StoreState::Restoring,
            state => state,
        }
    }

    /// What the store is and how durable jobs are in it, for people to read; empty if there is none.
    pub fn about(&self) -> (String, String) {
        self.about.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes what the store is and how durable jobs are in it.
    pub fn set_about(&self, location: String, durability: String) {
        *self.about.lock().unwrap_or_else(PoisonError::into_inner) = (location, durability);
    }

    /// The space of the store on its disk, as seen last; `None` if it is on no local disk.
    pub fn space(&self) -> Option<StoreSpace> {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the space of the store on its disk.
    pub fn set_space(&self, space: Option<StoreSpace>) {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner) = space;
    }

    /// At shutdown, why the next start will not find what was stored; `None` if it will.
    pub fn missing(&self) -> Option<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes why the next start will not find what was stored.
    pub fn set_missing(&self, missing: Option<String>) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// Publishes the state of the store.
    pub fn set_state(&self, state: StoreState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// All published numbers.
#[derive(Debug, Default)]
pub struct Stats {
    /// Every function that was ever used and not removed, by name.
    pub functions: Ordered<FunctionName, Arc<FunctionGauges>>,
    /// Every live connection, by age.
    pub connections: Ordered<ConnectionId, Arc<ConnectionGauges>>,
    /// The number of accepted connections.
    pub accepted: Gauge,
    /// The maximum number of connections.
    pub max_connections: Gauge,
    /// The number of connections refused because there were too many.
    pub refused: Gauge,
    /// The number of connections closed because their peer did not read.
    pub slow_readers: Gauge,
    /// The number of functions that were offered and not registered, because of a limit or their form.
    pub functions_refused: Gauge,
    /// The number of times the hub's lock was taken.
    pub lock_acquisitions: Gauge,
    /// The total time of waiting for the hub's lock, in nanoseconds.
    pub lock_wait_ns: Gauge,
    /// NOOP packets sent to sleeping workers.
    pub wakeups: Gauge,
    /// What happened to jobs of all functions, including removed ones.
    pub counters: JobCounters,
    /// 1 while new jobs are rejected, before a shutdown.
    pub draining: Gauge,
    /// The memory that is held for peers.
    pub memory: Arc<Account>,
    /// The store of background jobs.
    pub store: StoreStats,
    handle_prefixes: Mutex<Vec<Arc<str>>>,
}

impl Stats {
    /// Publishes a handle prefix, in the order of the indexes.
    pub fn set_handle_prefix(&self, index: u8, prefix: &Arc<str>) {
        let mut prefixes = self.handle_prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        if prefixes.len() == usize::from(index) {
            prefixes.push(Arc::clone(prefix));
        }
    }

    /// The handle prefixes that jobs have.
    pub fn handle_prefixes(&self) -> Vec<Arc<str>> {
        self.handle_prefixes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
