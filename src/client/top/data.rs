//! Snapshot of a server's state, and rates computed from two of them.

use std::collections::HashMap;

use super::views::View;
use crate::client::table::{Facts, Table};

/// Data received from the server. What was not queried is `None`.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    /// When it was queried, in seconds of a monotonic clock.
    pub(super) at: f64,
    /// When it was queried, in milliseconds since 1970.
    pub(super) now_unix_ms: u64,
    /// Whether the server knows only the commands of C++ gearmand.
    pub(super) is_cpp: bool,
    /// The server as a whole.
    pub(super) server: Facts,
    pub(super) functions: Option<Table>,
    pub(super) workers: Option<Table>,
    pub(super) jobs: Option<Table>,
    /// The function whose jobs these are; `None` for all functions.
    pub(super) jobs_of: Option<Vec<u8>>,
    /// Rules that keep jobs from workers.
    pub(super) rules: Option<Table>,
    /// Details of one worker or job: its id or handle, and the server's response.
    pub(super) details: Option<(Vec<u8>, Result<Facts, String>)>,
}

impl Snapshot {
    /// The table of a view, if it was queried.
    pub(super) const fn table(&self, view: View) -> Option<&Table> {
        match view {
            View::Functions => self.functions.as_ref(),
            View::Workers => self.workers.as_ref(),
            View::Jobs => self.jobs.as_ref(),
            View::Server => None,
        }
    }
}

/// Rates: the column of each rate, and the counters whose sum it is computed from.
const RATES: [(&str, &[&str]); 4] = [
    ("in_per_s", &["submitted"]),
    ("out_per_s", &["done", "failed", "exceptions", "cancelled"]),
    ("failed_per_s", &["failed", "exceptions"]),
    // C++ gearmand counts only the jobs that it currently has.
    ("growth_per_s", &["total"]),
];

/// Minimum time between two snapshots for computing a rate, in seconds.
const SHORTEST: f64 = 0.05;

/// Computes rates from two successive snapshots.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    at: Option<f64>,
    counts: HashMap<Vec<u8>, [Option<f64>; RATES.len()]>,
    /// The rates of the previous pair of snapshots, for a snapshot that follows too soon.
    known: HashMap<Vec<u8>, [Option<f64>; RATES.len()]>,
}

impl Rates {
    /// Adds the rates since the previous snapshot to the functions, which were queried `at`. A function that
    /// was not in the previous one keeps the rates that the server reports.
    pub(super) fn apply(&mut self, at: f64, functions: &mut Table) {
        let key = |row: &[Vec<u8>]| row.first().cloned().unwrap_or_default();
        // There is no snapshot before the first one.
        let elapsed = self.at.map_or(f64::INFINITY, |before| at - before);
        if elapsed >= SHORTEST {
            let counts: HashMap<_, _> =
                functions.rows.iter().map(|row| (key(row), RATES.map(|(_, of)| sum(functions, row, of)))).collect();
            let rate = |name: &Vec<u8>, now: &[Option<f64>; RATES.len()]| {
                let before = self.counts.get(name)?;
                let mut rates = [None; RATES.len()];
                for (index, rate) in rates.iter_mut().enumerate() {
                    let grown = now[index].zip(before[index]).map(|(now, before)| now - before);
                    // A counter that has decreased belongs to another server.
                    let may_shrink = RATES[index].0 == "growth_per_s";
                    *rate = grown.filter(|grown| may_shrink || *grown >= 0.0).map(|grown| grown / elapsed);
                }
                Some((name.clone(), rates))
            };
            self.known = counts.iter().filter_map(|(name, now)| rate(name, now)).collect();
            self.counts = counts;
            self.at = Some(at);
        }
        for (index, (column, of)) in RATES.iter().enumerate() {
            if of.iter().all(|name| functions.column(name).is_some()) {
                functions.set(column, |table, row| {
                    let known = self.known.get(&key(row)).and_then(|rates| rates[index]);
                    known.or_else(|| table.number(row, column)).map(|rate| format!("{rate:.3}"))
                });
            }
        }
    }
}

fn sum(table: &Table, row: &[Vec<u8>], columns: &[&str]) -> Option<f64> {
    columns.iter().map(|column| table.number(row, column)).sum()
}

/// Adds the total number of queued jobs to functions.
pub(super) fn add_queued(functions: &mut Table) {
    functions.set("queued", |table, row| {
        let by_priority = sum(table, row, &["high", "normal", "low"]);
        let by_total = || Some(table.number(row, "total")? - table.number(row, "running")?);
        Some(format!("{:.0}", by_priority.or_else(by_total)?.max(0.0)))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions(lines: &[&str]) -> Table {
        Table::parse(&lines.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn rates_are_differences_by_the_time_between() {
        let look = |submitted: u32| {
            functions(&[
                "# name submitted done failed exceptions cancelled in_per_s",
                &format!("a\t{submitted}\t0\t0\t0\t0\t7"),
            ])
        };
        let mut rates = Rates::default();
        let mut in_per_s = |at, submitted| {
            let mut table = look(submitted);
            rates.apply(at, &mut table);
            table.number(&table.rows[0], "in_per_s").unwrap()
        };
        let equal = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        // At first the server's own rates, then the computed ones. A snapshot that follows too soon changes
        // nothing; a new server starts over.
        equal(in_per_s(0.0, 100), 7.0);
        equal(in_per_s(2.0, 130), 15.0);
        equal(in_per_s(2.01, 131), 15.0);
        equal(in_per_s(3.0, 140), 10.0);
        equal(in_per_s(4.0, 0), 7.0);
    }

    #[test]
    fn a_plain_server_has_growth_and_nothing_of_what_it_does_not_count() {
        let mut rates = Rates::default();
        let mut first = functions(&["# name total running", "a\t9\t2"]);
        rates.apply(1.0, &mut first);
        assert_eq!(first.cell(&first.rows[0], "growth_per_s"), None);
        let mut second = functions(&["# name total running", "a\t5\t2", "b\t1\t1"]);
        rates.apply(2.0, &mut second);
        add_queued(&mut second);
        assert_eq!(second.number(&second.rows[0], "growth_per_s"), Some(-4.0));
        assert_eq!(second.cell(&second.rows[1], "growth_per_s"), None);
        assert_eq!(second.column("in_per_s"), None);
        assert_eq!(second.cell(&second.rows[0], "queued"), Some(&b"3"[..]));
    }

    #[test]
    fn queued_jobs_are_those_of_all_priorities() {
        let mut table = functions(&["# name high normal low", "a\t1\t2\t3", "b\t-\t1\t1"]);
        add_queued(&mut table);
        assert_eq!(table.cell(&table.rows[0], "queued"), Some(&b"6"[..]));
        assert_eq!(table.cell(&table.rows[1], "queued"), None);
    }
}
