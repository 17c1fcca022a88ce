//! What the operator does, each a bounded hold of the lock.

use super::{Hub, State};
use crate::job_server::{ControlError, Now, Piece, Place, Rule, Who, Withholding};
use crate::outbox::CloseReason;
use crate::protocol::Priority;

impl Hub {
    /// See [`JobServer::pause_function`](crate::job_server::JobServer::pause_function).
    ///
    /// # Errors
    /// As there.
    pub fn pause_function(&self, now: Now, name: &[u8], paused: bool) -> Result<usize, ControlError> {
        self.with_state(now, |state, after| {
            let (server, mut world) = state.split(after, None);
            server.pause_function(now, name, paused, &mut world)
        })
    }

    /// See [`JobServer::limit_running`](crate::job_server::JobServer::limit_running).
    ///
    /// # Errors
    /// As there.
    pub fn limit_running(&self, now: Now, name: &[u8], most: u32) -> Result<usize, ControlError> {
        self.with_state(now, |state, after| {
            let (server, mut world) = state.split(after, None);
            server.limit_running(now, name, most, &mut world)
        })
    }

    /// See [`JobServer::cancel_jobs`](crate::job_server::JobServer::cancel_jobs): to be called again until there is no next place.
    ///
    /// # Errors
    /// As there.
    pub fn cancel_jobs(&self, now: Now, function: &[u8], from: Place) -> Result<Piece, ControlError> {
        self.with_state(now, |state, after| {
            let (server, mut world) = state.split(after, None);
            server.cancel_jobs(now, function, from, &mut world)
        })
    }

    /// See [`JobServer::move_job`](crate::job_server::JobServer::move_job).
    ///
    /// # Errors
    /// As there.
    pub fn move_job(&self, now: Now, handle: &[u8], to: &[u8]) -> Result<(), ControlError> {
        self.with_state(now, |state, after| {
            let (server, mut world) = state.split(after, None);
            server.move_job(now, handle, to, &mut world)
        })
    }

    /// See [`JobServer::move_jobs`](crate::job_server::JobServer::move_jobs): to be called again until there is no next place.
    ///
    /// # Errors
    /// As there.
    pub fn move_jobs(&self, now: Now, from: &[u8], to: &[u8], place: Place) -> Result<Piece, ControlError> {
        self.with_state(now, |state, after| {
            let (server, mut world) = state.split(after, None);
            server.move_jobs(now, from, to, place, &mut world)
        })
    }

    /// See [`JobServer::set_priority`](crate::job_server::JobServer::set_priority).
    ///
    /// # Errors
    /// As there.
    pub fn set_priority(&self, now: Now, handle: &[u8], priority: Priority) -> Result<(), ControlError> {
        self.with_state(now, |state, after| {
            let (server, mut world) = state.split(after, None);
            server.set_priority(now, handle, priority, &mut world)
        })
    }

    /// See [`JobServer::run_now`](crate::job_server::JobServer::run_now).
    ///
    /// # Errors
    /// As there.
    pub fn run_now(&self, now: Now, handle: &[u8]) -> Result<(), ControlError> {
        self.with_state(now, |state, after| {
            let (server, mut world) = state.split(after, None);
            server.run_now(now, handle, &mut world)
        })
    }

    /// See [`JobServer::withhold`](crate::job_server::JobServer::withhold). For what is left to do see
    /// [`go_on_with_rules`](Self::go_on_with_rules).
    ///
    /// # Errors
    /// As there.
    pub fn withhold(
        &self,
        now: Now,
        who: &Who,
        function: Option<&[u8]>,
        how: Withholding,
    ) -> Result<Piece, ControlError> {
        self.with_state(now, |state, after| {
            let (server, mut world) = state.split(after, None);
            let affected = server.withhold(now, who, function, how, &mut world)?;
            Ok(Piece { affected, next: server.rules_place() })
        })
    }

    /// See [`JobServer::release`](crate::job_server::JobServer::release). For what is left to do see
    /// [`go_on_with_rules`](Self::go_on_with_rules).
    ///
    /// # Errors
    /// As there.
    pub fn release(&self, now: Now, who: &Who, function: Option<&[u8]>) -> Result<Piece, ControlError> {
        self.with_state(now, |state, after| {
            let (server, mut world) = state.split(after, None);
            let affected = server.release(now, who, function, &mut world)?;
            Ok(Piece { affected, next: server.rules_place() })
        })
    }

    /// See [`JobServer::go_on_with_rules`](crate::job_server::JobServer::go_on_with_rules). The timer does the same where
    /// nobody else does.
    pub fn go_on_with_rules(&self, now: Now) -> Piece {
        self.with_state(now, |state, after| {
            let (server, mut world) = state.split(after, None);
            server.go_on_with_rules(now, &mut world);
            Piece { affected: 0, next: server.rules_place() }
        })
    }

    /// Closes the connections of workers at once, whatever they still had to be told; their jobs go back. Returns how many
    /// these are. For which are meant see [`JobServer::workers_of`](crate::job_server::JobServer::workers_of).
    pub fn kick(&self, now: Now, who: &Who) -> usize {
        self.with_state(now, |state, after| {
            let State { server, outboxes, .. } = state;
            let workers = server.workers_of(who);
            let meant = workers.iter().filter_map(|id| outboxes.get(id.slot as usize)?.as_ref());
            after.wakers.extend(meant.filter_map(|outbox| outbox.close(CloseReason::Kicked)));
            workers.len()
        })
    }

    /// See [`JobServer::list_rules`](crate::job_server::JobServer::list_rules).
    pub fn list_rules(&self, after: Option<&Rule>) -> Vec<Rule> {
        self.lock().server.list_rules(after)
    }

    /// See [`JobServer::list_rules_for`](crate::job_server::JobServer::list_rules_for).
    pub fn list_rules_for(&self, who: &Who, after: Option<&Rule>) -> Vec<Rule> {
        self.lock().server.list_rules_for(who, after)
    }
}
