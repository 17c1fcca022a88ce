//! Shared by the integration tests: a job server under test ([`Server`]), a connection that speaks raw
//! packets ([`Wire`]) and a program whose lines are read ([`Program`]).
//!
//! `mod common;` in a test file brings all of it. Nothing here knows the crate's own code: the tests look at
//! the server from outside, as its clients do.
#![allow(dead_code, unused_imports, reason = "each test file is a crate of its own and uses a part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed expectation is how a test fails"
)]

mod gate;
mod grab;
pub(crate) mod packet;
mod program;
mod server;
mod wire;

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub(crate) use gate::Gate;
pub(crate) use grab::{grab_all, grab_nothing};
pub(crate) use program::Program;
pub(crate) use server::{CONTROL_GROUP, Implementation, Server, free_port};
pub(crate) use wire::Wire;

/// How long a test waits for anything before it fails: long enough for a loaded machine, since a test that
/// passes never waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The time between two looks at a condition that nobody announces (a listening port, a line of `status`).
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Looks until `look` finds something and returns it; fails with `what` after [`DEADLINE`].
///
/// Only for states that cannot be waited for directly.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain for {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Fails the test when `tests/install-peers.sh` has something to install.
#[track_caller]
pub(crate) fn require_peers() {
    static MISSING: OnceLock<String> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/install-peers.sh"))
            .arg("--check")
            .output()
            .expect("tests/install-peers.sh --check");
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    assert!(missing.is_empty(), "{missing}run tests/install-peers.sh");
}
