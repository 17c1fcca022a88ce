//! Signals that come before the server handles them.
//!
//! HUP and USR1 end a process that has no handler for them. Whoever reads the pid file may send one at once, so they are
//! held back from the first moment on, and are handled as soon as there is a handler.

use std::io;

use nix::sys::signal::{SigSet, Signal};

/// All that are held back.
const ALL: [Signal; 4] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGINT];

/// Holds back signals that would end the process though they do not mean that: HUP and USR1. Threads that are started later
/// do so too. Call it first.
///
/// # Errors
/// What the system says.
pub fn hold_reload_and_drain() -> io::Result<()> {
    hold(&ALL[..2])
}

/// Holds back TERM and INT too: what the process leaves behind is removed in order. Call it before there is a pid file.
///
/// # Errors
/// What the system says.
pub fn hold_all() -> io::Result<()> {
    hold(&ALL)
}

fn hold(signals: &[Signal]) -> io::Result<()> {
    Ok(signals.iter().copied().collect::<SigSet>().thread_block()?)
}

/// Lets this thread take the signals, and those that came meanwhile. Call it when they are handled.
///
/// # Errors
/// What the system says.
pub fn release() -> io::Result<()> {
    Ok(ALL.into_iter().collect::<SigSet>().thread_unblock()?)
}
