//! A terminal that a test looks at: tmux with a server of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::common::{Server, wait_for};

/// What stands on the terminal before the program begins, and must stand there again afterwards.
pub(crate) const BEFORE: &str = "what was there before";

/// A terminal in which `gearmand top` runs, and after it a shell that says how that ended.
pub(crate) struct Screen {
    directory: TempDir,
}

impl Screen {
    /// Starts `gearmand top` for `server`, which is looked at every tenth of a second, on a terminal of this
    /// size.
    #[track_caller]
    pub(crate) fn start(server: &Server, width: u16, height: u16, environment: &[&str]) -> Self {
        let top = format!("'{}' top -i 0.1 -s {}", env!("CARGO_BIN_EXE_gearmand"), server.addr());
        // With `set -m` the program is a job that can be stopped, as in a shell that people use.
        let script = format!(
            "set -m; echo {BEFORE}; {top}; echo \"first status $?\"; read -r line; fg; echo \"last status $?\"; \
             stty -a; exec cat"
        );
        let screen = Self { directory: TempDir::new().expect("a temporary directory") };
        let (width, height) = (width.to_string(), height.to_string());
        let mut arguments = vec!["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height];
        for variable in environment {
            arguments.extend(["-e", variable]);
        }
        arguments.extend(["bash", "-c", &script]);
        screen.tmux(&arguments);
        screen
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("tmux")
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.socket()).args(arguments).env_remove("TMUX").env_remove("NO_COLOR");
        let Output { status, stdout, stderr } = command.output().expect("tmux: run tests/install-peers.sh");
        assert!(status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("tmux writes UTF-8")
    }

    /// What is on the terminal.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with the sequences that colour it.
    #[track_caller]
    pub(crate) fn coloured(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Waits until a line of the terminal has these words, with any spaces between them; returns the whole
    /// text.
    #[track_caller]
    pub(crate) fn shows(&self, words: &str) -> String {
        self.waits_for(words, |text| text.lines().any(|line| has_words(line, words)))
    }

    #[track_caller]
    pub(crate) fn waits_for(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, || {
                last = self.text();
                condition(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("no {what} on the terminal, but:\n{last}"))
    }

    /// Types keys by tmux's names.
    #[track_caller]
    pub(crate) fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    #[track_caller]
    pub(crate) fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// Sends a signal to `gearmand top`.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children =
            fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("children of the shell");
        let child = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("the program runs");
        kill(Pid::from_raw(child), signal).expect("signal the program");
    }

    /// Waits until the program has ended with this status, and looks whether the terminal is as it was.
    #[track_caller]
    pub(crate) fn ended(&self, status: i32) {
        let first = self.shows(&format!("first status {status}"));
        assert!(first.lines().next() == Some(BEFORE), "the screen was not given back:\n{first}");
        self.press(&["Enter"]);
        let settings = self.shows("last status");
        let settings = self.waits_for("terminal settings", |text| text.contains("icanon") || settings.is_empty());
        let words: Vec<&str> = settings.split([' ', '\n', ';']).collect();
        for setting in ["icanon", "echo", "isig"] {
            assert!(words.contains(&setting), "{setting} is off:\n{settings}");
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = Command::new("tmux").arg("-S").arg(self.socket()).arg("kill-server").env_remove("TMUX").output();
    }
}

/// Whether these words follow each other somewhere in the line.
fn has_words(line: &str, words: &str) -> bool {
    let words: Vec<&str> = words.split_whitespace().collect();
    let line: Vec<&str> = line.split_whitespace().collect();
    line.windows(words.len()).any(|window| window == words)
}
