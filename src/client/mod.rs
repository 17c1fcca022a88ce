//! The client side of the protocol, and the tools built on it: `work`, `submit`, `admin`, `top` and `fleet`.
//!
//! * `address`: server addresses, from options and environment.
//! * `connection`: sends and receives packets over TCP or a UNIX socket; `answer` decodes them.
//! * `worker` runs a `command` per job; `worker_connection` is one of its connections, `job_runner` runs jobs
//!   on one, `grabs` tracks grabbed and held jobs, `backoff` is the pause between two attempts to connect;
//!   `managed` is a remotely controlled worker.
//! * `submit` submits jobs: `source` reads them, `pipeline` tracks them, `output` prints their results.
//! * `admin` sends text commands: `admin_text` reads a response, `listing` formats it as a table or JSON, and
//!   `table` does so for listings with a heading line.
//! * `top` shows a server in a terminal, using the same commands.
//! * `fleet` supervises the workers of many machines, by jobs.
//!
//! The tools write messages for people to standard error, and results to standard output. They share these
//! exit statuses: 0 success, 1 a job failed or the server answered ERR, 2 the command line is invalid, 3 no
//! server could be reached, the connection was lost or time ran out.

mod address;
mod admin;
mod admin_text;
mod answer;
mod backoff;
mod command;
mod connection;
mod fleet;
mod format;
mod grabs;
mod job_runner;
mod limit;
mod listing;
mod managed;
mod output;
mod pipeline;
mod source;
mod submit;
mod table;
pub(crate) mod terminal;
mod top;
mod values;
mod worker;
mod worker_connection;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::Local;

pub use admin::AdminArgs;
pub use fleet::FleetArgs;
pub(crate) use listing::{aligned_within, json_text, printable, printable_bytes, row_text, widths};
pub(crate) use output::{insert_bytes, template as progress_style};
pub use submit::SubmitArgs;
pub use top::TopArgs;
pub use worker::WorkArgs;

/// A job failed, or the server answered ERR.
const EXIT_FAILED: u8 = 1;
/// The command line is invalid.
const EXIT_USAGE: u8 = 2;
/// No server could be reached, the connection was lost, or time ran out.
const EXIT_UNREACHABLE: u8 = 3;
/// The command of `work` cannot be executed; the number is the shell's.
const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The command of `work` does not exist; the number is the shell's.
const EXIT_NOT_FOUND: u8 = 127;

/// The tools that talk to a running server, as subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Tool {
    /// Run a command for every job of a function
    #[command(disable_help_flag = true)]
    Work(WorkArgs),
    /// Submit jobs and print their results
    #[command(disable_help_flag = true)]
    Submit(SubmitArgs),
    /// Ask a server about its jobs and workers, or change them
    #[command(disable_help_flag = true)]
    Admin(AdminArgs),
    /// Show functions, workers and jobs of a server, live in the terminal
    #[command(disable_help_flag = true)]
    Top(TopArgs),
    /// Manage workers on many machines
    #[command(disable_help_flag = true)]
    Fleet(FleetArgs),
}

/// Why a tool ends early.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    /// A usage error that clap cannot detect.
    #[error("{0}")]
    Usage(String),
    /// The command of `work` does not exist or cannot be executed.
    #[error("{message}")]
    Command {
        /// The exit status that a shell would use.
        status: u8,
        /// The message for people.
        message: String,
    },
    /// No server could be reached, or the connection was lost.
    #[error("{0}")]
    Unreachable(String),
    /// Standard output or input failed.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
}

impl ToolError {
    fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Command { status, .. } => *status,
            Self::Unreachable(_) => EXIT_UNREACHABLE,
            Self::Io(..) => EXIT_FAILED,
        }
    }
}

/// Runs a tool to its end and returns the exit status of the process.
///
/// It has its own runtime, which does not wait for an unfinished read from a terminal.
pub fn run(tool: Tool) -> ExitCode {
    let name = match tool {
        Tool::Work(_) => "work",
        Tool::Submit(_) => "submit",
        Tool::Admin(_) => "admin",
        Tool::Top(_) => "top",
        Tool::Fleet(_) => "fleet",
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(name, format_args!("cannot start: {error}"));
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let outcome = runtime.block_on(async {
        match tool {
            Tool::Work(args) => worker::run(args).await,
            Tool::Submit(args) => submit::run(args).await,
            Tool::Admin(args) => admin::run(args).await,
            Tool::Top(args) => top::run(args).await,
            Tool::Fleet(args) => fleet::run(args).await,
        }
    });
    runtime.shutdown_background();
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // The process that closed the output (`| head`) did so on purpose.
            if !matches!(&error, ToolError::Io(_, cause) if cause.kind() == io::ErrorKind::BrokenPipe) {
                tell(name, format_args!("{error}"));
            }
            ExitCode::from(error.exit_status())
        }
    }
}

/// The host name of the system; empty if it has none.
fn host_name() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether messages begin with the time.
static TIMES: AtomicBool = AtomicBool::new(false);

/// Makes all later messages begin with the local time, for tools that run for months.
fn tell_with_times() {
    TIMES.store(true, Ordering::Relaxed);
}

/// Writes a message for people to standard error; a closed standard error is ignored. Control characters are
/// escaped, whatever their origin. Text of other origin that must stay on one line has to go through
/// [`printable`] first.
pub(crate) fn tell(tool: &str, message: fmt::Arguments<'_>) {
    let message = message.to_string();
    let lines: Vec<String> = message.split('\n').map(printable).collect();
    let time = TIMES.load(Ordering::Relaxed).then(|| Local::now().format("%Y-%m-%d %H:%M:%S ").to_string());
    let _ = writeln!(io::stderr().lock(), "{}gearmand {tool}: {}", time.unwrap_or_default(), lines.join("\n"));
}
