//! The pid file: one line, `PID`, for init scripts, logrotate and monitoring.
//!
//! gearmand unlinks whatever is at the path, and unlinks it again at exit: a second instance that fails to
//! start leaves the first without its file. Here the file is locked (`flock`) as long as the process lives:
//!
//! * a locked file belongs to a running instance and is not touched;
//! * neither is an unlocked file that names a running process called `gearmand`: the C++ server locks
//!   nothing;
//! * any other file is stale, however its instance ended, and is taken over;
//! * only our own file is removed at exit.
//!
//! The lock belongs to the open file, which only this process has: create the file after the fork. A process
//! id alone does not prove that the instance is running, since it may have been reused by another program. A
//! file that holds something other than a process id has another purpose, and is refused.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process;

use nix::libc::O_NOFOLLOW;

/// Readable by all, writable by the owner.
const MODE: u32 = 0o644;
/// Maximum length of a pid file, in bytes.
const MAX_LENGTH: u64 = 32;
/// How often opening is retried when another process removes the file between our opening and locking it.
const TRIES: usize = 16;
/// The name of a job server's process, as it appears before the state in `/proc/PID/stat`.
const SERVER_NAME: &str = "(gearmand) ";

/// A pid file with our process id, until dropped.
///
/// Dropping it removes the file. If that is not allowed (the directory is root's and privileges were
/// dropped), the file is emptied instead.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

/// Why the pid file cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another process holds the lock, or the file names a running server that does not lock it.
    #[error("pid file {path}: another instance is running{}", pid_text(*.pid))]
    Running {
        /// The file.
        path: PathBuf,
        /// The process that wrote it; `None` if it has not written its id yet.
        pid: Option<u32>,
    },
    /// The file holds something other than a process id.
    #[error("pid file {0}: exists and is not a pid file; remove it or name another")]
    NotAPidFile(PathBuf),
    /// The file cannot be opened, locked or written.
    #[error("pid file {path}: {source}{}", hint(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; create its directory, or name another file with --pid-file",
        io::ErrorKind::PermissionDenied => {
            "; the user of the server needs write permission there, or name another file with --pid-file"
        }
        _ => "",
    }
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

impl PidFile {
    /// Creates the file, or takes over a stale one, and writes our process id.
    ///
    /// # Errors
    /// See [`PidFileError`]. The file of a running instance is unchanged.
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let io_error = |source| PidFileError::Io { path: path.to_owned(), source };
        let mut file = Self::open_locked(path)?;
        let content = read(&mut file).map_err(io_error)?;
        match parse(&content) {
            None if !content.trim_ascii().is_empty() => return Err(PidFileError::NotAPidFile(path.to_owned())),
            Some(pid) if is_other_server(pid) => {
                return Err(PidFileError::Running { path: path.to_owned(), pid: Some(pid) });
            }
            _ => {}
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", process::id()))
            .map_err(io_error)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Opens and locks the file, until the locked file is the one at the path: between the two steps an
    /// ending instance may have removed the one we opened.
    fn open_locked(path: &Path) -> Result<File, PidFileError> {
        let io_error = |source| PidFileError::Io { path: path.to_owned(), source };
        for _ in 0..TRIES {
            // In a directory that other users can write to, a symbolic link could lead root to any file.
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(MODE)
                .custom_flags(O_NOFOLLOW)
                .open(path)
                .map_err(io_error)?;
            if !file.metadata().map_err(io_error)?.is_file() {
                return Err(PidFileError::NotAPidFile(path.to_owned()));
            }
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => return Ok(file),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let content = read(&mut file).unwrap_or_default();
                    return Err(PidFileError::Running { path: path.to_owned(), pid: parse(&content) });
                }
                Err(TryLockError::Error(source)) => return Err(io_error(source)),
            }
        }
        Err(io_error(io::Error::other("removed repeatedly by another process")))
    }

    /// Changes the owner of the file to the user that the process will become, so that this user's next
    /// instance, started without root privileges, can take over a stale file.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        fchown(&self.file, Some(uid), Some(gid))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // The lock is still held: no other instance can have taken the file over between check and removal.
        if is_at(&self.file, &self.path) && fs::remove_file(&self.path).is_err() {
            // An empty file names no process. If even that fails, a stale file is harmless.
            let _ = self.file.set_len(0);
        }
    }
}

/// Whether the open file is the one at the path.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    Read::take(&mut *file, MAX_LENGTH).read_to_end(&mut content)?;
    Ok(content)
}

/// Whether the process is running, has the name of a server, and is neither this process nor its parent. In a
/// container both may have the same ids as before a restart, and with `-d` the parent is a `gearmand` that
/// waits for us.
fn is_other_server(pid: u32) -> bool {
    let is_server = |stat: String| {
        let state = stat.split_once(SERVER_NAME).and_then(|(_, rest)| rest.chars().next());
        // A zombie has ended, even if its exit status has not been collected.
        state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
    };
    pid != process::id() && pid != parent_id() && fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(is_server)
}

/// The process id in a pid file; `None` for anything else.
fn parse(content: &[u8]) -> Option<u32> {
    std::str::from_utf8(content).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gearmand.pid");
        (directory, path)
    }

    #[test]
    fn the_file_holds_the_pid_and_goes_with_its_owner() {
        let (_directory, path) = scratch();
        let pid_file = PidFile::create(&path).unwrap();
        let expected = format!("{}\n", process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o133, 0);
        drop(pid_file);
        assert!(!path.exists());
    }

    #[test]
    fn the_file_of_a_living_instance_is_left_alone() {
        let (_directory, path) = scratch();
        let first = PidFile::create(&path).unwrap();
        let error = PidFile::create(&path).unwrap_err();
        assert!(matches!(error, PidFileError::Running { pid: Some(pid), .. } if pid == process::id()));
        assert!(error.to_string().contains(&process::id().to_string()), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        drop(first);
        drop(PidFile::create(&path).unwrap());
    }

    #[test]
    fn a_stale_file_is_taken_over_even_if_its_pid_lives() {
        for content in ["999999999\n", "1\n", "", "\n", "  42"] {
            let (_directory, path) = scratch();
            fs::write(&path, content).unwrap();
            let _held = PidFile::create(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        }
    }

    #[test]
    fn a_server_that_locks_nothing_is_believed_while_it_lives() {
        let (directory, path) = scratch();
        let program = directory.path().join("gearmand");
        // No copy: while another test forks, its child may hold the copy open for writing, and then it cannot
        // be run.
        symlink("/bin/sleep", &program).unwrap();
        let mut server = process::Command::new(&program).arg("600").spawn().unwrap();
        let content = format!("{}\n", server.id());
        fs::write(&path, &content).unwrap();
        let refused = PidFile::create(&path).map(drop);
        let kept = fs::read_to_string(&path).unwrap();
        server.kill().unwrap();
        assert!(matches!(refused, Err(PidFileError::Running { pid: Some(pid), .. }) if pid == server.id()));
        assert_eq!(kept, content);
        // Killed, but not waited for: a zombie keeps its name.
        let stat = || fs::read_to_string(format!("/proc/{}/stat", server.id())).unwrap();
        while !stat().contains(") Z ") {
            std::thread::yield_now();
        }
        drop(PidFile::create(&path).unwrap());
        server.wait().unwrap();
    }

    #[test]
    fn a_file_of_another_kind_is_refused_and_kept() {
        let (directory, path) = scratch();
        fs::write(&path, "root:x:0:0\n").unwrap();
        assert!(matches!(PidFile::create(&path), Err(PidFileError::NotAPidFile(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "root:x:0:0\n");
        let link = directory.path().join("link");
        symlink(directory.path().join("target"), &link).unwrap();
        assert!(matches!(PidFile::create(&link), Err(PidFileError::Io { .. })));
        assert!(!directory.path().join("target").exists());
        assert!(PidFile::create(directory.path()).is_err());
    }

    #[test]
    fn what_is_removed_is_our_own_file_or_nothing() {
        let (directory, path) = scratch();
        let pid_file = PidFile::create(&path).unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        fs::write(&path, "4711\n").unwrap();
        drop(pid_file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711\n");
    }
}
