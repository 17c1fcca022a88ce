//! What the operator does to functions, jobs and workers.

use super::effects::Effects;
use super::function::{Function, JobList};
use super::index::NONE;
use super::job::{JobState, Kept};
use super::stored::{Edit, StoreOp};
use super::{ConnectionId, JobServer, Now, US_PER_S, Withholding, price};
use crate::protocol::names::FUNCTION_MAX;
use crate::protocol::{FunctionName, Priority};

/// Whom a rule concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// One connection, as long as it lasts.
    Connection(ConnectionId),
    /// Connections that gave themselves this id.
    Client(Vec<u8>),
    /// Connections from this address.
    Host(String),
}

/// A rule that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whom it concerns.
    pub who: Who,
    /// The function that is withheld; `None` for all.
    pub function: Option<FunctionName>,
    /// How.
    pub how: Withholding,
}

/// How many slots of jobs one call looks at, so that the jobs of other functions do not take it long either.
pub(super) const LOOKS_PER_CALL: usize = 4096;

/// So many slots are looked at in the time of one other entry.
const SLOTS_AN_ENTRY: usize = 8;

/// Where a long piece of work is to go on. It begins at the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    stage: Stage,
    /// The highest number that was given to a job when the work began: later jobs are not meant.
    last_number: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Beginning,
    /// In the function's list of this index, behind a job that stays in it, by slot and number.
    List(usize, Option<(u32, u64)>),
    /// At this slot of all jobs.
    Slot(usize),
    /// At the next worker for which rules have changed.
    Rules,
}

impl Place {
    /// Where [`JobServer::go_on_with_rules`] goes on.
    pub(super) const OF_RULES: Self = Self { stage: Stage::Rules, last_number: 0 };
}

/// What one call of a long piece of work came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// How many jobs it has changed.
    pub affected: usize,
    /// Where to go on; `None` when all is done.
    pub next: Option<Place>,
}

/// Why the operator's wish was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No job has this handle.
    #[error("there is no such job")]
    NoSuchJob,
    /// The job is with a worker.
    #[error("the job is running")]
    JobIsRunning,
    /// The job waits for a worker, not for its time.
    #[error("the job is not scheduled for later")]
    JobIsNotScheduled,
    /// The other function has a job of the same unique id.
    #[error("the other function has a job of the same unique id")]
    JobExistsThere,
    /// Its workload is being read, or the store is just being asked to keep it.
    #[error("the job is being read or stored: try again")]
    JobIsBusy,
    /// Nobody ever used such a function.
    #[error("there is no such function")]
    NoSuchFunction,
    /// It has workers, or jobs that run.
    #[error("the function has workers or running jobs")]
    FunctionInUse,
    /// It has jobs that wait.
    #[error("the function has queued jobs: cancel its jobs first")]
    FunctionHasJobs,
    /// No connection is meant.
    #[error("there is no such worker")]
    NoSuchWorker,
    /// No function more can be known.
    #[error("there are as many functions as may be")]
    TooManyFunctions,
    /// No function more can be paused or limited.
    #[error("there are as many paused or limited functions as may be, so resume one or take back its limits first")]
    TooManySettings,
    /// No rule more can be kept.
    #[error("there are as many rules for workers as may be")]
    TooManyRules,
    /// Nothing was withheld from these workers, named so.
    #[error("there is no such rule")]
    NoSuchRule,
    /// A name is longer than the protocol allows.
    #[error("the name is too long")]
    NameTooLong,
    /// A name has a NUL in it: no packet and no store could carry it.
    #[error("the name has a NUL in it")]
    BadName,
}

/// Whether a function that has jobs can be called so. A stored job of another name would not come back after a restart.
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
    /// Withholds a function's jobs from all workers, or ends that. Jobs go on coming in, and those that run go on.
    ///
    /// Returns how many functions that concerns now: 0 where nothing but settings has named it yet. Such a function is kept for
    /// its settings, and forgotten with the last of them.
    ///
    /// # Errors
    /// [`ControlError::NameTooLong`], [`ControlError::BadName`], [`ControlError::TooManyFunctions`],
    /// [`ControlError::TooManySettings`]; [`ControlError::NoSuchFunction`] where one is to go on that is not known.
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

    /// Lets so many jobs of a function run at once, 0 for any number. Jobs that run go on, be they more. Returns how many
    /// functions that concerns now, as [`pause_function`](Self::pause_function) does.
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

    /// The operator has changed how many jobs of a function may be handed out.
    fn reopen(&mut self, now: Now, function: u32, effects: &mut impl Effects) {
        self.functions[function as usize].publish_settings();
        self.publish(function);
        self.cover(now, function, effects);
        // While it was paused, nothing was read for it.
        self.load_ahead(function, effects);
        self.debug_check_invariants();
    }

    /// Cancels jobs of a function, running ones too, as [`cancel_job`](Self::cancel_job) does. A bounded number at a time: to be
    /// called again with the place that it returns, until there is none. Jobs that come after the first call are not meant.
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
        if self.functions[function as usize].total() == 0 {
            // Slots of other functions' jobs need not be looked through.
            return Ok(Piece::default());
        }
        let Place { stage, last_number } = self.begin(from);
        let first = if let Stage::Slot(first) = stage { first } else { 0 };
        let piece = self.walk_slots(function, first, last_number, |server, job| {
            if matches!(server.jobs.get(job).state, JobState::Storing(_)) {
                return false;
            }
            server.cancel(job, effects);
            true
        });
        // Only now: a worker would be woken for a job that is about to go.
        self.cover(now, function, effects);
        self.cover_freed(now, effects);
        self.debug_check_invariants();
        Ok(piece)
    }

    /// Gives a job that waits, for a worker or for its time, to another function, where it comes last of its priority.
    ///
    /// # Errors
    /// Each but [`ControlError::JobIsNotScheduled`] that is of jobs or functions.
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
        // Parked jobs may have waited behind it.
        self.load_ahead(from, effects);
        self.debug_check_invariants();
        Ok(())
    }

    /// Gives the jobs of a function that wait, for a worker or for their time, to another function. They keep their order, and
    /// come behind the jobs there. Jobs that run stay; so do those that equal one there, and those that are just being read or
    /// stored. In a paused function none is read. A bounded number at a time, as with [`cancel_jobs`](Self::cancel_jobs).
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
        // To make room for the new one it may have been forgotten.
        let Some(from) = self.function_names.get(from).copied().filter(|from| *from != to) else {
            return Ok(Piece::default());
        };
        let Place { stage, last_number } = self.begin(place);
        let piece = match stage {
            Stage::Beginning | Stage::Rules => self.move_list(now, (from, to), (0, None), last_number, effects),
            Stage::List(list, after) => self.move_list(now, (from, to), (list, after), last_number, effects),
            Stage::Slot(first) => self.walk_slots(from, first, last_number, |server, job| {
                server.purse.spend(2 * price::CHANGE);
                server.check_waiting(job).is_ok() && server.transfer(now, job, to, effects).is_ok()
            }),
        };
        self.load_ahead(from, effects);
        self.debug_check_invariants();
        Ok(piece)
    }

    /// Changes the priority of a job that waits. It comes last of its new one.
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
        let is_scheduled = self.jobs.get(slot).state == JobState::Scheduled;
        let function = self.jobs.get(slot).function;
        self.take_out(slot);
        self.jobs.get_mut(slot).priority = priority;
        self.store_edit(slot, function, effects);
        self.put_back(now, slot, is_scheduled, effects);
        // Parked jobs of its old priority may have waited behind it.
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
        if self.jobs.get(slot).state != JobState::Scheduled {
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

    /// The function of this name, which is made where it is not known.
    fn function_for_control(&mut self, name: &[u8]) -> Result<u32, ControlError> {
        check_function_name(name)?;
        self.function_slot(name).map_err(|_| ControlError::TooManyFunctions)
    }

    /// The function that is to get a setting, or where `is_set` is false to lose one: `None` where it is not known and so has
    /// none to lose.
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

    /// A setting has changed. Returns how many functions that concerns now, and forgets one that was kept for it alone.
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

    /// Whether there may be a setting for this function. Before it is made: it would be made for nothing.
    pub(super) fn check_settings(&self, name: &[u8], is_set: bool) -> Result<(), ControlError> {
        let is_full = self.functions_with_settings >= self.policy.max_functions_with_settings();
        let known = self.function_names.get(name).map(|slot| &self.functions[*slot as usize]);
        let has_settings = known.is_some_and(Function::has_settings);
        if is_set && is_full && !has_settings { Err(ControlError::TooManySettings) } else { Ok(()) }
    }

    fn begin(&self, place: Place) -> Place {
        match place.stage {
            Stage::Beginning => Place { last_number: self.jobs.last_number(), ..place },
            Stage::List(..) | Stage::Slot(_) | Stage::Rules => place,
        }
    }

    fn waiting_job(&self, handle: &[u8]) -> Result<u32, ControlError> {
        let slot = self.find_handle(handle).ok_or(ControlError::NoSuchJob)?;
        self.check_waiting(slot).map(|()| slot)
    }

    /// Whether a job waits where it can be taken out.
    fn check_waiting(&self, slot: u32) -> Result<(), ControlError> {
        let job = self.jobs.get(slot);
        match job.state {
            JobState::Running(_) => Err(ControlError::JobIsRunning),
            JobState::Storing(_) | JobState::Loading => Err(ControlError::JobIsBusy),
            JobState::Ended => Err(ControlError::NoSuchJob),
            // The store is told of a job that it has, and will know it by the same names until it has answered.
            JobState::Scheduled | JobState::Ready(_) | JobState::Parked(_) if job.kept == Kept::Storing => {
                Err(ControlError::JobIsBusy)
            }
            JobState::Scheduled | JobState::Ready(_) | JobState::Parked(_) => Ok(()),
        }
    }

    /// Gives a job that waits to another function, unless it equals one there.
    fn transfer(&mut self, now: Now, slot: u32, to: u32, effects: &mut impl Effects) -> Result<(), ControlError> {
        if self.jobs.equal_in(slot, to).is_some() {
            return Err(ControlError::JobExistsThere);
        }
        let from = self.jobs.get(slot).function;
        let is_scheduled = self.jobs.get(slot).state == JobState::Scheduled;
        self.take_out(slot);
        self.jobs.set_function(slot, to);
        self.store_edit(slot, from, effects);
        self.put_back(now, slot, is_scheduled, effects);
        Ok(())
    }

    /// Takes a job that waits out of its list or the schedule.
    fn take_out(&mut self, slot: u32) {
        let job = self.jobs.get(slot);
        let (function, priority, state) = (job.function, job.priority.index(), job.state);
        let due = (job.due_s(), job.number(), slot);
        let of = &mut self.functions[function as usize];
        match state {
            JobState::Ready(_) => of.ready[priority].remove(&mut self.jobs, slot),
            JobState::Parked(_) => of.parked[priority].remove(&mut self.jobs, slot),
            JobState::Scheduled => {
                of.scheduled[priority] -= 1;
                self.jobs.schedule.remove(&due);
            }
            JobState::Storing(_) | JobState::Loading | JobState::Running(_) | JobState::Ended => {
                debug_assert!(false, "a job that does not wait was taken out of its list");
            }
        }
        // In no list, until it is put back.
        self.jobs.get_mut(slot).state = JobState::Scheduled;
        self.publish(function);
    }

    /// Puts a job that was taken out where it belongs now.
    fn put_back(&mut self, now: Now, slot: u32, is_scheduled: bool, effects: &mut impl Effects) {
        if !is_scheduled {
            return self.make_ready(now, slot, effects);
        }
        self.put_in_schedule(slot);
    }

    /// Tells the store that has a job what has become of it. `before` is its function until now.
    fn store_edit(&self, slot: u32, before: u32, effects: &mut impl Effects) {
        let job = self.jobs.get(slot);
        if job.kept.is_stored() {
            let key = job.key(&self.functions[before as usize].name);
            let function = self.functions[job.function as usize].name.clone();
            effects.store(StoreOp::Edit { key, edit: Edit { function, priority: job.priority, due_s: job.due_s() } });
        }
    }

    /// Does something to jobs of a function, by slots. `act` tells whether it has.
    fn walk_slots(
        &mut self,
        function: u32,
        first: usize,
        last_number: u64,
        mut act: impl FnMut(&mut Self, u32) -> bool,
    ) -> Piece {
        let end = self.jobs.slot_bound().min(first.saturating_add(LOOKS_PER_CALL));
        let mut affected = 0;
        for index in first..end {
            let slot = u32::try_from(index).unwrap_or(NONE);
            let job = self.jobs.find(slot).filter(|job| job.function == function && job.number() <= last_number);
            if job.is_some() && act(self, slot) {
                affected += 1;
            }
            if affected > 0 && self.is_turn_over() {
                return Piece { affected, next: Some(Place { stage: Stage::Slot(index + 1), last_number }) };
            }
        }
        self.purse.spend_entries((end - first.min(end)) / SLOTS_AN_ENTRY);
        let next = (end < self.jobs.slot_bound()).then_some(Place { stage: Stage::Slot(end), last_number });
        Piece { affected, next }
    }

    /// Moves jobs of one of a function's lists in their order, from behind a job that stays. When the last list is through,
    /// the slots of all jobs are: what is scheduled is in no list of the function's.
    fn move_list(
        &mut self,
        now: Now,
        (from, to): (u32, u32),
        (list, after): (usize, Option<(u32, u64)>),
        last_number: u64,
        effects: &mut impl Effects,
    ) -> Piece {
        let (mut after, mut affected) = (after, 0);
        for count in 0.. {
            if count > 0 && self.is_turn_over() {
                break;
            }
            self.purse.spend(2 * price::CHANGE);
            let job = match after {
                None => self.list_of(from, list).first,
                Some((slot, number)) => self.next_in(from, list, slot, number),
            };
            if job == NONE {
                let lists = 2 * Priority::ALL.len();
                let stage = if list + 1 < lists { Stage::List(list + 1, None) } else { Stage::Slot(0) };
                return Piece { affected, next: Some(Place { stage, last_number }) };
            }
            let number = self.jobs.get(job).number();
            let is_meant = number <= last_number && self.check_waiting(job).is_ok();
            if is_meant && self.transfer(now, job, to, effects).is_ok() {
                affected += 1;
            } else {
                after = Some((job, number));
            }
        }
        Piece { affected, next: Some(Place { stage: Stage::List(list, after), last_number }) }
    }

    /// By priority the ready jobs and then the parked ones.
    pub(super) fn list_of(&self, function: u32, index: usize) -> JobList {
        let function = &self.functions[function as usize];
        let lists = if index.is_multiple_of(2) { &function.ready } else { &function.parked };
        lists[index / 2]
    }

    /// The job behind one in a function's list. None if that one is not there any more: what is left is found by its slots.
    fn next_in(&self, function: u32, list: usize, slot: u32, number: u64) -> u32 {
        let job = self.jobs.find_in(slot, number).filter(|job| job.function == function);
        let job = job.filter(|job| job.priority.index() == list / 2);
        match job.map(|job| job.state) {
            Some(JobState::Ready(links)) if list.is_multiple_of(2) => links.next,
            Some(JobState::Parked(links)) if !list.is_multiple_of(2) => links.next,
            _ => NONE,
        }
    }
}
