//! Somebody who must not notice that a store fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::{Server, Wire, packet};

/// What has nothing to do with the store is answered within this time: far more than it takes, less than a
/// store that hangs, which is waited for 5 s at least. The shim has one lock for files and sockets, so that
/// under it everybody waits while a busy disk syncs.
const PROMPT: Duration = Duration::from_secs(4);

/// Somebody who uses the server without its store, all the time: foreground jobs, echoes, text commands.
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Bystander {
    #[track_caller]
    pub(crate) fn start(server: &Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let address = server.addr();
        let seen = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut client = Wire::connect(address);
            let mut worker = Wire::connect(address);
            worker.send(packet::CAN_DO, b"asked");
            let (mut rounds, mut slowest) = (0, Duration::ZERO);
            while !seen.load(Ordering::Relaxed) {
                let start = Instant::now();
                client.send(packet::SUBMIT_JOB, b"asked\0\0question");
                let handle = client.expect_type(packet::JOB_CREATED);
                worker.send(packet::GRAB_JOB, b"");
                worker.expect_type(packet::JOB_ASSIGN);
                worker.send(packet::WORK_COMPLETE, &packet::body(&[&handle, b"answer"]));
                client.expect(packet::WORK_COMPLETE, &packet::body(&[&handle, b"answer"]));
                client.expect_nothing();
                assert!(client.text("status").contains("asked\t"));
                assert!(client.text("show store").contains("state\t"));
                slowest = slowest.max(start.elapsed());
                rounds += 1;
            }
            (rounds, slowest)
        });
        Self { stop, thread }
    }

    /// Ends, and tells whether all was answered in time.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (rounds, slowest) = self.thread.join().expect("a bystander was not answered");
        println!("{rounds} rounds of a bystander, the slowest in {slowest:?}");
        assert!(rounds > 0);
        assert!(slowest < PROMPT, "a bystander had to wait {slowest:?}");
    }
}
