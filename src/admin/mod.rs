//! What the operator sees and does: views, control, and the administrative text commands.
//!
//! Most of what is shown is read from what the server publishes, without its lock. Commands that change something, listings
//! of single jobs, and the list of rules go through the hub, in bounded pieces that lock it briefly.

mod audit;
mod connections;
pub mod control;
mod history;
pub mod look;
mod names;
mod table;
mod text;
pub mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use self::audit::AuditLog;
use self::look::Look;
pub use self::text::{LISTING_PIECE, LongAnswer};
use crate::hub::Hub;
use crate::job_server::ControlError;

/// What the text commands need to know of the process.
pub struct Process {
    /// The answer to `version`: one word.
    pub version: &'static str,
    /// The most words that a command may have.
    pub max_words: AtomicUsize,
    /// Whether `shutdown` is a command.
    pub allow_shutdown: AtomicBool,
    /// Whether text commands that change something are refused.
    pub is_read_only: AtomicBool,
    /// The answer to `verbose`: a level by gearmand's name.
    pub log_level: Box<dyn Fn() -> &'static str + Send + Sync>,
    /// Stops the server, at once or, if true, after its jobs.
    pub shutdown: Box<dyn Fn(bool) + Send + Sync>,
}

/// The text commands.
pub struct Admin {
    hub: Arc<Hub>,
    /// What is shown.
    pub look: Look,
    /// What they know of the process.
    pub process: Process,
    audit_log: Arc<AuditLog>,
}

impl Admin {
    /// The commands for `hub`.
    pub fn new(hub: Arc<Hub>, process: Process) -> Self {
        Self { look: Look::new(Arc::clone(&hub), process.version), hub, process, audit_log: Arc::default() }
    }

    /// Whether jobs of the store are still being read, for which what changes jobs waits.
    pub fn is_restoring(&self) -> bool {
        self.hub.is_restoring()
    }
    /// Why a job cannot be shown: it does not exist, or it may be among those that are still being read.
    pub fn no_such_job(&self) -> ControlError {
        if self.is_restoring() { ControlError::JobIsBusy } else { ControlError::NoSuchJob }
    }
}
