//! A worker connection that reconnects when it is lost. It runs one job at a time and may hold others
//! meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address::ServerAddress;
use super::backoff::Backoff;
use super::connection::{self, Connection, ConnectionError};
use super::grabs::{Allowance, Grabs, Held};
use super::job_runner::{FAREWELL, JobRunner, UNSENT_MAX, farewell, register, wake_up};
use super::limit::tell_limited;
use super::worker::Worker;
use crate::protocol::packet::PacketType;

/// State of a server that its connections share, so that each change is reported once.
pub(super) struct ServerState {
    pub(super) address: ServerAddress,
    reachable: AtomicU8,
}

impl ServerState {
    const UNKNOWN: u8 = 0;
    const YES: u8 = 1;
    const NO: u8 = 2;

    pub(super) const fn new(address: ServerAddress) -> Self {
        Self { address, reachable: AtomicU8::new(Self::UNKNOWN) }
    }

    pub(super) fn works(&self) {
        if self.reachable.swap(Self::YES, Ordering::Relaxed) != Self::YES {
            tell_limited("work", format_args!("connected to {}", self.address));
        }
    }

    pub(super) fn fails(&self, error: &ConnectionError) {
        if self.reachable.swap(Self::NO, Ordering::Relaxed) != Self::NO {
            tell_limited("work", format_args!("no connection to {}: {error}; trying again", self.address));
        }
    }
}

/// Permission to run one job.
struct Turn {
    /// Released when the turn ends.
    running: OwnedSemaphorePermit,
    /// For the first grab, when no job is held and the number of jobs is limited. Released if no job was
    /// available.
    left: Option<OwnedSemaphorePermit>,
}

/// A connection and the worker it belongs to.
pub(super) struct WorkerConnection {
    worker: Arc<Worker>,
    server: Arc<ServerState>,
    backoff: Backoff,
}

impl WorkerConnection {
    pub(super) const fn new(worker: Arc<Worker>, server: Arc<ServerState>) -> Self {
        Self { worker, server, backoff: Backoff::new() }
    }

    /// Runs jobs until the worker stops.
    pub(super) async fn run(mut self) {
        while !self.worker.stop.is_cancelled() {
            match self.session().await {
                Ok(()) => return,
                Err(_) if self.worker.kill.is_cancelled() => return,
                Err(error) => self.server.fails(&error),
            }
            if !self.backoff.wait(&self.worker.stop).await {
                return;
            }
        }
    }

    /// Runs one connection. It returns `Ok` only if the worker stops.
    async fn session(&mut self) -> Result<(), ConnectionError> {
        let worker = Arc::clone(&self.worker);
        let stream = tokio::select! {
            () = worker.stop.cancelled() => return Ok(()),
            stream = connection::open(&self.server.address, worker.connect_timeout) => stream?,
        };
        let mut connection = Connection::with_silence(stream, worker.silence);
        self.register(&mut connection)?;
        let mut grabs = Grabs::new(worker.prefetch);
        let allowance = worker.allowance();
        loop {
            let Some(Turn { running, left }) = self.turn(&mut connection, &grabs).await? else {
                return leave(connection, grabs).await;
            };
            let next = tokio::select! {
                biased;
                // Jobs that arrive from here on are returned.
                () = worker.stop.cancelled(), if worker.prefetch > 1 => return leave(connection, grabs).await,
                next = next_job(&mut connection, &mut grabs, left, &allowance) => next?,
                // Dropping a job that is being assigned would waste one of its attempts, so wait for it; but
                // leave a silent server.
                () = async { worker.stop.cancelled().await; tokio::time::sleep(FAREWELL).await } => return Ok(()),
            };
            self.backoff.reset();
            self.server.works();
            if let Some(Held { job, left }) = next {
                if let Some(left) = left {
                    left.forget();
                }
                let hear = |connection: &mut _, answer| grabs.hear(connection, answer, &allowance);
                let ended = self.job_runner().run(&mut connection, &job, hear).await;
                worker.job_done();
                let ended = ended?;
                if worker.prefetch > 1 && ended.is_killed() {
                    // Jobs that were never started must not lose an attempt. The server cannot tell the
                    // killed job from them.
                    return leave(connection, grabs).await;
                }
                self.job_runner().report(&mut connection, &job, ended)?;
                grabs.done(job.handle);
                continue;
            }
            drop(running);
            connection.request(PacketType::PreSleep, &[])?;
            tokio::select! {
                () = worker.stop.cancelled() => return Ok(()),
                woken = wake_up(&mut connection) => woken?,
            }
        }
    }

    fn job_runner(&self) -> JobRunner<'_> {
        let worker = &*self.worker;
        JobRunner {
            command: &worker.command,
            kill: &worker.kill,
            verbose: worker.verbose,
            server: &self.server,
            group: None,
        }
    }

    fn register(&self, connection: &mut Connection) -> Result<(), ConnectionError> {
        if let Some(id) = &self.worker.id {
            connection.request(PacketType::SetClientId, &[id.as_bytes()])?;
        }
        for function in &self.worker.functions {
            register(connection, function.as_bytes(), self.worker.command.timeout)?;
        }
        Ok(())
    }

    /// Waits for the permission to run a job, and to grab one if none is held. Returns `None` when the worker
    /// stops.
    async fn turn(&self, connection: &mut Connection, grabs: &Grabs) -> Result<Option<Turn>, ConnectionError> {
        let worker = &self.worker;
        let granted = async {
            let left = permit(worker.left.as_ref().filter(|_| grabs.is_empty())).await;
            if worker.running.available_permits() == 0 {
                // The last result must not wait until another connection's job ends.
                connection.flush().await?;
            }
            let running = permit(Some(&worker.running)).await;
            Ok(running.map(|running| Turn { running, left }))
        };
        tokio::select! {
            biased;
            () = worker.stop.cancelled() => Ok(None),
            turn = granted => turn,
        }
    }
}

/// Returns the next job, held or newly grabbed; `None` if there is none. Cancel safe: dropping the future
/// loses nothing.
async fn next_job(
    connection: &mut Connection,
    grabs: &mut Grabs,
    left: Option<OwnedSemaphorePermit>,
    allowance: &Allowance<'_>,
) -> Result<Option<Held>, ConnectionError> {
    // Do not queue requests without limit for a server that answers but does not read.
    connection.flush_to(UNSENT_MAX).await?;
    grabs.fill(connection, left, allowance)?;
    loop {
        if let Some(held) = grabs.begin() {
            return Ok(Some(held));
        }
        if grabs.open() == 0 {
            return Ok(None);
        }
        let answer = connection.receive().await?;
        grabs.hear(connection, answer, allowance)?;
    }
}

/// Returns the jobs that were not started, and confirms the last result.
async fn leave(mut connection: Connection, grabs: Grabs) -> Result<(), ConnectionError> {
    grabs.give_back(&mut connection)?;
    farewell(connection).await
}

/// Acquires a permit; `None` only without a limit.
async fn permit(semaphore: Option<&Arc<Semaphore>>) -> Option<OwnedSemaphorePermit> {
    // A worker's semaphores are never closed.
    Arc::clone(semaphore?).acquire_owned().await.ok()
}
