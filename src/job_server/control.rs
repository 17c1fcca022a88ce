//! The operator's commands for functions, jobs and workers.

mod walk;

pub use self::walk::{Cursor, Progress};
use super::effects::Effects;
use super::function::Function;
use super::ids::FunctionSlot;
use super::job::{JobState, Residency};
use super::stored::{Edit, StoreOp};
use super::tell::Said;
use super::{ConnectionId, JobServer, Now, US_PER_S, WorkerMode, price};
use crate::protocol::names::FUNCTION_MAX;
use crate::protocol::{FunctionName, PeerError, Priority};

/// Selects the workers that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WorkerSelector {
    /// One connection, until it ends.
    Connection(ConnectionId),
    /// Connections that have set this client id.
    Client(Vec<u8>),
    /// Connections from this address.
    Host(String),
}

/// A rule that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The workers it applies to.
    pub selector: WorkerSelector,
    /// The function whose jobs they do not get; `None` for all.
    pub function: Option<FunctionName>,
    /// Disabled or draining.
    pub mode: WorkerMode,
}

/// The maximum number of jobs, runs or waits that one call passes over to find its position.
pub(super) const LOOKS_PER_CALL: usize = 4096;

/// Why an operator's command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No job has this handle.
    #[error("there is no such job")]
    NoSuchJob,
    /// The job is with a worker.
    #[error("the job is running")]
    JobIsRunning,
    /// The job is not waiting for its due time.
    #[error("the job is not scheduled for later")]
    JobIsNotScheduled,
    /// The other function has a job of the same unique id.
    #[error("the target function already has a job with this unique id")]
    JobExistsThere,
    /// Its workload is being read, or its addition to the store is pending.
    #[error("the job is busy (being read or stored): try again")]
    JobIsBusy,
    /// The function is not known.
    #[error("there is no such function")]
    NoSuchFunction,
    /// It has workers or running jobs.
    #[error("the function has workers or running jobs")]
    FunctionInUse,
    /// It has waiting jobs.
    #[error("the function has queued jobs: cancel its jobs first")]
    FunctionHasJobs,
    /// No connection is selected.
    #[error("there is no such worker")]
    NoSuchWorker,
    /// The limit of functions is reached.
    #[error("too many functions (max-functions)")]
    TooManyFunctions,
    /// The limit of paused or limited functions is reached.
    #[error("too many paused or limited functions: resume one or remove its limits first")]
    TooManySettings,
    /// The limit of worker rules is reached.
    #[error("too many worker rules (limit 1000, and 10000 for all connections together)")]
    TooManyRules,
    /// There is no rule for exactly these workers.
    #[error("there is no such rule")]
    NoSuchRule,
    /// A name is longer than the protocol allows.
    #[error("the name is too long")]
    NameTooLong,
    /// A name contains a NUL: no packet and no store could carry it.
    #[error("the name contains a NUL byte")]
    BadName,
}

/// The result of `drop function`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropFunction {
    /// It was removed.
    Dropped,
    /// It did not exist.
    NotFound,
    /// It has workers, or running jobs.
    InUse,
    /// It has jobs, none of which runs.
    HasJobs,
}

/// Checks the name of a function that may get jobs. A stored job of another name would be lost after a
/// restart.
pub(super) fn check_function_name(name: &[u8]) -> Result<(), ControlError> {
    if name.len() > FUNCTION_MAX {
        return Err(ControlError::NameTooLong);
    }
    if name.contains(&0) {
        return Err(ControlError::BadName);
    }
    Ok(())
}

impl JobServer {
    /// Creates a function, unless it exists.
    ///
    /// # Errors
    /// [`PeerError::TOO_MANY_FUNCTIONS`].
    pub fn create_function(&mut self, name: &[u8]) -> Result<(), PeerError> {
        self.function_slot(name).map(|_| ())
    }

    /// Removes a function that has neither workers nor jobs.
    pub fn drop_function(&mut self, name: &[u8], effects: &mut impl Effects) -> DropFunction {
        let Some(slot) = self.function_names.get(name).copied() else {
            return DropFunction::NotFound;
        };
        let function = &self.functions[slot];
        if function.workers > 0 || function.running > 0 {
            return DropFunction::InUse;
        }
        if function.total() > 0 {
            return DropFunction::HasJobs;
        }
        self.forget_decisions(function, effects);
        // A limit alone does not keep it.
        self.remove_function(slot);
        self.debug_check_invariants();
        DropFunction::Dropped
    }

    /// Pauses a function, which withholds its jobs from all workers, or resumes it. New jobs are accepted,
    /// and running jobs continue.
    ///
    /// Returns the number of functions affected now: 0 if only settings have named it so far. Such a function
    /// is kept for its settings, and removed with the last of them.
    ///
    /// # Errors
    /// [`ControlError::NameTooLong`], [`ControlError::BadName`], [`ControlError::TooManyFunctions`],
    /// [`ControlError::TooManySettings`]; [`ControlError::NoSuchFunction`] to resume a function that is not
    /// known.
    pub fn pause_function(
        &mut self,
        now: Now,
        name: &[u8],
        paused: bool,
        effects: &mut impl Effects,
    ) -> Result<usize, ControlError> {
        let Some(slot) = self.function_for_setting(name, paused)? else { return Err(ControlError::NoSuchFunction) };
        self.decide(slot, |function| function.paused = paused, effects);
        self.reopen(now, slot, effects);
        Ok(self.end_setting(slot))
    }

    /// Limits the number of jobs of a function that may run at once; 0 for no limit. Running jobs continue,
    /// even if there are more. Returns the number of functions affected now, as
    /// [`pause_function`](Self::pause_function) does.
    ///
    /// # Errors
    /// [`ControlError::NameTooLong`], [`ControlError::BadName`], [`ControlError::TooManyFunctions`],
    /// [`ControlError::TooManySettings`].
    pub fn limit_running(
        &mut self,
        now: Now,
        name: &[u8],
        most: u32,
        effects: &mut impl Effects,
    ) -> Result<usize, ControlError> {
        let Some(slot) = self.function_for_setting(name, most > 0)? else { return Ok(0) };
        self.decide(slot, |function| function.max_running = most, effects);
        self.reopen(now, slot, effects);
        Ok(self.end_setting(slot))
    }

    /// Limits the number of jobs of a function, which need not be known yet: by priority of the new job, 0
    /// for no limit. Returns the number of functions affected now, as
    /// [`pause_function`](Self::pause_function) does.
    ///
    /// # Errors
    /// [`ControlError::TooManyFunctions`], [`ControlError::TooManySettings`].
    pub fn limit_function(
        &mut self,
        name: &[u8],
        limits: [u32; 3],
        effects: &mut impl Effects,
    ) -> Result<usize, ControlError> {
        let Some(slot) = self.function_for_setting(name, limits != [0; 3])? else { return Ok(0) };
        self.decide(slot, |function| function.limits = limits, effects);
        self.functions[slot].publish_settings();
        self.publish(slot);
        Ok(self.end_setting(slot))
    }

    /// Applies a change of how many jobs of a function may be handed out.
    fn reopen(&mut self, now: Now, function: FunctionSlot, effects: &mut impl Effects) {
        self.functions[function].publish_settings();
        self.publish(function);
        self.cover(now, function, effects);
        // Nothing was read for it while it was paused.
        self.read_ahead(function, effects);
        self.debug_check_invariants();
    }

    /// Cancels a job: its clients get WORK_FAIL, and packets about it from a worker that runs it are ignored.
    /// Returns whether the job existed.
    pub fn cancel_job(&mut self, now: Now, handle: &[u8], effects: &mut impl Effects) -> bool {
        let Some(slot) = self.find_handle(handle) else {
            return false;
        };
        let function = self.jobs.get(slot).function;
        self.cancel(slot, effects);
        self.cover(now, function, effects);
        self.cover_freed(now, effects);
        self.debug_check_invariants();
        true
    }

    /// Ends a visible job. The caller must cover its function again, since another job may run now, and a
    /// worker that was at its job limit.
    pub(super) fn cancel(&mut self, slot: u32, effects: &mut impl Effects) {
        self.revoke_run(slot);
        let job = self.jobs.get(slot);
        self.tally(job.function, |counters| &counters.cancelled);
        self.end(slot, None, Said::Fail, effects);
    }

    /// Cancels the jobs of a function, including running ones, as [`cancel_job`](Self::cancel_job) does.
    /// Cancels a bounded number: call again with the returned cursor until there is none. Jobs submitted
    /// after the first call are not cancelled.
    ///
    /// # Errors
    /// [`ControlError::NoSuchFunction`].
    pub fn cancel_jobs(
        &mut self,
        now: Now,
        function: &[u8],
        from: Cursor,
        effects: &mut impl Effects,
    ) -> Result<Progress, ControlError> {
        let function = self.known_function(function)?;
        let progress = self.walk(function, from, |server, job| {
            server.cancel(job, effects);
            true
        });
        // After the walk: otherwise a worker would be woken for a job that is about to be cancelled.
        self.cover(now, function, effects);
        self.cover_freed(now, effects);
        self.debug_check_invariants();
        Ok(progress)
    }

    /// Moves a waiting job, queued or scheduled, to another function, where it comes last in its priority.
    ///
    /// # Errors
    /// Any error of jobs or functions except [`ControlError::JobIsNotScheduled`].
    pub fn move_job(
        &mut self,
        now: Now,
        handle: &[u8],
        to: &[u8],
        effects: &mut impl Effects,
    ) -> Result<(), ControlError> {
        let job = self.waiting_job(handle)?;
        let to = self.function_for_control(to)?;
        let from = self.jobs.get(job).function;
        if from == to {
            return Ok(());
        }
        self.transfer(now, job, to, effects)?;
        // Paged-out jobs may have been queued behind it.
        self.read_ahead(from, effects);
        self.debug_check_invariants();
        Ok(())
    }

    /// Moves the waiting jobs of a function, queued or scheduled, to another function. They keep their order,
    /// and are queued behind the jobs there. Running jobs stay, and so do jobs that equal one there and jobs
    /// that are being read or stored. No job of a paused function is read. Moves a bounded number, as
    /// [`cancel_jobs`](Self::cancel_jobs) does.
    ///
    /// # Errors
    /// [`ControlError::NoSuchFunction`], [`ControlError::NameTooLong`], [`ControlError::BadName`],
    /// [`ControlError::TooManyFunctions`].
    pub fn move_jobs(
        &mut self,
        now: Now,
        from: &[u8],
        to: &[u8],
        cursor: Cursor,
        effects: &mut impl Effects,
    ) -> Result<Progress, ControlError> {
        self.known_function(from)?;
        let to = self.function_for_control(to)?;
        // It may have been evicted to make room for the new one.
        let Some(from) = self.function_names.get(from).copied().filter(|from| *from != to) else {
            return Ok(Progress::default());
        };
        let progress = self.walk(from, cursor, |server, job| {
            server.work_budget.spend(2 * price::CHANGE);
            server.check_waiting(job).is_ok() && server.transfer(now, job, to, effects).is_ok()
        });
        self.read_ahead(from, effects);
        self.debug_check_invariants();
        Ok(progress)
    }

    /// Changes the priority of a waiting job, which comes last in its new priority.
    ///
    /// # Errors
    /// [`ControlError::NoSuchJob`], [`ControlError::JobIsRunning`], [`ControlError::JobIsBusy`].
    pub fn set_priority(
        &mut self,
        now: Now,
        handle: &[u8],
        priority: Priority,
        effects: &mut impl Effects,
    ) -> Result<(), ControlError> {
        let slot = self.waiting_job(handle)?;
        if self.jobs.get(slot).priority == priority {
            return Ok(());
        }
        let is_scheduled = matches!(self.jobs.get(slot).state, JobState::Scheduled(_));
        let function = self.jobs.get(slot).function;
        self.take_out(slot);
        self.jobs.get_mut(slot).priority = priority;
        self.store_edit(slot, function, effects);
        self.put_back(now, slot, is_scheduled, effects);
        // Paged-out jobs of its old priority may have been queued behind it.
        self.read_ahead(function, effects);
        self.debug_check_invariants();
        Ok(())
    }

    /// Makes a scheduled job due.
    ///
    /// # Errors
    /// [`ControlError::NoSuchJob`], [`ControlError::JobIsNotScheduled`], [`ControlError::JobIsBusy`].
    pub fn run_job(&mut self, now: Now, handle: &[u8], effects: &mut impl Effects) -> Result<(), ControlError> {
        let slot = self.find_handle(handle).ok_or(ControlError::NoSuchJob)?;
        if !matches!(self.jobs.get(slot).state, JobState::Scheduled(_)) {
            return Err(ControlError::JobIsNotScheduled);
        }
        self.check_waiting(slot)?;
        self.take_out(slot);
        let job = self.jobs.get_mut(slot);
        job.set_due_s(job.due_s().min(now.unix_us / US_PER_S));
        let function = job.function;
        self.store_edit(slot, function, effects);
        self.put_back(now, slot, false, effects);
        self.debug_check_invariants();
        Ok(())
    }

    fn known_function(&self, name: &[u8]) -> Result<FunctionSlot, ControlError> {
        self.function_names.get(name).copied().ok_or(ControlError::NoSuchFunction)
    }

    /// The function of this name, created if it is not known.
    fn function_for_control(&mut self, name: &[u8]) -> Result<FunctionSlot, ControlError> {
        check_function_name(name)?;
        self.function_slot(name).map_err(|_| ControlError::TooManyFunctions)
    }

    /// The function that gets a setting, or loses one if `is_set` is false. `None` if it is not known, and so
    /// has no setting to lose.
    pub(super) fn function_for_setting(
        &mut self,
        name: &[u8],
        is_set: bool,
    ) -> Result<Option<FunctionSlot>, ControlError> {
        check_function_name(name)?;
        self.check_settings(name, is_set)?;
        let known = self.function_names.get(name).copied();
        if known.is_some() || !is_set {
            return Ok(known);
        }
        let slot = self.function_for_control(name)?;
        self.functions[slot].settings_only = true;
        Ok(Some(slot))
    }

    /// Ends a change of a setting. Returns the number of functions affected now, and removes one kept only
    /// for it.
    pub(super) fn end_setting(&mut self, slot: FunctionSlot) -> usize {
        let function = &self.functions[slot];
        if !function.settings_only {
            return 1;
        }
        if function.is_unused() {
            self.remove_function(slot);
        }
        self.debug_check_invariants();
        0
    }

    /// Checks the limit of functions with settings, before the function is created in vain.
    pub(super) fn check_settings(&self, name: &[u8], is_set: bool) -> Result<(), ControlError> {
        let is_full = self.functions_with_settings >= self.policy.max_functions_with_settings();
        let known = self.function_names.get(name).map(|slot| &self.functions[*slot]);
        let has_settings = known.is_some_and(Function::has_settings);
        if is_set && is_full && !has_settings { Err(ControlError::TooManySettings) } else { Ok(()) }
    }

    fn waiting_job(&self, handle: &[u8]) -> Result<u32, ControlError> {
        let slot = self.find_handle(handle).ok_or(ControlError::NoSuchJob)?;
        self.check_waiting(slot).map(|()| slot)
    }

    /// Checks that a job waits in a list from which it can be removed.
    fn check_waiting(&self, slot: u32) -> Result<(), ControlError> {
        let job = self.jobs.get(slot);
        match job.state {
            JobState::Running(_) => Err(ControlError::JobIsRunning),
            JobState::Storing(_) | JobState::Loading(_) => Err(ControlError::JobIsBusy),
            JobState::Ended => Err(ControlError::NoSuchJob),
            // The store is adding it under its present names, which must not change until it has answered.
            JobState::Scheduled(_) | JobState::Ready(_) | JobState::PagedOut(_)
                if job.residency == Residency::Storing =>
            {
                Err(ControlError::JobIsBusy)
            }
            JobState::Scheduled(_) | JobState::Ready(_) | JobState::PagedOut(_) => Ok(()),
        }
    }

    /// Moves a waiting job to another function, unless it equals one there.
    fn transfer(
        &mut self,
        now: Now,
        slot: u32,
        to: FunctionSlot,
        effects: &mut impl Effects,
    ) -> Result<(), ControlError> {
        if self.jobs.equal_in(slot, to).is_some() {
            return Err(ControlError::JobExistsThere);
        }
        let from = self.jobs.get(slot).function;
        let is_scheduled = matches!(self.jobs.get(slot).state, JobState::Scheduled(_));
        self.take_out(slot);
        self.jobs.set_function(slot, to);
        self.store_edit(slot, from, effects);
        self.put_back(now, slot, is_scheduled, effects);
        Ok(())
    }

    /// Removes a waiting job from its list or the schedule.
    fn take_out(&mut self, slot: u32) {
        let job = self.jobs.get(slot);
        let (function, priority, state) = (job.function, job.priority.index(), job.state);
        let due = (job.due_s(), job.number(), slot);
        let of = &mut self.functions[function];
        match state {
            JobState::Ready(_) => of.ready[priority].remove(&mut self.jobs, slot),
            JobState::PagedOut(_) => of.paged_out[priority].remove(&mut self.jobs, slot),
            JobState::Scheduled(_) => {
                of.scheduled[priority].remove(&mut self.jobs, slot);
                self.jobs.schedule.remove(&due);
            }
            JobState::Storing(_) | JobState::Loading(_) | JobState::Running(_) | JobState::Ended => {
                debug_assert!(false, "a job that does not wait was taken out of its list");
            }
        }
        // In no list until it is put back.
        self.jobs.get_mut(slot).state = JobState::NOWHERE;
        self.publish(function);
    }

    /// Inserts a removed job where it belongs now.
    fn put_back(&mut self, now: Now, slot: u32, is_scheduled: bool, effects: &mut impl Effects) {
        let function = &mut self.functions[self.jobs.get(slot).function];
        function.returns = function.returns.wrapping_add(1);
        if !is_scheduled {
            return self.make_ready(now, slot, effects);
        }
        self.put_in_schedule(slot);
    }

    /// Sends the new fields of a stored job to the store. `before` is its previous function.
    fn store_edit(&self, slot: u32, before: FunctionSlot, effects: &mut impl Effects) {
        let job = self.jobs.get(slot);
        if job.residency.is_stored() {
            let key = job.key(&self.functions[before].name);
            let function = self.functions[job.function].name.clone();
            effects.store(StoreOp::Edit { key, edit: Edit { function, priority: job.priority, due_s: job.due_s() } });
        }
    }
}
