//! The view of the whole server. Its sums over all functions and connections are made in pieces.

use super::workers::{count, state_of};
use super::{Views, positive, seconds, totals};
use crate::admin::view::{ConnectionsView, FleetCounts, HeldView, JobCounts, ServerView, WorkerStates};
use crate::fleet::contract::{SET_ID, WorkerId, fleet_of_function};
use crate::job_server::{ConnectionId, Now};
use crate::protocol::FunctionName;
use crate::stats::account::{Account, Part};

/// How many functions are added for one piece.
const FUNCTIONS: usize = 256;
/// How many functions of workers are examined for one piece; the worker that reaches it is the last.
const ABILITIES: usize = 512;
/// How many connections are copied at a time.
const CONNECTIONS: usize = 64;

/// The sums so far.
#[derive(Debug, Default)]
pub(in crate::admin) struct ServerSum {
    function: Option<FunctionName>,
    has_functions: bool,
    connection: Option<ConnectionId>,
    jobs: JobCounts,
    oldest_ms: Option<u64>,
    fleet: FleetCounts,
    workers: WorkerStates,
}

impl Views {
    /// The server as a whole. With very many functions or connections this takes milliseconds.
    pub fn server(&self, now: Now) -> ServerView {
        let mut sum = ServerSum::default();
        while !sum.resume(self) {}
        self.server_of(now, &sum)
    }

    /// The same, from existing sums.
    pub(in crate::admin) fn server_of(&self, now: Now, sum: &ServerSum) -> ServerView {
        let (stats, times) = (self.stats(), self.times(now));
        ServerView {
            version: self.version,
            pid: std::process::id(),
            started_unix_ms: now.unix_us.saturating_sub(now.monotonic_us) / 1000,
            uptime_s: seconds(now.monotonic_us),
            draining: stats.draining.get() > 0,
            memory_bytes: resident_memory(),
            held: held(&stats.memory),
            connections: ConnectionsView {
                open: stats.connections.len() as u64,
                accepted: stats.accepted.get(),
                refused: stats.refused.get(),
                slow_readers: stats.slow_readers.get(),
            },
            functions: stats.functions.len() as u64,
            functions_refused: stats.functions_refused.get(),
            workers: sum.workers,
            fleet: sum.fleet,
            jobs: sum.jobs,
            oldest_queued_s: sum.oldest_ms.map(|since_ms| times.age_s(since_ms)),
            totals: totals(&stats.counters),
            rates: self.history_lock().rates(None),
            lock_acquisitions: stats.lock_acquisitions.get(),
            lock_wait_s: seconds(stats.lock_wait_ns.get() / 1000),
            wakeups: stats.wakeups.get(),
            store: self.store(),
        }
    }
}

impl ServerSum {
    /// Adds the next functions or connections. Returns whether they were the last.
    pub(in crate::admin) fn resume(&mut self, views: &Views) -> bool {
        if !self.has_functions {
            let page = views.stats().functions.page(self.function.as_ref(), FUNCTIONS);
            self.has_functions = page.len() < FUNCTIONS;
            for (name, gauges) in page {
                count_managed(&mut self.fleet, name.as_bytes(), gauges.workers.get());
                self.jobs.queued += gauges.queued();
                self.jobs.scheduled += gauges.scheduled();
                self.jobs.running += gauges.running.get();
                self.oldest_ms = self.oldest_ms.into_iter().chain(positive(&gauges.oldest_ms)).min();
                self.function = Some(name);
            }
            if !self.has_functions {
                return false;
            }
        }
        let (mut seen, most) = (0, ABILITIES);
        while seen < most {
            let page = views.stats().connections.page(self.connection.as_ref(), CONNECTIONS.min(most - seen));
            if page.is_empty() {
                return true;
            }
            for (id, connection) in page {
                self.connection = Some(id);
                let functions = connection.with_identity(|_, functions| functions.len());
                if functions > 0 {
                    count(&mut self.workers, state_of(&connection));
                }
                seen += 1 + functions;
                if seen >= most {
                    break;
                }
            }
        }
        false
    }
}

/// Counts a function that managed workers or a monitor register.
fn count_managed(fleet: &mut FleetCounts, function: &[u8], workers: u64) {
    if workers == 0 {
        return;
    }
    if WorkerId::of_function(function).is_some() {
        fleet.workers += 1;
    } else if function == SET_ID.as_bytes() {
        fleet.unnamed_workers = workers;
    } else if fleet_of_function(function).is_some() {
        fleet.monitors += 1;
    }
}

/// The view of the memory account.
fn held(account: &Account) -> HeldView {
    HeldView {
        total_bytes: account.total(),
        max_bytes: account.limit(),
        parts_bytes: Part::ALL.into_iter().map(|part| (part.name(), account.get(part))).collect(),
        connections_closed: account.closed.get(),
        submissions_refused: account.refused.get(),
    }
}

/// Resident memory of this process, in bytes.
fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
