//! Actions of `gearmand admin`, their lines in the text protocol, and the format of their responses.

use crate::client::listing::Listing;
use crate::client::values;

/// Help text of the commands that other servers do not have.
const NEW: &str = "Not known to C++ gearmand.";

/// Columns of `show functions` that fit on a screen.
const FUNCTION_COLUMNS: &[&str] = &[
    "name",
    "high",
    "normal",
    "low",
    "scheduled",
    "running",
    "workers",
    "working",
    "paused",
    "max_running",
    "oldest_s",
    "in_per_s",
    "out_per_s",
    "failed_per_s",
    "run_p50_s",
    "run_p99_s",
];
/// Columns of `show workers` that fit on a screen.
const WORKER_COLUMNS: &[&str] =
    &["id", "address", "client_id", "state", "functions", "running", "job", "done", "failed", "run_p50_s", "run_p99_s"];
/// Columns of `list jobs` that fit on a screen.
const JOB_COLUMNS: &[&str] =
    &["handle", "unique", "function", "priority", "state", "age_s", "attempts", "holder", "progress", "bytes"];

/// Which columns are shown.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Columns {
    /// Columns of the table, separated by commas, or `all`; JSON has all of them
    #[arg(id = "shown_columns", long = "columns", value_name = "NAMES", value_delimiter = ',')]
    names: Vec<String>,
}

/// Which jobs are listed.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct JobFilter {
    /// Only jobs of this function
    #[arg(id = "of_function", long = "function", value_name = "NAME", value_parser = values::admin_name())]
    function: Option<String>,
    /// Only jobs in this state
    #[arg(id = "in_state", long = "state", value_name = "STATE", value_parser = ["scheduled", "queued", "running"])]
    state: Option<String>,
    /// Only jobs with this unique id
    #[arg(id = "with_unique", long = "unique", value_name = "ID", value_parser = values::admin_name())]
    unique: Option<String>,
    /// Only jobs of this priority
    #[arg(id = "of_priority", long = "priority", value_name = "PRIORITY", value_parser = ["high", "normal", "low"])]
    priority: Option<String>,
    /// Only jobs held by a worker with this client id
    #[arg(id = "of_client", long = "client", value_name = "ID", value_parser = values::admin_name())]
    client: Option<String>,
    /// Only jobs whose result a connection with this client id waits for
    #[arg(id = "waiting_client", long = "waiting", value_name = "ID", value_parser = values::admin_name())]
    waiting: Option<String>,
    /// Only jobs at least this old: 90s, 5m, 2h, 1d; without a unit: seconds
    #[arg(id = "older_than", long = "older", value_name = "TIME", value_parser = values::time)]
    older: Option<std::time::Duration>,
    /// Maximum number of jobs
    #[arg(id = "most_jobs", long = "limit", value_name = "COUNT", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
    /// Cursor from the previous listing
    #[arg(id = "after_cursor", long = "after", value_name = "CURSOR", value_parser = values::admin_name())]
    after: Option<String>,
    #[command(flatten)]
    columns: Columns,
}

impl JobFilter {
    /// The command for at most `limit` jobs from `after` on, or from the position on the command line.
    pub(super) fn line(&self, limit: u32, after: Option<&str>) -> String {
        let mut line = "list jobs".to_owned();
        let older = self.older.map(|older| older.as_secs_f64().to_string());
        for (key, value) in [
            ("function", self.function.as_deref()),
            ("state", self.state.as_deref()),
            ("unique", self.unique.as_deref()),
            ("priority", self.priority.as_deref()),
            ("client", self.client.as_deref()),
            ("waiting", self.waiting.as_deref()),
            ("older", older.as_deref()),
            ("limit", Some(limit.to_string().as_str())),
            ("after", after.or(self.after.as_deref())),
        ] {
            if let Some(value) = value {
                line.extend([" ", key, "=", value]);
            }
        }
        line
    }
}

/// Whether to ask before many things are changed at once.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Sure {
    /// Do not ask for confirmation, which happens only if standard input is a terminal
    #[arg(id = "sure", long = "yes", short = 'y')]
    yes: bool,
}

/// Which workers, and of which function.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Whose {
    /// connection:ID, client:CLIENT_ID or host:ADDRESS; the latter two also apply to workers that connect
    /// later
    #[arg(value_parser = values::workers())]
    who: String,
    /// Only jobs of this function
    #[arg(value_parser = values::admin_name())]
    function: Option<String>,
}

/// What to ask or to do; `status` if nothing is said.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Action {
    /// List functions: jobs (queued and running), running jobs, workers
    Status,
    /// List functions: queued jobs by priority, workers
    #[command(visible_alias = "priority-status")]
    Prioritystatus,
    /// List connections and the functions that they registered
    Workers,
    /// List jobs: handle, failed attempts, abandoned, background
    ShowJobs,
    /// List the unique ids of jobs
    ShowUniqueJobs,
    /// Show where background jobs are stored, and the state of the store (not known to C++ gearmand)
    ShowStore,
    /// List functions with their queues, workers, limits, totals, rates and times
    #[command(after_help = NEW)]
    ShowFunctions(Columns),
    /// List workers with their state, the job that they hold, totals and times
    ///
    /// FAILED counts jobs that failed with an exception too; `--columns failed,exceptions` tells them apart.
    #[command(after_help = NEW)]
    ShowWorkers(Columns),
    /// List jobs with their function, state, age and holder
    #[command(after_help = NEW)]
    ListJobs(JobFilter),
    /// Show everything about a job, with the beginning of its workload
    #[command(after_help = NEW)]
    ShowJob {
        /// As `submit` prints it and `list-jobs` lists it
        #[arg(value_parser = values::admin_name())]
        handle: String,
    },
    /// Show everything about a worker: its functions, and the jobs that it holds
    #[command(after_help = NEW)]
    ShowWorker {
        /// As `show-workers` lists it
        #[arg(value_parser = values::admin_name())]
        id: String,
    },
    /// Show the state of the server
    #[command(after_help = NEW)]
    ShowServer,
    /// List the rules that withhold jobs from workers
    #[command(after_help = NEW)]
    ShowRules,
    /// Withhold a function's jobs from all workers; new jobs are still accepted
    #[command(after_help = NEW)]
    Pause {
        /// Name of the function
        #[arg(value_parser = values::admin_name())]
        function: String,
    },
    /// Assign the jobs of a paused function again
    #[command(after_help = NEW)]
    Resume {
        /// Name of the function
        #[arg(value_parser = values::admin_name())]
        function: String,
    },
    /// Limit how many jobs of a function run at once; 0 is no limit
    #[command(after_help = NEW)]
    LimitRunning {
        /// Name of the function
        #[arg(value_parser = values::admin_name())]
        function: String,
        /// Maximum number of running jobs
        #[arg(value_parser = values::count, allow_negative_numbers = true)]
        most: u32,
    },
    /// Cancel a job; the result of a running one is dropped
    CancelJob {
        /// As `submit` prints it and `show-jobs` lists it
        #[arg(value_parser = values::admin_word)]
        handle: String,
    },
    /// Cancel all jobs of a function
    #[command(after_help = NEW)]
    CancelJobs {
        /// Name of the function
        #[arg(value_parser = values::admin_name())]
        function: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// Move a job that is not running to another function
    #[command(after_help = NEW)]
    MoveJob {
        /// As `submit` prints it and `list-jobs` lists it
        #[arg(value_parser = values::admin_name())]
        handle: String,
        /// Name of the other function
        #[arg(value_parser = values::admin_name())]
        function: String,
    },
    /// Move all jobs of a function that are not running to another one
    #[command(after_help = NEW)]
    MoveJobs {
        /// Name of the function
        #[arg(value_parser = values::admin_name())]
        from: String,
        /// Name of the other function
        #[arg(value_parser = values::admin_name())]
        to: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// Change the priority of a job
    #[command(after_help = NEW)]
    PriorityJob {
        /// As `submit` prints it and `list-jobs` lists it
        #[arg(value_parser = values::admin_name())]
        handle: String,
        /// New priority
        #[arg(value_parser = ["high", "normal", "low"])]
        priority: String,
    },
    /// Run a scheduled job now, before it is due
    #[command(after_help = NEW)]
    RunJob {
        /// As `submit` prints it and `list-jobs` lists it
        #[arg(value_parser = values::admin_name())]
        handle: String,
    },
    /// Assign no more jobs to workers
    #[command(after_help = NEW)]
    Disable(Whose),
    /// Assign no more jobs to workers; `show-workers` shows `drained` for a worker that holds none any more
    #[command(after_help = NEW)]
    Drain(Whose),
    /// Assign jobs to workers again
    #[command(after_help = NEW)]
    Enable(Whose),
    /// Close workers' connections; the jobs that they hold are requeued
    #[command(after_help = NEW)]
    Kick {
        /// connection:ID, client:CLIENT_ID or host:ADDRESS
        #[arg(value_parser = values::workers())]
        who: String,
        #[command(flatten)]
        sure: Sure,
    },
    /// Create a function without jobs or workers
    CreateFunction {
        /// Name of the function
        #[arg(value_parser = values::admin_word)]
        function: String,
    },
    /// Remove an unused function
    DropFunction {
        /// Name of the function
        #[arg(value_parser = values::admin_name())]
        function: String,
    },
    /// Limit the number of jobs of a function; 0 is no limit
    ///
    /// One limit applies to all priorities, two to high and normal, three to high, normal and low. None
    /// removes the limits.
    Maxqueue {
        /// Name of the function
        #[arg(value_parser = values::admin_name())]
        function: String,
        /// Maximum number of jobs of the function, all priorities together, when a job of this priority
        /// arrives
        #[arg(num_args = 0..=3, value_parser = values::count, allow_negative_numbers = true)]
        limits: Vec<u32>,
    },
    /// Print the process id of the server
    Getpid,
    /// Print the log level of the server
    #[command(visible_alias = "server-verbose")]
    Verbose,
    /// Print the version of the server
    #[command(visible_alias = "server-version")]
    Version,
    /// Shut the server down, if it runs with --allow-shutdown
    Shutdown {
        /// Let running jobs finish first
        #[arg(long)]
        graceful: bool,
    },
    /// Send lines unchanged and print the raw answers
    Raw {
        /// One command of the text protocol each
        #[arg(required = true, value_name = "LINE", value_parser = values::admin_line)]
        lines: Vec<String>,
    },
}

/// Form of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    List(Listing),
    /// A listing with a heading line. These columns are shown unless the command line selects others.
    Table(&'static [&'static str]),
    /// A listing of jobs with a heading line, which may end with the position of the next page.
    Page(&'static [&'static str]),
    /// A key and its value per line; with `true` also a worker's functions and jobs.
    Facts(bool),
    Value(&'static str),
    Done,
    Unknown,
}

impl Action {
    /// The lines to send.
    pub(super) fn lines(&self) -> Vec<String> {
        let one = |line: &str| vec![line.to_owned()];
        match self {
            Self::Status => one("status"),
            Self::Prioritystatus => one("prioritystatus"),
            Self::Workers => one("workers"),
            Self::ShowJobs => one("show jobs"),
            Self::ShowUniqueJobs => one("show unique jobs"),
            Self::ShowStore => one("show store"),
            Self::ShowFunctions(_) => one("show functions"),
            Self::ShowWorkers(_) => one("show workers"),
            Self::ListJobs(filter) => vec![filter.line(filter.limit, None)],
            Self::ShowJob { handle } => vec![format!("show job {handle}")],
            Self::ShowWorker { id } => vec![format!("show worker {id}")],
            Self::ShowServer => one("show server"),
            Self::ShowRules => one("show rules"),
            Self::Pause { function } => vec![format!("pause {function}")],
            Self::Resume { function } => vec![format!("resume {function}")],
            Self::LimitRunning { function, most } => vec![format!("limit running {function} {most}")],
            Self::CancelJobs { function, .. } => vec![format!("cancel jobs {function}")],
            Self::MoveJob { handle, function } => vec![format!("move job {handle} {function}")],
            Self::MoveJobs { from, to, .. } => vec![format!("move jobs {from} {to}")],
            Self::PriorityJob { handle, priority } => vec![format!("priority job {handle} {priority}")],
            Self::RunJob { handle } => vec![format!("run job {handle}")],
            Self::Disable(whose) => vec![whose.line("disable")],
            Self::Drain(whose) => vec![whose.line("drain")],
            Self::Enable(whose) => vec![whose.line("enable")],
            Self::Kick { who, .. } => vec![format!("kick {who}")],
            Self::CancelJob { handle } => vec![format!("cancel job {handle}")],
            Self::CreateFunction { function } => vec![format!("create function {function}")],
            Self::DropFunction { function } => vec![format!("drop function {function}")],
            Self::Maxqueue { function, limits } => {
                let mut words = vec!["maxqueue".to_owned(), function.clone()];
                words.extend(limits.iter().map(ToString::to_string));
                vec![words.join(" ")]
            }
            Self::Getpid => one("getpid"),
            Self::Verbose => one("verbose"),
            Self::Version => one("version"),
            Self::Shutdown { graceful: false } => one("shutdown"),
            Self::Shutdown { graceful: true } => one("shutdown graceful"),
            Self::Raw { lines } => lines.clone(),
        }
    }

    /// The expected kind of response.
    pub(super) const fn form(&self) -> Form {
        match self {
            Self::Status => Form::List(Listing::Status),
            Self::Prioritystatus => Form::List(Listing::PriorityStatus),
            Self::Workers => Form::List(Listing::Workers),
            Self::ShowJobs => Form::List(Listing::Jobs),
            Self::ShowUniqueJobs => Form::List(Listing::UniqueJobs),
            Self::ShowStore => Form::List(Listing::Store),
            Self::ShowFunctions(_) => Form::Table(FUNCTION_COLUMNS),
            Self::ShowWorkers(_) => Form::Table(WORKER_COLUMNS),
            Self::ListJobs(_) => Form::Page(JOB_COLUMNS),
            Self::ShowRules => Form::Table(&[]),
            Self::ShowServer | Self::ShowJob { .. } => Form::Facts(false),
            Self::ShowWorker { .. } => Form::Facts(true),
            Self::Getpid => Form::Value("pid"),
            Self::Verbose => Form::Value("verbose"),
            Self::Version => Form::Value("version"),
            Self::CancelJob { .. }
            | Self::CreateFunction { .. }
            | Self::DropFunction { .. }
            | Self::Maxqueue { .. }
            | Self::Shutdown { .. }
            | Self::Pause { .. }
            | Self::Resume { .. }
            | Self::LimitRunning { .. }
            | Self::CancelJobs { .. }
            | Self::MoveJob { .. }
            | Self::MoveJobs { .. }
            | Self::PriorityJob { .. }
            | Self::RunJob { .. }
            | Self::Disable(_)
            | Self::Drain(_)
            | Self::Enable(_)
            | Self::Kick { .. } => Form::Done,
            Self::Raw { .. } => Form::Unknown,
        }
    }

    /// The columns that the command line selects for the table; empty if it selects none.
    pub(super) fn columns(&self) -> &[String] {
        match self {
            Self::ShowFunctions(columns) | Self::ShowWorkers(columns) => &columns.names,
            Self::ListJobs(filter) => &filter.columns.names,
            _ => &[],
        }
    }

    /// The question to confirm an action that changes many things.
    pub(super) fn question(&self) -> Option<String> {
        match self {
            Self::CancelJobs { function, sure: Sure { yes: false } } => Some(format!("Cancel all jobs of {function}?")),
            Self::MoveJobs { from, to, sure: Sure { yes: false } } => Some(format!("Move all jobs of {from} to {to}?")),
            Self::Kick { who, sure: Sure { yes: false } } if !who.starts_with("connection:") => {
                Some(format!("Close all connections of {who}?"))
            }
            _ => None,
        }
    }

    /// The hint for an action that affected nothing yet and is kept for later.
    pub(super) fn kept_for_later(&self) -> Option<String> {
        let of_function = |function: &str, undo: &str| {
            format!(
                "function {function} does not exist yet; the setting is kept until it does, and shown by `gearmand \
                 admin show-functions` (settings_only); `gearmand admin {undo}` reverts it"
            )
        };
        match self {
            Self::Pause { function } => Some(of_function(function, &format!("resume {function}"))),
            Self::LimitRunning { function, most: 1.. } => {
                Some(of_function(function, &format!("limit-running {function} 0")))
            }
            Self::Maxqueue { function, limits } if limits.iter().any(|limit| *limit > 0) => {
                Some(of_function(function, &format!("maxqueue {function}")))
            }
            Self::Disable(whose) | Self::Drain(whose) => Some(format!(
                "no worker matches yet; the rule is kept for workers that connect later, and shown by `gearmand admin \
                 show-rules`; `gearmand admin {}` reverts it",
                whose.line("enable")
            )),
            Self::MoveJob { function: to, .. } | Self::MoveJobs { to, .. } => Some(format!(
                "function {to} had no jobs and no workers; jobs moved to it wait until a worker registers it; \
                 `gearmand admin move-jobs {to} FUNCTION` moves them to another one"
            )),
            _ => None,
        }
    }

    /// Whether the number 0 in the response means that it affected nothing yet.
    pub(super) const fn counts_for_later(&self) -> bool {
        !matches!(self, Self::MoveJob { .. } | Self::MoveJobs { .. })
    }

    /// Whether C++ gearmand, and this server before it had these control commands, do not know the action.
    pub(super) const fn is_new(&self) -> bool {
        !matches!(
            self,
            Self::Status
                | Self::Prioritystatus
                | Self::Workers
                | Self::ShowJobs
                | Self::ShowUniqueJobs
                | Self::CancelJob { .. }
                | Self::CreateFunction { .. }
                | Self::DropFunction { .. }
                | Self::Maxqueue { .. }
                | Self::Getpid
                | Self::Verbose
                | Self::Version
                | Self::Shutdown { .. }
                | Self::Raw { .. }
        )
    }
}

impl Whose {
    fn line(&self, verb: &str) -> String {
        let function = self.function.as_deref().map(|function| format!(" {function}")).unwrap_or_default();
        format!("{verb} {}{function}", self.who)
    }
}
