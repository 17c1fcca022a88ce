//! The hub: the one lock through which connections, the timer and the operator use the job server.
//!
//! The lock is taken once per batch of requests, and held only for their transitions. Packets are appended to
//! outboxes under it; wakers and events are collected, and are called or logged after it is released.

mod control;

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Poll, Waker};
use std::time::Instant;

use tracing::{Level, error, warn};

use crate::job_server::{
    ConnectionEnd, ConnectionId, ControlError, DisconnectProgress, DropFunction, Effects, Event, Found, JobKey,
    JobQuery, JobServer, JobView, Now, Policy, RequeueReason, RestoredSettings, StoreOp, StoreReport, StoredJob,
};
use crate::log_level::audit;
use crate::outbox::{CloseReason, Outbox};
use crate::protocol::{PeerError, Request, Response};
use crate::stats::{ConnectionGauges, Stats};
use crate::store::commit::Commit;
use crate::store::preview::PendingPreview;
use crate::store::write_queue::WriteQueue;

/// The maximum number of requests per lock hold.
pub const BATCH: usize = 64;
/// The maximum number of store reports per lock hold.
const REPORTS: usize = 64;
/// How often the store's thread yields to others before it takes the lock again.
const MOST_YIELDS: usize = 1000;

/// The result of [`Hub::apply`].
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// The number of requests that are processed. The others must be applied again.
    pub count: usize,
    /// The work spent, in the unit of [`price`](crate::job_server::price).
    pub spent: u32,
    /// Whether the budget is spent, so that the connection should yield.
    pub is_turn_over: bool,
    /// Whether the next request waits until all jobs are restored. See [`Hub::poll_restored`].
    pub awaits_jobs: bool,
}

/// The job server behind its lock.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    /// The number of threads that wait for the lock.
    waiting: AtomicUsize,
    /// Whether jobs are still being read from the store. It changes under the lock.
    is_restoring: AtomicBool,
    /// The queue of the store; `None` if jobs are only in memory.
    store: Option<Arc<WriteQueue>>,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct State {
    server: JobServer,
    /// By connection slot.
    outboxes: Vec<Option<Arc<Outbox>>>,
    timer: Timer,
    /// Whether new connections are rejected.
    is_closed: bool,
    /// The connections that wait until all jobs are restored, by slot.
    restored: HashMap<u32, Waker>,
}

/// The task that calls [`Hub::timeout`].
#[derive(Debug, Default)]
struct Timer {
    waker: Option<Waker>,
    /// Until when it sleeps, on the monotonic clock.
    armed_us: Option<u64>,
}

/// Work that is deferred until the lock is released.
#[derive(Default)]
struct Deferred {
    wakers: Vec<Waker>,
    events: Vec<(Level, String)>,
    /// Accepted submissions, in gearmand's log format.
    accepted: Vec<String>,
    operations: Vec<StoreOp>,
}

/// The effects of the job server while the lock is held.
struct HubEffects<'a> {
    outboxes: &'a [Option<Arc<Outbox>>],
    deferred: &'a mut Deferred,
    /// The connection whose task holds the lock: it checks its outbox by itself.
    own: Option<u32>,
}

impl State {
    fn split<'a>(&'a mut self, deferred: &'a mut Deferred, own: Option<u32>) -> (&'a mut JobServer, HubEffects<'a>) {
        (&mut self.server, HubEffects { outboxes: &self.outboxes, deferred, own })
    }
}

impl Effects for HubEffects<'_> {
    fn send(&mut self, to: ConnectionId, response: Response<'_>) {
        let Some(Some(outbox)) = self.outboxes.get(to.slot as usize) else {
            return;
        };
        if self.own == Some(to.slot) {
            outbox.answer(&response);
        } else {
            self.deferred.wakers.extend(outbox.send(&response));
        }
    }

    fn hold(&mut self, to: ConnectionId, weight: usize) {
        if let Some(Some(outbox)) = self.outboxes.get(to.slot as usize) {
            outbox.hold(weight);
        }
    }

    fn fill(&mut self, to: ConnectionId, gap: u64, response: Response<'_>) {
        if let Some(Some(outbox)) = self.outboxes.get(to.slot as usize) {
            self.deferred.wakers.extend(outbox.fill(gap, &response));
        }
    }

    fn store(&mut self, operation: StoreOp) {
        self.deferred.operations.push(operation);
    }

    fn report(&mut self, event: Event<'_>) {
        self.deferred.events.push(match event {
            Event::Accepted { function, unique, due_s, reducer } => {
                let (function, unique) = (function.escape_ascii(), unique.escape_ascii());
                return self.deferred.accepted.push(if reducer.is_empty() {
                    format!("accepted,{function},{unique},{due_s}")
                } else {
                    format!("accepted,{function},{unique},{}", reducer.escape_ascii())
                });
            }
            Event::FunctionsRefused { connection, refused, registered, why } => {
                let text = format!(
                    "{refused} functions of {} refused ({registered} registered); first reason: {}",
                    connection.name(),
                    why.reason()
                );
                (Level::WARN, text)
            }
            Event::DueFarAhead { handle, function, due_s } => {
                let text = format!(
                    "job {handle} of {} has due time {due_s} (year {}): SUBMIT_JOB_EPOCH takes seconds; was it given in \
                     milliseconds?",
                    function.escape_ascii(),
                    1970 + due_s / 31_556_952
                );
                (Level::WARN, text)
            }
            Event::JobDropped { function, handle, unique, attempts, reason } => {
                let (function, unique) = (function.as_bytes().escape_ascii(), unique.escape_ascii());
                let lost = match reason {
                    RequeueReason::TimedOut => "timed out",
                    RequeueReason::Disconnected => "lost its connection",
                    RequeueReason::GivenBack => "gave the job back",
                };
                let text = format!(
                    "Dropped job due to max retry count: {handle} {unique}: function {function}, {attempts} failed \
                     attempts, last worker {lost}"
                );
                (Level::ERROR, text)
            }
            Event::JobMissing { function, handle, unique } => {
                let (function, unique) = (function.as_bytes().escape_ascii(), unique.escape_ascii());
                let why = "another program removed it from the store";
                (Level::ERROR, format!("job missing from the store, dropped: {handle} {unique}: function {function}, {why}"))
            }
            Event::JobTimedOut { function, handle, unique, worker, connection, timeout_ms } => {
                let text = format!(
                    "Worker timeout reached on job, requeueing: {handle} {}: function {}, worker {}-{} at {}, timeout \
                     {timeout_ms} ms (CAN_DO_TIMEOUT)",
                    unique.escape_ascii(),
                    function.as_bytes().escape_ascii(),
                    worker.slot,
                    worker.generation,
                    connection.name(),
                );
                (Level::WARN, text)
            }
            Event::DuplicateUnique { handle, unique } => {
                let unique = unique.escape_ascii();
                let text = format!(
                    "duplicate (function, unique id) in the store; second job not run: {handle} {unique}"
                );
                (Level::WARN, text)
            }
        });
    }
}

impl Hub {
    /// Creates an empty server, which asks `store` to keep jobs if there is one.
    pub fn new(policy: Policy, stats: Arc<Stats>, store: Option<Arc<WriteQueue>>) -> Self {
        let policy = Policy { keeps_jobs: store.is_some(), ..policy };
        let server = JobServer::new(policy, Arc::clone(&stats));
        let empty =
            State { server, outboxes: Vec::new(), timer: Timer::default(), is_closed: false, restored: HashMap::new() };
        let (waiting, is_restoring) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { state: Mutex::new(empty), waiting, is_restoring, store, stats }
    }

    /// The published numbers of the server.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The same, for an owner that outlives the hub.
    pub fn shared_stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Adds a connection, whose packets are written into `outbox`. `None` if the server is stopping.
    pub fn connect(&self, gauges: Arc<ConnectionGauges>, outbox: Arc<Outbox>) -> Option<ConnectionId> {
        let mut state = self.lock();
        if state.is_closed {
            return None;
        }
        let id = state.server.connect(Arc::clone(&gauges));
        state.server.memory_use().publish(&self.stats.memory);
        self.stats.connections.insert(id, gauges);
        let slot = id.slot as usize;
        if state.outboxes.len() <= slot {
            state.outboxes.resize(slot + 1, None);
        }
        state.outboxes[slot] = Some(outbox);
        Some(id)
    }

    /// Makes submissions and status requests wait until [`end_restoring`](Self::end_restoring): an equal job,
    /// or the job that is asked for, may be among those that [`restore`](Self::restore) still adds.
    pub fn begin_restoring(&self) {
        let _state = self.lock();
        self.is_restoring.store(true, Ordering::Relaxed);
        self.stats.store.restoring.set(1);
    }

    /// Ends the wait: all jobs are restored.
    pub fn end_restoring(&self) {
        let mut state = self.lock();
        self.is_restoring.store(false, Ordering::Relaxed);
        self.stats.store.restoring.set(0);
        let waiting = std::mem::take(&mut state.restored);
        drop(state);
        waiting.into_values().for_each(Waker::wake);
    }

    /// Whether jobs are still being read from the store.
    pub fn is_restoring(&self) -> bool {
        self.is_restoring.load(Ordering::Relaxed)
    }

    /// Waits until all jobs are restored, for a connection.
    pub fn poll_restored(&self, id: ConnectionId, waker: &Waker) -> Poll<()> {
        if !self.is_restoring() {
            return Poll::Ready(());
        }
        let mut state = self.lock();
        if !self.is_restoring() {
            return Poll::Ready(());
        }
        state.restored.insert(id.slot, waker.clone());
        Poll::Pending
    }

    /// Processes the requests of a connection, in order. Invalid ones are answered in their place. If the
    /// budget runs out, only the first are processed.
    ///
    /// A batch should have at most [`BATCH`] requests. The connection is not woken for the answers to itself.
    pub fn apply(&self, now: Now, from: ConnectionId, batch: &[Result<Request<'_>, PeerError>]) -> Applied {
        self.with_state(now, |state, deferred| {
            if state.is_closed {
                return Applied { count: batch.len(), spent: 0, is_turn_over: false, awaits_jobs: false };
            }
            let is_restoring = self.is_restoring();
            let (server, mut effects) = state.split(deferred, Some(from.slot));
            let mut count = 0;
            for request in batch {
                match request {
                    Ok(request) if is_restoring && needs_all_jobs(request) => {
                        return Applied { count, spent: server.spent(), is_turn_over: true, awaits_jobs: true };
                    }
                    Ok(request) => {
                        if !server.request(now, from, request, &mut effects) {
                            return Applied { count, spent: server.spent(), is_turn_over: true, awaits_jobs: false };
                        }
                    }
                    Err(error) => server.refuse(from, *error, &mut effects),
                }
                count += 1;
                if server.is_turn_over() {
                    break;
                }
            }
            Applied { count, spent: server.spent(), is_turn_over: server.is_turn_over(), awaits_jobs: false }
        })
    }

    /// Ends a connection. If it is not done, call again after other connections have run, or when its outbox
    /// has no gaps left. See [`JobServer::disconnect`].
    pub fn disconnect(&self, now: Now, id: ConnectionId, end: ConnectionEnd) -> DisconnectProgress {
        self.with_state(now, |state, deferred| {
            if state.is_closed {
                // The server stops, not the worker: its jobs have not failed.
                return DisconnectProgress::Done;
            }
            let (server, mut effects) = state.split(deferred, Some(id.slot));
            let progress = server.disconnect(now, id, end, &mut effects);
            if progress == DisconnectProgress::Done
                && let Some(outbox) = state.outboxes.get_mut(id.slot as usize)
            {
                *outbox = None;
                self.stats.connections.remove(&id);
            }
            progress
        })
    }

    /// Processes reports of the store. See [`JobServer::stored`].
    pub fn stored(&self, now: Now, reports: Vec<StoreReport>) {
        let mut reports = VecDeque::from(reports);
        while !reports.is_empty() {
            self.yield_to_waiters();
            self.with_state(now, |state, deferred| {
                let (server, mut effects) = state.split(deferred, None);
                for _ in 0..REPORTS {
                    if server.is_turn_over() {
                        return;
                    }
                    let Some(report) = reports.pop_front() else { return };
                    if let Some(rest) = server.stored(now, report, &mut effects) {
                        return reports.push_front(rest);
                    }
                }
            });
        }
    }

    /// Yields to threads that wait for the lock: a thread that takes it repeatedly would be quicker than they
    /// are.
    pub fn yield_to_waiters(&self) {
        for _ in 0..MOST_YIELDS {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// See [`JobServer::restore`], for several jobs. Returns whether there is memory for the workload of the
    /// next one.
    pub fn restore(&self, now: Now, jobs: impl Iterator<Item = (StoredJob, bool)>) -> bool {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            let mut has_memory = true;
            for (job, has_workload) in jobs {
                has_memory = server.restore(now, job, has_workload, &mut effects);
            }
            has_memory
        })
    }

    /// See [`JobServer::restore_settings`].
    pub fn restore_settings(&self, settings: Vec<(String, String)>) -> RestoredSettings {
        self.lock().server.restore_settings(settings)
    }

    /// See [`JobServer::skip_to_number`].
    pub fn skip_to_number(&self, number: u64) {
        self.lock().server.skip_to_number(number);
    }

    /// See [`JobServer::last_number`].
    pub fn last_number(&self) -> u64 {
        self.lock().server.last_number()
    }

    /// See [`JobServer::unanswered_job_count`].
    pub fn unanswered_job_count(&self) -> usize {
        self.lock().server.unanswered_job_count()
    }

    /// See [`JobServer::kept_job_count`].
    pub fn kept_job_count(&self) -> usize {
        self.lock().server.kept_job_count()
    }

    /// See [`JobServer::workload_bytes`].
    pub fn workload_bytes(&self) -> u64 {
        self.lock().server.workload_bytes()
    }

    /// The number of changes that wait for the store.
    pub fn waiting_changes(&self) -> usize {
        self.store.as_ref().map_or(0, |store| store.len())
    }

    /// See [`JobServer::jobs_to_drain`].
    pub fn jobs_to_drain(&self) -> usize {
        self.lock().server.jobs_to_drain()
    }

    /// Processes what is due. Returns when to call again, on the monotonic clock, and calls `waker` if that
    /// changes.
    pub fn timeout(&self, now: Now, waker: &Waker) -> Option<u64> {
        {
            let mut state = self.lock();
            // The timer needs no wake-up while it runs.
            state.timer = Timer { waker: None, armed_us: None };
        }
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.timeout(now, &mut effects);
        });
        let mut state = self.lock();
        let armed_us = state.server.next_timeout(now);
        state.timer = Timer { waker: Some(waker.clone()), armed_us };
        armed_us
    }

    /// See [`JobServer::cancel_job`].
    pub fn cancel_job(&self, now: Now, handle: &[u8]) -> bool {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.cancel_job(now, handle, &mut effects)
        })
    }

    /// See [`JobServer::create_function`].
    pub fn create_function(&self, name: &[u8]) -> Result<(), PeerError> {
        self.lock().server.create_function(name)
    }

    /// See [`JobServer::drop_function`].
    pub fn drop_function(&self, now: Now, name: &[u8]) -> DropFunction {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.drop_function(name, &mut effects)
        })
    }

    /// See [`JobServer::limit_function`].
    pub fn limit_function(&self, now: Now, name: &[u8], limits: [u32; 3]) -> Result<usize, ControlError> {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.limit_function(name, limits, &mut effects)
        })
    }

    /// See [`JobServer::list_jobs`].
    pub fn list_jobs(&self, place: usize, show: impl FnMut(JobView<'_>) -> ControlFlow<()>) -> Option<usize> {
        self.lock().server.list_jobs(place, show)
    }

    /// See [`JobServer::list_running_jobs`].
    pub fn list_running_jobs(&self, place: usize, show: impl FnMut(JobView<'_>) -> ControlFlow<()>) -> Option<usize> {
        self.lock().server.list_running_jobs(place, show)
    }

    /// See [`JobServer::find_jobs`].
    pub fn find_jobs(
        &self,
        query: &JobQuery<'_>,
        place: u64,
        show: impl FnMut(JobView<'_>) -> ControlFlow<()>,
    ) -> Found {
        self.lock().server.find_jobs(query, place, show)
    }

    /// See [`JobServer::has_client`].
    pub fn has_client(&self, id: &[u8]) -> bool {
        self.lock().server.has_client(id)
    }

    /// See [`JobServer::list_held_jobs`].
    pub fn list_held_jobs(&self, holder: ConnectionId, show: impl FnMut(JobView<'_>)) {
        self.lock().server.list_held_jobs(holder, show);
    }

    /// See [`JobServer::show_job`].
    pub fn show_job<R>(&self, handle: &[u8], show: impl FnOnce(JobView<'_>) -> R) -> Option<R> {
        self.lock().server.show_job(handle, show)
    }

    /// Asks the store for the beginning of a workload that is not in memory; `None` if it cannot be asked. It
    /// takes no lock of the hub.
    pub fn request_preview(&self, job: JobKey) -> Option<PendingPreview> {
        self.store.as_ref()?.request_preview(job)
    }

    /// Waits until everything that the store was asked so far is committed; `None` if there is no store.
    pub fn commit(&self) -> Option<Commit> {
        self.store.as_ref().map(|store| store.commit())
    }

    /// See [`JobServer::set_policy`].
    pub fn set_policy(&self, now: Now, policy: &Policy) {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.set_policy(now, policy, &mut effects);
        });
    }

    /// Starts draining: rejects new jobs.
    pub fn start_draining(&self) {
        self.lock().server.start_draining();
    }

    /// The number of jobs, in any state.
    pub fn job_count(&self) -> usize {
        self.lock().server.job_count()
    }

    /// Closes all connections, rejects new ones, and ignores further input.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let wakers: Vec<Waker> =
            state.outboxes.iter().flatten().filter_map(|outbox| outbox.close(CloseReason::Shutdown)).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn with_state<R>(&self, now: Now, act: impl FnOnce(&mut State, &mut Deferred) -> R) -> R {
        let mut deferred = Deferred::default();
        let mut guard = self.lock();
        let state = &mut *guard;
        state.server.start_turn();
        let result = act(state, &mut deferred);
        if let Some(next_us) = state.server.next_timeout(now)
            && state.timer.waker.is_some()
            && state.timer.armed_us.is_none_or(|armed_us| next_us < armed_us)
        {
            state.timer.armed_us = Some(next_us);
            deferred.wakers.extend(state.timer.waker.clone());
        }
        state.server.memory_use().publish(&self.stats.memory);
        // Under the lock, so that operations are queued in the order of the transitions that asked for them.
        let has_operations = !deferred.operations.is_empty();
        if let Some(store) = &self.store
            && has_operations
        {
            store.push(std::mem::take(&mut deferred.operations));
        }
        drop(guard);
        if let Some(store) = &self.store
            && has_operations
        {
            store.wake();
        }
        deferred.wakers.into_iter().for_each(Waker::wake);
        for (level, event) in deferred.events {
            if level == Level::ERROR {
                error!("{event}");
            } else {
                warn!("{event}");
            }
        }
        for line in deferred.accepted {
            audit!("{line}");
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.stats.lock_acquisitions.add(1);
        match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let start = Instant::now();
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.stats.lock_wait_ns.add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
                state
            }
        }
    }
}

/// Whether a request can be answered only when all jobs are restored.
fn needs_all_jobs(request: &Request<'_>) -> bool {
    matches!(request, Request::Submit(_) | Request::GetStatus { .. } | Request::GetStatusUnique { .. })
}
