//! What happens now, as a stream of events: the server and its busiest functions, every second.

use std::cmp::Reverse;
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

use super::answer::{Failure, with_type};
use super::routes::Call;
use super::{Interface, STREAMS};
use crate::admin::view::{FunctionView, ServerView};
use crate::protocol::FunctionName;

/// The time between two events.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an event is told to others as well, before a new one is made.
const FRESH: Duration = Duration::from_millis(800);
/// How many functions are shown.
const FUNCTIONS: usize = 20;

/// The last event, which all streams share.
#[derive(Debug, Default)]
pub(super) struct Overview(Option<(Instant, Bytes)>);

#[derive(Serialize)]
struct OverviewBody {
    #[serde(flatten)]
    server: ServerView,
    /// The functions with the most jobs.
    top: Vec<FunctionView>,
}

/// The stream.
pub(super) fn events(call: &Call) -> Result<Response, Failure> {
    call.query(&[])?;
    let interface = Arc::clone(&call.interface);
    let permit = Arc::clone(&interface.streams).try_acquire_owned();
    let permit = permit
        .map_err(|_| Failure::busy("too_many_streams", format!("there are {STREAMS} streams of events already")))?;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopped = Box::pin(interface.stop.clone().cancelled_owned());
    let events = Events { interface, ticks, stopped, _permit: permit };
    Ok(with_type(StatusCode::OK, "text/event-stream", Body::new(events)))
}

/// The events, each made when its time has come and there is room for it.
struct Events {
    interface: Arc<Interface>,
    ticks: Interval,
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
        self.ticks.poll_tick(context).map(|_| Some(Ok(Frame::data(overview(&self.interface)))))
    }
}

/// The event of this moment.
fn overview(interface: &Interface) -> Bytes {
    let mut last = interface.overview.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((made, event)) = &last.0
        && made.elapsed() < FRESH
    {
        return event.clone();
    }
    let event = make(interface);
    last.0 = Some((Instant::now(), event.clone()));
    event
}

fn make(interface: &Interface) -> Bytes {
    let (look, now) = (&interface.parts.admin.look, interface.now());
    let top = busiest(interface).iter().filter_map(|name| look.function(now, name.as_bytes())).collect();
    event("overview", &OverviewBody { server: look.server(now), top })
}

/// The functions with the most jobs; of those without, the ones with the most workers.
fn busiest(interface: &Interface) -> Vec<FunctionName> {
    let mut functions: Vec<_> = interface
        .parts
        .stats
        .functions
        .iter()
        .map(|entry| (Reverse((entry.value().total(), entry.value().workers.get())), entry.key().clone()))
        .collect();
    if functions.len() > FUNCTIONS {
        functions.select_nth_unstable(FUNCTIONS);
        functions.truncate(FUNCTIONS);
    }
    functions.sort_unstable();
    functions.into_iter().map(|(_, name)| name).collect()
}

/// Writes an event.
pub(super) fn event(name: &str, data: &impl Serialize) -> Bytes {
    let mut event = format!("event: {name}\ndata: ").into_bytes();
    // JSON has no line feeds. Writing to memory fails for nothing that a view can hold.
    let _ = serde_json::to_writer(&mut event, data);
    event.extend_from_slice(b"\n\n");
    Bytes::from(event)
}
