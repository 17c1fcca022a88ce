//! What the stores have in common whose drivers are asynchronous: the runtime, the connection, failures, and reading jobs.
//!
//! A store is called by one thread and blocks it; this runs the driver's futures on that same thread, each with a bound in time.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::entry::{Entry, Prefixes};
use super::{HasWorkload, Replayed, StoreError, Workloads};
use crate::job_server::{NUMBER_MAX, StoreFailure, StoredJob};

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

/// An answer of the database, within its time.
pub(super) async fn answer<T, E>(future: impl Future<Output = Result<T, E>>) -> Result<T, Failed<E>> {
    within(ANSWER_LIMIT, future).await.ok_or(Failed::NoAnswer)?.map_err(Failed::Driver)
}

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Failed<E> {
    /// The driver or the database says so.
    Driver(E),
    /// No connection came about in time.
    Connecting,
    /// No answer came in time.
    NoAnswer,
    /// There is no directory in which the server's socket could come to be.
    NoDirectory(String),
    /// This store itself says so: what, and in words.
    Here(StoreFailure, String),
}

/// The error of a driver.
pub(super) trait DriverError {
    /// Where an operator sees what the database waits for.
    const WAITS: &str;
    /// The setting that says where the server's socket is.
    const SOCKET: &str;

    /// Whether trying again cannot mend it: somebody has to change a setting, here or in the database.
    fn is_lasting(&self) -> bool;

    /// Whether the connection or the transaction was ended from outside, and the next one may do.
    fn is_passing(&self) -> bool;

    /// What it means for clients, in words, and what to do.
    fn meaning(&self) -> (StoreFailure, String, &'static str);
}

impl<E: DriverError> From<E> for Failed<E> {
    fn from(error: E) -> Self {
        Self::Driver(error)
    }
}

impl<E: DriverError> Failed<E> {
    /// Whether trying again cannot mend it.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Driver(error) => error.is_lasting(),
            Self::NoDirectory(_) => true,
            Self::Connecting | Self::NoAnswer | Self::Here(..) => false,
        }
    }

    /// Whether the database has understood, and does not want it.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Driver(error) => error.meaning().0 == StoreFailure::Refused,
            Self::Here(failure, _) => *failure == StoreFailure::Refused,
            Self::Connecting | Self::NoAnswer | Self::NoDirectory(_) => false,
        }
    }

    /// Whether it is worth to try again at once. Where no answer came, everybody has waited long enough.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Driver(error) if error.is_passing())
    }

    /// For clients and for the operator.
    fn explain(&self, name: &str, purpose: &str) -> StoreError {
        let (failure, reason, advice) = match self {
            Self::Driver(error) => {
                let (failure, reason, advice) = error.meaning();
                (failure, reason, advice.to_owned())
            }
            Self::Connecting => (
                StoreFailure::Unreachable,
                format!("no connection within {} s", CONNECT_LIMIT.as_secs()),
                "see whether it runs and whether its address is right".to_owned(),
            ),
            Self::NoAnswer => (
                StoreFailure::Unreachable,
                format!("no answer within {} s", ANSWER_LIMIT.as_secs()),
                format!("see whether it runs, and what it waits for ({})", E::WAITS),
            ),
            Self::NoDirectory(directory) => (
                StoreFailure::Unreachable,
                format!("there is no directory {directory} for the server's socket"),
                format!("see {}", E::SOCKET),
            ),
            Self::Here(failure, reason) => (*failure, reason.clone(), String::new()),
        };
        let separator = if advice.is_empty() { "" } else { "; " };
        StoreError::new(failure, format!("{name}: could not {purpose}: {reason}{separator}{advice}"))
    }
}

/// How far something came that was not done.
enum Attempt<E> {
    /// There was no connection.
    Connecting(Failed<E>),
    /// There was one.
    Work(Failed<E>),
}

impl<E> Attempt<E> {
    fn into_failed(self) -> Failed<E> {
        match self {
            Self::Connecting(failed) | Self::Work(failed) => failed,
        }
    }
}

/// A connection of a driver.
pub(super) trait Session {
    /// What the driver says when something goes wrong.
    type Error: DriverError;

    /// Whether the other side is still there, within [`CONNECT_LIMIT`].
    async fn answers(&mut self) -> bool;
}

/// A connection that is made anew where it is needed.
pub(super) struct Keeper<S> {
    // Before the driver, since it ends first.
    session: Option<S>,
    driver: Driver,
    last_used: Instant,
    /// Whether it has ever been there. Before that, what trying again cannot mend is refused.
    opened: bool,
}

impl<S: Session> Keeper<S> {
    /// # Errors
    /// The process has no file descriptors left.
    pub(super) fn new() -> Result<Self, StoreError> {
        Ok(Self { session: None, driver: Driver::new()?, last_used: Instant::now(), opened: false })
    }

    /// Does something with a connection that works, after it is made where there is none. `name` is the database's, and
    /// `purpose` completes the sentence "could not ...".
    ///
    /// # Errors
    /// What went wrong with either.
    pub(super) fn with<T>(
        &mut self,
        (name, purpose): (&str, &str),
        connect: &impl AsyncFn(&Driver) -> Result<S, Failed<S::Error>>,
        work: impl AsyncFnOnce(&mut S) -> Result<T, Failed<S::Error>>,
    ) -> Result<T, StoreError> {
        let done = self.attempt(connect, work).map_err(Attempt::into_failed);
        self.judge(name, purpose, done)
    }

    /// The same for work that can be done again: where a connection of before was severed, a new one is tried at once. `work` is
    /// told whether all of it may have been done already.
    ///
    /// # Errors
    /// What went wrong, the second time if there was one.
    pub(super) fn with_again<T>(
        &mut self,
        (name, purpose): (&str, &str),
        connect: &impl AsyncFn(&Driver) -> Result<S, Failed<S::Error>>,
        work: &impl AsyncFn(&mut S, bool) -> Result<T, Failed<S::Error>>,
    ) -> Result<T, StoreError> {
        let done = match self.attempt(connect, async |session: &mut S| work(session, false).await) {
            Err(Attempt::Work(failed)) if failed.is_passing() => {
                let error = failed.explain(name, purpose);
                tracing::warn!("{error}: trying again at once with a new connection");
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
        // A refused job was rolled back; of a connection with any other failure nothing is known.
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

/// The highest number that a row keeps, where the store has noted this one as given.
pub(super) fn trusted_number_max(noted: i64) -> i64 {
    signed(super::trusted_number_max(noted.unsigned_abs()))
}

/// Numbers of jobs stay far below the limit of a signed one.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What is said of rows that were inserted and are not there.
pub(super) fn swallowed(inserted: u64, jobs: usize) -> String {
    format!(
        "of {jobs} rows {inserted} were inserted: a trigger or rule of the table leaves out the others; see what it is for"
    )
}

/// Who wants the jobs.
pub(super) type Take<'a> = &'a mut dyn FnMut(StoredJob, HasWorkload) -> Workloads;

/// Hands on the jobs that are read.
pub(super) struct Reader<'a, 'b> {
    take: Take<'a>,
    prefixes: &'b mut Prefixes,
    /// Whether the next jobs are wanted with their workloads.
    pub(super) wanted: Workloads,
    /// What was read so far.
    pub(super) replayed: Replayed,
    /// Rows that make no sense, by number, and why.
    pub(super) bad: Vec<(i64, String)>,
}

impl<'a, 'b> Reader<'a, 'b> {
    /// `last` is the highest number that was ever given to a job.
    pub(super) fn new(take: Take<'a>, prefixes: &'b mut Prefixes, last: i64) -> Self {
        let replayed = Replayed { last_number: last.unsigned_abs(), ..Replayed::default() };
        Self { take, prefixes, wanted: Workloads::Wanted, replayed, bad: Vec::new() }
    }

    /// Hands on what a row holds. One without a number that a job can have gets the next: C++ gearmand wrote it, or another
    /// program.
    pub(super) fn enter(&mut self, mut entry: Entry<'_>, has_number: bool, has_workload: bool) {
        let row = entry.number;
        if !has_number || !u64::try_from(row).is_ok_and(|row| (1..=NUMBER_MAX).contains(&row)) {
            entry.number = i64::try_from(self.replayed.last_number).unwrap_or(i64::MAX).saturating_add(1);
            self.replayed.last_number = entry.number.unsigned_abs();
        }
        match entry.job(self.prefixes) {
            Ok(job) => {
                self.replayed.jobs += 1;
                let has_workload = has_workload || job.unique() == b"-";
                self.wanted = (self.take)(job, has_workload);
            }
            Err(reason) => {
                self.replayed.set_aside += 1;
                self.bad.push((row, reason));
            }
        }
    }
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
