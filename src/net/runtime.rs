//! The runtime that serves jobs.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// How many tasks are polled before sockets and timers are looked at. They are looked at as well whenever no
/// task is ready, and before each slice of long work; this is for when many have a little to do.
const EVENT_INTERVAL: u32 = 16;

/// A runtime of `threads` threads that serve jobs; with one it is the calling thread.
///
/// # Errors
/// When the threads, or what they need of the kernel, cannot be had.
pub fn start(threads: usize) -> io::Result<Runtime> {
    let mut runtime = match threads {
        1 => Builder::new_current_thread(),
        threads => {
            let mut runtime = Builder::new_multi_thread();
            runtime.worker_threads(threads);
            runtime
        }
    };
    runtime.event_interval(EVENT_INTERVAL).enable_all().build()
}
