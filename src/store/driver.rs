//! The runtime of the stores whose drivers are asynchronous. A store is called by one thread and blocks it; this runs the
//! driver's futures on that same thread, each with a bound in time.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::StoreError;
use crate::job_server::StoreFailure;

/// How long it may take to connect.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the database may work on one statement: it ends it itself.
pub(super) const STATEMENT_LIMIT: Duration = Duration::from_secs(30);
/// How long an answer may take: longer than a statement may, so that the database's own word is heard first.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(35);
/// How long to wait for the lock on a queue: a database may take a moment to notice that the last server has gone.
pub(super) const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// A connection that was not used for so long is asked whether it still works before anything depends on it: firewalls
/// and databases close idle connections.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// A runtime that belongs to one store. Must not be made, used or dropped within another runtime.
pub(super) struct Driver {
    runtime: Runtime,
}

impl Driver {
    /// # Errors
    /// The process has no file descriptors left.
    pub(super) fn new() -> Result<Self, StoreError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
            StoreError::new(StoreFailure::Io, format!("no runtime for the driver of the database: {error}"))
        })?;
        Ok(Self { runtime })
    }

    /// Runs a future to its end. It bounds its own steps with [`within`].
    pub(super) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Lets a future run along whenever [`run`](Self::run) does: what a driver does for its connection.
    pub(super) fn run_along(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(future));
    }
}

/// Gives a future so much time; `None` when that was not enough.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}

/// Polls futures in the order in which they stand, until all have ended: a driver sends requests in the order in which they
/// are polled first, without waiting for the answers in between.
pub(super) async fn in_order<T>(futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
    let mut running: Vec<Result<T, _>> = futures.into_iter().map(Err).collect();
    poll_fn(|context| {
        let mut pending = false;
        for slot in &mut running {
            if let Err(future) = slot {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *slot = Ok(output),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(Result::ok).collect()
}
