//! IPC between the supervisor and its workers: words on lines, over a socket pair that is the worker's
//! standard input.
//!
//! The worker sends `another` and gets `started PID` or `refused WHY`. The supervisor sends `leave` and, if
//! the worker must end immediately, `kill`. When the socket closes, the other process is gone.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::super::tell;
use super::state::{End, Managed};

/// Worker: request to start another worker.
pub(super) const ANOTHER: &str = "another";
/// Supervisor: finish the job and exit.
pub(super) const LEAVE: &str = "leave";
/// Supervisor: exit immediately.
pub(super) const KILL: &str = "kill";
/// Time limit for the supervisor's answer. The monitor is waiting too.
const PATIENCE: Duration = Duration::from_millis(700);

/// Answer to [`ANOTHER`]: the process id of the new worker, or the reason for the refusal.
pub(super) type Started = Result<u32, String>;

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
pub(super) struct SupervisorHandle(mpsc::Sender<oneshot::Sender<Started>>);

/// The worker's end of the socket, before it is served.
pub(super) struct Line {
    stream: UnixStream,
    requests: mpsc::Receiver<oneshot::Sender<Started>>,
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
        Ok((Self(sender), Line { stream: UnixStream::from_std(stream)?, requests }))
    }

    /// A supervisor that is gone.
    #[cfg(test)]
    pub(super) fn nobody() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// Requests another worker.
    pub(super) async fn another(&self) -> Started {
        let (sender, answer) = oneshot::channel();
        let asked = async {
            self.0.send(sender).await.ok()?;
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
            tokio::select! {
                line = lines.next_line() => match line.unwrap_or_default().as_deref() {
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
                },
                Some(asker) = self.requests.recv() => {
                    waiting.push_back(asker);
                    if writer.write_all(format!("{ANOTHER}\n").as_bytes()).await.is_err() {
                        break;
                    }
                }
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
}
