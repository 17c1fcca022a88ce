//! What a worker has asked a server for on one connection and what of it is in hand: the grabs that are not
//! answered, and the jobs that are not begun.
//!
//! With `--prefetch N` a connection holds up to N jobs, the one that is done and the grabs without an answer
//! counted among them. It begins with one and may hold one more for each job that it is handed, so that a
//! queue that is seldom more than one job long costs what it costs without; at a NO_JOB it is one again. A
//! connection sleeps only when it holds none.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, AssignedJob};
use super::connection::{Connection, ConnectionError};
use super::limit::tell_limited;
use super::perform::{foreign, unasked};
use crate::protocol::FunctionName;
use crate::protocol::packet::PacketType;
use crate::protocol::request::ConnectionOption;

/// A job in hand.
pub(super) struct Held {
    pub(super) job: AssignedJob,
    /// Its share of the jobs that may still be begun, given back if it is not.
    pub(super) left: Option<OwnedSemaphorePermit>,
}

/// What was sent and may have an answer.
enum Sent {
    /// A grab, with its share of the jobs that may still be begun, where these are limited.
    Grab(Option<OwnedSemaphorePermit>),
    /// The result of this job; only its refusal is answered.
    Result(Bytes),
    /// A WORK_FAIL for a job whose result was perhaps refused. It is refused where the result was not.
    Failure,
}

/// An answer came, and no grab was open.
struct NoGrab;

/// What a grab needs to know of the worker.
pub(super) struct Allowance<'worker> {
    /// A permit is a job that may still be begun; `None` without a limit.
    pub(super) left: Option<&'worker Arc<Semaphore>>,
    /// The functions whose jobs are done.
    pub(super) functions: &'worker [FunctionName],
    /// Nothing more is asked for.
    pub(super) stop: &'worker CancellationToken,
}

/// The grabs and jobs of one connection.
pub(super) struct Grabs {
    /// The most jobs that it may hold (`--prefetch`).
    most: usize,
    /// How many it may hold now.
    window: usize,
    /// Whether it holds one that is being done.
    is_busy: bool,
    sent: VecDeque<Sent>,
    /// How many of these are grabs.
    open: usize,
    jobs: VecDeque<Held>,
}

impl Grabs {
    pub(super) fn new(most: usize) -> Self {
        Self { most, window: 1, is_busy: false, sent: VecDeque::new(), open: 0, jobs: VecDeque::new() }
    }

    /// Whether there are neither jobs nor grabs.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.open == 0
    }

    /// How many grabs have no answer.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// The next job, in the order in which they were handed out. It is being done until [`Grabs::done`].
    pub(super) fn begin(&mut self) -> Option<Held> {
        let held = self.jobs.pop_front()?;
        self.is_busy = true;
        Some(held)
    }

    /// The result of the job that was begun is sent.
    pub(super) fn done(&mut self, handle: Bytes) {
        self.is_busy = false;
        self.sent.push_back(Sent::Result(handle));
    }

    /// Asks for as many jobs as may be held. The first one's share of the jobs that may be begun has been
    /// taken already, and is in `first`.
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

    /// Takes up an answer.
    ///
    /// # Errors
    /// For a job that was not asked for, or of a function that is not registered.
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
                tell_limited("work", format_args!("the server says {code}: {text}"));
                self.refused(connection, &code)?;
            }
            // A wake-up that crossed the last grab.
            _ => {}
        }
        Ok(())
    }

    /// Something that was sent since the last answer was refused. A result that was refused leaves its job
    /// open, and its client waiting: such a job fails.
    ///
    /// A result that is accepted has no answer, so the refusal may be that of any result before the next
    /// grab. A WORK_FAIL for a job that has ended does nothing but be refused.
    fn refused(&mut self, connection: &mut Connection, code: &str) -> Result<(), ConnectionError> {
        match self.sent.front() {
            Some(Sent::Failure) => {
                self.sent.pop_front();
            }
            // The job has ended, or was given to another worker: there is nothing to fail.
            Some(Sent::Result(_)) if code == "JOB_NOT_FOUND" => {}
            Some(Sent::Result(_)) => {
                for sent in self.sent.iter_mut().take_while(|sent| !matches!(sent, Sent::Grab(_))) {
                    if let Sent::Result(handle) = std::mem::replace(sent, Sent::Failure) {
                        connection.request(PacketType::WorkFail, &[&handle])?;
                    }
                }
            }
            Some(Sent::Grab(_)) | None => {}
        }
        Ok(())
    }

    /// The first of the grabs is answered; its share.
    fn grab_answered(&mut self) -> Result<Option<OwnedSemaphorePermit>, NoGrab> {
        while let Some(sent) = self.sent.pop_front() {
            if let Sent::Grab(share) = sent {
                self.open -= 1;
                return Ok(share);
            }
        }
        Err(NoGrab)
    }

    /// Gives back what is held, also what is still on its way here, when the job that was begun last has its
    /// result.
    ///
    /// RESET_ABILITIES is the one packet that does so on every server. The option in front of it spares the
    /// jobs the attempt; where it is not known, that costs an ERROR, which is not looked at, and the attempt.
    pub(super) fn give_back(self, connection: &mut Connection) -> Result<(), ConnectionError> {
        if self.is_empty() {
            return Ok(());
        }
        connection.request(PacketType::OptionReq, &[ConnectionOption::NotBegun.name()])?;
        Ok(connection.request(PacketType::ResetAbilities, &[])?)
    }
}
