//! Operations on a worker connection that all kinds of workers share: register a function, grab a job, run
//! its command, report the result, and end the connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, AssignedJob};
use super::command::{Event, JobCommand, Outcome, Running, TERM_GRACE};
use super::connection::{Connection, ConnectionError};
use super::limit::tell_limited;
use super::tell;
use super::worker_connection::ServerState;
use crate::protocol::names::write_decimal;
use crate::protocol::packet::PacketType;

/// While more than this is queued for the server, no more output of a command is read, in bytes.
pub(super) const UNSENT_MAX: usize = 1 << 20;
/// How much of an invalid name is shown, in bytes.
const NAME_SHOWN: usize = 100;
/// How much longer than the worker's time limit the server's is: enough for a kill and its report.
const SERVER_GRACE: Duration = TERM_GRACE.saturating_add(Duration::from_secs(3));
/// Time for a server to confirm the last result of a worker that ends.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// What is needed to run a job.
pub(super) struct JobRunner<'worker> {
    pub(super) command: &'worker Arc<JobCommand>,
    /// Kills the running command.
    pub(super) kill: &'worker CancellationToken,
    pub(super) verbose: bool,
    pub(super) server: &'worker ServerState,
    /// Is told the process group of the command.
    pub(super) group: Option<&'worker watch::Sender<Option<u32>>>,
}

/// End of a run.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// Why the result can no longer be reported.
    lost: Option<ConnectionError>,
}

impl Ended {
    /// Whether the job was killed because the worker must stop immediately, and the server can still be told.
    pub(super) fn is_killed(&self) -> bool {
        self.lost.is_none() && matches!(self.outcome, Outcome::Killed)
    }
}

impl JobRunner<'_> {
    /// Runs a job. Meanwhile the connection is read, and responses go to `hear`. If the connection is lost,
    /// the command still runs to its end, since a half-done job may be worse than a finished one, but its
    /// result is dropped.
    ///
    /// # Errors
    /// When no process could be created, or the output exceeded the packet size limit. The job has no result
    /// then.
    pub(super) async fn run(
        &self,
        connection: &mut Connection,
        job: &AssignedJob,
        mut hear: impl FnMut(&mut Connection, Answer) -> Result<(), ConnectionError>,
    ) -> Result<Ended, ConnectionError> {
        let name = job.handle.escape_ascii();
        let begin = Instant::now();
        // Without a process the job has no outcome: closing the connection gives it to another worker.
        let started = self.command.start(job, self.kill.clone());
        let Running { mut events, group } = started.map_err(ConnectionError::Command)?;
        if let Some(told) = self.group {
            told.send_replace(group);
        }
        if self.verbose {
            tell("work", format_args!("job {name} started"));
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
                turned = read_along(connection, &mut hear), if lost.is_none() => if let Err(error) = turned {
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
            Outcome::Killed => tell("work", format_args!("job {name} killed; the server requeues it")),
            Outcome::Complete(_) if self.verbose => {
                tell("work", format_args!("job {name} done in {:.3} s", elapsed.as_secs_f64()));
            }
            Outcome::Complete(_) => {}
        }
        Ok(Ended { outcome, lost })
    }

    /// Reports the end of a run to the server.
    ///
    /// # Errors
    /// When the connection must be closed, which returns the job to the queue.
    pub(super) fn report(
        &self,
        connection: &mut Connection,
        job: &AssignedJob,
        ended: Ended,
    ) -> Result<(), ConnectionError> {
        if let Some(error) = ended.lost {
            return Err(error);
        }
        match ended.outcome {
            Outcome::Complete(result) => connection.request(PacketType::WorkComplete, &[&job.handle, &result])?,
            Outcome::Failed { reason, stderr } if self.command.exception => {
                let message = if stderr.is_empty() { reason.as_bytes() } else { &stderr };
                connection.request(PacketType::WorkException, &[&job.handle, message])?;
            }
            Outcome::Failed { .. } => connection.request(PacketType::WorkFail, &[&job.handle])?,
            // Closing the connection returns the job to the queue.
            Outcome::Killed => return Err(ConnectionError::Closed),
        }
        Ok(())
    }
}

/// Registers a function, with the time limit for the server.
pub(super) fn register(
    connection: &mut Connection,
    name: &[u8],
    timeout: Option<Duration>,
) -> Result<(), ConnectionError> {
    match timeout {
        None => connection.request(PacketType::CanDo, &[name])?,
        Some(timeout) => {
            let limit_ms = (timeout + SERVER_GRACE).as_millis();
            let mut digits = Vec::new();
            write_decimal(u64::try_from(limit_ms).unwrap_or(u64::MAX), &mut digits);
            connection.request(PacketType::CanDoTimeout, &[name, &digits])?;
        }
    }
    Ok(())
}

fn send_part(
    connection: &mut Connection,
    packet_type: PacketType,
    job: &AssignedJob,
    data: &[u8],
) -> Result<(), ConnectionError> {
    Ok(connection.request(packet_type, &[&job.handle, data])?)
}

/// Grabs a job and waits for the response. An ERROR before it refers to the result of the previous job,
/// `done`.
pub(super) async fn grab(
    connection: &mut Connection,
    mut done: Option<Bytes>,
) -> Result<Option<AssignedJob>, ConnectionError> {
    // Do not queue requests without limit for a server that answers but does not read.
    connection.flush_to(UNSENT_MAX).await?;
    connection.request(PacketType::GrabJobAll, &[])?;
    loop {
        match connection.receive().await? {
            Answer::JobAssign(job) => return Ok(Some(job)),
            Answer::NoJob => return Ok(None),
            Answer::Error { code, text } => {
                tell_limited("work", format_args!("server error {code}: {text}"));
                // A rejected result leaves the job unfinished and its client waiting.
                if let Some(handle) = done.take()
                    && code != "JOB_NOT_FOUND"
                {
                    connection.request(PacketType::WorkFail, &[&handle])?;
                }
            }
            // A NOOP that crossed the last grab.
            _ => {}
        }
    }
}

/// The error for a job of a function that was not registered. Running it would let anyone at the server's
/// address run the command.
pub(super) fn foreign(job: &AssignedJob) -> ConnectionError {
    ConnectionError::Foreign(function_shown(job))
}

/// The error for a job that was not grabbed.
pub(super) fn unasked(job: &AssignedJob) -> ConnectionError {
    ConnectionError::Unasked(function_shown(job))
}

fn function_shown(job: &AssignedJob) -> String {
    job.function.get(..NAME_SHOWN).unwrap_or(&job.function).escape_ascii().to_string()
}

/// Waits for a NOOP.
pub(super) async fn wake_up(connection: &mut Connection) -> Result<(), ConnectionError> {
    while connection.receive().await? != Answer::Noop {}
    Ok(())
}

/// Sends queued requests and reads responses while a job runs.
async fn read_along(
    connection: &mut Connection,
    hear: &mut impl FnMut(&mut Connection, Answer) -> Result<(), ConnectionError>,
) -> Result<(), ConnectionError> {
    connection.turn().await?;
    while let Some(answer) = connection.try_receive()? {
        hear(connection, answer)?;
    }
    Ok(())
}

/// Handles a response that arrives while a job runs, for a worker without prefetch.
pub(super) fn tell_error(answer: &Answer) {
    if let Answer::Error { code, text } = answer {
        tell_limited("work", format_args!("server error {code}: {text}"));
    }
}

/// Confirms the last result before the connection ends.
pub(super) async fn farewell(mut connection: Connection) -> Result<(), ConnectionError> {
    match tokio::time::timeout(FAREWELL, connection.settle()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tell("work", format_args!("last result may be lost: {error}")),
        Err(_) => tell("work", format_args!("last result may be lost: no confirmation within {FAREWELL:?}")),
    }
    Ok(())
}
