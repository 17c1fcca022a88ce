//! The thread that takes down the history of the numbers and gives memory back, which may take as long as it likes.

use std::io;
use std::sync::{Arc, Weak};

use crate::admin::look::SAMPLE_INTERVAL;
use crate::net::connection::Server;
use crate::process::memory::Trimmer;

/// Starts it. It ends soon after the server has.
///
/// # Errors
/// Where the system has no thread left.
pub(super) fn start(server: &Arc<Server>) -> io::Result<()> {
    let server = Arc::downgrade(server);
    std::thread::Builder::new().name("sampler".to_owned()).spawn(move || run(&server)).map(drop)
}

fn run(server: &Weak<Server>) {
    let mut trimmer = Trimmer::default();
    while let Some(server) = server.upgrade() {
        server.admin.look.sample(server.clock.now());
        trimmer.look(server.pressure.account().total());
        drop(server);
        // Nobody unparks it; a sample that comes early by chance does no harm.
        std::thread::park_timeout(SAMPLE_INTERVAL);
    }
}
