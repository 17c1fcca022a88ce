//! One connection of a worker, made anew whenever it is lost, and the one job at a time that is done on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address::ServerAddress;
use super::backoff::Backoff;
use super::connection::{self, Connection, ConnectionError};
use super::limit::tell_limited;
use super::perform::{FAREWELL, Performer, farewell, foreign, grab, register, wake_up};
use super::worker::Worker;
use crate::protocol::packet::PacketType;

/// What the slots of a server know of it together, so that they say it once.
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

/// The right to grab one job.
struct Turn {
    /// Given back when the turn ends.
    _running: OwnedSemaphorePermit,
    /// Given back if there was no job.
    left: Option<OwnedSemaphorePermit>,
}

/// One connection and what it is for.
pub(super) struct Slot {
    worker: Arc<Worker>,
    server: Arc<ServerState>,
    backoff: Backoff,
}

impl Slot {
    pub(super) const fn new(worker: Arc<Worker>, server: Arc<ServerState>) -> Self {
        Self { worker, server, backoff: Backoff::new() }
    }

    /// Works until the worker stops.
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

    /// The life of one connection; it ends well only because the worker stops.
    async fn session(&mut self) -> Result<(), ConnectionError> {
        let worker = Arc::clone(&self.worker);
        let stream = tokio::select! {
            () = worker.stop.cancelled() => return Ok(()),
            stream = connection::open(&self.server.address, worker.connect_timeout) => stream?,
        };
        let mut connection = Connection::with_silence(stream, worker.silence);
        self.register(&mut connection)?;
        let mut done = None;
        loop {
            let Some(turn) = self.turn(&mut connection).await? else {
                return farewell(connection).await;
            };
            let grabbed = tokio::select! {
                grabbed = grab(&mut connection, done.take()) => grabbed?,
                // A job that is on its way would be one more attempt for nothing; a server that is silent is left.
                () = async { worker.stop.cancelled().await; tokio::time::sleep(FAREWELL).await } => return Ok(()),
            };
            self.backoff.reset();
            self.server.works();
            if let Some(job) = grabbed {
                if !worker.functions.iter().any(|function| function.as_bytes() == job.function) {
                    return Err(foreign(&job));
                }
                if let Some(left) = turn.left {
                    left.forget();
                }
                let ended = self.performer().run(&mut connection, &job).await;
                worker.job_done();
                self.performer().report(&mut connection, &job, ended?)?;
                done = Some(job.handle);
                continue;
            }
            drop(turn);
            connection.request(PacketType::PreSleep, &[])?;
            tokio::select! {
                () = worker.stop.cancelled() => return Ok(()),
                woken = wake_up(&mut connection) => woken?,
            }
        }
    }

    fn performer(&self) -> Performer<'_> {
        let worker = &*self.worker;
        Performer { command: &worker.command, kill: &worker.kill, verbose: worker.verbose, server: &self.server }
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

    /// Waits for the permission to grab a job; `None` when the worker stops.
    async fn turn(&self, connection: &mut Connection) -> Result<Option<Turn>, ConnectionError> {
        let worker = &self.worker;
        let granted = async {
            let left = permit(worker.left.as_ref()).await;
            if worker.running.available_permits() == 0 {
                // The last result must not wait for somebody else's job.
                connection.flush().await?;
            }
            let running = permit(Some(&worker.running)).await;
            Ok(running.map(|running| Turn { _running: running, left }))
        };
        tokio::select! {
            biased;
            () = worker.stop.cancelled() => Ok(None),
            turn = granted => turn,
        }
    }
}

/// `None` only where there is nothing to limit.
async fn permit(semaphore: Option<&Arc<Semaphore>>) -> Option<OwnedSemaphorePermit> {
    // No semaphore of a worker is ever closed.
    Arc::clone(semaphore?).acquire_owned().await.ok()
}
