//! State shared by the connections of a managed worker: functions in use, counters, and how the worker ends.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::memory;
use super::settings::{Function, Settings};
use super::supervisor_ipc::SupervisorHandle;
use crate::fleet::contract::{Activity, CONTRACT, Identity, Introduction, Run, Status, WorkerId, WorkerState};

/// Implementation language, as reported to the monitor.
pub(super) const LANGUAGE: &str = "rust";
/// Time limit for a change of functions to take effect on connections that run no job. A server that is
/// silent for longer learns of it when it responds again.
const PATIENCE: Duration = Duration::from_millis(600);

/// Why a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Lifetime is over, or the supervisor stops it: another worker may take its place.
    Recycled,
    /// The monitor told it to exit: it is not replaced.
    Stopped,
}

impl End {
    /// Exit status for the supervisor; nothing else ends with these.
    pub(super) const fn status(self) -> u8 {
        match self {
            Self::Recycled => 90,
            Self::Stopped => 91,
        }
    }

    /// Reason for this exit status; `None` for a worker that has died.
    pub(super) fn of(status: ExitStatus) -> Option<Self> {
        let code = status.code()?;
        [Self::Recycled, Self::Stopped].into_iter().find(|end| code == i32::from(end.status()))
    }
}

/// State that the monitor wants, for all connections.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Increases with each change.
    pub(super) generation: u64,
    /// The worker's name, once it has one.
    pub(super) id: Option<WorkerId>,
    /// For each function, in the order of the settings.
    pub(super) in_use: Vec<bool>,
}

/// A managed worker.
pub(super) struct Managed {
    pub(super) settings: Settings,
    pub(super) supervisor: SupervisorHandle,
    pub(super) wanted: watch::Sender<Wanted>,
    /// A single permit: the permission to run a command.
    pub(super) running: Arc<Semaphore>,
    /// Cancelled to stop taking new jobs.
    pub(super) stop: CancellationToken,
    /// Cancelled to kill the running job too.
    pub(super) kill: CancellationToken,
    /// Cancelled when all jobs are done: the monitor gets no more responses.
    pub(super) over: CancellationToken,
    started: SystemTime,
    begin: Instant,
    counters: Mutex<Counters>,
    /// Signals changes of the counters that [`Managed::in_effect`] waits for.
    progress: watch::Sender<()>,
}

/// Counters and other mutable state.
#[derive(Debug, Default)]
struct Counters {
    version: String,
    end: Option<End>,
    run: Option<Run>,
    done: u64,
    count: BTreeMap<String, u64>,
    failures: BTreeMap<String, u64>,
    /// For each job connection the last generation that its server has applied; `None` once connecting has
    /// failed or the connection is lost. A connection that is still being established is waited for.
    confirmed: Vec<Option<u64>>,
}

impl Managed {
    /// Creates a worker without an id, with one job connection to each of `servers` servers.
    ///
    /// # Errors
    /// Why its version cannot be read.
    pub(super) fn new(settings: Settings, supervisor: SupervisorHandle, servers: usize) -> Result<Self, String> {
        let counters =
            Counters { version: settings.version.read()?, confirmed: vec![Some(0); servers], ..Counters::default() };
        let wanted = Wanted { generation: 0, id: None, in_use: vec![false; settings.functions.len()] };
        Ok(Self {
            settings,
            supervisor,
            wanted: watch::Sender::new(wanted),
            running: Arc::new(Semaphore::new(1)),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            over: CancellationToken::new(),
            started: SystemTime::now(),
            begin: Instant::now(),
            counters: Mutex::new(counters),
            progress: watch::Sender::new(()),
        })
    }

    /// The lock is held for a few assignments, never across an await.
    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no more jobs and ends after the running one. `Stopped`, from the monitor, is never overridden.
    pub(super) fn leave(&self, end: End) {
        let mut counters = self.counters();
        if counters.end != Some(End::Stopped) {
            counters.end = Some(end);
        }
        drop(counters);
        self.stop.cancel();
    }

    /// Why it ends.
    pub(super) fn end(&self) -> End {
        self.counters().end.unwrap_or(End::Recycled)
    }

    /// Whether it takes no more jobs.
    pub(super) fn is_leaving(&self) -> bool {
        self.counters().end.is_some()
    }

    /// A job connection was established or lost.
    pub(super) fn connected(&self, connection: usize, yes: bool) {
        self.confirm(connection, yes.then_some(0));
    }

    /// A server has applied a generation: it answered a later request.
    pub(super) fn confirm(&self, connection: usize, generation: Option<u64>) {
        if let Some(confirmed) = self.counters().confirmed.get_mut(connection) {
            *confirmed = generation;
        }
        self.progress.send_replace(());
    }

    /// Waits until all servers have applied a generation. Returns as well while a job runs: the change then
    /// takes effect when the job ends.
    pub(super) async fn in_effect(&self, generation: u64) {
        let mut progress = self.progress.subscribe();
        let known = async {
            loop {
                {
                    let counters = self.counters();
                    let all = counters.confirmed.iter().flatten().all(|confirmed| *confirmed >= generation);
                    if all || counters.run.is_some() || counters.end.is_some() {
                        return;
                    }
                }
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, known).await;
    }

    /// Records the start of a job.
    pub(super) fn begin_run(&self, function: &str, handle: &[u8]) {
        self.counters().run = Some(Run {
            function: function.to_owned(),
            handle: String::from_utf8_lossy(handle).into_owned(),
            since: seconds(SystemTime::now()),
        });
        self.progress.send_replace(());
    }

    /// Records the end of a job: done, failed, or without an outcome.
    pub(super) fn end_run(&self, failed: Option<bool>) {
        let mut counters = self.counters();
        if let (Some(run), Some(failed)) = (counters.run.take(), failed) {
            counters.done += 1;
            *counters.count.entry(run.function.clone()).or_default() += 1;
            if failed {
                *counters.failures.entry(run.function).or_default() += 1;
            }
        }
        let enough = self.settings.max_jobs.is_some_and(|most| counters.done >= most.get());
        drop(counters);
        if enough || self.settings.max_memory.is_some_and(|most| memory::own() > most.get()) {
            self.leave(End::Recycled);
        }
    }

    /// Sets the worker's id.
    ///
    /// # Errors
    /// If it already has one, which is returned.
    pub(super) fn name(&self, id: WorkerId) -> Result<Introduction, WorkerId> {
        let mut earlier = None;
        self.wanted.send_if_modified(|wanted| {
            earlier.clone_from(&wanted.id);
            if earlier.is_none() {
                wanted.id = Some(id.clone());
                wanted.generation += 1;
            }
            earlier.is_none()
        });
        match earlier {
            Some(earlier) => Err(earlier),
            None => Ok(Introduction {
                identity: self.identity(id),
                functions: self.settings.functions.iter().map(|function| function.name.clone()).collect(),
            }),
        }
    }

    /// Takes functions into use or out of use. Returns the generation in which that takes effect.
    ///
    /// # Errors
    /// The first name that is not available here; nothing has changed then.
    pub(super) fn use_functions(&self, names: &[String], in_use: bool) -> Result<u64, String> {
        let place = |name: &String| self.settings.functions.iter().position(|function| function.name == *name);
        let places: Vec<usize> =
            names.iter().map(|name| place(name).ok_or_else(|| name.clone())).collect::<Result<_, _>>()?;
        let mut generation = 0;
        self.wanted.send_if_modified(|wanted| {
            let changes = places.iter().any(|place| wanted.in_use.get(*place) != Some(&in_use));
            for place in places {
                if let Some(used) = wanted.in_use.get_mut(place) {
                    *used = in_use;
                }
            }
            wanted.generation += u64::from(changes);
            generation = wanted.generation;
            changes
        });
        Ok(generation)
    }

    /// Names of the functions in use, and of the others.
    pub(super) fn functions(&self) -> (Vec<String>, Vec<String>) {
        let wanted = self.wanted.borrow();
        let all = self.settings.functions.iter().zip(&wanted.in_use);
        let (used, unused): (Vec<_>, Vec<_>) = all.partition(|(_, in_use)| **in_use);
        let names = |functions: Vec<(&Function, &bool)>| functions.into_iter().map(|(f, _)| f.name.clone()).collect();
        (names(used), names(unused))
    }

    /// The current version.
    pub(super) fn version(&self) -> String {
        self.counters().version.clone()
    }

    /// Reads the version again.
    ///
    /// # Errors
    /// Why it cannot be read; the old version stays.
    pub(super) fn reload(&self) -> Result<String, String> {
        let version = self.settings.version.read()?;
        self.counters().version.clone_from(&version);
        Ok(version)
    }

    /// Identity of the worker, with this id.
    fn identity(&self, id: WorkerId) -> Identity {
        Identity {
            ok: true,
            contract: CONTRACT,
            id,
            fleet: self.settings.fleet.clone(),
            host: self.settings.host.clone(),
            pid: u64::from(std::process::id()),
            language: LANGUAGE.to_owned(),
            version: self.version(),
            started: seconds(self.started),
        }
    }

    /// Status for the monitor.
    pub(super) fn status(&self, id: WorkerId) -> Status {
        let memory = memory::with_children();
        let identity = self.identity(id);
        let (in_use, not_in_use) = self.functions();
        let counters = self.counters();
        let state = match (&counters.end, &counters.run) {
            (Some(_), _) => WorkerState::Leaving,
            (None, Some(_)) => WorkerState::Working,
            (None, None) => WorkerState::Idle,
        };
        let activity = Activity {
            uptime: self.begin.elapsed().as_secs_f64(),
            state,
            in_use,
            not_in_use,
            count: counters.count.clone(),
            failures: counters.failures.clone(),
            running: counters.run.iter().cloned().collect(),
            memory,
        };
        Status { identity, activity }
    }
}

/// Converts to seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::managed::settings::tests::settings;

    fn worker(arguments: &[&str]) -> Managed {
        Managed::new(settings(arguments, &[]).unwrap(), SupervisorHandle::nobody(), 2).unwrap()
    }

    fn id(name: &str) -> WorkerId {
        WorkerId::try_from(name.to_owned()).unwrap()
    }

    #[test]
    fn an_id_is_given_once() {
        let worker = worker(&["-f", "f=cat"]);
        assert_eq!(worker.name(id("a")).unwrap().identity.id, id("a"));
        assert_eq!(worker.name(id("b")), Err(id("a")));
        assert_eq!(worker.wanted.borrow().id, Some(id("a")));
    }

    #[test]
    fn the_monitors_word_is_the_last() {
        let worker = worker(&["-f", "f=cat"]);
        worker.leave(End::Recycled);
        assert_eq!((worker.end(), worker.stop.is_cancelled()), (End::Recycled, true));
        worker.leave(End::Stopped);
        worker.leave(End::Recycled);
        assert_eq!(worker.end(), End::Stopped);
    }

    #[test]
    fn functions_change_together_or_not_at_all() {
        let worker = worker(&["-f", "f=cat", "-f", "g=rev"]);
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let use_functions = |of: &[&str], in_use| worker.use_functions(&names(of), in_use);
        assert_eq!(use_functions(&["f", "h"], true), Err("h".to_owned()));
        assert_eq!(worker.functions(), (names(&[]), names(&["f", "g"])));
        assert_eq!((use_functions(&["g"], true), use_functions(&["g"], true)), (Ok(1), Ok(1)));
        assert_eq!(worker.functions(), (names(&["g"]), names(&["f"])));
        assert_eq!((use_functions(&[], false), use_functions(&["f", "g"], false)), (Ok(1), Ok(2)));
    }

    #[test]
    fn a_worker_has_had_its_time_after_so_many_judged_jobs() {
        let worker = worker(&["-f", "f=cat", "--max-jobs", "2"]);
        for (failed, leaves) in [(Some(true), false), (None, false), (Some(false), true)] {
            worker.begin_run("f", b"H:1");
            assert_eq!(worker.status(id("a")).activity.state, WorkerState::Working);
            worker.end_run(failed);
            assert_eq!(worker.stop.is_cancelled(), leaves, "{failed:?}");
        }
        let Activity { state, count, failures, .. } = worker.status(id("a")).activity;
        assert_eq!((count.get("f"), failures.get("f")), (Some(&2), Some(&1)));
        assert_eq!(state, WorkerState::Leaving);
    }

    /// Whether a change is in effect without waiting.
    async fn is_in_effect(worker: &Managed, generation: u64) -> bool {
        tokio::select! {
            biased;
            () = worker.in_effect(generation) => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn a_change_is_awaited_where_no_job_runs_and_not_for_ever() {
        let worker = worker(&["-f", "f=cat"]);
        worker.confirm(0, Some(1));
        // One of two servers is silent.
        assert!(!is_in_effect(&worker, 1).await);
        let begin = Instant::now();
        worker.in_effect(1).await;
        assert!(begin.elapsed() >= PATIENCE);
        // Its connection is lost.
        worker.connected(1, false);
        assert!(is_in_effect(&worker, 1).await);
        // A job is running, whose end is not awaited.
        assert!(!is_in_effect(&worker, 2).await);
        worker.begin_run("f", b"H:1");
        assert!(is_in_effect(&worker, 2).await);
        worker.end_run(Some(false));
        assert!(!is_in_effect(&worker, 2).await);
        let confirmed = async {
            worker.confirm(0, Some(2));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = worker.in_effect(2) => {}
            () = confirmed => {}
        }
        assert!(is_in_effect(&worker, 2).await);
    }
}
