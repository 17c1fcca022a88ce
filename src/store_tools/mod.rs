//! Tools for stores, without a running server: they inspect the queue in a store, or move its jobs to another
//! one. Also turns the queue setting into a store.
//!
//! * [`location`] turns the queue setting into the store that the server opens.
//! * `gearmand queue list`, `count` and `verify` read any store, even while a server uses it (`inspect`).
//! * `gearmand queue backup` and `compact` operate on the file of a queue (`files`).
//! * `gearmand import` moves all jobs of one store into another (`import`); `dedup` detects those that are
//!   already there.
//! * `url` parses store names on the command line.
//!
//! Stores are blocking and may have their own runtime, so none of this runs inside a runtime.

mod configured;
mod dedup;
mod files;
mod import;
mod inspect;
#[cfg(test)]
mod tests;
mod url;

use std::io;
use std::process::ExitCode;

pub use configured::location;
pub use import::ImportArgs;
pub use inspect::QueueArgs;

use crate::client::tell;
use crate::store::StoreError;

/// There are invalid entries, or jobs were not moved.
const EXIT_FAILED: u8 = 1;
/// The command line is wrong.
const EXIT_USAGE: u8 = 2;
/// A store cannot be opened: it does not exist, it cannot be reached, or a server uses it.
const EXIT_UNREACHABLE: u8 = 3;

/// The tools for queues, as subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Tool {
    /// Inspect a queue: list, count or verify the stored jobs; copy its file, or shrink it
    Queue(QueueArgs),
    /// Move all jobs from one queue to another
    Import(ImportArgs),
}

/// Why a tool failed.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    /// A usage error that clap does not detect.
    #[error("{0}")]
    Usage(String),
    /// A store cannot be opened.
    #[error("{0}")]
    Open(String),
    /// A store failed during reading or writing, or does not have the expected contents.
    #[error("{0}")]
    Store(String),
    /// Writing to standard output failed.
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

/// Runs a tool to completion. The result is the exit status of the process.
pub fn run(tool: Tool) -> ExitCode {
    let (name, outcome) = match tool {
        Tool::Queue(args) => ("queue", inspect::run(args)),
        Tool::Import(args) => ("import", import::run(&args)),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // Whoever closed our output (`| head`) needs no message.
            if !matches!(&error, ToolError::Print(cause) if cause.kind() == io::ErrorKind::BrokenPipe) {
                tell(name, format_args!("{error}"));
            }
            ExitCode::from(error.exit_status())
        }
    }
}

/// The name of the user that runs this process: MySQL's default user name.
fn user_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    user.ok().flatten().map_or_else(String::new, |user| user.name)
}
