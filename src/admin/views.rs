//! Builds the views from the gauges that the server publishes.
//!
//! Views do not lock the hub, except for what only the hub knows: rules and jobs. Each lock hold reads a
//! bounded number of them.

mod incremental;
mod jobs;
mod pass;
mod rules;
mod server;
mod times;
mod workers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use self::pass::Pass;
use self::rules::Present;
use self::times::{Times, WallClock};
use super::history::History;
use super::view::{DurationsView, FunctionView, HistoryView, QueuedView, StoreView, Totals, WorkerStates};
use crate::hub::Hub;
use crate::job_server::{ConnectionId, Now};
use crate::protocol::{FunctionName, Priority};
use crate::stats::histogram::Durations;
use crate::stats::{FunctionGauges, Gauge, JobCounters, Stats, StoreState};

pub use self::incremental::{Functions, WorkerHead, WorkerSum, Workers};
pub use self::jobs::{HEAD_MAX, PendingJobView, STORE_WAIT};
pub use self::rules::Rules;
pub(super) use self::server::ServerSum;
pub use self::workers::{parse_worker_id, worker_id};

/// How often to call [`Views::sample`].
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);

/// Bytes that need no percent-encoding in the id of a function: the unreserved ones of RFC 3986.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The views of the server.
pub struct Views {
    hub: Arc<Hub>,
    version: &'static str,
    history: Mutex<History>,
    wall_clock: WallClock,
    /// Counts that the listings of the text protocol share.
    shared_counts: Shared<Pass<StatesByFunction>>,
    shared_presence: Shared<Pass<Present>>,
}

/// A value that exists as long as someone holds it.
#[derive(Debug)]
struct Shared<T>(Mutex<Weak<T>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Default> Shared<T> {
    /// The shared value, or a new one.
    fn get(&self) -> Arc<T> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.upgrade().unwrap_or_else(|| {
            let new = Arc::default();
            *known = Arc::downgrade(&new);
            new
        })
    }
}

/// Selects the workers to show.
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
    /// Maximum number of results.
    pub limit: usize,
    /// Only those after this one, which may have disconnected.
    pub after: Option<ConnectionId>,
}

/// Selects the jobs to show.
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
    /// Only those whose result a connection with this client id waits for.
    pub waiting_client: Option<Vec<u8>>,
    /// Only those that were submitted at least this long ago, in seconds.
    pub older_than_s: Option<f64>,
    /// Maximum number of results.
    pub limit: usize,
    /// Where to continue, from [`Page::next`].
    pub after: Option<u64>,
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page<T, C> {
    /// The entries of the page.
    pub items: Vec<T>,
    /// Where to continue; `None` after the last page. A page may be empty although more follow: each call
    /// examines a bounded number of entries.
    pub next: Option<C>,
    /// How many entries were examined for it.
    pub looked_at: usize,
}

impl Views {
    /// Creates the views of `hub`.
    pub fn new(hub: Arc<Hub>, version: &'static str) -> Self {
        let (history, wall_clock, shared_counts, shared_presence) = Default::default();
        Self { hub, version, history, wall_clock, shared_counts, shared_presence }
    }

    fn stats(&self) -> &Stats {
        self.hub.stats()
    }

    /// The store of background jobs.
    pub fn store(&self) -> StoreView {
        let store = &self.stats().store;
        let (location, durability) = store.about();
        let (state, error) = match store.state() {
            StoreState::Absent => ("memory", None),
            StoreState::Working => ("ok", None),
            StoreState::Restoring => ("restoring", None),
            StoreState::Failing(error) => ("failing", Some(error)),
        };
        let (commits, space) = (store.commits.get(), store.space());
        StoreView {
            state,
            error,
            location,
            durability,
            waiting: self.hub.waiting_changes() as u64,
            pending_removals: store.pending_removals.get(),
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
        let (name, gauges) = self.stats().functions.get_key_value(name)?;
        let states = self.worker_states_of(&name);
        Some(function_view(&self.times(now), &name, &gauges, &states, &self.history_lock()))
    }

    /// The last hour of one function, or of all together. `None` for an unknown function.
    pub fn history(&self, function: Option<&[u8]>) -> Option<HistoryView> {
        if function.is_some_and(|function| !self.stats().functions.contains_key(function)) {
            return None;
        }
        Some(self.history_lock().view(function))
    }

    /// Takes a sample for [`history`](Self::history) and the rates. Call it every [`SAMPLE_INTERVAL`].
    pub fn sample(&self, now: Now) {
        self.times(now);
        self.history_lock().sample(now, self.stats());
    }

    /// The current time, for computing ages.
    fn times(&self, now: Now) -> Times {
        self.wall_clock.times(now)
    }

    fn history_lock(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The name of a function in URL paths.
pub fn function_id(name: &[u8]) -> String {
    percent_encode(name, UNRESERVED).to_string()
}

fn totals(counters: &JobCounters) -> Totals {
    Totals {
        submitted: counters.submitted.get(),
        coalesced: counters.coalesced.get(),
        done: counters.done.get(),
        failed: counters.failed.get(),
        exceptions: counters.exceptions.get(),
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

/// The value of a gauge in which 0 means none.
fn positive(gauge: &Gauge) -> Option<u64> {
    Some(gauge.get()).filter(|value| *value > 0)
}

#[allow(clippy::cast_precision_loss, reason = "for people to read")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// The base64 of bytes that are not UTF-8; replacement characters would make another name of them.
fn base64_of_no_text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| STANDARD.encode(bytes))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Worker counts by function, for functions that have workers.
#[derive(Debug, Default)]
struct StatesByFunction(HashMap<FunctionName, WorkerStates>);
