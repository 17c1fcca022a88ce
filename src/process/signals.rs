//! Blocking of signals until the server handles them.
//!
//! HUP and USR1 end a process that has no handler for them. A program that reads the pid file may send one at
//! once. So they are blocked from the start, and delivered when a handler is installed.

use std::io;

use nix::sys::signal::{SigSet, Signal};

/// All signals that are blocked.
const ALL: [Signal; 4] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGINT];

/// Blocks HUP and USR1, whose default action would end the process. Threads that are started later inherit
/// this. Call it first.
///
/// # Errors
/// The system error.
pub fn hold_reload_and_drain() -> io::Result<()> {
    hold(&ALL[..2])
}

/// Blocks TERM and INT too, so that files of the process are removed in order. Call it before there is a pid
/// file.
///
/// # Errors
/// The system error.
pub fn hold_all() -> io::Result<()> {
    hold(&ALL)
}

fn hold(signals: &[Signal]) -> io::Result<()> {
    Ok(signals.iter().copied().collect::<SigSet>().thread_block()?)
}

/// Unblocks the signals for this thread and delivers pending ones. Call it when handlers are installed.
///
/// # Errors
/// The system error.
pub fn release() -> io::Result<()> {
    Ok(ALL.into_iter().collect::<SigSet>().thread_unblock()?)
}
