//! What the server publishes about itself, read at any time without a lock.
//!
//! What tells of jobs, functions and workers has one writer at a time, the holder of the hub's lock, so plain relaxed
//! loads and stores are enough. What counts connections and locks is added to by whoever is there. Readers may see one
//! number a moment older than another; none of them is ever torn.

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

/// Names a connection. A slot is used again, with another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// Small numbers, used again.
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
    /// Submissions that joined a job that was there.
    pub coalesced: Gauge,
    /// Jobs that ended with WORK_COMPLETE.
    pub done: Gauge,
    /// Jobs that ended with WORK_FAIL from their worker.
    pub failed: Gauge,
    /// Jobs that ended with WORK_EXCEPTION.
    pub excepted: Gauge,
    /// Runs that took longer than they may.
    pub timed_out: Gauge,
    /// Runs that came to nothing, after which the job went back, those that took too long among them.
    pub requeued: Gauge,
    /// Jobs that were given up after too many of these, or that had vanished from the store.
    pub dropped: Gauge,
    /// Jobs that the operator cancelled.
    pub cancelled: Gauge,
    /// Jobs that ended because no client waited for them any more.
    pub abandoned: Gauge,
}

/// Numbers that are made when there is something to count: most functions of most workers never have any.
#[derive(Debug, Default)]
pub struct Lazy<T>(OnceLock<Box<T>>);

impl<T: Default> Lazy<T> {
    /// The numbers, to count.
    pub fn get_or_make(&self) -> &T {
        self.0.get_or_init(Box::default)
    }

    /// The numbers, where anything was counted.
    pub fn get(&self) -> Option<&T> {
        self.0.get().map(|numbers| &**numbers)
    }
}

impl Lazy<Histogram> {
    /// Counts a duration.
    pub fn record(&self, duration_us: u64) {
        self.get_or_make().record(duration_us);
    }

    /// What it holds now.
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
    /// Jobs that workers have.
    pub running: Gauge,
    /// Connections that can do the function, busy or not.
    pub workers: Gauge,
    /// Since when the first in the queues waits for a worker, in milliseconds since 1970; 0 where none does, or where that is
    /// not known. The first are those that come next, of each priority: a job that was given back, moved or given another
    /// priority comes last, and may be older.
    pub oldest_ms: Gauge,
    /// 1 where the operator's settings alone have made it known: no worker, job or other command has named it.
    pub settings_only: Gauge,
    /// 1 where no job is handed out.
    pub paused: Gauge,
    /// How many jobs may run at once; 0 for no limit.
    pub max_running: Gauge,
    /// How many jobs there may be when one of high, normal and low priority comes; 0 for no limit.
    pub max_queue: [Gauge; 3],
    /// What happened to its jobs.
    pub counters: Lazy<JobCounters>,
    /// How long jobs waited for their first worker.
    pub wait: Lazy<Histogram>,
    /// How long workers took for jobs that they ended.
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

/// What runs of a worker came to.
#[derive(Debug, Default)]
pub struct WorkCounters {
    /// Ended with WORK_COMPLETE.
    pub done: Gauge,
    /// Ended with WORK_FAIL.
    pub failed: Gauge,
    /// Ended with WORK_EXCEPTION.
    pub excepted: Gauge,
    /// Took longer than they may.
    pub timed_out: Gauge,
    /// Were taken away or lost, those that took too long among them.
    pub requeued: Gauge,
}

/// A function as one connection does it.
#[derive(Debug)]
pub struct AbilityGauges {
    /// The function.
    pub function: FunctionName,
    withheld: Gauge,
    /// Its place among the connection's functions.
    place: Gauge,
    /// How many jobs of it the connection holds, those too that it was given before it registered it anew.
    pub running: Gauge,
    /// What its runs came to.
    pub counters: Lazy<WorkCounters>,
    /// How long the connection took for jobs that it ended.
    pub run: Lazy<Histogram>,
}

impl AbilityGauges {
    /// Of a function that the connection has just registered.
    pub fn new(function: FunctionName) -> Self {
        let (withheld, place, running, counters, run) = Default::default();
        Self { function, withheld, place, running, counters, run }
    }

    /// Publishes whether the operator's rules keep the function's jobs from the connection.
    pub fn set_withheld(&self, withheld: Option<Withholding>) {
        self.withheld.set(match withheld {
            None => 0,
            Some(Withholding::Disabled) => 1,
            Some(Withholding::Draining) => 2,
        });
    }

    /// Whether the operator's rules keep the function's jobs from the connection.
    pub fn withheld(&self) -> Option<Withholding> {
        match self.withheld.get() {
            0 => None,
            1 => Some(Withholding::Disabled),
            _ => Some(Withholding::Draining),
        }
    }
}

/// How jobs are withheld from a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Withholding {
    /// It gets none until it is enabled.
    Disabled,
    /// The same, of a worker that is to end what it has and go.
    Draining,
}

/// What [`ConnectionGauges::sleep`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepState {
    /// It asks for jobs by itself.
    Awake,
    /// It waits to be told of one.
    Asleep,
    /// It was told, and has not asked yet.
    Woken,
}

/// What is known of one connection.
#[derive(Debug)]
pub struct ConnectionGauges {
    /// The server's file descriptor, which `workers` shows first.
    pub file_descriptor: i32,
    /// The peer's address without its port.
    pub peer: String,
    /// When it came, in milliseconds since 1970.
    pub connected_ms: Gauge,
    /// When it was last heard from, in milliseconds since 1970.
    pub heard_ms: Gauge,
    /// How many jobs it holds.
    pub running: Gauge,
    job: Gauge,
    job_since_ms: Gauge,
    sleep: Gauge,
    identity: Mutex<Identity>,
}

/// The bits of [`ConnectionGauges::job`] above this one hold the prefix.
const PREFIX_SHIFT: u32 = 48;

/// How many functions that a connection can no longer do are remembered.
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

    /// Publishes the id that the peer gave to itself.
    pub fn set_client_id(&self, id: &[u8]) {
        let mut identity = self.lock();
        identity.client_id = id.to_vec();
        identity.has_client_id = true;
    }

    /// Publishes that the peer can do a function from now on. Its numbers go on where it could before.
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

    /// Publishes that the peer has registered a function once more: it is its newest then.
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

    /// Publishes the job that the peer was given last: the index of its handle's prefix, its number, and since when.
    pub fn set_job(&self, prefix: u8, number: u64, since_ms: u64) {
        // Numbers have twelve digits at most.
        self.job.set(u64::from(prefix) << PREFIX_SHIFT | number);
        self.job_since_ms.set(since_ms);
    }

    /// The job that the peer was given last, if it holds one: the index of its handle's prefix, its number, and since when.
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

    /// Calls `read` with the client id, which is `-` where none was set, and with the functions, the newest first.
    pub fn with_identity<R>(&self, read: impl FnOnce(&[u8], &Abilities) -> R) -> R {
        let identity = self.lock();
        let client_id = if identity.has_client_id { identity.client_id.as_slice() } else { b"-" };
        read(client_id, &identity.functions)
    }

    /// The peer for a log line: its address, and its client id where one was set.
    pub fn name(&self) -> String {
        match self.client_id() {
            Some(id) => format!("{} ({})", self.peer, id.escape_ascii()),
            None => self.peer.clone(),
        }
    }

    /// The client id, where one was set.
    pub fn client_id(&self) -> Option<Vec<u8>> {
        let identity = self.lock();
        identity.has_client_id.then(|| identity.client_id.clone())
    }

    /// Whether the peer gave itself this id.
    pub fn has_client_id(&self, id: &[u8]) -> bool {
        let identity = self.lock();
        identity.has_client_id && identity.client_id == id
    }

    /// The functions that the peer can do, the newest first, and those that it could before, the latest last.
    pub fn functions(&self) -> (Vec<Arc<AbilityGauges>>, Vec<Arc<AbilityGauges>>) {
        let identity = self.lock();
        (identity.functions.iter().map(Arc::clone).collect(), identity.former.clone())
    }

    /// The functions that the peer could do before, the latest last.
    pub fn former_functions(&self) -> Vec<Arc<AbilityGauges>> {
        self.lock().former.clone()
    }

    /// Of the `left` functions that the peer could do first, the newest `most`.
    pub fn functions_from_oldest(&self, left: usize, most: usize) -> Vec<Arc<AbilityGauges>> {
        let identity = self.lock();
        identity.functions.oldest(left).take(most).cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a store does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreState {
    /// There is none: jobs are kept in memory.
    #[default]
    Absent,
    /// It keeps jobs.
    Working,
    /// It works, and not all of its jobs are read yet.
    Restoring,
    /// It cannot keep jobs now, for this reason.
    Failing(String),
}

/// What a store takes and has left on a local disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSpace {
    /// Free on its file system for this user, beside the reserve.
    pub free: u64,
    /// How large the reserve is now: 0 where there is none, or where it was given up.
    pub reserve: u64,
    /// How large the write-ahead log is.
    pub wal: u64,
}

/// The numbers of the store.
#[derive(Debug, Default)]
pub struct StoreStats {
    state: Mutex<StoreState>,
    about: Mutex<(String, String)>,
    space: Mutex<Option<StoreSpace>>,
    missing: Mutex<Option<String>>,
    /// 1 while jobs are still being read, though workers are served.
    pub restoring: Gauge,
    /// Jobs that have ended, and whose removal failed and will be tried again.
    pub owed: Gauge,
    /// Transactions, failed ones included.
    pub commits: Gauge,
    /// How long they took in all, in nanoseconds.
    pub commit_ns: Gauge,
    /// How long each of them took.
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
    /// How the store does.
    pub fn state(&self) -> StoreState {
        match self.state.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            StoreState::Working if self.restoring.get() > 0 => StoreState::Restoring,
            state => state,
        }
    }

    /// What the store is and how durable jobs are in it, for people to read; empty for memory.
    pub fn about(&self) -> (String, String) {
        self.about.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes what the store is and how durable jobs are in it.
    pub fn set_about(&self, location: String, durability: String) {
        *self.about.lock().unwrap_or_else(PoisonError::into_inner) = (location, durability);
    }

    /// What the store takes and has left on its disk, as it was seen last; `None` where it is on no local disk.
    pub fn space(&self) -> Option<StoreSpace> {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what the store takes and has left on its disk.
    pub fn set_space(&self, space: Option<StoreSpace>) {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner) = space;
    }

    /// At the end, why the next start will not find what was stored; `None` where it will.
    pub fn missing(&self) -> Option<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes why the next start will not find what was stored.
    pub fn set_missing(&self, missing: Option<String>) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// Publishes how the store does.
    pub fn set_state(&self, state: StoreState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Everything that is published.
#[derive(Debug, Default)]
pub struct Stats {
    /// Every function that was ever used and not dropped, by name.
    pub functions: Ordered<FunctionName, Arc<FunctionGauges>>,
    /// Every live connection, by age.
    pub connections: Ordered<ConnectionId, Arc<ConnectionGauges>>,
    /// How many connections were accepted.
    pub accepted: Gauge,
    /// How many connections there may be.
    pub max_connections: Gauge,
    /// How many connections were refused because there were too many.
    pub refused: Gauge,
    /// How many connections were closed because their peer did not read.
    pub slow_readers: Gauge,
    /// How many functions were offered and not registered, for want of room or for their form.
    pub functions_refused: Gauge,
    /// How often the hub's lock was taken.
    pub lock_holds: Gauge,
    /// How long the hub's lock was waited for in all, in nanoseconds.
    pub lock_wait_ns: Gauge,
    /// NOOP packets sent to sleeping workers.
    pub wakeups: Gauge,
    /// What happened to jobs of all functions, those that are forgotten included.
    pub counters: JobCounters,
    /// 1 where no job is taken any more.
    pub draining: Gauge,
    /// What is held in memory for peers.
    pub memory: Arc<Account>,
    /// Where background jobs are kept.
    pub store: StoreStats,
    handle_prefixes: Mutex<Vec<Arc<str>>>,
}

impl Stats {
    /// Publishes a prefix of handles, in the order of their indexes.
    pub fn set_handle_prefix(&self, index: u8, prefix: &Arc<str>) {
        let mut prefixes = self.handle_prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        if prefixes.len() == usize::from(index) {
            prefixes.push(Arc::clone(prefix));
        }
    }

    /// The prefixes of handles that jobs have.
    pub fn handle_prefixes(&self) -> Vec<Arc<str>> {
        self.handle_prefixes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
