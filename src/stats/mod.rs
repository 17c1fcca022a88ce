//! What the server publishes about itself, read at any time without a lock.
//!
//! What tells of jobs, functions and workers has one writer at a time, the holder of the hub's lock, so plain relaxed
//! loads and stores are enough. What counts connections and locks is added to by whoever is there. Readers may see one
//! number a moment older than another; none of them is ever torn.

use std::collections::hash_map::RandomState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;

use crate::protocol::FunctionName;

/// Names a connection. A slot is used again, with another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// Small numbers, used again.
    pub slot: u32,
    /// Counts connections.
    pub generation: u32,
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

    /// Adds to a counter that has several writers.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }
}

/// The numbers of one function.
#[derive(Debug, Default)]
pub struct FunctionGauges {
    /// Jobs that wait for a worker, by priority.
    pub queued: [Gauge; 3],
    /// Jobs that are not due yet. They all have normal priority.
    pub scheduled: Gauge,
    /// Jobs that workers have.
    pub running: Gauge,
    /// Connections that can do the function, busy or not.
    pub workers: Gauge,
}

impl FunctionGauges {
    /// All jobs of the function, running ones included: the second column of `status`.
    pub fn total(&self) -> u64 {
        self.queued.iter().map(Gauge::get).sum::<u64>() + self.scheduled.get() + self.running.get()
    }
}

/// What is known of one connection.
#[derive(Debug)]
pub struct ConnectionGauges {
    /// The server's file descriptor, which `workers` shows first.
    pub file_descriptor: i32,
    /// The peer's address without its port.
    pub peer: String,
    identity: Mutex<Identity>,
}

#[derive(Debug, Default)]
struct Identity {
    client_id: Vec<u8>,
    has_client_id: bool,
    functions: Vec<FunctionName>,
}

impl ConnectionGauges {
    /// A new connection from `peer`.
    pub fn new(file_descriptor: i32, peer: String) -> Self {
        Self { file_descriptor, peer, identity: Mutex::default() }
    }

    /// Publishes the id that the peer gave to itself.
    pub fn set_client_id(&self, id: &[u8]) {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        identity.client_id = id.to_vec();
        identity.has_client_id = true;
    }

    /// Publishes the functions that the peer can do, the newest first.
    pub fn set_functions(&self, functions: Vec<FunctionName>) {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).functions = functions;
    }

    /// Calls `read` with the client id, which is `-` where none was set, and with the functions, the newest first.
    pub fn with_identity<R>(&self, read: impl FnOnce(&[u8], &[FunctionName]) -> R) -> R {
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let client_id = if identity.has_client_id { identity.client_id.as_slice() } else { b"-" };
        read(client_id, &identity.functions)
    }

    /// The client id, where one was set.
    pub fn client_id(&self) -> Option<Vec<u8>> {
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        identity.has_client_id.then(|| identity.client_id.clone())
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
    /// It cannot keep jobs now, for this reason.
    Failing(String),
}

/// The numbers of the store.
#[derive(Debug, Default)]
pub struct StoreStats {
    state: Mutex<StoreState>,
    about: Mutex<(String, String)>,
    /// Jobs that have ended, and whose removal failed and will be tried again.
    pub owed: Gauge,
    /// Transactions, failed ones included.
    pub commits: Gauge,
    /// How long they took in all, in nanoseconds.
    pub commit_ns: Gauge,
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the store is and how durable jobs are in it, for people to read; empty for memory.
    pub fn about(&self) -> (String, String) {
        self.about.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes what the store is and how durable jobs are in it.
    pub fn set_about(&self, location: String, durability: String) {
        *self.about.lock().unwrap_or_else(PoisonError::into_inner) = (location, durability);
    }

    /// Publishes how the store does.
    pub fn set_state(&self, state: StoreState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Everything that is published.
#[derive(Debug, Default)]
pub struct Stats {
    /// Every function that was ever used and not dropped.
    pub functions: DashMap<FunctionName, Arc<FunctionGauges>, RandomState>,
    /// Every live connection.
    pub connections: DashMap<ConnectionId, Arc<ConnectionGauges>>,
    /// How many connections were accepted.
    pub accepted: Gauge,
    /// How many connections were refused because there were too many.
    pub refused: Gauge,
    /// How many connections were closed because their peer did not read.
    pub slow_readers: Gauge,
    /// How often the hub's lock was taken.
    pub lock_holds: Gauge,
    /// How long the hub's lock was waited for in all, in nanoseconds.
    pub lock_wait_ns: Gauge,
    /// NOOP packets sent to sleeping workers.
    pub wakeups: Gauge,
    /// Where background jobs are kept.
    pub store: StoreStats,
}
