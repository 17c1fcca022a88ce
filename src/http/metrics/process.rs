//! Process statistics, and what the job server is asked for at a scrape.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike as _;
use tokio::task::yield_now;

use crate::http::Interface;
use crate::protocol::FunctionName;

/// Values that are read once per scrape.
pub(super) struct Process {
    /// CPU time of all threads.
    pub(super) cpu: Option<Duration>,
    /// Number of open file descriptors.
    pub(super) descriptors: Option<u64>,
    /// Limit of open file descriptors.
    pub(super) max_descriptors: Option<u64>,
    /// Maximum number of connections.
    pub(super) max_connections: u64,
    /// Maximum number of HTTP connections.
    pub(super) max_http_connections: u64,
    /// Number of log lines that were dropped.
    pub(super) log_lines_left_out: u64,
    /// Running time of each function's longest running job, in milliseconds.
    oldest_running_ms: HashMap<FunctionName, u64>,
}

impl Process {
    /// Reads the values. It yields between batches of running jobs, so that other connections run.
    pub(super) async fn read(interface: &Arc<Interface>) -> Self {
        let mut oldest = HashMap::new();
        let mut place = 0;
        while let Some(next) = interface.parts.admin.views.note_oldest_running(interface.now(), place, &mut oldest) {
            place = next;
            yield_now().await;
        }
        Self {
            cpu: cpu_time(),
            // The listing itself uses a descriptor.
            descriptors: fs::read_dir("/proc/self/fd").ok().map(|open| (open.count() as u64).saturating_sub(1)),
            max_descriptors: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            max_connections: interface.parts.stats.max_connections.get(),
            max_http_connections: interface.settings.max_connections as u64,
            log_lines_left_out: (interface.parts.log_lines_left_out)(),
            oldest_running_ms: oldest,
        }
    }

    /// Running time of the function's longest running job, in milliseconds.
    pub(super) fn oldest_running_ms(&self, function: &[u8]) -> Option<u64> {
        self.oldest_running_ms.get(function).copied()
    }

    /// The same for all functions.
    pub(super) fn oldest_running_of_all_ms(&self) -> u64 {
        self.oldest_running_ms.values().copied().max().unwrap_or(0)
    }
}

fn cpu_time() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let microseconds = usage.user_time().num_microseconds().saturating_add(usage.system_time().num_microseconds());
    Some(Duration::from_micros(u64::try_from(microseconds).ok()?))
}
