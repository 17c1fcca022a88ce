//! What the server shows: one definition for the HTTP interface, the text commands and the dashboard.
//!
//! Times are milliseconds since 1970 (`_unix_ms`), durations are seconds (`_s`). Unknown values are `None`.
//! Names that are not UTF-8 are shown with replacement characters. The `id` of a function is its name
//! percent-encoded, byte for byte; other names have a second field in base64 then.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stats::histogram::Durations;

/// The server as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct ServerView {
    /// The version, as the text command tells it.
    pub version: &'static str,
    /// The process id.
    pub pid: u32,
    /// When the server started.
    pub started_unix_ms: u64,
    /// Time since the start.
    pub uptime_s: f64,
    /// Whether the server rejects new jobs and ends after those it has.
    pub draining: bool,
    /// Resident memory of the process, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory held for jobs and peers.
    pub held: HeldView,
    /// Connections.
    pub connections: ConnectionsView,
    /// Known functions.
    pub functions: u64,
    /// Functions that workers offered and the server did not register, since the start.
    pub functions_refused: u64,
    /// Workers by state.
    pub workers: WorkerStates,
    /// Managed workers, as their functions show them.
    pub fleet: FleetCounts,
    /// Jobs by state.
    pub jobs: JobCounts,
    /// How long the first queued job has waited for a worker. Requeued and moved jobs are last in the queue.
    pub oldest_queued_s: Option<f64>,
    /// Totals since the start.
    pub totals: Totals,
    /// Current rates.
    pub rates: Rates,
    /// How often the job server's lock was taken.
    pub lock_acquisitions: u64,
    /// Total time spent waiting for that lock.
    pub lock_wait_s: f64,
    /// NOOP packets to sleeping workers.
    pub wakeups: u64,
    /// The store of background jobs.
    pub store: StoreView,
}

/// Counts of connections.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ConnectionsView {
    /// Open now.
    pub open: u64,
    /// Accepted since the start.
    pub accepted: u64,
    /// Refused because there were too many.
    pub refused: u64,
    /// Closed because their peer did not read.
    pub slow_readers: u64,
}

/// Memory held for jobs and peers, in bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HeldView {
    /// The total.
    pub total_bytes: u64,
    /// The limit of the total.
    pub max_bytes: u64,
    /// Its parts, by name.
    pub parts_bytes: BTreeMap<&'static str, u64>,
    /// Connections closed since the start for lack of memory.
    pub connections_closed: u64,
    /// Submissions refused for lack of memory.
    pub submissions_refused: u64,
}

/// Counts of managed workers and of their monitors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FleetCounts {
    /// Managed workers that have an id.
    pub workers: u64,
    /// Managed workers that wait for an id.
    pub unnamed_workers: u64,
    /// Fleets that have a monitor.
    pub monitors: u64,
}

/// How many workers are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkerStates {
    /// Hold a job.
    pub working: u64,
    /// Are awake without a job.
    pub waiting: u64,
    /// Wait for a wakeup.
    pub asleep: u64,
    /// Were woken, and have not asked for a job yet.
    pub woken: u64,
    /// Get no jobs.
    pub disabled: u64,
    /// Get no new jobs, and hold some.
    pub draining: u64,
    /// Get no new jobs, and hold none.
    pub drained: u64,
}

/// How many jobs are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobCounts {
    /// Wait for a worker.
    pub queued: u64,
    /// Wait until they are due.
    pub scheduled: u64,
    /// Run on a worker.
    pub running: u64,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// New jobs.
    pub submitted: u64,
    /// Submissions that joined an existing job.
    pub coalesced: u64,
    /// Jobs that ended with WORK_COMPLETE.
    pub done: u64,
    /// Jobs that ended with WORK_FAIL from their worker.
    pub failed: u64,
    /// Jobs that ended with WORK_EXCEPTION.
    pub exceptions: u64,
    /// Runs that exceeded their timeout.
    pub timed_out: u64,
    /// Failed attempts after which the job was requeued: lost workers and the runs in `timed_out`.
    pub requeued: u64,
    /// Jobs that were dropped after too many failed attempts.
    pub dropped: u64,
    /// Jobs that the operator cancelled.
    pub cancelled: u64,
    /// Jobs that ended because no client waited for them.
    pub abandoned: u64,
}

/// Current rates, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// New jobs.
    pub in_per_s: f64,
    /// Jobs that ended, with any result.
    pub out_per_s: f64,
    /// Jobs that failed: WORK_FAIL, WORK_EXCEPTION or dropped.
    pub failed_per_s: f64,
}

/// Statistics of measured durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DurationsView {
    /// Number of measurements.
    pub count: u64,
    /// The mean.
    pub mean_s: Option<f64>,
    /// The median.
    pub p50_s: Option<f64>,
    /// The 90th percentile.
    pub p90_s: Option<f64>,
    /// The 99th percentile.
    pub p99_s: Option<f64>,
}

/// The store of background jobs.
#[derive(Clone, Debug, Serialize)]
pub struct StoreView {
    /// `memory`, `ok`, `restoring` or `failing`.
    pub state: &'static str,
    /// Why the store fails.
    pub error: Option<String>,
    /// Where the store is; empty for memory.
    pub location: String,
    /// How durable stored jobs are.
    pub durability: String,
    /// Changes queued for the store.
    pub waiting: u64,
    /// Failed removals that will be retried.
    pub pending_removals: u64,
    /// Jobs that were stored.
    pub added: u64,
    /// Jobs that were removed.
    pub removed: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Transactions that were on disk when they were done.
    pub syncs: u64,
    /// Failures.
    pub failures: u64,
    /// Mean duration of a transaction.
    pub mean_commit_s: Option<f64>,
    /// Free bytes on its disk, not counting the reserve; `None` if it is not on a local disk.
    pub free_bytes: Option<u64>,
    /// Bytes reserved on its disk for removing jobs; 0 while the reserve is released.
    pub reserve_bytes: Option<u64>,
    /// Bytes of its write-ahead log.
    pub wal_bytes: Option<u64>,
    /// How long transactions took.
    #[serde(skip)]
    pub commit_times: Durations,
}

impl StoreView {
    /// Whether there is no store: background jobs are lost when the server ends.
    pub fn is_memory_only(&self) -> bool {
        self.state == "memory"
    }
}

/// Jobs that wait for a worker, by priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueuedView {
    /// Of high priority.
    pub high: u64,
    /// Of normal priority.
    pub normal: u64,
    /// Of low priority.
    pub low: u64,
}

/// A function.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionView {
    /// Its name in URL paths. Names that cannot be a path segment, which are the empty one, `.` and `..`, are
    /// written as `=`, `=.` and `=..`.
    pub id: String,
    /// Its name for display.
    pub name: String,
    /// Jobs that wait for a worker.
    pub queued: QueuedView,
    /// Jobs that wait until they are due.
    pub scheduled: u64,
    /// Jobs that run on workers.
    pub running: u64,
    /// Connections that can do this function.
    pub workers: u64,
    /// The states of those workers.
    pub worker_states: WorkerStates,
    /// Whether the function is paused: no worker gets its jobs.
    pub paused: bool,
    /// Whether it is known from settings only: no worker, job or other command has named it.
    pub settings_only: bool,
    /// How many of its jobs may run at once; 0 for no limit.
    pub max_running: u64,
    /// Limits of its queue, checked when a job of high, normal and low priority is submitted; 0 for no limit.
    pub max_queue: [u64; 3],
    /// How long the first queued job has waited for a worker. Requeued and moved jobs are last in the queue.
    pub oldest_queued_s: Option<f64>,
    /// Totals since the start.
    pub totals: Totals,
    /// Current rates.
    pub rates: Rates,
    /// How long jobs waited for a worker after they were submitted and due.
    pub wait: DurationsView,
    /// How long runs took, failures included.
    pub run: DurationsView,
}

/// Results of a worker's runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkTotals {
    /// Ended with WORK_COMPLETE.
    pub done: u64,
    /// Ended with WORK_FAIL.
    pub failed: u64,
    /// Ended with WORK_EXCEPTION.
    pub exceptions: u64,
    /// Exceeded their timeout.
    pub timed_out: u64,
    /// Were revoked or lost, including those that timed out.
    pub requeued: u64,
}

/// A worker: a connection that can do functions, or could before.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerView {
    /// The id of the connection: `SLOT-GENERATION`.
    pub id: String,
    /// The peer's address without its port.
    pub address: String,
    /// The server's file descriptor, as in `workers`.
    pub file_descriptor: i32,
    /// The client id that it set.
    pub client_id: Option<String>,
    /// The client id in base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id_base64: Option<String>,
    /// The name in its TLS certificate.
    pub tls_name: Option<String>,
    /// When it connected.
    pub connected_unix_ms: u64,
    /// When it was last heard from.
    pub heard_unix_ms: u64,
    /// `disabled`, `draining`, `drained`, `working`, `asleep`, `woken` or `waiting`.
    pub state: &'static str,
    /// The functions that it can do, and those that it could do before.
    pub functions: Vec<WorkerFunctionView>,
    /// How many jobs it holds.
    pub running: u64,
    /// The handle of its newest job.
    pub job: Option<String>,
    /// When that job's run began.
    pub since_unix_ms: Option<u64>,
    /// Results of its runs.
    pub totals: WorkTotals,
    /// How long its runs took.
    pub run: DurationsView,
    /// The jobs that it holds; only in the view of a single worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<Vec<JobView>>,
    /// The rules that apply to it, for any function; only in the view of a single worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<RuleView>>,
}

/// A function of one worker.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerFunctionView {
    /// Its name in URL paths.
    pub id: String,
    /// Its name for display.
    pub name: String,
    /// Whether the worker can still do it.
    pub in_use: bool,
    /// `disabled` or `draining` if a rule withholds its jobs from this worker.
    pub mode: Option<&'static str>,
    /// Results of the worker's runs of it.
    pub totals: WorkTotals,
    /// How long those runs took.
    pub run: DurationsView,
}

/// Progress of a running job, as its worker reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProgressView {
    /// Parts done.
    pub numerator: u64,
    /// Parts in total.
    pub denominator: u64,
}

/// A job.
#[derive(Clone, Debug, Serialize)]
pub struct JobView {
    /// Its handle.
    pub handle: String,
    /// Its unique id; empty for none.
    pub unique: String,
    /// The unique id in base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_base64: Option<String>,
    /// Its function's name in URL paths.
    pub function_id: String,
    /// Its function's name for display.
    pub function: String,
    /// `high`, `normal` or `low`.
    pub priority: &'static str,
    /// `scheduled`, `queued` or `running`.
    pub state: &'static str,
    /// When it was submitted.
    pub submitted_unix_ms: Option<u64>,
    /// Time since it was submitted.
    pub age_s: Option<f64>,
    /// When it is due; `None` for at once.
    pub due_unix_s: Option<u64>,
    /// How many workers were lost while they ran it.
    pub attempts: u16,
    /// Whether it is a background job: it continues without its client.
    pub background: bool,
    /// Whether the store has it.
    pub stored: bool,
    /// The id of the worker that holds it.
    pub holder: Option<String>,
    /// When the run began.
    pub since_unix_ms: Option<u64>,
    /// When the run times out and the job is revoked.
    pub deadline_unix_ms: Option<u64>,
    /// Progress of the run.
    pub progress: Option<ProgressView>,
    /// How many submissions wait for its result.
    pub clients: u64,
    /// The size of its workload; `None` if only the store has the workload and it was not asked or did not
    /// answer in time.
    pub workload_bytes: Option<u64>,
    /// Failed attempts, oldest first, only in the view of a single job: the last eight, none from before a
    /// restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_attempts: Option<Vec<FailedAttemptView>>,
    /// The beginning of the workload, only in the view of a single job and if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewView>,
}

/// A failed attempt to run a job.
#[derive(Clone, Debug, Serialize)]
pub struct FailedAttemptView {
    /// When it began, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// When it ended.
    pub until_unix_ms: u64,
    /// The id of the worker, which may have disconnected.
    pub holder: String,
    /// The client id of the worker.
    pub client_id: Option<String>,
    /// The worker's address.
    pub address: String,
    /// How it ended: `timed_out`, `disconnected` or `given_back`.
    pub end: &'static str,
}

/// The beginning of a workload.
#[derive(Clone, Debug, Serialize)]
pub struct PreviewView {
    /// The text, or its bytes in base64 if they are not text.
    pub content: String,
    /// `text` or `base64`.
    pub encoding: &'static str,
    /// Whether there is more.
    pub truncated: bool,
}

/// History of the last hour, oldest first, one value for each interval.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HistoryView {
    /// The length of an interval.
    pub interval_s: u64,
    /// The end of the last interval.
    pub until_unix_ms: u64,
    /// Jobs queued at the end of the interval.
    pub queued: Vec<u64>,
    /// Jobs running at the end of the interval.
    pub running: Vec<u64>,
    /// Jobs submitted in the interval.
    pub submitted: Vec<u64>,
    /// Jobs that ended in the interval.
    pub ended: Vec<u64>,
    /// Jobs that failed in the interval.
    pub failed: Vec<u64>,
    /// How long jobs waited, median, in seconds.
    pub wait_p50_s: Vec<Option<f64>>,
    /// How long jobs waited, 99th percentile, in seconds.
    pub wait_p99_s: Vec<Option<f64>>,
    /// How long runs took, median, in seconds.
    pub run_p50_s: Vec<Option<f64>>,
    /// How long runs took, 99th percentile, in seconds.
    pub run_p99_s: Vec<Option<f64>>,
}

/// A worker rule: it withholds jobs from workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleView {
    /// `connection:ID`, `client:ID` or `host:ADDRESS`, for display.
    pub who: String,
    /// The same, with the part after the colon encoded for URLs.
    pub who_id: String,
    /// The display name of the function it applies to; `None` for all functions.
    pub function: Option<String>,
    /// That function's name in URL paths.
    pub function_id: Option<String>,
    /// `disabled` or `draining`.
    pub mode: &'static str,
    /// How many workers it matches now; 0 for a rule that is kept for later ones.
    pub workers: u64,
}
