//! Workers that wait for jobs, thousands of them, on one host.

use std::time::Duration;

use crate::common::{Wire, packet, wait_for};
use crate::watched::Watched;

/// With this in the environment the test has 5,000 workers for two minutes, and the server its default
/// options.
const FULL: &str = "GEARMAND_IDLE_WORKERS_IN_FULL";

/// All of them live on. Where all are probed in the same moment, the loopback device loses most probes: its
/// queue has room for 1,000 packets.
pub(crate) fn idle_workers() {
    let short =
        ["--keepalive-idle", "2", "--keepalive-interval", "1", "--keepalive-count", "4", "--tcp-user-timeout", "2s"];
    let (count, time, options) = if std::env::var_os(FULL).is_some() {
        (5_000, Duration::from_mins(2), &[][..])
    } else {
        (4_000, Duration::from_secs(9), &short[..])
    };
    let server = Watched::start(options);
    let mut crowd: Vec<Wire> = (0..count)
        .map(|_| {
            let mut wire = server.connect();
            wire.send(packet::CAN_DO, b"rare");
            wire.send(packet::PRE_SLEEP, b"");
            wire
        })
        .collect();
    wait_for("all workers", || (server.connections() == count).then_some(()));
    crowd.iter_mut().for_each(Wire::expect_nothing);
    // This is how long they have nothing to do, and waits for nothing.
    std::thread::sleep(time);
    let left = server.connections();
    assert_eq!(left, count, "{} workers were closed", count - left);
    crowd.iter_mut().for_each(Wire::expect_nothing);
}
