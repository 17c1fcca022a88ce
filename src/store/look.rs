//! Previews of workloads that are only in the store. The caller waits as long as it likes, and the store's
//! thread answers when it has time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};

use bytes::Bytes;

use crate::job_server::JobKey;

/// Maximum size of a preview, in bytes.
pub const HEAD_MAX: usize = 65_536;
/// Maximum number of waiting previews. Each may concern a large workload, and the writing of jobs shares the
/// thread.
const LOOKS_MAX: usize = 64;

/// The preview of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Size of the workload, in bytes.
    pub bytes: u64,
    /// Its first bytes, at most [`HEAD_MAX`].
    pub head: Bytes,
}

impl Sight {
    /// Copies only the beginning, so that a large workload does not stay in memory.
    pub(super) fn of(workload: &[u8]) -> Self {
        let head = Bytes::copy_from_slice(&workload[..workload.len().min(HEAD_MAX)]);
        Self { bytes: workload.len() as u64, head }
    }
}

/// The caller's side. Dropping it cancels the request.
#[derive(Debug)]
pub struct Looking(Arc<Mutex<Answer>>);

#[derive(Debug)]
enum Answer {
    Waiting(Option<Waker>),
    Given(Option<Sight>),
}

impl Looking {
    /// The preview, once it is available; `None` if the workload cannot be read now or no longer exists.
    /// Until then, `waker` is registered to be woken.
    pub fn poll(&self, waker: &Waker) -> Poll<Option<Sight>> {
        match &mut *lock(&self.0) {
            Answer::Given(sight) => Poll::Ready(sight.take()),
            Answer::Waiting(waiting) => {
                *waiting = Some(waker.clone());
                Poll::Pending
            }
        }
    }
}

/// The store's side.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) job: JobKey,
    answer: Weak<Mutex<Answer>>,
}

impl Wanted {
    /// Whether the caller is still waiting.
    pub(super) fn is_wanted(&self) -> bool {
        self.answer.strong_count() > 0
    }

    pub(super) fn give(self, sight: Option<Sight>) {
        let Some(answer) = self.answer.upgrade() else { return };
        let before = std::mem::replace(&mut *lock(&answer), Answer::Given(sight));
        if let Answer::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

fn lock(answer: &Mutex<Answer>) -> MutexGuard<'_, Answer> {
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waiting previews, in order.
#[derive(Debug, Default)]
pub(super) struct Looks(VecDeque<Wanted>);

impl Looks {
    /// `None` if too many are waiting already.
    pub(super) fn ask(&mut self, job: JobKey) -> Option<Looking> {
        self.0.retain(Wanted::is_wanted);
        if self.0.len() >= LOOKS_MAX {
            return None;
        }
        let answer = Arc::new(Mutex::new(Answer::Waiting(None)));
        self.0.push_back(Wanted { job, answer: Arc::downgrade(&answer) });
        Some(Looking(answer))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next preview whose caller is still waiting.
    pub(super) fn next(&mut self) -> Option<Wanted> {
        while let Some(wanted) = self.0.pop_front() {
            if wanted.is_wanted() {
                return Some(wanted);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::FunctionName;

    fn key() -> JobKey {
        JobKey { number: 1, function: FunctionName::new(b"f"), unique: Box::default() }
    }

    #[test]
    fn questions_are_limited_and_end_with_who_asked() {
        let mut looks = Looks::default();
        let mut asked: Vec<Looking> = (0..LOOKS_MAX).map(|_| looks.ask(key()).expect("there is room")).collect();
        assert!(looks.ask(key()).is_none());
        asked.remove(0);
        assert!(looks.ask(key()).is_some(), "one was taken back");
        drop(asked);
        assert!(looks.next().is_none() && looks.is_empty());
    }

    #[test]
    fn a_sight_is_the_size_and_the_beginning() {
        let workload = vec![7; HEAD_MAX + 1];
        let Sight { bytes, head } = Sight::of(&workload);
        assert_eq!((bytes, head.len()), (HEAD_MAX as u64 + 1, HEAD_MAX));
        let mut looks = Looks::default();
        let looking = looks.ask(key()).unwrap();
        assert_eq!(looking.poll(Waker::noop()), Poll::Pending);
        looks.next().unwrap().give(Some(Sight::of(b"w")));
        assert_eq!(looking.poll(Waker::noop()), Poll::Ready(Some(Sight { bytes: 1, head: Bytes::from_static(b"w") })));
    }
}
