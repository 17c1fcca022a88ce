//! The gate that a job of the function `gate` waits at: a FIFO.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::wait_for;

/// A FIFO whose path is a job's workload; its worker reads it.
pub(crate) struct Gate {
    _directory: TempDir,
    path: PathBuf,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let path = directory.path().join("gate");
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a FIFO");
        Self { _directory: directory, path }
    }

    pub(crate) fn workload(&self) -> &str {
        self.path.to_str().expect("a temporary directory in ASCII")
    }

    /// Lets the job that waits here end with `result`; waits for such a job first.
    pub(crate) fn open(&self, result: &str) {
        let mut fifo: File = wait_for("a worker at the gate", || {
            // Without a reader this fails instead of waiting.
            OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&self.path).ok()
        });
        fifo.write_all(result.as_bytes()).expect("write to the gate");
    }
}
