//! Lines on their way to the thread that writes them: a queue with a bound.
//!
//! Whoever logs never waits. Where the writer does not keep up, lines are left out and counted, and a line says so in their
//! place.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::line::Record;

/// How many lines may wait.
const LINES: usize = 16 * 1024;
/// How many bytes they may have together.
const BYTES: usize = 8 << 20;

/// What the writer is to do.
#[derive(Debug)]
pub(super) enum Entry {
    /// Write this.
    Line(Box<Record>),
    /// Say that so many lines are missing here.
    LeftOut(u64),
    /// Open the log file anew.
    Reopen,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to do.
    filled: Condvar,
    /// Something was done.
    done: Condvar,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each may be with any of the others")]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Lines that were left out and have no entry yet.
    left_out: u64,
    /// Whether lines are left out: until half of the queue is empty.
    is_full: bool,
    /// Whether a reopening waits.
    has_reopen: bool,
    /// Whether the writer has taken an entry that is not done.
    is_writing: bool,
    /// Whether the writer ends when all is done.
    is_closed: bool,
    /// All lines that were left out here.
    total_left_out: u64,
}

impl Queue {
    /// Adds a line, or leaves it out.
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

    /// Asks for the log file to be opened anew, after what is in the queue by now.
    pub(super) fn reopen(&self) {
        let mut state = self.lock();
        // One that waits opens a file that is as new.
        if !state.has_reopen {
            state.has_reopen = true;
            state.note_left_out();
            state.entries.push_back(Entry::Reopen);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Whether the log file is to be opened anew, for a writer that cannot go on with the one it has.
    pub(super) fn has_reopen(&self) -> bool {
        self.lock().has_reopen
    }

    /// The writer goes on with what is next: waits for it, and takes it. `None` where the queue is closed and empty.
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

    /// Waits until all that is in the queue is written, but not for longer than this. Whether it is.
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

    /// Lets the writer end when all is written.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.filled.notify_one();
    }

    /// How many lines were left out here since the start.
    pub(super) fn total_left_out(&self) -> u64 {
        self.lock().total_left_out
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts into the queue that lines are missing, after those that came before them.
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
