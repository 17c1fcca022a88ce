//! What a keeper and its workers say to each other: words in lines, over a pair of sockets that is the worker's standard input.
//!
//! The worker says `another` and gets `started PID` or `refused WHY`. The keeper says `leave` and, if it must be at once,
//! `kill`. When the line is dead the other side is.

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

/// What a worker says to ask for another one.
pub(super) const ANOTHER: &str = "another";
/// What a keeper says to have a worker finish and end.
pub(super) const LEAVE: &str = "leave";
/// What a keeper says to have a worker end at once.
pub(super) const KILL: &str = "kill";
/// The keeper's answer is awaited for so long: the monitor waits too.
const PATIENCE: Duration = Duration::from_millis(700);

/// A keeper's answer to [`ANOTHER`]: the process id of the new worker, or why there is none.
pub(super) type Started = Result<u32, String>;

/// The answer as a line.
pub(super) fn write_started(started: &Started) -> String {
    match started {
        Ok(pid) => format!("started {pid}\n"),
        Err(why) => format!("refused {}\n", why.replace('\n', " ")),
    }
}

/// The line as an answer.
fn read_started(line: &str) -> Option<Started> {
    match line.split_once(' ')? {
        ("started", pid) => Some(Ok(pid.parse().ok()?)),
        ("refused", why) => Some(Err(why.to_owned())),
        _ => None,
    }
}

/// A worker's way to its keeper.
#[derive(Debug)]
pub(super) struct Keeper(mpsc::Sender<oneshot::Sender<Started>>);

/// The other end, before it is served.
pub(super) struct Line {
    stream: UnixStream,
    wishes: mpsc::Receiver<oneshot::Sender<Started>>,
}

impl Keeper {
    /// Takes the line from standard input.
    ///
    /// # Errors
    /// When standard input cannot be a line.
    pub(super) fn on_standard_input() -> io::Result<(Self, Line)> {
        let stream = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        stream.set_nonblocking(true)?;
        let (sender, wishes) = mpsc::channel(16);
        Ok((Self(sender), Line { stream: UnixStream::from_std(stream)?, wishes }))
    }

    /// One who is gone.
    #[cfg(test)]
    pub(super) fn nobody() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// Asks for one more worker.
    pub(super) async fn another(&self) -> Started {
        let (sender, answer) = oneshot::channel();
        let asked = async {
            self.0.send(sender).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Some(started)) => started,
            Ok(None) => Err("the keeper of this worker is gone".to_owned()),
            Err(_) => Err(format!("the keeper of this worker has not answered within {PATIENCE:?}; it may do it yet")),
        }
    }
}

impl Line {
    /// Carries wishes and answers, and does what the keeper says, until the keeper is gone; then the worker leaves.
    pub(super) async fn serve(mut self, worker: Arc<Managed>) {
        let (reader, mut writer) = self.stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let mut waiting: VecDeque<oneshot::Sender<Started>> = VecDeque::new();
        loop {
            tokio::select! {
                line = lines.next_line() => match line.unwrap_or_default().as_deref() {
                    Some(LEAVE) => worker.leave(End::Retired),
                    Some(KILL) => {
                        worker.leave(End::Retired);
                        worker.kill.cancel();
                    }
                    Some(line) => if let (Some(started), Some(asker)) = (read_started(line), waiting.pop_front()) {
                        // Who asked may have lost patience.
                        let _ = asker.send(started);
                    },
                    None => break,
                },
                Some(asker) = self.wishes.recv() => {
                    waiting.push_back(asker);
                    if writer.write_all(format!("{ANOTHER}\n").as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        }
        if !worker.stop.is_cancelled() {
            tell("work", format_args!("the keeper of this worker is gone; it finishes its job and ends"));
        }
        worker.leave(End::Retired);
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
