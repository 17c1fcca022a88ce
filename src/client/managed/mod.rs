//! `gearmand work --managed`: workers that a monitor finds, asks and steers, by the contract in [`crate::fleet`].
//!
//! The process that is started is the *keeper* (`keeper`). It talks to no server: it starts workers, each a process of the
//! same program (`child`), and brings another where one has ended. The two talk over a pair of sockets (`link`), which is
//! the worker's standard input; when it ends the other one is gone, however it ended.
//!
//! A worker does one job at a time. It has two connections to each server, with a task each: `jobs` does jobs of the
//! functions in use, `manage` answers the monitor meanwhile (`verbs` says what). What they share is in `state`. Jobs are
//! processes, so one thread answers in time whatever they do.

mod child;
mod jobs;
mod keeper;
mod link;
mod manage;
mod memory;
mod settings;
mod state;
mod verbs;

pub(super) use settings::ManagedArgs;

use super::ToolError;
use super::worker::WorkArgs;
use settings::Settings;

/// Keeps workers, or is one of them.
pub(super) async fn run(args: WorkArgs) -> Result<u8, ToolError> {
    let servers = args.server.resolve()?;
    let is_child = args.managed.managed_child;
    let settings = Settings::new(args, |name| std::env::var_os(name))?;
    if is_child { child::run(settings, servers).await } else { keeper::run(&settings).await }
}
