//! Supervisor process of managed workers: starts them, replaces those that have ended, and exits after the
//! last one.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, io};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::backoff::Backoff;
use super::super::{ToolError, tell, worker};
use super::settings::Settings;
use super::state::End;
use super::supervisor_ipc::{KILL, LEAVE, Started, WorkerMessage, write_started};

/// After this lifetime a worker counts as stable: the backoff before its restart starts over.
const STEADY: Duration = Duration::from_secs(30);
/// Time for a worker to end after `kill`, with its command killed, before it is killed itself.
const KILL_GRACE: Duration = Duration::from_secs(3);
/// Time to read the last messages of a worker that has died.
const LAST_MESSAGES: Duration = Duration::from_secs(1);

/// Runs workers until the last one was told to exit.
pub(super) async fn run(settings: &Settings) -> Result<u8, ToolError> {
    // Report an unreadable version once here, not once per worker.
    settings.version.read().map_err(ToolError::Usage)?;
    let (requests, mut inbox) = mpsc::channel(16);
    let supervisor = Arc::new(Supervisor {
        program: program().map_err(|error| ToolError::Io("cannot find own executable", error))?,
        arguments: child_arguments(env::args_os().skip(1)),
        verbose: settings.verbose,
        requests,
        stop: CancellationToken::new(),
        kill: CancellationToken::new(),
    });
    worker::obey_signals(supervisor.stop.clone(), supervisor.kill.clone())?;
    let mut slots = JoinSet::new();
    for _ in 0..settings.workers {
        slots.spawn(WorkerSlot::new(&supervisor).run(None));
    }
    loop {
        tokio::select! {
            Some(request) = inbox.recv() => {
                let request: oneshot::Sender<Started> = request;
                let started = if supervisor.stop.is_cancelled() {
                    Err("supervisor is stopping".to_owned())
                } else if slots.len() >= settings.max_workers {
                    let most = settings.max_workers;
                    Err(format!("this host already has {most} workers, the limit of --max-workers"))
                } else {
                    supervisor.start().map_err(|error| format!("cannot start a worker: {error}"))
                };
                // The answer is dropped if the requesting worker has died.
                let _ = request.send(started.map(|worker| {
                    let pid = worker.pid;
                    slots.spawn(WorkerSlot::new(&supervisor).run(Some(worker)));
                    pid
                }));
            }
            ended = slots.join_next() => if ended.is_none() {
                return Ok(0);
            },
        }
    }
}

/// State shared by all worker slots.
struct Supervisor {
    program: PathBuf,
    arguments: Vec<OsString>,
    verbose: bool,
    /// Requests to start another worker; the answer is its process id.
    requests: mpsc::Sender<oneshot::Sender<Started>>,
    stop: CancellationToken,
    kill: CancellationToken,
}

/// A running worker process.
struct Worker {
    pid: u32,
    child: Child,
    line: UnixStream,
}

impl Supervisor {
    fn start(&self) -> io::Result<Worker> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // An interrupt typed at the terminal goes to the supervisor, which forwards it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().unwrap_or_default();
        if self.verbose {
            tell("work", format_args!("worker {pid} started"));
        }
        Ok(Worker { pid, child, line: UnixStream::from_std(ours)? })
    }
}

/// A worker slot: one worker at a time, restarted when it ends.
struct WorkerSlot {
    supervisor: Arc<Supervisor>,
    backoff: Backoff,
}

impl WorkerSlot {
    fn new(supervisor: &Arc<Supervisor>) -> Self {
        Self { supervisor: Arc::clone(supervisor), backoff: Backoff::new() }
    }

    /// Restarts the worker until one was told to exit, or the supervisor stops. `worker` may already be
    /// running.
    async fn run(mut self, mut worker: Option<Worker>) {
        while worker.is_some() || !self.supervisor.stop.is_cancelled() {
            let begin = Instant::now();
            let what = match worker.take().map_or_else(|| self.supervisor.start(), Ok) {
                Err(error) => format!("cannot start a worker: {error}"),
                Ok(worker) => {
                    let pid = worker.pid;
                    match self.supervise(worker).await {
                        Ok(status) if End::of(status) == Some(End::Stopped) => {
                            tell("work", format_args!("worker {pid} exited as requested"));
                            return;
                        }
                        Ok(status) if End::of(status) == Some(End::Recycled) => continue,
                        Ok(status) => format!("worker {pid} has died ({status})"),
                        Err(error) => format!("cannot wait for worker {pid}: {error}"),
                    }
                }
            };
            if self.supervisor.stop.is_cancelled() {
                return;
            }
            if begin.elapsed() >= STEADY {
                self.backoff.reset();
            }
            let pause = self.backoff.pause();
            tell("work", format_args!("{what}; starting another one in {:.1} s", pause.as_secs_f64()));
            tokio::select! {
                () = self.supervisor.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Communicates with a worker until it ends. If it has died, its command is killed.
    async fn supervise(&self, worker: Worker) -> io::Result<ExitStatus> {
        let Supervisor { stop, kill, .. } = &*self.supervisor;
        let mut child = worker.child;
        let (reader, mut writer) = worker.line.into_split();
        let mut lines = BufReader::new(reader).lines();
        let (mut listening, mut told_to_leave, mut told_to_kill) = (true, false, false);
        let mut command = None;
        let status = loop {
            let said = tokio::select! {
                status = child.wait() => break status?,
                line = lines.next_line(), if listening => {
                    match line.unwrap_or_default().map(|line| WorkerMessage::read(&line)) {
                        Some(Some(WorkerMessage::Another)) => write_started(&self.another().await),
                        Some(Some(WorkerMessage::Command(group))) => {
                            command = group;
                            continue;
                        }
                        Some(None) => continue,
                        None => {
                            listening = false;
                            continue;
                        }
                    }
                }
                () = stop.cancelled(), if !told_to_leave => {
                    told_to_leave = true;
                    format!("{LEAVE}\n")
                }
                () = kill.cancelled(), if !told_to_kill => {
                    told_to_kill = true;
                    format!("{KILL}\n")
                }
                () = tokio::time::sleep(KILL_GRACE), if told_to_kill => {
                    child.start_kill()?;
                    break child.wait().await?;
                }
            };
            // A worker that no longer reads is about to end.
            let _ = writer.write_all(said.as_bytes()).await;
        };
        if End::of(status).is_none() {
            kill_command(&mut lines, command).await;
        }
        Ok(status)
    }

    async fn another(&self) -> Started {
        let (request, started) = oneshot::channel();
        let gone = || "supervisor is stopping".to_owned();
        self.supervisor.requests.send(request).await.map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }
}

/// Kills the command of a worker that has died: its job goes to another worker, and must not run twice at
/// once. The kernel kills the command itself, whose process group may contain others.
async fn kill_command(lines: &mut Lines<BufReader<OwnedReadHalf>>, mut command: Option<u32>) {
    let rest = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(WorkerMessage::Command(group)) = WorkerMessage::read(&line) {
                command = group;
            }
        }
    };
    // The end of the worker closes its socket.
    let _ = tokio::time::timeout(LAST_MESSAGES, rest).await;
    let group = command.and_then(|group| i32::try_from(group).ok());
    // 0 would be the group of this process.
    if let Some(group) = group.filter(|group| *group > 1) {
        // The group may be empty.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

/// The path of this program as it was invoked, so that the next worker starts a new version that was
/// installed in its place or behind a symbolic link.
fn program() -> io::Result<PathBuf> {
    let running = env::current_exe()?;
    let called = env::args_os().next().map(PathBuf::from).filter(|called| called.components().count() > 1);
    Ok(match called.map(std::path::absolute) {
        Some(Ok(called)) if is_same(&called, &running) => called,
        _ => running,
    })
}

fn is_same(called: &Path, running: &Path) -> bool {
    called.canonicalize().is_ok_and(|called| called == running)
}

/// The command line of a worker: that of the supervisor, with a marker option after the word `work`.
fn child_arguments(mut own: impl Iterator<Item = OsString>) -> Vec<OsString> {
    own.next().into_iter().chain([OsString::from("--managed-child")]).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_told_what_its_supervisor_was_told() {
        let own = ["work", "--managed", "-f", "f=cat"].map(OsString::from);
        assert_eq!(child_arguments(own.into_iter()), ["work", "--managed-child", "--managed", "-f", "f=cat"]);
    }
}
