//! Administration: views, control actions, and the text commands.
//!
//! Most views read the gauges that the server publishes, without its lock. Commands that change something,
//! listings of single jobs, and the list of rules go through the hub, in bounded pieces that lock it briefly.

mod audit;
mod connections;
pub mod control;
mod history;
mod names;
mod table;
mod text;
pub mod view;
pub mod views;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use self::audit::AuditLog;
pub use self::text::{LISTING_PIECE, StreamingAnswer};
use self::views::Views;
use crate::hub::Hub;
use crate::job_server::ControlError;

/// Process state that the text commands use.
pub struct Process {
    /// The response to `version`: one word.
    pub version: &'static str,
    /// Whether the command `shutdown` is allowed.
    pub allow_shutdown: AtomicBool,
    /// Whether text commands that change something are refused.
    pub is_read_only: AtomicBool,
    /// The response to `verbose`: a level by gearmand's name.
    pub log_level: Box<dyn Fn() -> &'static str + Send + Sync>,
    /// Stops the server: at once if false, after its jobs if true.
    pub shutdown: Box<dyn Fn(bool) + Send + Sync>,
}

/// The text commands.
pub struct Admin {
    hub: Arc<Hub>,
    /// The views.
    pub views: Views,
    /// Process state.
    pub process: Process,
    audit_log: Arc<AuditLog>,
}

impl Admin {
    /// Creates the commands for `hub`.
    pub fn new(hub: Arc<Hub>, process: Process) -> Self {
        Self { views: Views::new(Arc::clone(&hub), process.version), hub, process, audit_log: Arc::default() }
    }

    /// Whether jobs of the store are still being restored. Commands that change jobs wait for that.
    pub fn is_restoring(&self) -> bool {
        self.hub.is_restoring()
    }
    /// The error for a job that is not found: it does not exist, or it may not be restored yet.
    pub fn no_such_job(&self) -> ControlError {
        if self.is_restoring() { ControlError::JobIsBusy } else { ControlError::NoSuchJob }
    }
}
