//! The priority of threads that only look, beside the one that serves jobs.

use tracing::debug;

/// Has the calling thread give way to the others of this machine, by so many steps of niceness: each takes
/// about a fifth of what CPU time it gets where there is not enough. Threads that it starts do the same.
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
