//! A stream of server-sent events: the state of the server and its busiest functions, every second.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::answer::{ApiError, with_type};
use super::routes::RequestContext;
use super::{Interface, STREAMS};
use crate::admin::view::{FunctionView, ServerView};
use crate::admin::views::Functions;

/// Interval between events.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an event is reused for other streams before a new one is made.
const FRESH: Duration = Duration::from_millis(800);
/// Number of functions in an event.
const FUNCTIONS: usize = 20;

/// The last event, shared by all streams, and the next one if it is being prepared.
#[derive(Debug, Default)]
pub(super) struct Overview {
    last: Option<(Instant, Bytes)>,
    next: Option<(Functions, Vec<FunctionView>)>,
}

#[derive(Serialize)]
struct OverviewBody {
    #[serde(flatten)]
    server: ServerView,
    /// The functions with the most jobs.
    top: Vec<FunctionView>,
}

/// Handles a request for the stream.
pub(super) fn events(context: &RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    let interface = Arc::clone(&context.interface);
    let permit = Arc::clone(&interface.streams).try_acquire_owned();
    let permit =
        permit.map_err(|_| ApiError::busy("too_many_streams", format!("too many event streams (limit {STREAMS})")))?;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopped = Box::pin(interface.stop.clone().cancelled_owned());
    let events = Events { interface, ticks, is_due: false, stopped, _permit: permit };
    Ok(with_type(StatusCode::OK, "text/event-stream", Body::new(events)))
}

/// The body of the stream. Each event is made when it is due and there is room for it.
struct Events {
    interface: Arc<Interface>,
    ticks: Interval,
    /// Whether an event is due.
    is_due: bool,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.stopped.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        if !self.is_due {
            if self.ticks.poll_tick(context).is_pending() {
                return Poll::Pending;
            }
            self.is_due = true;
        }
        let Some(event) = overview(&self.interface) else {
            // Yields, so that other connections run.
            context.waker().wake_by_ref();
            return Poll::Pending;
        };
        self.is_due = false;
        Poll::Ready(Some(Ok(Frame::data(event))))
    }
}

/// Returns the current event, or does one step towards it. All streams share the progress.
fn overview(interface: &Interface) -> Option<Bytes> {
    let mut overview = interface.overview.lock().unwrap_or_else(PoisonError::into_inner);
    let Overview { last, next } = &mut *overview;
    if let Some((made, event)) = last
        && made.elapsed() < FRESH
    {
        return Some(event.clone());
    }
    let (views, now) = (&interface.parts.admin.views, interface.now());
    let (pieces, top) = next.get_or_insert_with(|| (views.busiest_in_pieces(FUNCTIONS), Vec::new()));
    if let Some(piece) = pieces.next_piece(views, now) {
        top.extend(piece);
        return None;
    }
    let event = event("overview", &OverviewBody { server: views.server(now), top: std::mem::take(top) });
    *next = None;
    *last = Some((Instant::now(), event.clone()));
    Some(event)
}

/// Serializes an event.
pub(super) fn event(name: &str, data: &impl Serialize) -> Bytes {
    let mut event = format!("event: {name}\ndata: ").into_bytes();
    // JSON contains no line feeds. Serializing a view to memory cannot fail.
    let _ = serde_json::to_writer(&mut event, data);
    event.extend_from_slice(b"\n\n");
    Bytes::from(event)
}
