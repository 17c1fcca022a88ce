//! Answers to the administrative text commands.
//!
//! An answer that may be long, and one that takes several steps, is made in pieces between which others get their turn.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::vec;

use super::control::{Control, Step, Task, error_code};
use super::look::JobLook;
use super::names::Unclear;
use super::table::{self, Table};
use super::{Admin, Hub};
use crate::job_server::{ConnectionId, ControlError, Now, Withholding};
use crate::log_level::audit;
use crate::protocol::FunctionName;
use crate::protocol::names::write_decimal;
use crate::protocol::text::{self, AdminCommand, ControlCommand};
use crate::stats::{ConnectionGauges, FunctionGauges, StoreState};

/// How much of a listing is made at a time, in bytes; the line that reaches it is the last. There are scripts that read an
/// answer once, so what most servers have to say is one write.
const LISTING_PIECE: usize = 64 * 1024;
/// How many connections are looked up for one piece, whether they are still there or not: each is somewhere else in memory,
/// so that their lines take longer than others.
const CONNECTIONS_OF_PIECE: usize = 512;
/// How often the hub is asked for jobs for one piece: where few of many are left, it may have none to show.
const PAGES_OF_PIECE: usize = 64;

/// An answer that is under way: a listing, or what is to be done before there is one.
#[derive(Debug)]
pub struct LongAnswer(Rest);

/// What is still to be listed, or to be done.
#[derive(Debug)]
enum Rest {
    Jobs {
        place: usize,
        uniques_only: bool,
    },
    Connections(vec::IntoIter<ConnectionId>),
    Functions {
        functions: vec::IntoIter<(FunctionName, Arc<FunctionGauges>)>,
        by_priority: bool,
    },
    Table(Table),
    Task(Task),
    /// One job, of which the store is asked something.
    Job(Box<JobLook>),
}

impl LongAnswer {
    /// Ready when it can be gone on with. Until then `waker` is woken when that is so; it need not be waited for longer than
    /// [`STORE_WAIT`](super::look::STORE_WAIT), with what is known by then.
    pub fn poll_ready(&mut self, waker: &Waker) -> Poll<()> {
        match &mut self.0 {
            Rest::Job(job) => job.poll(waker),
            Rest::Jobs { .. } | Rest::Connections(_) | Rest::Functions { .. } | Rest::Table(_) | Rest::Task(_) => {
                Poll::Ready(())
            }
        }
    }
}

impl Admin {
    /// Appends the answer to a line, which came from the address `peer`, to `out`. Of a long answer it is the beginning;
    /// [`go_on`](Self::go_on) writes the rest.
    pub fn answer(&self, now: Now, line: &[u8], peer: &str, out: &mut Vec<u8>) -> Option<LongAnswer> {
        match AdminCommand::parse(line, self.process.max_words.load(Ordering::Relaxed)) {
            Ok(AdminCommand::Shutdown { .. }) if !self.process.allow_shutdown.load(Ordering::Relaxed) => {
                let typed = line.split(|byte| *byte == b' ').next().unwrap_or(line);
                text::AdminError::UnknownCommand(typed).write(out);
                None
            }
            Ok(command) if command.is_change() && self.process.is_read_only.load(Ordering::Relaxed) => {
                out.extend_from_slice(text::READ_ONLY);
                None
            }
            Ok(command) => {
                let mut answer = LongAnswer(self.run(now, command, peer, out)?);
                if matches!(&answer.0, Rest::Job(job) if job.is_waiting()) {
                    return Some(answer);
                }
                (!self.go_on(now, &mut answer, out)).then_some(answer)
            }
            Err(error) => {
                error.write(out);
                None
            }
        }
    }

    /// Does what a command says, and answers it unless the answer may be long.
    fn run(&self, now: Now, command: AdminCommand<'_>, peer: &str, out: &mut Vec<u8>) -> Option<Rest> {
        match command {
            AdminCommand::Workers => return Some(self.connections()),
            AdminCommand::Status => return Some(self.functions(false)),
            AdminCommand::PriorityStatus => return Some(self.functions(true)),
            AdminCommand::ShowJobs => return Some(Rest::Jobs { place: 0, uniques_only: false }),
            AdminCommand::ShowUniqueJobs => return Some(Rest::Jobs { place: 0, uniques_only: true }),
            AdminCommand::ShowFunctions => return Some(Rest::Table(Table::functions(&self.look, out))),
            AdminCommand::ShowWorkers => return Some(Rest::Table(Table::workers(&self.look, out))),
            AdminCommand::ShowRules => return Some(Rest::Table(Table::rules(&self.look, out))),
            AdminCommand::ListJobs(filters) => {
                return Some(Rest::Table(Table::jobs(&filters, self.filter_names(&filters), out)));
            }
            AdminCommand::Control(command) => match self.control(&command) {
                Ok(control) => return Some(Rest::Task(self.begin(control, actor(peer)))),
                Err(unclear) => write_unclear(unclear, out),
            },
            AdminCommand::ShowStore => write_store(&self.hub, out),
            AdminCommand::ShowServer => table::write_server(&self.look.server(now), out),
            AdminCommand::ShowJob(handle) => match self.look.job(now, handle, table::PREVIEW) {
                Some(job) => return Some(Rest::Job(Box::new(job))),
                None => write_control_error(ControlError::NoSuchJob, out),
            },
            AdminCommand::ShowWorker { slot, generation } => {
                match self.look.worker(now, ConnectionId { slot, generation }) {
                    Some(worker) => table::write_worker(&worker, out),
                    None => write_control_error(ControlError::NoSuchWorker, out),
                }
            }
            AdminCommand::CancelJob(handle) => {
                let done = self.act(now, Control::CancelJob { handle: handle.to_vec() }, peer);
                out.extend_from_slice(if done.is_ok() { text::OK } else { text::UNKNOWN_JOB });
            }
            AdminCommand::CreateFunction(name) => {
                let done = self.act(now, Control::CreateFunction { function: name.to_vec() }, peer);
                write_new_function(done, out);
            }
            AdminCommand::MaxQueue { function, limits } => {
                let done = self.act(now, Control::LimitQueue { function: self.plain_function(function), limits }, peer);
                write_new_function(done, out);
            }
            AdminCommand::DropFunction(name) => {
                let function = self.plain_function(name);
                let done = self.act(now, Control::DropFunction { function: function.clone() }, peer);
                out.extend_from_slice(match done {
                    Err(ControlError::FunctionHasJobs) => {
                        text::write_has_jobs(&function, out);
                        return None;
                    }
                    Ok(()) => text::OK,
                    Err(ControlError::FunctionInUse) => text::FUNCTION_IN_USE,
                    Err(_) => text::FUNCTION_NOT_FOUND,
                });
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

    /// Does what takes one step.
    fn act(&self, now: Now, control: Control, peer: &str) -> Result<(), ControlError> {
        let mut task = self.begin(control, actor(peer));
        while self.step(now, &mut task)? == Step::Unfinished {}
        Ok(())
    }

    /// What a command wants, with its names as they are meant.
    fn control(&self, command: &ControlCommand<'_>) -> Result<Control, Unclear> {
        let withhold = |workers: &_, function: Option<&[u8]>, how| {
            let function = function.map(|function| self.function(function)).transpose()?;
            Ok(Control::Withhold { who: self.workers(workers)?, function, how })
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
            ControlCommand::RunJob(handle) => Control::RunNow { handle: handle.to_vec() },
            ControlCommand::Disable(ref workers, function) => withhold(workers, function, Withholding::Disabled)?,
            ControlCommand::Drain(ref workers, function) => withhold(workers, function, Withholding::Draining)?,
            ControlCommand::Enable(ref workers, function) => {
                let who = self.workers_of_rule(workers)?;
                let function = function.map(|function| self.function_of_rule(&who, function)).transpose()?;
                Control::Release { who, function }
            }
            ControlCommand::Kick(ref workers) => Control::Kick { who: self.workers(workers)? },
        })
    }

    fn connections(&self) -> Rest {
        Rest::Connections(self.hub.stats().connections_by_age().into_iter())
    }

    fn functions(&self, by_priority: bool) -> Rest {
        // Monitoring takes what stands here for functions that somebody uses: what settings alone have named does not.
        let functions = self.hub.stats().functions.iter().filter(|entry| entry.value().settings_only.get() == 0);
        let mut functions: Vec<(FunctionName, Arc<FunctionGauges>)> =
            functions.map(|entry| (entry.key().clone(), Arc::clone(entry.value()))).collect();
        functions.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Rest::Functions { functions: functions.into_iter(), by_priority }
    }

    /// Appends the next piece of a long answer, or does the next step towards it. Returns whether it is complete.
    pub fn go_on(&self, now: Now, answer: &mut LongAnswer, out: &mut Vec<u8>) -> bool {
        let enough = out.len() + LISTING_PIECE;
        match &mut answer.0 {
            Rest::Jobs { place, uniques_only } => {
                for _ in 0..PAGES_OF_PIECE {
                    let Some(next) = self.write_jobs(*place, *uniques_only, out) else {
                        out.extend_from_slice(text::END_OF_LIST);
                        return true;
                    };
                    *place = next;
                    if out.len() >= enough {
                        break;
                    }
                }
                return false;
            }
            Rest::Connections(connections) => {
                for (before, id) in connections.enumerate() {
                    // Who has gone meanwhile is not listed.
                    if let Some(connection) = self.hub.stats().connection(id) {
                        write_connection(&connection, out);
                    }
                    if out.len() >= enough || before + 1 >= CONNECTIONS_OF_PIECE {
                        return false;
                    }
                }
            }
            Rest::Functions { functions, by_priority } => {
                for (name, gauges) in functions {
                    write_function(name.as_bytes(), &gauges, *by_priority, out);
                    if out.len() >= enough {
                        return false;
                    }
                }
            }
            Rest::Table(table) => {
                if !table.go_on(&self.look, now, enough, out) {
                    return false;
                }
            }
            Rest::Job(job) => {
                table::write_job(&job.view, out);
                return true;
            }
            Rest::Task(task) => {
                match self.step(now, task) {
                    Ok(Step::Unfinished) => return false,
                    // None: a setting was kept for what may come, or there was nothing to do.
                    Ok(Step::Done { affected }) if task.tells_how_many() || affected == 0 => {
                        text::write_affected(affected as u64, out);
                    }
                    Ok(Step::Done { .. }) => out.extend_from_slice(text::OK),
                    Err(error) => write_control_error(error, out),
                }
                return true;
            }
        }
        out.extend_from_slice(text::END_OF_LIST);
        true
    }

    /// Returns the place of the jobs that follow.
    fn write_jobs(&self, place: usize, uniques_only: bool, out: &mut Vec<u8>) -> Option<usize> {
        self.hub.list_jobs(place, |job| {
            if uniques_only {
                text::write_name(job.unique, out, false);
                out.push(b'\n');
            } else {
                text::write_job(job.handle, job.attempts, job.abandoned, job.background, out);
            }
            ControlFlow::Continue(())
        })
    }
}

/// Whoever sent a text command, for the log.
fn actor(peer: &str) -> String {
    format!("{peer} (text command)")
}

/// Says why a word means nothing.
fn write_unclear(unclear: Unclear, out: &mut Vec<u8>) {
    match unclear {
        Unclear::Host(wanted) => text::AdminError::BadArgument(wanted).write(out),
        Unclear::Missing(error) => {
            let message = format!("{}, neither as typed nor with \\xNN read as a byte", capitalised(error));
            text::write_error(&error_code(error).to_ascii_uppercase(), &message, out);
        }
    }
}

fn write_control_error(error: ControlError, out: &mut Vec<u8>) {
    text::write_error(&error_code(error).to_ascii_uppercase(), &capitalised(error), out);
}

fn capitalised(error: ControlError) -> String {
    let message = error.to_string();
    let (first, rest) = message.split_at(message.len().min(1));
    first.to_ascii_uppercase() + rest
}

/// Answers a command that makes its function known where it is not yet.
fn write_new_function(done: Result<(), ControlError>, out: &mut Vec<u8>) {
    out.extend_from_slice(match done {
        Ok(()) => text::OK,
        Err(ControlError::NameTooLong) => text::FUNCTION_TOO_LARGE,
        Err(ControlError::TooManySettings) => return write_control_error(ControlError::TooManySettings, out),
        Err(_) => text::TOO_MANY_FUNCTIONS,
    });
}

/// A line of `workers`.
fn write_connection(connection: &ConnectionGauges, out: &mut Vec<u8>) {
    write_decimal(u64::try_from(connection.file_descriptor).unwrap_or(0), out);
    out.push(b' ');
    out.extend_from_slice(connection.peer.as_bytes());
    out.push(b' ');
    connection.with_identity(|client_id, functions| {
        text::write_name(client_id, out, true);
        out.extend_from_slice(b" :");
        for function in functions {
            out.push(b' ');
            text::write_name(function.function.as_bytes(), out, true);
        }
    });
    out.push(b'\n');
}

/// The answer to `show store`: a line for each key, with a tab before its value.
fn write_store(hub: &Hub, out: &mut Vec<u8>) {
    let store = &hub.stats().store;
    let (location, durability) = store.about();
    let (state, error) = match store.state() {
        StoreState::Absent => ("memory", String::new()),
        StoreState::Working => ("ok", String::new()),
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
        ("owed", store.owed.get()),
        ("added", store.added.get()),
        ("removed", store.removed.get()),
        ("commits", store.commits.get()),
        ("syncs", store.syncs.get()),
        ("failures", store.failures.get()),
        ("mean_commit_us", mean_commit_us),
    ] {
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
