//! Managed workers and their monitors, according to their own status reports.
//!
//! A request triggers a round of `status` jobs, sent over one separate connection. At most one round runs at
//! a time, and its answers are cached briefly for other requests. Without requests there are no rounds. The
//! answers are untrusted: they are bounded, validated, and kept only in the form in which they are shown.

mod command;
mod fan_out;
mod view;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

pub(super) use self::command::command;
use self::fan_out::{ANSWERS_MAX, JobRequest, Reply, fan_out};
use self::view::{Heard, MonitorView, TEXT_MAX, WorkerView, cut};
use super::Interface;
use super::answer::{ApiError, ChunkedBody, PIECE, with_type};
use super::budget::{SMALL, Share};
use super::routes::RequestContext;
use crate::fleet::contract::{ANSWER_MAX, FLEET, SET_ID, Status, Verb, WorkerId, fleet_of_function};
use crate::fleet::report::{MonitorCommand, REPORT_MAX, Report, read_report};
use crate::stats::Stats;

/// Maximum number of workers and monitors in a round: the first ones by name.
const WORKERS_MAX: usize = 4096;
const MONITORS_MAX: usize = 64;
/// Timeout for their answers.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the answers of a round are cached.
const FRESH: Duration = Duration::from_secs(2);
/// Maximum total size in bytes of cached answers of workers and monitors that do not answer now. Beyond it,
/// such answers are dropped.
const KEPT_MAX: usize = 2 * ANSWERS_MAX;
/// Unique id of the jobs, so that equal requests from several servers and monitors coalesce.
const UNIQUE: &str = "status";

/// The shared state of the rounds.
#[derive(Default)]
pub(super) struct Rounds {
    /// The lock is held while a round runs, and while its result is read.
    known: Arc<Mutex<Known>>,
    /// Whether the cached result is outdated because of a command.
    is_old: AtomicBool,
}

/// The results of the rounds.
#[derive(Default)]
struct Known {
    told: Option<(Instant, Result<Bytes, ApiError>)>,
    workers: HashMap<String, Last>,
    monitors: HashMap<String, Last>,
}

/// The last answer of a worker or monitor.
struct Last {
    /// When it arrived, or when the first request was sent.
    since: Instant,
    /// The answer, as a JSON object.
    answer: Option<Vec<u8>>,
}

/// Handles a request for the state of the fleet.
pub(super) async fn fleet(context: RequestContext) -> Result<Response, ApiError> {
    context.query(&[])?;
    let interface = Arc::clone(&context.interface);
    let known = Arc::clone(&interface.fleet.known).lock_owned().await;
    let is_old = interface.fleet.is_old.swap(false, Ordering::Relaxed);
    let told = known.told.as_ref().filter(|(made, _)| !is_old && made.elapsed() < FRESH);
    let told = told.map(|(_, told)| told.clone());
    let body = match told {
        Some(told) => told?,
        // A separate task, so that the round completes even if the client disconnects, and rounds never
        // overlap.
        None => match tokio::spawn(round(Arc::clone(&interface), context.actor.address.clone(), known)).await {
            Ok(told) => told?,
            Err(_) => return Err(ApiError::busy("stopped", "the server stopped before all answers were received")),
        },
    };
    if body.len() <= SMALL {
        return Ok(with_type(StatusCode::OK, "application/json", Body::from(body)));
    }
    let permit = context.long_list()?;
    let mut share = Share::new(&interface);
    share.hold(body.len())?;
    let mut left = body;
    let pieces = move || {
        // Holds the permit and the share until the body is dropped.
        let _held = (&permit, &share);
        let piece = left.split_to(PIECE.min(left.len()));
        (!piece.is_empty()).then_some(piece)
    };
    Ok(with_type(StatusCode::OK, "application/json", Body::new(ChunkedBody::new(pieces))))
}

/// Runs a round, and returns the JSON result.
async fn round(interface: Arc<Interface>, peer: String, mut known: OwnedMutexGuard<Known>) -> Result<Bytes, ApiError> {
    let there = There::new(&interface.parts.stats);
    let began = Instant::now();
    let (mut said, requests) = (Said::new(&there), there.requests());
    let asked = fan_out(&interface, peer, &requests, PATIENCE, |place, reply| {
        said.take(&there, place, reply, unix_s(&interface));
    });
    let told = match asked.await {
        Ok(()) => Ok(known.tell(&there, said, began)),
        Err(error) => Err(ApiError::busy("no_connection", format!("the job server cannot be reached: {error}"))),
    };
    known.told = Some((Instant::now(), told.clone()));
    told
}

fn unix_s(interface: &Interface) -> f64 {
    Duration::from_micros(interface.now().unix_us).as_secs_f64()
}

/// The workers and monitors to ask.
struct There {
    /// Number of workers that wait for an id.
    unnamed: u64,
    workers: Vec<WorkerId>,
    monitors: Vec<String>,
    /// Number of those beyond the limits.
    not_asked: usize,
}

impl There {
    /// Those whose function has a worker now.
    fn new(stats: &Stats) -> Self {
        let (mut unnamed, mut not_asked) = (0, 0);
        let (mut workers, mut monitors) = (BTreeSet::new(), BTreeSet::new());
        for (name, gauges) in &stats.functions {
            let count = gauges.workers.get();
            if count == 0 {
                continue;
            }
            let function = name.as_bytes();
            if let Some(id) = WorkerId::of_function(function) {
                not_asked += usize::from(is_one_too_many(&mut workers, id, WORKERS_MAX));
            } else if function == SET_ID.as_bytes() {
                unnamed = count;
            } else if let Some(fleet) = fleet_of_function(function) {
                not_asked += usize::from(is_one_too_many(&mut monitors, fleet.to_owned(), MONITORS_MAX));
            }
        }
        Self { unnamed, workers: workers.into_iter().collect(), monitors: monitors.into_iter().collect(), not_asked }
    }

    /// One request for each worker, then one for each monitor.
    fn requests(&self) -> Vec<JobRequest> {
        let (worker, monitor) =
            (Bytes::from(to_json(&Verb::Status.request())), Bytes::from(to_json(&MonitorCommand::Status)));
        let request = |function: String, workload: &Bytes, most: usize| JobRequest {
            function,
            unique: UNIQUE,
            workload: workload.clone(),
            most,
        };
        let workers = self.workers.iter().map(|id| request(id.manage_function(), &worker, ANSWER_MAX));
        let monitors = self.monitors.iter().map(|fleet| request(format!("{FLEET}{fleet}"), &monitor, REPORT_MAX));
        workers.chain(monitors).collect()
    }
}

/// Inserts into a set limited to the first `most` elements. Returns whether one was dropped.
fn is_one_too_many<T: Ord>(set: &mut BTreeSet<T>, one: T, most: usize) -> bool {
    set.insert(one);
    set.len() > most && set.pop_last().is_some()
}

/// Serializes a value.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Serializing these types to memory cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// The answers of a round: a JSON object, or an error; `None` for those that did not answer.
struct Said {
    workers: Vec<Option<Result<Vec<u8>, String>>>,
    monitors: Vec<Option<Result<Vec<u8>, String>>>,
    /// Workers that will be replaced, according to their monitors.
    outdated: HashSet<String>,
}

impl Said {
    fn new(there: &There) -> Self {
        let none = |count: usize| (0..count).map(|_| None).collect();
        Self { workers: none(there.workers.len()), monitors: none(there.monitors.len()), outdated: HashSet::new() }
    }

    /// Handles the reply to the request with this index.
    fn take(&mut self, there: &There, place: usize, reply: Reply, now_unix_s: f64) {
        let answer = match reply {
            Reply::Answer(answer) => Ok(answer),
            Reply::Failed(why) => Err(why),
        };
        if let Some(id) = there.workers.get(place) {
            let said = answer.and_then(|answer| worker(id, &answer, now_unix_s));
            self.workers[place] = Some(said.map_err(|error| cut(error, TEXT_MAX)));
        } else if let Some(fleet) = there.monitors.get(place - there.workers.len()) {
            let report = answer.and_then(|answer| read_report(&answer).map_err(|error| error.to_string()));
            let said = report.map(|report| {
                let view = MonitorView::new(fleet.clone(), report);
                self.outdated.extend(view.outdated().map(str::to_owned));
                to_json(&view)
            });
            self.monitors[place - there.workers.len()] = Some(said.map_err(|error| cut(error, TEXT_MAX)));
        }
    }
}

/// Converts a worker's status to JSON.
fn worker(id: &WorkerId, answer: &[u8], now_unix_s: f64) -> Result<Vec<u8>, String> {
    let status = Status::read(answer)?;
    let reported = &status.identity.id;
    if reported != id {
        return Err(format!("it reports a different id: {reported}"));
    }
    Ok(to_json(&WorkerView::new(status, now_unix_s)))
}

impl Known {
    /// Builds the result of a round that started at `began`, and forgets those that no longer exist.
    fn tell(&mut self, there: &There, said: Said, began: Instant) -> Bytes {
        let Said { workers, monitors, outdated } = said;
        let head = format!("{{\"unnamed_workers\":{},\"not_asked\":{},", there.unnamed, there.not_asked);
        let mut lists = Lists { body: head.into_bytes(), kept: 0, began };
        lists.body.extend_from_slice(b"\"workers\":[");
        let mut old = std::mem::take(&mut self.workers);
        for (id, said) in there.workers.iter().map(WorkerId::as_str).zip(workers) {
            let unknown = || to_json(&WorkerView::unknown(id.to_owned()));
            let last = lists.add(old.remove(id), said, unknown, Some(outdated.contains(id)));
            self.workers.insert(id.to_owned(), last);
        }
        lists.begin_another(b"],\"monitors\":[");
        let mut old = std::mem::take(&mut self.monitors);
        for (fleet, said) in there.monitors.iter().zip(monitors) {
            let unknown = || to_json(&MonitorView::new(fleet.clone(), Report::default()));
            let last = lists.add(old.remove(fleet), said, unknown, None);
            self.monitors.insert(fleet.clone(), last);
        }
        lists.begin_another(b"]}");
        Bytes::from(lists.body)
    }
}

/// The JSON lists under construction.
struct Lists {
    body: Vec<u8>,
    /// Total size in bytes of the old answers kept so far.
    kept: usize,
    began: Instant,
}

impl Lists {
    /// Ends a list, and appends `between` verbatim.
    fn begin_another(&mut self, between: &[u8]) {
        if self.body.last() == Some(&b',') {
            self.body.pop();
        }
        self.body.extend_from_slice(between);
    }

    /// Appends an entry with its current or last answer, and returns what to remember.
    fn add(
        &mut self,
        before: Option<Last>,
        said: Option<Result<Vec<u8>, String>>,
        unknown: impl FnOnce() -> Vec<u8>,
        outdated: Option<bool>,
    ) -> Last {
        let (since, old) = before.map_or((self.began, None), |last| (last.since, last.answer));
        let now = Instant::now();
        let (since, answer, error, silent_s) = match said {
            Some(Ok(answer)) => (now, Some(answer), None, None),
            Some(Err(error)) => (now, self.keep(old), Some(error), None),
            None => (since, self.keep(old), None, Some((now - since).as_secs_f64())),
        };
        let heard = to_json(&Heard { silent_s, error: error.as_deref(), outdated });
        let made = if answer.is_none() { unknown() } else { Vec::new() };
        // Merges two JSON objects.
        let own = answer.as_deref().unwrap_or(&made);
        self.body.extend_from_slice(own.strip_suffix(b"}").unwrap_or(own));
        self.body.push(b',');
        self.body.extend_from_slice(heard.strip_prefix(b"{").unwrap_or(&heard));
        self.body.push(b',');
        Last { since, answer }
    }

    /// An old answer, unless the limit for all of them is exceeded.
    fn keep(&mut self, old: Option<Vec<u8>>) -> Option<Vec<u8>> {
        self.kept += old.as_ref().map_or(0, Vec::len);
        old.filter(|_| self.kept <= KEPT_MAX)
    }
}
