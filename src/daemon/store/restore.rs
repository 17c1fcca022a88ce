//! Restoring the jobs of a store: all of them before the server accepts connections, or, if there are many
//! and the store supports it, the rest of them while workers already get the first.
//!
//! Jobs are read in the order of their numbers. So for each function and priority the oldest are restored
//! first, and are handed out in order. Across functions and priorities that order holds among the restored
//! jobs only: a job of high priority may still be on disk while one of a lower priority is handed out.
//!
//! Operations that depend on all jobs wait until all are restored: submissions, since an equal job may be
//! among the rest; status requests for a job; and changes that the operator makes to jobs. See
//! [`Hub::begin_restoring`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{no_thread, on_own_thread};
use crate::hub::Hub;
use crate::job_server::{StoreFailure, StoredJob};
use crate::log_level::{audit, notice};
use crate::net::Clock;
use crate::store::{HasWorkload, Reading, Replayed, Store, StoreError, Workloads};

/// The server accepts connections while restoring only after this time and this many jobs, so that a queue of
/// ordinary length is restored completely first.
const SERVE_AFTER: Duration = Duration::from_millis(500);
const SERVE_FROM: u64 = 50_000;
/// How often the number of restored jobs is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often a start logs its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How many jobs the hub gets at a time.
const BATCH: usize = 64;
/// How many pages may be read ahead of the hub.
const PAGES_AHEAD: usize = 4;

/// Restores the jobs of a store that cannot be used at the same time.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn replay(
    mut store: Box<dyn Store>,
    hub: &Arc<Hub>,
    clock: &Arc<Clock>,
) -> Result<(Box<dyn Store>, Replayed), StoreError> {
    let mut feed = Feed::new(Arc::clone(hub), Arc::clone(clock));
    on_own_thread(move || {
        let replayed = store.replay(&mut |job, has_workload| feed.take(job, has_workload))?;
        feed.flush();
        Ok((store, replayed))
    })
    .await
}

/// Batches the jobs for the hub, and counts them.
struct Feed {
    hub: Arc<Hub>,
    clock: Arc<Clock>,
    batch: Vec<(StoredJob, HasWorkload)>,
    wanted: Workloads,
    jobs: u64,
    said: Instant,
}

impl Feed {
    fn new(hub: Arc<Hub>, clock: Arc<Clock>) -> Self {
        let batch = Vec::with_capacity(BATCH);
        Self { hub, clock, batch, wanted: Workloads::Wanted, jobs: 0, said: Instant::now() }
    }

    /// Adds a job. Returns whether the next ones should be read with their workloads.
    fn take(&mut self, job: StoredJob, has_workload: HasWorkload) -> Workloads {
        self.batch.push((job, has_workload));
        if self.batch.len() >= BATCH {
            self.flush();
        }
        self.wanted
    }

    /// Passes the batch to the hub.
    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.jobs += self.batch.len() as u64;
        // Workers that wait for the lock come first.
        self.hub.yield_to_waiters();
        let has_memory = self.hub.restore(self.clock.now(), self.batch.drain(..));
        self.wanted = if has_memory { Workloads::Wanted } else { Workloads::Unwanted };
        if self.said.elapsed() >= PROGRESS_INTERVAL {
            self.said = Instant::now();
            notice!("reading the queue: {} jobs so far", self.jobs);
        }
    }
}

/// A restore that runs while the store is in use.
pub(super) struct Restore {
    is_cancelled: Arc<AtomicBool>,
    /// How many jobs are restored.
    jobs: Arc<AtomicU64>,
    thread: JoinHandle<()>,
    /// `None` after its result was received.
    ended: Option<oneshot::Receiver<Result<u64, StoreError>>>,
}

impl Restore {
    /// Starts to restore.
    ///
    /// # Errors
    /// When the system cannot create another thread.
    pub(super) fn start(reading: Box<dyn Reading>, hub: &Arc<Hub>, clock: &Arc<Clock>) -> Result<Self, StoreError> {
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let jobs = Arc::new(AtomicU64::new(0));
        let (done, ended) = oneshot::channel();
        let (cancelled, count) = (Arc::clone(&is_cancelled), Arc::clone(&jobs));
        let (hub, clock) = (Arc::clone(hub), Arc::clone(clock));
        let run = move || {
            let result = restore(reading, Feed::new(Arc::clone(&hub), clock), &count, &cancelled);
            if result.is_ok() && !cancelled.load(Ordering::Relaxed) {
                hub.end_restoring();
            }
            // The receiver is dropped when the process ends.
            drop(done.send(result));
        };
        let thread = std::thread::Builder::new().name("restore".to_owned()).spawn(run).map_err(no_thread)?;
        Ok(Self { is_cancelled, jobs, thread, ended: Some(ended) })
    }

    /// Waits for a limited time. Returns the number of invalid entries when all jobs are restored, and `None`
    /// if there are so many jobs that the server should accept connections in the meantime.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn wait(&mut self) -> Result<Option<u64>, StoreError> {
        let Some(ended) = &mut self.ended else { return Ok(Some(0)) };
        let begun = Instant::now();
        loop {
            if let Ok(ended) = timeout(LOOK_INTERVAL, &mut *ended).await {
                self.ended = None;
                return ended.unwrap_or(Ok(0)).map(Some);
            }
            if begun.elapsed() >= SERVE_AFTER && self.jobs.load(Ordering::Relaxed) >= SERVE_FROM {
                return Ok(None);
            }
        }
    }

    /// Waits for a failure. Never returns after all jobs are restored.
    pub(super) async fn failure(&mut self) -> StoreError {
        if let Some(ended) = &mut self.ended {
            let result = ended.await;
            self.ended = None;
            if let Ok(Err(error)) = result {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Stops after the current page of jobs.
    pub(super) fn stop(self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        // Panics need no report: they end the process.
        let _ = self.thread.join();
    }
}

/// Reads on one thread and passes the jobs to the hub on this one, since both take about as long.
fn restore(
    mut reading: Box<dyn Reading>,
    feed: Feed,
    count: &AtomicU64,
    is_cancelled: &AtomicBool,
) -> Result<u64, StoreError> {
    let begun = Instant::now();
    let unwanted = AtomicBool::new(false);
    let (pages, read) = sync_channel(PAGES_AHEAD);
    let (jobs, result) = std::thread::scope(|scope| -> io::Result<_> {
        let reader = std::thread::Builder::new().name("store".to_owned()).spawn_scoped(scope, || {
            // Dropped at the end, which ends the loop of the receiver.
            let pages = pages;
            loop {
                let wanted = if unwanted.load(Ordering::Relaxed) { Workloads::Unwanted } else { Workloads::Wanted };
                match reading.next(wanted) {
                    Ok(Some(page)) if !is_cancelled.load(Ordering::Relaxed) => {
                        if pages.send(page).is_err() {
                            return Ok(0);
                        }
                    }
                    Ok(_) => return Ok(reading.quarantined()),
                    Err(error) => return Err(error),
                }
            }
        })?;
        let jobs = give(&read, feed, count, &unwanted);
        let no_result = || Err(StoreError::new(StoreFailure::Io, "the reading thread has ended"));
        Ok((jobs, reader.join().unwrap_or_else(|_| no_result())))
    })
    .map_err(no_thread)?;
    let took = begun.elapsed();
    if result.is_ok() && took > SERVE_AFTER && !is_cancelled.load(Ordering::Relaxed) {
        audit!("queue restored: {jobs} jobs in {:.1} s; submissions are accepted", took.as_secs_f64());
    }
    result
}

fn give(
    read: &Receiver<Vec<(StoredJob, HasWorkload)>>,
    mut feed: Feed,
    count: &AtomicU64,
    unwanted: &AtomicBool,
) -> u64 {
    for page in read {
        for (job, has_workload) in page {
            feed.take(job, has_workload);
        }
        feed.flush();
        count.store(feed.jobs, Ordering::Relaxed);
        unwanted.store(feed.wanted == Workloads::Unwanted, Ordering::Relaxed);
    }
    feed.jobs
}
