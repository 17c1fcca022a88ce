//! `show workers` and `show worker`, in pieces. A worker may have so many functions that its line is longer
//! than a piece.

use std::sync::Arc;
use std::vec;

use super::{Cell, durations, first_name, function_name, handle_cell, text_cell, work_totals, write_pairs, write_row};
use crate::admin::text::LISTING_PIECE;
use crate::admin::view::{WorkTotals, WorkerFunctionView};
use crate::admin::views::{Views, WorkerHead, WorkerSum, Workers, worker_id};
use crate::job_server::{ConnectionId, Now};
use crate::protocol::text;
use crate::stats::ConnectionGauges;

/// How many functions of one worker are shown in one piece.
const FUNCTIONS_OF_PIECE: usize = 32;
/// How many of them are summed up for one piece.
const SUMMED_UP_OF_PIECE: usize = 256;

/// Lines of `show workers` that are left to write.
#[derive(Debug)]
pub(in crate::admin) struct WorkerLines {
    workers: Workers,
    /// Workers that are summed up, and have no line yet.
    summed_up: vec::IntoIter<WorkerSum>,
    /// A worker whose line is incomplete: this many of its oldest functions are left to write.
    unfinished: Option<(WorkerSum, usize)>,
}

impl WorkerLines {
    pub(super) fn new(workers: Workers) -> Self {
        Self { workers, summed_up: Vec::new().into_iter(), unfinished: None }
    }

    /// Appends the next lines, until `out` has [`LISTING_PIECE`] bytes or the listing should yield. Returns
    /// whether they are the last.
    pub(super) fn resume(&mut self, views: &Views, now: Now, out: &mut Vec<u8>) -> bool {
        if self.unfinished.is_none() && self.summed_up.as_slice().is_empty() {
            match self.workers.next_piece(views) {
                Some(piece) => self.summed_up = piece.into_iter(),
                None => return true,
            }
        }
        while out.len() < LISTING_PIECE {
            let (worker, left) = match self.unfinished.take() {
                Some(unfinished) => unfinished,
                None => match self.summed_up.next() {
                    Some(worker) => {
                        write_before_functions(&worker, &worker.head(views, now), out);
                        let left = worker.functions;
                        (worker, left)
                    }
                    None => break,
                },
            };
            let left = write_functions(&worker, left, out);
            if left > 0 {
                self.unfinished = Some((worker, left));
            } else {
                write_behind_functions(&worker, &worker.head(views, now), out);
            }
        }
        false
    }
}

fn write_before_functions(worker: &WorkerSum, head: &WorkerHead, out: &mut Vec<u8>) {
    let gauges = &worker.gauges;
    for cell in [
        text_cell(&worker_id(worker.id)),
        text_cell(&gauges.peer),
        gauges.client_id().into(),
        head.state.into(),
        head.connected_unix_ms.into(),
        head.heard_unix_ms.into(),
    ] {
        cell.write(out);
        out.push(b'\t');
    }
}

/// Writes the `left` oldest functions of a worker, separated by commas, until `out` has [`LISTING_PIECE`]
/// bytes. A comma in a name is escaped like other bytes that would break a listing. Returns how many are
/// left.
fn write_functions(worker: &WorkerSum, left: usize, out: &mut Vec<u8>) -> usize {
    if worker.functions == 0 {
        Cell::Unknown.write(out);
    }
    worker.gauges.with_identity(|_, functions| {
        let meant = functions.oldest(left);
        let count = meant.len();
        for (index, ability) in meant.enumerate() {
            let name = ability.function.as_bytes();
            match (index == 0 && left == worker.functions, name) {
                (true, b"-") if worker.functions == 1 => Cell::Name(name.to_vec()).write(out),
                (is_first, _) => {
                    if !is_first {
                        out.push(b',');
                    }
                    text::write_escaped(name, out, b',');
                }
            }
            if out.len() >= LISTING_PIECE {
                return count - index - 1;
            }
        }
        0
    })
}

fn write_behind_functions(worker: &WorkerSum, head: &WorkerHead, out: &mut Vec<u8>) {
    let WorkTotals { done, failed, exceptions, timed_out, requeued } = worker.totals;
    out.push(b'\t');
    write_row(
        &[
            worker.gauges.running.get().into(),
            head.job.as_ref().map(|(handle, _)| handle_cell(handle)).into(),
            head.job.as_ref().map(|(_, since_ms)| *since_ms).into(),
            done.into(),
            failed.into(),
            exceptions.into(),
            timed_out.into(),
            requeued.into(),
            head.run.mean_s.into(),
            head.run.p50_s.into(),
            head.run.p99_s.into(),
        ],
        out,
    );
}

/// The answer to `show worker`.
#[derive(Debug)]
pub(in crate::admin) enum OneWorker {
    /// This many of its oldest functions are left to add.
    Sum(Box<WorkerSum>, usize),
    /// The part on the worker as a whole is written.
    Lines {
        /// The id of the worker.
        id: ConnectionId,
        /// The gauges of the worker.
        gauges: Arc<ConnectionGauges>,
        /// This many of its oldest functions are left to show, and then its former ones.
        left: usize,
    },
}

impl OneWorker {
    /// `None` if there is no such worker.
    pub(in crate::admin) fn new(views: &Views, id: ConnectionId) -> Option<Self> {
        let worker = views.worker_sum(id)?;
        let left = worker.functions;
        Some(Self::Sum(Box::new(worker), left))
    }

    /// Appends the next lines. Returns whether they are the last.
    pub(in crate::admin) fn resume(&mut self, views: &Views, now: Now, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Sum(worker, left) => {
                *left = worker.add(*left, SUMMED_UP_OF_PIECE).1;
                if *left == 0 {
                    write_whole(worker, &worker.head(views, now), out);
                    let (id, gauges, left) = (worker.id, Arc::clone(&worker.gauges), worker.functions);
                    *self = Self::Lines { id, gauges, left };
                }
                false
            }
            Self::Lines { id, gauges, left } if *left == 0 => {
                write_rest(views, now, *id, gauges, out);
                true
            }
            Self::Lines { gauges, left, .. } => {
                let functions = gauges.functions_from_oldest(*left, FUNCTIONS_OF_PIECE);
                // There may be fewer of them by now.
                *left = if functions.is_empty() { 0 } else { left.saturating_sub(functions.len()) };
                for ability in &functions {
                    write_function(&WorkerFunctionView::of(ability, true), out);
                }
                false
            }
        }
    }
}

/// Writes the part on the worker as a whole.
fn write_whole(worker: &WorkerSum, head: &WorkerHead, out: &mut Vec<u8>) {
    let gauges = &worker.gauges;
    write_pairs(
        &[
            ("id", text_cell(&worker_id(worker.id))),
            ("address", text_cell(&gauges.peer)),
            ("file_descriptor", u64::try_from(gauges.file_descriptor).ok().into()),
            ("client_id", gauges.client_id().into()),
            ("tls_name", Cell::Unknown),
            ("connected_unix_ms", head.connected_unix_ms.into()),
            ("heard_unix_ms", head.heard_unix_ms.into()),
            ("state", head.state.into()),
            ("running", gauges.running.get().into()),
        ],
        out,
    );
    write_pairs(&work_totals(&worker.totals), out);
    write_pairs(&durations(["run_mean_s", "run_p50_s", "run_p90_s", "run_p99_s"], &head.run), out);
}

/// Writes the former functions of a worker, and the jobs that it holds.
fn write_rest(views: &Views, now: Now, id: ConnectionId, gauges: &ConnectionGauges, out: &mut Vec<u8>) {
    for ability in gauges.former_functions().iter().rev() {
        write_function(&WorkerFunctionView::of(ability, false), out);
    }
    for job in views.held_jobs(now, id) {
        write_row(
            &[
                "job".into(),
                handle_cell(&job.handle),
                function_name(&job.function_id).into(),
                job.since_unix_ms.into(),
                job.progress.map(|progress| progress.numerator).into(),
                job.progress.map(|progress| progress.denominator).into(),
                job.deadline_unix_ms.into(),
            ],
            out,
        );
    }
}

fn write_function(function: &WorkerFunctionView, out: &mut Vec<u8>) {
    let WorkTotals { done, failed, exceptions, timed_out, requeued } = function.totals;
    write_row(
        &[
            "function".into(),
            first_name(&function.id),
            function.in_use.into(),
            function.mode.into(),
            done.into(),
            failed.into(),
            exceptions.into(),
            timed_out.into(),
            requeued.into(),
            function.run.mean_s.into(),
            function.run.p50_s.into(),
            function.run.p99_s.into(),
        ],
        out,
    );
}
