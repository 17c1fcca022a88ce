//! IPC between the supervisor and its workers: words on lines, over a socket pair that is the worker's
//! standard input.
//!
//! The worker sends `another` and gets `started PID` or `refused WHY`. It sends `command PID` when a command
//! starts, whose process group has this number, and `command` when it has ended. The supervisor sends `leave`
//! and, if the worker must end immediately, `kill`. When the socket closes, the other process is gone.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::tell;
use super::state::{End, Managed};

/// Worker: request to start another worker.
const ANOTHER: &str = "another";
/// Worker: the process group of the running command follows; nothing follows if none runs.
const COMMAND: &str = "command";
/// Supervisor: finish the job and exit.
pub(super) const LEAVE: &str = "leave";
/// Supervisor: exit immediately.
pub(super) const KILL: &str = "kill";
/// Time limit for the supervisor's answer. The monitor is waiting too.
const PATIENCE: Duration = Duration::from_millis(700);

/// Answer to [`ANOTHER`]: the process id of the new worker, or the reason for the refusal.
pub(super) type Started = Result<u32, String>;

/// Message of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerMessage {
    /// Request to start another worker.
    Another,
    /// The process group of the running command, or that none runs.
    Command(Option<u32>),
}

impl WorkerMessage {
    fn write(self) -> String {
        match self {
            Self::Another => format!("{ANOTHER}\n"),
            Self::Command(Some(group)) => format!("{COMMAND} {group}\n"),
            Self::Command(None) => format!("{COMMAND}\n"),
        }
    }

    /// Parses a line.
    pub(super) fn read(line: &str) -> Option<Self> {
        match line.split_once(' ') {
            None if line == ANOTHER => Some(Self::Another),
            None if line == COMMAND => Some(Self::Command(None)),
            Some((COMMAND, group)) => Some(Self::Command(Some(group.parse().ok()?))),
            _ => None,
        }
    }
}

/// Formats the answer as a line.
pub(super) fn write_started(started: &Started) -> String {
    match started {
        Ok(pid) => format!("started {pid}\n"),
        Err(why) => format!("refused {}\n", why.replace('\n', " ")),
    }
}

/// Parses an answer.
fn read_started(line: &str) -> Option<Started> {
    match line.split_once(' ')? {
        ("started", pid) => Some(Ok(pid.parse().ok()?)),
        ("refused", why) => Some(Err(why.to_owned())),
        _ => None,
    }
}

/// A worker's handle to its supervisor.
#[derive(Debug)]
pub(super) struct SupervisorHandle {
    requests: mpsc::Sender<oneshot::Sender<Started>>,
    /// The process group of the running command, which the supervisor kills if this worker dies.
    pub(super) command: watch::Sender<Option<u32>>,
}

/// The worker's end of the socket, before it is served.
pub(super) struct Line {
    stream: UnixStream,
    requests: mpsc::Receiver<oneshot::Sender<Started>>,
    command: watch::Receiver<Option<u32>>,
}

impl SupervisorHandle {
    /// Uses standard input as the socket.
    ///
    /// # Errors
    /// When standard input cannot be used as a socket.
    pub(super) fn on_standard_input() -> io::Result<(Self, Line)> {
        let stream = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        stream.set_nonblocking(true)?;
        let (sender, requests) = mpsc::channel(16);
        let command = watch::Sender::new(None);
        let line = Line { stream: UnixStream::from_std(stream)?, requests, command: command.subscribe() };
        Ok((Self { requests: sender, command }, line))
    }

    /// A supervisor that is gone.
    #[cfg(test)]
    pub(super) fn nobody() -> Self {
        Self { requests: mpsc::channel(1).0, command: watch::Sender::new(None) }
    }

    /// Requests another worker.
    pub(super) async fn another(&self) -> Started {
        let (sender, answer) = oneshot::channel();
        let asked = async {
            self.requests.send(sender).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Some(started)) => started,
            Ok(None) => Err("supervisor of this worker is gone".to_owned()),
            Err(_) => {
                Err(format!("no answer from the supervisor of this worker within {PATIENCE:?}; it may still start one"))
            }
        }
    }
}

impl Line {
    /// Forwards requests and answers, and obeys the supervisor. When the supervisor is gone, the worker
    /// leaves.
    pub(super) async fn serve(mut self, worker: Arc<Managed>) {
        let (reader, mut writer) = self.stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let mut waiting: VecDeque<oneshot::Sender<Started>> = VecDeque::new();
        loop {
            let message = tokio::select! {
                line = lines.next_line() => {
                    match line.unwrap_or_default().as_deref() {
                        Some(LEAVE) => worker.leave(End::Recycled),
                        Some(KILL) => {
                            worker.leave(End::Recycled);
                            worker.kill.cancel();
                        }
                        Some(line) => if let (Some(started), Some(asker)) = (read_started(line), waiting.pop_front()) {
                            // The request may have timed out.
                            let _ = asker.send(started);
                        },
                        None => break,
                    }
                    continue;
                }
                Some(asker) = self.requests.recv() => {
                    waiting.push_back(asker);
                    WorkerMessage::Another
                }
                Ok(()) = self.command.changed() => WorkerMessage::Command(*self.command.borrow_and_update()),
            };
            if writer.write_all(message.write().as_bytes()).await.is_err() {
                break;
            }
        }
        if !worker.stop.is_cancelled() {
            tell("work", format_args!("supervisor of this worker is gone; exiting after the current job"));
        }
        worker.leave(End::Recycled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_lines() {
        for started in [Ok(4711), Err("no more\nthan that".to_owned())] {
            let line = write_started(&started);
            let (line, rest) = line.split_once('\n').unwrap();
            assert_eq!((read_started(line), rest), (Some(started.map_err(|why| why.replace('\n', " "))), ""));
        }
        assert_eq!((read_started("started x"), read_started("leave")), (None, None));
    }

    #[test]
    fn messages_are_lines() {
        for message in [WorkerMessage::Another, WorkerMessage::Command(Some(4711)), WorkerMessage::Command(None)] {
            assert_eq!(WorkerMessage::read(message.write().trim_end()), Some(message));
        }
        assert_eq!((WorkerMessage::read("command -1"), WorkerMessage::read("started 1")), (None, None));
    }
}
