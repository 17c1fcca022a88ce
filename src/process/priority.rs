//! The priority of threads that only look, beside the one that serves jobs.

use tracing::debug;

/// Lowers the priority of the calling thread by `steps` of niceness. Where CPU time is short each step takes
/// about a fifth of what the thread gets. Threads that it starts inherit it.
///
/// It cannot be undone without rights. Where the system knows the niceness of whole processes only, nothing
/// is done.
pub fn give_way(steps: i32) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(steps) {
        debug!("a thread that is to give way keeps its priority: {error}");
    }
    #[cfg(not(target_os = "linux"))]
    debug!("threads have no niceness of their own here: {steps} steps are not taken");
}
