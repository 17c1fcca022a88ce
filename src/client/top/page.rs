//! The texts around the lists: counts of the server, all about one item, the server's page, the help.

use super::app::{App, Details};
use super::data::Snapshot;
use super::format::shown;
use super::views::View;
use crate::client::listing::{aligned, printable};
use crate::client::table::{Facts, Kind, Table, lossy};

/// All keys.
pub(super) const HELP: &str = "\
1 2 3 4, Tab, Shift-Tab    functions, workers, jobs, server
Up Down PgUp PgDn Home End select, or scroll
Enter                      all about what is selected
s, Right / Left            sort by the next / the last column
r                          the other way round
/                          show only rows with a text; Esc shows all again
j                          on a function: its jobs
p                          on a function: pause it, or resume it
c                          on a function: cancel all of its jobs; on a job: cancel it
n                          on a scheduled job: run it now
d D e k                    on a worker: disable, drain, enable, kick it, its client id or its host
?                          this page
q, Ctrl-C                  quit

Nothing is done before you have confirmed it. Times of a function: WAIT99 is what 99 of
100 jobs waited at most, RUN50 and RUN99 what 50 and 99 of 100 ran at most. FOR is how
long a worker has been at its newest job, BACK how many of its jobs went back.
Rates are of the time since the last look. Of jobs those that run come first, then a
part of those that wait: + means that there are more. A C++ gearmand tells less.";

/// Something of the server as a whole that is worth a place in the first line.
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

/// How many jobs and workers are in each state, and the rates.
pub(super) fn counts(data: &Snapshot) -> String {
    let mut parts = Vec::new();
    for (what, unit, keys) in [
        ("jobs:", "", &["jobs_queued", "jobs_running", "jobs_scheduled"][..]),
        ("in/out/failed:", "/s", &["in_per_s", "out_per_s", "failed_per_s"]),
        ("workers:", "", &["workers_working", "workers_waiting", "workers_asleep", "workers_woken"]),
        ("", "", &["workers_disabled", "workers_draining", "workers_drained"]),
    ] {
        let mut known = Vec::new();
        for key in keys {
            let Some(value) = data.server.get(key) else { continue };
            let value = shown(key, value, data.now_unix_ms);
            let word = key.rsplit('_').next().unwrap_or_default();
            match (unit, what) {
                ("/s", _) => known.push(value),
                // States that are rare, and worth a word only then.
                (_, "") if value == "0" => {}
                _ if *key == "workers_woken" && value == "0" => {}
                _ => known.push(format!("{value} {word}")),
            }
        }
        if unit == "/s" && !known.is_empty() {
            parts.push(format!("{what} {}{unit}", known.join(" ")));
        } else if !known.is_empty() {
            parts.push(format!("{what} {}", known.join(", ")).trim_start().to_owned());
        }
    }
    parts.join("  ")
}

/// All about an item: what the server said to the question about it, else the cells of its row.
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
        (Some(Ok(facts)), _) => lines.extend(facts_lines(facts, now)),
        (Some(Err(why)), None) => lines.push(format!("it has gone: {}", printable(why))),
        (_, Some(facts)) => lines.extend(facts_lines(&facts, now)),
        (None, None) => lines.push("it has gone".to_owned()),
    }
    lines
}

/// The server's page.
pub(super) fn server(data: &Snapshot) -> Vec<String> {
    let mut lines = facts_lines(&data.server, data.now_unix_ms);
    if let Some(rules) = &data.rules {
        lines.push(String::new());
        if rules.rows.is_empty() {
            lines.push("No rule withholds jobs from workers.".to_owned());
        } else {
            lines.push("Rules that withhold jobs from workers:".to_owned());
            lines.extend(table_lines(rules, data.now_unix_ms));
        }
    }
    lines
}

fn facts_lines(facts: &Facts, now_unix_ms: u64) -> Vec<String> {
    let words = |key: &str| {
        let units = if key.ends_with("_per_s") { &[][..] } else { &["_unix_ms", "_unix_s", "_bytes", "_s"] };
        let bare = units.iter().find_map(|unit| key.strip_suffix(*unit));
        let (bare, ago) = (bare.unwrap_or(key), key.ends_with("_unix_ms") && key != "deadline_unix_ms");
        format!("{}{}", printable(bare).replace('_', " "), if ago { " (ago)" } else { "" })
    };
    let pair = |(key, cell): &(String, Vec<u8>)| vec![words(key), shown(key, cell, now_unix_ms)];
    let rows: Vec<Vec<String>> = facts.pairs.iter().map(pair).collect();
    let mut lines: Vec<String> = aligned(&rows, &[false, false]).lines().map(str::to_owned).collect();
    for (title, table) in [("functions", &facts.functions), ("jobs", &facts.jobs)] {
        if !table.rows.is_empty() {
            lines.extend([String::new(), title.to_owned()]);
            lines.extend(table_lines(table, now_unix_ms));
        }
    }
    lines
}

fn table_lines(table: &Table, now_unix_ms: u64) -> Vec<String> {
    let mut rows = vec![table.columns.iter().map(|name| printable(name).to_uppercase()).collect::<Vec<_>>()];
    let cells = |row: &Vec<Vec<u8>>| {
        table.columns.iter().zip(row).map(|(name, cell)| shown(name, cell, now_unix_ms)).collect::<Vec<_>>()
    };
    rows.extend(table.rows.iter().map(cells));
    let to_right: Vec<bool> = table.columns.iter().map(|name| Kind::of(name) == Kind::Number).collect();
    aligned(&rows, &to_right).lines().map(str::to_owned).collect()
}

/// A view as text, all of its rows in the order of the screen.
pub(super) fn list(app: &App, view: View) -> String {
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
    let mut text = aligned(&rows, &to_right);
    if table.next.is_some() {
        text.push_str("(there are more)\n");
    }
    text
}
