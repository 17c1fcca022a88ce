//! Waiting for a commit without blocking: the store's thread answers once everything before it
//! is committed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::job_server::StoreFailure;

/// How long to wait for a store that makes no progress.
pub const COMMIT_WAIT: Duration = Duration::from_secs(10);
/// From this number of waiters on, cancelled ones are pruned.
const MANY: usize = 1024;

/// The outcome of all operations requested before: committed, or the reason why not. Failed operations are
/// retried as soon as the store works again.
pub type Committed = Result<(), StoreFailure>;

/// The waiting side. Dropping it cancels the request.
#[derive(Debug)]
pub struct Commit {
    answer: Arc<Mutex<Answer>>,
    progress: Arc<AtomicU64>,
    seen: u64,
}

#[derive(Debug)]
enum Answer {
    Waiting(Option<Waker>),
    Given(Committed),
}

impl Commit {
    /// The outcome, once it is known. Until then, `waker` is registered to be woken.
    pub fn poll(&self, waker: &Waker) -> Poll<Committed> {
        match &mut *lock(&self.answer) {
            Answer::Given(committed) => Poll::Ready(*committed),
            Answer::Waiting(waiting) => {
                *waiting = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    /// Whether the store has made progress since the last call. If so, waiting longer than [`COMMIT_WAIT`]
    /// makes sense.
    pub fn has_progressed(&mut self) -> bool {
        let now = self.progress.load(Ordering::Relaxed);
        std::mem::replace(&mut self.seen, now) != now
    }
}

/// The store's side.
#[derive(Debug)]
pub(super) struct Waiter {
    /// Number of changes that must have been taken.
    position: u64,
    answer: Weak<Mutex<Answer>>,
}

impl Waiter {
    pub(super) fn give(self, committed: Committed) {
        let Some(answer) = self.answer.upgrade() else { return };
        let before = std::mem::replace(&mut *lock(&answer), Answer::Given(committed));
        if let Answer::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

fn lock(answer: &Mutex<Answer>) -> MutexGuard<'_, Answer> {
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waiters ordered by position, and the progress of the queue.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    line: VecDeque<Waiter>,
    /// Number of changes requested, and number taken.
    asked: u64,
    taken: u64,
    progress: Arc<AtomicU64>,
    /// Prune cancelled waiters when there are this many.
    prune_at: usize,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Counts a requested change.
    pub(super) fn count_asked(&mut self) {
        self.asked += 1;
    }

    /// Adds a waiter for everything requested so far.
    pub(super) fn wait(&mut self) -> Commit {
        if self.line.len() >= self.prune_at.max(MANY) {
            self.line.retain(|waiter| waiter.answer.strong_count() > 0);
            self.prune_at = 2 * self.line.len();
        }
        let answer = Arc::new(Mutex::new(Answer::Waiting(None)));
        self.line.push_back(Waiter { position: self.asked, answer: Arc::downgrade(&answer) });
        let progress = Arc::clone(&self.progress);
        Commit { answer, seen: progress.load(Ordering::Relaxed), progress }
    }

    /// Counts taken changes; all earlier ones are done. Returns the waiters that have reached their position.
    pub(super) fn take(&mut self, count: usize) -> Vec<Waiter> {
        self.taken += count as u64;
        self.progress.fetch_add(1, Ordering::Relaxed);
        let reached = self.line.iter().take_while(|waiter| waiter.position <= self.taken).count();
        self.line.drain(..reached).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waits_for_what_was_asked_before_and_for_nothing_else() {
        let mut waiters = Waiters::default();
        (0..3).for_each(|_| waiters.count_asked());
        let mut commit = waiters.wait();
        waiters.count_asked();
        let later = waiters.wait();
        assert!(waiters.take(2).is_empty() && commit.has_progressed() && !commit.has_progressed());
        let reached = waiters.take(1);
        assert_eq!((reached.len(), commit.poll(Waker::noop())), (1, Poll::Pending));
        for waiter in reached {
            waiter.give(Ok(()));
        }
        assert_eq!((commit.poll(Waker::noop()), later.poll(Waker::noop())), (Poll::Ready(Ok(())), Poll::Pending));
        for waiter in waiters.take(1) {
            waiter.give(Err(StoreFailure::Full));
        }
        assert_eq!(later.poll(Waker::noop()), Poll::Ready(Err(StoreFailure::Full)));
        assert!(waiters.is_empty());
    }

    #[test]
    fn those_that_have_gone_take_no_memory_for_long() {
        let mut waiters = Waiters::default();
        for _ in 0..10 * MANY {
            drop(waiters.wait());
        }
        assert!(waiters.line.len() <= MANY);
    }
}
