//! Submits a job, and waits for its result.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use super::actions::{bytes, function, parse};
use super::answer::{ApiError, ChunkedBody, json_with, with_type};
use super::body::read_large_body;
use super::budget::{SMALL, Share, append, too_much};
use super::events::event;
use super::guard::is_json;
use super::job::{JobConnection, JobEvent};
use super::routes::RequestContext;
use super::text_or_base64::TextOrBase64;
use super::{Interface, WAITS};
use crate::protocol::packet::PacketType;

/// Interval of keepalive comments in a stream, so that proxies do not close it as idle.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// A job as described by a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    function: Option<String>,
    function_base64: Option<String>,
    workload: Option<String>,
    workload_base64: Option<String>,
    unique: Option<String>,
    unique_base64: Option<String>,
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

/// A job as sent in a packet.
struct Submission {
    packet_type: PacketType,
    function: Vec<u8>,
    unique: Vec<u8>,
    due: Option<String>,
    workload: Vec<u8>,
    background: bool,
}

#[derive(Serialize)]
struct Created<'a> {
    handle: &'a str,
}

#[derive(Serialize)]
struct Progress<'a> {
    handle: &'a str,
    numerator: u64,
    denominator: u64,
}

#[derive(Serialize)]
struct Ended {
    code: &'static str,
    message: &'static str,
}

impl Job {
    fn submission(self) -> Result<Submission, ApiError> {
        let name = bytes("function", self.function, self.function_base64)?;
        let function = function(name.ok_or_else(|| ApiError::bad("bad_body", "give function or function_base64"))?)?;
        let unique = bytes("unique", self.unique, self.unique_base64)?.unwrap_or_default();
        if unique.contains(&0) {
            return Err(ApiError::bad("bad_body", "unique must not contain NUL"));
        }
        let workload = bytes("workload", self.workload, self.workload_base64)?.unwrap_or_default();
        let priority = self.priority.unwrap_or(PriorityName::Normal);
        let packet_type = match (self.due_unix_s, self.background, priority) {
            (Some(_), true, PriorityName::Normal) => PacketType::SubmitJobEpoch,
            (Some(_), true, _) => {
                return Err(ApiError::bad("bad_body", "scheduled jobs must have normal priority; omit priority"));
            }
            (Some(_), false, _) => {
                return Err(ApiError::bad("bad_body", "scheduled jobs must be background jobs; set background"));
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

/// Submits a job.
pub(super) async fn submit(mut context: RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    if !is_json(&context.headers) {
        let message = "the body must be JSON, with `Content-Type: application/json`";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", message));
    }
    let interface = Arc::clone(&context.interface);
    // Base64 is a third larger than its content.
    let most = interface.settings.max_packet_size / 3 * 4 + SMALL;
    let body = std::mem::take(&mut context.body);
    let mut share = Share::new(&interface);
    let submission = parse::<Job>(&read_large_body(body, most, &mut share).await?)?.submission()?;
    let wait = if submission.background { None } else { Some(wait(&interface)?) };
    let mut job = JobConnection::open(&interface, context.actor.address.clone()).map_err(|error| lost(&error))?;
    let handle = send(&mut job, submission).await?;
    drop(share);
    match wait {
        None => Ok(json_with(StatusCode::CREATED, &Created { handle: &handle })),
        Some(wait) if wants_events(&context.headers) => {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(forward(job, handle, sender, wait));
            Ok(with_type(StatusCode::OK, "text/event-stream", Body::new(Received::new(receiver))))
        }
        Some(_wait) => result(&interface, &mut job, &handle).await,
    }
}

/// Takes a permit for waiting.
fn wait(interface: &Interface) -> Result<OwnedSemaphorePermit, ApiError> {
    let permit = Arc::clone(&interface.waits).try_acquire_owned();
    permit.map_err(|_| ApiError::busy("too_many_waits", format!("too many requests wait for jobs (limit {WAITS})")))
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|wanted| wanted.split(';').next().unwrap_or_default().trim() == "text/event-stream")
}

fn lost(error: &io::Error) -> ApiError {
    if error.kind() == io::ErrorKind::OutOfMemory {
        return too_much();
    }
    ApiError::busy("no_connection", format!("the job server cannot be reached: {error}"))
}

fn stopping() -> ApiError {
    ApiError::busy("server_stopping", "the server closed the connection; it is stopping, or has too many connections")
}

/// Sends a job, and waits for its handle.
async fn send(job: &mut JobConnection, submission: Submission) -> Result<String, ApiError> {
    let Submission { packet_type, function, unique, due, workload, background } = submission;
    let arguments: Vec<&[u8]> =
        [&function[..], &unique[..]].into_iter().chain(due.as_ref().map(String::as_bytes)).collect();
    let sent = async {
        if !background {
            job.send(PacketType::OptionReq, &[], b"exceptions").await?;
        }
        job.send(packet_type, &arguments, &workload).await
    };
    // If the server closed the connection, it may have sent the reason.
    let sent = sent.await;
    match (job.next().await, sent) {
        (Ok(JobEvent::Created(handle)), _) => Ok(String::from_utf8_lossy(&handle).into_owned()),
        (Ok(JobEvent::Refused(code, text)), _) => Err(refusal(&code, text)),
        (Err(error), _) | (_, Err(error)) => Err(lost(&error)),
        _ => Err(stopping()),
    }
}

/// The HTTP error for a rejected job.
fn refusal(code: &str, text: String) -> ApiError {
    let status = match code {
        "QUEUE_ERROR" | "SHUTDOWN_GRACEFUL" | "COULD_NOT_CONNECT" => StatusCode::SERVICE_UNAVAILABLE,
        "ARGUMENT_TOO_LARGE" => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    ApiError::new(status, code.to_ascii_lowercase(), text)
}

/// The result received so far.
struct Collected {
    bytes: Vec<u8>,
    share: Share,
    most: usize,
}

impl Collected {
    /// Appends a part of the result, up to the limit.
    fn add(&mut self, part: &[u8]) -> Result<(), ApiError> {
        if self.bytes.len() + part.len() > self.most {
            let message = "the result is too large for one response; request text/event-stream";
            return Err(ApiError::new(StatusCode::BAD_GATEWAY, "result_too_large", message));
        }
        self.share.hold(self.bytes.capacity().max(self.bytes.len() + part.len()))?;
        append(&mut self.bytes, part, self.most);
        self.share.hold(self.bytes.capacity())
    }
}

/// Waits for the end of a job, and returns the whole result.
async fn result(interface: &Interface, job: &mut JobConnection, handle: &str) -> Result<Response, ApiError> {
    let most = interface.settings.max_packet_size;
    let mut collected = Collected { bytes: Vec::new(), share: Share::new(interface), most };
    let (mut warnings, mut warned) = (Vec::new(), 0);
    let (end, last) = loop {
        match job.next().await.map_err(|error| lost(&error))? {
            JobEvent::Data(part) => collected.add(&part)?,
            JobEvent::Complete(part) => break ("complete", part),
            JobEvent::Exception(part) => {
                collected.bytes = Vec::new();
                break ("exception", part);
            }
            JobEvent::Fail => break ("fail", Bytes::new()),
            JobEvent::Warning(text) => {
                warned += text.len();
                if warned <= SMALL {
                    warnings.push(String::from_utf8_lossy(&text).into_owned());
                }
            }
            JobEvent::Created(_) | JobEvent::Status { .. } => {}
            JobEvent::Refused(code, text) => return Err(refusal(&code, text)),
            JobEvent::Ended => return Err(stopping()),
        }
    };
    let (bytes, share) = if collected.bytes.is_empty() {
        (last, job.take_share())
    } else {
        collected.add(&last)?;
        (Bytes::from(collected.bytes), collected.share)
    };
    let head = format!("{{\"handle\":{},\"outcome\":\"{end}\",", quoted(&handle));
    let tail = format!(",\"warnings\":{}}}", quoted(&warnings));
    let mut data = TextOrBase64::new(head.into(), bytes, tail.as_bytes(), share);
    Ok(with_type(StatusCode::OK, "application/json", Body::new(ChunkedBody::new(move || data.piece()))))
}

/// Serializes a value.
fn quoted(value: &impl Serialize) -> String {
    // Text can always be serialized.
    serde_json::to_string(value).unwrap_or_default()
}

/// An event of a job's stream.
enum Told {
    Whole(Bytes),
    Long(TextOrBase64),
}

/// Forwards the events of a job, until it ends or the reader disconnects.
async fn forward(mut job: JobConnection, handle: String, sender: mpsc::Sender<Told>, _wait: OwnedSemaphorePermit) {
    let mut signs = interval(SIGN_OF_LIFE);
    signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    signs.reset();
    let mut next = (Told::Whole(event("created", &Created { handle: &handle })), false);
    loop {
        let (told, is_last) = next;
        if sender.send(told).await.is_err() || is_last {
            return;
        }
        next = tokio::select! {
            told = job.next() => match told {
                Ok(told) => told_as(&handle, told, job.take_share()),
                Err(error) => (Told::Whole(ended(&error)), true),
            },
            _ = signs.tick() => (Told::Whole(Bytes::from_static(b": the wait goes on\n\n")), false),
            () = sender.closed() => return,
        };
    }
}

/// The event for a wait that failed.
fn ended(error: &io::Error) -> Bytes {
    event(
        "error",
        &if error.kind() == io::ErrorKind::OutOfMemory {
            Ended { code: "too_much_at_once", message: "memory budget for large results is exhausted" }
        } else {
            Ended { code: "server_stopping", message: "the server closed the connection" }
        },
    )
}

/// Converts an event of a job for the reader, and returns whether it is the last.
fn told_as(handle: &str, told: JobEvent, share: Share) -> (Told, bool) {
    let long = |name: &str, bytes: Bytes| {
        let head = format!("event: {name}\ndata: {{\"handle\":{},", quoted(&handle));
        Told::Long(TextOrBase64::new(head.into(), bytes, b"}\n\n", share))
    };
    match told {
        JobEvent::Created(_) => (Told::Whole(event("created", &Created { handle })), false),
        JobEvent::Data(bytes) => (long("data", bytes), false),
        JobEvent::Warning(bytes) => (long("warning", bytes), false),
        JobEvent::Status { numerator, denominator } => {
            (Told::Whole(event("status", &Progress { handle, numerator, denominator })), false)
        }
        JobEvent::Complete(bytes) => (long("complete", bytes), true),
        JobEvent::Exception(bytes) => (long("exception", bytes), true),
        JobEvent::Fail => (Told::Whole(event("fail", &Created { handle })), true),
        JobEvent::Refused(..) | JobEvent::Ended => (Told::Whole(ended(&io::ErrorKind::UnexpectedEof.into())), true),
    }
}

/// A streaming body of events that another task sends.
struct Received {
    receiver: mpsc::Receiver<Told>,
    /// The event being written.
    long: Option<TextOrBase64>,
    /// Whether to yield, so that other connections run.
    is_others_turn: bool,
}

impl Received {
    fn new(receiver: mpsc::Receiver<Told>) -> Self {
        Self { receiver, long: None, is_others_turn: false }
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            if std::mem::take(&mut self.is_others_turn) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(piece) = self.long.as_mut().and_then(TextOrBase64::piece) {
                self.is_others_turn = true;
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            self.long = None;
            match ready!(self.receiver.poll_recv(context)) {
                None => return Poll::Ready(None),
                Some(Told::Whole(event)) => return Poll::Ready(Some(Ok(Frame::data(event)))),
                Some(Told::Long(long)) => self.long = Some(long),
            }
        }
    }
}
