//! `gearmand work --managed`: workers that a monitor finds, queries and controls, by the contract in
//! [`crate::fleet`].
//!
//! The process that is started is the supervisor (`supervisor`). It connects to no server: it starts workers,
//! each a process of the same program (`worker_process`), and restarts those that have ended. The two
//! communicate over a socket pair (`supervisor_ipc`), which is the worker's standard input. When it closes,
//! the other process is gone, however it ended.
//!
//! A worker runs one job at a time. It has two connections to each server, with a task each: `jobs` runs jobs
//! of the functions in use, `manage` answers the monitor meanwhile (`verbs` has the responses). Their shared
//! state is in `state`. Jobs are processes, so a single thread answers in time whatever they do.

mod jobs;
mod manage;
mod memory;
mod settings;
mod state;
mod supervisor;
mod supervisor_ipc;
mod verbs;
mod worker_process;

pub(super) use settings::ManagedArgs;

use super::ToolError;
use super::worker::WorkArgs;
use settings::Settings;

/// Runs the supervisor, or one of its workers.
pub(super) async fn run(args: WorkArgs) -> Result<u8, ToolError> {
    let servers = args.server.resolve()?;
    let is_child = args.managed.managed_child;
    let settings = Settings::new(args, |name| std::env::var_os(name))?;
    if is_child { worker_process::run(settings, servers).await } else { supervisor::run(&settings).await }
}
