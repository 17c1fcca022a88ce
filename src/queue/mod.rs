//! Queues from outside: what the settings name, and the tools that look into a queue or move its jobs while no server
//! need run.
//!
//! * [`location`] turns the settings of a queue into the store that the server opens.
//! * `gearmand queue list`, `count` and `verify` read any store, also beside the server that uses it (`show`).
//! * `gearmand queue backup` and `compact` are for the file of a queue (`files`).
//! * `gearmand import` moves all jobs of one store into another (`import`); `copies` is how it knows those that are
//!   there already.
//! * `url` has the names of stores on the command line.
//!
//! Stores are blocking and may bring a runtime of their own, so none of this runs inside of one.

mod configured;
mod copies;
mod files;
mod import;
mod show;
#[cfg(test)]
mod tests;
mod url;

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

pub use configured::location;
pub use import::ImportArgs;
pub use show::QueueArgs;

use crate::store::StoreError;

/// Entries make no sense, or jobs were not moved.
const EXIT_FAILED: u8 = 1;
/// The command line makes no sense.
const EXIT_USAGE: u8 = 2;
/// A store cannot be opened: it is not there, it cannot be reached, or a server holds it.
const EXIT_UNREACHABLE: u8 = 3;

/// The tools for queues, as subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Tool {
    /// Look into a queue: list, count or verify the jobs that are kept; copy its file, or make it smaller
    Queue(QueueArgs),
    /// Move all jobs of one queue into another
    Import(ImportArgs),
}

/// Why a tool ends before its work is done.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    /// What clap could not see.
    #[error("{0}")]
    Usage(String),
    /// A store cannot be opened.
    #[error("{0}")]
    Open(String),
    /// A store failed while it was read or written, or does not hold what it should.
    #[error("{0}")]
    Store(String),
    /// Standard output failed.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl From<StoreError> for ToolError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.text)
    }
}

impl ToolError {
    fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Open(_) => EXIT_UNREACHABLE,
            Self::Store(_) | Self::Print(_) => EXIT_FAILED,
        }
    }
}

/// Runs a tool until it is done; the result is the exit status of the process.
pub fn run(tool: Tool) -> ExitCode {
    let (name, outcome) = match tool {
        Tool::Queue(args) => ("queue", show::run(args)),
        Tool::Import(args) => ("import", import::run(&args)),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // Whoever closed our output (`| head`) knows already.
            if !matches!(&error, ToolError::Print(cause) if cause.kind() == io::ErrorKind::BrokenPipe) {
                tell(name, format_args!("{error}"));
            }
            ExitCode::from(error.exit_status())
        }
    }
}

/// A line for people, on standard error. Where that is closed there is nobody to tell.
fn tell(tool: &str, message: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "gearmand {tool}: {message}");
}

/// The name of the user that this process runs as: the one by which MySQL knows it where none is given.
fn user_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    user.ok().flatten().map_or_else(String::new, |user| user.name)
}
