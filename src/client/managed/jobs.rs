//! Job connection of a managed worker: runs jobs, and applies changes of the function set without losing one.
//!
//! Functions are registered and dropped only while no grab is outstanding: before each GRAB_JOB, on the same
//! connection. A change while the connection sleeps starts with a grab too, since a job of a new function may
//! already be waiting and no server sends a NOOP for such a job. The response to the grab proves that the
//! server has applied the change. A job that was assigned before its function was dropped is still run.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::super::answer::AssignedJob;
use super::super::backoff::Backoff;
use super::super::command::Outcome;
use super::super::connection::{self, Connection, ConnectionError};
use super::super::job_runner::{FAREWELL, JobRunner, farewell, foreign, grab, register, tell_error, wake_up};
use super::super::worker_connection::ServerState;
use super::settings::Function;
use super::state::{Managed, Wanted};
use crate::protocol::packet::PacketType;

/// A connection to one server, which reconnects when it is lost.
pub(super) struct JobConnection {
    worker: Arc<Managed>,
    server: Arc<ServerState>,
    /// Index of this connection in the worker.
    index: usize,
    backoff: Backoff,
}

/// What this connection has registered at the server.
struct Registered {
    named: bool,
    functions: Vec<bool>,
}

impl JobConnection {
    pub(super) fn new(worker: Arc<Managed>, server: Arc<ServerState>, index: usize) -> Self {
        Self { worker, server, index, backoff: Backoff::new() }
    }

    /// Runs jobs until the worker leaves.
    pub(super) async fn run(mut self) {
        while !self.worker.stop.is_cancelled() {
            let ended = self.session().await;
            self.worker.connected(self.index, false);
            match ended {
                Ok(()) => return,
                Err(_) if self.worker.kill.is_cancelled() => return,
                Err(error) => self.server.fails(&error),
            }
            if !self.backoff.wait(&self.worker.stop).await {
                return;
            }
        }
    }

    /// Runs one connection. It returns `Ok` only if the worker leaves.
    async fn session(&mut self) -> Result<(), ConnectionError> {
        let worker = Arc::clone(&self.worker);
        let stream = tokio::select! {
            () = worker.stop.cancelled() => return Ok(()),
            stream = connection::open(&self.server.address, worker.settings.connect_timeout) => stream?,
        };
        let mut connection = Connection::with_silence(stream, worker.settings.silence);
        worker.connected(self.index, true);
        let mut wanted = worker.wanted.subscribe();
        let mut registered = Registered { named: false, functions: vec![false; worker.settings.functions.len()] };
        let mut done = None;
        loop {
            let Some(turn) = self.turn(&mut connection).await? else {
                return farewell(connection).await;
            };
            let generation = self.take_up(&mut connection, &mut wanted, &mut registered)?;
            let grabbed = tokio::select! {
                grabbed = grab(&mut connection, done.take()) => grabbed?,
                // Dropping a job that is being assigned would waste one of its attempts, so wait for it; but
                // leave a silent server.
                () = async { worker.stop.cancelled().await; tokio::time::sleep(FAREWELL).await } => return Ok(()),
            };
            self.backoff.reset();
            self.server.works();
            if let Some(job) = grabbed {
                self.perform(&mut connection, &job, generation, &registered).await?;
                done = Some(job.handle);
                continue;
            }
            worker.confirm(self.index, Some(generation));
            drop(turn);
            connection.request(PacketType::PreSleep, &[])?;
            tokio::select! {
                () = worker.stop.cancelled() => return Ok(()),
                woken = wake_up(&mut connection) => woken?,
                // Cannot fail: the worker itself owns the sender.
                _ = wanted.changed() => {}
            }
        }
    }

    /// Sends the changes to the server. Returns the generation that the server has applied once it answers
    /// the next request.
    fn take_up(
        &self,
        connection: &mut Connection,
        wanted: &mut watch::Receiver<Wanted>,
        registered: &mut Registered,
    ) -> Result<u64, ConnectionError> {
        let wanted = wanted.borrow_and_update().clone();
        if let Some(id) = wanted.id.filter(|_| !registered.named) {
            connection.request(PacketType::SetClientId, &[id.as_str().as_bytes()])?;
            registered.named = true;
        }
        let functions = self.worker.settings.functions.iter().zip(wanted.in_use).zip(&mut registered.functions);
        for ((function, wanted), registered) in functions {
            match (wanted, *registered) {
                (true, false) => register(connection, function.name.as_bytes(), self.worker.settings.timeout)?,
                (false, true) => connection.request(PacketType::CantDo, &[function.name.as_bytes()])?,
                _ => {}
            }
            *registered = wanted;
        }
        Ok(wanted.generation)
    }

    /// Waits for the permission to grab a job; a job from another server may hold it. Returns `None` when the
    /// worker leaves.
    async fn turn(&self, connection: &mut Connection) -> Result<Option<OwnedSemaphorePermit>, ConnectionError> {
        let worker = &self.worker;
        let granted = async {
            if worker.running.available_permits() == 0 {
                // The last result must not wait until a job from another server ends.
                connection.flush().await?;
            }
            // A worker's semaphore is never closed.
            Ok(Arc::clone(&worker.running).acquire_owned().await.ok())
        };
        tokio::select! {
            biased;
            () = worker.stop.cancelled() => Ok(None),
            turn = granted => turn,
        }
    }

    /// Runs a job and counts it.
    async fn perform(
        &self,
        connection: &mut Connection,
        job: &AssignedJob,
        generation: u64,
        registered: &Registered,
    ) -> Result<(), ConnectionError> {
        let worker = &*self.worker;
        // A function that is available but not in use is not run for a server either.
        let mut functions = worker.settings.functions.iter().zip(&registered.functions);
        let is_meant = |function: &Function| function.name.as_bytes() == job.function;
        let Some((function, _)) = functions.find(|(function, registered)| **registered && is_meant(function)) else {
            return Err(foreign(job));
        };
        worker.begin_run(&function.name, &job.handle);
        worker.confirm(self.index, Some(generation));
        let job_runner = JobRunner {
            command: &function.command,
            kill: &worker.kill,
            verbose: worker.settings.verbose,
            server: &self.server,
            group: Some(&worker.supervisor.command),
        };
        let ended = job_runner
            .run(connection, job, |_, answer| {
                tell_error(&answer);
                Ok(())
            })
            .await;
        worker.supervisor.command.send_replace(None);
        worker.end_run(match &ended {
            Ok(ended) => match ended.outcome {
                Outcome::Complete(_) => Some(false),
                Outcome::Failed { .. } => Some(true),
                Outcome::Killed => None,
            },
            Err(_) => None,
        });
        job_runner.report(connection, job, ended?)
    }
}
