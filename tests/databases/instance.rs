//! A private database: its process, its directory, and the user that it runs as, since databases refuse root.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, getuid};
use tempfile::TempDir;

use crate::common::wait_for;

/// Who databases run as where the test is root.
const USER: &str = "nobody";

/// A running database, killed when this is dropped.
pub(crate) struct Instance {
    directory: TempDir,
    command: Vec<String>,
    child: Option<Child>,
}

impl Instance {
    /// A directory that the database may write to; nothing runs yet.
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        if getuid().is_root() {
            let user = User::from_name(USER).expect("the users").expect("a user nobody");
            chown(directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
        }
        Self { directory, command: Vec::new(), child: None }
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file in its directory.
    pub(crate) fn file(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// Runs a command as the database's user to its end, and returns what it printed.
    #[track_caller]
    pub(crate) fn run(&self, words: &[String]) -> String {
        let output = self.as_user(words).stdin(Stdio::null()).output().expect("run a command");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?} ended with {}:\n{text}{errors}", output.status);
        text
    }

    /// Starts the database, and waits until `ready`.
    #[track_caller]
    pub(crate) fn start(&mut self, words: Vec<String>, ready: impl Fn(&Self) -> bool) {
        self.command = words;
        self.start_again(ready);
    }

    /// Starts it once more, as often as it takes: what a killed one has left behind may be in its way for a
    /// moment.
    #[track_caller]
    pub(crate) fn start_again(&mut self, ready: impl Fn(&Self) -> bool) {
        wait_for("the database", || {
            let ended = match &mut self.child {
                Some(child) => child.try_wait().expect("wait for the database").is_some(),
                None => true,
            };
            if ended {
                let log = File::options().create(true).append(true).open(self.path().join("log")).expect("a log");
                let mut command = self.as_user(&self.command);
                command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
                self.child = Some(command.spawn().expect("start the database"));
            }
            ready(self).then_some(())
        });
    }

    /// Kills it and its children at once, as a crash would.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a running database");
        let pid = child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        child.kill().expect("kill the database");
        child.wait().expect("wait for the database");
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // It may have noticed by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    fn as_user(&self, words: &[String]) -> Command {
        let mut command = if getuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", "nogroup", "--clear-groups", "--"]).args(words);
            command
        } else {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            command
        };
        command.current_dir(self.path()).env("HOME", self.path());
        command
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read(self.path().join("log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the end of the database's log:\n{}\n---",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// Words of a command.
pub(crate) fn words<W: AsRef<OsStr>>(words: &[W]) -> Vec<String> {
    words.iter().map(|word| word.as_ref().to_str().expect("UTF-8").to_owned()).collect()
}

/// A program that a Debian package brings.
#[track_caller]
pub(crate) fn program(candidates: &[&str]) -> String {
    let found = candidates.iter().map(PathBuf::from).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("none of {candidates:?} is there: run tests/install-peers.sh")).display().to_string()
}
