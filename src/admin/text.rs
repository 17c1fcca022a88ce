//! Responses to the administrative text commands.
//!
//! A response that may be long or takes several steps is made in pieces. Other connections run between them.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::connections::ConnectionLines;
use super::control::{Control, NOT_STORED, Step, Task, error_code, not_stored};
use super::names::Unclear;
use super::table::{self, OneWorker, Table};
use super::views::{PendingJobView, STORE_WAIT, ServerSum};
use super::{Admin, Hub};
use crate::job_server::{ConnectionId, ControlError, Now, StoreFailure};
use crate::log_level::audit;
use crate::protocol::FunctionName;
use crate::protocol::names::write_decimal;
use crate::protocol::text::{self, AdminCommand, ControlCommand};
use crate::stats::{FunctionGauges, StoreSpace, StoreState};
use crate::store::commit::{COMMIT_WAIT, Commit};

/// Size of a piece of a listing, in bytes; the line that reaches it is the last. Some scripts read a response
/// with a single read, so the listings of most servers are a single write.
pub const LISTING_PIECE: usize = 64 * 1024;
/// How many functions are listed in one step.
const FUNCTIONS: usize = 128;

/// A long response in progress: a listing, or an action whose result is reported.
#[derive(Debug)]
pub struct StreamingAnswer(Continuation);

/// What is left to list or to do.
#[derive(Debug)]
enum Continuation {
    Jobs {
        place: usize,
        uniques_only: bool,
    },
    Connections(ConnectionLines),
    /// The functions after this one.
    Functions {
        after: Option<FunctionName>,
        by_priority: bool,
    },
    Table(Table),
    Server(Box<ServerSum>),
    Worker(OneWorker),
    Task(Task, Words),
    /// The action is done; `done` is sent when it is committed.
    Commit {
        commit: Commit,
        done: Vec<u8>,
    },
    /// One job, part of which the store is asked for.
    Job(Box<PendingJobView>),
}

/// The wording of the response to a command that changes something: commands of C++ gearmand have their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Control,
    CancelJob,
    NewFunction,
    DropFunction,
}

impl StreamingAnswer {
    /// Whether it can continue only after all jobs are restored.
    pub fn awaits_jobs(&self) -> bool {
        matches!(&self.0, Continuation::Task(task, _) if task.awaits_jobs())
    }

    /// Ready when the response can continue; until then `waker` is registered. The caller need not wait
    /// longer than [`patience`](Self::patience); the response then continues with what is known.
    pub fn poll_ready(&mut self, waker: &Waker) -> Poll<()> {
        match &mut self.0 {
            Continuation::Job(job) => job.poll(waker),
            Continuation::Commit { commit, .. } => commit.poll(waker).map(drop),
            Continuation::Jobs { .. }
            | Continuation::Connections(_)
            | Continuation::Functions { .. }
            | Continuation::Table(_)
            | Continuation::Server(_)
            | Continuation::Worker(_)
            | Continuation::Task(..) => Poll::Ready(()),
        }
    }

    /// Whether it waits for an answer of the store.
    pub fn waits_for_store(&self) -> bool {
        match &self.0 {
            Continuation::Job(job) => job.is_waiting(),
            Continuation::Commit { .. } => true,
            _ => false,
        }
    }

    /// Whether its next step uses server time, so that it shares the time with the other long responses.
    pub fn takes_time(&self) -> bool {
        !matches!(self.0, Continuation::Job(_) | Continuation::Commit { .. })
    }

    /// How long to wait for the store.
    pub fn patience(&self) -> Duration {
        if matches!(self.0, Continuation::Commit { .. }) { COMMIT_WAIT } else { STORE_WAIT }
    }

    /// Whether the store has made progress since the last call, so that it is worth waiting as long again.
    pub fn has_progressed(&mut self) -> bool {
        if let Continuation::Commit { commit, .. } = &mut self.0 { commit.has_progressed() } else { false }
    }
}

impl Admin {
    /// Appends the response to a line to `out`. `parsed` is the parsed line, `peer` the address that sent it.
    /// A response that may be long or takes several steps is returned instead, for
    /// [`resume`](Self::resume) to write.
    pub fn answer(
        &self,
        now: Now,
        line: &[u8],
        parsed: Result<AdminCommand<'_>, text::AdminError<'_>>,
        peer: &str,
        out: &mut Vec<u8>,
    ) -> Option<StreamingAnswer> {
        match parsed {
            Ok(AdminCommand::Shutdown { .. }) if !self.process.allow_shutdown.load(Ordering::Relaxed) => {
                let typed = line.split(|byte| *byte == b' ').next().unwrap_or(line);
                text::AdminError::UnknownCommand(typed).write(out);
                None
            }
            Ok(command) if command.is_change() && self.process.is_read_only.load(Ordering::Relaxed) => {
                out.extend_from_slice(text::READ_ONLY);
                None
            }
            Ok(command) => self.run(now, command, peer, out).map(StreamingAnswer),
            Err(error) => {
                error.write(out);
                None
            }
        }
    }

    /// Runs a command and writes its response, unless the response may be long.
    fn run(&self, now: Now, command: AdminCommand<'_>, peer: &str, out: &mut Vec<u8>) -> Option<Continuation> {
        match command {
            AdminCommand::Workers => return Some(Continuation::Connections(ConnectionLines::default())),
            AdminCommand::Status => return Some(Continuation::Functions { after: None, by_priority: false }),
            AdminCommand::PriorityStatus => return Some(Continuation::Functions { after: None, by_priority: true }),
            AdminCommand::ShowJobs => return Some(Continuation::Jobs { place: 0, uniques_only: false }),
            AdminCommand::ShowUniqueJobs => return Some(Continuation::Jobs { place: 0, uniques_only: true }),
            AdminCommand::ShowFunctions => return Some(Continuation::Table(Table::functions(&self.views, out))),
            AdminCommand::ShowWorkers => return Some(Continuation::Table(Table::workers(&self.views, out))),
            AdminCommand::ShowRules => return Some(Continuation::Table(Table::rules(&self.views, out))),
            AdminCommand::ListJobs(filters) => match self.filter_names(&filters) {
                Ok(names) => return Some(Continuation::Table(Table::jobs(&filters, names, out))),
                Err(unclear) => write_unclear(unclear, out),
            },
            AdminCommand::Control(command) => match self.control(&command) {
                Ok(control) => return Some(Continuation::Task(self.begin(control, actor(peer)), Words::Control)),
                Err(unclear) => write_unclear(unclear, out),
            },
            AdminCommand::ShowStore => write_store(&self.hub, out),
            AdminCommand::ShowServer => return Some(Continuation::Server(Box::default())),
            AdminCommand::ShowJob(handle) => match self.views.job(now, handle, table::PREVIEW) {
                Some(job) => return Some(Continuation::Job(Box::new(job))),
                None => write_control_error(self.no_such_job(), out),
            },
            AdminCommand::ShowWorker { slot, generation } => {
                match OneWorker::new(&self.views, ConnectionId { slot, generation }) {
                    Some(worker) => return Some(Continuation::Worker(worker)),
                    None => write_control_error(ControlError::NoSuchWorker, out),
                }
            }
            AdminCommand::CancelJob(handle) => {
                let control = Control::CancelJob { handle: handle.to_vec() };
                return Some(Continuation::Task(self.begin(control, actor(peer)), Words::CancelJob));
            }
            AdminCommand::CreateFunction(name) => {
                let control = Control::CreateFunction { function: name.to_vec() };
                return Some(Continuation::Task(self.begin(control, actor(peer)), Words::NewFunction));
            }
            AdminCommand::MaxQueue { function, limits } => {
                let control = Control::LimitQueue { function: self.plain_function(function), limits };
                return Some(Continuation::Task(self.begin(control, actor(peer)), Words::NewFunction));
            }
            AdminCommand::DropFunction(name) => {
                let control = Control::DropFunction { function: self.plain_function(name) };
                return Some(Continuation::Task(self.begin(control, actor(peer)), Words::DropFunction));
            }
            AdminCommand::GetPid => text::write_value(&std::process::id().to_string(), out),
            AdminCommand::Verbose => text::write_value((self.process.log_level)(), out),
            AdminCommand::Version => text::write_value(self.process.version, out),
            AdminCommand::Shutdown { graceful } => {
                audit!("shutdown{}: by {}", if graceful { " graceful" } else { "" }, actor(peer));
                out.extend_from_slice(text::OK);
                (self.process.shutdown)(graceful);
            }
        }
        None
    }

    /// Resolves the names in a command.
    fn control(&self, command: &ControlCommand<'_>) -> Result<Control, Unclear> {
        let of_workers = |workers: &_, function: Option<&[u8]>| {
            let function = function.map(|function| self.function(function)).transpose()?;
            Ok((self.workers(workers)?, function))
        };
        Ok(match *command {
            ControlCommand::Pause { function, paused } => Control::Pause { function: self.function(function)?, paused },
            ControlCommand::LimitRunning { function, most } => {
                Control::LimitRunning { function: self.function(function)?, most }
            }
            ControlCommand::CancelJobs(function) => Control::CancelJobs { function: self.function(function)? },
            ControlCommand::MoveJob { handle, to } => {
                Control::MoveJob { handle: handle.to_vec(), to: self.function(to)? }
            }
            ControlCommand::MoveJobs { from, to } => {
                Control::MoveJobs { from: self.function(from)?, to: self.function(to)? }
            }
            ControlCommand::SetPriority { handle, priority } => {
                Control::SetPriority { handle: handle.to_vec(), priority }
            }
            ControlCommand::RunJob(handle) => Control::RunJob { handle: handle.to_vec() },
            ControlCommand::Disable(ref workers, function) => {
                let (selector, function) = of_workers(workers, function)?;
                Control::Disable { selector, function }
            }
            ControlCommand::Drain(ref workers, function) => {
                let (selector, function) = of_workers(workers, function)?;
                Control::Drain { selector, function }
            }
            ControlCommand::Enable(ref workers, function) => {
                let selector = self.workers_of_rule(workers)?;
                let function = function.map(|function| self.function_of_rule(&selector, function)).transpose()?;
                Control::Enable { selector, function }
            }
            ControlCommand::Kick(ref workers) => Control::Kick { selector: self.workers(workers)? },
        })
    }

    /// Appends the next lines of a long response, or does the next step towards it. A call takes less than
    /// 0.2 ms in an optimised build, and adds no lines once `out` has [`LISTING_PIECE`] bytes. Returns
    /// whether the response is complete.
    pub fn resume(&self, now: Now, answer: &mut StreamingAnswer, out: &mut Vec<u8>) -> bool {
        let is_last = match &mut answer.0 {
            Continuation::Jobs { place, uniques_only } => self.write_jobs(place, *uniques_only, out),
            Continuation::Connections(connections) => connections.resume(self.hub.stats(), out),
            Continuation::Functions { after, by_priority } => self.write_functions(after, *by_priority, out),
            Continuation::Table(table) => table.resume(&self.views, now, out),
            Continuation::Worker(worker) => worker.resume(&self.views, now, out),
            Continuation::Server(sum) => {
                let is_summed_up = sum.resume(&self.views);
                if is_summed_up {
                    table::write_server(&self.views.server_of(now, sum), out);
                }
                return is_summed_up;
            }
            Continuation::Job(job) => {
                table::write_job(&job.view, out);
                return true;
            }
            Continuation::Task(task, words) => {
                match self.resume_task(now, task, *words, out) {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(None) => return true,
                    ControlFlow::Break(Some(commit)) => answer.0 = commit,
                }
                return false;
            }
            Continuation::Commit { commit, done } => {
                match commit.poll(Waker::noop()) {
                    Poll::Ready(Ok(())) => out.extend_from_slice(done),
                    Poll::Ready(Err(why)) => write_not_stored(Some(why), out),
                    Poll::Pending => write_not_stored(None, out),
                }
                return true;
            }
        };
        if is_last {
            out.extend_from_slice(text::END_OF_LIST);
        }
        is_last
    }

    /// Does the next step of a command that changes something. When it is done, returns what its response
    /// waits for; `None` if the response is complete.
    fn resume_task(
        &self,
        now: Now,
        task: &mut Task,
        words: Words,
        out: &mut Vec<u8>,
    ) -> ControlFlow<Option<Continuation>> {
        let mut done = Vec::new();
        match self.step(now, task) {
            Ok(Step::Unfinished) => return ControlFlow::Continue(()),
            // None: a setting was kept for later use, or there was nothing to do. C++ gearmand's own commands
            // reply `OK` anyway.
            Ok(Step::Done { affected }) if task.tells_how_many() || words == Words::Control && affected == 0 => {
                text::write_affected(affected as u64, &mut done);
            }
            Ok(Step::Done { .. }) => done.extend_from_slice(text::OK),
            Err(error) => {
                match (error, task.control()) {
                    (ControlError::FunctionHasJobs, Control::DropFunction { function }) => {
                        text::write_has_jobs(function, out);
                    }
                    _ => write_refusal(words, error, out),
                }
                return ControlFlow::Break(None);
            }
        }
        if let Some(commit) = self.commit(task.control()) {
            return ControlFlow::Break(Some(Continuation::Commit { commit, done }));
        }
        out.extend_from_slice(&done);
        ControlFlow::Break(None)
    }

    /// Writes lines of `show jobs` or `show unique jobs`. Returns whether they are the last.
    fn write_jobs(&self, place: &mut usize, uniques_only: bool, out: &mut Vec<u8>) -> bool {
        let next = self.hub.list_jobs(*place, |job| {
            if uniques_only {
                text::write_name(job.unique, out, false);
                out.push(b'\n');
            } else {
                text::write_job(job.handle, job.attempts, job.abandoned, job.background, out);
            }
            if out.len() < LISTING_PIECE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        *place = next.unwrap_or(*place);
        next.is_none()
    }

    /// Writes lines of `status` or `prioritystatus`, for the functions after `after`. Returns whether they
    /// are the last.
    fn write_functions(&self, after: &mut Option<FunctionName>, by_priority: bool, out: &mut Vec<u8>) -> bool {
        let page = self.hub.stats().functions.page(after.as_ref(), FUNCTIONS);
        let is_last = page.len() < FUNCTIONS;
        for (name, gauges) in page {
            if out.len() >= LISTING_PIECE {
                return false;
            }
            // Monitoring treats functions listed here as in use: those known from settings only are left out.
            if gauges.settings_only.get() == 0 {
                write_function(name.as_bytes(), &gauges, by_priority, out);
            }
            *after = Some(name);
        }
        is_last
    }
}

/// The sender of a text command, for the log.
fn actor(peer: &str) -> String {
    format!("{peer} (text command)")
}

/// Writes the error for a name that cannot be resolved.
fn write_unclear(unclear: Unclear, out: &mut Vec<u8>) {
    match unclear {
        Unclear::Host(wanted) => text::AdminError::BadArgument(wanted).write(out),
        Unclear::Ambiguous { typed, read } => {
            let message = format!("Ambiguous name: {typed} with the backslash and {read} both exist");
            text::write_error("AMBIGUOUS_NAME", &message, out);
        }
        Unclear::Missing(error) => {
            let message =
                format!("{}, neither as typed nor with \\xNN decoded as a byte", capitalised(&error.to_string()));
            text::write_error(&error_code(error).to_ascii_uppercase(), &message, out);
        }
    }
}

fn write_control_error(error: ControlError, out: &mut Vec<u8>) {
    text::write_error(&error_code(error).to_ascii_uppercase(), &capitalised(&error.to_string()), out);
}

fn capitalised(message: &str) -> String {
    let (first, rest) = message.split_at(message.len().min(1));
    first.to_ascii_uppercase() + rest
}

fn write_error(code: &str, message: &str, out: &mut Vec<u8>) {
    text::write_error(&code.to_ascii_uppercase(), &capitalised(message), out);
}

fn write_refusal(words: Words, error: ControlError, out: &mut Vec<u8>) {
    out.extend_from_slice(match (words, error) {
        (Words::Control, _) | (Words::NewFunction, ControlError::TooManySettings) => {
            return write_control_error(error, out);
        }
        (Words::CancelJob, _) => text::UNKNOWN_JOB,
        (Words::NewFunction, ControlError::NameTooLong) => text::FUNCTION_TOO_LARGE,
        (Words::NewFunction, _) => text::TOO_MANY_FUNCTIONS,
        (Words::DropFunction, ControlError::FunctionInUse) => text::FUNCTION_IN_USE,
        (Words::DropFunction, _) => text::FUNCTION_NOT_FOUND,
    });
}

fn write_not_stored(why: Option<StoreFailure>, out: &mut Vec<u8>) {
    write_error(NOT_STORED, &not_stored(why), out);
}

/// The response to `show store`: a line for each key, with a tab before its value.
fn write_store(hub: &Hub, out: &mut Vec<u8>) {
    let store = &hub.stats().store;
    let (location, durability) = store.about();
    let (state, error) = match store.state() {
        StoreState::Absent => ("memory", String::new()),
        StoreState::Working => ("ok", String::new()),
        StoreState::Restoring => ("restoring", String::new()),
        StoreState::Failing(error) => ("failing", error),
    };
    for (key, value) in [("state", state), ("error", &error), ("store", &location), ("durability", &durability)] {
        out.extend_from_slice(key.as_bytes());
        out.push(b'\t');
        text::write_name(value.as_bytes(), out, false);
        out.push(b'\n');
    }
    let mean_commit_us = store.commit_ns.get() / 1000 / store.commits.get().max(1);
    for (key, value) in [
        ("jobs", hub.kept_job_count() as u64),
        ("waiting", hub.waiting_changes() as u64),
        ("pending_removals", store.pending_removals.get()),
        ("added", store.added.get()),
        ("removed", store.removed.get()),
        ("commits", store.commits.get()),
        ("syncs", store.syncs.get()),
        ("failures", store.failures.get()),
        ("mean_commit_us", mean_commit_us),
    ]
    .into_iter()
    .chain(store.space().into_iter().flat_map(|StoreSpace { free, reserve, wal }| {
        [("free_bytes", free), ("reserve_bytes", reserve), ("wal_bytes", wal)]
    })) {
        out.extend_from_slice(key.as_bytes());
        out.push(b'\t');
        write_decimal(value, out);
        out.push(b'\n');
    }
    out.extend_from_slice(text::END_OF_LIST);
}

/// A line of `prioritystatus`, or of `status`.
fn write_function(name: &[u8], gauges: &FunctionGauges, by_priority: bool, out: &mut Vec<u8>) {
    if by_priority {
        let of = |index: usize| gauges.queued[index].get() + gauges.scheduled[index].get();
        text::write_counts(name, &[of(0), of(1), of(2), gauges.workers.get()], out);
    } else {
        text::write_counts(name, &[gauges.total(), gauges.running.get(), gauges.workers.get()], out);
    }
}
