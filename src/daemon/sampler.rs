//! Takes down the history of the numbers.
//!
//! Of few functions this is so short that it is done between jobs. Otherwise a thread does it, which may take as long as it
//! likes. A process that has a second thread pays for it with every call of the system, by a few per cent of a small
//! job's time: so there is none while the server has no other thread.

use std::io;
use std::sync::{Arc, Weak};

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::admin::look::SAMPLE_INTERVAL;
use crate::net::connection::Server;

/// The numbers of so many functions are taken down between jobs: some 2 µs for each in the worst case.
const FEW_FUNCTIONS: usize = 32;

/// Starts it; `has_threads` says whether there are others already. It ends soon after the server has.
///
/// # Errors
/// Where the system has no thread left.
pub(super) fn start(server: &Arc<Server>, has_threads: bool) -> io::Result<()> {
    if has_threads {
        return start_thread(server);
    }
    tokio::spawn(sample_between_jobs(Arc::downgrade(server)));
    Ok(())
}

/// Goes on until there are too many functions for it.
async fn sample_between_jobs(server: Weak<Server>) {
    let mut ticks = interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(server) = server.upgrade() else { return };
        if server.hub.stats().functions.len() <= FEW_FUNCTIONS {
            server.admin.look.sample(server.clock.now());
            continue;
        }
        match start_thread(&server) {
            Ok(()) => return,
            Err(error) => warn!("cannot take down the history, a thread is missing, and try again soon: {error}"),
        }
    }
}

fn start_thread(server: &Arc<Server>) -> io::Result<()> {
    let server = Arc::downgrade(server);
    std::thread::Builder::new().name("sampler".to_owned()).spawn(move || run(&server)).map(drop)
}

fn run(server: &Weak<Server>) {
    while let Some(server) = server.upgrade() {
        server.admin.look.sample(server.clock.now());
        drop(server);
        // Nobody unparks it; a sample that comes early by chance does no harm.
        std::thread::park_timeout(SAMPLE_INTERVAL);
    }
}
