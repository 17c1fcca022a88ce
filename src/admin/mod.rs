//! Answers to the administrative text commands.
//!
//! Whoever only looks never locks: listings are read from what the server publishes. Commands that change something, and
//! listings of single jobs, go through the hub.

pub mod control;
mod history;
pub mod look;
pub mod view;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::vec;

use tracing::info;

use self::look::Look;
use crate::hub::Hub;
use crate::job_server::{DropFunction, Now};
use crate::protocol::FunctionName;
use crate::protocol::names::{FUNCTION_MAX, write_decimal};
use crate::protocol::text::{self, AdminCommand};
use crate::stats::{ConnectionGauges, FunctionGauges, StoreState};

/// How much of a listing is made at a time, in bytes; the line that reaches it is the last.
const LISTING_PIECE: usize = 64 * 1024;
/// How often the hub is asked for jobs for one piece: where few of many are left, it may have none to show.
const PAGES_OF_PIECE: usize = 64;

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
    /// What is shown.
    pub look: Look,
    /// What they know of the process.
    pub process: Process,
}

/// A listing that is under way.
#[derive(Debug)]
pub struct Listing(Rest);

/// What is still to be listed.
#[derive(Debug)]
enum Rest {
    Jobs { place: usize, uniques_only: bool },
    Connections(vec::IntoIter<Arc<ConnectionGauges>>),
    Functions { functions: vec::IntoIter<(FunctionName, Arc<FunctionGauges>)>, by_priority: bool },
}

impl Admin {
    /// The commands for `hub`.
    pub fn new(hub: Arc<Hub>, process: Process) -> Self {
        Self { look: Look::new(Arc::clone(&hub), process.version), hub, process }
    }

    /// Appends the answer to a line to `out`. Of a long listing it is the beginning; [`go_on`](Self::go_on) writes the rest.
    pub fn answer(&self, now: Now, line: &[u8], out: &mut Vec<u8>) -> Option<Listing> {
        match AdminCommand::parse(line, self.process.max_words.load(Ordering::Relaxed)) {
            Ok(AdminCommand::Shutdown { .. }) if !self.process.allow_shutdown.load(Ordering::Relaxed) => {
                let typed = line.split(|byte| *byte == b' ').next().unwrap_or(line);
                text::AdminError::UnknownCommand(typed).write(out);
                None
            }
            Ok(command) => {
                let mut listing = Listing(self.run(now, command, out)?);
                (!self.go_on(&mut listing, out)).then_some(listing)
            }
            Err(error) => {
                error.write(out);
                None
            }
        }
    }

    /// Does what a command says, and answers it unless the answer is a listing.
    fn run(&self, now: Now, command: AdminCommand<'_>, out: &mut Vec<u8>) -> Option<Rest> {
        match command {
            AdminCommand::Workers => return Some(self.connections()),
            AdminCommand::Status => return Some(self.functions(false)),
            AdminCommand::PriorityStatus => return Some(self.functions(true)),
            AdminCommand::ShowJobs => return Some(Rest::Jobs { place: 0, uniques_only: false }),
            AdminCommand::ShowUniqueJobs => return Some(Rest::Jobs { place: 0, uniques_only: true }),
            AdminCommand::ShowStore => write_store(&self.hub, out),
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
        None
    }

    fn connections(&self) -> Rest {
        let mut connections: Vec<_> =
            self.hub.stats().connections.iter().map(|entry| (*entry.key(), Arc::clone(entry.value()))).collect();
        connections.sort_unstable_by_key(|(id, _)| id.generation);
        let connections: Vec<_> = connections.into_iter().map(|(_, connection)| connection).collect();
        Rest::Connections(connections.into_iter())
    }

    fn functions(&self, by_priority: bool) -> Rest {
        let mut functions: Vec<(FunctionName, Arc<FunctionGauges>)> =
            self.hub.stats().functions.iter().map(|entry| (entry.key().clone(), Arc::clone(entry.value()))).collect();
        functions.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Rest::Functions { functions: functions.into_iter(), by_priority }
    }

    /// Appends the next piece of a listing. Returns whether it is complete.
    pub fn go_on(&self, listing: &mut Listing, out: &mut Vec<u8>) -> bool {
        let enough = out.len() + LISTING_PIECE;
        match &mut listing.0 {
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
                for connection in connections {
                    write_connection(&connection, out);
                    if out.len() >= enough {
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
        let [high, normal, low] = &gauges.queued;
        let normal = normal.get() + gauges.scheduled.get();
        text::write_counts(name, &[high.get(), normal, low.get(), gauges.workers.get()], out);
    } else {
        text::write_counts(name, &[gauges.total(), gauges.running.get(), gauges.workers.get()], out);
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
