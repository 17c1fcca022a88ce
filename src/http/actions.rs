//! Handlers that change something: functions, jobs and workers.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::Interface;
use super::answer::{ApiError, json};
use super::body::read_body;
use super::guard::is_json;
use super::routes::{RequestContext, Route};
use crate::admin::control::{COMMIT_WAIT, Commit, Control, NOT_STORED, Step, Task, error_code, host, not_stored};
use crate::admin::views::parse_worker_id;
use crate::job_server::{ControlError, WorkerSelector};
use crate::protocol::Priority;
use crate::protocol::names::FUNCTION_MAX;

/// How often an action that needs all jobs checks whether they have been read.
const RESTORING_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum size of a body, in bytes.
const BODY_MAX: usize = 64 * 1024;

#[derive(Serialize)]
struct Affected {
    affected: usize,
}

/// No body is required, and no member is accepted.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    to: Option<String>,
    to_base64: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    max_running: Option<u32>,
    max_queue: Option<[u32; 3]>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPriority {
    priority: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Workers {
    connection: Option<String>,
    client: Option<String>,
    client_base64: Option<String>,
    host: Option<String>,
    function: Option<String>,
    function_base64: Option<String>,
}

/// Runs the requested action, in bounded steps.
pub(super) async fn act(route: Route, mut context: RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    let body = std::mem::take(&mut context.body);
    let body = read_small(&context.headers, body).await?;
    let name = std::mem::take(&mut context.name);
    let controls = controls(route, name, &body)?;
    let RequestContext { interface, actor, .. } = context;
    let permit = Arc::clone(&interface.actions).try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::busy("too_many_actions", "too many concurrent actions; try again"))?;
    // A separate task, so that the action completes even if the client disconnects.
    let task = tokio::spawn(async move {
        let _permit = permit;
        let admin = &interface.parts.admin;
        let mut affected = 0;
        for control in &controls {
            let mut task = admin.begin(control.clone(), actor.text.clone());
            affected = affected.max(run(&interface, &mut task).await?);
        }
        let commit = controls.last().and_then(|last| admin.commit(last));
        committed(commit).await.map(|()| affected)
    });
    match task.await {
        Ok(affected) => Ok(json(&Affected { affected: affected? })),
        Err(_) => Err(ApiError::busy("stopped", "the server stopped before the action completed")),
    }
}

/// Reads the body of a small request.
pub(super) async fn read_small(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, ApiError> {
    let body = read_body(body, BODY_MAX).await?;
    if !body.is_empty() && !is_json(headers) {
        let message = "the body must be JSON, with `Content-Type: application/json`";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message));
    }
    Ok(body)
}

/// Parses JSON.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad("bad_body", format!("invalid body: {error}")))
}

/// Parses JSON; an empty body equals an empty object.
fn parse_or_nothing<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() { Ok(T::default()) } else { parse(body) }
}

/// Translates a request into control commands.
fn controls(route: Route, name: Vec<u8>, body: &[u8]) -> Result<Vec<Control>, ApiError> {
    let control = match route {
        Route::MoveJob => Control::MoveJob { handle: name, to: target(body)? },
        Route::MoveJobs => Control::MoveJobs { from: function(name)?, to: target(body)? },
        Route::SetPriority => {
            let wanted = parse::<NewPriority>(body)?.priority;
            let message = || format!("priority cannot be {wanted:?}; it is high, normal or low");
            let priority = Priority::from_name(&wanted).ok_or_else(|| ApiError::bad("bad_body", message()))?;
            Control::SetPriority { handle: name, priority }
        }
        Route::Limits => return limits(&function(name)?, &parse(body)?),
        Route::Disable | Route::Drain | Route::Enable | Route::Kick => return workers(route, parse(body)?),
        _ => {
            parse_or_nothing::<Nothing>(body)?;
            match route {
                Route::CancelJob => Control::CancelJob { handle: name },
                Route::RunJob => Control::RunJob { handle: name },
                Route::Pause => Control::Pause { function: function(name)?, paused: true },
                Route::Resume => Control::Pause { function: function(name)?, paused: false },
                Route::CancelJobs => Control::CancelJobs { function: function(name)? },
                Route::CreateFunction => Control::CreateFunction { function: function(name)? },
                Route::DropFunction => Control::DropFunction { function: function(name)? },
                _ => return Err(ApiError::missing("no_such_route", "no action exists at this address")),
            }
        }
    };
    Ok(vec![control])
}

/// Bytes given either as text or, in the member with the suffix `_base64`, as base64.
pub(super) fn bytes(name: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Vec<u8>>, ApiError> {
    match (text, base64) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(encoded)) => STANDARD
            .decode(encoded)
            .map(Some)
            .map_err(|error| ApiError::bad("bad_body", format!("{name}_base64 is not valid base64: {error}"))),
        (Some(_), Some(_)) => Err(ApiError::bad("bad_body", format!("give {name} or {name}_base64, not both"))),
    }
}

/// The function to which jobs are moved.
fn target(body: &[u8]) -> Result<Vec<u8>, ApiError> {
    let Target { to, to_base64 } = parse(body)?;
    function(bytes("to", to, to_base64)?.ok_or_else(|| ApiError::bad("bad_body", "give to or to_base64"))?)
}

/// A valid function name. It must not contain NUL, which separates arguments in packets.
pub(super) fn function(name: Vec<u8>) -> Result<Vec<u8>, ApiError> {
    if name.contains(&0) || name.len() > FUNCTION_MAX {
        let message = format!("a function's name has at most {FUNCTION_MAX} bytes, none of them NUL");
        return Err(ApiError::bad("bad_function", message));
    }
    Ok(name)
}

fn limits(function: &[u8], limits: &Limits) -> Result<Vec<Control>, ApiError> {
    let function = || function.to_vec();
    let running = limits.max_running.map(|most| Control::LimitRunning { function: function(), most });
    let queue = limits.max_queue.map(|limits| Control::LimitQueue { function: function(), limits });
    let controls: Vec<_> = running.into_iter().chain(queue).collect();
    if controls.is_empty() {
        return Err(ApiError::bad("bad_body", "give max_running, max_queue or both"));
    }
    Ok(controls)
}

fn workers(route: Route, workers: Workers) -> Result<Vec<Control>, ApiError> {
    let Workers { connection, client, client_base64, host: address, function: of, function_base64 } = workers;
    let client = bytes("client", client, client_base64)?;
    let selector = match (connection, client, address) {
        (Some(connection), None, None) => match parse_worker_id(&connection) {
            Some(id) => WorkerSelector::Connection(id),
            None => return Err(ApiError::bad("bad_body", "connection is the id of a worker, SLOT-GENERATION")),
        },
        (None, Some(client), None) => WorkerSelector::Client(client),
        (None, None, Some(address)) => named_host(route, address)?,
        _ => return Err(ApiError::bad("bad_body", "give one of connection, client, client_base64 and host")),
    };
    let function = bytes("function", of, function_base64)?.map(function).transpose()?;
    let control = match route {
        Route::Disable => Control::Disable { selector, function },
        Route::Drain => Control::Drain { selector, function },
        Route::Enable => Control::Enable { selector, function },
        _ if function.is_some() => {
            return Err(ApiError::bad("bad_body", "a connection is closed for all functions; omit function"));
        }
        _ => Control::Kick { selector },
    };
    Ok(vec![control])
}

/// Selects the workers of a host. A rule with a host name that another version created can still be ended.
fn named_host(route: Route, address: String) -> Result<WorkerSelector, ApiError> {
    match host(&address) {
        Ok(selector) => Ok(selector),
        Err(_) if route == Route::Enable => Ok(WorkerSelector::Host(address)),
        Err(wanted) => Err(ApiError::bad("bad_host", format!("host cannot be {address:?}: {wanted}"))),
    }
}

/// Waits until the change is committed, as long as the store makes progress.
async fn committed(commit: Option<Commit>) -> Result<(), ApiError> {
    let Some(mut commit) = commit else { return Ok(()) };
    loop {
        match timeout(COMMIT_WAIT, poll_fn(|context| commit.poll(context.waker()))).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => return Err(ApiError::busy(NOT_STORED, not_stored(Some(why)))),
            Err(_) if commit.has_progressed() => {}
            Err(_) => return Err(ApiError::busy(NOT_STORED, not_stored(None))),
        }
    }
}

async fn run(interface: &Interface, task: &mut Task) -> Result<usize, ApiError> {
    let admin = &interface.parts.admin;
    loop {
        match admin.step(interface.now(), task) {
            Ok(Step::Done { affected }) => return Ok(affected),
            // It waits until the jobs in the store have been read.
            Ok(Step::Unfinished) if admin.is_restoring() => tokio::time::sleep(RESTORING_INTERVAL).await,
            Ok(Step::Unfinished) => tokio::task::yield_now().await,
            Err(error) => return Err(refusal(error)),
        }
    }
}

/// The HTTP status for an error of the job server.
pub(super) fn refusal(error: ControlError) -> ApiError {
    let status = match error {
        ControlError::NoSuchJob
        | ControlError::NoSuchFunction
        | ControlError::NoSuchWorker
        | ControlError::NoSuchRule => StatusCode::NOT_FOUND,
        ControlError::NameTooLong | ControlError::BadName => StatusCode::BAD_REQUEST,
        ControlError::FunctionInUse
        | ControlError::FunctionHasJobs
        | ControlError::JobIsRunning
        | ControlError::JobIsNotScheduled
        | ControlError::JobExistsThere
        | ControlError::JobIsBusy
        | ControlError::TooManyFunctions
        | ControlError::TooManySettings
        | ControlError::TooManyRules => StatusCode::CONFLICT,
    };
    ApiError::new(status, error_code(error), error.to_string())
}
