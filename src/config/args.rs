//! The options of the server, declared once for the command line.
//!
//! The environment and the configuration file use the same declarations: their keys are the long names below,
//! and their values are parsed by the parsers below. This is the only description of what an option does.
//!
//! The groups of options are also parts of [`Config`](super::Config), so a new setting is one field.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Command};

use super::address::{self, ListenArgument};
use super::http::HttpArgs;
use super::queue::QueueArgs;
use super::value::{
    self, LogFormat, LogTarget, OptionalCount, OptionalDuration, OptionalSize, ProtocolPlugin, Retries,
};
use crate::log_level::Level;

/// The bytes in one KiB, MiB and GiB, for the ranges below.
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// All options of the server; flatten it into the command line of the program.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) network: Network,
    #[command(flatten)]
    pub(super) process: Process,
    #[command(flatten)]
    pub(super) jobs: Jobs,
    #[command(flatten)]
    pub(super) queue: QueueArgs,
    #[command(flatten)]
    pub(super) http: HttpArgs,
    #[command(flatten)]
    pub(super) log: Log,
    #[command(flatten)]
    pub(super) limits: Limits,
    #[command(flatten)]
    pub(super) timeouts: Timeouts,
    #[command(flatten)]
    _unsupported: super::unsupported::UnsupportedArgs,
}

/// The command line of the server alone, without the subcommands of the tools.
pub fn command() -> Command {
    let command = Command::new("gearmand").version(env!("CARGO_PKG_VERSION"));
    ServerArgs::augment_args(command).about("A Gearman job server").long_about(None)
}

/// The names of settings that a reload (HUP) applies; all others need a restart.
///
/// Settings of a single connection apply to connections accepted after the reload; limits on totals apply at
/// once.
pub const RELOADABLE: &[&str] = &[
    "keepalive-idle",
    "keepalive-interval",
    "keepalive-count",
    "tcp-user-timeout",
    "job-retries",
    "worker-wakeup",
    "exceptions",
    "durability",
    "function-durability",
    "store-reserve",
    "allow-shutdown",
    "admin-read-only",
    "verbose",
    "log-submissions",
    "max-packet-size",
    "max-connections",
    "max-output-buffer",
    "max-memory",
    "max-jobs",
    "max-workload-memory",
    "max-admin-line",
    "max-functions",
    "max-functions-per-connection",
    "max-jobs-per-connection",
    "max-pending-jobs-per-connection",
    "max-waits-per-job",
    "handshake-timeout",
    "write-timeout",
    "wakeup-timeout",
    "drain-timeout",
];

/// Settings that are invalid in a configuration file: they select the file, and what to do with it.
pub(super) const NOT_IN_A_FILE: &[&str] = &["config-file", "check"];

/// Where the settings come from.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Configuration")]
pub(super) struct Source {
    /// Read settings from this file, gearmand's own format (--port=4731) or TOML (port = 4731)
    ///
    /// Without it /etc/gearmand/gearmand.toml is read, or else /etc/gearmand.conf, where they exist. The
    /// environment (`GEARMAND_PORT` for --port) beats the file, the command line beats both.
    #[arg(long, value_name = "PATH")]
    pub(super) config_file: Option<PathBuf>,

    /// Print every setting with its origin and exit; the exit status tells whether all is well
    #[arg(long, alias = "check-args")]
    pub(super) check: bool,
}

/// How connections are accepted and kept.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Network")]
pub struct Network {
    /// Listen on this address, host name or UNIX socket; can be repeated [default: all addresses, IPv4 and
    /// IPv6]
    ///
    /// ADDRESS is an IP address or a host name, with a port of its own as HOST:PORT or [IPV6]:PORT; * for all
    /// addresses; `unix:/PATH` for a UNIX socket.
    #[arg(short = 'L', long, value_name = "ADDRESS", action = ArgAction::Append)]
    pub(super) listen: Vec<ListenArgument>,

    /// Listen on this port, a number or the name of a service; 0 lets the kernel choose
    #[arg(short, long, value_name = "PORT", default_value = "4730", value_parser = address::port)]
    pub(super) port: u16,

    /// Length of the queue of connections that wait to be accepted; the kernel cuts it to net.core.somaxconn
    #[arg(short, long, value_name = "N", default_value = "1024", value_parser = value::number::<0, 65_535>)]
    pub backlog: u32,

    /// Run jobs over HTTP as well, by gearmand's protocol plugin; the only NAME is http [default: none]
    ///
    /// One request is one job: POST /FUNCTION with the workload as its body. It listens on the TCP addresses
    /// of --listen. Every host that can connect to its port can submit jobs, as on the other ports.
    #[arg(short = 'r', long, value_name = "NAME")]
    pub protocol: Option<ProtocolPlugin>,

    /// Port of --protocol http; 0 lets the kernel choose
    #[arg(long, value_name = "PORT", default_value = "8080", value_parser = address::port)]
    pub http_port: u16,

    /// Permissions of UNIX sockets, in octal
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = value::mode)]
    pub socket_mode: u32,

    /// Time of silence after which a peer is probed, without a unit: seconds; -1 leaves it to the kernel
    ///
    /// Each connection has a time of its own between half of it and all of it, so that thousands of idle
    /// workers are not probed in the same moment.
    #[arg(long, value_name = "TIME", default_value = "20", value_parser = value::keepalive_seconds,
          allow_negative_numbers = true)]
    pub keepalive_idle: OptionalDuration,

    /// Time between two probes, without a unit: seconds; -1 leaves it to the kernel
    #[arg(long, value_name = "TIME", default_value = "2", value_parser = value::keepalive_seconds,
          allow_negative_numbers = true)]
    pub keepalive_interval: OptionalDuration,

    /// Probes without an answer after which a peer is dead; -1 leaves it to the kernel
    #[arg(long, value_name = "N", default_value = "5", value_parser = value::probes, allow_negative_numbers = true)]
    pub keepalive_count: OptionalCount,

    /// TCP_USER_TIMEOUT: close a connection if nothing is acknowledged for this long; without a unit:
    /// seconds; 0 leaves it to the kernel
    ///
    /// Together with the probes it returns the jobs of a dead host in less than a minute: a silent peer is
    /// closed after 30 seconds, one that was written to just before that after 30 more. It is never less than
    /// all probes take. A peer that reads nothing but whose kernel answers is alive, and is not closed by
    /// this: see --write-timeout.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = value::seconds_or_off)]
    pub tcp_user_timeout: OptionalDuration,
}

/// The process: its identity, its files, its threads.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Process")]
pub struct Process {
    /// Detach and run in the background
    #[arg(short, long)]
    pub daemon: bool,

    /// Switch to this user once the ports are bound; needs root
    #[arg(short, long, value_name = "NAME", value_parser = value::non_empty)]
    pub user: Option<String>,

    /// Write the process id to this file [default: no file]
    #[arg(short = 'P', long, value_name = "PATH")]
    pub pid_file: Option<PathBuf>,

    /// Limit of open files, one a connection [default: as many as the system allows this user]
    ///
    /// It is 32 at least. Some are kept for the store, the log and HTTP, so that there are fewer connections
    /// than this. 0 is the default.
    #[arg(short, long, value_name = "N", value_parser = value::count::<0, 1_073_741_816>)]
    pub file_descriptors: Option<usize>,

    /// Threads that serve connections; 0 is one a CPU
    ///
    /// One is the efficient choice up to several ten thousand jobs a second.
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = value::threads)]
    pub threads: usize,

    /// Enable the text command `shutdown`, which anybody who reaches the port can send
    #[arg(long)]
    pub allow_shutdown: bool,

    /// Refuse text commands that change something, for a port that anybody reaches
    ///
    /// These are `cancel`, `create`, `drop`, `maxqueue` and `shutdown`, and those that C++ gearmand does not
    /// know.
    #[arg(long)]
    pub admin_read_only: bool,
}

/// The minimum limit of open files that the server requests: with a lower one it could not open its own
/// files.
pub(super) const LEAST_FILES: usize = 32;

impl Process {
    /// The limit of open files, if it is set.
    pub fn open_files(&self) -> Option<u64> {
        let files = self.file_descriptors.filter(|files| *files > 0)?.max(LEAST_FILES);
        u64::try_from(files).ok()
    }
}

/// What happens to jobs.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Jobs")]
pub struct Jobs {
    /// Attempts after which a job whose workers were lost fails; -1 and 0 mean no limit
    #[arg(short = 'j', long, value_name = "N", default_value = "-1", value_parser = value::retries,
          allow_negative_numbers = true)]
    pub job_retries: Retries,

    /// Wake up to N sleeping workers for a job; 0 wakes all of them
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = value::wakeup)]
    pub worker_wakeup: OptionalCount,

    /// First part of job handles, before the colon and the number [default: H: and the name of the host]
    #[arg(long, value_name = "TEXT", value_parser = value::handle_prefix)]
    pub(super) job_handle_prefix: Option<String>,

    /// Send exceptions to every client, also to those that did not ask for them
    #[arg(long)]
    pub exceptions: bool,
}

/// What is logged, how, and where to.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Log")]
pub struct Log {
    /// Append log lines to this file; stderr is standard error, none is no file
    #[arg(short, long, value_name = "PATH", default_value = "/var/log/gearmand.log")]
    pub log_file: LogTarget,

    /// Log lines of this level and of more important ones: FATAL ALERT CRITICAL ERROR WARNING NOTICE INFO
    /// DEBUG
    ///
    /// Start, reload, drain, stop, a store that works again and what an operator has the server do are
    /// written at every level.
    #[arg(long, value_name = "LEVEL", default_value = "ERROR")]
    pub verbose: Level,

    /// Write a line for each job that is accepted: accepted,FUNCTION,UNIQUE,WHEN; --verbose DEBUG does too
    #[arg(long)]
    pub log_submissions: bool,

    /// Write lines for people (human) or JSON objects (json)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub log_format: LogFormat,

    /// Log to syslog too
    #[arg(long)]
    pub syslog: bool,

    /// Log to the systemd journal too, with the fields of each event
    #[arg(long)]
    pub journald: bool,
}

/// How much of everything is accepted. Sizes are in bytes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Largest body of a packet
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = value::bytes::<KIB, { 4 * GIB }>)]
    pub max_packet_size: u64,

    /// Maximum number of open connections
    #[arg(long, value_name = "N", default_value = "65536", value_parser = value::count::<1, 1_073_741_816>)]
    pub max_connections: usize,

    /// Maximum bytes queued for one slow reader; beyond it the connection is closed
    ///
    /// It has room for what many workers may answer to one client at the same moment: that is more than
    /// anybody can read at once. A reader that takes nothing is closed by --write-timeout, however little
    /// waits for it.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = value::bytes::<KIB, { 1024 * GIB }>)]
    pub max_output_buffer: u64,

    /// Maximum bytes of memory for jobs and peers, at least 16 MiB; 0 is two thirds of the machine's memory
    ///
    /// It is the sum of all that peers make the server hold: jobs, submissions that wait, packets that wait
    /// for slow readers or have not come whole. Beyond three quarters submissions are refused; near the limit
    /// connections that hold much and move little are closed. 0 is two thirds of what the control group
    /// allows, where that is less than the machine's memory, and more where --max-workload-memory asks
    /// for more.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = value::bytes_or_automatic::<{ 16 * MIB }, { 1024 * GIB }>)]
    pub max_memory: OptionalSize,

    /// Maximum number of jobs, queued and running together; 0 is as many as fit into --max-memory
    #[arg(long, value_name = "N", default_value = "0", value_parser = value::count::<0, 4_000_000_000>)]
    pub max_jobs: usize,

    /// Maximum bytes of workloads of queued jobs in memory; 0 is 64 MiB for a durable queue, else what
    /// --max-memory leaves
    ///
    /// It is a part of --max-memory. A durable queue keeps what is beyond it in the store alone and reads it
    /// back ahead of the workers. Where jobs are kept in memory, a job beyond it is refused.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = value::bytes_or_automatic::<MIB, { 1024 * GIB }>)]
    pub max_workload_memory: OptionalSize,

    /// Longest line of the text protocol, with its line feed, in bytes
    #[arg(long, value_name = "BYTES", default_value = "8192", value_parser = value::count::<64, 1_048_576>)]
    pub max_admin_line: usize,

    /// Maximum number of functions known to the server
    #[arg(long, value_name = "N", default_value = "100000", value_parser = value::count::<1, 1_000_000_000>)]
    pub max_functions: usize,

    /// Maximum number of functions that one connection offers
    ///
    /// Further functions are not registered, without an error to the worker, as in C++ gearmand. The log and
    /// a metric report them.
    #[arg(long, value_name = "N", default_value = "100000", value_parser = value::count::<1, 1_000_000_000>)]
    pub max_functions_per_connection: usize,

    /// Maximum number of jobs that one connection works on at one time
    #[arg(long, value_name = "N", default_value = "10000", value_parser = value::count::<1, 1_000_000_000>)]
    pub max_jobs_per_connection: usize,

    /// Maximum number of pending jobs whose results one connection waits for
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = value::count::<1, 1_000_000_000>)]
    pub max_pending_jobs_per_connection: usize,

    /// Maximum number of submissions of one job whose results one connection waits for
    #[arg(long, value_name = "N", default_value = "1000", value_parser = value::count::<1, 1_000_000_000>)]
    pub max_waits_per_job: usize,
}

/// How long the server waits. A time without a unit counts seconds, where nothing else is said.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Times")]
pub struct Timeouts {
    /// Close a connection that has sent nothing for this long after it was opened; without a unit: seconds; 0
    /// waits for ever
    ///
    /// The default is to wait: pools of connections, health checks and clients that connect before their
    /// first job are legitimate and many, while a dead peer is found by the keep-alive probes.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = value::seconds_or_off)]
    pub handshake_timeout: OptionalDuration,

    /// Close a slow reader that has read nothing for this long; without a unit: seconds; 0 waits for ever
    ///
    /// Its host answers all the while: a client may be busy for minutes before it reads its next result.
    /// --max-output-buffer bounds what waits for it.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = value::seconds_or_off)]
    pub write_timeout: OptionalDuration,

    /// Wake the next worker when the one woken for a job has not asked for it; without a unit: milliseconds
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = value::milliseconds)]
    pub wakeup_timeout: Duration,

    /// After USR1, wait at most this long for running and volatile jobs, then stop; without a unit: seconds;
    /// 0 waits for ever
    ///
    /// While it drains, the server takes no new job. Five minutes end ordinary jobs; without a bound one
    /// stuck worker would keep a server alive that refuses all work.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = value::seconds_or_off)]
    pub drain_timeout: OptionalDuration,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser, Subcommand};

    use super::*;
    use crate::config::{ListenAddress, Sources, resolve};

    /// A program
    #[derive(Parser)]
    #[command(name = "gearmand", version, args_conflicts_with_subcommands = true)]
    struct Program {
        #[command(flatten)]
        _server: ServerArgs,
        #[command(subcommand)]
        tool: Option<Tool>,
    }

    #[derive(Subcommand)]
    enum Tool {
        Man,
    }

    #[test]
    fn declarations_are_sound() {
        command().debug_assert();
        Program::command().debug_assert();
    }

    #[test]
    fn a_program_with_subcommands_can_flatten_the_options() {
        let matches = Program::command().get_matches_from(["gearmand", "-p", "1"]);
        let resolved = resolve(&Sources::command_line_only(matches)).expect("good options");
        assert_eq!(resolved.config.listen, [ListenAddress::All { port: 1 }]);
        let help = Program::command().render_long_help().to_string();
        assert!(help.starts_with("A program\n"), "the options bring no description of their own: {help}");
        let program = Program::parse_from(["gearmand", "man"]);
        assert!(matches!(program.tool, Some(Tool::Man)));
    }
}
