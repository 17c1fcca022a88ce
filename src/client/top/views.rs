//! Views and their columns.

use crate::client::table::Table;

/// A view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Functions,
    Workers,
    Jobs,
    Server,
}

/// A column of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Name used by the server.
    pub(super) name: &'static str,
    /// Heading on the screen.
    pub(super) heading: &'static str,
    /// When not all columns fit, those with the highest rank are dropped first; rank 0 is never dropped.
    pub(super) rank: u8,
}

const fn column(name: &'static str, heading: &'static str, rank: u8) -> Column {
    Column { name, heading, rank }
}

const FUNCTIONS: &[Column] = &[
    column("name", "FUNCTION", 0),
    column("queued", "QUEUED", 1),
    column("high", "HIGH", 9),
    column("normal", "NORMAL", 11),
    column("low", "LOW", 10),
    column("scheduled", "SCHED", 8),
    column("running", "RUN", 1),
    column("max_running", "MAX", 9),
    column("workers", "WORKERS", 2),
    column("working", "BUSY", 12),
    column("in_per_s", "IN/S", 3),
    column("out_per_s", "OUT/S", 3),
    column("failed_per_s", "FAIL/S", 4),
    column("growth_per_s", "GROWTH/S", 3),
    column("oldest_s", "OLDEST", 4),
    column("wait_p99_s", "WAIT99", 13),
    column("run_p50_s", "RUN50", 6),
    column("run_p99_s", "RUN99", 7),
    column("paused", "PAUSED", 5),
];

const WORKERS: &[Column] = &[
    column("id", "ID", 0),
    column("client_id", "CLIENT", 3),
    column("address", "ADDRESS", 4),
    column("state", "STATE", 1),
    column("since_unix_ms", "FOR", 2),
    column("job", "JOB", 6),
    column("running", "RUN", 9),
    column("done", "DONE", 5),
    column("failures", "FAIL", 7),
    column("requeued", "BACK", 11),
    column("run_p50_s", "RUN50", 8),
    column("run_p99_s", "RUN99", 9),
    column("heard_unix_ms", "HEARD", 10),
    column("connected_unix_ms", "UP", 12),
    column("functions", "FUNCTIONS", 2),
];

const JOBS: &[Column] = &[
    column("handle", "HANDLE", 0),
    column("function", "FUNCTION", 1),
    column("state", "STATE", 1),
    column("priority", "PRIO", 5),
    column("age_s", "AGE", 2),
    column("holder", "WORKER", 4),
    column("progress", "DONE", 3),
    column("attempts", "TRIES", 6),
    column("is_abandoned", "ABANDONED", 6),
    column("background", "BACKGR", 9),
    column("clients", "CLIENTS", 8),
    column("bytes", "BYTES", 7),
    column("due_unix_s", "DUE", 8),
    column("unique", "UNIQUE", 4),
];

impl View {
    /// All views, in the order of their keys 1 to 4.
    pub(super) const ALL: [Self; 4] = [Self::Functions, Self::Workers, Self::Jobs, Self::Server];

    /// Its name on the screen.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Functions => "functions",
            Self::Workers => "workers",
            Self::Jobs => "jobs",
            Self::Server => "server",
        }
    }

    /// Name of one of its items.
    pub(super) const fn one(self) -> &'static str {
        match self {
            Self::Functions => "function",
            Self::Workers => "worker",
            Self::Jobs => "job",
            Self::Server => "server",
        }
    }

    /// Its index in [`ALL`](Self::ALL).
    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// All possible columns; none for the server.
    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Functions => FUNCTIONS,
            Self::Workers => WORKERS,
            Self::Jobs => JOBS,
            Self::Server => &[],
        }
    }

    /// Its columns that this table has.
    pub(super) fn columns_of(self, table: &Table) -> Vec<Column> {
        self.columns().iter().copied().filter(|column| table.column(column.name).is_some()).collect()
    }

    /// The initial sort column, and whether the largest value comes first.
    pub(super) const fn first_sort(self) -> (&'static str, bool) {
        match self {
            Self::Functions | Self::Server => ("queued", true),
            // The worker whose job has been running longest comes first.
            Self::Workers => ("since_unix_ms", false),
            Self::Jobs => ("age_s", true),
        }
    }
}
