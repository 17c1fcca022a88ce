//! The tokio runtime that serves jobs.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// How many tasks are polled before sockets and timers are polled. They are also polled whenever no task is
/// ready, and before each slice of long work. This limit applies when many tasks have a little to do.
const EVENT_INTERVAL: u32 = 16;

/// A runtime of `threads` threads that serve jobs. With one thread it runs on the calling thread.
///
/// # Errors
/// When the threads or their kernel resources cannot be created.
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
