//! What the operator does, each a bounded hold of the lock.

use super::{Hub, State};
use crate::job_server::{ControlError, Cursor, Now, Progress, Rule, WorkerMode, WorkerSelector};
use crate::outbox::CloseReason;
use crate::protocol::Priority;

impl Hub {
    /// See [`JobServer::pause_function`](crate::job_server::JobServer::pause_function).
    ///
    /// # Errors
    /// As there.
    pub fn pause_function(&self, now: Now, name: &[u8], paused: bool) -> Result<usize, ControlError> {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.pause_function(now, name, paused, &mut effects)
        })
    }

    /// See [`JobServer::limit_running`](crate::job_server::JobServer::limit_running).
    ///
    /// # Errors
    /// As there.
    pub fn limit_running(&self, now: Now, name: &[u8], most: u32) -> Result<usize, ControlError> {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.limit_running(now, name, most, &mut effects)
        })
    }

    /// See [`JobServer::cancel_jobs`](crate::job_server::JobServer::cancel_jobs): call again until there is
    /// no next cursor.
    ///
    /// # Errors
    /// As there.
    pub fn cancel_jobs(&self, now: Now, function: &[u8], from: Cursor) -> Result<Progress, ControlError> {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.cancel_jobs(now, function, from, &mut effects)
        })
    }

    /// See [`JobServer::move_job`](crate::job_server::JobServer::move_job).
    ///
    /// # Errors
    /// As there.
    pub fn move_job(&self, now: Now, handle: &[u8], to: &[u8]) -> Result<(), ControlError> {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.move_job(now, handle, to, &mut effects)
        })
    }

    /// See [`JobServer::move_jobs`](crate::job_server::JobServer::move_jobs): call again until there is no
    /// next cursor.
    ///
    /// # Errors
    /// As there.
    pub fn move_jobs(&self, now: Now, from: &[u8], to: &[u8], cursor: Cursor) -> Result<Progress, ControlError> {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.move_jobs(now, from, to, cursor, &mut effects)
        })
    }

    /// See [`JobServer::set_priority`](crate::job_server::JobServer::set_priority).
    ///
    /// # Errors
    /// As there.
    pub fn set_priority(&self, now: Now, handle: &[u8], priority: Priority) -> Result<(), ControlError> {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.set_priority(now, handle, priority, &mut effects)
        })
    }

    /// See [`JobServer::run_job`](crate::job_server::JobServer::run_job).
    ///
    /// # Errors
    /// As there.
    pub fn run_job(&self, now: Now, handle: &[u8]) -> Result<(), ControlError> {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.run_job(now, handle, &mut effects)
        })
    }

    /// See [`JobServer::set_worker_mode`](crate::job_server::JobServer::set_worker_mode). For what is left to
    /// do see [`go_on_with_rules`](Self::go_on_with_rules).
    ///
    /// # Errors
    /// As there.
    pub fn set_worker_mode(
        &self,
        now: Now,
        selector: &WorkerSelector,
        function: Option<&[u8]>,
        mode: WorkerMode,
    ) -> Result<Progress, ControlError> {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            let affected = server.set_worker_mode(now, selector, function, mode, &mut effects)?;
            Ok(Progress { affected, next: server.rules_cursor() })
        })
    }

    /// See [`JobServer::enable_workers`](crate::job_server::JobServer::enable_workers). For what is left to
    /// do see [`go_on_with_rules`](Self::go_on_with_rules).
    ///
    /// # Errors
    /// As there.
    pub fn enable_workers(
        &self,
        now: Now,
        selector: &WorkerSelector,
        function: Option<&[u8]>,
    ) -> Result<Progress, ControlError> {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            let affected = server.enable_workers(now, selector, function, &mut effects)?;
            Ok(Progress { affected, next: server.rules_cursor() })
        })
    }

    /// See [`JobServer::go_on_with_rules`](crate::job_server::JobServer::go_on_with_rules). The timer does
    /// the same where nobody else does.
    pub fn go_on_with_rules(&self, now: Now) -> Progress {
        self.with_state(now, |state, deferred| {
            let (server, mut effects) = state.split(deferred, None);
            server.go_on_with_rules(now, &mut effects);
            Progress { affected: 0, next: server.rules_cursor() }
        })
    }

    /// Closes the connections of workers at once, whatever they still had to be told; their jobs go back.
    /// Returns how many these are. For which are meant see
    /// [`JobServer::workers_of`](crate::job_server::JobServer::workers_of).
    pub fn kick(&self, now: Now, selector: &WorkerSelector) -> usize {
        self.with_state(now, |state, deferred| {
            let State { server, outboxes, .. } = state;
            let workers = server.workers_of(selector);
            let meant = workers.iter().filter_map(|id| outboxes.get(id.slot as usize)?.as_ref());
            deferred.wakers.extend(meant.filter_map(|outbox| outbox.close(CloseReason::Kicked)));
            workers.len()
        })
    }

    /// See [`JobServer::list_rules`](crate::job_server::JobServer::list_rules).
    pub fn list_rules(&self, after: Option<&Rule>) -> Vec<Rule> {
        self.lock().server.list_rules(after)
    }

    /// See [`JobServer::list_rules_for`](crate::job_server::JobServer::list_rules_for).
    pub fn list_rules_for(&self, selector: &WorkerSelector, after: Option<&Rule>) -> Vec<Rule> {
        self.lock().server.list_rules_for(selector, after)
    }
}
