//! The operator's commands for functions, jobs and workers.

use super::effects::Effects;
use super::function::{Function, JobList};
use super::index::NONE;
use super::job::{JobState, Kept};
use super::list::{LISTS, QUEUED_LISTS, list_index};
use super::stored::{Edit, StoreOp};
use super::{ConnectionId, JobServer, Now, US_PER_S, Withholding, price};
use crate::protocol::names::FUNCTION_MAX;
use crate::protocol::{FunctionName, Priority};

/// Selects the workers that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
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
    pub who: Who,
    /// The function that is withheld; `None` for all.
    pub function: Option<FunctionName>,
    /// How jobs are withheld.
    pub how: Withholding,
}

/// The maximum number of jobs, runs or waits that one call passes over to find its position.
pub(super) const LOOKS_PER_CALL: usize = 4096;

/// The maximum number of rounds without changes that are repeated because some jobs may have been missed.
const MOST_ROUNDS_FOR_NOTHING: u8 = 8;

/// The cursor of an incremental operation. It begins at the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    stage: Stage,
    /// The highest job number when the operation began: later jobs are excluded.
    last_number: u64,
    round: Round,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Beginning,
    /// In the function's list of this index, after a job that stays in it, by slot and number.
    List(usize, Option<(u32, u64)>),
    /// Among the runs of the function, at the run of a job, by slot and number.
    Runs(Option<(u32, u64)>),
    /// At the next worker whose rules have changed.
    Rules,
}

/// One pass over all jobs of a function. Jobs that move back to where it was before may be missed, so another
/// round follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Round {
    /// The function's count of jobs that moved back, when the round began.
    returns: u32,
    /// Whether some jobs may have been missed.
    is_torn: bool,
    /// Whether it has changed any job.
    has_affected: bool,
    /// The number of rounds in a row before it that changed nothing.
    for_nothing: u8,
}

impl Place {
    /// The cursor of [`JobServer::go_on_with_rules`].
    pub(super) const OF_RULES: Self = Self {
        stage: Stage::Rules,
        last_number: 0,
        round: Round { returns: 0, is_torn: false, has_affected: false, for_nothing: 0 },
    };
}

/// The result of one call of an incremental operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The number of jobs it has changed.
    pub affected: usize,
    /// The cursor for the next call; `None` when all is done.
    pub next: Option<Place>,
}

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

    /// Applies a change of how many jobs of a function may be handed out.
    fn reopen(&mut self, now: Now, function: u32, effects: &mut impl Effects) {
        self.functions[function as usize].publish_settings();
        self.publish(function);
        self.cover(now, function, effects);
        // Nothing was read for it while it was paused.
        self.load_ahead(function, effects);
        self.debug_check_invariants();
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
        from: Place,
        effects: &mut impl Effects,
    ) -> Result<Piece, ControlError> {
        let function = self.known_function(function)?;
        let piece = self.walk(function, from, |server, job| {
            server.cancel(job, effects);
            true
        });
        // After the walk: otherwise a worker would be woken for a job that is about to be cancelled.
        self.cover(now, function, effects);
        self.cover_freed(now, effects);
        self.debug_check_invariants();
        Ok(piece)
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
        // Parked jobs may have been queued behind it.
        self.load_ahead(from, effects);
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
        place: Place,
        effects: &mut impl Effects,
    ) -> Result<Piece, ControlError> {
        self.known_function(from)?;
        let to = self.function_for_control(to)?;
        // It may have been evicted to make room for the new one.
        let Some(from) = self.function_names.get(from).copied().filter(|from| *from != to) else {
            return Ok(Piece::default());
        };
        let piece = self.walk(from, place, |server, job| {
            server.work_budget.spend(2 * price::CHANGE);
            server.check_waiting(job).is_ok() && server.transfer(now, job, to, effects).is_ok()
        });
        self.load_ahead(from, effects);
        self.debug_check_invariants();
        Ok(piece)
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
        // Parked jobs of its old priority may have been queued behind it.
        self.load_ahead(function, effects);
        self.debug_check_invariants();
        Ok(())
    }

    /// Makes a scheduled job due.
    ///
    /// # Errors
    /// [`ControlError::NoSuchJob`], [`ControlError::JobIsNotScheduled`], [`ControlError::JobIsBusy`].
    pub fn run_now(&mut self, now: Now, handle: &[u8], effects: &mut impl Effects) -> Result<(), ControlError> {
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

    fn known_function(&self, name: &[u8]) -> Result<u32, ControlError> {
        self.function_names.get(name).copied().ok_or(ControlError::NoSuchFunction)
    }

    /// The function of this name, created if it is not known.
    fn function_for_control(&mut self, name: &[u8]) -> Result<u32, ControlError> {
        check_function_name(name)?;
        self.function_slot(name).map_err(|_| ControlError::TooManyFunctions)
    }

    /// The function that gets a setting, or loses one if `is_set` is false. `None` if it is not known, and so
    /// has no setting to lose.
    pub(super) fn function_for_setting(&mut self, name: &[u8], is_set: bool) -> Result<Option<u32>, ControlError> {
        check_function_name(name)?;
        self.check_settings(name, is_set)?;
        let known = self.function_names.get(name).copied();
        if known.is_some() || !is_set {
            return Ok(known);
        }
        let slot = self.function_for_control(name)?;
        self.functions[slot as usize].settings_only = true;
        Ok(Some(slot))
    }

    /// Ends a change of a setting. Returns the number of functions affected now, and removes one kept only
    /// for it.
    pub(super) fn end_setting(&mut self, slot: u32) -> usize {
        let function = &self.functions[slot as usize];
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
        let known = self.function_names.get(name).map(|slot| &self.functions[*slot as usize]);
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
            JobState::Scheduled(_) | JobState::Ready(_) | JobState::Parked(_) if job.kept == Kept::Storing => {
                Err(ControlError::JobIsBusy)
            }
            JobState::Scheduled(_) | JobState::Ready(_) | JobState::Parked(_) => Ok(()),
        }
    }

    /// Moves a waiting job to another function, unless it equals one there.
    fn transfer(&mut self, now: Now, slot: u32, to: u32, effects: &mut impl Effects) -> Result<(), ControlError> {
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
        let of = &mut self.functions[function as usize];
        match state {
            JobState::Ready(_) => of.ready[priority].remove(&mut self.jobs, slot),
            JobState::Parked(_) => of.parked[priority].remove(&mut self.jobs, slot),
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
        let function = &mut self.functions[self.jobs.get(slot).function as usize];
        function.returns = function.returns.wrapping_add(1);
        if !is_scheduled {
            return self.make_ready(now, slot, effects);
        }
        self.put_in_schedule(slot);
    }

    /// Sends the new fields of a stored job to the store. `before` is its previous function.
    fn store_edit(&self, slot: u32, before: u32, effects: &mut impl Effects) {
        let job = self.jobs.get(slot);
        if job.kept.is_stored() {
            let key = job.key(&self.functions[before as usize].name);
            let function = self.functions[job.function as usize].name.clone();
            effects.store(StoreOp::Edit { key, edit: Edit { function, priority: job.priority, due_s: job.due_s() } });
        }
    }

    /// Calls `act` for the jobs of a function, list by list in order, and then for the running ones. `act`
    /// returns whether it has changed the job, which has then left its list.
    fn walk(&mut self, function: u32, from: Place, mut act: impl FnMut(&mut Self, u32) -> bool) -> Piece {
        let mut place = from;
        if matches!(place.stage, Stage::Beginning | Stage::Rules) {
            place = self.begin_round(function, Round::default(), self.jobs.last_number());
        }
        let mut affected = 0;
        for looks in 0.. {
            if looks > 0 && self.is_turn_over() {
                break;
            }
            let next = match place.stage {
                Stage::List(list, after) => self.next_in_list(function, list, after, &mut place.round),
                Stage::Runs(at) => self.next_run(function, at, &mut place.round),
                Stage::Beginning | Stage::Rules => None,
            };
            self.work_budget.spend(price::ENTRY);
            let Some(job) = next else {
                place.stage = match place.stage {
                    Stage::List(list, _) if list + 1 < LISTS => Stage::List(list + 1, None),
                    Stage::List(..) => Stage::Runs(None),
                    _ => {
                        let Some(place) = self.next_round(function, place) else {
                            return Piece { affected, next: None };
                        };
                        // Other connections run first.
                        return Piece { affected, next: Some(place) };
                    }
                };
                continue;
            };
            let number = self.jobs.get(job).number();
            let behind = self.behind_run(job);
            if number <= place.last_number && act(self, job) {
                affected += 1;
                place.round.has_affected = true;
                if let Stage::Runs(at) = &mut place.stage {
                    *at = behind;
                }
            } else {
                match &mut place.stage {
                    Stage::List(_, after) => *after = Some((job, number)),
                    Stage::Runs(at) => *at = behind,
                    Stage::Beginning | Stage::Rules => {}
                }
            }
            if matches!(place.stage, Stage::Runs(None)) {
                // That was the last run.
                let next = self.next_round(function, place);
                return Piece { affected, next };
            }
        }
        Piece { affected, next: Some(place) }
    }

    fn begin_round(&self, function: u32, round: Round, last_number: u64) -> Place {
        let returns = self.functions[function as usize].returns;
        let round = Round { returns, is_torn: false, has_affected: false, ..round };
        Place { stage: Stage::List(0, None), last_number, round }
    }

    /// The cursor of another round, if the last one may have missed some jobs.
    fn next_round(&self, function: u32, place: Place) -> Option<Place> {
        let Round { returns, is_torn, has_affected, for_nothing } = place.round;
        let of = self.functions.get(function as usize)?;
        let may_miss = is_torn || returns != of.returns;
        let for_nothing = if has_affected { 0 } else { for_nothing + 1 };
        let is_over = of.total() == of.storing || !may_miss || for_nothing > MOST_ROUNDS_FOR_NOTHING;
        (!is_over).then(|| self.begin_round(function, Round { for_nothing, ..place.round }, place.last_number))
    }

    /// The job after one in a function's list, or the first.
    fn next_in_list(&self, function: u32, list: usize, after: Option<(u32, u64)>, round: &mut Round) -> Option<u32> {
        let Some((slot, number)) = after else {
            return Some(self.list_of(function, list).first).filter(|job| *job != NONE);
        };
        let job = self.jobs.find_in(slot, number).filter(|job| job.function == function && list_index(*job) == list);
        let Some(links) = job.and_then(|job| job.state.links()) else {
            // It has left the list, so the position in the list is lost.
            round.is_torn = true;
            return None;
        };
        Some(links.next).filter(|job| *job != NONE)
    }

    /// The job at a position in the list of a function's runs, or the first.
    fn next_run(&self, function: u32, at: Option<(u32, u64)>, round: &mut Round) -> Option<u32> {
        let Some((slot, number)) = at else {
            return self.runs.get(self.functions[function as usize].first_run as usize).map(|run| run.job);
        };
        let job = self.jobs.find_in(slot, number);
        let is_there = job.is_some_and(|job| job.function == function && matches!(job.state, JobState::Running(_)));
        round.is_torn |= !is_there;
        is_there.then_some(slot)
    }

    /// The job whose run follows that of a running job, in the list of its function's runs.
    fn behind_run(&self, job: u32) -> Option<(u32, u64)> {
        let JobState::Running(run) = self.jobs.get(job).state else { return None };
        let next = self.runs.get(self.runs[run as usize].next_of_function as usize)?;
        Some((next.job, self.jobs.get(next.job).number()))
    }

    /// The lists by index: for each priority the ready, the loading and the parked jobs; then for each
    /// priority the scheduled jobs.
    pub(super) fn list_of(&self, function: u32, index: usize) -> JobList {
        let function = &self.functions[function as usize];
        match index.checked_sub(QUEUED_LISTS) {
            Some(priority) => function.scheduled[priority],
            None => [&function.ready, &function.loading, &function.parked][index % 3][index / 3],
        }
    }
}
