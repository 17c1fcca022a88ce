//! Texts around the lists: counts of the server, details of an item, the server page, the help page.

use ratatui::text::Span;

use super::app::{App, Details};
use super::data::Snapshot;
use super::views::View;
use crate::client::format::shown;
use crate::client::listing::{aligned_within, printable};
use crate::client::table::{Facts, Kind, lossy};

/// Help page with all keys.
pub(super) const HELP: &str = "\
1 2 3 4, Tab, Shift-Tab    functions, workers, jobs, server
Up Down PgUp PgDn Home End select, or scroll
Enter                      all about what is selected
s, Right / Left            sort by the next / the last column
r                          the other way round
/                          show only rows with a text; Esc shows all again
j                          on a function: its jobs
p                          on a function: pause it, or resume it
l                          on a function: limit how many of its jobs run
c m                        on a function: cancel, move its jobs; on a job: it
n P                        on a job: run it now if scheduled, set its priority
d D e k                    on a worker, client id or host: disable, drain,
                           enable, kick
?; q, Ctrl-C               this page; quit

Every action asks for confirmation. WAIT99: what 99 of 100 jobs waited
at most; RUN50, RUN99: what 50 and 99 of 100 ran at most. FOR: how long a worker
has been at its newest job; BACK: its jobs that went back; FAIL: those that
failed, exceptions included. Rates are since the last look. Jobs that run come
first, then a part of those that wait: + means more. A C++ gearmand tells less.";

/// State of the server for the first line.
pub(super) fn state(data: &Snapshot) -> String {
    let mut text = String::new();
    for (key, before) in [("uptime_s", "  up "), ("memory_bytes", "  memory "), ("store_state", "  store ")] {
        if let Some(value) = data.server.get(key) {
            text.extend([before, &shown(key, value, data.now_unix_ms)]);
        }
    }
    if data.server.get("draining") == Some(b"1") {
        text.push_str("  DRAINING");
    }
    text
}

/// Number of jobs and workers in each state, and the rates, in lines of at most `width` columns.
pub(super) fn counts(data: &Snapshot, width: usize) -> Vec<String> {
    let number = |key: &str| data.server.get(key).map(|value| shown(key, value, data.now_unix_ms));
    let mut parts = Vec::new();
    for (what, keys) in [
        ("jobs", &["jobs_queued", "jobs_running", "jobs_scheduled"][..]),
        ("in/out/failed", &["in_per_s", "out_per_s", "failed_per_s"]),
        ("workers", WORKER_STATES),
    ] {
        let known: Vec<(&str, String)> = keys.iter().filter_map(|key| Some((*key, number(key)?))).collect();
        let worth = |(key, value): &&(&str, String)| value != "0" || matches!(*key, "jobs_queued" | "jobs_running");
        let word = |(key, value): &(&str, String)| format!("{value} {}", key.rsplit('_').next().unwrap_or_default());
        let words: Vec<String> = known.iter().filter(worth).map(word).collect();
        if known.is_empty() {
            // The server does not report these.
        } else if what == "in/out/failed" {
            let rates: Vec<&str> = known.iter().map(|(_, value)| value.as_str()).collect();
            parts.push(format!("{what}: {}/s", rates.join(" ")));
        } else if words.is_empty() {
            parts.push(format!("{what}: none"));
        } else {
            parts.push(format!("{what}: {}", words.join(", ")));
        }
    }
    wrapped(&parts, "  ", width)
}

/// Keys of the worker counts per state.
const WORKER_STATES: &[&str] = &[
    "workers_working",
    "workers_waiting",
    "workers_asleep",
    "workers_woken",
    "workers_disabled",
    "workers_draining",
    "workers_drained",
];

/// Joins parts with `gap`, in lines of at most `width` columns; at least one line. A part is never split.
pub(super) fn wrapped(parts: &[String], gap: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(part),
            Some(line) if Span::raw(format!("{line}{gap}{part}")).width() <= width => line.extend([gap, part]),
            _ => lines.push(part.clone()),
        }
    }
    lines
}

/// Details of an item: the server's response about it if there is one, otherwise the cells of its row.
pub(super) fn details(app: &App, details: &Details) -> Vec<String> {
    let now = app.data.now_unix_ms;
    let name = printable(&lossy(&details.key));
    let mut lines = vec![format!("{} {name}", app.view.one()), String::new()];
    let asked = app.data.details.as_ref().filter(|(key, _)| *key == details.key).map(|(_, facts)| facts);
    let row = app.table(app.view).and_then(|table| {
        let row = table.rows.iter().find(|row| row.first() == Some(&details.key))?;
        Some(Facts { pairs: table.columns.iter().cloned().zip(row.iter().cloned()).collect(), ..Facts::default() })
    });
    match (asked, row) {
        (Some(Ok(facts)), _) => lines.extend(facts.text(now).lines().map(str::to_owned)),
        (Some(Err(why)), None) => lines.push(format!("no longer there: {}", printable(why))),
        (_, Some(facts)) => lines.extend(facts.text(now).lines().map(str::to_owned)),
        (None, None) => lines.push("no longer there".to_owned()),
    }
    lines
}

/// The server page.
pub(super) fn server(data: &Snapshot) -> Vec<String> {
    let mut lines: Vec<String> = data.server.text(data.now_unix_ms).lines().map(str::to_owned).collect();
    if let Some(rules) = &data.rules {
        lines.push(String::new());
        if rules.rows.is_empty() {
            lines.push("No rule withholds jobs from workers.".to_owned());
        } else {
            lines.push("Rules that withhold jobs from workers:".to_owned());
            lines.extend(rules.text(data.now_unix_ms).lines().map(str::to_owned));
        }
    }
    lines
}

/// A view as text, with all of its rows in display order, at most `room` terminal columns wide.
pub(super) fn list(app: &App, view: View, room: Option<usize>) -> String {
    let (Some(table), Some(list)) = (app.table(view), app.lists.get(view.index())) else {
        return String::new();
    };
    let columns = view.columns_of(table);
    let mut rows = vec![columns.iter().map(|column| column.heading.to_owned()).collect::<Vec<_>>()];
    for place in &list.order {
        let row = &table.rows[*place];
        let cell = |name: &str| table.column(name).map_or(&b"-"[..], |column| &row[column]);
        rows.push(columns.iter().map(|column| shown(column.name, cell(column.name), app.data.now_unix_ms)).collect());
    }
    let to_right: Vec<bool> = columns.iter().map(|column| Kind::of(column.name) == Kind::Number).collect();
    let mut text = aligned_within(&rows, &to_right, room);
    if table.next.is_some() {
        text.push_str("(more)\n");
    }
    text
}
