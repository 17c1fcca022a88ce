//! `gearmand fleet`: supervises managed workers ([`crate::fleet`]) until there are as many of each kind as
//! desired.
//!
//! * `fan_out` sends requests to many workers at once; `server` is one server; `membership` has the workers
//!   of the fleet, and reports `news`.
//! * `monitor` observes, reconciles and acts; `file` has the desired state; `control_endpoint` answers the
//!   requests to the monitor; `run_loop` has the main loop, and ensures that there is one monitor.
//! * `order` sends requests to a running monitor, and `show` prints.

mod control_endpoint;
mod fan_out;
mod file;
mod membership;
mod monitor;
mod news;
mod order;
mod run_loop;
mod server;
mod show;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::file::DesiredFile;
use self::membership::Membership;
use self::monitor::Monitor;
use self::order::Order;
use self::run_loop::{RunLoop, Until};
use super::address::{ServerAddress, ServerArgs};
use super::{EXIT_FAILED, ToolError, printable, values};
use crate::fleet::contract::{DEFAULT_FLEET, FLEET_NAME_VARIABLE, check_name};
use crate::fleet::report::{MonitorCommand, Report};

/// Maximum number of other fleets that are named.
const FLEETS_SHOWN: usize = 20;

/// What `gearmand fleet` is told.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The desired state is a TOML file; fleet.toml.example has all of it. If a monitor is running (`run`), \
    the other commands go to it; `status`, `plan`, `apply` and `stop` also work without one.\n\nExit status: 0 \
    success, 1 something failed or timed out, 2 usage, 3 no server reachable."
)]
pub struct FleetArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Name of the fleet [default: from the desired-state file, from FLEET_NAME, or `default`]
    #[arg(id = "tool_fleet_name", long = "fleet-name", global = true, value_name = "NAME", value_parser = fleet_name)]
    fleet_name: Option<String>,
    /// Print JSON
    #[arg(id = "tool_fleet_json", long = "json", global = true)]
    json: bool,
    /// Time limit for `apply`, `roll` and `stop` to complete: 90s, 5m, 2h; without a unit: seconds
    #[arg(id = "tool_fleet_timeout", long = "timeout", global = true, value_name = "TIME", default_value = "300s", value_parser = values::time)]
    timeout: Duration,
    #[command(subcommand)]
    action: Action,
}

/// What is to be done.
#[derive(Clone, Debug, clap::Subcommand)]
enum Action {
    /// Run the monitor until terminated by a signal; a second monitor of the fleet is on standby
    Run {
        /// Desired-state file
        file: PathBuf,
    },
    /// Show the fleet
    Status,
    /// Show the planned changes without making them
    Plan {
        /// Desired-state file
        file: PathBuf,
    },
    /// Apply once and exit; a running monitor adopts this file
    Apply {
        /// Desired-state file
        file: PathBuf,
    },
    /// Replace all workers, host by host, regardless of version
    Roll {
        /// Only the workers of this host
        #[arg(long = "on", value_name = "HOST")]
        host: Option<String>,
        /// Desired-state file, needed if no monitor is running
        file: Option<PathBuf>,
    },
    /// Stop a host: its workers exit after their current jobs, and no others are used there
    Stop {
        /// Name of the host
        host: String,
    },
    /// Enable a stopped host again
    Start {
        /// Name of the host
        host: String,
    },
}

/// How a monitor ended.
enum Outcome {
    /// By a signal.
    Ended,
    /// The desired state was reached.
    Settled(Box<Report>),
    /// The time limit was reached.
    TimedOut(Box<Report>),
}

/// The fleet, its servers, and the output format.
struct Call {
    servers: Vec<ServerAddress>,
    connect_timeout: Duration,
    timeout: Duration,
    fleet: Option<String>,
    is_json: bool,
}

fn fleet_name(name: &str) -> Result<String, String> {
    check_name(name).map(|()| name.to_owned()).map_err(|error| error.to_string())
}

/// Runs the command.
pub(super) async fn run(args: FleetArgs) -> Result<u8, ToolError> {
    let call = Call {
        servers: args.server.resolve()?,
        connect_timeout: args.server.connect_timeout,
        timeout: args.timeout,
        fleet: args.fleet_name,
        is_json: args.json,
    };
    match args.action {
        Action::Run { file } => {
            super::tell_with_times();
            let run_loop = RunLoop::new(call.monitor_of(&file)?, call.connect_timeout);
            run_loop.run(Until::Ever).await.map(|_| 0)
        }
        Action::Status => call.status().await,
        Action::Plan { file } => call.plan(&file).await,
        Action::Apply { file } => call.apply(&file).await,
        Action::Roll { host, file } => call.roll(host, file.as_deref()).await,
        Action::Stop { host } => call.stop(host).await,
        Action::Start { host } => call.start(host).await,
    }
}

impl Call {
    /// A monitor with the desired state of a file.
    fn monitor_of(&self, path: &Path) -> Result<Monitor, ToolError> {
        let file = DesiredFile::open(path).map_err(ToolError::Usage)?;
        let of_file = &file.desired().fleet;
        if let Some(name) = self.fleet.as_ref().filter(|name| *name != of_file) {
            let path = path.display();
            return Err(ToolError::Usage(format!("{path} is for the fleet \"{of_file}\", not for \"{name}\"")));
        }
        Ok(self.monitor(file))
    }

    /// An observer: a monitor that wants nothing.
    fn observer(&self) -> Result<Monitor, ToolError> {
        let of_environment = || std::env::var(FLEET_NAME_VARIABLE).ok().filter(|name| !name.is_empty());
        let name = self.fleet.clone().or_else(of_environment).unwrap_or_else(|| DEFAULT_FLEET.to_owned());
        check_name(&name).map_err(|error| ToolError::Usage(format!("{FLEET_NAME_VARIABLE} is \"{name}\": {error}")))?;
        Ok(self.monitor(DesiredFile::none(&name)))
    }

    fn monitor(&self, file: DesiredFile) -> Monitor {
        let membership = Membership::new(&file.desired().fleet, self.servers.clone(), self.connect_timeout);
        Monitor::new(membership, file)
    }

    async fn status(&self) -> Result<u8, ToolError> {
        let mut monitor = self.observer()?;
        let report = if let Some(report) = order::running(&mut monitor).await? {
            report
        } else {
            let limit = monitor.desired().answer_timeout;
            monitor.membership.refresh(false, limit).await.map_err(ToolError::Unreachable)?;
            // An observer has no settings of its own to report.
            Report { host: String::new(), pid: 0, started: 0.0, settled: false, ..monitor.report() }
        };
        show::report(&report, self.is_json)?;
        if report.pid > 0 || !report.workers.is_empty() || report.unnamed > 0 {
            return Ok(0);
        }
        let mut others = monitor.membership.monitored_fleets();
        others.truncate(FLEETS_SHOWN);
        let others = if others.is_empty() { "none with a monitor".to_owned() } else { others.join(" ") };
        super::tell("fleet", format_args!("unknown fleet; check --fleet-name. Others here: {}", printable(&others)));
        Ok(EXIT_FAILED)
    }

    async fn plan(&self, path: &Path) -> Result<u8, ToolError> {
        let mut monitor = self.monitor_of(path)?;
        let limit = monitor.desired().answer_timeout;
        monitor.membership.refresh(false, limit).await.map_err(ToolError::Unreachable)?;
        monitor.reconcile();
        show::plan(&monitor, self.is_json)?;
        Ok(0)
    }

    async fn apply(&self, path: &Path) -> Result<u8, ToolError> {
        let mut monitor = self.monitor_of(path)?;
        if let Some(before) = order::running(&mut monitor).await? {
            let cannot = |error| ToolError::Usage(format!("cannot read {}: {error}", path.display()));
            let desired = std::fs::read_to_string(path).map_err(cannot)?;
            return Order::new(monitor, self.timeout, self.is_json)
                .give(MonitorCommand::Apply { desired }, before)
                .await;
        }
        self.until_settled(monitor).await
    }

    async fn roll(&self, host: Option<String>, path: Option<&Path>) -> Result<u8, ToolError> {
        let mut monitor = match path {
            Some(path) => self.monitor_of(path)?,
            None => self.observer()?,
        };
        if let Some(before) = order::running(&mut monitor).await? {
            return Order::new(monitor, self.timeout, self.is_json).give(MonitorCommand::Roll { host }, before).await;
        }
        if path.is_none() {
            return Err(ToolError::Usage("no monitor is running; pass the desired-state file".to_owned()));
        }
        let limit = monitor.desired().answer_timeout;
        monitor.membership.refresh(true, limit).await.map_err(ToolError::Unreachable)?;
        if let Err(error) = monitor.take(MonitorCommand::Roll { host }) {
            super::tell("fleet", format_args!("{error}"));
            return Ok(EXIT_FAILED);
        }
        self.until_settled(monitor).await
    }

    async fn stop(&self, host: String) -> Result<u8, ToolError> {
        let mut monitor = self.observer()?;
        let running = order::running(&mut monitor).await?;
        let order = Order::new(monitor, self.timeout, self.is_json);
        match running {
            Some(before) => order.give(MonitorCommand::Stop { host }, before).await,
            None => order.stop(&host).await,
        }
    }

    async fn start(&self, host: String) -> Result<u8, ToolError> {
        let mut monitor = self.observer()?;
        let Some(before) = order::running(&mut monitor).await? else {
            let why = "no monitor is running, so no host is stopped; to use a host again, start a worker there";
            return Err(ToolError::Usage(why.to_owned()));
        };
        Order::new(monitor, self.timeout, self.is_json).give(MonitorCommand::Start { host }, before).await
    }

    /// Runs the monitor until the desired state is reached.
    async fn until_settled(&self, monitor: Monitor) -> Result<u8, ToolError> {
        let run_loop = RunLoop::new(monitor, self.connect_timeout);
        match run_loop.run(Until::Settled(Instant::now() + self.timeout)).await? {
            Outcome::Ended => Ok(EXIT_FAILED),
            Outcome::Settled(report) => show::end(&report, true, report.unmet.is_empty(), self.is_json),
            Outcome::TimedOut(report) => show::end(&report, false, report.unmet.is_empty(), self.is_json),
        }
    }
}
