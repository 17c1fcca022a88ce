//! Daemonizing (`-d`), with a correct exit status.
//!
//! gearmand's parent exits with success before the child binds, so a port in use goes unnoticed. Here the
//! parent waits until the child reports that it listens, and exits 0 then. Otherwise it prints what the child
//! reported, or how the child ended, and exits 1. Like gearmand's, the child keeps the working directory it
//! was started in. It gives up its terminal only when it is ready, so that no earlier output is lost.

use std::fs::{self, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::process;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

/// First byte of the child's only message: it is listening.
const READY: u8 = b'R';
/// First byte of the child's only message: it cannot start, for the reason that follows.
const FAILED: u8 = b'F';

/// Exit status of the parent when the child did not get ready.
const EXIT_FAILURE: i32 = 1;

/// The child's channel to the waiting parent. Dropping it unused counts as a crash.
#[derive(Debug)]
#[must_use = "the parent waits until it hears from the child"]
pub struct Readiness {
    parent: PipeWriter,
}

impl Readiness {
    /// Reports that all listeners are bound; the parent exits 0. Before that, standard input, output and
    /// error are redirected to `/dev/null`.
    ///
    /// # Errors
    /// When `/dev/null` cannot be opened or the parent is gone.
    pub fn ready(mut self) -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        io::stdout().flush()?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        self.parent.write_all(&[READY])
    }

    /// Reports why the child cannot start. The parent prints `reason` and exits 1; the child should end
    /// without printing it again.
    pub fn failed(mut self, reason: &str) {
        // If the parent is gone, the error is of no use.
        let _ = self.parent.write_all(&[&[FAILED], reason.as_bytes()].concat());
    }
}

/// Forks; returns in the child, which leads a new session. The parent never returns.
///
/// Must be called while the process has one thread: a fork copies only the calling thread, with whatever
/// locks the others held.
///
/// # Errors
/// When there is more than one thread, or no process or pipe can be created. Nothing has changed then.
pub fn detach() -> io::Result<Readiness> {
    if fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        return Err(io::Error::other("cannot detach: threads are running"));
    }
    let (child, parent) = io::pipe()?;
    match fork_single_threaded()? {
        ForkResult::Parent { child: pid } => {
            drop(parent);
            process::exit(await_child(pid, child))
        }
        ForkResult::Child => {
            drop(child);
            setsid()?;
            Ok(Readiness { parent })
        }
    }
}

#[allow(unsafe_code)]
fn fork_single_threaded() -> io::Result<ForkResult> {
    // SAFETY: fork is unsafe because a child of a process with several threads may call only
    // async-signal-safe functions. The caller has checked that this process has one thread, so the child is a
    // complete copy and may continue normally.
    Ok(unsafe { fork() }?)
}

/// Waits for the child's message or its end. Returns the exit status of the parent.
fn await_child(pid: Pid, mut child: PipeReader) -> i32 {
    let mut message = Vec::new();
    // A child that dies closes the pipe, so a read error is treated like an early end.
    let _ = child.read_to_end(&mut message);
    let reason = match message.split_first() {
        Some((&READY, _)) => return 0,
        Some((&FAILED, reason)) => String::from_utf8_lossy(reason).into_owned(),
        _ => format!("the background process ended before it was ready{}", fate(pid)),
    };
    let _ = writeln!(io::stderr(), "gearmand: {reason}");
    EXIT_FAILURE
}

/// How the child ended, as the last part of a sentence.
fn fate(pid: Pid) -> String {
    match waitpid(pid, None) {
        Ok(WaitStatus::Exited(_, status)) => format!(" (exit status {status})"),
        Ok(WaitStatus::Signaled(_, signal, _)) => format!(" (killed by {signal})"),
        Ok(_) | Err(_) => String::new(),
    }
}
