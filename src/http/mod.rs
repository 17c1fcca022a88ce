//! The HTTP interface: dashboard, JSON, metrics, health, jobs.
//!
//! It has a thread and a runtime of its own. What it shows is read from what the server publishes; whatever it costs to
//! write that as JSON, however often it is asked for and however slowly it is read, costs the job server's thread nothing.
//!
//! Nothing is buffered without a bound: lists are written as they are read, large bodies share a budget, and connections,
//! streams of events and waits for jobs are counted.

mod actions;
mod answer;
mod api;
mod assets;
mod body;
mod budget;
mod content;
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
mod stream;
mod submit;

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

/// How many streams of events there may be.
const STREAMS: usize = 64;
/// How many requests may wait for the end of a job.
const WAITS: usize = 256;
/// How many requests that change something may be under way.
const ACTIONS: usize = 64;
/// How many metrics are written at one time: each holds a view of every function.
const SCRAPES: usize = 4;
/// How many lists are written at one time: each holds what is to be listed.
const LISTS: usize = 16;
/// How many tasks have a turn before sockets are looked at.
const EVENT_INTERVAL: u32 = 4;
/// How much the thread gives way to the one that serves jobs, in steps of niceness: beside one busy thread it
/// gets a tenth of a CPU. With 19 it would get a seventieth, too little to answer `/healthz` in time behind a
/// scrape; and who waits for a lock that it holds would wait as long.
const NICENESS: i32 = 10;
/// How long connections may take to end when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What HTTP is allowed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What a request that changes something must bring, one of these; none where no token was set.
    pub tokens: Tokens,
    /// Whether nothing may be changed.
    pub read_only: bool,
    /// Connections at one time.
    pub max_connections: usize,
    /// Of how many functions metrics are written at most, those with the most jobs; `None` for all.
    pub metrics_functions: Option<usize>,
    /// Names of this server, in lower case.
    pub hosts: Vec<String>,
    /// Where Gearman is served, for people.
    pub addresses: Vec<String>,
    /// The name of the machine, in lower case, which goes for addresses that others reach.
    pub own_name: Option<String>,
    /// The largest body of a packet, in bytes, which bounds workloads and results.
    pub max_packet_size: usize,
    /// How dead peers are noticed.
    pub keep_alive: KeepAlive,
}

/// Tokens, which may be others from one request to the next.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<RwLock<Vec<String>>>);

impl Tokens {
    /// These tokens.
    pub fn new(tokens: Vec<String>) -> Self {
        Self(Arc::new(RwLock::new(tokens)))
    }

    /// Takes others in their place.
    pub fn set(&self, tokens: Vec<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether `is_same` says so of one of them. All of them are compared, whichever it is.
    fn have(&self, is_same: impl Fn(&[u8]) -> bool) -> bool {
        let tokens = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().fold(false, |have, token| have | is_same(token.as_bytes()))
    }
}

/// What the job server's thread is asked to call.
pub type Beat = Box<dyn FnOnce() + Send>;

/// What HTTP knows of the server.
pub struct Parts {
    /// What is shown, and what can be done.
    pub admin: Arc<Admin>,
    /// The numbers that are published.
    pub stats: Arc<Stats>,
    /// What large bodies and results share.
    pub budget: Budget,
    /// The time as the job server counts it.
    pub now: Box<dyn Fn() -> Now + Send + Sync>,
    /// Has the job server's thread call this, with its lock taken before: a sign that neither is stuck.
    pub sign_of_life: Box<dyn Fn(Beat) + Send + Sync>,
    /// How many lines of the log were left out.
    pub log_lines_left_out: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Makes a connection of the job server's out of one end of a pair of sockets, for a peer at this address.
    pub connect: Box<dyn Fn(UnixStream, String) + Send + Sync>,
}

/// What all requests have in common.
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

/// The interface's own numbers.
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

/// The running interface.
#[derive(Debug)]
pub struct Http {
    /// What requests may bring from now on.
    pub tokens: Tokens,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

/// Starts the thread that serves HTTP on sockets that listen and do not block.
///
/// # Errors
/// When the thread or its runtime cannot be had.
pub fn start(listeners: Vec<TcpListener>, settings: Settings, parts: Parts) -> io::Result<Http> {
    // Sockets are looked at between any few pieces of long answers.
    let runtime = tokio::runtime::Builder::new_current_thread().event_interval(EVENT_INTERVAL).enable_all().build()?;
    let (stop, tokens) = (CancellationToken::new(), settings.tokens.clone());
    let interface = Arc::new(Interface::new(settings, parts, stop.clone()));
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name("http".to_owned()).spawn(move || {
        priority::give_way(NICENESS);
        runtime.block_on(server::run(listeners, interface));
        // Nobody waits any more where the process ends by another way.
        let _ = end.send(());
    })?;
    Ok(Http { tokens, stop, ended })
}

impl Http {
    /// Ends it: no more connections, streams of events end, and answers that are under way have a moment to leave.
    pub async fn stop(self) {
        self.stop.cancel();
        // A thread that takes longer ends with the process.
        let _ = tokio::time::timeout(STOP_TIMEOUT * 2, self.ended).await;
    }
}
