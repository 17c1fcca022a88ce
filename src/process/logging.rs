//! Logging: the log file (or standard error, or no main output), and additionally syslog and the systemd
//! journal.
//!
//! A single [`tracing`] layer serves all outputs, because all use gearmand's levels (see
//! [`crate::log_level`]), and because no output may block the server: events go into a bounded queue, which a
//! thread writes out. Events beyond the bound are dropped and counted, and a line reports the count in their
//! place. (The crate tracing-appender has such a thread too, but it cannot reopen a file, and at exit it
//! waits at most a second, silently.)
//!
//! An unusable log file is a warning, not a reason to stop serving: the lines then go to standard error, and
//! a reopen tries the file again.

mod line;
mod local_socket;
mod queue;
mod sink;
mod writer;

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::log_level::fatal;
use crate::log_level::{AUDIT_TARGET, Level};
use line::Record;
use local_socket::LocalSocket;
use queue::Queue;
use sink::Output;
use writer::Writer;

/// The socket of the syslog daemon.
const SYSLOG_SOCKET: &str = "/dev/log";
/// The socket of the systemd journal's native protocol.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// How long an ending process waits until its last lines are written.
const END_LIMIT: Duration = Duration::from_secs(2);
/// The same on a panic.
const PANIC_LIMIT: Duration = Duration::from_secs(1);

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

/// The line format of the main output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// gearmand's own columns: level, local time, thread, message, `key=value` fields.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// Log settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Events up to this level are logged.
    pub level: Level,
    /// The main output.
    pub destination: Destination,
    /// The format of its lines.
    pub format: Format,
    /// Also send each event to syslog, facility user, ident `gearmand`.
    pub syslog: bool,
    /// Also send each event to the systemd journal.
    pub journald: bool,
    /// Whether lines that are written at every level, and errors, also go to standard error, if that is a
    /// terminal and not the main output: for a server in the foreground.
    pub tells_terminal: bool,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A log is already installed.
    #[error("a log subscriber is already installed")]
    AlreadyInstalled,
    /// The system cannot create another thread.
    #[error("cannot start the thread of the log: {0}")]
    NoThread(#[from] io::Error),
}

/// Controls the running log: its level, and reopening its file.
#[derive(Clone, Debug)]
pub struct LogHandle(Arc<Shared>);

impl LogHandle {
    /// The level up to which events are logged; the response to the text command `verbose`.
    pub fn level(&self) -> Level {
        self.0.threshold()
    }

    /// Changes the level, at once and for all threads.
    pub fn set_level(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Reopens the log file, after a rotation that has renamed it: later events go to the new file. Does
    /// nothing when the log goes to standard error or nowhere. If the file cannot be opened, the log reports
    /// that and keeps its previous output.
    pub fn reopen(&self) {
        self.0.queue.reopen();
    }

    /// How many lines were dropped since the start because an output was too slow.
    pub fn left_out(&self) -> u64 {
        self.0.queue.total_left_out() + self.0.lost.load(Ordering::Relaxed)
    }

    /// Whether all lines are written or dropped.
    pub fn is_written(&self) -> bool {
        self.0.queue.flush(Duration::ZERO)
    }

    /// Flushes the log, for at most two seconds. Call it before the process ends.
    pub fn finish(&self) {
        self.0.queue.flush(END_LIMIT);
    }

    /// Installs a panic hook, so that a panic is logged before it ends the process.
    pub fn log_panics(&self) {
        let (default, log) = (std::panic::take_hook(), self.clone());
        std::panic::set_hook(Box::new(move |panic| {
            fatal!("{panic}");
            log.0.queue.flush(PANIC_LIMIT);
            // The default hook writes to standard error, even if that would block.
            if sink::has_room(io::stderr().as_fd()) {
                default(panic);
            }
        }));
    }
}

/// Installs the log for the whole process.
///
/// Call it once, after privileges are dropped: the file must belong to the user that reopens it. A file that
/// cannot be opened is reported on standard error, which then takes the log's lines.
///
/// # Errors
/// When a subscriber is installed already, or no thread can be created.
pub fn init(settings: &Settings) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = build(settings)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadyInstalled)?;
    Ok(handle)
}

/// The subscriber that [`init`] installs, for use in one scope.
///
/// # Errors
/// When no thread can be created.
pub fn build(settings: &Settings) -> io::Result<(impl Subscriber + Send + Sync + use<>, LogHandle)> {
    build_with_sockets(settings, SYSLOG_SOCKET, JOURNAL_SOCKET)
}

/// [`build`] with other sockets for syslog and the journal.
fn build_with_sockets(
    settings: &Settings,
    syslog: &str,
    journal: &str,
) -> io::Result<(impl Subscriber + Send + Sync + use<>, LogHandle)> {
    let lost = Arc::new(AtomicU64::new(0));
    let socket = |is_wanted: bool, path, name| is_wanted.then(|| connect(path, name, &lost));
    let (syslog, journal) =
        (socket(settings.syslog, syslog, "syslog"), socket(settings.journald, journal, "the journal"));
    let shared = Arc::new(Shared {
        level: AtomicU8::new(settings.level as u8),
        has_output: settings.destination != Destination::None || syslog.is_some() || journal.is_some(),
        queue: Arc::default(),
        lost: Arc::clone(&lost),
    });
    let output = open(&settings.destination);
    // If the log already goes to standard error, lines are not repeated there.
    let tells_terminal = settings.tells_terminal && !matches!(output, Output::Stderr) && io::stderr().is_terminal();
    let writer = Writer {
        queue: Arc::clone(&shared.queue),
        destination: settings.destination.clone(),
        format: settings.format,
        output,
        tells_terminal,
        syslog,
        journal,
        lost,
        missing: 0,
        is_torn: false,
    };
    writer.start()?;
    let subscriber = tracing_subscriber::registry().with(LogLayer(Arc::clone(&shared)));
    Ok((subscriber, LogHandle(shared)))
}

/// Opens the main output. A file that cannot be opened is a warning.
fn open(destination: &Destination) -> Output {
    let path = match destination {
        Destination::File(path) => path,
        Destination::Stderr => return Output::Stderr,
        Destination::None => return Output::Nowhere,
    };
    match Output::open(path) {
        Ok(output) => {
            if matches!(output, Output::Unread) {
                complain(format_args!("log file {} is a FIFO without a reader; waiting", path.display()));
            }
            output
        }
        Err(error) => {
            complain(format_args!(
                "cannot open log file {}: {error}; logging to standard error, which --daemon closes, until HUP \
                 finds the file writable",
                path.display()
            ));
            Output::Stderr
        }
    }
}

/// Connects to a daemon's socket. A missing one is a warning: each event tries again.
fn connect(path: &str, name: &str, lost: &Arc<AtomicU64>) -> LocalSocket {
    let mut socket = LocalSocket::new(path, Arc::clone(lost));
    if let Err(error) = socket.connect() {
        complain(format_args!("cannot reach {name} at {path}: {error}"));
    }
    socket
}

/// Writes a warning about the log itself to standard error. If that is closed, the warning is lost.
fn complain(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "gearmand: {text}");
}

#[derive(Debug)]
struct Shared {
    /// The number of a [`Level`].
    level: AtomicU8,
    has_output: bool,
    queue: Arc<Queue>,
    /// Lines that the outputs did not take.
    lost: Arc<AtomicU64>,
}

impl Shared {
    fn threshold(&self) -> Level {
        Level::from_number(self.level.load(Ordering::Relaxed))
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let is_wanted = Level::of(metadata) <= self.threshold() || metadata.target() == AUDIT_TARGET;
        metadata.is_event() && is_wanted && self.has_output
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
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
        Some(if self.0.has_output { self.0.threshold().tracing_filter() } else { LevelFilter::OFF })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.queue.push(Record::new(event));
    }
}

#[cfg(test)]
mod tests;
