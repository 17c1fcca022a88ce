//! Where log events go: the log file (or standard error, or nowhere), and in addition syslog and
//! the systemd journal.
//!
//! One [`tracing`] layer does it all, because the levels are gearmand's (see
//! [`crate::log_level`]) in every output, and because no output may hold up the server: a line is
//! one `write` to the file, and datagrams that syslog or the journal do not take at once are
//! dropped.
//!
//! An unusable log file is a warning, not a reason to stop serving: the lines then go to standard
//! error, and a reopen tries the file again.

mod line;
mod local_socket;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::log_level::{AUDIT_TARGET, Level};
use line::Record;
use local_socket::LocalSocket;

/// Where the syslog daemon listens.
const SYSLOG_SOCKET: &str = "/dev/log";
/// Where the systemd journal takes its native protocol.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// Mode of a new log file, before the umask; gearmand's.
const LOG_FILE_MODE: u32 = 0o644;

/// The main output of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Lines are appended to this file.
    File(PathBuf),
    /// Lines go to standard error.
    Stderr,
    /// There is no main output.
    None,
}

impl Destination {
    /// Reads the value of `--log-file`: `stderr`, `none`, or a path.
    pub fn from_option(value: &str) -> Self {
        match value {
            "stderr" => Self::Stderr,
            "none" => Self::None,
            path => Self::File(PathBuf::from(path)),
        }
    }
}

/// The shape of a line in the main output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// gearmand's own columns: level, local time, thread, message, `key=value` fields.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What is logged, and where to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Events up to this level are logged.
    pub level: Level,
    /// The main output.
    pub destination: Destination,
    /// The shape of its lines.
    pub format: Format,
    /// Also send each event to syslog, facility user, ident `gearmand`.
    pub syslog: bool,
    /// Also send each event to the systemd journal.
    pub journald: bool,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("a log subscriber is already installed")]
pub struct AlreadyInstalled;

/// Control over the running log: its level, and reopening its file.
#[derive(Clone, Debug)]
pub struct LogHandle(Arc<Shared>);

impl LogHandle {
    /// The level up to which events are logged; what the admin command `verbose` answers.
    pub fn level(&self) -> Level {
        self.0.threshold()
    }

    /// Changes the level, at once and in all threads.
    pub fn set_level(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Opens the log file anew, for a rotation that has renamed it. Does nothing when the log goes
    /// to standard error or nowhere.
    ///
    /// # Errors
    /// When the file cannot be opened; the log then goes on where it went before.
    pub fn reopen(&self) -> io::Result<()> {
        if let Destination::File(path) = &self.0.destination {
            let file = open(path)?;
            *self.0.output() = Output::File(file);
        }
        Ok(())
    }
}

/// Installs the log for the whole process.
///
/// Call it once, after privileges are dropped: the file must belong to the user that reopens it.
/// A file that cannot be opened is reported on standard error, which then takes the log's lines.
///
/// # Errors
/// When a subscriber is installed already.
pub fn init(settings: &Settings) -> Result<LogHandle, AlreadyInstalled> {
    let (subscriber, handle) = build(settings);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| AlreadyInstalled)?;
    Ok(handle)
}

/// The subscriber that [`init`] installs, for use in one scope.
pub fn build(settings: &Settings) -> (impl Subscriber + Send + Sync + use<>, LogHandle) {
    build_with_sockets(settings, SYSLOG_SOCKET, JOURNAL_SOCKET)
}

/// [`build`] with the sockets of syslog and the journal somewhere else.
fn build_with_sockets(
    settings: &Settings,
    syslog: &str,
    journal: &str,
) -> (impl Subscriber + Send + Sync + use<>, LogHandle) {
    let output = match &settings.destination {
        Destination::File(path) => open(path).map_or_else(
            |error| {
                complain(format_args!(
                    "cannot open the log file {}: {error}; logging to standard error, which --daemon closes, until HUP \
                     finds the file writable",
                    path.display()
                ));
                Output::Stderr
            },
            Output::File,
        ),
        Destination::Stderr => Output::Stderr,
        Destination::None => Output::Nowhere,
    };
    let shared = Arc::new(Shared {
        level: AtomicU8::new(settings.level as u8),
        destination: settings.destination.clone(),
        format: settings.format,
        output: Mutex::new(output),
        syslog: settings.syslog.then(|| connect(syslog, "syslog")),
        journal: settings.journald.then(|| connect(journal, "the journal")),
    });
    let subscriber = tracing_subscriber::registry().with(LogLayer(Arc::clone(&shared)));
    (subscriber, LogHandle(shared))
}

/// A socket that is not there yet is a warning: each event tries again.
fn connect(path: &str, name: &str) -> LocalSocket {
    let socket = LocalSocket::new(path);
    if let Err(error) = socket.connect() {
        complain(format_args!("cannot reach {name} at {path}: {error}"));
    }
    socket
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(LOG_FILE_MODE).open(path)
}

/// A warning about the log itself has no other place than standard error, and nobody to tell if
/// that is closed.
fn complain(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "gearmand: {text}");
}

#[derive(Debug)]
enum Output {
    File(File),
    Stderr,
    Nowhere,
}

#[derive(Debug)]
struct Shared {
    /// A [`Level`] by its number.
    level: AtomicU8,
    destination: Destination,
    format: Format,
    output: Mutex<Output>,
    syslog: Option<LocalSocket>,
    journal: Option<LocalSocket>,
}

impl Shared {
    fn threshold(&self) -> Level {
        Level::from_number(self.level.load(Ordering::Relaxed))
    }

    fn has_output(&self) -> bool {
        self.destination != Destination::None || self.syslog.is_some() || self.journal.is_some()
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let is_wanted = Level::of(metadata) <= self.threshold() || metadata.target() == AUDIT_TARGET;
        metadata.is_event() && is_wanted && self.has_output()
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, record: &Record) {
        if self.destination != Destination::None {
            let line = match self.format {
                Format::Human => record.human(),
                Format::Json => record.json(),
            };
            // A full disk must not stop the server, and there is no other place to say so.
            let _ = match &mut *self.output() {
                Output::File(file) => file.write_all(line.as_bytes()),
                Output::Stderr => io::stderr().write_all(line.as_bytes()),
                Output::Nowhere => Ok(()),
            };
        }
        if let Some(syslog) = &self.syslog {
            syslog.send(record.syslog(std::process::id()).as_bytes());
        }
        if let Some(journal) = &self.journal {
            journal.send(record.journal().as_bytes());
        }
    }
}

struct LogLayer(Arc<Shared>);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.0.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.0.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.0.has_output() { self.0.threshold().tracing_filter() } else { LevelFilter::OFF })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.write(&Record::new(event));
    }
}

#[cfg(test)]
mod tests;
