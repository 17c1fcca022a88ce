//! Settings of a managed worker: options, then environment, then defaults, validated once.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::command::JobCommand;
use super::super::worker::WorkArgs;
use super::super::{ToolError, host_name, values};
use crate::fleet::contract::{
    self, DEFAULT_FLEET, FLEET_HOST_VARIABLE, FLEET_NAME_VARIABLE, FUNCTIONS_MAX, VERSION_MAX, belongs_to_contract,
};

/// How much of a version file is read, in bytes. The version is its first line.
const VERSION_HEAD: u64 = 4096;

/// Default for the maximum number of workers of a supervisor.
const WORKERS_MAX: usize = 64;

/// The options that only a managed worker has.
#[derive(Debug, clap::Args)]
pub(in crate::client) struct ManagedArgs {
    /// Let a monitor control this worker: `gearmand fleet`, or any monitor that implements the contract
    ///
    /// It starts with no function; the monitor selects which of those with -f it serves. One job runs at a
    /// time, more with --workers.
    #[arg(long)]
    pub(in crate::client) managed: bool,
    /// This process is a worker that a supervisor has started
    #[arg(long, hide = true, requires = "managed")]
    pub(super) managed_child: bool,
    /// Fleet that the worker belongs to [default: the environment variable FLEET_NAME, or "default"]
    #[arg(long, value_name = "NAME", requires = "managed")]
    fleet_name: Option<String>,
    /// Name of this host in the fleet [default: the environment variable FLEET_HOST, or the system's name]
    #[arg(long, value_name = "NAME", requires = "managed")]
    host_name: Option<String>,
    /// Number of workers, each a process with one job at a time
    ///
    /// A worker that dies or reaches a limit is replaced; one that the monitor told to exit is not.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000), requires = "managed")]
    workers: u16,
    /// Maximum number of workers, including those that the monitor starts here [default: 64, or twice
    /// --workers if that is more]
    ///
    /// Any client of the server can request more workers; set this to what the host can run.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000), requires = "managed")]
    max_workers: Option<u16>,
    /// Version of the commands, a text that changes with each release [default: the version of this program]
    #[arg(long, value_name = "TEXT", requires = "managed", conflicts_with = "version_file")]
    worker_version: Option<String>,
    /// File whose first line is the version; read at startup and when the monitor requests `reload`
    #[arg(long, value_name = "PATH", requires = "managed")]
    version_file: Option<PathBuf>,
    /// Replace a worker after this many jobs, failed ones included
    #[arg(long, value_name = "N", requires = "managed")]
    max_jobs: Option<NonZeroU64>,
    /// Replace a worker at this age, up to a tenth earlier so that not all are replaced at once (90s, 5m, 2h,
    /// 1d; without a unit: seconds)
    #[arg(long, value_name = "TIME", value_parser = values::time, requires = "managed")]
    max_lifetime: Option<Duration>,
    /// Memory limit of a command (address space; K, M, G), and of a worker process, which is replaced above
    /// it
    ///
    /// Allocations of a command beyond the limit fail, which usually fails its job.
    #[arg(long, value_name = "BYTES", value_parser = values::memory, requires = "managed")]
    max_memory: Option<NonZeroU64>,
}

/// A function that a worker can run.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) command: Arc<JobCommand>,
}

/// Source of the version.
#[derive(Debug)]
pub(super) enum Version {
    /// A constant.
    Fixed(String),
    /// The first line of a file.
    File(PathBuf),
}

/// Settings shared by all workers of a supervisor.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) fleet: String,
    pub(super) host: String,
    /// At least one, with distinct names.
    pub(super) functions: Vec<Function>,
    pub(super) version: Version,
    pub(super) workers: u16,
    /// Maximum number of workers.
    pub(super) max_workers: usize,
    pub(super) max_jobs: Option<NonZeroU64>,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) max_memory: Option<NonZeroU64>,
    pub(super) connect_timeout: Duration,
    /// How long a server may be silent.
    pub(super) silence: Duration,
    pub(super) timeout: Option<Duration>,
    pub(super) verbose: bool,
}

impl Settings {
    /// Validates the options; `environment` looks up a variable.
    ///
    /// # Errors
    /// [`ToolError::Usage`] names the invalid one.
    pub(super) fn new(args: WorkArgs, environment: impl Fn(&str) -> Option<OsString>) -> Result<Self, ToolError> {
        let managed = args.managed;
        let mut functions: Vec<Function> = Vec::new();
        for argument in args.functions {
            let (name, script) = name_and_script(&argument).map_err(ToolError::Usage)?;
            if functions.iter().any(|function| function.name == name) {
                return Err(ToolError::Usage(format!("--function {name}: given twice, leave one out")));
            }
            let command = JobCommand {
                program: OsString::from("sh"),
                arguments: vec![OsString::from("-c"), limited(script, managed.max_memory)],
                timeout: args.timeout,
                stream: args.stream,
                warnings: args.warnings,
                exception: args.exception,
                result_max: args.max_result,
            };
            command.check()?;
            functions.push(Function { name, command: Arc::new(command) });
        }
        if functions.len() > FUNCTIONS_MAX {
            return Err(ToolError::Usage(format!("more than {FUNCTIONS_MAX} functions: split them among workers")));
        }
        let named = |given: Option<String>, option: &str, variable: &str, default: fn() -> String| {
            let (name, source) = match (given, environment(variable).filter(|name| !name.is_empty())) {
                (Some(name), _) => (name, option),
                (None, Some(name)) => (name.to_string_lossy().into_owned(), variable),
                (None, None) => (default(), option),
            };
            match contract::check_name(&name) {
                Ok(()) => Ok(name),
                Err(why) => Err(ToolError::Usage(format!("{source}: \"{name}\" {why}"))),
            }
        };
        let usual = usize::from(managed.workers).saturating_mul(2).max(WORKERS_MAX);
        let max_workers = managed.max_workers.map_or(usual, usize::from);
        if max_workers < usize::from(managed.workers) {
            let workers = managed.workers;
            return Err(ToolError::Usage(format!("--max-workers {max_workers}: below --workers, which is {workers}")));
        }
        Ok(Self {
            fleet: named(managed.fleet_name, "--fleet-name", FLEET_NAME_VARIABLE, || DEFAULT_FLEET.to_owned())?,
            host: named(managed.host_name, "--host-name", FLEET_HOST_VARIABLE, system_host)?,
            functions,
            version: match (managed.worker_version, managed.version_file) {
                (Some(version), _) => Version::Fixed(version),
                (None, Some(path)) => Version::File(path),
                (None, None) => Version::Fixed(env!("CARGO_PKG_VERSION").to_owned()),
            },
            workers: managed.workers,
            max_workers,
            max_jobs: managed.max_jobs,
            max_lifetime: managed.max_lifetime,
            max_memory: managed.max_memory,
            connect_timeout: args.server.connect_timeout,
            silence: args.server_timeout,
            timeout: args.timeout,
            verbose: args.verbose,
        })
    }
}

impl Version {
    /// Reads the current version.
    ///
    /// # Errors
    /// Why the file contains none, or that it is too long.
    pub(super) fn read(&self) -> Result<String, String> {
        match self {
            Self::Fixed(version) => match version.len() {
                0..=VERSION_MAX => Ok(version.clone()),
                length => Err(format!("--worker-version has {length} bytes: a version has at most {VERSION_MAX}")),
            },
            Self::File(path) => {
                let line = first_line(path).map_err(|error| format!("no version in {}: {error}", path.display()))?;
                match line.trim() {
                    "" => Err(format!("no version in {}: its first line is empty", path.display())),
                    version if version.len() > VERSION_MAX => Err(format!(
                        "no version in {}: its first line has more than {VERSION_MAX} bytes",
                        path.display()
                    )),
                    version => Ok(version.to_owned()),
                }
            }
        }
    }
}

fn first_line(path: &PathBuf) -> io::Result<String> {
    // Reading a pipe would block.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut start = Vec::new();
    File::open(path)?.take(VERSION_HEAD).read_to_end(&mut start)?;
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

/// Parses NAME=COMMAND.
fn name_and_script(argument: &OsString) -> Result<(String, &str), String> {
    let shown = argument.display();
    let Some(text) = argument.to_str() else {
        return Err(format!("--function {shown}: names and commands of managed workers must be UTF-8"));
    };
    let Some((name, script)) = text.split_once('=') else {
        return Err(format!("--function {shown}: must be NAME=COMMAND with --managed"));
    };
    if name.is_empty() {
        return Err(format!("--function {shown}: the name before = is missing, and managed workers need one"));
    }
    values::to_function_name(OsString::from(name)).map_err(|why| format!("--function {shown}: {why}"))?;
    if belongs_to_contract(name) {
        return Err(format!("--function {shown}: {name} is reserved for managing workers, use another name"));
    }
    if script.trim().is_empty() {
        return Err(format!("--function {shown}: a command is missing after {name}="));
    }
    Ok((name.to_owned(), script))
}

/// The script that runs a command with the memory limit; `ulimit` counts in KiB.
fn limited(script: &str, max_memory: Option<NonZeroU64>) -> OsString {
    OsString::from(match max_memory {
        None => script.to_owned(),
        Some(bytes) => format!("ulimit -v {} || exit 126\n{script}", bytes.get().div_ceil(1024)),
    })
}

/// The system's host name, with characters that are invalid in a fleet replaced.
fn system_host() -> String {
    let mut name = host_name().replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.', "-");
    name.truncate(contract::NAME_MAX);
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Cli {
        #[command(flatten)]
        work: WorkArgs,
    }

    /// The settings of `gearmand work --managed` with these arguments.
    pub(in crate::client::managed) fn settings(
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Settings, String> {
        let words = ["work", "--managed"].iter().chain(arguments);
        let args = Cli::try_parse_from(words).map_err(|error| error.to_string())?.work;
        let look_up = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Settings::new(args, look_up).map_err(|error| error.to_string())
    }

    #[test]
    fn a_function_has_a_name_and_a_command_with_anything_in_it() {
        let settings = settings(&["-f", "mail=a=1 exec sendmail -t", "-f", "x=cat"], &[]).unwrap();
        let names: Vec<&str> = settings.functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(names, ["mail", "x"]);
        assert_eq!(settings.functions[0].command.arguments[1], "a=1 exec sendmail -t");
        let bad = |argument: &str| name_and_script(&OsString::from(argument)).unwrap_err();
        assert!(bad("mail").contains("NAME=COMMAND"));
        assert!(bad("=cat").contains("the name before = is missing"));
        assert!(bad("mail= ").contains("a command is missing"));
        assert!(bad("setId=cat").contains("is reserved for managing workers"));
        assert!(bad("manage_x=cat").contains("is reserved for managing workers"));
        assert!(bad("fleet_x=cat").contains("is reserved for managing workers"));
        assert!(bad(&format!("{}=cat", "a".repeat(513))).contains("longer than"));
        assert!(name_and_script(&OsString::from_vec(b"\xff=cat".to_vec())).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn options_go_before_the_environment() {
        let environment = [("FLEET_NAME", "web"), ("FLEET_HOST", "web1")];
        let of = |arguments: &[&str], environment: &[(&str, &str)]| {
            settings(&[&["-f", "f=cat"], arguments].concat(), environment).map(|said| (said.fleet, said.host))
        };
        let pair = |fleet: &str, host: &str| Ok((fleet.to_owned(), host.to_owned()));
        assert_eq!(of(&["--fleet-name", "a", "--host-name", "b"], &environment), pair("a", "b"));
        assert_eq!(of(&[], &environment), pair("web", "web1"));
        assert_eq!(of(&[], &[]).unwrap().0, "default");
        assert!(of(&["--fleet-name", "a b"], &[]).unwrap_err().starts_with("--fleet-name: \"a b\" must have"));
        assert!(of(&[], &[("FLEET_HOST", "a/b")]).unwrap_err().starts_with("FLEET_HOST: \"a/b\" must have"));
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for arguments in [
            &["-f", "f=cat", "-f", "f=rev"][..],
            &["-f", "f=cat", "-c", "2"],
            &["-f", "f=cat", "--count", "2"],
            &["-f", "f=cat", "--id", "x"],
            &["-f", "f=cat", "--", "cat"],
            &["-f", "f=cat", "--worker-version", "1", "--version-file", "v"],
            &["-f", "f=cat", "--workers", "0"],
        ] {
            assert!(settings(arguments, &[]).is_err(), "{arguments:?}");
        }
        for option in ["--max-jobs=2", "--workers=2", "--fleet-name=a", "--max-memory=2", "--managed-child"] {
            assert!(Cli::try_parse_from(["work", "-f", "f", option, "--", "cat"]).is_err(), "{option}");
            assert!(Cli::try_parse_from(["work", "-f", "f", option]).is_err(), "{option}");
        }
        assert!(Cli::try_parse_from(["work", "-f", "f", "--", "cat"]).is_ok());
        assert!(Cli::try_parse_from(["work", "-f", "f"]).is_err());
    }

    #[test]
    fn memory_is_limited_by_the_shell() {
        assert_eq!(limited("cat", None), "cat");
        assert_eq!(limited("cat", NonZeroU64::new(1 << 20)), "ulimit -v 1024 || exit 126\ncat");
    }

    #[test]
    fn a_version_is_the_first_line_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("version");
        let version = Version::File(path.clone());
        assert!(version.read().unwrap_err().contains("No such file"));
        std::fs::write(&path, "2026-11-25 \nmore").unwrap();
        assert_eq!(version.read(), Ok("2026-11-25".to_owned()));
        std::fs::write(&path, "\nmore").unwrap();
        assert!(version.read().unwrap_err().ends_with("its first line is empty"));
        let longest = "v".repeat(VERSION_MAX);
        std::fs::write(&path, format!("{longest}\nmore")).unwrap();
        assert_eq!(version.read(), Ok(longest.clone()));
        std::fs::write(&path, format!("{longest}v")).unwrap();
        assert!(version.read().unwrap_err().ends_with("its first line has more than 256 bytes"));
        assert_eq!(Version::Fixed(longest.clone()).read(), Ok(longest.clone()));
        assert!(
            Version::Fixed(format!("{longest}v")).read().unwrap_err().starts_with("--worker-version has 257 bytes")
        );
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(Version::File(pipe).read().unwrap_err().ends_with("not a regular file"));
    }
}
