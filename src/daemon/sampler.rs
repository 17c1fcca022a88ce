//! The sampler thread: samples the gauges for the history and returns free memory to the system. It is not
//! time-critical.

use std::io;
use std::sync::{Arc, Weak};

use crate::admin::views::SAMPLE_INTERVAL;
use crate::net::connection::Server;
use crate::process::memory::Trimmer;

/// Starts the thread. It ends soon after the server.
///
/// # Errors
/// When the system cannot create another thread.
pub(super) fn start(server: &Arc<Server>) -> io::Result<()> {
    let server = Arc::downgrade(server);
    std::thread::Builder::new().name("sampler".to_owned()).spawn(move || run(&server)).map(drop)
}

fn run(server: &Weak<Server>) {
    let mut trimmer = Trimmer::default();
    while let Some(server) = server.upgrade() {
        server.admin.views.sample(server.clock.now());
        let account = server.pressure.account();
        trimmer.look(account.total(), account.take_most());
        drop(server);
        // No thread unparks it; an early sample after a spurious wakeup does no harm.
        std::thread::park_timeout(SAMPLE_INTERVAL);
    }
}
