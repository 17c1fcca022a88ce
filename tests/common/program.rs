//! A program that a test runs beside the server, and whose lines it reads: a client, a worker, a tool.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{DEADLINE, wait_for};

/// A running program. It is killed when this is dropped; if that happens because the test fails, what it
/// wrote to standard error is printed.
pub(crate) struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<Vec<u8>>>,
    patience: Duration,
}

impl Program {
    /// Starts `command` with its three standard streams connected to the test.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let name = shown(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut stderr = child.stderr.take().expect("a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            text
        });
        Self { name, stdin: child.stdin.take(), child, lines, errors: Some(errors), patience: DEADLINE }
    }

    /// Lets it take this long for a line, instead of [`DEADLINE`].
    pub(crate) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    #[track_caller]
    pub(crate) fn send_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        writeln!(stdin, "{line}").unwrap_or_else(|error| panic!("{} does not read: {error}", self.name));
    }

    /// Closes its standard input.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The next line of its standard output, or `None` at its end.
    #[track_caller]
    pub(crate) fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(self.patience) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{} printed nothing for {:?}", self.name, self.patience)
            }
        }
    }

    /// Reads the next line and compares it.
    #[track_caller]
    pub(crate) fn expect_line(&self, expected: &str) {
        assert_eq!(self.line().as_deref(), Some(expected), "{}", self.name);
    }

    /// Reads the lines that are left and waits for its end.
    #[track_caller]
    pub(crate) fn finish(&mut self) -> (Vec<String>, ExitStatus) {
        self.stdin = None;
        let lines = std::iter::from_fn(|| self.line()).collect();
        let status =
            wait_for(&format!("the end of {}", self.name), || self.child.try_wait().expect("wait for a program"));
        (lines, status)
    }

    /// Reads the lines that are left, compares them, and wants a successful end.
    #[track_caller]
    pub(crate) fn expect_end(&mut self, expected: &[&str]) {
        let (lines, status) = self.finish();
        assert_eq!(lines, expected, "{}", self.name);
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// Ends it at once, as a crash would.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill a program");
        self.child.wait().expect("wait for a program");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only for a program that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let errors = self.errors.take().and_then(|thread| thread.join().ok());
        if std::thread::panicking()
            && let Some(text) = errors.filter(|text| !text.is_empty())
        {
            eprintln!("--- standard error of {}:\n{}---", self.name, String::from_utf8_lossy(&text));
        }
    }
}

/// The command as one would type it, with short paths.
fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().replace(env!("CARGO_MANIFEST_DIR"), "."))
        .collect::<Vec<_>>()
        .join(" ")
}
