//! The connection on which a managed worker does jobs, and its way to take up what the monitor wants without losing one.
//!
//! Functions are registered and dropped only where no grab is open: before each GRAB_JOB, on the same connection. A change
//! while the connection sleeps begins with a grab as well, since a job of a new function may be waiting, and no server
//! wakes anybody for a job that was there before; the answer to the grab proves that the server knows of the change. A job
//! that was assigned before a function was dropped is done.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::super::answer::AssignedJob;
use super::super::backoff::Backoff;
use super::super::command::Outcome;
use super::super::connection::{self, Connection, ConnectionError};
use super::super::perform::{FAREWELL, Performer, farewell, foreign, grab, register, tell_error, wake_up};
use super::super::slot::ServerState;
use super::settings::Function;
use super::state::{Managed, Wanted};
use crate::protocol::packet::PacketType;

/// A connection to one server, made anew whenever it is lost.
pub(super) struct JobConnection {
    worker: Arc<Managed>,
    server: Arc<ServerState>,
    /// Which of the worker's connections this is.
    index: usize,
    backoff: Backoff,
}

/// What a server knows of this connection.
struct Registered {
    named: bool,
    functions: Vec<bool>,
}

impl JobConnection {
    pub(super) fn new(worker: Arc<Managed>, server: Arc<ServerState>, index: usize) -> Self {
        Self { worker, server, index, backoff: Backoff::new() }
    }

    /// Does jobs until the worker leaves.
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

    /// The life of one connection; it ends well only because the worker leaves.
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
                // A job that is on its way would be one more attempt for nothing; a server that is silent is left.
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
                // The sender is the worker's own.
                _ = wanted.changed() => {}
            }
        }
    }

    /// Tells the server what has changed; the generation that it knows of when it answers what is sent next.
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

    /// Waits for the permission to grab a job, which a job from another server may have; `None` when the worker leaves.
    async fn turn(&self, connection: &mut Connection) -> Result<Option<OwnedSemaphorePermit>, ConnectionError> {
        let worker = &self.worker;
        let granted = async {
            if worker.running.available_permits() == 0 {
                // The last result must not wait for somebody else's job.
                connection.flush().await?;
            }
            // The semaphore of a worker is never closed.
            Ok(Arc::clone(&worker.running).acquire_owned().await.ok())
        };
        tokio::select! {
            biased;
            () = worker.stop.cancelled() => Ok(None),
            turn = granted => turn,
        }
    }

    /// Does a job and counts it.
    async fn perform(
        &self,
        connection: &mut Connection,
        job: &AssignedJob,
        generation: u64,
        registered: &Registered,
    ) -> Result<(), ConnectionError> {
        let worker = &*self.worker;
        // What it could do and was not told to do is not done for a server either.
        let mut functions = worker.settings.functions.iter().zip(&registered.functions);
        let is_meant = |function: &Function| function.name.as_bytes() == job.function;
        let Some((function, _)) = functions.find(|(function, registered)| **registered && is_meant(function)) else {
            return Err(foreign(job));
        };
        worker.begin_run(&function.name, &job.handle);
        worker.confirm(self.index, Some(generation));
        let performer = Performer {
            command: &function.command,
            kill: &worker.kill,
            verbose: worker.settings.verbose,
            server: &self.server,
        };
        let ended = performer
            .run(connection, job, |_, answer| {
                tell_error(&answer);
                Ok(())
            })
            .await;
        worker.end_run(match &ended {
            Ok(ended) => match ended.outcome {
                Outcome::Complete(_) => Some(false),
                Outcome::Failed { .. } => Some(true),
                Outcome::Killed => None,
            },
            Err(_) => None,
        });
        performer.report(connection, job, ended?)
    }
}
