//! `gearmand work`: a worker that runs a command for every job.
//!
//! Each command that may run concurrently has its own connection to each server
//! ([`super::worker_connection`]): a server wakes and times out connections, not jobs, so a second job on a
//! connection would wait for the result of the first, share its timer, and be lost together with it. With
//! several servers the connections share the permits to run a command.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::address::ServerArgs;
use super::command::JobCommand;
use super::grabs::Allowance;
use super::managed::{self, ManagedArgs};
use super::worker_connection::{ServerState, WorkerConnection};
use super::{ToolError, tell, values};
use crate::protocol::FunctionName;

/// The default packet limit of a server minus room for the other arguments, in bytes.
const RESULT_MAX: usize = 64 * 1024 * 1024 - 1024;

/// Maximum number of jobs that a connection may hold. It is well below a server's default limit (10,000), and
/// more gains nothing.
const MOST_PREFETCH: i64 = 1000;

/// What `gearmand work` is told.
#[derive(Debug, clap::Args)]
#[command(after_help = "The command reads the workload from standard input; its environment has \
    GEARMAN_JOB_HANDLE, GEARMAN_JOB_UNIQUE and GEARMAN_FUNCTION. Its standard output is the result; an exit status \
    other than 0 fails the job.\n\n\
    A lost connection is retried forever, with growing pauses; the result of a command that ran meanwhile is dropped, \
    since the server gives the job to another worker.\n\n\
    TERM or INT: take no new jobs and finish the running ones; a second signal kills them, and the server gives them \
    to other workers. Exit status: 0 after a signal or --count jobs, 2 usage, 126 the command cannot be executed, 127 \
    command not found.")]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct WorkArgs {
    #[command(flatten)]
    pub(super) server: ServerArgs,
    /// Function to serve; may be repeated
    ///
    /// With --managed it is NAME=COMMAND: jobs of NAME run COMMAND in a shell (sh -c).
    #[arg(short, long = "function", value_name = "NAME", required = true)]
    pub(super) functions: Vec<OsString>,
    /// Maximum number of commands running at a time
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000), conflicts_with = "managed")]
    concurrency: u16,
    /// Maximum number of jobs that each connection holds, including the running one: for many short jobs
    ///
    /// The next jobs are already here when a job ends, which saves a round trip to the server. Prefetched
    /// jobs wait their turn here: no later job overtakes them, whatever its priority, and no other worker can
    /// take them, even an idle one. Only for functions whose jobs take milliseconds. When the worker stops,
    /// prefetched jobs that have not started return to the server after the running job; C++ gearmand counts
    /// that as an attempt (--job-retries).
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MOST_PREFETCH), conflicts_with = "managed")]
    prefetch: u16,
    /// Time limit of a command, such as 90s or 5m (without a unit: seconds); it is killed then, and the job
    /// fails
    ///
    /// The server is told a limit of five seconds more (CAN_DO_TIMEOUT), after which it gives the job to
    /// another worker: that is for a worker that itself hangs.
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    pub(super) timeout: Option<Duration>,
    /// Timeout for a silent server, then reconnect (90, 90s, 5m)
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = values::time)]
    pub(super) server_timeout: Duration,
    /// Exit after this many jobs, including failed ones
    #[arg(long, value_name = "N", conflicts_with = "managed")]
    count: Option<NonZeroU64>,
    /// Name that `gearmand admin workers` shows for this worker
    #[arg(long, value_name = "ID", value_parser = values::client_id, conflicts_with = "managed")]
    id: Option<String>,
    /// Send output as it arrives (WORK_DATA), not as the result at the end
    #[arg(long)]
    pub(super) stream: bool,
    /// Send standard error as warnings (WORK_WARNING), instead of passing it through
    #[arg(long)]
    pub(super) warnings: bool,
    /// When a command fails, send the end of its standard error as an exception
    ///
    /// Clients that did not ask for exceptions see a plain failure.
    #[arg(long)]
    pub(super) exception: bool,
    /// Longest result, in bytes; a command that writes more is killed, and its job fails
    ///
    /// Must be below the packet limit of the server. --stream has no such limit.
    #[arg(long, value_name = "BYTES", default_value_t = RESULT_MAX)]
    pub(super) max_result: usize,
    /// Log the start and the end of every job
    #[arg(short, long)]
    pub(super) verbose: bool,
    #[command(flatten)]
    pub(super) managed: ManagedArgs,
    /// Command and its arguments
    #[arg(last = true, required_unless_present = "managed", conflicts_with = "ManagedArgs", value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// State shared by all connections of a worker.
pub(super) struct Worker {
    pub(super) functions: Vec<FunctionName>,
    pub(super) command: Arc<JobCommand>,
    pub(super) id: Option<String>,
    pub(super) connect_timeout: Duration,
    /// How long a server may be silent.
    pub(super) silence: Duration,
    pub(super) verbose: bool,
    /// Maximum number of jobs that a connection may hold.
    pub(super) prefetch: usize,
    /// One permit for each command that may run.
    pub(super) running: Arc<Semaphore>,
    /// One permit for each job that may still be started; `None` without a limit.
    pub(super) left: Option<Arc<Semaphore>>,
    /// Number of jobs that are still to be finished; unused without a limit.
    unfinished: AtomicU64,
    /// Cancelled to stop taking new jobs.
    pub(super) stop: CancellationToken,
    /// Cancelled to kill the running jobs too.
    pub(super) kill: CancellationToken,
}

impl Worker {
    fn new(args: WorkArgs) -> Result<Self, ToolError> {
        if args.prefetch > 1 && args.timeout.is_some() {
            let why = "the server's time limit starts when it assigns a job, and prefetched jobs wait";
            return Err(ToolError::Usage(format!("--prefetch cannot be used with --timeout: {why}")));
        }
        let mut words = args.command.into_iter();
        let program = words.next().ok_or_else(|| ToolError::Usage("a command is missing".to_owned()))?;
        let command = JobCommand {
            program,
            arguments: words.collect(),
            timeout: args.timeout,
            stream: args.stream,
            warnings: args.warnings,
            exception: args.exception,
            result_max: args.max_result,
        };
        command.check()?;
        let functions = args.functions.into_iter().map(|name| {
            let shown = name.display().to_string();
            values::to_function_name(name).map_err(|why| ToolError::Usage(format!("--function {shown}: {why}")))
        });
        let functions = functions.collect::<Result<_, _>>()?;
        let left = args.count.map(|count| {
            let count = usize::try_from(count.get()).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
        });
        Ok(Self {
            functions,
            command: Arc::new(command),
            id: args.id,
            connect_timeout: args.server.connect_timeout,
            silence: args.server_timeout,
            verbose: args.verbose,
            prefetch: usize::from(args.prefetch),
            running: Arc::new(Semaphore::new(usize::from(args.concurrency))),
            left,
            unfinished: AtomicU64::new(args.count.map_or(0, NonZeroU64::get)),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
        })
    }

    pub(super) fn allowance(&self) -> Allowance<'_> {
        Allowance { left: self.left.as_ref(), functions: &self.functions, stop: &self.stop }
    }

    /// Counts a finished job, whatever its outcome.
    pub(super) fn job_done(&self) {
        if self.left.is_some() && self.unfinished.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop.cancel();
        }
    }
}

/// Runs until the worker is stopped.
pub(super) async fn run(args: WorkArgs) -> Result<u8, ToolError> {
    if args.managed.managed {
        return managed::run(args).await;
    }
    let servers = args.server.resolve()?;
    let concurrency = args.concurrency;
    let worker = Arc::new(Worker::new(args)?);
    obey_signals(worker.stop.clone(), worker.kill.clone())?;
    let mut connections = JoinSet::new();
    for address in servers {
        let state = Arc::new(ServerState::new(address));
        for _ in 0..concurrency {
            connections.spawn(WorkerConnection::new(Arc::clone(&worker), Arc::clone(&state)).run());
        }
    }
    while connections.join_next().await.is_some() {}
    Ok(0)
}

/// Installs signal handlers: the first TERM or INT cancels `stop`, the second one `kill`.
pub(super) fn obey_signals(stop: CancellationToken, kill: CancellationToken) -> Result<(), ToolError> {
    let mut signals = EndSignals::watch()?;
    tokio::spawn(async move {
        signals.next().await;
        tell("work", format_args!("stopping after the running jobs; another signal kills them"));
        stop.cancel();
        signals.next().await;
        tell("work", format_args!("killing running jobs"));
        kill.cancel();
    });
    Ok(())
}

/// The signals that ask the process to stop, in the order of arrival.
pub(super) struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    /// Installs the handlers: these signals no longer end the process.
    pub(super) fn watch() -> Result<Self, ToolError> {
        let install = |kind| signal(kind).map_err(|error| ToolError::Io("cannot watch for signals", error));
        Ok(Self { terminate: install(SignalKind::terminate())?, interrupt: install(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
