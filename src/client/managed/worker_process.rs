//! A managed worker process: its connections, from start to end.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::address::ServerAddress;
use super::super::worker::EndSignals;
use super::super::worker_connection::ServerState;
use super::super::{ToolError, tell};
use super::jobs::JobConnection;
use super::manage::ManageConnection;
use super::settings::Settings;
use super::state::{End, Managed};
use super::supervisor_ipc::SupervisorHandle;

/// Runs until the worker leaves. The exit status tells the supervisor why it has ended.
pub(super) async fn run(settings: Settings, servers: Vec<ServerAddress>) -> Result<u8, ToolError> {
    let (supervisor, line) = SupervisorHandle::on_standard_input()
        .map_err(|error| ToolError::Io("no supervisor on standard input", error))?;
    let worker = Arc::new(Managed::new(settings, supervisor, servers.len()).map_err(ToolError::Usage)?);
    tokio::spawn(line.serve(Arc::clone(&worker)));
    obey_signals(&worker)?;
    if let Some(lifetime) = worker.settings.max_lifetime {
        let worker = Arc::clone(&worker);
        tokio::spawn(async move {
            tokio::time::sleep(a_little_less(lifetime)).await;
            worker.leave(End::Recycled);
        });
    }
    let (mut jobs, mut managing) = (JoinSet::new(), JoinSet::new());
    for (index, address) in servers.into_iter().enumerate() {
        let server = Arc::new(ServerState::new(address));
        jobs.spawn(JobConnection::new(Arc::clone(&worker), Arc::clone(&server), index).run());
        managing.spawn(ManageConnection::new(Arc::clone(&worker), server).run());
    }
    while jobs.join_next().await.is_some() {}
    worker.over.cancel();
    tokio::select! {
        () = async { while managing.join_next().await.is_some() {} } => {}
        () = worker.kill.cancelled() => {}
    }
    Ok(worker.end().status())
}

/// Signals, however many, let the running job finish. A service manager may send them to all processes, and
/// the supervisor forwards its own; only the supervisor can have the job killed.
fn obey_signals(worker: &Arc<Managed>) -> Result<(), ToolError> {
    let mut signals = EndSignals::watch()?;
    let worker = Arc::clone(worker);
    tokio::spawn(async move {
        loop {
            signals.next().await;
            if worker.settings.verbose {
                tell(
                    "work",
                    format_args!("worker {}: signal received, exiting after the current job", std::process::id()),
                );
            }
            worker.leave(End::Recycled);
        }
    });
    Ok(())
}

/// Returns a random time between nine tenths of the lifetime and all of it.
fn a_little_less(lifetime: Duration) -> Duration {
    let chance = u32::try_from(RandomState::new().build_hasher().finish() % 1024).unwrap_or(0);
    lifetime.saturating_sub(lifetime * chance / 10_240)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_differ_by_a_tenth_at_most() {
        let lifetime = Duration::from_secs(1000);
        let lives: Vec<Duration> = (0..100).map(|_| a_little_less(lifetime)).collect();
        assert!(lives.iter().all(|life| (lifetime * 9 / 10..=lifetime).contains(life)), "{lives:?}");
        assert!(lives.iter().any(|life| *life != lives[0]), "{lives:?}");
        // The longest time that an option accepts.
        assert!(a_little_less(Duration::from_secs_f64(1e9)) > Duration::from_secs_f64(8e8));
    }
}
