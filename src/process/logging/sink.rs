//! The main output of the log: a file, a FIFO, a terminal, standard error.
//!
//! Nothing is opened or written in a way that could wait for ever. A FIFO is opened without waiting for its reader, and a
//! pipe or terminal is written to when it has room; meanwhile lines wait in the queue, which has a bound.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc::{ENXIO, O_NOCTTY, O_NONBLOCK};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Mode of a new log file, before the umask; gearmand's.
const LOG_FILE_MODE: u32 = 0o644;
/// How long one look at an output that has no room takes, in milliseconds: then whoever writes looks whether the log file is
/// to be opened anew.
const LOOK_MS: u16 = 100;
/// What a pipe that has room takes at once.
const PIECE: usize = 4096;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Output {
    /// A regular file, which takes what it is given.
    File(File),
    /// A FIFO, a terminal or another thing that takes lines when somebody reads them.
    Stream(File),
    /// A FIFO that nobody reads yet.
    Unread,
    /// Standard error, which may be another thing later.
    Stderr,
    /// Nowhere.
    Nowhere,
}

/// Why a line could not be written.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no room now. So many bytes were written.
    Busy(usize),
    /// It is lost. Whether a part of it was written.
    Lost {
        /// Whether the output has a line without its end.
        is_torn: bool,
        /// What the system says.
        error: io::Error,
    },
}

impl Output {
    /// Opens a log file, without waiting for whoever reads it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = O_NONBLOCK | O_NOCTTY;
        let opened = OpenOptions::new().append(true).create(true).mode(LOG_FILE_MODE).custom_flags(flags).open(path);
        match opened {
            Ok(file) => Ok(if file.metadata()?.is_file() { Self::File(file) } else { Self::Stream(file) }),
            Err(error) if error.raw_os_error() == Some(ENXIO) && is_fifo(path) => Ok(Self::Unread),
            Err(error) => Err(error),
        }
    }

    /// Writes a line, from this byte on. An output that has no room is waited for, for a moment.
    pub(super) fn write(&mut self, line: &[u8], from: usize) -> Result<(), Failure> {
        let mut written = from;
        while written < line.len() {
            let left = &line[written..];
            let result = match self {
                Self::Nowhere => return Ok(()),
                Self::Unread => return Err(Failure::Busy(written)),
                Self::File(file) => file.write(left),
                Self::Stream(file) => write_piece(file.as_fd(), left),
                // Not by std's handle: whoever else wants to say something there would wait for its lock.
                Self::Stderr => write_piece(io::stderr().as_fd(), left),
            };
            match result {
                Ok(0) => return Err(Failure::Lost { is_torn: written > 0, error: io::ErrorKind::WriteZero.into() }),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Failure::Busy(written)),
                Err(error) => return Err(Failure::Lost { is_torn: written > 0, error }),
            }
        }
        Ok(())
    }
}

/// Says something on standard error where that has room at once: a terminal that is stopped (Ctrl-S) is not waited for.
pub(super) fn tell_standard_error(text: &[u8]) {
    if has_room(io::stderr().as_fd()) {
        // Nobody is left to be told that this could not be written.
        let _ = nix::unistd::write(io::stderr(), &text[..text.len().min(PIECE)]);
    }
}

/// Whether a descriptor takes something without waiting.
pub(super) fn has_room(output: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(output, PollFlags::POLLOUT)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// Writes as much as there is room for, if there is room within a moment. Whether the descriptor blocks is not ours to
/// change: others share it.
fn write_piece(output: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let mut polled = [PollFd::new(output, PollFlags::POLLOUT)];
    if poll(&mut polled, PollTimeout::from(LOOK_MS))? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(nix::unistd::write(output, &bytes[..bytes.len().min(PIECE)])?)
}

#[cfg(test)]
mod tests;
