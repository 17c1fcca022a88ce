//! Submitting a job, and waiting for its result.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::actions::{function, parse};
use super::answer::{Failure, held, json_with, kib, with_type};
use super::events::event;
use super::guard::is_json;
use super::job::{JobConnection, JobEvent};
use super::routes::Call;
use super::{Interface, WAITS};
use crate::protocol::packet::PacketType;

/// What a body may be that takes nothing of the budget, in bytes.
const SMALL: usize = 64 * 1024;
/// How long a body may stand still.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a stream says that the wait goes on: those between us and the reader must not take it for dead.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// A job, as a request describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    function: String,
    workload: Option<String>,
    workload_base64: Option<String>,
    #[serde(default)]
    unique: String,
    priority: Option<PriorityName>,
    #[serde(default)]
    background: bool,
    due_unix_s: Option<u64>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum PriorityName {
    High,
    Normal,
    Low,
}

/// A job, as a packet says it.
struct Submission {
    packet_type: PacketType,
    function: Vec<u8>,
    unique: Vec<u8>,
    due: Option<String>,
    workload: Vec<u8>,
    background: bool,
}

/// Bytes as JSON can say them: text under one name, or base64 under another.
#[derive(Serialize)]
struct Content {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

#[derive(Serialize)]
struct Created<'a> {
    handle: &'a str,
}

#[derive(Serialize)]
struct Told<'a> {
    handle: &'a str,
    #[serde(flatten)]
    content: Content,
}

#[derive(Serialize)]
struct Progress<'a> {
    handle: &'a str,
    numerator: u64,
    denominator: u64,
}

/// What became of a job.
#[derive(Serialize)]
struct Outcome<'a> {
    handle: &'a str,
    /// `complete`, `fail` or `exception`.
    #[serde(rename = "outcome")]
    end: &'static str,
    /// The result, parts that came early included, or the exception.
    #[serde(flatten)]
    content: Content,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Ended {
    code: &'static str,
    message: &'static str,
}

impl Content {
    fn of(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self { data: Some(text), data_base64: None },
            Err(error) => Self { data: None, data_base64: Some(STANDARD.encode(error.as_bytes())) },
        }
    }
}

impl Job {
    fn submission(self) -> Result<Submission, Failure> {
        let function = function(self.function.into_bytes())?;
        let unique = self.unique.into_bytes();
        if unique.contains(&0) {
            return Err(Failure::bad("bad_body", "unique must not contain NUL"));
        }
        let workload = match (self.workload, self.workload_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(encoded)) => STANDARD
                .decode(encoded)
                .map_err(|error| Failure::bad("bad_body", format!("workload_base64 is no base64: {error}")))?,
            (None, None) => Vec::new(),
            (Some(_), Some(_)) => return Err(Failure::bad("bad_body", "give workload or workload_base64, not both")),
        };
        let priority = self.priority.unwrap_or(PriorityName::Normal);
        let packet_type = match (self.due_unix_s, self.background, priority) {
            (Some(_), true, PriorityName::Normal) => PacketType::SubmitJobEpoch,
            (Some(_), true, _) => {
                return Err(Failure::bad(
                    "bad_body",
                    "a job that is due later has normal priority; leave priority out",
                ));
            }
            (Some(_), false, _) => {
                return Err(Failure::bad("bad_body", "nobody can wait for a job that is due later; set background"));
            }
            (None, true, PriorityName::High) => PacketType::SubmitJobHighBg,
            (None, true, PriorityName::Normal) => PacketType::SubmitJobBg,
            (None, true, PriorityName::Low) => PacketType::SubmitJobLowBg,
            (None, false, PriorityName::High) => PacketType::SubmitJobHigh,
            (None, false, PriorityName::Normal) => PacketType::SubmitJob,
            (None, false, PriorityName::Low) => PacketType::SubmitJobLow,
        };
        let due = self.due_unix_s.map(|due| due.to_string());
        Ok(Submission { packet_type, function, unique, due, workload, background: self.background })
    }
}

/// Reads a body of at most so many bytes, which has to keep coming.
pub(super) async fn read_body(mut body: Body, most: usize) -> Result<Vec<u8>, Failure> {
    let too_large = || {
        let message = format!("the body may have {most} bytes");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    loop {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = timeout(BODY_TIMEOUT, frame).await.map_err(|_| {
            Failure::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "nothing came of the body for too long")
        })?;
        let frame = match frame {
            None => return Ok(bytes),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(Failure::bad("bad_body", format!("the body cannot be read: {error}"))),
        };
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
    }
}

/// Takes a part of what large bodies may hold together.
fn budget(interface: &Interface, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Failure> {
    if bytes <= SMALL {
        return Ok(None);
    }
    let permits = u32::try_from(kib(bytes)).unwrap_or(u32::MAX);
    let permit = Arc::clone(&interface.budget).try_acquire_many_owned(permits);
    permit.map(Some).map_err(|_| Failure::busy("too_much_at_once", "other large bodies take all memory that they may"))
}

/// Submits a job.
pub(super) async fn submit(mut call: Call) -> Result<Response, Failure> {
    call.query(&[])?;
    if !is_json(&call.headers) {
        let message = "the body is to be JSON, with `Content-Type: application/json`";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message));
    }
    let interface = Arc::clone(&call.interface);
    // Base64 takes a third more than what it says.
    let most = interface.settings.max_packet_size / 3 * 4 + SMALL;
    let body = std::mem::take(&mut call.body);
    let announced = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(most);
    let space = budget(&interface, announced.min(most))?;
    let submission = parse::<Job>(&read_body(body, most).await?)?.submission()?;
    let wait = if submission.background { None } else { Some(wait(&interface)?) };
    let mut job = JobConnection::open(&interface, call.actor.address.clone()).map_err(|error| lost(&error))?;
    let handle = send(&mut job, submission).await?;
    drop(space);
    match wait {
        None => Ok(json_with(StatusCode::CREATED, &Created { handle: &handle })),
        Some(wait) if wants_events(&call.headers) => {
            let (sender, receiver) = mpsc::channel(1);
            let space = Arc::clone(&interface.budget);
            tokio::spawn(forward(job, handle, sender, space, wait));
            Ok(with_type(StatusCode::OK, "text/event-stream", Body::new(Received(receiver))))
        }
        Some(_wait) => result(&interface, &mut job, &handle).await,
    }
}

/// Takes one of the waits that there may be.
fn wait(interface: &Interface) -> Result<OwnedSemaphorePermit, Failure> {
    let permit = Arc::clone(&interface.waits).try_acquire_owned();
    permit.map_err(|_| Failure::busy("too_many_waits", format!("{WAITS} requests wait for jobs already")))
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|wanted| wanted.split(';').next().unwrap_or_default().trim() == "text/event-stream")
}

fn lost(error: &io::Error) -> Failure {
    Failure::busy("no_connection", format!("the job server cannot be reached: {error}"))
}

fn stopping() -> Failure {
    Failure::busy("server_stopping", "the server closed the connection; it stops, or it has too many")
}

/// Sends a job and waits until it has a handle.
async fn send(job: &mut JobConnection, submission: Submission) -> Result<String, Failure> {
    let Submission { packet_type, function, unique, due, workload, background } = submission;
    let arguments: Vec<&[u8]> =
        [&function[..], &unique[..]].into_iter().chain(due.as_ref().map(String::as_bytes)).collect();
    let sent = async {
        if !background {
            job.send(PacketType::OptionReq, &[], b"exceptions").await?;
        }
        job.send(packet_type, &arguments, &workload).await
    };
    // Where the server has closed the connection, it may have said why.
    let sent = sent.await;
    match (job.next().await, sent) {
        (Ok(JobEvent::Created(handle)), _) => Ok(String::from_utf8_lossy(&handle).into_owned()),
        (Ok(JobEvent::Refused(code, text)), _) => Err(refusal(&code, text)),
        (Err(error), _) | (_, Err(error)) => Err(lost(&error)),
        _ => Err(stopping()),
    }
}

/// What the job server does not take.
fn refusal(code: &str, text: String) -> Failure {
    let status = match code {
        "QUEUE_ERROR" | "SHUTDOWN_GRACEFUL" | "COULD_NOT_CONNECT" => StatusCode::SERVICE_UNAVAILABLE,
        "ARGUMENT_TOO_LARGE" => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    Failure::new(status, code.to_ascii_lowercase(), text)
}

/// Waits for the end of a job and tells it at once.
async fn result(interface: &Interface, job: &mut JobConnection, handle: &str) -> Result<Response, Failure> {
    let most = interface.settings.max_packet_size;
    let (mut content, mut warnings, mut warned) = (Vec::new(), Vec::new(), 0);
    let mut space: Option<OwnedSemaphorePermit> = None;
    let end = loop {
        let (part, end) = match job.next().await.map_err(|error| lost(&error))? {
            JobEvent::Data(part) => (part, None),
            JobEvent::Complete(part) => (part, Some("complete")),
            JobEvent::Exception(part) => {
                content.clear();
                (part, Some("exception"))
            }
            JobEvent::Fail => (Bytes::new(), Some("fail")),
            JobEvent::Warning(text) => {
                warned += text.len();
                if warned <= SMALL {
                    warnings.push(String::from_utf8_lossy(&text).into_owned());
                }
                continue;
            }
            JobEvent::Created(_) | JobEvent::Status { .. } => continue,
            JobEvent::Refused(code, text) => return Err(refusal(&code, text)),
            JobEvent::Ended => return Err(stopping()),
        };
        if content.len() + part.len() > most {
            let message = "the result is too long for one answer; ask for text/event-stream";
            return Err(Failure::new(StatusCode::BAD_GATEWAY, "result_too_large", message));
        }
        if let Some(more) = budget(interface, part.len())? {
            match &mut space {
                Some(space) => space.merge(more),
                None => space = Some(more),
            }
        }
        content.extend_from_slice(&part);
        if let Some(end) = end {
            break end;
        }
    };
    let outcome = Outcome { handle, end, content: Content::of(content), warnings };
    let body = serde_json::to_vec(&outcome).map_err(|error| lost(&io::Error::other(error)))?;
    Ok(with_type(StatusCode::OK, "application/json", held(body, space)))
}

/// What a stream of a job's events is made of: each holds its part of the budget until it is handed on.
type Piece = (Bytes, Option<OwnedSemaphorePermit>);

/// Tells what happens to a job as it happens, until its end or until nobody reads any more.
async fn forward(
    mut job: JobConnection,
    handle: String,
    sender: mpsc::Sender<Piece>,
    budget: Arc<Semaphore>,
    _wait: OwnedSemaphorePermit,
) {
    let mut signs = interval(SIGN_OF_LIFE);
    signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    signs.reset();
    let mut next = (event("created", &Created { handle: &handle }), None, false);
    loop {
        let (piece, space, is_last) = next;
        if sender.send((piece, space)).await.is_err() || is_last {
            return;
        }
        next = tokio::select! {
            told = job.next() => {
                let told = told.unwrap_or(JobEvent::Ended);
                let space = hold(&budget, &told).await;
                let (piece, is_last) = told_as(&handle, told);
                (piece, space, is_last)
            }
            _ = signs.tick() => (Bytes::from_static(b": the wait goes on\n\n"), None, false),
            () = sender.closed() => return,
        };
    }
}

/// Waits for the part of the budget that an event takes.
async fn hold(budget: &Arc<Semaphore>, told: &JobEvent) -> Option<OwnedSemaphorePermit> {
    let (JobEvent::Data(bytes) | JobEvent::Warning(bytes) | JobEvent::Complete(bytes) | JobEvent::Exception(bytes)) =
        told
    else {
        return None;
    };
    if bytes.len() <= SMALL {
        return None;
    }
    Arc::clone(budget).acquire_many_owned(u32::try_from(kib(bytes.len())).unwrap_or(u32::MAX)).await.ok()
}

/// An event of a job for the reader, and whether it is the last.
fn told_as(handle: &str, told: JobEvent) -> (Bytes, bool) {
    let with = |name: &str, bytes: &[u8]| event(name, &Told { handle, content: Content::of(bytes.to_vec()) });
    match told {
        JobEvent::Created(_) => (event("created", &Created { handle }), false),
        JobEvent::Data(bytes) => (with("data", &bytes), false),
        JobEvent::Warning(bytes) => (with("warning", &bytes), false),
        JobEvent::Status { numerator, denominator } => {
            (event("status", &Progress { handle, numerator, denominator }), false)
        }
        JobEvent::Complete(bytes) => (with("complete", &bytes), true),
        JobEvent::Exception(bytes) => (with("exception", &bytes), true),
        JobEvent::Fail => (event("fail", &Created { handle }), true),
        JobEvent::Refused(..) | JobEvent::Ended => {
            let message = "the server closed the connection";
            (event("error", &Ended { code: "server_stopping", message }), true)
        }
    }
}

/// A body of events that are sent by another task.
struct Received(mpsc::Receiver<Piece>);

impl HttpBody for Received {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|(piece, _space)| Ok(Frame::data(piece))))
    }
}
