//! Makes what is shown out of what the server publishes.
//!
//! Whoever only looks does not lock the hub, but for two things that it alone has: rules and jobs. Of both a bounded number
//! is asked for at a time.

mod gradual;
mod jobs;
mod rules;
mod times;
mod workers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use self::times::{Times, WallClock};
use super::history::History;
use super::view::{
    ConnectionsView, DurationsView, FleetCounts, FunctionView, HeldView, HistoryView, JobCounts, QueuedView,
    ServerView, StoreView, Totals, WorkerStates,
};
use crate::fleet::contract::{SET_ID, WorkerId, fleet_of_function};
use crate::hub::Hub;
use crate::job_server::{ConnectionId, Now};
use crate::protocol::{FunctionName, Priority};
use crate::stats::account::{Account, Part};
use crate::stats::histogram::Durations;
use crate::stats::{FunctionGauges, Gauge, JobCounters, Stats, StoreState};

pub use self::gradual::{Functions, WorkerSum, Workers};
pub use self::jobs::{HEAD_MAX, JobLook, STORE_WAIT};
pub use self::rules::Rules;
pub use self::workers::{parse_worker_id, worker_id};

/// How often [`Look::sample`] is to be called.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);

/// What stands as it is in the id of a function: what RFC 3986 calls unreserved.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What the server shows.
pub struct Look {
    hub: Arc<Hub>,
    version: &'static str,
    history: Mutex<History>,
    wall_clock: WallClock,
}

/// Which workers are shown.
#[derive(Clone, Debug, Default)]
pub struct WorkerFilter {
    /// Only those that can do this function.
    pub function: Option<Vec<u8>>,
    /// Only those from this address.
    pub host: Option<String>,
    /// Only those with this client id.
    pub client: Option<Vec<u8>>,
    /// Only those in this state.
    pub state: Option<String>,
    /// How many at most.
    pub limit: usize,
    /// Those after this one, which may have gone.
    pub after: Option<ConnectionId>,
}

/// Which jobs are shown.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only those of this function.
    pub function: Option<Vec<u8>>,
    /// Only those in this state: `scheduled`, `queued` or `running`.
    pub state: Option<String>,
    /// Only those with this unique id.
    pub unique: Option<Vec<u8>>,
    /// Only those of this priority.
    pub priority: Option<Priority>,
    /// Only those that a worker with this client id holds.
    pub client: Option<Vec<u8>>,
    /// Only those for whose end a connection with this client id waits.
    pub waiting_client: Option<Vec<u8>>,
    /// Only those that were submitted so long ago, in seconds.
    pub older_than_s: Option<f64>,
    /// How many at most.
    pub limit: usize,
    /// Where to go on, as [`Page::next`] says.
    pub after: Option<u64>,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page<T, C> {
    /// The part.
    pub items: Vec<T>,
    /// Where to go on; `None` after the last. There may be more though a page is empty: looking takes pauses.
    pub next: Option<C>,
}

impl Look {
    /// What `hub` shows.
    pub fn new(hub: Arc<Hub>, version: &'static str) -> Self {
        Self { hub, version, history: Mutex::default(), wall_clock: WallClock::default() }
    }

    fn stats(&self) -> &Stats {
        self.hub.stats()
    }

    /// The server as a whole.
    pub fn server(&self, now: Now) -> ServerView {
        let (stats, times) = (self.stats(), self.times(now));
        let (mut jobs, mut oldest_ms, mut fleet) = (JobCounts::default(), None, FleetCounts::default());
        for entry in &stats.functions {
            let gauges = entry.value();
            count_managed(&mut fleet, entry.key().as_bytes(), gauges.workers.get());
            jobs.queued += gauges.queued();
            jobs.scheduled += gauges.scheduled();
            jobs.running += gauges.running.get();
            oldest_ms = oldest_ms.into_iter().chain(positive(&gauges.oldest_ms)).min();
        }
        ServerView {
            version: self.version,
            pid: std::process::id(),
            started_unix_ms: now.unix_us.saturating_sub(now.monotonic_us) / 1000,
            uptime_s: seconds(now.monotonic_us),
            draining: stats.draining.get() > 0,
            memory_bytes: resident_memory(),
            held: held(&stats.memory),
            connections: ConnectionsView {
                open: stats.connections.len() as u64,
                accepted: stats.accepted.get(),
                refused: stats.refused.get(),
                slow_readers: stats.slow_readers.get(),
            },
            functions: stats.functions.len() as u64,
            functions_refused: stats.functions_refused.get(),
            workers: self.worker_states(),
            fleet,
            jobs,
            oldest_queued_s: oldest_ms.map(|since_ms| times.age_s(since_ms)),
            totals: totals(&stats.counters),
            rates: self.history_lock().rates(None),
            lock_holds: stats.lock_holds.get(),
            lock_wait_s: seconds(stats.lock_wait_ns.get() / 1000),
            wakeups: stats.wakeups.get(),
            store: self.store(),
        }
    }

    /// Where background jobs are kept.
    pub fn store(&self) -> StoreView {
        let store = &self.stats().store;
        let (location, durability) = store.about();
        let (state, error) = match store.state() {
            StoreState::Absent => ("memory", None),
            StoreState::Working => ("ok", None),
            StoreState::Failing(error) => ("failing", Some(error)),
        };
        let (commits, space) = (store.commits.get(), store.space());
        StoreView {
            state,
            error,
            location,
            durability,
            waiting: self.hub.waiting_changes() as u64,
            owed: store.owed.get(),
            added: store.added.get(),
            removed: store.removed.get(),
            commits,
            syncs: store.syncs.get(),
            failures: store.failures.get(),
            mean_commit_s: store.commit_ns.get().checked_div(commits).map(|mean_ns| seconds(mean_ns) / 1000.0),
            free_bytes: space.map(|space| space.free),
            reserve_bytes: space.map(|space| space.reserve),
            wal_bytes: space.map(|space| space.wal),
            commit_times: store.commit_times.read(),
        }
    }

    /// One function.
    pub fn function(&self, now: Now, name: &[u8]) -> Option<FunctionView> {
        let (name, gauges) = {
            let entry = self.stats().functions.get(name)?;
            (entry.key().clone(), Arc::clone(entry.value()))
        };
        let states = self.worker_states_of(&name);
        Some(function_view(&self.times(now), &name, &gauges, &states, &self.history_lock()))
    }

    /// The last hour, of one function or of all together. There is none of a function that nobody knows.
    pub fn history(&self, function: Option<&[u8]>) -> Option<HistoryView> {
        if function.is_some_and(|function| !self.stats().functions.contains_key(function)) {
            return None;
        }
        Some(self.history_lock().view(function))
    }

    /// To be called every [`SAMPLE_INTERVAL`]: takes down the numbers for [`history`](Self::history) and the rates.
    pub fn sample(&self, now: Now) {
        self.times(now);
        self.history_lock().sample(now, self.stats());
    }

    /// The time, to tell ages by.
    fn times(&self, now: Now) -> Times {
        self.wall_clock.times(now)
    }

    fn history_lock(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what the workers of a function say of a fleet.
fn count_managed(fleet: &mut FleetCounts, function: &[u8], workers: u64) {
    if workers == 0 {
        return;
    }
    if WorkerId::of_function(function).is_some() {
        fleet.workers += 1;
    } else if function == SET_ID.as_bytes() {
        fleet.unnamed_workers = workers;
    } else if fleet_of_function(function).is_some() {
        fleet.monitors += 1;
    }
}

fn function_view(
    times: &Times,
    name: &FunctionName,
    gauges: &FunctionGauges,
    states: &WorkerStates,
    history: &History,
) -> FunctionView {
    let [high, normal, low] = gauges.queued.each_ref().map(Gauge::get);
    FunctionView {
        id: function_id(name.as_bytes()),
        name: lossy(name.as_bytes()),
        queued: QueuedView { high, normal, low },
        scheduled: gauges.scheduled(),
        running: gauges.running.get(),
        workers: gauges.workers.get(),
        worker_states: *states,
        paused: gauges.paused.get() > 0,
        settings_only: gauges.settings_only.get() > 0,
        max_running: gauges.max_running.get(),
        max_queue: gauges.max_queue.each_ref().map(Gauge::get),
        oldest_queued_s: positive(&gauges.oldest_ms).map(|since_ms| times.age_s(since_ms)),
        totals: gauges.counters.get().map_or_else(Totals::default, totals),
        rates: history.rates(Some(name)),
        wait: durations_view(&gauges.wait.read()),
        run: durations_view(&gauges.run.read()),
    }
}

/// The name of a function for paths.
pub fn function_id(name: &[u8]) -> String {
    percent_encode(name, UNRESERVED).to_string()
}

fn totals(counters: &JobCounters) -> Totals {
    Totals {
        submitted: counters.submitted.get(),
        coalesced: counters.coalesced.get(),
        done: counters.done.get(),
        failed: counters.failed.get(),
        excepted: counters.excepted.get(),
        timed_out: counters.timed_out.get(),
        requeued: counters.requeued.get(),
        dropped: counters.dropped.get(),
        cancelled: counters.cancelled.get(),
        abandoned: counters.abandoned.get(),
    }
}

fn durations_view(durations: &Durations) -> DurationsView {
    DurationsView {
        count: durations.count(),
        mean_s: durations.mean_s(),
        p50_s: durations.quantile_s(0.5),
        p90_s: durations.quantile_s(0.9),
        p99_s: durations.quantile_s(0.99),
    }
}

/// The value of a gauge in which 0 stands for none.
fn positive(gauge: &Gauge) -> Option<u64> {
    Some(gauge.get()).filter(|value| *value > 0)
}

#[allow(clippy::cast_precision_loss, reason = "for people to read")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Bytes that replacement characters would make another name of.
fn base64_of_no_text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| STANDARD.encode(bytes))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Memory of this process that is in use, in bytes.
fn held(account: &Account) -> HeldView {
    HeldView {
        total_bytes: account.total(),
        max_bytes: account.limit(),
        parts_bytes: Part::ALL.into_iter().map(|part| (part.name(), account.get(part))).collect(),
        connections_closed: account.closed.get(),
        submissions_refused: account.refused.get(),
    }
}

fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The numbers of workers by function.
type StatesByFunction = HashMap<FunctionName, WorkerStates>;
