//! Answers to the administrative text commands.
//!
//! Whoever only looks never locks: listings are read from what the server publishes. Commands that change something, and
//! listings of single jobs, go through the hub.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tracing::info;

use crate::hub::Hub;
use crate::job_server::{DropFunction, Now};
use crate::protocol::FunctionName;
use crate::protocol::names::{FUNCTION_MAX, write_decimal};
use crate::protocol::text::{self, AdminCommand};
use crate::stats::FunctionGauges;

/// What the text commands need to know of the process.
pub struct Process {
    /// The answer to `version`: one word.
    pub version: &'static str,
    /// The most words that a command may have.
    pub max_words: AtomicUsize,
    /// Whether `shutdown` is a command.
    pub allow_shutdown: AtomicBool,
    /// The answer to `verbose`: a level by gearmand's name.
    pub log_level: Box<dyn Fn() -> &'static str + Send + Sync>,
    /// Stops the server, at once or, if true, after its jobs.
    pub shutdown: Box<dyn Fn(bool) + Send + Sync>,
}

/// The text commands.
pub struct Admin {
    hub: Arc<Hub>,
    /// What they know of the process.
    pub process: Process,
}

/// What is left to do for a command.
#[derive(Debug)]
pub enum Answer {
    /// Nothing: the answer is complete.
    Complete,
    /// The answer is a long listing, which [`Admin::go_on`] writes piece by piece.
    Listing(Listing),
}

/// A listing of jobs that is under way.
#[derive(Debug)]
pub struct Listing {
    place: usize,
    uniques_only: bool,
}

impl Admin {
    /// The commands for `hub`.
    pub fn new(hub: Arc<Hub>, process: Process) -> Self {
        Self { hub, process }
    }

    /// Appends the answer to a line to `out`, or its beginning.
    pub fn answer(&self, now: Now, line: &[u8], out: &mut Vec<u8>) -> Answer {
        match AdminCommand::parse(line, self.process.max_words.load(Ordering::Relaxed)) {
            Ok(AdminCommand::Shutdown { .. }) if !self.process.allow_shutdown.load(Ordering::Relaxed) => {
                let typed = line.split(|byte| *byte == b' ').next().unwrap_or(line);
                text::AdminError::UnknownCommand(typed).write(out);
                Answer::Complete
            }
            Ok(command) => self.run(now, command, out),
            Err(error) => {
                error.write(out);
                Answer::Complete
            }
        }
    }

    fn run(&self, now: Now, command: AdminCommand<'_>, out: &mut Vec<u8>) -> Answer {
        match command {
            AdminCommand::Workers => self.workers(out),
            AdminCommand::Status => self.functions(out, |gauges, name, out| {
                text::write_counts(name, &[gauges.total(), gauges.running.get(), gauges.workers.get()], out);
            }),
            AdminCommand::PriorityStatus => self.functions(out, |gauges, name, out| {
                let [high, normal, low] = &gauges.ready;
                let normal = normal.get() + gauges.scheduled.get();
                text::write_counts(name, &[high.get(), normal, low.get(), gauges.workers.get()], out);
            }),
            AdminCommand::ShowJobs => return Answer::Listing(Listing { place: 0, uniques_only: false }),
            AdminCommand::ShowUniqueJobs => return Answer::Listing(Listing { place: 0, uniques_only: true }),
            AdminCommand::CancelJob(handle) => {
                let found = self.hub.cancel_job(now, handle);
                info!("cancel job {}: {}", handle.escape_ascii(), if found { "done" } else { "no such job" });
                out.extend_from_slice(if found { text::OK } else { text::UNKNOWN_JOB });
            }
            AdminCommand::CreateFunction(name) => {
                with_new_function(name, out, |name| self.hub.create_function(name));
            }
            AdminCommand::MaxQueue { function, limits } => {
                with_new_function(function, out, |name| self.hub.limit_function(name, limits));
            }
            AdminCommand::DropFunction(name) => {
                let dropped = self.hub.drop_function(name);
                info!("drop function {}: {dropped:?}", name.escape_ascii());
                out.extend_from_slice(match dropped {
                    DropFunction::Dropped => text::OK,
                    DropFunction::NotFound => text::FUNCTION_NOT_FOUND,
                    DropFunction::InUse => text::FUNCTION_IN_USE,
                });
            }
            AdminCommand::GetPid => text::write_value(&std::process::id().to_string(), out),
            AdminCommand::Verbose => text::write_value((self.process.log_level)(), out),
            AdminCommand::Version => text::write_value(self.process.version, out),
            AdminCommand::Shutdown { graceful } => {
                info!("shutdown by text command");
                out.extend_from_slice(text::OK);
                (self.process.shutdown)(graceful);
            }
        }
        Answer::Complete
    }

    /// Appends the next piece of a listing. Returns whether it is complete.
    pub fn go_on(&self, listing: &mut Listing, out: &mut Vec<u8>) -> bool {
        let uniques_only = listing.uniques_only;
        let next = self.hub.list_jobs(listing.place, |job| {
            if uniques_only {
                text::write_name(job.unique, out, false);
                out.push(b'\n');
            } else {
                text::write_job(job.handle, job.attempts, job.abandoned, job.background, out);
            }
        });
        if let Some(place) = next {
            listing.place = place;
            return false;
        }
        out.extend_from_slice(text::END_OF_LIST);
        true
    }

    fn workers(&self, out: &mut Vec<u8>) {
        let mut connections: Vec<_> =
            self.hub.stats().connections.iter().map(|entry| (*entry.key(), Arc::clone(entry.value()))).collect();
        connections.sort_unstable_by_key(|(id, _)| id.generation);
        for (_, connection) in connections {
            write_decimal(u64::try_from(connection.file_descriptor).unwrap_or(0), out);
            out.push(b' ');
            out.extend_from_slice(connection.peer.as_bytes());
            out.push(b' ');
            connection.with_identity(|client_id, functions| {
                text::write_name(client_id, out, true);
                out.extend_from_slice(b" :");
                for function in functions {
                    out.push(b' ');
                    text::write_name(function.as_bytes(), out, true);
                }
            });
            out.push(b'\n');
        }
        out.extend_from_slice(text::END_OF_LIST);
    }

    fn functions(&self, out: &mut Vec<u8>, write: impl Fn(&FunctionGauges, &[u8], &mut Vec<u8>)) {
        let mut functions: Vec<(FunctionName, Arc<FunctionGauges>)> =
            self.hub.stats().functions.iter().map(|entry| (entry.key().clone(), Arc::clone(entry.value()))).collect();
        functions.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (name, gauges) in functions {
            write(&gauges, name.as_bytes(), out);
        }
        out.extend_from_slice(text::END_OF_LIST);
    }
}

/// Answers a command that makes its function known where it is not yet.
fn with_new_function<E>(name: &[u8], out: &mut Vec<u8>, act: impl FnOnce(&[u8]) -> Result<(), E>) {
    out.extend_from_slice(if name.len() > FUNCTION_MAX {
        text::FUNCTION_TOO_LARGE
    } else if act(name).is_ok() {
        text::OK
    } else {
        text::TOO_MANY_FUNCTIONS
    });
}
