//! Lower scheduling priority for monitoring threads beside the thread that serves jobs.

use tracing::debug;

/// Lowers the priority of the calling thread by `steps` of niceness. When CPU time is short, each step takes
/// away about a fifth of the thread's share. Threads that it starts inherit it.
///
/// Undoing it takes privileges. On systems with niceness for whole processes only, nothing is done.
pub fn give_way(steps: i32) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(steps) {
        debug!("cannot lower the priority of a thread: {error}");
    }
    #[cfg(not(target_os = "linux"))]
    debug!("no per-thread niceness on this system: priority not lowered by {steps}");
}
