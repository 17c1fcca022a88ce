//! Output: a fleet, a plan, a final state.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::json;

use super::monitor::Monitor;
use crate::client::format::{duration, size};
use crate::client::listing::{aligned_within, harmless_json, printable};
use crate::client::{EXIT_FAILED, ToolError, tell, terminal};
use crate::fleet::contract::{Identity, Status};
use crate::fleet::report::{Report, WorkerReport};

/// Number of past actions in the table.
const EVENTS: usize = 10;

/// Prints a fleet.
pub(super) fn report(report: &Report, is_json: bool) -> Result<(), ToolError> {
    if is_json {
        return print_json(report);
    }
    let mut text = heading(report);
    if !report.functions.is_empty() {
        text.push('\n');
        text.push_str(&functions(report));
    }
    if !report.workers.is_empty() {
        text.push('\n');
        text.push_str(&workers(report));
    }
    if !report.unmet.is_empty() || !report.strange.is_empty() {
        text.push('\n');
    }
    for unmet in report.unmet.iter().chain(&report.strange) {
        line(&mut text, format_args!("! {}", printable(unmet)));
    }
    let skipped = report.events.len().saturating_sub(EVENTS);
    if !report.events.is_empty() {
        text.push('\n');
    }
    for event in &report.events[skipped..] {
        let ago = duration((super::monitor::unix_now() - event.at).max(0.0));
        let error = event.error.as_ref().map_or_else(String::new, |error| format!(": failed: {error}"));
        line(&mut text, format_args!("{ago} ago  {}", printable(&format!("{}: {}{error}", event.what, event.why))));
    }
    print(&text)
}

fn line(text: &mut String, line: fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{line}");
}

fn heading(report: &Report) -> String {
    let mut parts = vec![format!("fleet {}: {} workers", printable(&report.fleet), report.workers.len())];
    if report.pid == 0 {
        parts.push("no monitor running".to_owned());
    } else {
        parts.push(format!("monitor on {}, process {}", printable(&report.host), report.pid));
        parts.push(if report.settled { "settled" } else { "not settled" }.to_owned());
    }
    if !report.version.is_empty() {
        parts.push(format!("version {}", printable(&report.version)));
    }
    if report.outdated > 0 {
        parts.push(format!("{} to be replaced", report.outdated));
    }
    if report.unnamed > 0 {
        parts.push(format!("{} waiting for an id", report.unnamed));
    }
    if !report.stopped_hosts.is_empty() {
        parts.push(format!("stopped: {}", printable(&report.stopped_hosts.join(" "))));
    }
    parts.join(", ") + "\n"
}

fn functions(report: &Report) -> String {
    let names = ["FUNCTION", "MIN", "MAX", "TARGET", "WORKERS", "WAITING", "RUNNING", "OLDEST"];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    for function in &report.functions {
        rows.push(vec![
            printable(&function.function) + if function.paused { " (paused)" } else { "" },
            function.min.to_string(),
            function.max.to_string(),
            function.target.to_string(),
            function.workers.to_string(),
            function.waiting.to_string(),
            function.running.to_string(),
            function.oldest.map_or_else(|| "-".to_owned(), duration),
        ]);
    }
    aligned_within(&rows, &[false, true, true, true, true, true, true, true], terminal::room())
}

fn workers(report: &Report) -> String {
    let names = [
        "HOST",
        "ID",
        "PID",
        "LANGUAGE",
        "VERSION",
        "STATE",
        "IN USE",
        "NOT IN USE",
        "DONE",
        "FAILED",
        "MEMORY",
        "UPTIME",
    ];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    let mut workers: Vec<&WorkerReport> = report.workers.iter().collect();
    workers.sort_by_key(|worker| {
        let Identity { host, id, .. } = &worker.status.identity;
        (host, id)
    });
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { printable(&names.join(",")) };
    for worker in workers {
        let Status { identity, activity } = &worker.status;
        rows.push(vec![
            printable(&identity.host),
            identity.id.to_string(),
            identity.pid.to_string(),
            printable(&identity.language),
            printable(&identity.version),
            state(worker),
            list(&activity.in_use),
            list(&activity.not_in_use),
            activity.count.values().fold(0u64, |sum, count| sum.saturating_add(*count)).to_string(),
            activity.failures.values().fold(0u64, |sum, count| sum.saturating_add(*count)).to_string(),
            // An f64 is precise enough for an amount of memory.
            #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
            size(activity.memory as f64),
            duration(activity.uptime.max(0.0)),
        ]);
    }
    let to_right = [false, false, true, false, false, false, false, false, true, true, true, true];
    aligned_within(&rows, &to_right, terminal::room())
}

fn state(worker: &WorkerReport) -> String {
    let state = worker.status.activity.state.as_str();
    if worker.silent > 0.0 {
        format!("silent for {}", duration(worker.silent))
    } else if worker.outdated {
        format!("{state}, to be replaced")
    } else {
        state.to_owned()
    }
}

/// Prints the plan.
pub(super) fn plan(monitor: &Monitor, is_json: bool) -> Result<(), ToolError> {
    let plan = monitor.plan();
    if is_json {
        return print_json(&json!({
            "decisions": plan.decisions, "targets": plan.targets, "workers": plan.counted, "unmet": plan.unmet,
            "outdated": plan.outdated.len(), "unnamed_workers": monitor.membership.unnamed,
        }));
    }
    let mut text = String::new();
    if monitor.membership.unnamed > 0 {
        let unnamed = monitor.membership.unnamed;
        line(&mut text, format_args!("{unnamed} workers have no id yet; more can be planned once they have one"));
    }
    for decision in &plan.decisions {
        let what = format!("{}: {}", monitor.said(&decision.action), decision.why);
        line(&mut text, format_args!("{}", printable(&what)));
    }
    if !plan.outdated.is_empty() {
        line(&mut text, format_args!("{} workers to be replaced, one after the other", plan.outdated.len()));
    }
    if plan.decisions.is_empty() && plan.outdated.is_empty() {
        line(&mut text, format_args!("no changes"));
    }
    for unmet in &plan.unmet {
        line(&mut text, format_args!("! {}", printable(unmet)));
    }
    print(&text)
}

/// Prints the final state and returns the exit status. `is_whole` means that every requested goal was
/// reached.
pub(super) fn end(report: &Report, is_done: bool, is_whole: bool, is_json: bool) -> Result<u8, ToolError> {
    if is_json {
        print_json(report)?;
    }
    for unmet in report.unmet.iter().filter(|_| !is_whole) {
        tell("fleet", format_args!("{}", printable(unmet)));
    }
    if !is_done {
        tell("fleet", format_args!("not completed"));
    }
    Ok(if is_done && is_whole { 0 } else { EXIT_FAILED })
}

fn print_json(value: &impl Serialize) -> Result<(), ToolError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| ToolError::Io("cannot print", error.into()))?;
    print(&(harmless_json(&text) + "\n"))
}

fn print(text: &str) -> Result<(), ToolError> {
    io::stdout().lock().write_all(text.as_bytes()).map_err(|error| ToolError::Io("cannot write", error))
}
