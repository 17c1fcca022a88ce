//! One connection of a worker, made anew whenever it is lost, and the one job at a time that is done on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address::ServerAddress;
use super::answer::{Answer, AssignedJob};
use super::backoff::Backoff;
use super::command::{Event, Outcome, TERM_GRACE};
use super::connection::{self, Connection, ConnectionError};
use super::tell;
use super::worker::Worker;
use crate::protocol::names::write_decimal;
use crate::protocol::packet::PacketType;

/// While more than this is queued for the server, no more output of a command is read, in bytes.
const UNSENT_MAX: usize = 1 << 20;
/// How much later than the worker the server gives up on a job: a kill and its report fit in between.
const SERVER_GRACE: Duration = TERM_GRACE.saturating_add(Duration::from_secs(3));
/// How long a server may take to confirm the last result of a worker that ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the slots of a server know of it together, so that they say it once.
pub(super) struct ServerState {
    address: ServerAddress,
    reachable: AtomicU8,
}

impl ServerState {
    const UNKNOWN: u8 = 0;
    const YES: u8 = 1;
    const NO: u8 = 2;

    pub(super) const fn new(address: ServerAddress) -> Self {
        Self { address, reachable: AtomicU8::new(Self::UNKNOWN) }
    }

    fn works(&self) {
        if self.reachable.swap(Self::YES, Ordering::Relaxed) != Self::YES {
            tell("work", format_args!("connected to {}", self.address));
        }
    }

    fn fails(&self, error: &ConnectionError) {
        if self.reachable.swap(Self::NO, Ordering::Relaxed) != Self::NO {
            tell("work", format_args!("no connection to {}: {error}; trying again", self.address));
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
            let pause = self.backoff.pause();
            tokio::select! {
                () = self.worker.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
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
        let mut connection = Connection::new(stream);
        self.register(&mut connection)?;
        let mut done = None;
        loop {
            let Some(turn) = self.turn(&mut connection).await? else {
                return farewell(connection).await;
            };
            connection.request(PacketType::GrabJobAll, &[])?;
            let grabbed = tokio::select! {
                grabbed = grab(&mut connection, done.take()) => grabbed?,
                // A job that is on its way would be one more attempt for nothing; a server that is silent is left.
                () = async { worker.stop.cancelled().await; tokio::time::sleep(FAREWELL).await } => return Ok(()),
            };
            self.backoff.reset();
            self.server.works();
            if let Some(job) = grabbed {
                if let Some(left) = turn.left {
                    left.forget();
                }
                let performed = self.perform(&mut connection, &job).await;
                worker.job_done();
                performed?;
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

    fn register(&self, connection: &mut Connection) -> Result<(), ConnectionError> {
        if let Some(id) = &self.worker.id {
            connection.request(PacketType::SetClientId, &[id.as_bytes()])?;
        }
        for function in &self.worker.functions {
            let name = function.as_bytes();
            match self.worker.command.timeout {
                None => connection.request(PacketType::CanDo, &[name])?,
                Some(timeout) => {
                    let limit_ms = (timeout + SERVER_GRACE).as_millis();
                    let mut digits = Vec::new();
                    write_decimal(u64::try_from(limit_ms).unwrap_or(u64::MAX), &mut digits);
                    connection.request(PacketType::CanDoTimeout, &[name, &digits])?;
                }
            }
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

    /// Does a job. The connection is watched meanwhile; if it is lost the command still runs to its end, since half of
    /// its work may be worse than all of it, but its result has nowhere to go.
    async fn perform(&self, connection: &mut Connection, job: &AssignedJob) -> Result<(), ConnectionError> {
        let name = job.handle.escape_ascii();
        let begin = Instant::now();
        // Without a process there is no judgement on the job: the end of the connection gives it to another worker.
        let started = self.worker.command.start(job, self.worker.kill.clone());
        let mut events = started.map_err(ConnectionError::Command)?;
        if self.worker.verbose {
            tell("work", format_args!("job {name} begins"));
        }
        let mut lost = None;
        let outcome = loop {
            tokio::select! {
                event = events.recv(), if lost.is_some() || connection.unsent() < UNSENT_MAX => match event {
                    Some(Event::Data(data)) => send_part(connection, PacketType::WorkData, job, &data)?,
                    Some(Event::Warning(data)) => send_part(connection, PacketType::WorkWarning, job, &data)?,
                    Some(Event::Ended(outcome)) => break outcome,
                    None => break Outcome::Killed,
                },
                turned = read_along(connection), if lost.is_none() => if let Err(error) = turned {
                    tell("work", format_args!(
                        "no connection to {}: {error}; the result of job {name} will be dropped", self.server.address
                    ));
                    lost = Some(error);
                },
            }
        };
        let elapsed = begin.elapsed();
        match &outcome {
            Outcome::Failed { reason, .. } => tell("work", format_args!("job {name} failed: {reason}")),
            Outcome::Killed => tell("work", format_args!("job {name} killed; the server gives it to another worker")),
            Outcome::Complete(_) if self.worker.verbose => {
                tell("work", format_args!("job {name} done in {:.3} s", elapsed.as_secs_f64()));
            }
            Outcome::Complete(_) => {}
        }
        if let Some(error) = lost {
            return Err(error);
        }
        self.report(connection, job, outcome)
    }

    fn report(&self, connection: &mut Connection, job: &AssignedJob, outcome: Outcome) -> Result<(), ConnectionError> {
        match outcome {
            Outcome::Complete(result) => connection.request(PacketType::WorkComplete, &[&job.handle, &result])?,
            Outcome::Failed { reason, stderr } if self.worker.command.exception => {
                let message = if stderr.is_empty() { reason.as_bytes() } else { &stderr };
                connection.request(PacketType::WorkException, &[&job.handle, message])?;
            }
            Outcome::Failed { .. } => connection.request(PacketType::WorkFail, &[&job.handle])?,
            // The end of the connection gives the job back.
            Outcome::Killed => return Err(ConnectionError::Closed),
        }
        Ok(())
    }
}

/// `None` only where there is nothing to limit.
async fn permit(semaphore: Option<&Arc<Semaphore>>) -> Option<OwnedSemaphorePermit> {
    // No semaphore of a worker is ever closed.
    Arc::clone(semaphore?).acquire_owned().await.ok()
}

fn send_part(
    connection: &mut Connection,
    packet_type: PacketType,
    job: &AssignedJob,
    data: &[u8],
) -> Result<(), ConnectionError> {
    Ok(connection.request(packet_type, &[&job.handle, data])?)
}

/// Waits for the answer to a GRAB_JOB. An ERROR in front of it is about the result of the job that was `done` before.
async fn grab(connection: &mut Connection, mut done: Option<Bytes>) -> Result<Option<AssignedJob>, ConnectionError> {
    loop {
        match connection.receive().await? {
            Answer::JobAssign(job) => return Ok(Some(job)),
            Answer::NoJob => return Ok(None),
            Answer::Error { code, text } => {
                tell("work", format_args!("the server says {code}: {text}"));
                // A result that was refused leaves the job open, and its client waiting.
                if let Some(handle) = done.take()
                    && code != "JOB_NOT_FOUND"
                {
                    connection.request(PacketType::WorkFail, &[&handle])?;
                }
            }
            // A wake-up that crossed the last grab.
            _ => {}
        }
    }
}

async fn wake_up(connection: &mut Connection) -> Result<(), ConnectionError> {
    while connection.receive().await? != Answer::Noop {}
    Ok(())
}

/// Sends what is queued and reads what comes while a job is done, of which only an ERROR is of interest.
async fn read_along(connection: &mut Connection) -> Result<(), ConnectionError> {
    connection.turn().await?;
    while let Some(answer) = connection.try_receive()? {
        if let Answer::Error { code, text } = answer {
            tell("work", format_args!("the server says {code}: {text}"));
        }
    }
    Ok(())
}

/// Makes sure of the last result before the connection ends.
async fn farewell(mut connection: Connection) -> Result<(), ConnectionError> {
    match tokio::time::timeout(FAREWELL, connection.settle()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tell("work", format_args!("the last result may be lost: {error}")),
        Err(_) => tell("work", format_args!("the last result may be lost: no confirmation within {FAREWELL:?}")),
    }
    Ok(())
}
