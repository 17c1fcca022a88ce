//! Handlers that return JSON, and the health checks.

use std::future::poll_fn;
use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::actions::refusal;
use super::answer::{self, ApiError, json, json_with, next_page, with_type};
use super::query::Query;
use super::routes::RequestContext;
use super::{Interface, pulse};
use crate::admin::view::ServerView;
use crate::admin::views::{HEAD_MAX, JobFilter, STORE_WAIT, WorkerFilter, parse_worker_id, worker_id};
use crate::protocol::Priority;

/// Error code when the job server's thread does not respond.
const NOT_RESPONDING: &str = "not_responding";
const STUCK: &str = "the job server's thread has not responded for 2 seconds";
/// Default number of entries in a page of a list.
const PAGE: usize = 100;
/// Maximum number of entries in a page.
const PAGE_MAX: usize = 1000;
/// Default size of a workload preview, in bytes.
const PREVIEW: usize = 1024;
/// Maximum size of a preview, in bytes.
const PREVIEW_MAX: usize = HEAD_MAX;

/// Liveness: HTTP is served and the job server's thread responds.
pub(super) async fn healthy(context: RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    if !lives(&context.interface).await {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, NOT_RESPONDING, STUCK));
    }
    Ok(with_type(StatusCode::OK, "text/plain; charset=utf-8", Body::from("ok\n")))
}

async fn lives(interface: &Interface) -> bool {
    interface.pulse.is_there(pulse::LIMIT, &interface.parts.sign_of_life).await
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<Reason>,
    /// Conditions that do not prevent new jobs.
    warnings: Vec<Reason>,
}

#[derive(Serialize)]
struct Reason {
    code: &'static str,
    message: String,
}

/// Readiness: whether the server accepts jobs.
pub(super) async fn ready(context: RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    if !lives(&context.interface).await {
        // Nothing else is queried, since it could be stuck too.
        let reason = Reason { code: NOT_RESPONDING, message: STUCK.to_owned() };
        return Ok(readiness(vec![reason], Vec::new()));
    }
    let server = context.interface.parts.admin.views.server(context.interface.now());
    let mut reasons = Vec::new();
    if server.draining {
        reasons.push(Reason { code: "draining", message: "the server is draining, and accepts no jobs".to_owned() });
    }
    if server.store.state == "failing" {
        let message = server.store.error.clone().unwrap_or_else(|| "the store cannot store jobs".to_owned());
        reasons.push(Reason { code: "store_failing", message });
    }
    if server.store.state == "restoring" {
        let message = "the queue is still being read: workers get jobs, and submissions wait".to_owned();
        reasons.push(Reason { code: "restoring", message });
    }
    let mut warnings = Vec::new();
    if server.store.is_memory_only() {
        let message = "background jobs are in memory, and are lost when the server stops".to_owned();
        warnings.push(Reason { code: "memory_only", message });
    }
    if context.interface.parts.stats.memory.is_refusing.get() > 0 {
        let message = "submissions are rejected: the memory or job limit is reached (max-memory, \
                       max-workload-memory, max-jobs)";
        warnings.push(Reason { code: "submissions_refused", message: message.to_owned() });
    }
    Ok(readiness(reasons, warnings))
}

fn readiness(reasons: Vec<Reason>, warnings: Vec<Reason>) -> Response {
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_with(status, &Readiness { ready, reasons, warnings })
}

#[derive(Serialize)]
struct Server<'a> {
    #[serde(flatten)]
    view: ServerView,
    /// Host name of the machine.
    host_name: Option<&'a str>,
    /// Addresses that serve Gearman.
    addresses: &'a [String],
    /// Whether the HTTP interface is read-only.
    read_only: bool,
    /// Whether changes require a token.
    needs_token: bool,
}

/// The state of the server.
pub(super) fn server(context: &RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    let interface = &context.interface;
    Ok(json(&Server {
        view: interface.parts.admin.views.server(interface.now()),
        host_name: interface.settings.own_name.as_deref(),
        addresses: &interface.settings.addresses,
        read_only: interface.settings.read_only,
        needs_token: !interface.settings.tokens.is_empty(),
    }))
}

/// All functions.
pub(super) async fn functions(context: RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    let permit = context.long_list()?;
    let interface = Arc::clone(&context.interface);
    let mut pieces = interface.parts.admin.views.functions_in_pieces();
    while pieces.is_counting() {
        pieces.next_piece(&interface.parts.admin.views, interface.now());
        yield_now().await;
    }
    // The next batch is viewed only after the previous one was written, so a slow reader does not hold the
    // views of all functions.
    let mut viewed = Vec::new().into_iter();
    let next = move || {
        loop {
            if let Some(view) = viewed.next() {
                return Some(view);
            }
            viewed = pieces.next_piece(&interface.parts.admin.views, interface.now())?.into_iter();
        }
    };
    Ok(answer::list("functions", "", permit, next))
}

/// One function.
pub(super) fn function(context: &RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    match context.interface.parts.admin.views.function(context.interface.now(), &context.name) {
        Some(function) => Ok(json(&function)),
        None => Err(no_such_function()),
    }
}

fn no_such_function() -> ApiError {
    ApiError::missing("no_such_function", "there is no such function")
}

/// The history of the last hour, of one function or of all.
pub(super) fn history(context: &RequestContext, function: Option<&[u8]>) -> Result<Response, ApiError> {
    context.query(&[])?;
    match context.interface.parts.admin.views.history(function) {
        Some(history) => Ok(json(&history)),
        None => Err(no_such_function()),
    }
}

/// A page of workers.
pub(super) fn workers(context: &RequestContext) -> Result<Response, ApiError> {
    const STATES: &[&str] = &["disabled", "draining", "drained", "working", "asleep", "woken", "waiting"];
    let query = context.query(&["function", "host", "client", "state", "limit", "after"])?;
    let after =
        query.text("after")?.map(|after| parse_worker_id(after).ok_or_else(|| bad_cursor(after))).transpose()?;
    let filter = WorkerFilter {
        function: query.bytes("function").map(<[u8]>::to_vec),
        host: query.text("host")?.map(str::to_owned),
        client: query.bytes("client").map(<[u8]>::to_vec),
        state: query.word("state", STATES)?,
        limit: limit(&query)?,
        after,
    };
    let permit = context.long_list()?;
    let interface = Arc::clone(&context.interface);
    let page = interface.parts.admin.views.list_workers(&filter);
    let mut left = page.items.into_iter();
    // Workers that have disconnected meanwhile are skipped.
    let next = move || left.find_map(|id| interface.parts.admin.views.listed_worker(interface.now(), id));
    Ok(answer::list("workers", &next_page(page.next.map(worker_id)), permit, next))
}

fn limit(query: &Query) -> Result<usize, ApiError> {
    let limit = query.number("limit", "a number from 1 to 1000")?.unwrap_or(PAGE);
    if (1..=PAGE_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(ApiError::bad("bad_parameter", format!("limit cannot be {limit}; it is a number from 1 to {PAGE_MAX}")))
    }
}

fn bad_cursor(after: &str) -> ApiError {
    ApiError::bad("bad_parameter", format!("after cannot be {after:?}; it is the `next` of the previous page"))
}

/// One worker, with its jobs.
pub(super) fn worker(context: &RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    let missing = || ApiError::missing("no_such_worker", "there is no such worker; its id is SLOT-GENERATION");
    let id = std::str::from_utf8(&context.name).ok().and_then(parse_worker_id).ok_or_else(missing)?;
    let worker = context.interface.parts.admin.views.worker(context.interface.now(), id).ok_or_else(missing)?;
    Ok(json(&worker))
}

/// A page of jobs.
pub(super) fn jobs(context: &RequestContext) -> Result<Response, ApiError> {
    let query = context.query(&[
        "function",
        "state",
        "unique",
        "priority",
        "client",
        "waiting_client",
        "older_than_s",
        "limit",
        "after",
    ])?;
    let older_than_s = query.number::<f64>("older_than_s", "a number of seconds")?;
    if older_than_s.is_some_and(|seconds| !seconds.is_finite()) {
        return Err(ApiError::bad("bad_parameter", "older_than_s is larger than any number of seconds"));
    }
    let after = query.text("after")?.map(|after| after.parse().map_err(|_| bad_cursor(after))).transpose()?;
    let priority = query.word("priority", &["high", "normal", "low"])?;
    let filter = JobFilter {
        function: query.bytes("function").map(<[u8]>::to_vec),
        state: query.word("state", &["scheduled", "queued", "running"])?,
        unique: query.bytes("unique").map(<[u8]>::to_vec),
        priority: priority.as_deref().and_then(Priority::from_name),
        client: query.bytes("client").map(<[u8]>::to_vec),
        waiting_client: query.bytes("waiting_client").map(<[u8]>::to_vec),
        older_than_s,
        limit: limit(&query)?,
        after,
    };
    let permit = context.long_list()?;
    let page = context.interface.parts.admin.views.jobs(context.interface.now(), &filter);
    let mut left = page.items.into_iter();
    Ok(answer::list("jobs", &next_page(page.next.map(|next| next.to_string())), permit, move || left.next()))
}

/// One job.
pub(super) async fn job(context: RequestContext) -> Result<Response, ApiError> {
    let query = context.query(&["preview"])?;
    let preview = query.number("preview", "a number of bytes")?.unwrap_or(PREVIEW);
    if preview > PREVIEW_MAX {
        let message = format!("preview cannot be {preview}; it is a number of bytes up to {PREVIEW_MAX}");
        return Err(ApiError::bad("bad_parameter", message));
    }
    let admin = &context.interface.parts.admin;
    let job = admin.views.job(context.interface.now(), &context.name, preview);
    let mut job = job.ok_or_else(|| refusal(admin.no_such_job()))?;
    // On a timeout, the job is returned without the preview.
    let _ = timeout(STORE_WAIT, poll_fn(|context| job.poll(context.waker()))).await;
    Ok(json(&job.view))
}

/// The rules that keep workers from getting jobs.
pub(super) fn rules(context: &RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    let permit = context.long_list()?;
    let mut rules = context.interface.parts.admin.views.rules();
    Ok(answer::list("rules", "", permit, move || rules.next()))
}
