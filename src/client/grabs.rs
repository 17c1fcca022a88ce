//! Prefetch state of one worker connection: its unanswered grabs and the jobs that are held but not yet
//! started.
//!
//! With `--prefetch N` a connection holds up to N jobs, including the running one and the unanswered grabs.
//! The window starts at one and grows by one for each assigned job, so that a queue that is seldom longer
//! than one job costs the same as without prefetch. A NO_JOB resets it to one. A connection sleeps only when
//! it holds no job.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, AssignedJob};
use super::connection::{Connection, ConnectionError};
use super::job_runner::{foreign, unasked};
use super::limit::tell_limited;
use crate::protocol::FunctionName;
use crate::protocol::packet::PacketType;
use crate::protocol::request::ConnectionOption;

/// A held job.
pub(super) struct Held {
    pub(super) job: AssignedJob,
    /// Its permit from the limit on jobs that may still be started, returned if the job is not started.
    pub(super) left: Option<OwnedSemaphorePermit>,
}

/// A sent request that may get a response.
enum Sent {
    /// A grab, with its permit from the limit on jobs that may still be started, if there is one.
    Grab(Option<OwnedSemaphorePermit>),
    /// The result of this job. Only a rejection is answered.
    Result(Bytes),
    /// A WORK_FAIL for a job whose result may have been rejected. The server rejects it if the result was
    /// accepted.
    Failure,
}

/// A response arrived although no grab was outstanding.
struct NoGrab;

/// What a grab needs to know about the worker.
pub(super) struct Allowance<'worker> {
    /// One permit for each job that may still be started; `None` without a limit.
    pub(super) left: Option<&'worker Arc<Semaphore>>,
    /// The registered functions.
    pub(super) functions: &'worker [FunctionName],
    /// Once cancelled, no more jobs are grabbed.
    pub(super) stop: &'worker CancellationToken,
}

/// The grabs and jobs of one connection.
pub(super) struct Grabs {
    /// Maximum number of jobs held (`--prefetch`).
    most: usize,
    /// Current limit.
    window: usize,
    /// Whether a held job is running.
    is_busy: bool,
    sent: VecDeque<Sent>,
    /// How many of the sent requests are grabs.
    open: usize,
    jobs: VecDeque<Held>,
}

impl Grabs {
    pub(super) fn new(most: usize) -> Self {
        Self { most, window: 1, is_busy: false, sent: VecDeque::new(), open: 0, jobs: VecDeque::new() }
    }

    /// Whether there are neither held jobs nor outstanding grabs.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.open == 0
    }

    /// Number of outstanding grabs.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Starts the next job, in the order of assignment. It is running until [`Grabs::done`].
    pub(super) fn begin(&mut self) -> Option<Held> {
        let held = self.jobs.pop_front()?;
        self.is_busy = true;
        Some(held)
    }

    /// Records that the result of the running job was sent.
    pub(super) fn done(&mut self, handle: Bytes) {
        self.is_busy = false;
        self.sent.push_back(Sent::Result(handle));
    }

    /// Grabs as many jobs as the window allows. `first` is the permit of the first one, which the caller has
    /// already acquired.
    pub(super) fn fill(
        &mut self,
        connection: &mut Connection,
        mut first: Option<OwnedSemaphorePermit>,
        allowance: &Allowance<'_>,
    ) -> Result<(), ConnectionError> {
        while usize::from(self.is_busy) + self.jobs.len() + self.open < self.window {
            let share = match allowance.left {
                None => None,
                Some(left) => match first.take().or_else(|| Arc::clone(left).try_acquire_owned().ok()) {
                    None => return Ok(()),
                    share => share,
                },
            };
            connection.request(PacketType::GrabJobAll, &[])?;
            self.sent.push_back(Sent::Grab(share));
            self.open += 1;
        }
        Ok(())
    }

    /// Handles a response.
    ///
    /// # Errors
    /// For a job that was not grabbed, or of a function that is not registered.
    pub(super) fn hear(
        &mut self,
        connection: &mut Connection,
        answer: Answer,
        allowance: &Allowance<'_>,
    ) -> Result<(), ConnectionError> {
        match answer {
            Answer::JobAssign(job) => {
                let Ok(left) = self.grab_answered() else {
                    return Err(unasked(&job));
                };
                if !allowance.functions.iter().any(|function| function.as_bytes() == job.function) {
                    return Err(foreign(&job));
                }
                self.jobs.push_back(Held { job, left });
                self.window = self.most.min(self.window + 1);
                if self.most > 1 && !allowance.stop.is_cancelled() {
                    self.fill(connection, None, allowance)?;
                }
            }
            Answer::NoJob => {
                drop(self.grab_answered());
                self.window = 1;
            }
            Answer::Error { code, text } => {
                tell_limited("work", format_args!("server error {code}: {text}"));
                self.refused(connection, &code)?;
            }
            // A NOOP that crossed the last grab.
            _ => {}
        }
        Ok(())
    }

    /// Handles an error for something that was sent since the last answer. A rejected result leaves its job
    /// open and its client waiting, so the job fails instead.
    ///
    /// An accepted result has no answer, so the error may belong to any result before the next grab: each of
    /// them fails, once. WORK_FAIL for a job that has ended does nothing but be answered JOB_NOT_FOUND.
    fn refused(&mut self, connection: &mut Connection, code: &str) -> Result<(), ConnectionError> {
        if code == "JOB_NOT_FOUND" {
            return Ok(());
        }
        for sent in self.sent.iter_mut().take_while(|sent| !matches!(sent, Sent::Grab(_))) {
            if let Sent::Result(handle) = std::mem::replace(sent, Sent::Failure) {
                connection.request(PacketType::WorkFail, &[&handle])?;
            }
        }
        Ok(())
    }

    /// Removes the first outstanding grab, which has been answered, and returns its permit.
    fn grab_answered(&mut self) -> Result<Option<OwnedSemaphorePermit>, NoGrab> {
        while let Some(sent) = self.sent.pop_front() {
            if let Sent::Grab(share) = sent {
                self.open -= 1;
                return Ok(share);
            }
        }
        Err(NoGrab)
    }

    /// Returns the held jobs to the server, including those that are still on their way here. The job that
    /// was started last must have sent its result.
    ///
    /// RESET_ABILITIES is the one packet that does this on every server. The option sent before it keeps the
    /// attempts of the jobs from being counted. A server that does not know the option answers with an ERROR,
    /// which is ignored, and counts an attempt.
    pub(super) fn give_back(self, connection: &mut Connection) -> Result<(), ConnectionError> {
        if self.is_empty() {
            return Ok(());
        }
        connection.request(PacketType::OptionReq, &[ConnectionOption::NotBegun.name()])?;
        Ok(connection.request(PacketType::ResetAbilities, &[])?)
    }
}
