//! Reading a small file with a timeout: if the path is a FIFO without a writer, a reload of the settings must
//! not block the server.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long the writer of a pipe may take in total.
const LIMIT: Duration = Duration::from_secs(5);
/// How long one poll waits for it, in milliseconds.
const LOOK_MS: u16 = 100;

/// Reads a file, a FIFO or a pipe to its end, or until there are more than `max` bytes.
///
/// # Errors
/// The system error; also when the writer of a pipe takes longer than five seconds, or there is none.
pub fn read_promptly(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let is_file = file.metadata()?.is_file();
    let mut bytes = Vec::new();
    let mut limited = (&file).take(max.saturating_add(1));
    let end = Instant::now() + LIMIT;
    loop {
        match limited.read_to_end(&mut bytes) {
            Ok(_) if bytes.is_empty() && !is_file => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the pipe has no writer"));
            }
            Ok(_) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => wait(&file)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "timed out after 5 seconds waiting for the writer",
                ));
            }
            Err(error) => return Err(error),
        }
    }
}

fn wait(file: &File) -> io::Result<()> {
    poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK_MS))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn files_and_pipes_are_read_to_their_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "").unwrap();
        assert_eq!(read_promptly(&path, 9).unwrap(), b"");
        std::fs::write(&path, "port = 1").unwrap();
        assert_eq!(read_promptly(&path, 9).unwrap(), b"port = 1");
        assert_eq!(read_promptly(&path, 3).unwrap(), b"port");
        // As bash passes `<(command)`.
        let (reader, mut writer) = io::pipe().unwrap();
        let name = format!("/dev/fd/{}", reader.as_raw_fd());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                writer.write_all(b"port ").unwrap();
                writer.write_all(b"= 2").unwrap();
            });
            assert_eq!(read_promptly(Path::new(&name), 99).unwrap(), b"port = 2");
        });
    }

    #[test]
    fn a_fifo_that_nobody_writes_into_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        assert_eq!(read_promptly(&path, 9).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
