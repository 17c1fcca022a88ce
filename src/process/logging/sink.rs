//! The main output of the log: a file, a FIFO, a terminal, standard error.
//!
//! No open or write may block forever. A FIFO is opened without waiting for its reader, and a pipe or
//! terminal is written to when it has room. Meanwhile lines wait in the bounded queue.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc::{ENXIO, O_NOCTTY, O_NONBLOCK};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Mode of a new log file, before the umask; the same as gearmand's.
const LOG_FILE_MODE: u32 = 0o644;
/// How long one poll of an output without room takes, in milliseconds; then the writer checks for a queued
/// reopen.
const LOOK_MS: u16 = 100;
/// The size that a pipe with room accepts in one write.
const PIECE: usize = 4096;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Output {
    /// A regular file. Writes to it do not wait for a reader.
    File(File),
    /// A FIFO, a terminal or another file that needs a reader.
    Stream(File),
    /// A FIFO without a reader.
    Unread,
    /// Standard error, which may be redirected later.
    Stderr,
    /// No output.
    Nowhere,
}

/// Why a line could not be written.
#[derive(Debug)]
pub(super) enum Failure {
    /// No room at present. This many bytes of the line are written.
    Busy(usize),
    /// The line is lost.
    Lost {
        /// Whether the output ends in a partial line.
        is_torn: bool,
        /// The system error.
        error: io::Error,
    },
}

impl Output {
    /// Opens a log file, without waiting for a reader.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = O_NONBLOCK | O_NOCTTY;
        let opened = OpenOptions::new().append(true).create(true).mode(LOG_FILE_MODE).custom_flags(flags).open(path);
        match opened {
            Ok(file) => Ok(if file.metadata()?.is_file() { Self::File(file) } else { Self::Stream(file) }),
            Err(error) if error.raw_os_error() == Some(ENXIO) && is_fifo(path) => Ok(Self::Unread),
            Err(error) => Err(error),
        }
    }

    /// Writes a line, from byte `from` on. Waits briefly for an output without room.
    pub(super) fn write(&mut self, line: &[u8], from: usize) -> Result<(), Failure> {
        let mut written = from;
        while written < line.len() {
            let left = &line[written..];
            let result = match self {
                Self::Nowhere => return Ok(()),
                Self::Unread => return Err(Failure::Busy(written)),
                Self::File(file) => file.write(left),
                Self::Stream(file) => write_piece(file.as_fd(), left),
                // Not through std's handle: other threads that write to standard error would wait for its
                // lock.
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

/// Writes to standard error if it has room at once: a stopped terminal (Ctrl-S) is not waited for.
pub(super) fn tell_standard_error(text: &[u8]) {
    if has_room(io::stderr().as_fd()) {
        // If this write fails, there is nowhere left to report it.
        let _ = nix::unistd::write(io::stderr(), &text[..text.len().min(PIECE)]);
    }
}

/// Whether a write to the descriptor would not block.
pub(super) fn has_room(output: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(output, PollFlags::POLLOUT)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// Writes as much as there is room for, if there is room within a short time. The descriptor's blocking mode
/// is not changed: other processes share it.
fn write_piece(output: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let mut polled = [PollFd::new(output, PollFlags::POLLOUT)];
    if poll(&mut polled, PollTimeout::from(LOOK_MS))? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(nix::unistd::write(output, &bytes[..bytes.len().min(PIECE)])?)
}

#[cfg(test)]
mod tests;
