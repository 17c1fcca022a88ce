//! Waiting until what was asked of the store is committed: who waits holds nobody up, and the store's thread answers when it has
//! come so far.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::job_server::StoreFailure;

/// How long a store is waited for that commits nothing at all.
pub const COMMIT_WAIT: Duration = Duration::from_secs(10);
/// From so many on that wait, those that have gone are looked for.
const MANY: usize = 1024;

/// What became of everything that was asked of the store before: it is committed, or it is not and why. It is made up for as soon as
/// the store works again.
pub type Committed = Result<(), StoreFailure>;

/// The side of whoever waits. Dropping it takes the question back.
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
    /// What became of it, once that is known. Until then `waker` is woken when it is.
    pub fn poll(&self, waker: &Waker) -> Poll<Committed> {
        match &mut *lock(&self.answer) {
            Answer::Given(committed) => Poll::Ready(*committed),
            Answer::Waiting(waiting) => {
                *waiting = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    /// Whether the store has committed something since this was asked last: after [`COMMIT_WAIT`] it is worth to wait on.
    pub fn has_progressed(&mut self) -> bool {
        let now = self.progress.load(Ordering::Relaxed);
        std::mem::replace(&mut self.seen, now) != now
    }
}

/// The side of the store.
#[derive(Debug)]
pub(super) struct Waiter {
    /// How many changes must have been taken.
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

/// Those that wait, by position, and how far the queue has come.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    line: VecDeque<Waiter>,
    /// So many changes were asked for, and so many of them taken.
    asked: u64,
    taken: u64,
    progress: Arc<AtomicU64>,
    /// At this number those that have gone are looked for.
    prune_at: usize,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// A change was asked for.
    pub(super) fn count_asked(&mut self) {
        self.asked += 1;
    }

    /// Somebody waits for all that was asked until now.
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

    /// So many changes more are taken, and those before them are through. Returns those that need not wait for others.
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
