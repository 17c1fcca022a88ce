//! Previews of workloads that are only in the store. The caller waits as long as it likes, and the store's
//! thread answers when it has time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};

use bytes::Bytes;

use crate::job_server::JobKey;

/// Maximum size of a preview, in bytes.
pub const HEAD_MAX: usize = 65_536;
/// Maximum number of waiting requests. Each may concern a large workload, and the writing of jobs shares the
/// thread.
const PREVIEWS_MAX: usize = 64;

/// The preview of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Size of the workload, in bytes.
    pub bytes: u64,
    /// Its first bytes, at most [`HEAD_MAX`].
    pub head: Bytes,
}

impl Preview {
    /// Copies only the beginning, so that a large workload does not stay in memory.
    pub(super) fn of(workload: &[u8]) -> Self {
        let head = Bytes::copy_from_slice(&workload[..workload.len().min(HEAD_MAX)]);
        Self { bytes: workload.len() as u64, head }
    }
}

/// The caller's side of a requested preview. Dropping it cancels the request.
#[derive(Debug)]
pub struct PendingPreview(Arc<Mutex<Answer>>);

#[derive(Debug)]
enum Answer {
    Waiting(Option<Waker>),
    Given(Option<Preview>),
}

impl PendingPreview {
    /// The preview, once it is available; `None` if the workload cannot be read now or no longer exists.
    /// Until then, `waker` is registered to be woken.
    pub fn poll(&self, waker: &Waker) -> Poll<Option<Preview>> {
        match &mut *lock(&self.0) {
            Answer::Given(preview) => Poll::Ready(preview.take()),
            Answer::Waiting(waiting) => {
                *waiting = Some(waker.clone());
                Poll::Pending
            }
        }
    }
}

/// The store's side of a requested preview.
#[derive(Debug)]
pub(super) struct PreviewRequest {
    pub(super) job: JobKey,
    answer: Weak<Mutex<Answer>>,
}

impl PreviewRequest {
    /// Whether the caller is still waiting.
    pub(super) fn is_wanted(&self) -> bool {
        self.answer.strong_count() > 0
    }

    pub(super) fn answer(self, preview: Option<Preview>) {
        let Some(answer) = self.answer.upgrade() else { return };
        let before = std::mem::replace(&mut *lock(&answer), Answer::Given(preview));
        if let Answer::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

fn lock(answer: &Mutex<Answer>) -> MutexGuard<'_, Answer> {
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waiting requests, in order.
#[derive(Debug, Default)]
pub(super) struct PreviewQueue(VecDeque<PreviewRequest>);

impl PreviewQueue {
    /// Adds a request; `None` if too many are waiting already.
    pub(super) fn request(&mut self, job: JobKey) -> Option<PendingPreview> {
        self.0.retain(PreviewRequest::is_wanted);
        if self.0.len() >= PREVIEWS_MAX {
            return None;
        }
        let answer = Arc::new(Mutex::new(Answer::Waiting(None)));
        self.0.push_back(PreviewRequest { job, answer: Arc::downgrade(&answer) });
        Some(PendingPreview(answer))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next request whose caller is still waiting.
    pub(super) fn next(&mut self) -> Option<PreviewRequest> {
        while let Some(request) = self.0.pop_front() {
            if request.is_wanted() {
                return Some(request);
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
    fn requests_are_limited_and_end_with_their_caller() {
        let mut previews = PreviewQueue::default();
        let mut requested: Vec<PendingPreview> =
            (0..PREVIEWS_MAX).map(|_| previews.request(key()).expect("there is room")).collect();
        assert!(previews.request(key()).is_none());
        requested.remove(0);
        assert!(previews.request(key()).is_some(), "one was taken back");
        drop(requested);
        assert!(previews.next().is_none() && previews.is_empty());
    }

    #[test]
    fn a_preview_is_the_size_and_the_beginning() {
        let workload = vec![7; HEAD_MAX + 1];
        let Preview { bytes, head } = Preview::of(&workload);
        assert_eq!((bytes, head.len()), (HEAD_MAX as u64 + 1, HEAD_MAX));
        let mut previews = PreviewQueue::default();
        let pending = previews.request(key()).unwrap();
        assert_eq!(pending.poll(Waker::noop()), Poll::Pending);
        previews.next().unwrap().answer(Some(Preview::of(b"w")));
        assert_eq!(
            pending.poll(Waker::noop()),
            Poll::Ready(Some(Preview { bytes: 1, head: Bytes::from_static(b"w") }))
        );
    }
}
