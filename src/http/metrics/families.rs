//! All metric families: name, type, help text and source of the values.

use std::fmt::Display;

use super::lines::{Kind, Lines};
use super::process::Process;
use crate::admin::view::{FunctionView, ServerView, Totals, WorkerStates};
use crate::http::Counts;
use crate::stats::histogram::Histogram;
use crate::stats::{FunctionGauges, Lazy};

/// A metric family.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) source: Source,
}

/// The source of the values.
pub(super) enum Source {
    Server(fn(&ServerView, &mut Lines<'_>)),
    /// One sample per function.
    Function(fn(&FunctionView, &mut Lines<'_>)),
    /// One sample per function that has had a job; see [`has_had_jobs`].
    Used(fn(&FunctionView, &mut Lines<'_>)),
    /// One histogram per function with measurements.
    Times(fn(&FunctionGauges) -> &Lazy<Histogram>),
    Http(fn(&Counts, &mut Lines<'_>)),
    Process(fn(&Process, &mut Lines<'_>)),
    /// The job that has been running longest, one sample per function with a running job.
    Run,
    /// The number of functions that are left out.
    LeftOut,
}

const fn family(name: &'static str, kind: Kind, help: &'static str, source: Source) -> Family {
    Family { name, kind, help, source }
}

/// Jobs that are not running.
fn waiting(function: &FunctionView) -> u64 {
    let queued = &function.queued;
    queued.high + queued.normal + queued.low + function.scheduled
}

/// Whether a function has or had a job. From its first job on, all its job counters and gauges are written,
/// even if they are 0, and they stay: `rate` and averages over time misread a series that comes and goes.
///
/// Before its first job, most of them are meaningless, and there may be thousands of such functions.
pub(super) fn has_had_jobs(function: &FunctionView) -> bool {
    function.totals != Totals::default() || waiting(function) + function.running > 0
}

/// Milliseconds as seconds, exact.
pub(super) fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// Writes a value if it is known.
fn known(lines: &mut Lines<'_>, value: Option<impl Display>) {
    if let Some(value) = value {
        lines.value(value);
    }
}

fn by_priority([high, normal, low]: [u64; 3]) -> [(&'static str, u64); 3] {
    [("high", high), ("normal", normal), ("low", low)]
}

fn by_state(states: &WorkerStates) -> [(&'static str, u64); 7] {
    [
        ("working", states.working),
        ("waiting", states.waiting),
        ("asleep", states.asleep),
        ("woken", states.woken),
        ("disabled", states.disabled),
        ("draining", states.draining),
        ("drained", states.drained),
    ]
}

/// The states of a function's workers: the common states if the function has had jobs, and all states with
/// workers.
fn states_of_function(function: &FunctionView, lines: &mut Lines<'_>) {
    let has_had_jobs = has_had_jobs(function);
    for (state, count) in by_state(&function.worker_states) {
        if count > 0 || (has_had_jobs && ["working", "waiting", "asleep"].contains(&state)) {
            lines.labelled("state", state, count);
        }
    }
}

fn outcomes(lines: &mut Lines<'_>, totals: &Totals) {
    let outcomes = [
        ("done", totals.done),
        ("failed", totals.failed),
        ("exceptions", totals.exceptions),
        ("dropped", totals.dropped),
        ("cancelled", totals.cancelled),
        ("abandoned", totals.abandoned),
    ];
    lines.each("outcome", outcomes);
}

/// In output order. The first six are those of existing gearmand exporters.
pub(super) const FAMILIES: &[Family] = &[
    family("gearman_up", Kind::Gauge, "Whether the server answers.", Source::Server(|_, lines| lines.value(1))),
    family(
        "gearman_version_info",
        Kind::Gauge,
        "The version of the server.",
        Source::Server(|server, lines| lines.labelled("version", server.version, 1)),
    ),
    family(
        "gearman_jobs",
        Kind::Gauge,
        "Jobs, queued, scheduled and running.",
        Source::Function(|function, lines| lines.value(waiting(function) + function.running)),
    ),
    family(
        "gearman_jobs_running",
        Kind::Gauge,
        "Jobs that are with workers.",
        Source::Function(|function, lines| lines.value(function.running)),
    ),
    family(
        "gearman_jobs_waiting",
        Kind::Gauge,
        "Jobs that are not with workers.",
        Source::Function(|function, lines| lines.value(waiting(function))),
    ),
    family(
        "gearman_workers",
        Kind::Gauge,
        "Connections that can do the function.",
        Source::Function(|function, lines| lines.value(function.workers)),
    ),
    family(
        "gearmand_start_time_seconds",
        Kind::Gauge,
        "When the server started, in seconds since 1970.",
        Source::Server(|server, lines| lines.value(seconds(server.started_unix_ms))),
    ),
    family(
        "gearmand_uptime_seconds",
        Kind::Gauge,
        "Time since the server started, in seconds.",
        Source::Server(|server, lines| lines.value(server.uptime_s)),
    ),
    family(
        "gearmand_server_oldest_running_job_age_seconds",
        Kind::Gauge,
        "Running time of the longest running job of all functions in seconds; 0 if none runs.",
        Source::Process(|process, lines| lines.value(seconds(process.oldest_running_of_all_ms()))),
    ),
    family(
        "gearmand_log_lines_left_out_total",
        Kind::Counter,
        "Log lines that were dropped because an output was too slow.",
        Source::Process(|process, lines| lines.value(process.log_lines_left_out)),
    ),
    family(
        "process_cpu_seconds_total",
        Kind::Counter,
        "User and system CPU time of the process in seconds.",
        Source::Process(|process, lines| {
            known(lines, process.cpu.map(|cpu| format!("{}.{:06}", cpu.as_secs(), cpu.subsec_micros())));
        }),
    ),
    family(
        "process_open_fds",
        Kind::Gauge,
        "Open file descriptors.",
        Source::Process(|process, lines| known(lines, process.descriptors)),
    ),
    family(
        "process_max_fds",
        Kind::Gauge,
        "Limit of open file descriptors.",
        Source::Process(|process, lines| known(lines, process.max_descriptors)),
    ),
    family(
        "gearmand_draining",
        Kind::Gauge,
        "1 if the server is draining: it accepts no new jobs.",
        Source::Server(|server, lines| lines.value(u8::from(server.draining))),
    ),
    family(
        "gearmand_memory_bytes",
        Kind::Gauge,
        "Memory in use by the process.",
        Source::Server(|server, lines| known(lines, server.memory_bytes)),
    ),
    family(
        "gearmand_memory_held_bytes",
        Kind::Gauge,
        "Memory held for jobs and peers, by purpose.",
        Source::Server(|server, lines| lines.each("part", server.held.parts_bytes.clone())),
    ),
    family(
        "gearmand_memory_held_max_bytes",
        Kind::Gauge,
        "Limit of the memory held for jobs and peers (--max-memory).",
        Source::Server(|server, lines| lines.value(server.held.max_bytes)),
    ),
    family(
        "gearmand_memory_connections_closed_total",
        Kind::Counter,
        "Connections closed because too much memory was held for peers.",
        Source::Server(|server, lines| lines.value(server.held.connections_closed)),
    ),
    family(
        "gearmand_memory_submissions_refused_total",
        Kind::Counter,
        "Submissions rejected because too much memory was held for jobs and peers.",
        Source::Server(|server, lines| lines.value(server.held.submissions_refused)),
    ),
    family(
        "gearmand_connections",
        Kind::Gauge,
        "Open connections.",
        Source::Server(|server, lines| lines.value(server.connections.open)),
    ),
    family(
        "gearmand_connections_max",
        Kind::Gauge,
        "Limit of connections.",
        Source::Process(|process, lines| lines.value(process.max_connections)),
    ),
    family(
        "gearmand_connections_accepted_total",
        Kind::Counter,
        "Accepted connections.",
        Source::Server(|server, lines| lines.value(server.connections.accepted)),
    ),
    family(
        "gearmand_connections_refused_total",
        Kind::Counter,
        "Connections rejected because of the connection limit.",
        Source::Server(|server, lines| lines.value(server.connections.refused)),
    ),
    family(
        "gearmand_connections_slow_readers_total",
        Kind::Counter,
        "Connections closed because their peer was a slow reader.",
        Source::Server(|server, lines| lines.value(server.connections.slow_readers)),
    ),
    family(
        "gearmand_functions",
        Kind::Gauge,
        "Known functions.",
        Source::Server(|server, lines| lines.value(server.functions)),
    ),
    family(
        "gearmand_functions_refused_total",
        Kind::Counter,
        "Functions offered by workers that were not registered: the log says why.",
        Source::Server(|server, lines| lines.value(server.functions_refused)),
    ),
    family(
        "gearmand_functions_without_metrics",
        Kind::Gauge,
        "Functions omitted here because of --http-metrics-functions.",
        Source::LeftOut,
    ),
    family(
        "gearmand_workers",
        Kind::Gauge,
        "Workers by state.",
        Source::Server(|server, lines| lines.each("state", by_state(&server.workers))),
    ),
    family(
        "gearmand_lock_acquisitions_total",
        Kind::Counter,
        "Acquisitions of the job server's lock.",
        Source::Server(|server, lines| lines.value(server.lock_acquisitions)),
    ),
    family(
        "gearmand_lock_wait_seconds_total",
        Kind::Counter,
        "Time spent waiting for the job server's lock in seconds.",
        Source::Server(|server, lines| lines.value(server.lock_wait_s)),
    ),
    family(
        "gearmand_fleet_workers",
        Kind::Gauge,
        "Managed workers: functions manage_ID that have a worker.",
        Source::Server(|server, lines| lines.value(server.fleet.workers)),
    ),
    family(
        "gearmand_fleet_unnamed_workers",
        Kind::Gauge,
        "Managed workers waiting for an id: workers of the function setId.",
        Source::Server(|server, lines| lines.value(server.fleet.unnamed_workers)),
    ),
    family(
        "gearmand_wakeups_total",
        Kind::Counter,
        "NOOP packets sent to sleeping workers.",
        Source::Server(|server, lines| lines.value(server.wakeups)),
    ),
    family(
        "gearmand_server_jobs_submitted_total",
        Kind::Counter,
        "New jobs of all functions, including forgotten functions.",
        Source::Server(|server, lines| lines.value(server.totals.submitted)),
    ),
    family(
        "gearmand_server_jobs_coalesced_total",
        Kind::Counter,
        "Submissions coalesced with an existing job, of all functions.",
        Source::Server(|server, lines| lines.value(server.totals.coalesced)),
    ),
    family(
        "gearmand_server_jobs_ended_total",
        Kind::Counter,
        "Jobs ended, of all functions, by outcome.",
        Source::Server(|server, lines| outcomes(lines, &server.totals)),
    ),
    family(
        "gearmand_server_runs_timed_out_total",
        Kind::Counter,
        "Runs that timed out, of all functions.",
        Source::Server(|server, lines| lines.value(server.totals.timed_out)),
    ),
    family(
        "gearmand_server_runs_requeued_total",
        Kind::Counter,
        "Runs after which the job was requeued, of all functions.",
        Source::Server(|server, lines| lines.value(server.totals.requeued)),
    ),
    family(
        "gearmand_store_failing",
        Kind::Gauge,
        "1 if the store cannot store jobs.",
        Source::Server(|server, lines| lines.value(u8::from(server.store.state == "failing"))),
    ),
    family(
        "gearmand_store_memory_only",
        Kind::Gauge,
        "1 if background jobs are in memory only, and lost when the server stops.",
        Source::Server(|server, lines| lines.value(u8::from(server.store.is_memory_only()))),
    ),
    family(
        "gearmand_store_waiting_changes",
        Kind::Gauge,
        "Changes waiting for the store.",
        Source::Server(|server, lines| lines.value(server.store.waiting)),
    ),
    family(
        "gearmand_store_pending_removals",
        Kind::Gauge,
        "Removals that failed and will be retried.",
        Source::Server(|server, lines| lines.value(server.store.pending_removals)),
    ),
    family(
        "gearmand_store_jobs_added_total",
        Kind::Counter,
        "Jobs added to the store.",
        Source::Server(|server, lines| lines.value(server.store.added)),
    ),
    family(
        "gearmand_store_jobs_removed_total",
        Kind::Counter,
        "Jobs removed from the store.",
        Source::Server(|server, lines| lines.value(server.store.removed)),
    ),
    family(
        "gearmand_store_commits_total",
        Kind::Counter,
        "Transactions of the store.",
        Source::Server(|server, lines| lines.value(server.store.commits)),
    ),
    family(
        "gearmand_store_syncs_total",
        Kind::Counter,
        "Transactions that were synced to disk.",
        Source::Server(|server, lines| lines.value(server.store.syncs)),
    ),
    family(
        "gearmand_store_failures_total",
        Kind::Counter,
        "Failures of the store.",
        Source::Server(|server, lines| lines.value(server.store.failures)),
    ),
    family(
        "gearmand_store_mean_commit_seconds",
        Kind::Gauge,
        "Mean duration of a transaction in seconds.",
        Source::Server(|server, lines| known(lines, server.store.mean_commit_s)),
    ),
    family(
        "gearmand_store_commit_seconds",
        Kind::Histogram,
        "Duration of transactions of the store in seconds.",
        Source::Server(|server, lines| lines.histogram(&server.store.commit_times)),
    ),
    family(
        "gearmand_store_disk_free_bytes",
        Kind::Gauge,
        "Free bytes on the store's disk, without the reserve; absent if the store is not on a local disk.",
        Source::Server(|server, lines| known(lines, server.store.free_bytes)),
    ),
    family(
        "gearmand_store_reserve_bytes",
        Kind::Gauge,
        "Bytes reserved on the store's disk for removing jobs; 0 while the reserve is released.",
        Source::Server(|server, lines| known(lines, server.store.reserve_bytes)),
    ),
    family(
        "gearmand_store_wal_bytes",
        Kind::Gauge,
        "Bytes of the store's write-ahead log.",
        Source::Server(|server, lines| known(lines, server.store.wal_bytes)),
    ),
    family(
        "gearmand_jobs_queued",
        Kind::Gauge,
        "Jobs waiting for a worker, by priority.",
        Source::Used(|function, lines| {
            let queued = &function.queued;
            lines.each("priority", by_priority([queued.high, queued.normal, queued.low]));
        }),
    ),
    family(
        "gearmand_jobs_scheduled",
        Kind::Gauge,
        "Jobs not due yet.",
        Source::Used(|function, lines| lines.value(function.scheduled)),
    ),
    family(
        "gearmand_oldest_queued_job_age_seconds",
        Kind::Gauge,
        "Waiting time of the first job in the queues in seconds; 0 if none waits.",
        Source::Used(|function, lines| lines.value(function.oldest_queued_s.unwrap_or(0.0))),
    ),
    family(
        "gearmand_oldest_running_job_age_seconds",
        Kind::Gauge,
        "Running time of the longest running job in seconds; functions without a running job have no sample.",
        Source::Run,
    ),
    family(
        "gearmand_function_workers",
        Kind::Gauge,
        "Connections that can do the function, by state; some states have a sample only while a connection is in them.",
        Source::Function(states_of_function),
    ),
    family(
        "gearmand_function_paused",
        Kind::Gauge,
        "1 if the function is paused; absent otherwise.",
        Source::Function(|function, lines| known(lines, function.paused.then_some(1))),
    ),
    family(
        "gearmand_function_max_running_jobs",
        Kind::Gauge,
        "Limit of concurrently running jobs; absent without a limit.",
        Source::Function(|function, lines| known(lines, Some(function.max_running).filter(|most| *most > 0))),
    ),
    family(
        "gearmand_function_max_queued_jobs",
        Kind::Gauge,
        "Number of jobs at which submissions of this priority are rejected; absent without a limit.",
        Source::Function(|function, lines| {
            let limits = by_priority(function.max_queue);
            lines.each("priority", limits.into_iter().filter(|(_, most)| *most > 0));
        }),
    ),
    family(
        "gearmand_jobs_submitted_total",
        Kind::Counter,
        "New jobs.",
        Source::Function(|function, lines| lines.value(function.totals.submitted)),
    ),
    family(
        "gearmand_jobs_coalesced_total",
        Kind::Counter,
        "Submissions coalesced with an existing job.",
        Source::Used(|function, lines| lines.value(function.totals.coalesced)),
    ),
    family(
        "gearmand_jobs_ended_total",
        Kind::Counter,
        "Jobs ended, by outcome.",
        Source::Used(|function, lines| outcomes(lines, &function.totals)),
    ),
    family(
        "gearmand_runs_timed_out_total",
        Kind::Counter,
        "Runs that timed out.",
        Source::Used(|function, lines| lines.value(function.totals.timed_out)),
    ),
    family(
        "gearmand_runs_requeued_total",
        Kind::Counter,
        "Runs after which the job was requeued, including those that timed out.",
        Source::Used(|function, lines| lines.value(function.totals.requeued)),
    ),
    family(
        "gearmand_job_wait_seconds",
        Kind::Histogram,
        "Time in seconds that jobs waited for their first worker, since they were submitted and due.",
        Source::Times(|gauges| &gauges.wait),
    ),
    family(
        "gearmand_job_run_seconds",
        Kind::Histogram,
        "Running time in seconds of jobs that workers ended.",
        Source::Times(|gauges| &gauges.run),
    ),
    family(
        "gearmand_http_connections",
        Kind::Gauge,
        "Open HTTP connections.",
        Source::Http(|http, lines| lines.value(http.connections.get())),
    ),
    family(
        "gearmand_http_connections_max",
        Kind::Gauge,
        "Limit of HTTP connections.",
        Source::Process(|process, lines| lines.value(process.max_http_connections)),
    ),
    family(
        "gearmand_http_connections_refused_total",
        Kind::Counter,
        "HTTP connections rejected because of the connection limit.",
        Source::Http(|http, lines| lines.value(http.refused.get())),
    ),
    family(
        "gearmand_http_requests_total",
        Kind::Counter,
        "HTTP requests.",
        Source::Http(|http, lines| lines.value(http.requests.get())),
    ),
    family(
        "gearmand_http_slow_readers_total",
        Kind::Counter,
        "HTTP connections closed because their peer was a slow reader.",
        Source::Http(|http, lines| lines.value(http.slow_readers.get())),
    ),
];
