//! The `gearmand` program: the server, and the tools in the same binary.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use gearmand::client::{self, Tool};
use gearmand::config::{self, Config, LogFormat, LogTarget, QueueChoice, Resolved, ServerArgs, Sources, resolve};
use gearmand::daemon::http::HttpReady;
use gearmand::daemon::{self, Prepared};
use gearmand::net;
use gearmand::process::detach::{Readiness, detach};
use gearmand::process::listen::Listeners;
use gearmand::process::logging::{self, Destination, Format};
use gearmand::process::memory;
use gearmand::process::notify::Notifier;
use gearmand::process::pid_file::PidFile;
use gearmand::process::privileges::{Account, drop_to, raise_file_descriptor_limit};
use gearmand::process::signals;
use gearmand::process::state_directory::{self, StateDirectoryError};
use gearmand::store::location::Location;
use gearmand::store_tools;

/// A Gearman job server
///
/// Without a subcommand it is the server, with the options of gearmand and more.
#[derive(Parser)]
#[command(name = "gearmand", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
#[command(
    after_long_help = "Signals: TERM and INT stop at once, USR1 lets the jobs end first (--drain-timeout), HUP opens \
    the log anew and reads the configuration again.\n\nExit status of the server: 0 it was stopped, or with --daemon it \
    listens, 1 it could not start or the command line or configuration is wrong."
)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Tool(Box<Tool>),
    #[command(flatten)]
    StoreTool(Box<store_tools::Tool>),
    /// Print a manual page in the format of man(1), or write all of them
    Man(Man),
    /// Print the completions for a shell
    Completions(Completions),
}

#[derive(Args)]
struct Man {
    /// Tool, and its action, whose page is printed, such as `admin` or `fleet status` [default: the page of
    /// the server]
    #[arg(value_name = "TOOL")]
    tool: Vec<String>,
    /// Write the pages of the server and of all tools into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "tool")]
    directory: Option<PathBuf>,
}

#[derive(Args)]
struct Completions {
    /// For which shell
    shell: Shell,
}

/// The exit status for an invalid command line: gearmand's for the server, 2 for the tools.
fn usage_status() -> ExitCode {
    let is_tool = std::env::args_os().nth(1).is_some_and(|first| {
        let first = first.to_string_lossy();
        Tool::has_subcommand(&first) || store_tools::Tool::has_subcommand(&first)
    });
    if is_tool { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// A complete error message for the operator.
type Failure = String;

fn main() -> ExitCode {
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(mut error) => {
            config::explain(&mut error, std::env::args_os().skip(1));
            // If printing fails, there is nowhere left to report it.
            let _ = error.print();
            return if error.use_stderr() { usage_status() } else { ExitCode::SUCCESS };
        }
    };
    let command = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli.command,
        Err(mut error) => {
            config::explain(&mut error, std::env::args_os().skip(1));
            error.exit()
        }
    };
    let outcome = match command {
        Some(Command::Tool(tool)) => return client::run(*tool),
        Some(Command::StoreTool(tool)) => return store_tools::run(*tool),
        Some(Command::Man(man)) => print_manual(&man).map(|()| ExitCode::SUCCESS),
        Some(Command::Completions(Completions { shell })) => print_completions(shell).map(|()| ExitCode::SUCCESS),
        None => serve(Sources::of_process(matches)),
    };
    outcome.unwrap_or_else(|failure| {
        complain(&failure);
        ExitCode::FAILURE
    })
}

/// Writes to standard error, before there is a log; each line begins with the name of the program.
fn complain(text: &str) {
    for line in text.lines() {
        // If printing fails, there is nowhere left to report it.
        let _ = writeln!(io::stderr(), "gearmand: {line}");
    }
}

fn serve(sources: Sources) -> Result<ExitCode, Failure> {
    let resolved = resolve(&sources).map_err(|errors| errors.to_string())?;
    for warning in &resolved.warnings {
        complain(&format!("warning: {warning}"));
    }
    if resolved.config.check {
        print(resolved.report().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    signals::hold_reload_and_drain().map_err(|error| format!("cannot hold back signals: {error}"))?;
    let inherited = Listeners::inherited().map_err(|error| error.to_string())?;
    let readiness = if resolved.config.process.daemon {
        Some(detach().map_err(|error| format!("cannot run in the background: {error}"))?)
    } else {
        None
    };
    match prepare(&resolved, inherited) {
        Ok(ready) => run(sources, resolved, ready, readiness),
        Err(failure) => {
            log_refusal(&resolved.config, &failure);
            let Some(readiness) = readiness else { return Err(failure) };
            readiness.failed(&failure);
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Logs the reason for a failed start to the log file, as the user that the server would have switched to. An
/// operator who looks there may not see standard error, which the service manager receives.
fn log_refusal(config: &Config, failure: &str) {
    if !matches!(config.log.log_file, LogTarget::File(_)) {
        return;
    }
    if let Some(user) = config.process.user.as_deref() {
        // A log file owned by root would be unusable for the next start.
        let became = Account::find(user).ok().is_some_and(|account| drop_to(&account).is_ok());
        if !became {
            return;
        }
    }
    let settings = logging::Settings { tells_terminal: false, ..log_settings(config) };
    // Without a log there is standard error, which gets the message in any case.
    if let Ok(log) = logging::init(&settings) {
        tracing::error!("cannot start: {failure}");
        log.finish();
    }
}

/// Resources that were created with root privileges.
struct Ready {
    listeners: Listeners,
    http_plugin: Listeners,
    http: HttpReady,
    pid_file: Option<PidFile>,
    /// The store of background jobs, unless they are kept in memory.
    location: Option<Location>,
    /// Why they are kept in memory although that was not configured.
    no_store: Option<String>,
}

/// Does everything that may need root privileges, and drops them.
fn prepare(resolved: &Resolved, inherited: Option<Listeners>) -> Result<Ready, Failure> {
    let config = &resolved.config;
    let say = |error: &dyn std::error::Error| error.to_string();
    let process = &config.process;
    let account = process.user.as_deref().map(Account::find).transpose().map_err(|error| say(&error))?;
    let owner = account.as_ref().map(|account| (account.uid(), account.gid()));
    let files = process.open_files();
    raise_file_descriptor_limit(files).map_err(|error| say(&error))?;
    let backlog = i32::try_from(config.network.backlog).unwrap_or(i32::MAX);
    let listeners = if let Some(listeners) = inherited {
        listeners
    } else {
        let (tcp, unix) = daemon::targets(config, owner);
        Listeners::bind(&tcp, &unix, backlog).map_err(|error| say(&error))?
    };
    let http_plugin =
        Listeners::bind(&daemon::http_plugin_targets(config), &[], backlog).map_err(|error| say(&error))?;
    let http = HttpReady::prepare(config, resolved.is_set("http-listen"))?;
    signals::hold_all().map_err(|error| format!("cannot hold back signals: {error}"))?;
    let pid_file = process.pid_file.as_deref().map(PidFile::create).transpose().map_err(|error| say(&error))?;
    let (location, no_store) = match state_file(config, &listeners, owner) {
        Ok(file) => (store_tools::location(&config.queue, file.unwrap_or_default()), None),
        // The durable queue was not configured explicitly, and no queue of an earlier start is ignored.
        Err(error) if error.is_absence() && config.queue == QueueChoice::Default => {
            let why = format!("background jobs are kept in memory and lost when the server stops: {error}");
            complain(&format!("warning: {why}"));
            (None, Some(why))
        }
        Err(error) => {
            return Err(format!(
                "background jobs cannot be kept: {error}, or keep jobs in memory with --queue-type builtin"
            ));
        }
    };
    if let Some(account) = &account {
        if let (Some(pid_file), Some((uid, gid))) = (&pid_file, owner) {
            pid_file.give_to(uid, gid).map_err(|error| format!("cannot give the pid file away: {error}"))?;
        }
        drop_to(account).map_err(|error| say(&error))?;
    }
    Ok(Ready { listeners, http_plugin, http, pid_file, location, no_store })
}

/// The file in the state directory, for a queue without a path.
fn state_file(
    config: &Config,
    listeners: &Listeners,
    owner: Option<(u32, u32)>,
) -> Result<Option<PathBuf>, StateDirectoryError> {
    if !matches!(config.queue, QueueChoice::Default | QueueChoice::Sqlite { path: None, .. }) {
        return Ok(None);
    }
    let is_root = nix::unistd::geteuid().is_root();
    let environment = state_directory::Environment::of_process();
    let directory = state_directory::prepare(&environment, is_root, owner)?;
    let port = listeners.tcp.iter().find_map(|listener| listener.local_addr().ok()).map_or(0, |address| address.port());
    Ok(Some(state_directory::queue_file(&directory, port)))
}

fn run(sources: Sources, resolved: Resolved, ready: Ready, readiness: Option<Readiness>) -> Result<ExitCode, Failure> {
    let config = &resolved.config;
    let Ready { listeners, http_plugin, http, pid_file, location, no_store } = ready;
    let log = logging::init(&log_settings(config)).map_err(|error| error.to_string())?;
    log.log_panics();
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(why) = no_store {
        tracing::error!("{why}");
    }
    let notifier = Notifier::from_environment().map_err(|error| format!("NOTIFY_SOCKET is no socket: {error}"))?;
    memory::give_back_early();
    let runtime = net::runtime::start(config.process.threads);
    let runtime = runtime.map_err(|error| format!("cannot start the threads: {error}"))?;
    let last_words = log.clone();
    let sources = Arc::new(sources);
    let prepared = Prepared { sources, resolved, listeners, http_plugin, http, location, log, notifier, readiness };
    let status = runtime.block_on(daemon::run(prepared));
    drop(pid_file);
    last_words.finish();
    Ok(status)
}

fn log_settings(config: &Config) -> logging::Settings {
    let log = &config.log;
    logging::Settings {
        level: log.verbose,
        destination: match &log.log_file {
            LogTarget::File(path) => Destination::File(path.clone()),
            LogTarget::StandardError => Destination::Stderr,
            LogTarget::Nowhere => Destination::None,
        },
        format: match log.log_format {
            LogFormat::Human => Format::Human,
            LogFormat::Json => Format::Json,
        },
        syslog: log.syslog,
        journald: log.journald,
        tells_terminal: !config.process.daemon,
    }
}

fn print_manual(man: &Man) -> Result<(), Failure> {
    let pages = config::pages(Cli::command()).map_err(|error| format!("cannot write the manual pages: {error}"))?;
    if let Some(directory) = &man.directory {
        let made = std::fs::create_dir_all(directory);
        made.map_err(|error| format!("cannot make the directory {}: {error}", directory.display()))?;
        for page in pages {
            let path = directory.join(page.file_name());
            std::fs::write(&path, page.text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        return Ok(());
    }
    let name = std::iter::once("gearmand").chain(man.tool.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
    match pages.iter().find(|page| page.name == name) {
        Some(page) => print(&page.text),
        None => Err(format!("there is no page {name}: `gearmand man --directory DIR` writes all that there are")),
    }
}

fn print_completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut config::completed(Cli::command()), "gearmand", &mut script);
    print(&script)
}

/// Prints; a reader that closes the pipe early is not an error.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write: {error}")),
        _ => Ok(()),
    }
}
