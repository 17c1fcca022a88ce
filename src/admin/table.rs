//! Text responses that C++ gearmand does not have: tables with tab-separated cells, and key-value pairs.
//!
//! A table begins with a line `# ` and the names of its columns. Readers must find columns by name: later
//! versions may append more. Unknown values are `-`. Text is written by [`text::write_escaped`], handles as
//! they are.

mod workers;

use std::borrow::Cow;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use super::names::FilterNames;
use super::view::{
    DurationsView, FunctionView, HeldView, JobView, Rates, RuleView, ServerView, StoreView, Totals, WorkTotals,
    WorkerStates,
};
use super::views::{Functions, JobFilter, Rules, Views};
use crate::job_server::Now;
use crate::protocol::text::{self, JobWords};

pub(super) use self::workers::{OneWorker, WorkerLines};

/// How many bytes of a job's workload are shown.
pub(super) const PREVIEW: usize = 1024;
/// How many jobs are read in one step.
const PAGE: usize = 32;

const FUNCTION_COLUMNS: &str = "name high normal low scheduled running workers asleep working paused max_running \
    maxqueue_high maxqueue_normal maxqueue_low oldest_s submitted done failed exceptions timed_out requeued cancelled \
    in_per_s out_per_s failed_per_s wait_p50_s wait_p99_s run_mean_s run_p50_s run_p99_s \
    waiting woken disabled draining drained coalesced dropped abandoned wait_mean_s settings_only";
const WORKER_COLUMNS: &str = "id address client_id state connected_unix_ms heard_unix_ms functions running job \
    since_unix_ms done failed exceptions timed_out requeued run_mean_s run_p50_s run_p99_s";
const JOB_COLUMNS: &str = "handle unique function priority state age_s attempts background holder progress clients \
    bytes due_unix_s";
const RULE_COLUMNS: &str = "who function mode workers";

/// A table that is being written.
#[derive(Debug)]
pub(super) enum Table {
    Functions(Functions),
    Workers(Box<WorkerLines>),
    Jobs { filter: JobFilter, left: usize },
    Rules(Rules),
}

impl Table {
    pub(super) fn functions(views: &Views, out: &mut Vec<u8>) -> Self {
        write_columns(FUNCTION_COLUMNS, out);
        Self::Functions(views.functions_in_shared_pieces())
    }

    pub(super) fn workers(views: &Views, out: &mut Vec<u8>) -> Self {
        write_columns(WORKER_COLUMNS, out);
        Self::Workers(Box::new(WorkerLines::new(views.workers_in_pieces())))
    }

    pub(super) fn rules(views: &Views, out: &mut Vec<u8>) -> Self {
        write_columns(RULE_COLUMNS, out);
        Self::Rules(views.rules_in_shared_pieces())
    }

    pub(super) fn jobs(words: &JobWords<'_>, names: FilterNames, out: &mut Vec<u8>) -> Self {
        write_columns(JOB_COLUMNS, out);
        let filter = JobFilter {
            function: names.function,
            state: words.state.map(str::to_owned),
            unique: words.unique.map(text::read_name),
            priority: words.priority,
            client: names.client,
            waiting_client: names.waiting,
            older_than_s: words.older.map(|age| age.as_secs_f64()),
            limit: 0,
            after: words.after,
        };
        Self::Jobs { filter, left: words.limit.unwrap_or(usize::MAX) }
    }

    /// Appends more lines, until `out` has [`LISTING_PIECE`](super::LISTING_PIECE) bytes or the listing
    /// should yield. Returns whether it is complete except for the line that ends every listing.
    pub(super) fn resume(&mut self, views: &Views, now: Now, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Functions(functions) => {
                let piece = functions.next_piece(views, now);
                for function in piece.iter().flatten() {
                    write_function(function, out);
                }
                piece.is_none()
            }
            Self::Workers(workers) => workers.resume(views, now, out),
            // One page a turn: if few of many jobs match, one page takes long enough.
            Self::Jobs { filter, left } => write_job_page(views, now, filter, left, out),
            Self::Rules(rules) => {
                let piece = rules.next_piece();
                for rule in piece.iter().flatten() {
                    write_rule(rule, out);
                }
                piece.is_none()
            }
        }
    }
}

/// Returns whether these were the last.
fn write_job_page(views: &Views, now: Now, filter: &mut JobFilter, left: &mut usize, out: &mut Vec<u8>) -> bool {
    filter.limit = PAGE.min(*left);
    if filter.limit > 0 {
        let page = views.some_jobs(now, filter);
        for job in &page.items {
            write_job_line(job, out);
        }
        *left = left.saturating_sub(page.items.len());
        let Some(next) = page.next else {
            return true;
        };
        filter.after = Some(next);
    }
    if *left > 0 {
        return false;
    }
    if let Some(next) = filter.after {
        // Writing to a `Vec` does not fail.
        let _ = writeln!(out, "# next {next}");
    }
    true
}

/// A value in a table.
enum Cell<'a> {
    Text(Cow<'a, [u8]>),
    /// A name, in which a lone dash is escaped.
    Name(Vec<u8>),
    /// Text that needs no escaping.
    Written(Vec<u8>),
    Count(u64),
    /// Seconds, or a rate per second.
    Measure(f64),
    Unknown,
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text.as_bytes()))
    }
}

impl From<Vec<u8>> for Cell<'_> {
    fn from(name: Vec<u8>) -> Self {
        Self::Name(name)
    }
}

impl From<u64> for Cell<'_> {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<bool> for Cell<'_> {
    fn from(yes: bool) -> Self {
        Self::Count(u64::from(yes))
    }
}

impl From<f64> for Cell<'_> {
    fn from(measure: f64) -> Self {
        Self::Measure(measure)
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(known: Option<T>) -> Self {
        known.map_or(Self::Unknown, Into::into)
    }
}

impl Cell<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        // Writing to a `Vec` does not fail.
        let _ = match self {
            Self::Text(text) => {
                text::write_escaped(text, out, b'\t');
                Ok(())
            }
            Self::Name(name) if name == b"-" => out.write_all(b"\\x2d"),
            Self::Name(name) => {
                text::write_escaped(name, out, b'\t');
                Ok(())
            }
            Self::Written(text) => out.write_all(text),
            Self::Count(count) => write!(out, "{count}"),
            Self::Measure(measure) => write!(out, "{measure:.6}"),
            Self::Unknown => write!(out, "-"),
        };
    }
}

fn text_cell(text: &str) -> Cell<'_> {
    text.into()
}

/// A handle. It has no blanks or control characters, so it is written unescaped.
fn handle_cell(handle: &str) -> Cell<'_> {
    Cell::Written(handle.as_bytes().to_vec())
}

/// The name in the first column, where a dash can only be a name.
fn first_name(id: &str) -> Cell<'_> {
    Cell::Text(function_name(id).into())
}

/// The exact bytes of a text in a view, from its base64 if it has one.
fn exact(text: &str, base64: Option<&str>) -> Vec<u8> {
    base64.and_then(|base64| STANDARD.decode(base64).ok()).unwrap_or_else(|| text.as_bytes().to_vec())
}

/// The exact bytes of a function's name, which the display name may lack.
fn function_name(id: &str) -> Vec<u8> {
    percent_decode_str(id).collect()
}

fn write_columns(names: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"# ");
    out.extend(names.bytes().map(|byte| if byte == b' ' { b'\t' } else { byte }));
    out.push(b'\n');
}

fn write_row(cells: &[Cell<'_>], out: &mut Vec<u8>) {
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            out.push(b'\t');
        }
        cell.write(out);
    }
    out.push(b'\n');
}

fn write_pairs(pairs: &[(&str, Cell<'_>)], out: &mut Vec<u8>) {
    for (key, value) in pairs {
        out.extend_from_slice(key.as_bytes());
        out.push(b'\t');
        value.write(out);
        out.push(b'\n');
    }
}

/// A line of `show rules`.
fn write_rule(rule: &RuleView, out: &mut Vec<u8>) {
    let (kind, id) = rule.who_id.split_once(':').unwrap_or_default();
    let who = format!("{kind}:{}", text::escaped(&function_name(id)));
    let function: Option<Vec<u8>> = rule.function_id.as_deref().map(function_name);
    write_row(&[Cell::Written(who.into_bytes()), function.into(), rule.mode.into(), rule.workers.into()], out);
}

/// A line of `show functions`.
fn write_function(function: &FunctionView, out: &mut Vec<u8>) {
    let FunctionView { queued, worker_states, max_queue: [high, normal, low], totals, rates, wait, run, .. } = function;
    write_row(
        &[
            first_name(&function.id),
            queued.high.into(),
            queued.normal.into(),
            queued.low.into(),
            function.scheduled.into(),
            function.running.into(),
            function.workers.into(),
            worker_states.asleep.into(),
            worker_states.working.into(),
            function.paused.into(),
            function.max_running.into(),
            (*high).into(),
            (*normal).into(),
            (*low).into(),
            function.oldest_queued_s.into(),
            totals.submitted.into(),
            totals.done.into(),
            totals.failed.into(),
            totals.exceptions.into(),
            totals.timed_out.into(),
            totals.requeued.into(),
            totals.cancelled.into(),
            rates.in_per_s.into(),
            rates.out_per_s.into(),
            rates.failed_per_s.into(),
            wait.p50_s.into(),
            wait.p99_s.into(),
            run.mean_s.into(),
            run.p50_s.into(),
            run.p99_s.into(),
            worker_states.waiting.into(),
            worker_states.woken.into(),
            worker_states.disabled.into(),
            worker_states.draining.into(),
            worker_states.drained.into(),
            totals.coalesced.into(),
            totals.dropped.into(),
            totals.abandoned.into(),
            wait.mean_s.into(),
            function.settings_only.into(),
        ],
        out,
    );
}

/// A line of `list jobs`.
fn write_job_line(job: &JobView, out: &mut Vec<u8>) {
    write_row(
        &[
            handle_cell(&job.handle),
            exact(&job.unique, job.unique_base64.as_deref()).into(),
            function_name(&job.function_id).into(),
            job.priority.into(),
            job.state.into(),
            job.age_s.into(),
            u64::from(job.attempts).into(),
            job.background.into(),
            job.holder.as_deref().into(),
            progress(job),
            job.clients.into(),
            job.workload_bytes.into(),
            job.due_unix_s.into(),
        ],
        out,
    );
}

/// `NUMERATOR/DENOMINATOR`
fn progress(job: &JobView) -> Cell<'static> {
    job.progress.map(|progress| format!("{}/{}", progress.numerator, progress.denominator).into_bytes()).into()
}

/// The answer to `show job`.
pub(super) fn write_job(job: &JobView, out: &mut Vec<u8>) {
    write_pairs(
        &[
            ("handle", handle_cell(&job.handle)),
            ("unique", exact(&job.unique, job.unique_base64.as_deref()).into()),
            ("function", function_name(&job.function_id).into()),
            ("priority", job.priority.into()),
            ("state", job.state.into()),
            ("submitted_unix_ms", job.submitted_unix_ms.into()),
            ("age_s", job.age_s.into()),
            ("due_unix_s", job.due_unix_s.into()),
            ("attempts", u64::from(job.attempts).into()),
            ("background", job.background.into()),
            ("stored", job.stored.into()),
            ("holder", job.holder.as_deref().into()),
            ("since_unix_ms", job.since_unix_ms.into()),
            ("deadline_unix_ms", job.deadline_unix_ms.into()),
            ("progress", progress(job)),
            ("clients", job.clients.into()),
            ("bytes", job.workload_bytes.into()),
            ("preview", job.preview.as_ref().map(|preview| preview.content.as_str()).into()),
            ("preview_encoding", job.preview.as_ref().map(|preview| preview.encoding).into()),
            ("preview_truncated", job.preview.as_ref().map(|preview| preview.truncated).into()),
        ],
        out,
    );
    out.extend_from_slice(text::END_OF_LIST);
}

fn work_totals(totals: &WorkTotals) -> [(&'static str, Cell<'static>); 5] {
    [
        ("done", totals.done.into()),
        ("failed", totals.failed.into()),
        ("exceptions", totals.exceptions.into()),
        ("timed_out", totals.timed_out.into()),
        ("requeued", totals.requeued.into()),
    ]
}

fn durations(keys: [&'static str; 4], durations: &DurationsView) -> [(&'static str, Cell<'static>); 4] {
    let [mean, p50, p90, p99] = keys;
    [
        (mean, durations.mean_s.into()),
        (p50, durations.p50_s.into()),
        (p90, durations.p90_s.into()),
        (p99, durations.p99_s.into()),
    ]
}

/// The answer to `show server`.
pub(super) fn write_server(server: &ServerView, out: &mut Vec<u8>) {
    let WorkerStates { working, waiting, asleep, woken, disabled, draining, drained } = server.workers;
    write_pairs(
        &[
            ("version", server.version.into()),
            ("pid", u64::from(server.pid).into()),
            ("started_unix_ms", server.started_unix_ms.into()),
            ("uptime_s", server.uptime_s.into()),
            ("draining", server.draining.into()),
            ("memory_bytes", server.memory_bytes.into()),
        ],
        out,
    );
    write_held(&server.held, out);
    write_pairs(
        &[
            ("connections_open", server.connections.open.into()),
            ("connections_accepted", server.connections.accepted.into()),
            ("connections_refused", server.connections.refused.into()),
            ("connections_slow_readers", server.connections.slow_readers.into()),
            ("functions", server.functions.into()),
            ("functions_refused", server.functions_refused.into()),
            ("workers_working", working.into()),
            ("workers_waiting", waiting.into()),
            ("workers_asleep", asleep.into()),
            ("workers_woken", woken.into()),
            ("workers_disabled", disabled.into()),
            ("workers_draining", draining.into()),
            ("workers_drained", drained.into()),
            ("jobs_queued", server.jobs.queued.into()),
            ("jobs_scheduled", server.jobs.scheduled.into()),
            ("jobs_running", server.jobs.running.into()),
            ("oldest_queued_s", server.oldest_queued_s.into()),
        ],
        out,
    );
    write_totals(&server.totals, &server.rates, out);
    write_pairs(
        &[
            ("lock_acquisitions", server.lock_acquisitions.into()),
            ("lock_wait_s", server.lock_wait_s.into()),
            ("wakeups", server.wakeups.into()),
        ],
        out,
    );
    write_store(&server.store, out);
    out.extend_from_slice(text::END_OF_LIST);
}

fn write_held(held: &HeldView, out: &mut Vec<u8>) {
    write_pairs(&[("held_bytes", held.total_bytes.into()), ("held_max_bytes", held.max_bytes.into())], out);
    for (name, bytes) in &held.parts_bytes {
        write_pairs(&[(&format!("held_{name}_bytes"), (*bytes).into())], out);
    }
    write_pairs(
        &[
            ("held_connections_closed", held.connections_closed.into()),
            ("held_submissions_refused", held.submissions_refused.into()),
        ],
        out,
    );
}

fn write_totals(totals: &Totals, rates: &Rates, out: &mut Vec<u8>) {
    let Totals { submitted, coalesced, done, failed, exceptions, timed_out, requeued, dropped, cancelled, abandoned } =
        *totals;
    let Rates { in_per_s, out_per_s, failed_per_s } = *rates;
    write_pairs(
        &[
            ("submitted", submitted.into()),
            ("coalesced", coalesced.into()),
            ("done", done.into()),
            ("failed", failed.into()),
            ("exceptions", exceptions.into()),
            ("timed_out", timed_out.into()),
            ("requeued", requeued.into()),
            ("dropped", dropped.into()),
            ("cancelled", cancelled.into()),
            ("abandoned", abandoned.into()),
            ("in_per_s", in_per_s.into()),
            ("out_per_s", out_per_s.into()),
            ("failed_per_s", failed_per_s.into()),
        ],
        out,
    );
}

fn write_store(store: &StoreView, out: &mut Vec<u8>) {
    write_pairs(
        &[
            ("store_state", store.state.into()),
            ("store_error", store.error.as_deref().into()),
            ("store_location", text_cell(&store.location)),
            ("store_durability", text_cell(&store.durability)),
            ("store_waiting", store.waiting.into()),
            ("store_pending_removals", store.pending_removals.into()),
            ("store_added", store.added.into()),
            ("store_removed", store.removed.into()),
            ("store_commits", store.commits.into()),
            ("store_syncs", store.syncs.into()),
            ("store_failures", store.failures.into()),
            ("store_mean_commit_s", store.mean_commit_s.into()),
            ("store_free_bytes", store.free_bytes.into()),
            ("store_reserve_bytes", store.reserve_bytes.into()),
            ("store_wal_bytes", store.wal_bytes.into()),
        ],
        out,
    );
}
