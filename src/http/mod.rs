//! The HTTP interface: dashboard, JSON, metrics, health, jobs.
//!
//! It has a separate thread and runtime. It reads what the server publishes, so frequent requests,
//! serialization to JSON and slow readers cost the job server's thread nothing.
//!
//! All buffers are bounded: lists are streamed, large bodies share a memory budget, and connections, event
//! streams and waits for jobs are limited.

mod actions;
mod answer;
mod api;
mod assets;
mod body;
mod budget;
mod events;
mod fleet;
mod guard;
mod job;
mod metrics;
pub mod plugin;
mod pulse;
mod query;
mod routes;
mod server;
mod submit;
mod text_or_base64;
mod write_timeout;

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::budget::Budget;
use self::events::Overview;
use self::fleet::Rounds;
use self::pulse::Pulse;
use crate::admin::Admin;
use crate::job_server::Now;
use crate::process::listen::KeepAlive;
use crate::process::priority;
use crate::stats::{Gauge, Stats};

/// Maximum number of event streams.
const STREAMS: usize = 64;
/// Maximum number of requests waiting for a job to end.
const WAITS: usize = 256;
/// Maximum number of concurrent requests that change something.
const ACTIONS: usize = 64;
/// Maximum number of concurrent scrapes: each holds a view of every function.
const SCRAPES: usize = 4;
/// Maximum number of lists being streamed: each holds the entries to list.
const LISTS: usize = 16;
/// Number of task polls between two polls of the sockets.
const EVENT_INTERVAL: u32 = 4;
/// Niceness of the thread, so that the thread that serves jobs has priority: beside one busy thread it gets a
/// tenth of a CPU. With 19 it would get a seventieth, too little to answer `/healthz` in time during a
/// scrape, and a thread waiting for a lock that it holds would be delayed as much.
const NICENESS: i32 = 10;
/// Timeout for connections to end at shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of the HTTP interface.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The tokens that authorize changes; empty if none is set.
    pub tokens: Tokens,
    /// Whether the interface is read-only.
    pub read_only: bool,
    /// Maximum number of connections.
    pub max_connections: usize,
    /// Maximum number of functions with metrics, those with the most jobs first; `None` for all.
    pub metrics_functions: Option<usize>,
    /// Host names of this server, in lower case.
    pub hosts: Vec<String>,
    /// Addresses that serve Gearman, for display.
    pub addresses: Vec<String>,
    /// Host name of the machine in lower case. It is accepted on addresses that other machines can reach.
    pub own_name: Option<String>,
    /// Maximum body size of a packet in bytes, which limits workloads and results.
    pub max_packet_size: usize,
    /// Detection of dead peers.
    pub keep_alive: KeepAlive,
}

/// A set of tokens that may change at any time.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<RwLock<Vec<String>>>);

impl Tokens {
    /// A set with these tokens.
    pub fn new(tokens: Vec<String>) -> Self {
        Self(Arc::new(RwLock::new(tokens)))
    }

    /// Replaces the tokens.
    pub fn set(&self, tokens: Vec<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether `is_same` accepts any token. All tokens are compared in any case, so that the time reveals
    /// nothing.
    fn have(&self, is_same: impl Fn(&[u8]) -> bool) -> bool {
        let tokens = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().fold(false, |have, token| have | is_same(token.as_bytes()))
    }
}

/// A callback for the job server's thread.
pub type Beat = Box<dyn FnOnce() + Send>;

/// The interface to the server.
pub struct Parts {
    /// Views and control commands.
    pub admin: Arc<Admin>,
    /// Published statistics.
    pub stats: Arc<Stats>,
    /// The memory budget for large bodies and results.
    pub budget: Budget,
    /// The job server's clock.
    pub now: Box<dyn Fn() -> Now + Send + Sync>,
    /// Makes the job server's thread call this after it has taken the lock, to show that neither is stuck.
    pub sign_of_life: Box<dyn Fn(Beat) + Send + Sync>,
    /// Number of log lines that were dropped.
    pub log_lines_left_out: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Turns one end of a socket pair into a connection to the job server, with this peer address.
    pub connect: Box<dyn Fn(UnixStream, String) + Send + Sync>,
}

/// State shared by all requests.
struct Interface {
    settings: Settings,
    parts: Parts,
    streams: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    scrapes: Arc<Semaphore>,
    actions: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    budget: Budget,
    overview: Mutex<Overview>,
    fleet: Rounds,
    pulse: Arc<Pulse>,
    counts: Counts,
    stop: CancellationToken,
}

/// Counters of the interface itself.
#[derive(Default)]
struct Counts {
    connections: Gauge,
    refused: Gauge,
    requests: Gauge,
    slow_readers: Gauge,
}

impl Interface {
    fn new(settings: Settings, parts: Parts, stop: CancellationToken) -> Self {
        Self {
            budget: parts.budget.clone(),
            settings,
            parts,
            streams: Arc::new(Semaphore::new(STREAMS)),
            waits: Arc::new(Semaphore::new(WAITS)),
            scrapes: Arc::new(Semaphore::new(SCRAPES)),
            actions: Arc::new(Semaphore::new(ACTIONS)),
            lists: Arc::new(Semaphore::new(LISTS)),
            overview: Mutex::default(),
            fleet: Rounds::default(),
            pulse: Arc::default(),
            counts: Counts::default(),
            stop,
        }
    }

    fn now(&self) -> Now {
        (self.parts.now)()
    }
}

/// A handle to the running interface.
#[derive(Debug)]
pub struct Http {
    /// The tokens that requests are checked against.
    pub tokens: Tokens,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

/// Starts the HTTP thread on listening, nonblocking sockets.
///
/// # Errors
/// The thread or its runtime cannot be created.
pub fn start(listeners: Vec<TcpListener>, settings: Settings, parts: Parts) -> io::Result<Http> {
    // A small interval, so that sockets are polled between chunks of streaming bodies.
    let runtime = tokio::runtime::Builder::new_current_thread().event_interval(EVENT_INTERVAL).enable_all().build()?;
    let (stop, tokens) = (CancellationToken::new(), settings.tokens.clone());
    let interface = Arc::new(Interface::new(settings, parts, stop.clone()));
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name("http".to_owned()).spawn(move || {
        priority::give_way(NICENESS);
        runtime.block_on(server::run(listeners, interface));
        // The receiver is gone if the process ends in another way.
        let _ = end.send(());
    })?;
    Ok(Http { tokens, stop, ended })
}

impl Http {
    /// Stops the interface: closes the listeners, ends event streams, and gives other responses a moment to
    /// complete.
    pub async fn stop(self) {
        self.stop.cancel();
        // If it takes longer, the thread ends with the process.
        let _ = tokio::time::timeout(STOP_TIMEOUT * 2, self.ended).await;
    }
}
