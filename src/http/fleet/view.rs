//! Views of the reports of workers and monitors: bounded, in snake case, with units in the names.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::fleet::contract::{self, FUNCTIONS_MAX, NAME_MAX, Run, Status, VERSION_MAX, is_function};
use crate::fleet::report::{Event, FunctionReport, MemberReport, Report};

/// Maximum length of a reason or an event, in bytes.
pub(super) const TEXT_MAX: usize = 512;
/// Maximum number of events, unmet requirements and hosts of a monitor.
const LINES_MAX: usize = 200;
/// Maximum time or duration in seconds: about three thousand years.
const SECONDS_MAX: f64 = 1e11;

/// A worker, according to its own status. [`Heard`] is added when it is serialized.
#[derive(Debug, Serialize)]
pub(super) struct WorkerView {
    id: String,
    fleet: String,
    host: String,
    pid: u64,
    language: String,
    version: String,
    state: &'static str,
    started_unix_s: f64,
    uptime_s: f64,
    functions_in_use: Vec<String>,
    functions_not_in_use: Vec<String>,
    count: BTreeMap<String, u64>,
    failures: BTreeMap<String, u64>,
    running: Vec<RunView>,
    memory_bytes: u64,
}

/// A job that a worker reports as running.
#[derive(Debug, Serialize)]
struct RunView {
    function: String,
    handle: String,
    seconds: f64,
}

/// What is known in addition to the report.
#[derive(Debug, Serialize)]
pub(super) struct Heard<'a> {
    /// How long no answer has arrived; `None` if this is a current answer.
    pub(super) silent_s: Option<f64>,
    /// The error in the answer.
    pub(super) error: Option<&'a str>,
    /// Whether its monitor will replace it; `None` for a monitor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outdated: Option<bool>,
}

/// A monitor, according to its own report.
#[derive(Debug, Serialize)]
pub(super) struct MonitorView {
    fleet: String,
    host: String,
    pid: u64,
    started_unix_s: f64,
    version: String,
    settled: bool,
    outdated_workers: usize,
    functions: Vec<FunctionView>,
    workers: Vec<MemberView>,
    stopped_hosts: Vec<String>,
    unmet: Vec<String>,
    events: Vec<EventView>,
}

/// A function that a monitor manages.
#[derive(Debug, Serialize)]
struct FunctionView {
    function: String,
    min: usize,
    max: usize,
    target: usize,
    workers: usize,
    waiting: u64,
    running: u64,
    oldest_s: Option<f64>,
}

/// A worker according to its monitor. Its own status is among the workers.
#[derive(Debug, Serialize)]
struct MemberView {
    id: String,
    host: String,
    silent_s: f64,
    outdated: bool,
}

/// An action of a monitor.
#[derive(Debug, Serialize)]
struct EventView {
    at_unix_s: f64,
    what: String,
    why: String,
    error: Option<String>,
}

impl WorkerView {
    /// A worker's status at this time, in seconds since 1970.
    pub(super) fn new(status: Status, now_unix_s: f64) -> Self {
        let Status { identity, activity } = status.bounded();
        let run =
            |Run { function, handle, since }: Run| RunView { function, handle, seconds: sane(now_unix_s - since) };
        Self {
            id: identity.id.into(),
            fleet: identity.fleet,
            host: identity.host,
            pid: identity.pid,
            language: identity.language,
            version: identity.version,
            state: activity.state.as_str(),
            started_unix_s: sane(identity.started),
            uptime_s: sane(activity.uptime),
            functions_in_use: activity.in_use,
            functions_not_in_use: activity.not_in_use,
            count: activity.count,
            failures: activity.failures,
            running: activity.running.into_iter().map(run).collect(),
            memory_bytes: activity.memory,
        }
    }

    /// A worker that has not answered yet.
    pub(super) fn unknown(id: String) -> Self {
        Self {
            id,
            fleet: String::new(),
            host: String::new(),
            pid: 0,
            language: String::new(),
            version: String::new(),
            state: "unknown",
            started_unix_s: 0.0,
            uptime_s: 0.0,
            functions_in_use: Vec::new(),
            functions_not_in_use: Vec::new(),
            count: BTreeMap::new(),
            failures: BTreeMap::new(),
            running: Vec::new(),
            memory_bytes: 0,
        }
    }
}

impl MonitorView {
    /// The report of this fleet's monitor.
    pub(super) fn new(fleet: String, report: Report<MemberReport>) -> Self {
        let function = |it: FunctionReport| FunctionView {
            function: it.function,
            min: it.min,
            max: it.max,
            target: it.target,
            workers: it.workers,
            waiting: it.waiting,
            running: it.running,
            oldest_s: it.oldest.map(sane),
        };
        let worker = |MemberReport { id, host, silent, outdated }: MemberReport| MemberView {
            id: id.into(),
            host: cut(host, NAME_MAX),
            silent_s: sane(silent),
            outdated,
        };
        let event = |Event { at, what, why, error }: Event| EventView {
            at_unix_s: sane(at),
            what: cut(what, TEXT_MAX),
            why: cut(why, TEXT_MAX),
            error: error.map(|error| cut(error, TEXT_MAX)),
        };
        let lines = |lines: Vec<String>| lines.into_iter().take(LINES_MAX).map(|line| cut(line, TEXT_MAX)).collect();
        let old_events = report.events.len().saturating_sub(LINES_MAX);
        Self {
            fleet,
            host: cut(report.host, NAME_MAX),
            pid: report.pid,
            started_unix_s: sane(report.started),
            version: cut(report.version, VERSION_MAX),
            settled: report.settled,
            outdated_workers: report.outdated,
            functions: report
                .functions
                .into_iter()
                .filter(|it| is_function(&it.function))
                .take(FUNCTIONS_MAX)
                .map(function)
                .collect(),
            workers: report.workers.into_iter().take(FUNCTIONS_MAX).map(worker).collect(),
            stopped_hosts: lines(report.stopped_hosts),
            unmet: lines(report.unmet),
            events: report.events.into_iter().skip(old_events).map(event).collect(),
        }
    }

    /// The workers that it will replace.
    pub(super) fn outdated(&self) -> impl Iterator<Item = &str> {
        self.workers.iter().filter(|worker| worker.outdated).map(|worker| worker.id.as_str())
    }
}

/// Truncates a text to at most `most` bytes, without splitting a character.
pub(super) fn cut(mut text: String, most: usize) -> String {
    contract::cut(&mut text, most);
    text
}

/// A time or duration in seconds, limited to the valid range.
fn sane(seconds: f64) -> f64 {
    if seconds.is_finite() { seconds.clamp(0.0, SECONDS_MAX) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fleet::contract::{FUNCTION_MAX, RUNS_MAX};
    use crate::protocol::names;

    #[test]
    fn what_a_worker_says_is_bounded() {
        let status = json!({
            "ok": true, "id": "a", "host": "\u{e4}".repeat(100), "version": "v".repeat(1000), "started": 1e300,
            "uptime": -5, "functionInUse": ["", "a\0b", "f", "x".repeat(513)],
            "functionNotUse": (0..5000).map(|number| format!("f{number}")).collect::<Vec<_>>(),
            "count": {"": 1, "f": u64::MAX}, "running": vec![json!({"function": "f", "since": 90.5}); 1000],
        });
        let view = WorkerView::new(serde_json::from_value(status).unwrap(), 100.0);
        assert_eq!(FUNCTION_MAX, names::FUNCTION_MAX, "the contract's bound is the protocol's");
        let shown: Value = serde_json::to_value(&view).unwrap();
        assert_eq!(shown["host"], "\u{e4}".repeat(32));
        assert_eq!(shown["version"], "v".repeat(256));
        assert_eq!((&shown["started_unix_s"], &shown["uptime_s"]), (&json!(SECONDS_MAX), &json!(0.0)));
        assert_eq!(shown["functions_in_use"], json!(["f"]));
        assert_eq!(view.functions_not_in_use.len(), FUNCTIONS_MAX);
        assert_eq!(shown["count"], json!({"f": u64::MAX}));
        assert_eq!((view.running.len(), &shown["running"][0]["seconds"]), (RUNS_MAX, &json!(9.5)));
    }

    #[test]
    fn what_a_monitor_says_is_bounded() {
        let event = |at: usize| json!({"at": at, "what": "w".repeat(1000), "why": "because"});
        let report = json!({
            "ok": true, "fleet": "another", "functions": [{"function": ""}, {"function": "f", "oldest": -1}],
            "workers": [{"ok": true, "id": "a", "outdated": true}, {"ok": true, "id": "b"}],
            "unmet": vec!["u"; 1000], "events": (0..300).map(event).collect::<Vec<_>>(),
        });
        let view = MonitorView::new("web".to_owned(), serde_json::from_value(report).unwrap());
        let shown: Value = serde_json::to_value(&view).unwrap();
        assert_eq!(shown["fleet"], "web");
        assert_eq!((view.functions.len(), &shown["functions"][0]["oldest_s"]), (1, &json!(0.0)));
        assert_eq!(view.outdated().collect::<Vec<_>>(), ["a"]);
        assert_eq!((view.unmet.len(), view.events.len()), (LINES_MAX, LINES_MAX));
        assert_eq!((&shown["events"][0]["at_unix_s"], view.events[0].what.len()), (&json!(100.0), TEXT_MAX));
    }
}
