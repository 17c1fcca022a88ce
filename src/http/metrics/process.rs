//! What the system knows of the process, and what the job server is asked for when metrics are read.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike as _;
use tokio::task::yield_now;

use crate::http::Interface;
use crate::protocol::FunctionName;

/// Numbers that are read once for each reading of all metrics.
pub(super) struct Process {
    /// Time that all threads spent on CPUs.
    pub(super) cpu: Option<Duration>,
    /// File descriptors that are open.
    pub(super) descriptors: Option<u64>,
    /// How many may be.
    pub(super) max_descriptors: Option<u64>,
    /// How many connections may be.
    pub(super) max_connections: u64,
    /// How many HTTP connections may be.
    pub(super) max_http_connections: u64,
    /// Lines of the log that were left out.
    pub(super) log_lines_left_out: u64,
    /// For how long the job runs that has run longest, in milliseconds, by function.
    oldest_running_ms: HashMap<FunctionName, u64>,
}

impl Process {
    /// Reads them. Between some running jobs and the next ones others have their turn.
    pub(super) async fn read(interface: &Arc<Interface>) -> Self {
        let mut oldest = HashMap::new();
        let mut place = 0;
        while let Some(next) = interface.parts.admin.look.note_oldest_running(interface.now(), place, &mut oldest) {
            place = next;
            yield_now().await;
        }
        Self {
            cpu: cpu_time(),
            // The listing has a descriptor of its own.
            descriptors: fs::read_dir("/proc/self/fd").ok().map(|open| (open.count() as u64).saturating_sub(1)),
            max_descriptors: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            max_connections: interface.parts.stats.max_connections.get(),
            max_http_connections: interface.settings.max_connections as u64,
            log_lines_left_out: (interface.parts.log_lines_left_out)(),
            oldest_running_ms: oldest,
        }
    }

    /// For how long the job of the function runs that has run longest, in milliseconds.
    pub(super) fn oldest_running_ms(&self, function: &[u8]) -> Option<u64> {
        self.oldest_running_ms.get(function).copied()
    }

    /// The same of all functions.
    pub(super) fn oldest_running_of_all_ms(&self) -> u64 {
        self.oldest_running_ms.values().copied().max().unwrap_or(0)
    }
}

fn cpu_time() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let microseconds = usage.user_time().num_microseconds().saturating_add(usage.system_time().num_microseconds());
    Some(Duration::from_micros(u64::try_from(microseconds).ok()?))
}
