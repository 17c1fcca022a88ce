//! The bounded queue between loggers and the thread that writes the log.
//!
//! Logging never blocks. When the writer does not keep up, lines are dropped and counted, and a line reports
//! the count in their place.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::line::Record;

/// Maximum number of queued lines.
const LINES: usize = 16 * 1024;
/// Maximum size of the queued lines, in bytes.
const BYTES: usize = 8 << 20;

/// An instruction for the writer.
#[derive(Debug)]
pub(super) enum Entry {
    /// Write this line.
    Line(Box<Record>),
    /// Report that this many lines were dropped here.
    LeftOut(u64),
    /// Reopen the log file.
    Reopen,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// The queue is not empty, or is closed.
    filled: Condvar,
    /// An entry was processed.
    done: Condvar,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each may be with any of the others")]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Dropped lines that have no entry yet.
    left_out: u64,
    /// Whether lines are being dropped: until half of the queue is empty.
    is_full: bool,
    /// Whether a reopen is queued.
    has_reopen: bool,
    /// Whether the writer is processing an entry.
    is_writing: bool,
    /// Whether the writer ends when the queue is empty.
    is_closed: bool,
    /// All lines dropped here since the start.
    total_left_out: u64,
}

impl Queue {
    /// Adds a line, or drops it.
    pub(super) fn push(&self, record: Record) {
        let mut state = self.lock();
        let size = record.size();
        if state.is_full {
            state.is_full = state.entries.len() > LINES / 2 || state.bytes > BYTES / 2;
        } else {
            state.is_full = state.entries.len() >= LINES || state.bytes + size > BYTES;
        }
        if state.is_full {
            state.left_out += 1;
            state.total_left_out += 1;
            return;
        }
        state.note_left_out();
        state.bytes += size;
        state.entries.push_back(Entry::Line(Box::new(record)));
        drop(state);
        self.filled.notify_one();
    }

    /// Requests a reopen of the log file, after the lines queued so far.
    pub(super) fn reopen(&self) {
        let mut state = self.lock();
        // A queued reopen opens a file that is just as new.
        if !state.has_reopen {
            state.has_reopen = true;
            state.note_left_out();
            state.entries.push_back(Entry::Reopen);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Whether a reopen is queued, for a writer that is stuck with its current file.
    pub(super) fn has_reopen(&self) -> bool {
        self.lock().has_reopen
    }

    /// Waits for the next entry and takes it; marks the previous one as processed. `None` if the queue is
    /// closed and empty.
    pub(super) fn take(&self) -> Option<Entry> {
        let mut state = self.lock();
        state.is_writing = false;
        loop {
            if state.entries.is_empty() {
                state.note_left_out();
            }
            if let Some(entry) = state.entries.pop_front() {
                match &entry {
                    Entry::Line(record) => state.bytes -= record.size(),
                    Entry::Reopen => state.has_reopen = false,
                    Entry::LeftOut(_) => {}
                }
                state.is_writing = true;
                return Some(entry);
            }
            self.done.notify_all();
            if state.is_closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all queued lines are written, for at most `limit`. Returns whether they are.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while !state.is_idle() {
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            state = self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Lets the writer end when the queue is empty.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_one();
    }

    /// How many lines were dropped here since the start.
    pub(super) fn total_left_out(&self) -> u64 {
        self.lock().total_left_out
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Queues a report on the dropped lines, behind the lines before them.
    fn note_left_out(&mut self) {
        let count = std::mem::take(&mut self.left_out);
        if count > 0 {
            self.entries.push_back(Entry::LeftOut(count));
        }
    }

    fn is_idle(&self) -> bool {
        self.entries.is_empty() && !self.is_writing && self.left_out == 0
    }
}
