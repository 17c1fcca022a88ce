//! What the operator does to functions, jobs and workers.

use super::{ConnectionId, JobServer};
use crate::protocol::FunctionName;

/// Whom a rule concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// One connection, as long as it lasts.
    Connection(ConnectionId),
    /// Connections that gave themselves this id.
    Client(Vec<u8>),
    /// Connections from this address.
    Host(String),
}

/// How jobs are withheld from workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Withholding {
    /// They get none until they are enabled.
    Disabled,
    /// The same, of workers that are to end what they have and go.
    Draining,
}

/// A rule that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whom it concerns.
    pub who: Who,
    /// The function that is withheld; `None` for all.
    pub function: Option<FunctionName>,
    /// How.
    pub how: Withholding,
}

/// Where a long piece of work is to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place(pub(super) usize);

/// What one call of a long piece of work came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// How many jobs it has changed.
    pub affected: usize,
    /// Where to go on; `None` when all is done.
    pub next: Option<Place>,
}

/// Why the operator's wish was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No job has this handle.
    #[error("there is no such job")]
    NoSuchJob,
    /// The job is with a worker.
    #[error("the job is running")]
    JobIsRunning,
    /// The job waits for a worker, not for its time.
    #[error("the job is not scheduled for later")]
    JobIsNotScheduled,
    /// The other function has a job of the same unique id.
    #[error("the other function has a job of the same unique id")]
    JobExistsThere,
    /// Its workload is being read, or the store is just being asked to keep it.
    #[error("the job is being read or stored: try again")]
    JobIsBusy,
    /// Nobody ever used such a function.
    #[error("there is no such function")]
    NoSuchFunction,
    /// It has workers or jobs.
    #[error("the function has workers or jobs")]
    FunctionInUse,
    /// No connection is meant.
    #[error("there is no such worker")]
    NoSuchWorker,
    /// No function more can be known.
    #[error("there are as many functions as may be")]
    TooManyFunctions,
    /// No rule more can be kept.
    #[error("there are as many rules for workers as may be")]
    TooManyRules,
    /// A name is longer than the protocol allows.
    #[error("the name is too long")]
    NameTooLong,
}

impl JobServer {
    /// The rules by which workers get no jobs.
    pub fn withholdings(&self) -> Vec<Rule> {
        Vec::new()
    }
}
