//! Shared code of the stores with asynchronous drivers: runtime, connection, error handling, and reading
//! jobs.
//!
//! One thread calls a store and blocks on it. The driver's futures run on that thread, each with a timeout.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::row::{Prefixes, RawRow};
use super::{HasWorkload, Replayed, StoreError, Workloads};
use crate::job_server::{NUMBER_MAX, StoreFailure, StoredJob};

/// Timeout for connecting.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Statement timeout, enforced by the database.
pub(super) const STATEMENT_LIMIT: Duration = Duration::from_secs(30);
/// Timeout for a response. It exceeds the statement timeout, so that the database reports its own error
/// first.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(35);
/// How long to wait for the lock on a queue: a database may take a moment to notice that the previous server
/// is gone.
pub(super) const LOCK_LIMIT: Duration = Duration::from_secs(3);
/// A connection that was idle for longer than this is pinged before it is used: firewalls and databases close
/// idle connections.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// The Tokio runtime of one store. It must not be created, used or dropped inside another runtime.
pub(super) struct Driver {
    runtime: Runtime,
}

impl Driver {
    /// # Errors
    /// The process has no file descriptors left.
    pub(super) fn new() -> Result<Self, StoreError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
            StoreError::new(StoreFailure::Io, format!("cannot start the runtime of the database driver: {error}"))
        })?;
        Ok(Self { runtime })
    }

    /// Runs a future to completion. The future bounds its own steps with [`within`].
    pub(super) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Spawns a background future, such as the connection task of a driver. It makes progress only during
    /// [`run`](Self::run).
    pub(super) fn run_along(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(future));
    }
}

/// Runs a future with a timeout; `None` if it expired.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}

/// Waits for a response of the database, up to [`ANSWER_LIMIT`].
pub(super) async fn answer<T, E>(future: impl Future<Output = Result<T, E>>) -> Result<T, Failed<E>> {
    within(ANSWER_LIMIT, future).await.ok_or(Failed::NoAnswer)?.map_err(Failed::Driver)
}

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Failed<E> {
    /// An error from the driver or the database.
    Driver(E),
    /// Connecting timed out.
    Connecting,
    /// The response timed out.
    NoAnswer,
    /// The directory of the server's socket does not exist, so the socket cannot appear there.
    NoDirectory(String),
    /// An error detected by the store itself: code and text.
    Here(StoreFailure, String),
}

/// The error type of a driver.
pub(super) trait DriverError {
    /// Where an operator can see what the database is waiting for.
    const WAITS: &str;
    /// The setting that holds the path of the server's socket.
    const SOCKET: &str;

    /// Whether the error is permanent: retrying does not help until somebody changes a setting, here or in
    /// the database.
    fn is_lasting(&self) -> bool;

    /// Whether the error is transient: the connection or the transaction was ended from outside, and the next
    /// attempt may succeed.
    fn is_passing(&self) -> bool;

    /// The error code for clients, the reason as text, and advice.
    fn meaning(&self) -> (StoreFailure, String, &'static str);
}

impl<E: DriverError> From<E> for Failed<E> {
    fn from(error: E) -> Self {
        Self::Driver(error)
    }
}

impl<E: DriverError> Failed<E> {
    /// Whether the error is permanent, so that retrying does not help.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Driver(error) => error.is_lasting(),
            Self::NoDirectory(_) => true,
            Self::Connecting | Self::NoAnswer | Self::Here(..) => false,
        }
    }

    /// Whether the database understood the request and rejected it.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Driver(error) => error.meaning().0 == StoreFailure::Refused,
            Self::Here(failure, _) => *failure == StoreFailure::Refused,
            Self::Connecting | Self::NoAnswer | Self::NoDirectory(_) => false,
        }
    }

    /// Whether to retry at once. Not after a timeout: the callers have waited long enough.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Driver(error) if error.is_passing())
    }

    /// Builds the error for clients and the operator.
    pub(super) fn explain(&self, name: &str, purpose: &str) -> StoreError {
        let (failure, reason, advice) = match self {
            Self::Driver(error) => {
                let (failure, reason, advice) = error.meaning();
                (failure, reason, advice.to_owned())
            }
            Self::Connecting => (
                StoreFailure::Unreachable,
                format!("no connection within {} s", CONNECT_LIMIT.as_secs()),
                "check that it is running and that its address is correct".to_owned(),
            ),
            Self::NoAnswer => (
                StoreFailure::Unreachable,
                format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
                format!("check that it is running, and what it waits for ({})", E::WAITS),
            ),
            Self::NoDirectory(directory) => (
                StoreFailure::Unreachable,
                format!("the directory {directory} of the server's socket does not exist"),
                format!("see {}", E::SOCKET),
            ),
            Self::Here(failure, reason) => (*failure, reason.clone(), String::new()),
        };
        let separator = if advice.is_empty() { "" } else { "; " };
        StoreError::new(failure, format!("{name}: could not {purpose}: {reason}{separator}{advice}"))
    }
}

/// The stage at which an operation failed.
enum Attempt<E> {
    /// While connecting.
    Connecting(Failed<E>),
    /// While working on an established connection.
    Work(Failed<E>),
}

impl<E> Attempt<E> {
    fn into_failed(self) -> Failed<E> {
        match self {
            Self::Connecting(failed) | Self::Work(failed) => failed,
        }
    }
}

/// An established connection of a driver.
pub(super) trait Session {
    /// The error type of the driver.
    type Error: DriverError;

    /// Pings the server, with the timeout [`CONNECT_LIMIT`].
    async fn answers(&mut self) -> bool;
}

/// A connection that is re-established on demand.
pub(super) struct Reconnecting<S> {
    // Declared before the driver, so that it is dropped first.
    session: Option<S>,
    driver: Driver,
    last_used: Instant,
    /// Whether an operation has ever succeeded. Until then, permanent errors are reported as
    /// [`StoreFailure::Refused`].
    opened: bool,
}

impl<S: Session> Reconnecting<S> {
    /// # Errors
    /// The process has no file descriptors left.
    pub(super) fn new() -> Result<Self, StoreError> {
        Ok(Self { session: None, driver: Driver::new()?, last_used: Instant::now(), opened: false })
    }

    /// Runs `work` on a working connection, and connects first if there is none. `name` names the database,
    /// and `purpose` completes the sentence "could not ...".
    ///
    /// # Errors
    /// Connecting or the work failed.
    pub(super) fn with<T>(
        &mut self,
        (name, purpose): (&str, &str),
        connect: &impl AsyncFn(&Driver) -> Result<S, Failed<S::Error>>,
        work: impl AsyncFnOnce(&mut S) -> Result<T, Failed<S::Error>>,
    ) -> Result<T, StoreError> {
        let done = self.attempt(connect, work).map_err(Attempt::into_failed);
        self.judge(name, purpose, done)
    }

    /// Same as [`with`](Self::with), for idempotent work: if an existing connection was severed, it is
    /// retried at once on a new one. `work` receives whether it may already have been done completely.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub(super) fn with_again<T>(
        &mut self,
        (name, purpose): (&str, &str),
        connect: &impl AsyncFn(&Driver) -> Result<S, Failed<S::Error>>,
        work: &impl AsyncFn(&mut S, bool) -> Result<T, Failed<S::Error>>,
    ) -> Result<T, StoreError> {
        let done = match self.attempt(connect, async |session: &mut S| work(session, false).await) {
            Err(Attempt::Work(failed)) if failed.is_passing() => {
                let error = failed.explain(name, purpose);
                tracing::warn!("{error}: retrying with a new connection");
                self.attempt(connect, async |session: &mut S| work(session, true).await)
            }
            done => done,
        };
        self.judge(name, purpose, done.map_err(Attempt::into_failed))
    }

    fn attempt<T>(
        &mut self,
        connect: &impl AsyncFn(&Driver) -> Result<S, Failed<S::Error>>,
        work: impl AsyncFnOnce(&mut S) -> Result<T, Failed<S::Error>>,
    ) -> Result<T, Attempt<S::Error>> {
        let idle = self.last_used.elapsed() > IDLE_LIMIT;
        let mut kept = self.session.take();
        let driver = &self.driver;
        let result = driver.run(async {
            if idle
                && let Some(session) = &mut kept
                && !session.answers().await
            {
                kept = None;
            }
            let mut session = match kept {
                Some(session) => session,
                None => connect(driver).await?,
            };
            let done = work(&mut session).await;
            Ok((session, done))
        });
        self.last_used = Instant::now();
        let (session, done) = result.map_err(Attempt::Connecting)?;
        // After a rejected request the transaction was rolled back. After any other failure the state of the
        // connection is unknown.
        if done.as_ref().err().is_none_or(Failed::is_refusal) {
            self.session = Some(session);
        }
        self.opened |= done.is_ok();
        done.map_err(Attempt::Work)
    }

    fn judge<T>(&self, name: &str, purpose: &str, done: Result<T, Failed<S::Error>>) -> Result<T, StoreError> {
        done.map_err(|failed| self.error(name, purpose, &failed))
    }

    fn error(&self, name: &str, purpose: &str, failed: &Failed<S::Error>) -> StoreError {
        let error = failed.explain(name, purpose);
        let failure = if !self.opened && failed.is_lasting() { StoreFailure::Refused } else { error.failure };
        StoreError { failure, ..error }
    }
}

/// The highest job number that a row may keep, given the highest assigned number that the store has recorded.
pub(super) fn trusted_number_max(noted: i64) -> i64 {
    signed(super::trusted_number_max(noted.unsigned_abs()))
}

/// Job numbers stay far below the maximum of an `i64`.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Error text for rows that were inserted but do not exist.
pub(super) fn swallowed(inserted: u64, jobs: usize) -> String {
    format!("only {inserted} of {jobs} rows were inserted: a trigger or rule of the table drops the others; check why")
}

/// The consumer of the jobs.
pub(super) type Take<'a> = &'a mut dyn FnMut(StoredJob, HasWorkload) -> Workloads;

/// Passes on the jobs as they are read.
pub(super) struct Reader<'a, 'b> {
    take: Take<'a>,
    prefixes: &'b mut Prefixes,
    /// Whether to read the workloads of the next jobs.
    pub(super) wanted: Workloads,
    /// Counters of what was read so far.
    pub(super) replayed: Replayed,
    /// Invalid rows, by number, and the reason.
    pub(super) bad: Vec<(i64, String)>,
}

impl<'a, 'b> Reader<'a, 'b> {
    /// `last` is the highest job number ever assigned.
    pub(super) fn new(take: Take<'a>, prefixes: &'b mut Prefixes, last: i64) -> Self {
        let replayed = Replayed { last_number: last.unsigned_abs(), ..Replayed::default() };
        Self { take, prefixes, wanted: Workloads::Wanted, replayed, bad: Vec::new() }
    }

    /// Passes on the job in a row. A row without a valid job number gets the next number: C++ gearmand or
    /// another program wrote it.
    pub(super) fn enter(&mut self, mut raw: RawRow<'_>, has_number: bool, has_workload: bool) {
        let row = raw.number;
        if !has_number || !u64::try_from(row).is_ok_and(|row| (1..=NUMBER_MAX).contains(&row)) {
            raw.number = i64::try_from(self.replayed.last_number).unwrap_or(i64::MAX).saturating_add(1);
            self.replayed.last_number = raw.number.unsigned_abs();
        }
        match raw.job(self.prefixes) {
            Ok(job) => {
                self.replayed.jobs += 1;
                let has_workload = has_workload || job.unique() == b"-";
                self.wanted = (self.take)(job, has_workload);
            }
            Err(reason) => {
                self.replayed.quarantined += 1;
                self.bad.push((row, reason));
            }
        }
    }
}

/// Polls all futures in order until every one has completed. A driver sends requests in the order of their
/// first poll, without waiting for the responses in between (pipelining).
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
