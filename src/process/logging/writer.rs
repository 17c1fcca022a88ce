//! The log thread. Only this thread waits for a slow output.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::line::Record;
use super::local_socket::LocalSocket;
use super::queue::{Entry, Queue};
use super::sink::{self, Failure, Output};
use super::{Destination, Format};
use crate::log_level::Level;

/// How long to wait before checking again for a reader of a FIFO.
const READER_PAUSE: Duration = Duration::from_millis(100);

/// The state of the thread.
pub(super) struct Writer {
    pub(super) queue: Arc<Queue>,
    pub(super) destination: Destination,
    pub(super) format: Format,
    pub(super) output: Output,
    /// Whether lines that are written at every level, and errors, also go to standard error.
    pub(super) tells_terminal: bool,
    pub(super) syslog: Option<LocalSocket>,
    pub(super) journal: Option<LocalSocket>,
    /// Lines that the main output did not take, since the start.
    pub(super) lost: Arc<AtomicU64>,
    /// Lines that the main output did not take since it last took one.
    pub(super) missing: u64,
    /// Whether the output ends in a partial line.
    pub(super) is_torn: bool,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(self) -> io::Result<()> {
        thread::Builder::new().name("log".to_owned()).spawn(move || self.run()).map(drop)
    }

    fn run(mut self) {
        let queue = Arc::clone(&self.queue);
        while let Some(entry) = queue.take() {
            match entry {
                Entry::Line(record) => self.write(&record),
                Entry::LeftOut(count) => self.write(&left_out(count)),
                Entry::Reopen => self.reopen(),
            }
        }
    }

    fn write(&mut self, record: &Record) {
        if let Some(syslog) = &mut self.syslog {
            syslog.send(record.syslog(std::process::id()).as_bytes());
        }
        if let Some(journal) = &mut self.journal {
            journal.send(record.journal().as_bytes());
        }
        if self.tells_terminal && record.is_for_terminal() {
            sink::tell_standard_error(record.human().as_bytes());
        }
        if self.destination == Destination::None {
            return;
        }
        if self.missing > 0 && self.write_main(&left_out(self.missing)) {
            self.missing = 0;
        }
        if self.missing > 0 || !self.write_main(record) {
            self.missing += 1;
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes to the main output, and waits for room. Returns whether it took the line.
    fn write_main(&mut self, record: &Record) -> bool {
        let mut line = match self.format {
            Format::Human => record.human(),
            Format::Json => record.json(),
        };
        if self.is_torn {
            line.insert(0, '\n');
        }
        let mut written = 0;
        loop {
            match self.output.write(line.as_bytes(), written) {
                Ok(()) => {
                    self.is_torn = false;
                    return true;
                }
                Err(Failure::Busy(so_far)) => {
                    written = so_far;
                    if matches!(self.output, Output::Unread) {
                        // No other thread unparks this one.
                        thread::park_timeout(READER_PAUSE);
                        self.open_quietly();
                    } else if self.queue.has_reopen() && self.open_quietly() {
                        // The reopen is queued behind lines for which the old output has no room.
                        written = 0;
                    }
                }
                Err(Failure::Lost { is_torn, error }) => {
                    self.is_torn |= is_torn;
                    // The reader has gone; another one may come.
                    if matches!(self.output, Output::Stream(_)) && error.kind() == io::ErrorKind::BrokenPipe {
                        (self.is_torn, self.output) = (false, Output::Unread);
                    }
                    return false;
                }
            }
        }
    }

    /// Opens the log file, without reporting an error. Returns whether it succeeded.
    fn open_quietly(&mut self) -> bool {
        let Destination::File(path) = &self.destination else { return false };
        Output::open(path).map(|output| self.output = output).is_ok()
    }

    /// Reopens the log file. If that fails, the log keeps its previous output.
    fn reopen(&mut self) {
        let Destination::File(path) = &self.destination else { return };
        match Output::open(path) {
            Ok(output) => (self.output, self.is_torn) = (output, false),
            Err(error) => {
                let path = path.display();
                let text = format!("cannot reopen log file {path}: {error}; keeping the previous output");
                self.write(&Record::of_log(Level::Error, text));
            }
        }
    }
}

fn left_out(count: u64) -> Record {
    Record::of_log(Level::Warning, format!("{count} log lines dropped (output too slow)"))
}
