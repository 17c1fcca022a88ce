//! Management connection of a managed worker: receives its id and answers the monitor, while another
//! connection runs jobs.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::super::answer::AssignedJob;
use super::super::backoff::Backoff;
use super::super::connection::{self, Connection, ConnectionError};
use super::super::job_runner::{FAREWELL, farewell, foreign, grab, wake_up};
use super::super::worker_connection::ServerState;
use super::state::{Managed, Wanted};
use super::verbs;
use crate::fleet::contract::{SET_ID, WorkerId};
use crate::protocol::packet::PacketType;

/// A connection to one server, which reconnects when it is lost.
pub(super) struct ManageConnection {
    worker: Arc<Managed>,
    server: Arc<ServerState>,
    backoff: Backoff,
}

/// What this connection has registered at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    /// Registered for `setId`, waiting for an id.
    Waiting,
    /// Has an id, and is still registered for `setId`.
    Both,
    /// Has an id.
    Named,
}

impl ManageConnection {
    pub(super) fn new(worker: Arc<Managed>, server: Arc<ServerState>) -> Self {
        Self { worker, server, backoff: Backoff::new() }
    }

    /// Answers until the worker's last job is done.
    pub(super) async fn run(mut self) {
        while !self.worker.over.is_cancelled() {
            match self.session().await {
                Ok(()) => return,
                Err(error) => self.server.fails(&error),
            }
            if !self.backoff.wait(&self.worker.over).await {
                return;
            }
        }
    }

    /// Runs one connection. It returns `Ok` only if the worker ends.
    async fn session(&mut self) -> Result<(), ConnectionError> {
        let worker = Arc::clone(&self.worker);
        let stream = tokio::select! {
            () = worker.over.cancelled() => return Ok(()),
            stream = connection::open(&self.server.address, worker.settings.connect_timeout) => stream?,
        };
        let mut connection = Connection::with_silence(stream, worker.settings.silence);
        let mut wanted = worker.wanted.subscribe();
        let mut known = Known::Nothing;
        let mut done = None;
        loop {
            announce(&mut connection, &mut wanted, &mut known)?;
            if known == Known::Both {
                // Not earlier: dropping the function returns its job to the queue.
                connection.request(PacketType::CantDo, &[SET_ID.as_bytes()])?;
                known = Known::Named;
            }
            if worker.over.is_cancelled() {
                return farewell(connection).await;
            }
            let grabbed = tokio::select! {
                grabbed = grab(&mut connection, done.take()) => grabbed?,
                () = async { worker.over.cancelled().await; tokio::time::sleep(FAREWELL).await } => return Ok(()),
            };
            self.backoff.reset();
            self.server.works();
            if let Some(job) = grabbed {
                if !self.is_registered(&job, known) {
                    return Err(foreign(&job));
                }
                let answer = self.answer(&job).await;
                // Register the new id before the response reveals it.
                announce(&mut connection, &mut wanted, &mut known)?;
                connection.request(PacketType::WorkComplete, &[&job.handle, &answer])?;
                done = Some(job.handle);
                continue;
            }
            connection.request(PacketType::PreSleep, &[])?;
            tokio::select! {
                () = worker.over.cancelled() => return Ok(()),
                woken = wake_up(&mut connection) => woken?,
                // The id may have arrived on another server's connection.
                _ = wanted.changed() => {}
            }
        }
    }

    /// Whether this connection has registered the function of this job.
    fn is_registered(&self, job: &AssignedJob, known: Known) -> bool {
        if *job.function == *SET_ID.as_bytes() {
            return known == Known::Waiting;
        }
        let own = self.worker.wanted.borrow().id.as_ref().map(WorkerId::manage_function);
        known == Known::Named && own.is_some_and(|own| own.as_bytes() == job.function)
    }

    async fn answer(&self, job: &AssignedJob) -> Bytes {
        Bytes::from(if *job.function == *SET_ID.as_bytes() {
            verbs::set_id(&self.worker, &job.workload)
        } else {
            verbs::manage(&self.worker, &job.function, &job.workload).await
        })
    }
}

/// Registers the function of its id, or waits for an id.
fn announce(
    connection: &mut Connection,
    wanted: &mut watch::Receiver<Wanted>,
    known: &mut Known,
) -> Result<(), ConnectionError> {
    let id: Option<WorkerId> = wanted.borrow_and_update().id.clone();
    match (id, *known) {
        (None, Known::Nothing) => {
            connection.request(PacketType::CanDo, &[SET_ID.as_bytes()])?;
            *known = Known::Waiting;
        }
        (Some(id), Known::Nothing | Known::Waiting) => {
            connection.request(PacketType::SetClientId, &[id.as_str().as_bytes()])?;
            connection.request(PacketType::CanDo, &[id.manage_function().as_bytes()])?;
            *known = if *known == Known::Waiting { Known::Both } else { Known::Named };
        }
        (None, _) | (Some(_), Known::Both | Known::Named) => {}
    }
    Ok(())
}
