//! What is shown of the server: one definition for the HTTP interface, the text commands and the dashboard.
//!
//! Times are milliseconds since 1970 (`_unix_ms`), durations are seconds (`_s`). What is not known is `None`. Names that
//! are no UTF-8 are shown with replacement characters; the `id` of a function is its name percent-encoded, byte for byte, and
//! other names stand a second time in base64 then.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stats::histogram::Durations;

/// The server as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct ServerView {
    /// The version, as the text command tells it.
    pub version: &'static str,
    /// The process.
    pub pid: u32,
    /// When it started.
    pub started_unix_ms: u64,
    /// How long ago that was.
    pub uptime_s: f64,
    /// Whether it takes no jobs any more, and ends after those that it has.
    pub draining: bool,
    /// Memory of the process that is in use, in bytes.
    pub memory_bytes: Option<u64>,
    /// What is held in memory for jobs and peers.
    pub held: HeldView,
    /// Connections.
    pub connections: ConnectionsView,
    /// Functions that are known.
    pub functions: u64,
    /// Functions that were offered and not registered, since the start.
    pub functions_refused: u64,
    /// Workers by state.
    pub workers: WorkerStates,
    /// Managed workers, as far as functions tell of them.
    pub fleet: FleetCounts,
    /// Jobs by state.
    pub jobs: JobCounts,
    /// How long the first in the queues waits for a worker. Jobs that were given back or moved come last there.
    pub oldest_queued_s: Option<f64>,
    /// What happened since the start.
    pub totals: Totals,
    /// What happens now.
    pub rates: Rates,
    /// How often the job server's lock was taken.
    pub lock_holds: u64,
    /// How long it was waited for in all.
    pub lock_wait_s: f64,
    /// NOOP packets to sleeping workers.
    pub wakeups: u64,
    /// Where background jobs are kept.
    pub store: StoreView,
}

/// Counts of connections.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ConnectionsView {
    /// That are open.
    pub open: u64,
    /// That were accepted since the start.
    pub accepted: u64,
    /// That were refused because there were too many.
    pub refused: u64,
    /// That were closed because their peer did not read.
    pub slow_readers: u64,
}

/// What is held in memory for jobs and peers, in bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HeldView {
    /// All of it.
    pub total_bytes: u64,
    /// How much it may be.
    pub max_bytes: u64,
    /// Its parts, by name.
    pub parts_bytes: BTreeMap<&'static str, u64>,
    /// Connections that were closed since the start because it was too much.
    pub connections_closed: u64,
    /// Submissions that were refused because of it.
    pub submissions_refused: u64,
}

/// How many managed workers there are, and monitors of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FleetCounts {
    /// Managed workers that have an id.
    pub workers: u64,
    /// Managed workers that wait for one.
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
    /// Wait to be told of a job.
    pub asleep: u64,
    /// Were told of one, and have not asked for it yet.
    pub woken: u64,
    /// Get no jobs.
    pub disabled: u64,
    /// Get no new jobs, and hold some.
    pub draining: u64,
    /// Get no new jobs, and hold none any more.
    pub drained: u64,
}

/// How many jobs are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobCounts {
    /// Wait for a worker.
    pub queued: u64,
    /// Are not due yet.
    pub scheduled: u64,
    /// Are with a worker.
    pub running: u64,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// New jobs.
    pub submitted: u64,
    /// Submissions that joined a job that was there.
    pub coalesced: u64,
    /// Jobs that ended with WORK_COMPLETE.
    pub done: u64,
    /// Jobs that ended with WORK_FAIL from their worker.
    pub failed: u64,
    /// Jobs that ended with WORK_EXCEPTION.
    pub excepted: u64,
    /// Runs that took longer than they may.
    pub timed_out: u64,
    /// Runs that came to nothing, after which the job went back: lost workers and those of `timed_out`.
    pub requeued: u64,
    /// Jobs that were given up after too many of these.
    pub dropped: u64,
    /// Jobs that the operator cancelled.
    pub cancelled: u64,
    /// Jobs that ended because no client waited for them any more.
    pub abandoned: u64,
}

/// What happens now, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// New jobs.
    pub in_per_s: f64,
    /// Jobs that ended, however.
    pub out_per_s: f64,
    /// Jobs that failed: WORK_FAIL, WORK_EXCEPTION or given up.
    pub failed_per_s: f64,
}

/// Durations that were measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DurationsView {
    /// How many.
    pub count: u64,
    /// The mean.
    pub mean_s: Option<f64>,
    /// Half of them were at most so long.
    pub p50_s: Option<f64>,
    /// 90 of 100 were.
    pub p90_s: Option<f64>,
    /// 99 of 100 were.
    pub p99_s: Option<f64>,
}

/// Where background jobs are kept.
#[derive(Clone, Debug, Serialize)]
pub struct StoreView {
    /// `memory`, `ok`, `restoring` or `failing`.
    pub state: &'static str,
    /// Why it fails.
    pub error: Option<String>,
    /// What it is; empty for memory.
    pub location: String,
    /// How durable jobs are in it.
    pub durability: String,
    /// Changes that wait for it.
    pub waiting: u64,
    /// Removals that failed and will be tried again.
    pub owed: u64,
    /// Jobs that were stored.
    pub added: u64,
    /// Jobs that were removed.
    pub removed: u64,
    /// Transactions.
    pub commits: u64,
    /// Those of them that were on the disk when they were done.
    pub syncs: u64,
    /// Failures.
    pub failures: u64,
    /// How long a transaction took, in the mean.
    pub mean_commit_s: Option<f64>,
    /// Bytes that are free on its disk, beside the reserve; none where it is on no local disk.
    pub free_bytes: Option<u64>,
    /// Bytes that are kept on its disk for removing jobs; 0 while they are given up.
    pub reserve_bytes: Option<u64>,
    /// Bytes of its write-ahead log.
    pub wal_bytes: Option<u64>,
    /// How long transactions took.
    #[serde(skip)]
    pub commit_times: Durations,
}

impl StoreView {
    /// Whether there is none: background jobs are lost when the server ends.
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
    /// Its name for paths. Those that are no segment of a path, which are the empty one, `.` and `..`, stand there as `=`,
    /// `=.` and `=..`.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Jobs that wait for a worker.
    pub queued: QueuedView,
    /// Jobs that are not due yet.
    pub scheduled: u64,
    /// Jobs that are with workers.
    pub running: u64,
    /// Connections that can do it.
    pub workers: u64,
    /// Those, by state.
    pub worker_states: WorkerStates,
    /// Whether its jobs are withheld from all workers.
    pub paused: bool,
    /// Whether settings alone have made it known: no worker, job or other command has named it.
    pub settings_only: bool,
    /// How many of its jobs may run at once; 0 for no limit.
    pub max_running: u64,
    /// How many jobs it may have when one of high, normal and low priority comes; 0 for no limit.
    pub max_queue: [u64; 3],
    /// How long the first in the queues waits for a worker. Jobs that were given back or moved come last there.
    pub oldest_queued_s: Option<f64>,
    /// What happened since the start.
    pub totals: Totals,
    /// What happens now.
    pub rates: Rates,
    /// How long jobs waited for a worker from the time when they were there and due.
    pub wait: DurationsView,
    /// How long workers took, failures included.
    pub run: DurationsView,
}

/// What runs of a worker came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkTotals {
    /// Ended with WORK_COMPLETE.
    pub done: u64,
    /// Ended with WORK_FAIL.
    pub failed: u64,
    /// Ended with WORK_EXCEPTION.
    pub excepted: u64,
    /// Took longer than they may.
    pub timed_out: u64,
    /// Were taken away or lost, those that timed out among them.
    pub requeued: u64,
}

/// A worker: a connection that can do functions, or could.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerView {
    /// Names the connection: `SLOT-GENERATION`.
    pub id: String,
    /// The peer's address without its port.
    pub address: String,
    /// The server's file descriptor, which `workers` shows.
    pub file_descriptor: i32,
    /// The id that it gave to itself.
    pub client_id: Option<String>,
    /// The same in base64 where it is no UTF-8.
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
    /// The functions that it can do, and those that it could before.
    pub functions: Vec<WorkerFunctionView>,
    /// How many jobs it holds.
    pub running: u64,
    /// The handle of the newest of them.
    pub job: Option<String>,
    /// Since when it has that.
    pub since_unix_ms: Option<u64>,
    /// What its runs came to.
    pub totals: WorkTotals,
    /// How long they took.
    pub run: DurationsView,
    /// The jobs that it holds; only where one worker is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<Vec<JobView>>,
    /// The rules that mean it, whatever they withhold; only where one worker is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<RuleView>>,
}

/// A function as one worker does it.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerFunctionView {
    /// Its name for paths.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Whether the worker can still do it.
    pub in_use: bool,
    /// `disabled` or `draining` where its jobs are withheld from this worker.
    pub withheld: Option<&'static str>,
    /// What runs came to.
    pub totals: WorkTotals,
    /// How long they took.
    pub run: DurationsView,
}

/// How far a running job has come, by its worker's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProgressView {
    /// So many parts are done.
    pub numerator: u64,
    /// Of so many.
    pub denominator: u64,
}

/// A job.
#[derive(Clone, Debug, Serialize)]
pub struct JobView {
    /// Its handle.
    pub handle: String,
    /// Its unique id; empty for none.
    pub unique: String,
    /// The same in base64 where it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_base64: Option<String>,
    /// Its function's name for paths.
    pub function_id: String,
    /// Its function's name for people.
    pub function: String,
    /// `high`, `normal` or `low`.
    pub priority: &'static str,
    /// `scheduled`, `queued` or `running`.
    pub state: &'static str,
    /// When it was submitted.
    pub submitted_unix_ms: Option<u64>,
    /// How long ago that was.
    pub age_s: Option<f64>,
    /// When it may run; `None` for at once.
    pub due_unix_s: Option<u64>,
    /// How often a worker was lost with it.
    pub attempts: u16,
    /// Whether it lives on without its client.
    pub background: bool,
    /// Whether a store has it.
    pub stored: bool,
    /// The id of the worker that holds it.
    pub holder: Option<String>,
    /// Since when.
    pub since_unix_ms: Option<u64>,
    /// When it is taken away from that worker.
    pub deadline_unix_ms: Option<u64>,
    /// How far it has come.
    pub progress: Option<ProgressView>,
    /// How many submissions wait for its end.
    pub clients: u64,
    /// The size of its workload; `None` where that is in the store alone, and was not asked for or could not be told in time.
    pub workload_bytes: Option<u64>,
    /// Runs that came to nothing, oldest first, where one job is shown: the last eight, and none from before a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier_runs: Option<Vec<EarlierRunView>>,
    /// The beginning of the workload, where one job is shown and it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewView>,
}

/// A run of a job that came to nothing.
#[derive(Clone, Debug, Serialize)]
pub struct EarlierRunView {
    /// When it began, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// When it ended.
    pub until_unix_ms: u64,
    /// The id of the worker, which may be gone.
    pub holder: String,
    /// The id that the worker gave to itself.
    pub client_id: Option<String>,
    /// The worker's address.
    pub address: String,
    /// How it ended: `timed_out`, `disconnected` or `given_back`.
    pub end: &'static str,
}

/// The beginning of a workload.
#[derive(Clone, Debug, Serialize)]
pub struct PreviewView {
    /// The text, or its bytes in base64 where they are no text.
    pub content: String,
    /// `text` or `base64`.
    pub encoding: &'static str,
    /// Whether there is more.
    pub truncated: bool,
}

/// Numbers of the last hour, oldest first, one for each interval.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HistoryView {
    /// The length of an interval.
    pub interval_s: u64,
    /// The end of the last one.
    pub until_unix_ms: u64,
    /// Jobs that waited for a worker at its end.
    pub queued: Vec<u64>,
    /// Jobs that ran at its end.
    pub running: Vec<u64>,
    /// Jobs that came in it.
    pub submitted: Vec<u64>,
    /// Jobs that ended in it.
    pub ended: Vec<u64>,
    /// Jobs that failed in it.
    pub failed: Vec<u64>,
    /// How long jobs waited, 50 of 100, in seconds.
    pub wait_p50_s: Vec<Option<f64>>,
    /// 99 of 100.
    pub wait_p99_s: Vec<Option<f64>>,
    /// How long workers took, 50 of 100.
    pub run_p50_s: Vec<Option<f64>>,
    /// 99 of 100.
    pub run_p99_s: Vec<Option<f64>>,
}

/// A rule by which workers get no jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleView {
    /// `connection:ID`, `client:ID` or `host:ADDRESS`, for people.
    pub who: String,
    /// The same with what follows the colon as it stands in addresses.
    pub who_id: String,
    /// The name for people of the function that it concerns; `None` for all.
    pub function: Option<String>,
    /// That function's name for paths.
    pub function_id: Option<String>,
    /// `disabled` or `draining`.
    pub how: &'static str,
    /// How many workers it means now; 0 for one that is kept for what may come.
    pub workers: u64,
}
