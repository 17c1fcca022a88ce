//! Control actions of the operator, and their audit log.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use super::Admin;
use super::audit::AuditLog;
use crate::job_server::{ControlError, Cursor, DropFunction, Now, Progress, StoreFailure, WorkerMode, WorkerSelector};
use crate::protocol::Priority;
use crate::protocol::names::FUNCTION_MAX;
use crate::protocol::text::escaped;
pub use crate::store::commit::{COMMIT_WAIT, Commit};

/// A control action. Names are raw bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Pauses or resumes a function. No worker gets jobs of a paused one.
    Pause {
        /// The function, which need not be known yet.
        function: Vec<u8>,
        /// True to pause, false to resume.
        paused: bool,
    },
    /// Limits how many jobs of a function run at once.
    LimitRunning {
        /// The function, which need not be known yet.
        function: Vec<u8>,
        /// The limit; 0 for none.
        most: u32,
    },
    /// Limits the queue of a function, by the priority of the submitted job: high, normal and low.
    LimitQueue {
        /// The function, which need not be known yet.
        function: Vec<u8>,
        /// The limits; 0 for none.
        limits: [u32; 3],
    },
    /// Creates a function.
    CreateFunction {
        /// Its name.
        function: Vec<u8>,
    },
    /// Drops a function that is not in use.
    DropFunction {
        /// Its name.
        function: Vec<u8>,
    },
    /// Cancels a job.
    CancelJob {
        /// Its handle.
        handle: Vec<u8>,
    },
    /// Cancels all jobs of a function.
    CancelJobs {
        /// The function.
        function: Vec<u8>,
    },
    /// Moves a job to another function.
    MoveJob {
        /// Its handle.
        handle: Vec<u8>,
        /// Its new function.
        to: Vec<u8>,
    },
    /// Moves all jobs of a function that are not running to another function.
    MoveJobs {
        /// Their present function.
        from: Vec<u8>,
        /// Their new function.
        to: Vec<u8>,
    },
    /// Change the priority of a job.
    SetPriority {
        /// Its handle.
        handle: Vec<u8>,
        /// Its new priority.
        priority: Priority,
    },
    /// Makes a scheduled job due now.
    RunJob {
        /// Its handle.
        handle: Vec<u8>,
    },
    /// Assigns no more jobs to workers, until they are enabled.
    Disable {
        /// Which workers.
        selector: WorkerSelector,
        /// Jobs of this function only; `None` for any.
        function: Option<Vec<u8>>,
    },
    /// The same, for workers that are to finish their jobs and disconnect.
    Drain {
        /// Which workers.
        selector: WorkerSelector,
        /// Jobs of this function only; `None` for any.
        function: Option<Vec<u8>>,
    },
    /// Removes a rule that [`Disable`](Control::Disable) or [`Drain`](Control::Drain) made.
    Enable {
        /// The workers, as the rule names them.
        selector: WorkerSelector,
        /// The function, as the rule names it.
        function: Option<Vec<u8>>,
    },
    /// Closes workers' connections. Their jobs are requeued.
    Kick {
        /// Which workers.
        selector: WorkerSelector,
    },
}

/// Backpressure: no job is changed while more changes than this are queued for the store.
const MOST_WAITING: usize = 65_536;

/// A control action that runs in steps. Other connections run between them.
///
/// A task that is dropped before its end stays half done, which is logged as well.
#[derive(Debug)]
pub struct Task {
    control: Control,
    actor: String,
    cursor: Cursor,
    affected: usize,
    has_ended: bool,
    log: Arc<AuditLog>,
}

/// Progress of a [`Task`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// [`Admin::step`] must be called again.
    Unfinished,
    /// The action is complete.
    Done {
        /// How many jobs, functions or connections were changed.
        affected: usize,
    },
}

impl Admin {
    /// Starts an action. `actor` is named in the log: a peer's address and what else is known of it.
    pub fn begin(&self, control: Control, actor: String) -> Task {
        Task {
            control,
            actor,
            cursor: Cursor::default(),
            affected: 0,
            has_ended: false,
            log: Arc::clone(&self.audit_log),
        }
    }

    /// Logs an action that `actor` requested and other processes carried out, with its result.
    pub fn log_command(&self, command: &str, how: &str, actor: &str) {
        self.audit_log.write(format_args!("{command}: {how}, by {actor}"));
    }

    /// Does a bounded part of the action, under one hold of the hub's lock. Call it until it is done or has
    /// failed, and then no more. The end is logged.
    ///
    /// # Errors
    /// When the action cannot be done. Earlier steps are not undone.
    pub fn step(&self, now: Now, task: &mut Task) -> Result<Step, ControlError> {
        if task.control.needs_all_jobs() && self.hub.is_restoring() {
            // The jobs that it applies to may not be restored yet.
            return Ok(Step::Unfinished);
        }
        if task.control.edits_jobs() && self.hub.waiting_changes() > MOST_WAITING {
            // The store is behind: further changes wait here and not in its queue.
            return Ok(Step::Unfinished);
        }
        match self.apply(now, task) {
            Ok(Progress { affected, next }) => {
                task.affected += affected;
                if let Some(cursor) = next {
                    task.cursor = cursor;
                    return Ok(Step::Unfinished);
                }
                task.end("done");
                Ok(Step::Done { affected: task.affected })
            }
            Err(error) => {
                task.end(&error.to_string());
                Err(error)
            }
        }
    }

    /// Waits until the action is committed, so that a restart does not undo it; `None` if it is not stored.
    pub fn commit(&self, control: &Control) -> Option<Commit> {
        let is_for_store = match control {
            Control::CreateFunction { .. } | Control::Kick { .. } => false,
            Control::Disable { selector, .. } | Control::Drain { selector, .. } | Control::Enable { selector, .. } => {
                !matches!(selector, WorkerSelector::Connection(_))
            }
            _ => true,
        };
        if is_for_store { self.hub.commit() } else { None }
    }

    fn apply(&self, now: Now, task: &Task) -> Result<Progress, ControlError> {
        let hub = &self.hub;
        let affected = match &task.control {
            Control::Pause { function, paused } => hub.pause_function(now, function, *paused),
            Control::LimitRunning { function, most } => hub.limit_running(now, function, *most),
            Control::LimitQueue { function, .. } | Control::CreateFunction { function }
                if function.len() > FUNCTION_MAX =>
            {
                Err(ControlError::NameTooLong)
            }
            Control::LimitQueue { function, limits } => hub.limit_function(now, function, *limits),
            Control::CreateFunction { function } => {
                hub.create_function(function).map(|()| 1).map_err(|_| ControlError::TooManyFunctions)
            }
            Control::DropFunction { function } => match hub.drop_function(now, function) {
                DropFunction::Dropped => Ok(1),
                DropFunction::NotFound => Err(ControlError::NoSuchFunction),
                DropFunction::InUse => Err(ControlError::FunctionInUse),
                DropFunction::HasJobs => Err(ControlError::FunctionHasJobs),
            },
            Control::CancelJob { handle } => {
                if hub.cancel_job(now, handle) {
                    Ok(1)
                } else {
                    Err(ControlError::NoSuchJob)
                }
            }
            Control::CancelJobs { function } => return hub.cancel_jobs(now, function, task.cursor),
            Control::MoveJob { handle, to } => hub.move_job(now, handle, to).map(|()| 1),
            Control::MoveJobs { from, to } => return hub.move_jobs(now, from, to, task.cursor),
            Control::SetPriority { handle, priority } => hub.set_priority(now, handle, *priority).map(|()| 1),
            Control::RunJob { handle } => hub.run_job(now, handle).map(|()| 1),
            // The remaining steps are the same for all three.
            Control::Disable { .. } | Control::Drain { .. } | Control::Enable { .. }
                if task.cursor != Cursor::default() =>
            {
                return Ok(hub.go_on_with_rules(now));
            }
            Control::Disable { selector, function } => {
                return hub.set_worker_mode(now, selector, function.as_deref(), WorkerMode::Disabled);
            }
            Control::Drain { selector, function } => {
                return hub.set_worker_mode(now, selector, function.as_deref(), WorkerMode::Draining);
            }
            Control::Enable { selector, function } => return hub.enable_workers(now, selector, function.as_deref()),
            Control::Kick { selector } => match hub.kick(now, selector) {
                0 => Err(ControlError::NoSuchWorker),
                count => Ok(count),
            },
        };
        affected.map(|affected| Progress { affected, next: None })
    }
}

impl Control {
    /// Whether it has to wait until all jobs are restored.
    fn needs_all_jobs(&self) -> bool {
        self.edits_jobs()
            || matches!(self, Self::CancelJob { .. } | Self::CancelJobs { .. } | Self::DropFunction { .. })
    }

    /// Whether it changes the stored form of jobs.
    fn edits_jobs(&self) -> bool {
        matches!(self, Self::MoveJob { .. } | Self::MoveJobs { .. } | Self::SetPriority { .. } | Self::RunJob { .. })
    }
}

impl Task {
    /// Whether it waits until all jobs are restored.
    pub(super) fn awaits_jobs(&self) -> bool {
        self.control.needs_all_jobs()
    }

    /// The action.
    pub(super) const fn control(&self) -> &Control {
        &self.control
    }

    /// Whether it may change several things or none, so that its response includes a count.
    pub(super) const fn tells_how_many(&self) -> bool {
        matches!(
            self.control,
            Control::CancelJobs { .. }
                | Control::MoveJobs { .. }
                | Control::Disable { .. }
                | Control::Drain { .. }
                | Control::Enable { .. }
                | Control::Kick { .. }
        )
    }

    fn end(&mut self, how: &str) {
        self.has_ended = true;
        self.log.write(format_args!("{}: {how}, {} changed, by {}", self.control, self.affected, self.actor));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end("aborted: the client disconnected");
        }
    }
}

impl fmt::Display for Control {
    /// Writes the action as a text command. Names are escaped as in the tables, and can be typed that way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pause { function, paused: true } => write!(f, "pause {}", escaped(function)),
            Self::Pause { function, paused: false } => write!(f, "resume {}", escaped(function)),
            Self::LimitRunning { function, most } => write!(f, "limit running {} {most}", escaped(function)),
            Self::LimitQueue { function, limits: [high, normal, low] } => {
                write!(f, "maxqueue {} {high} {normal} {low}", escaped(function))
            }
            Self::CreateFunction { function } => write!(f, "create function {}", escaped(function)),
            Self::DropFunction { function } => write!(f, "drop function {}", escaped(function)),
            Self::CancelJob { handle } => write!(f, "cancel job {}", escaped(handle)),
            Self::CancelJobs { function } => write!(f, "cancel jobs {}", escaped(function)),
            Self::MoveJob { handle, to } => write!(f, "move job {} {}", escaped(handle), escaped(to)),
            Self::MoveJobs { from, to } => write!(f, "move jobs {} {}", escaped(from), escaped(to)),
            Self::SetPriority { handle, priority } => {
                write!(f, "priority job {} {}", escaped(handle), priority.name())
            }
            Self::RunJob { handle } => write!(f, "run job {}", escaped(handle)),
            Self::Disable { selector, function } => write_workers(f, "disable", selector, function.as_deref()),
            Self::Drain { selector, function } => write_workers(f, "drain", selector, function.as_deref()),
            Self::Enable { selector, function } => write_workers(f, "enable", selector, function.as_deref()),
            Self::Kick { selector } => write_workers(f, "kick", selector, None),
        }
    }
}

fn write_workers(
    f: &mut fmt::Formatter<'_>,
    verb: &str,
    selector: &WorkerSelector,
    function: Option<&[u8]>,
) -> fmt::Result {
    match selector {
        WorkerSelector::Connection(id) => write!(f, "{verb} connection:{}-{}", id.slot, id.generation)?,
        WorkerSelector::Client(id) => write!(f, "{verb} client:{}", escaped(id))?,
        WorkerSelector::Host(address) => write!(f, "{verb} host:{}", address.escape_default())?,
    }
    function.map_or(Ok(()), |function| write!(f, " {}", escaped(function)))
}

/// The address that connections through a UNIX socket show.
const UNIX: &str = "unix";

/// Selects the workers from an address. All spellings are accepted, also with brackets and a zone;
/// connections show only one of them.
///
/// # Errors
/// A message, when no connection can come from `address`.
pub fn host(address: &str) -> Result<WorkerSelector, &'static str> {
    if address == UNIX {
        return Ok(WorkerSelector::Host(UNIX.to_owned()));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let (bare, _zone) = bare.split_once('%').unwrap_or((bare, ""));
    let address = IpAddr::from_str(bare).map_err(|_| {
        "A host is an IP address as listed for workers, such as 10.0.0.1 or ::1, or unix; host names are not resolved"
    })?;
    Ok(WorkerSelector::Host(address.to_canonical().to_string()))
}

/// Error code for an action that is in force, but not in the store.
pub const NOT_STORED: &str = "not_stored";

/// The message for [`NOT_STORED`]. Without a reason the store takes too long.
pub fn not_stored(why: Option<StoreFailure>) -> String {
    let why = match why {
        None => "no commit for 10 seconds",
        Some(StoreFailure::Full) => "the store is full",
        Some(StoreFailure::ReadOnly) => "the store is read-only",
        Some(StoreFailure::Io) => "the store cannot be written",
        Some(StoreFailure::Locked) => "the store is locked",
        Some(StoreFailure::Unreachable) => "the database cannot be reached",
        Some(StoreFailure::Corrupt) => "the store is damaged",
        Some(StoreFailure::Refused) => {
            return "applied, but rejected by the store; a restart reverts it, see the log".to_owned();
        }
    };
    format!("applied, but not yet stored ({why}); a restart before the store recovers reverts it")
}

/// The error code of a control error.
pub const fn error_code(error: ControlError) -> &'static str {
    match error {
        ControlError::NoSuchJob => "no_such_job",
        ControlError::JobIsRunning => "job_is_running",
        ControlError::JobIsNotScheduled => "job_is_not_scheduled",
        ControlError::JobExistsThere => "job_exists_there",
        ControlError::JobIsBusy => "job_is_busy",
        ControlError::NoSuchFunction => "no_such_function",
        ControlError::FunctionInUse => "function_in_use",
        ControlError::FunctionHasJobs => "function_has_jobs",
        ControlError::NoSuchWorker => "no_such_worker",
        ControlError::TooManyFunctions => "too_many_functions",
        ControlError::TooManySettings => "too_many_settings",
        ControlError::TooManyRules => "too_many_rules",
        ControlError::NoSuchRule => "no_such_rule",
        ControlError::NameTooLong => "name_too_long",
        ControlError::BadName => "bad_name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job_server::ConnectionId;

    #[test]
    fn an_address_is_one_host_however_it_is_written() {
        for text in ["::1", "[::1]", "0:0:0:0:0:0:0:1", "::1%lo", "[0::1]"] {
            assert_eq!(host(text), Ok(WorkerSelector::Host("::1".to_owned())), "{text}");
        }
        for text in ["10.0.0.1", "::ffff:10.0.0.1", "[::FFFF:a00:1]"] {
            assert_eq!(host(text), Ok(WorkerSelector::Host("10.0.0.1".to_owned())), "{text}");
        }
        assert_eq!(host("unix"), Ok(WorkerSelector::Host("unix".to_owned())));
        for text in ["localhost", "web1.example.com", "10.0.0.256", "10.1", "10.0.0.0/8", "10.0.0.1:4730", "[::1", ""] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_log_says_what_was_wanted_as_one_would_type_it() {
        let function = b"a\nb".to_vec();
        let selector = WorkerSelector::Connection(ConnectionId { slot: 3, generation: 14 });
        for (control, expected) in [
            (Control::Pause { function: function.clone(), paused: true }, r"pause a\x0ab"),
            (Control::LimitQueue { function: function.clone(), limits: [1, 2, 3] }, r"maxqueue a\x0ab 1 2 3"),
            (Control::SetPriority { handle: b"H:x:1".to_vec(), priority: Priority::Low }, "priority job H:x:1 low"),
            (Control::Drain { selector: selector.clone(), function: Some(function) }, r"drain connection:3-14 a\x0ab"),
            (
                Control::Enable { selector: WorkerSelector::Client(b"\xff".to_vec()), function: None },
                r"enable client:\xff",
            ),
            (Control::Kick { selector: WorkerSelector::Host("::1\n".to_owned()) }, r"kick host:::1\n"),
        ] {
            assert_eq!(control.to_string(), expected);
        }
    }
}
