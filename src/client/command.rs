//! Run of a worker's command for one job: writes the workload to it, reads its output and waits for its end.
//!
//! Writing to its standard input, reading both of its outputs, waiting for its exit and the time limit run
//! concurrently, so that the command cannot block the worker, whatever the amount of data and the order in
//! which it reads and writes. It leads its own process group: an interrupt typed at the terminal does not
//! reach it, and a kill also reaches its children. If the worker dies, the kernel kills the command.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::answer::AssignedJob;
use super::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, ToolError};

/// Largest read of the command's output and largest part that is sent to the server, in bytes.
const CHUNK: usize = 64 * 1024;
/// How much of the end of standard error is sent as the exception, in bytes.
const EXCEPTION_MAX: usize = 64 * 1024;
/// Time between SIGTERM and SIGKILL.
pub(super) const TERM_GRACE: Duration = Duration::from_secs(2);
/// How long output is awaited after the command has exited: a surviving child may hold its pipes open.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// The command to run, and how its output is used.
#[derive(Debug)]
pub(super) struct JobCommand {
    /// Searched in PATH if it contains no slash.
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
    /// After this time the command is killed and the job fails.
    pub(super) timeout: Option<Duration>,
    /// Standard output is sent in parts as it is written (WORK_DATA), not as one result.
    pub(super) stream: bool,
    /// Standard error is sent as warnings, not passed to the worker's own standard error.
    pub(super) warnings: bool,
    /// The end of standard error is sent as the reason of a failure.
    pub(super) exception: bool,
    /// Longest result, in bytes.
    pub(super) result_max: usize,
}

/// Event of a run.
#[derive(Debug)]
pub(super) enum Event {
    /// A part of the result.
    Data(Vec<u8>),
    /// A part of standard error.
    Warning(Vec<u8>),
    /// The last event.
    Ended(Outcome),
}

/// A command that has been started.
pub(super) struct Running {
    /// The caller must receive them; the last one is [`Event::Ended`].
    pub(super) events: mpsc::Receiver<Event>,
    /// The process group that the command leads.
    pub(super) group: Option<u32>,
}

/// How a run ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Exited with status 0. Contains the result, or the part of it that was not sent yet.
    Complete(Vec<u8>),
    /// The job has failed.
    Failed {
        /// The reason, for people.
        reason: String,
        /// The end of standard error, if requested.
        stderr: Vec<u8>,
    },
    /// Killed because the worker was told to stop immediately. The job has no result.
    Killed,
}

/// Why a run is over, before its output is evaluated.
enum End {
    Exited(ExitStatus),
    TimedOut,
    TooLarge,
    Killed,
    Lost(io::Error),
}

/// Output of a run so far.
#[derive(Default)]
struct Said {
    result: Vec<u8>,
    stderr: Vec<u8>,
}

/// Signals between the tasks that read the output and the task that waits for the exit.
#[derive(Default)]
struct Marks {
    /// The process has exited. Output may still be in its pipes.
    exited: CancellationToken,
    /// The result is longer than allowed.
    too_large: CancellationToken,
}

impl Marks {
    /// Reads some output. Returns false at its end; once the command has exited, silence for [`OUTPUT_GRACE`]
    /// counts as the end too. Only silence counts: output that waits to be sent is not cut off.
    async fn read(&self, output: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> bool {
        tokio::select! {
            biased;
            count = output.read_buf(buffer) => count.is_ok_and(|count| count > 0),
            () = async { self.exited.cancelled().await; tokio::time::sleep(OUTPUT_GRACE).await } => false,
        }
    }
}

impl JobCommand {
    /// Checks that the program exists, so that a wrong name is reported before it fails the first job.
    pub(super) fn check(&self) -> Result<(), ToolError> {
        let name = self.program.display();
        match find_program(&self.program, std::env::var_os("PATH").as_deref()) {
            Some(path) if is_executable(&path) => Ok(()),
            Some(path) => Err(ToolError::Command {
                status: EXIT_NOT_EXECUTABLE,
                message: format!("cannot execute {}: not an executable file", path.display()),
            }),
            None => Err(ToolError::Command { status: EXIT_NOT_FOUND, message: format!("command not found: {name}") }),
        }
    }

    /// Starts a run.
    ///
    /// # Errors
    /// When no process can be created. The job is not to blame for that.
    pub(super) fn start(self: &Arc<Self>, job: &AssignedJob, kill: CancellationToken) -> io::Result<Running> {
        let capture = self.warnings || self.exception;
        let mut process = Command::new(&self.program);
        process
            .args(&self.arguments)
            .env("GEARMAN_JOB_HANDLE", OsStr::from_bytes(&job.handle))
            .env("GEARMAN_JOB_UNIQUE", OsStr::from_bytes(&job.unique))
            .env("GEARMAN_FUNCTION", OsStr::from_bytes(&job.function))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(if capture { Stdio::piped() } else { Stdio::inherit() })
            .process_group(0)
            .kill_on_drop(true);
        die_with_this_thread(&mut process);
        let mut child = process.spawn()?;
        let group = child.id();
        let (events, receiver) = mpsc::channel(4);
        let command = Arc::clone(self);
        let workload = job.workload.clone();
        tokio::spawn(async move {
            let mut said = Said::default();
            let end = command.supervise(&mut child, workload, &mut said, &events, &kill).await;
            let outcome = command.judge(end, said);
            // The receiver is dropped only when the whole worker ends.
            let _ = events.send(Event::Ended(outcome)).await;
        });
        Ok(Running { events: receiver, group })
    }

    async fn supervise(
        &self,
        child: &mut Child,
        workload: Bytes,
        said: &mut Said,
        events: &mpsc::Sender<Event>,
        kill: &CancellationToken,
    ) -> End {
        let marks = Marks::default();
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut feeding = pin!(feed(stdin, workload));
        let mut listening = pin!(async {
            tokio::join!(
                self.read_stdout(stdout, &mut said.result, events, &marks),
                self.read_stderr(stderr, &mut said.stderr, events, &marks)
            )
        });
        let mut timeout = pin!(async {
            match self.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        });
        let (mut fed, mut heard, mut exited) = (false, false, None);
        let end = loop {
            tokio::select! {
                () = &mut feeding, if !fed && exited.is_none() => fed = true,
                _ = &mut listening, if !heard => heard = true,
                status = child.wait(), if exited.is_none() => match status {
                    Ok(status) => exited = Some(status),
                    Err(error) => break End::Lost(error),
                },
                () = &mut timeout => break End::TimedOut,
                () = marks.too_large.cancelled() => break End::TooLarge,
                () = kill.cancelled() => break End::Killed,
            }
            if let Some(status) = exited {
                marks.exited.cancel();
                if heard {
                    break if marks.too_large.is_cancelled() { End::TooLarge } else { End::Exited(status) };
                }
            }
        };
        if matches!(end, End::TimedOut | End::TooLarge) {
            signal_group(child, Signal::SIGTERM);
            // A command that cleans up must be able to write while it does.
            let ended = async {
                loop {
                    tokio::select! {
                        _ = &mut listening, if !heard => heard = true,
                        _ = child.wait() => return,
                    }
                }
            };
            if tokio::time::timeout(TERM_GRACE, ended).await.is_ok() {
                return end;
            }
        }
        if !matches!(end, End::Exited(_)) {
            signal_group(child, Signal::SIGKILL);
            let _ = child.wait().await;
        }
        end
    }

    async fn read_stdout(
        &self,
        stdout: Option<impl AsyncRead + Unpin>,
        result: &mut Vec<u8>,
        events: &mpsc::Sender<Event>,
        marks: &Marks,
    ) {
        let Some(mut stdout) = stdout else { return };
        loop {
            if self.stream {
                let mut chunk = Vec::with_capacity(CHUNK);
                if !marks.read(&mut stdout, &mut chunk).await {
                    return;
                }
                let _ = events.send(Event::Data(chunk)).await;
                continue;
            }
            result.reserve(CHUNK.min(self.result_max));
            if !marks.read(&mut stdout, result).await {
                return;
            }
            if result.len() > self.result_max {
                marks.too_large.cancel();
                // From here on output is read only to keep the command from blocking.
                result.clear();
            }
        }
    }

    async fn read_stderr(
        &self,
        stderr: Option<impl AsyncRead + Unpin>,
        tail: &mut Vec<u8>,
        events: &mpsc::Sender<Event>,
        marks: &Marks,
    ) {
        let Some(mut stderr) = stderr else { return };
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            if !marks.read(&mut stderr, &mut chunk).await {
                return;
            }
            if self.exception {
                tail.extend_from_slice(&chunk);
                tail.drain(..tail.len().saturating_sub(EXCEPTION_MAX));
            }
            if self.warnings {
                let _ = events.send(Event::Warning(chunk)).await;
            } else {
                let _ = io::Write::write_all(&mut io::stderr().lock(), &chunk);
            }
        }
    }

    fn judge(&self, end: End, said: Said) -> Outcome {
        let reason = match end {
            End::Exited(status) if status.success() => return Outcome::Complete(said.result),
            End::Killed => return Outcome::Killed,
            End::Exited(status) => status.to_string(),
            End::TimedOut => format!("killed after {} s", self.timeout.unwrap_or_default().as_secs_f64()),
            End::TooLarge => format!("killed: its result is longer than {} bytes", self.result_max),
            End::Lost(error) => format!("cannot wait for the command: {error}"),
        };
        Outcome::Failed { reason, stderr: said.stderr }
    }
}

/// Has the kernel kill the command when this process dies, even by SIGKILL: another worker gets its job then,
/// and two must not run it at once. The kernel watches the thread that starts the command, which is the only
/// thread of the worker's runtime.
#[allow(unsafe_code, reason = "code between fork and exec has to keep to rules that the compiler cannot check")]
fn die_with_this_thread(process: &mut Command) {
    let worker = getpid();
    let obey = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // The worker may have died before this call.
        if getppid() == worker { Ok(()) } else { Err(io::Error::from(Errno::ESRCH)) }
    };
    // SAFETY: it makes two system calls, and neither allocates nor takes a lock.
    unsafe {
        process.pre_exec(obey);
    }
}

/// Writes the workload to standard input. A command need not read it: unread input is not an error.
async fn feed(stdin: Option<ChildStdin>, workload: Bytes) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(&workload).await;
    }
}

/// Signals the process group. The leader must not have been waited for yet: until then no other group can
/// have its id.
fn signal_group(child: &Child, signal: Signal) {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // The group may have ended just now.
        let _ = killpg(Pid::from_raw(id), signal);
    }
}

/// Finds the file that would be executed. Returns a file that is not executable only if there is no other.
fn find_program(program: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        let file = PathBuf::from(program);
        return file.exists().then_some(file);
    }
    if program.is_empty() {
        return None;
    }
    let candidates = || {
        let directories = path.map(std::env::split_paths).into_iter().flatten();
        directories.map(|directory| directory.join(program)).filter(|file| file.is_file())
    };
    candidates().find(|file| is_executable(file)).or_else(|| candidates().next())
}

fn is_executable(file: &Path) -> bool {
    match file.metadata() {
        Ok(metadata) => metadata.is_file() && metadata.permissions().mode() & 0o111 != 0,
        // A file that cannot be inspected may still be executable; the first job will show it.
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> JobCommand {
        JobCommand {
            program: OsString::from("sh"),
            arguments: vec![OsString::from("-c"), OsString::from(script)],
            timeout: None,
            stream: false,
            warnings: false,
            exception: true,
            result_max: 16 << 20,
        }
    }

    fn job(workload: Vec<u8>) -> AssignedJob {
        AssignedJob {
            handle: Bytes::from_static(b"H:1"),
            function: Bytes::from_static(b"f"),
            unique: Bytes::from_static(b"u"),
            workload: Bytes::from(workload),
        }
    }

    async fn run(command: JobCommand, workload: Vec<u8>, kill: CancellationToken) -> Outcome {
        let mut events = Arc::new(command).start(&job(workload), kill).unwrap().events;
        loop {
            if let Some(Event::Ended(outcome)) = events.recv().await {
                return outcome;
            }
        }
    }

    fn failure(outcome: &Outcome) -> (&str, &[u8]) {
        match outcome {
            Outcome::Failed { reason, stderr } => (reason, stderr),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn large_input_and_output_at_once_do_not_block() {
        let workload = vec![b'x'; 4 << 20];
        let outcome = run(shell("cat"), workload.clone(), CancellationToken::new()).await;
        assert!(matches!(outcome, Outcome::Complete(result) if result == workload));
        // The command does not read its input.
        let outcome =
            run(shell("echo $GEARMAN_JOB_HANDLE $GEARMAN_FUNCTION"), workload, CancellationToken::new()).await;
        assert!(matches!(outcome, Outcome::Complete(result) if result == b"H:1 f\n"));
    }

    #[tokio::test]
    async fn a_failure_brings_the_end_of_standard_error() {
        let outcome = run(shell("echo no such luck >&2; exit 3"), Vec::new(), CancellationToken::new()).await;
        assert_eq!(failure(&outcome), ("exit status: 3", &b"no such luck\n"[..]));
    }

    #[tokio::test]
    async fn time_and_size_have_limits() {
        let mut command = shell("echo before >&2; exec sleep 100");
        command.timeout = Some(Duration::from_millis(50));
        let outcome = run(command, Vec::new(), CancellationToken::new()).await;
        assert_eq!(failure(&outcome).0, "killed after 0.05 s");
        // The command closes its outputs, so that there is nothing left to read when the time limit expires.
        let mut command = shell("exec >&- 2>&-; sleep 100");
        command.timeout = Some(Duration::from_millis(50));
        let outcome = run(command, Vec::new(), CancellationToken::new()).await;
        assert_eq!(failure(&outcome).0, "killed after 0.05 s");
        let mut command = shell("yes");
        command.result_max = 1000;
        let outcome = run(command, Vec::new(), CancellationToken::new()).await;
        assert_eq!(failure(&outcome).0, "killed: its result is longer than 1000 bytes");
    }

    #[tokio::test]
    async fn a_child_that_lives_on_does_not_hold_the_job() {
        let outcome = run(shell("echo done; sleep 100 &"), vec![b'x'; 1 << 20], CancellationToken::new()).await;
        assert!(matches!(outcome, Outcome::Complete(result) if result == b"done\n"));
    }

    #[tokio::test]
    async fn a_kill_leaves_no_result() {
        let kill = CancellationToken::new();
        kill.cancel();
        assert!(matches!(run(shell("trap '' TERM; sleep 100"), Vec::new(), kill).await, Outcome::Killed));
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert_eq!(find_program(OsStr::new("sh"), Some(OsStr::new("/nowhere:/bin"))), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find_program(OsStr::new("no-such-program"), Some(OsStr::new("/bin"))), None);
        assert_eq!(find_program(OsStr::new(""), Some(OsStr::new("/bin"))), None);
        assert!(!is_executable(Path::new("/etc/passwd")));
        assert!(!is_executable(Path::new("/etc")));
    }
}
