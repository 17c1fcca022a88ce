//! `gearmand submit`: submits jobs, many at a time, and prints their results.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::address::{ServerAddress, ServerArgs};
use super::backoff::Backoff;
use super::connection::{self, Connection, ConnectionError};
use super::output::{Output, Style};
use super::pipeline::{Ending, Pipeline, Settings};
use super::source::{self, Input, NewJob};
use super::{EXIT_FAILED, EXIT_UNREACHABLE, ToolError, values};
use crate::protocol::packet::PacketType;
use crate::protocol::{FunctionName, Priority};

/// While more than this is queued for the server, no more jobs are read, in bytes.
const UNSENT_MAX: usize = 4 << 20;

/// What `gearmand submit` is told.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Results go to standard output in the order of submission; warnings and failures go to standard \
    error. Where there can be several results, one that does not end with a newline gets one.\n\n\
    A lost connection is reconnected, and unsent jobs are submitted then. A job that was sent and is unfinished may \
    have run: it is resubmitted only if it has a unique id, by which the server recognizes it, or with --resubmit; \
    otherwise it is reported as lost. A background job is complete once the server has accepted it.\n\n\
    Exit status: 0 all jobs completed (background: accepted), 1 a job failed, 2 usage, 3 no server reachable, a job \
    was lost or timed out."
)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct SubmitArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Function to submit to; if repeated, every workload goes to every function
    #[arg(short, long = "function", value_name = "NAME", required = true, value_parser = values::function_name())]
    functions: Vec<FunctionName>,
    /// One job per line of standard input, without the line end
    #[arg(short = 'n', short_alias = 'N', long, conflicts_with = "workloads")]
    lines: bool,
    /// Do not wait for results; print the handles of the jobs
    #[arg(short, long)]
    background: bool,
    /// Priority of the jobs
    #[arg(long, value_enum, default_value = "normal")]
    priority: PriorityName,
    /// The same as --priority high
    #[arg(short = 'I', long, conflicts_with_all = ["priority", "low"])]
    high: bool,
    /// The same as --priority low
    #[arg(short = 'L', long, conflicts_with = "priority")]
    low: bool,
    /// Unique id: the server merges jobs with the same function and unique id
    ///
    /// With "-" it merges jobs with the same function and workload.
    #[arg(short, long, value_name = "ID", default_value = "", hide_default_value = true, value_parser = values::unique())]
    unique: std::vec::Vec<u8>,
    /// Do not run before this time, in seconds of UNIX time; implies --background
    #[arg(long, visible_alias = "epoch", value_name = "SECONDS", conflicts_with_all = ["priority", "high", "low", "delay"])]
    at: Option<u64>,
    /// Delay before the job may run, such as 90s, 5m, 2h or 1d (without a unit: seconds); implies
    /// --background
    #[arg(long = "in", value_name = "TIME", value_parser = values::delay, conflicts_with_all = ["priority", "high", "low"])]
    delay: Option<Duration>,
    /// Maximum number of unfinished jobs
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    parallel: u32,
    /// Print a result as soon as its job is done, regardless of the order of submission
    #[arg(long)]
    unordered: bool,
    /// Print results as they are, without adding newlines
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print one JSON object per job: job (its number), function, unique, handle, outcome, data, warnings,
    /// result, exception
    ///
    /// The outcome is complete, failed, exception, rejected, lost, timeout, or created for a background job.
    /// Bytes that are not UTF-8 are in base64, under a name that ends with _base64.
    #[arg(long)]
    json: bool,
    /// Time limit for a job; without a unit: seconds
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    timeout: Option<Duration>,
    /// Timeout for a silent server; without a unit: seconds
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = values::time)]
    server_timeout: Duration,
    /// How long to retry a lost connection; without a unit: seconds. A connection without any answer counts
    /// as lost
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::time)]
    reconnect: Duration,
    /// Resubmit jobs that were unfinished when the connection was lost: they may run twice
    #[arg(long)]
    resubmit: bool,
    /// Show no progress bar, not even on a terminal
    #[arg(short, long)]
    quiet: bool,
    /// Report the handle and the progress of every job
    #[arg(short, long)]
    verbose: bool,
    /// Workloads, one job each; without any, standard input is the workload of one job
    #[arg(value_name = "WORKLOAD")]
    workloads: Vec<OsString>,
}

/// A priority, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PriorityName {
    High,
    Normal,
    Low,
}

impl SubmitArgs {
    fn settings(&self, now: SystemTime) -> Settings {
        let epoch = self.at.or_else(|| {
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            // Fractions of a second are rounded up, so that the job does not run before that time.
            let due = self.delay.map(|delay| now + delay);
            due.map(|due| due.as_secs() + u64::from(due.subsec_nanos() > 0))
        });
        let background = self.background || epoch.is_some();
        Settings {
            packet_type: if epoch.is_some() {
                PacketType::SubmitJobEpoch
            } else {
                submit_packet(self.priority(), background)
            },
            unique: self.unique.clone(),
            epoch: epoch.map(|time| time.to_string()),
            background,
            ordered: !self.unordered,
            resubmit: self.resubmit,
            window: self.parallel as usize,
        }
    }

    const fn priority(&self) -> Priority {
        match self.priority {
            _ if self.high => Priority::High,
            _ if self.low => Priority::Low,
            PriorityName::High => Priority::High,
            PriorityName::Normal => Priority::Normal,
            PriorityName::Low => Priority::Low,
        }
    }

    fn many(&self) -> bool {
        self.lines || self.workloads.len() * self.functions.len() > 1 || self.functions.len() > 1
    }
}

const fn submit_packet(priority: Priority, background: bool) -> PacketType {
    match (priority, background) {
        (Priority::High, false) => PacketType::SubmitJobHigh,
        (Priority::High, true) => PacketType::SubmitJobHighBg,
        (Priority::Normal, false) => PacketType::SubmitJob,
        (Priority::Normal, true) => PacketType::SubmitJobBg,
        (Priority::Low, false) => PacketType::SubmitJobLow,
        (Priority::Low, true) => PacketType::SubmitJobLowBg,
    }
}

/// Why the processing of jobs ends.
enum Stop {
    /// The connection is lost.
    Lost(ConnectionError),
    /// A job took too long.
    TimedOut,
    /// Jobs cannot be read or results cannot be printed.
    Tool(ToolError),
}

impl From<ConnectionError> for Stop {
    fn from(error: ConnectionError) -> Self {
        Self::Lost(error)
    }
}

impl From<ToolError> for Stop {
    fn from(error: ToolError) -> Self {
        Self::Tool(error)
    }
}

/// Submits all jobs and waits for their results, unless they run in the background.
pub(super) async fn run(args: SubmitArgs) -> Result<u8, ToolError> {
    let servers = args.server.resolve()?;
    let settings = args.settings(SystemTime::now());
    let (_, stream) = connection::open_first(&servers, args.server.connect_timeout).await?;
    let style = Style {
        json: args.json,
        newline: args.many() && !args.raw,
        handles: settings.background,
        verbose: args.verbose,
    };
    let output = Output::new(style, args.unique.clone(), !args.quiet, args.many());
    let input = if args.lines {
        Input::Lines
    } else if args.workloads.is_empty() {
        Input::Whole
    } else {
        Input::Words(args.workloads)
    };
    if !matches!(input, Input::Words(_)) && io::stdin().is_terminal() {
        output.message(format_args!("reading standard input; Ctrl-D ends it"));
    }
    let source = source::start(input, args.functions).map_err(|error| ToolError::Io("cannot read jobs", error))?;
    let driver = Driver {
        servers,
        connect_timeout: args.server.connect_timeout,
        reconnect: args.reconnect,
        silence: args.server_timeout,
        backoff: Backoff::new(),
        lost: None,
        timeout: args.timeout,
        pipeline: Pipeline::new(settings),
        output,
        source: Some(source),
    };
    let connection = Connection::with_silence(stream, driver.silence);
    driver.run(connection).await
}

/// Moves jobs from their source through the connection to the output.
struct Driver {
    servers: Vec<ServerAddress>,
    connect_timeout: Duration,
    reconnect: Duration,
    /// How long a server may be silent.
    silence: Duration,
    backoff: Backoff,
    /// Since when no server has answered; `None` while one does.
    lost: Option<Instant>,
    timeout: Option<Duration>,
    pipeline: Pipeline,
    output: Output,
    /// `None` once all jobs have been read.
    source: Option<mpsc::Receiver<io::Result<NewJob>>>,
}

impl Driver {
    async fn run(mut self, mut connection: Connection) -> Result<u8, ToolError> {
        while !self.is_done() {
            match self.drive(&mut connection).await {
                Ok(()) => break,
                Err(Stop::Tool(error)) => {
                    // Results so far are worth printing, unless printing is what failed.
                    let _ = self.output.close();
                    return Err(error);
                }
                Err(Stop::TimedOut) => {
                    self.pipeline.give_up(&Ending::TimedOut, &mut self.output);
                    break;
                }
                Err(Stop::Lost(error)) => {
                    self.output.message(format_args!("connection lost: {error}"));
                    self.pipeline.disconnected(&mut self.output);
                    if self.is_done() {
                        break;
                    }
                    match self.connect_again().await {
                        Ok(new) => connection = new,
                        Err(error) => {
                            self.pipeline.give_up(&Ending::Lost, &mut self.output);
                            self.output.close()?;
                            return Err(error);
                        }
                    }
                }
            }
        }
        self.output.close()?;
        let counts = self.pipeline.counts();
        Ok(if counts.lost > 0 {
            EXIT_UNREACHABLE
        } else if counts.failed > 0 {
            EXIT_FAILED
        } else {
            0
        })
    }

    fn is_done(&self) -> bool {
        self.source.is_none() && self.pipeline.is_empty()
    }

    /// Processes jobs over one connection, until all are done or the connection is lost.
    async fn drive(&mut self, connection: &mut Connection) -> Result<(), Stop> {
        self.pipeline.connected(connection)?;
        let mut batch = Vec::new();
        loop {
            while let Some(answer) = connection.try_receive()? {
                if self.pipeline.answer(answer, &mut self.output) {
                    self.lost = None;
                    self.backoff.reset();
                }
            }
            self.output.flush()?;
            if self.is_done() {
                return Ok(());
            }
            let room = if connection.unsent() < UNSENT_MAX { self.pipeline.room() } else { 0 };
            let deadline = self.timeout.and_then(|limit| self.pipeline.oldest().map(|begin| begin + limit));
            tokio::select! {
                count = receive(self.source.as_mut(), &mut batch, room) => {
                    if count == 0 {
                        self.source = None;
                        self.output.total(self.pipeline.submitted());
                    }
                    let now = Instant::now();
                    for job in batch.drain(..) {
                        let job = job.map_err(|error| ToolError::Io("cannot read standard input", error))?;
                        self.pipeline.submit(job, now, connection, &mut self.output);
                    }
                }
                turned = connection.turn() => turned?,
                () = sleep_until(deadline) => return Err(Stop::TimedOut),
            }
        }
    }

    /// Tries all servers, with backoff, until the reconnect time is over. A server that accepts connections
    /// and closes them again counts as unreachable.
    async fn connect_again(&mut self) -> Result<Connection, ToolError> {
        let is_first = self.lost.is_none();
        let end = *self.lost.get_or_insert_with(Instant::now) + self.reconnect;
        if !is_first {
            if Instant::now() >= end {
                let limit = self.reconnect.as_secs_f64();
                let why = format!("every connection was lost before an answer arrived, for {limit} s");
                return Err(ToolError::Unreachable(why));
            }
            tokio::time::sleep(self.backoff.pause().min(end - Instant::now())).await;
        }
        loop {
            match connection::open_first(&self.servers, self.connect_timeout).await {
                Ok((address, stream)) => {
                    self.output.message(format_args!("connected to {address}"));
                    return Ok(Connection::with_silence(stream, self.silence));
                }
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => {
                    let left = end.saturating_duration_since(Instant::now());
                    tokio::time::sleep(self.backoff.pause().min(left)).await;
                }
            }
        }
    }
}

/// Receives up to `room` jobs, at least one; 0 at the end. Waits forever while there is no room or the source
/// is finished.
async fn receive(
    source: Option<&mut mpsc::Receiver<io::Result<NewJob>>>,
    batch: &mut Vec<io::Result<NewJob>>,
    room: usize,
) -> usize {
    match source {
        Some(source) if room > 0 => source.recv_many(batch, room).await,
        _ => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
