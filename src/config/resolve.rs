//! Resolution of the sources: precedence, validation, and the changes of a reload.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{ArgMatches, FromArgMatches as _};

use super::address::ListenAddress;
use super::args::{LEAST_FILES, NOT_IN_A_FILE, RELOADABLE, ServerArgs};
use super::error::{ConfigError, ConfigErrors, Origin};
use super::queue::{FunctionDurability, QueueChoice};
use super::settings::{Diagnostics, Entry, Settings, long_option};
use super::unsupported::{self, Support};
use super::value::{LogTarget, display_bytes};
use super::{Config, environment, file, queue};
use crate::protocol::names::HANDLE_PREFIX_MAX;

/// Default files in this order, without `--config-file`; the first that exists is read.
const DEFAULT_FILES: [&str; 2] = ["/etc/gearmand/gearmand.toml", "/etc/gearmand.conf"];

/// The sources of settings.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The parsed command line: of [`command`](super::command) or of a command into which `ServerArgs` is
    /// flattened.
    pub matches: ArgMatches,
    /// The environment variables.
    pub environment: Vec<(OsString, OsString)>,
    /// The default configuration files; the first that exists is read.
    pub default_files: Vec<PathBuf>,
}

impl Sources {
    /// This command line with the environment of the process and the default files.
    pub fn of_process(matches: ArgMatches) -> Self {
        let default_files = DEFAULT_FILES.iter().map(PathBuf::from).collect();
        Self { matches, environment: std::env::vars_os().collect(), default_files }
    }

    /// This command line only.
    pub fn command_line_only(matches: ArgMatches) -> Self {
        Self { matches, environment: Vec::new(), default_files: Vec::new() }
    }
}

/// The values of a setting from one source; empty for a setting that is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Choice {
    values: Vec<OsString>,
    origin: Origin,
}

/// A configuration, and the origins of its settings.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The settings.
    pub config: Config,
    /// Warnings for the operator, one sentence each; they do not keep the server from starting.
    pub warnings: Vec<String>,
    choices: BTreeMap<String, Choice>,
}

/// A setting for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedSetting {
    /// The long name.
    pub name: String,
    /// The values: one, several for a list, none if the setting is not set. Passwords are replaced by `***`.
    pub values: Vec<String>,
    /// Their origin.
    pub origin: Origin,
}

/// The result of comparing a running configuration with a new one.
#[derive(Clone, Debug)]
pub struct Reload {
    /// The running configuration, updated with the new settings that can be applied.
    pub resolved: Resolved,
    /// Names of the settings that changed and are applied.
    pub changed: Vec<String>,
    /// Names of the settings that changed but keep their value until a restart.
    pub needs_restart: Vec<String>,
}

/// Reads and combines all sources.
///
/// # Errors
/// All errors, each with its location. The file and the environment are read completely first.
pub fn resolve(sources: &Sources) -> Result<Resolved, ConfigErrors> {
    let settings = Settings::new();
    let mut diagnostics = Diagnostics::default();
    let command_line = settings.given_in(&sources.matches);
    let environment = environment::read(&sources.environment, &settings, &mut diagnostics);
    let mut entries = match config_file(&command_line, &environment, &sources.default_files, &mut diagnostics) {
        Some(path) => file::read(&path, &settings, &mut diagnostics),
        None => Vec::new(),
    };
    let mut choices = defaults(&settings);
    for source in [std::mem::take(&mut entries), environment, command_line] {
        choices.extend(choose(source));
    }
    validate(&settings, &choices, &mut diagnostics);
    if !diagnostics.errors.is_empty() {
        return Err(ConfigErrors(diagnostics.errors));
    }
    let config = build(&settings, &choices)?;
    let is_set = |name: &str| choices.get(name).is_some_and(|choice| choice.origin != Origin::Default);
    notice_oddities(&config, is_set, &mut diagnostics);
    Ok(Resolved { config, warnings: diagnostics.warnings, choices })
}

/// The configuration file to read: the named one, or the first default file that exists.
fn config_file(
    command_line: &[Entry],
    environment: &[Entry],
    default_files: &[PathBuf],
    diagnostics: &mut Diagnostics,
) -> Option<PathBuf> {
    let named = command_line.iter().chain(environment).find(|entry| entry.name == "config-file");
    if let Some(named) = named {
        return Some(PathBuf::from(&named.value));
    }
    // If the check fails, for example in a directory that cannot be searched, reading the file reports why.
    let mut existing = default_files.iter().filter(|path| path.try_exists().unwrap_or(true));
    let first = existing.next()?;
    for other in existing {
        let (first, other) = (first.display(), other.display());
        diagnostics.warnings.push(format!("{other} is not read, since {first} exists too; keep one of the two"));
    }
    Some(first.clone())
}

/// The settings without any source.
fn defaults(settings: &Settings) -> BTreeMap<String, Choice> {
    let mut choices: BTreeMap<_, _> = settings
        .all()
        .map(|setting| (setting.name.to_owned(), Choice { values: setting.default(), origin: Origin::Default }))
        .collect();
    let computed = [("listen", "*".to_owned()), ("job-handle-prefix", host_prefix())];
    for (name, value) in computed {
        choices.insert(name.to_owned(), Choice { values: vec![value.into()], origin: Origin::Default });
    }
    choices
}

/// `H:` and the name of this host, truncated so that handles do not exceed the length that clients keep.
fn host_prefix() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    let usable = name.chars().filter(|letter| !letter.is_whitespace() && !letter.is_control());
    let mut prefix = String::from("H:");
    for letter in usable {
        if prefix.len() + letter.len_utf8() > HANDLE_PREFIX_MAX {
            break;
        }
        prefix.push(letter);
    }
    prefix
}

/// Groups the values of one source by setting.
fn choose(entries: Vec<Entry>) -> BTreeMap<String, Choice> {
    let mut choices: BTreeMap<String, Choice> = BTreeMap::new();
    for Entry { name, value, origin } in entries {
        let choice = choices.entry(name).or_insert_with(|| Choice { values: Vec::new(), origin });
        choice.values.push(value);
    }
    choices
}

/// Validates the chosen values against the features of this build, and rejects missing ones.
fn validate(settings: &Settings, choices: &BTreeMap<String, Choice>, diagnostics: &mut Diagnostics) {
    for setting in settings.all() {
        let Some(Choice { values, origin }) = choices.get(setting.name) else {
            continue;
        };
        let Some(value) = values.first().map(|value| value.to_string_lossy()) else {
            continue;
        };
        let is_set = *origin != Origin::Default && !(setting.is_switch() && value == "false");
        let name = setting.name;
        let refusal = match name {
            "queue-type" => queue::refuse(&value),
            "ssl" if is_set => Some(unsupported::REFUSE_TLS.to_owned()),
            "user" => unknown_user(&value),
            _ => None,
        };
        if let Some(reason) = refusal {
            let value = if setting.is_switch() { String::new() } else { value.into_owned() };
            let (name, origin) = (name.to_owned(), origin.clone());
            diagnostics.errors.push(ConfigError::Unavailable { name, value, reason, origin });
            continue;
        }
        if let Some(kind) = queue::kind_of_option(name).filter(|kind| is_set && !is_chosen(choices, kind)) {
            diagnostics.warnings.push(format!(
                "{origin}: --{name} has no effect without --queue-type {kind}; add that, or remove the option"
            ));
        }
        match unsupported::support(name) {
            Support::Retired(reason) if is_set => {
                diagnostics.warnings.push(format!("{origin}: --{name} has no effect any more: {reason}"));
            }
            Support::Unbuilt(part) if is_set => {
                diagnostics.warnings.push(format!(
                    "{origin}: --{name} has no effect: it is part of {part}, which this build does not \
                     include; remove the option"
                ));
            }
            Support::Live | Support::Retired(_) | Support::Unbuilt(_) => {}
        }
    }
}

/// Whether this kind of queue is selected.
fn is_chosen(choices: &BTreeMap<String, Choice>, kind: &str) -> bool {
    let chosen = choices.get("queue-type").and_then(|choice| choice.values.first());
    chosen.is_some_and(|chosen| chosen.to_string_lossy().eq_ignore_ascii_case(kind))
}

/// Why the server cannot run as this user; `None` for an existing user.
fn unknown_user(name: &str) -> Option<String> {
    match nix::unistd::User::from_name(name) {
        Ok(Some(_)) => None,
        Ok(None) => Some("this machine has no such user; create it or name another".to_owned()),
        Err(error) => Some(format!("the users of this machine cannot be read: {error}")),
    }
}

/// Builds the configuration from the chosen values, each of which was validated before.
fn build(settings: &Settings, choices: &BTreeMap<String, Choice>) -> Result<Config, ConfigErrors> {
    let combination = |error: clap::Error| ConfigErrors(vec![ConfigError::Combination { reason: error.to_string() }]);
    let matches = settings.parse(&options(settings, choices)).map_err(combination)?;
    let args = ServerArgs::from_arg_matches(&matches).map_err(combination)?;
    let origin = |name: &str| choices.get(name).map_or(Origin::Default, |choice| choice.origin.clone());
    let queue = args
        .queue
        .choice()
        .map_err(|reason| ConfigErrors(vec![ConfigError::Contradiction { reason, origin: origin("queue-type") }]))?;
    let listen = args.network.listen.iter().map(|address| address.with_port(args.network.port)).collect();
    let config = Config {
        listen,
        job_handle_prefix: args.jobs.job_handle_prefix.clone().unwrap_or_else(host_prefix),
        network: args.network,
        process: args.process,
        jobs: args.jobs,
        queue,
        durability: args.queue.durability,
        store_reserve: args.queue.store_reserve,
        function_durability: args.queue.function_durability,
        http: args.http.choice(),
        log: args.log,
        limits: args.limits,
        timeouts: args.timeouts,
        check: args.source.check,
    };
    let errors = contradictions(&config, origin);
    if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
}

/// The chosen values as command line options.
fn options(settings: &Settings, choices: &BTreeMap<String, Choice>) -> Vec<OsString> {
    let mut options = Vec::new();
    for setting in settings.all() {
        for value in choices.get(setting.name).into_iter().flat_map(|choice| &choice.values) {
            if !setting.is_switch() {
                options.push(long_option(setting.name, value));
            } else if value == "true" {
                options.push(format!("--{}", setting.name).into());
            }
        }
    }
    options
}

/// Settings that are valid on their own and conflict.
fn contradictions(config: &Config, origin: impl Fn(&str) -> Origin) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let (output, packet) = (config.limits.max_output_buffer, config.limits.max_packet_size);
    if output < packet {
        let changed =
            if origin("max-output-buffer") == Origin::Default { "max-packet-size" } else { "max-output-buffer" };
        errors.push(ConfigError::Contradiction {
            reason: format!(
                "max-output-buffer ({}) is less than max-packet-size ({}), so the largest jobs could never be handed \
                 to a worker; raise max-output-buffer or lower max-packet-size",
                display_bytes(output),
                display_bytes(packet)
            ),
            origin: origin(changed),
        });
    }
    for (index, FunctionDurability { function, .. }) in config.function_durability.iter().enumerate() {
        if config.function_durability.iter().take(index).any(|earlier| earlier.function == *function) {
            errors.push(ConfigError::Contradiction {
                reason: format!("function-durability names {function} twice; remove one of the two"),
                origin: origin("function-durability"),
            });
        }
    }
    for (index, address) in config.listen.iter().enumerate() {
        let chosen_by_kernel = matches!(address, ListenAddress::All { port: 0 } | ListenAddress::Host { port: 0, .. })
            || matches!(address, ListenAddress::Ip(address) if address.port() == 0);
        if !chosen_by_kernel && config.listen.iter().take(index).any(|earlier| earlier == address) {
            errors.push(ConfigError::Contradiction {
                reason: format!("listen names {address} twice; remove one of the two"),
                origin: origin("listen"),
            });
        }
    }
    if let Some(reason) = unfit_http_port(config) {
        errors.push(ConfigError::Contradiction { reason, origin: origin("protocol") });
    }
    errors
}

/// Why the HTTP plugin cannot listen on its addresses.
fn unfit_http_port(config: &Config) -> Option<String> {
    let plugin = config.network.protocol?;
    let port = config.network.http_port;
    let hosts = config.http_plugin_addresses();
    if hosts.is_empty() {
        return Some(format!(
            "--protocol {plugin} listens on the TCP addresses of --listen, and that names only UNIX sockets; add an \
             address"
        ));
    }
    let taken = hosts.iter().find(|address| port != 0 && config.listen.contains(address))?;
    Some(format!("{taken} is already used by the Gearman protocol; choose another --http-port"))
}

/// Warns about memory limits that do not fit together.
fn notice_tight_memory(config: &Config, diagnostics: &mut Diagnostics) {
    let Some(most) = config.limits.max_memory else { return };
    let packet = config.limits.max_packet_size;
    if packet.saturating_mul(2) > most {
        diagnostics.warnings.push(format!(
            "--max-memory {} is less than twice --max-packet-size {}; connections with such packets may be \
             closed; raise the one or lower the other",
            display_bytes(most),
            display_bytes(packet)
        ));
    }
    let workloads = config.limits.max_workload_memory.unwrap_or(0);
    if workloads > most / 4 * 3 {
        diagnostics.warnings.push(format!(
            "--max-workload-memory {} is more than the share for jobs: three quarters of --max-memory, {}",
            display_bytes(workloads),
            display_bytes(most / 4 * 3)
        ));
    }
}

/// Warns about settings that are valid but probably not intended.
fn notice_oddities(config: &Config, is_set: impl Fn(&str) -> bool, diagnostics: &mut Diagnostics) {
    notice_tight_memory(config, diagnostics);
    if config.queue == QueueChoice::Builtin {
        for name in ["durability", "function-durability"].into_iter().filter(|name| is_set(name)) {
            diagnostics
                .warnings
                .push(format!("--{name} has no effect with --queue-type builtin, which keeps jobs in memory"));
        }
        if !is_set("queue-type") {
            diagnostics.warnings.push(
                "this build has no SQLite: queued jobs are kept in memory and lost with the process; \
                 build it with the cargo feature sqlite, or choose a --queue-type"
                    .to_owned(),
            );
        }
    }
    let is_on_disk = matches!(config.queue, QueueChoice::Default | QueueChoice::Sqlite { .. });
    if is_set("store-reserve") && !is_on_disk {
        diagnostics
            .warnings
            .push("--store-reserve has no effect: it is for queues in a SQLite file; remove it".to_owned());
    }
    if config.network.protocol.is_none() && is_set("http-port") {
        diagnostics
            .warnings
            .push("--http-port has no effect without --protocol http; add that, or remove it".to_owned());
    }
    if config.jobs.job_retries == Some(0) {
        diagnostics.warnings.push(
            "--job-retries 0 means no limit, as in gearmand up to 2.0.0: a job that crashes its workers is \
             retried forever; write 1 for a single attempt, as gearmand's development after 2.0.0 reads 0, or -1 for no limit"
                .to_owned(),
        );
    }
    if let Some(files @ 1..LEAST_FILES) = config.process.file_descriptors {
        diagnostics
            .warnings
            .push(format!("--file-descriptors {files} is too few for the server's own files: {LEAST_FILES} is used"));
    }
    let network = &config.network;
    if let (Some(timeout), Some(idle), Some(interval), Some(count)) =
        (network.tcp_user_timeout, network.keepalive_idle, network.keepalive_interval, network.keepalive_count)
        && timeout < idle + interval * count
    {
        diagnostics.warnings.push(format!(
            "--tcp-user-timeout {timeout:?} is shorter than all probes take, {:?}, which is used instead, \
             so that one lost probe does not close a live peer; lower --keepalive-idle, --keepalive-interval or \
             --keepalive-count",
            idle + interval * count
        ));
    }
    if config.process.daemon
        && config.log.log_file == LogTarget::StandardError
        && !config.log.syslog
        && !config.log.journald
    {
        diagnostics.warnings.push(
            "--daemon closes standard error, so --log-file stderr loses all log lines; \
             name a file, or log to --syslog or --journald"
                .to_owned(),
        );
    }
}

impl Resolved {
    /// All settings in the order of the help; those without effect only if they are set.
    pub fn settings(&self) -> Vec<ResolvedSetting> {
        let settings = Settings::new();
        let shown = settings.all().filter_map(|setting| {
            let choice = self.choices.get(setting.name)?;
            let set = choice.origin != Origin::Default && !NOT_IN_A_FILE.contains(&setting.name);
            (set || is_shown(setting.name)).then(|| ResolvedSetting {
                name: setting.name.to_owned(),
                values: choice.values.iter().map(|value| display_value(setting.name, value)).collect(),
                origin: choice.origin.clone(),
            })
        });
        shown.collect()
    }

    /// Whether any source sets this setting. `name` is its long name.
    pub fn is_set(&self, name: &str) -> bool {
        self.choices.get(name).is_some_and(|choice| choice.origin != Origin::Default)
    }

    /// The text of `--check`: every setting with its origin, as TOML that is a valid configuration file.
    pub fn report(&self) -> String {
        let settings = Settings::new();
        let mut report = String::new();
        for ResolvedSetting { name, values, origin } in self.settings() {
            let is_list = settings.find(&name).is_some_and(super::settings::Setting::is_list);
            let written: Vec<_> = values.iter().map(|value| toml_value(value)).collect();
            // Writing to a string cannot fail.
            let _ = match written.as_slice() {
                [] => writeln!(report, "# {name} is not set"),
                [value] if !is_list => writeln!(report, "{name} = {value} # {origin}"),
                values => writeln!(report, "{name} = [{}] # {origin}", values.join(", ")),
            };
        }
        report
    }

    /// Compares this running configuration with a newly resolved one, and applies the settings that can
    /// change without a restart.
    ///
    /// # Errors
    /// When the combination of kept and new settings conflicts; the running configuration is then kept.
    pub fn reload_from(&self, fresh: &Self) -> Result<Reload, ConfigErrors> {
        let settings = Settings::new();
        let mut choices = self.choices.clone();
        let (mut changed, mut needs_restart) = (Vec::new(), Vec::new());
        for setting in settings.all() {
            let Some(choice) = fresh.choices.get(setting.name) else {
                continue;
            };
            let differs = self.choices.get(setting.name).is_none_or(|running| running.values != choice.values);
            if RELOADABLE.contains(&setting.name) {
                choices.insert(setting.name.to_owned(), choice.clone());
                changed.extend(differs.then(|| setting.name.to_owned()));
            } else if differs && is_shown(setting.name) {
                needs_restart.push(setting.name.to_owned());
            }
        }
        let config = build(&settings, &choices)?;
        let resolved = Self { config, warnings: fresh.warnings.clone(), choices };
        Ok(Reload { resolved, changed, needs_restart })
    }
}

/// Whether a setting describes the server: it has an effect, and does not just select a source of settings.
fn is_shown(name: &str) -> bool {
    unsupported::support(name) == Support::Live && !NOT_IN_A_FILE.contains(&name)
}

/// A value for display, without secrets.
fn display_value(name: &str, value: &OsStr) -> String {
    if queue::is_secret(name) {
        return "***".to_owned();
    }
    value.to_string_lossy().into_owned()
}

/// Formats a value as TOML: numbers and booleans bare, all others as strings.
fn toml_value(value: &str) -> String {
    let bare = value.parse::<bool>().is_ok() || value.parse::<i64>().is_ok_and(|number| number.to_string() == value);
    if bare { value.to_owned() } else { toml::Value::from(value).to_string() }
}
