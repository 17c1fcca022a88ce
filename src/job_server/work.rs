//! Workers: the functions they register, the jobs they grab, and the results they send.

use std::sync::Arc;

use super::abilities::Choice;
use super::attempt_history::RequeueReason;
use super::connection::{Ability, Pending, Run};
use super::effects::{Effects, Event};
use super::ids::{AbilitySlot, ConnectionSlot, FunctionSlot, RunSlot, SlotId};
use super::job::{JobState, Residency};
use super::stored::StoreOp;
use super::tell::Said;
use super::{ConnectionId, JobServer, Now, price};
use crate::protocol::request::leading_count;
use crate::protocol::{GrabKind, NotRegistered, PeerError, Response, Workload};

/// The number of a connection's runs that cost as much to examine as one other entry.
const RUNS_AN_ENTRY: usize = 8;

/// How a job ended, as reported by its worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    Complete(Workload<'a>),
    Fail,
    Exception(Workload<'a>),
}

impl JobServer {
    pub(super) fn can_do(
        &mut self,
        now: Now,
        connection: ConnectionSlot,
        name: &[u8],
        timeout_ms: Option<u64>,
        effects: &mut impl Effects,
    ) {
        let known = self.function_names.get(name).copied();
        if let Some(ability) = known.and_then(|function| self.find_ability(connection, function)) {
            return self.renew_ability(now, ability, timeout_ms, effects);
        }
        if self.connections[connection].abilities.len as usize >= self.policy.max_functions_per_connection {
            return self.refuse_function(connection, NotRegistered::TooManyOnConnection, effects);
        }
        if !self.has_memory_for_ability(self.connections[connection].abilities.len as usize) {
            return self.refuse_function(connection, NotRegistered::OutOfMemory, effects);
        }
        let Ok(function) = self.function_slot(name) else {
            return self.refuse_function(connection, NotRegistered::TooManyOnServer, effects);
        };
        let mode = self.mode_for(connection, name);
        let gauges = self.connections[connection].gauges.add_function(&self.functions[function].name);
        gauges.set_mode(mode);
        self.work_budget.spend(price::CHANGE);
        self.widen(connection);
        let new = Ability {
            connection,
            function,
            timeout_ms,
            gauges,
            mode,
            previous: AbilitySlot::NONE,
            next: AbilitySlot::NONE,
            since: 0,
            turn: 0,
            turn_previous: AbilitySlot::NONE,
            turn_next: AbilitySlot::NONE,
        };
        let ability = self.abilities.insert(new);
        self.put_first(ability);
        self.ability_slots.insert((connection, function), ability);
        self.functions[function].workers += 1;
        self.publish(function);
        self.read_ahead(function, effects);
        if self.connections[connection].is_wide {
            self.join_wide(ability);
        }
        if self.is_listed(ability) {
            self.join_later(ability);
            self.cover(now, function, effects);
        }
    }

    /// Registers a function again: its ability moves to the front of the order.
    fn renew_ability(&mut self, now: Now, ability: AbilitySlot, timeout_ms: Option<u64>, effects: &mut impl Effects) {
        self.take_out_of_turn(ability);
        self.put_first(ability);
        let Ability { connection, function, gauges, .. } = &self.abilities[ability];
        let (connection, function) = (*connection, *function);
        self.connections[connection].gauges.renew_function(gauges);
        self.abilities[ability].timeout_ms = timeout_ms;
        // An incremental pass over the abilities may not have reached this one, and now will not.
        if self.connections[connection].has_stale_rules {
            self.refresh_rule(ability);
        }
        if self.connections[connection].cover_at != AbilitySlot::NONE {
            self.cover(now, function, effects);
        }
    }

    /// Returns whether it is complete; if not, call again.
    pub(super) fn cant_do(
        &mut self,
        now: Now,
        connection: ConnectionSlot,
        name: &[u8],
        effects: &mut impl Effects,
    ) -> bool {
        let Some(function) = self.function_names.get(name).copied() else {
            return true;
        };
        let Some(ability) = self.find_ability(connection, function) else {
            return true;
        };
        let gauges = Arc::clone(&self.abilities[ability].gauges);
        self.connections[connection].gauges.remove_function(&gauges);
        self.remove_ability(now, ability, effects);
        gauges.running.get() == 0 || self.give_back(now, connection, function, effects)
    }

    /// Revokes a connection's jobs of a function. Returns whether it is complete; if not, call again: until
    /// then the connection gets no other jobs.
    pub(super) fn give_back(
        &mut self,
        now: Now,
        connection: ConnectionSlot,
        function: FunctionSlot,
        effects: &mut impl Effects,
    ) -> bool {
        let mut run = self.connections[connection].first_run;
        let (mut looked_at, mut is_all) = (0, true);
        let mut has_taken = false;
        while run != RunSlot::NONE {
            let Run { job, next, .. } = self.runs[run];
            looked_at += 1;
            if self.jobs.get(job).function == function {
                if has_taken && self.is_turn_over() {
                    is_all = false;
                    break;
                }
                has_taken = true;
                self.revoke(now, run, RequeueReason::GivenBack, effects);
            }
            run = next;
        }
        // Runs that were begun together are adjacent in memory.
        self.work_budget.spend_entries(looked_at / RUNS_AN_ENTRY);
        self.connections[connection].pending = (!is_all).then_some(Pending::GiveBack { function });
        is_all
    }

    /// Returns whether it is complete; if not, call again after other connections have run.
    pub(super) fn reset_abilities(&mut self, now: Now, connection: ConnectionSlot, effects: &mut impl Effects) -> bool {
        if !self.remove_abilities(now, connection, effects) {
            return false;
        }
        self.connections[connection].gauges.remove_all_functions();
        while self.connections[connection].first_run != RunSlot::NONE {
            self.revoke(now, self.connections[connection].first_run, RequeueReason::GivenBack, effects);
            if self.is_turn_over() {
                break;
            }
        }
        self.connections[connection].first_run == RunSlot::NONE
    }

    /// Removes some of a connection's abilities, at least one. Returns whether none is left.
    pub(super) fn remove_abilities(
        &mut self,
        now: Now,
        connection: ConnectionSlot,
        effects: &mut impl Effects,
    ) -> bool {
        while self.connections[connection].abilities.first != AbilitySlot::NONE {
            self.remove_ability(now, self.connections[connection].abilities.first, effects);
            if self.is_turn_over() {
                break;
            }
        }
        self.connections[connection].abilities.first == AbilitySlot::NONE
    }

    pub(super) fn remove_ability(&mut self, now: Now, ability: AbilitySlot, effects: &mut impl Effects) {
        self.work_budget.spend(price::CHANGE);
        let Ability { connection, function, .. } = self.abilities[ability];
        if self.connections[connection].is_wide {
            self.leave_wide(ability);
        } else if self.is_listed(ability) {
            self.remove_sleeper(ability);
        }
        self.take_out_of_turn(ability);
        self.abilities.remove(ability);
        self.narrow(connection);
        self.ability_slots.remove(&(connection, function));
        self.functions[function].workers -= 1;
        self.publish(function);
        if self.cancel_wakeup(connection, function) {
            self.cover(now, function, effects);
        }
    }

    /// The ability of a connection for a function, if it has registered it.
    pub(super) fn find_ability(&self, connection: ConnectionSlot, function: FunctionSlot) -> Option<AbilitySlot> {
        self.ability_slots.get(&(connection, function)).copied()
    }

    /// Returns whether it is complete; if not, call again.
    pub(super) fn grab_job(
        &mut self,
        now: Now,
        connection: ConnectionSlot,
        kind: GrabKind,
        effects: &mut impl Effects,
    ) -> bool {
        self.report_refused_functions(connection, effects);
        if !self.refresh_rules(now, connection, effects) {
            return false;
        }
        if self.draining && !self.page_out_durable(connection, effects) {
            return false;
        }
        let woken_for = self.wake_up(connection);
        let is_all = self.take_job(now, connection, kind, None, effects);
        if let Some(function) = woken_for {
            self.cover(now, function, effects);
        }
        is_all
    }

    /// Finds a job for a connection's GRAB_JOB, starting at an ability. Returns whether it was answered.
    pub(super) fn take_job(
        &mut self,
        now: Now,
        connection: ConnectionSlot,
        kind: GrabKind,
        from: Option<AbilitySlot>,
        effects: &mut impl Effects,
    ) -> bool {
        self.connections[connection].pending = None;
        match self.choose_job(connection, from) {
            Choice::Ability(ability, priority) => {
                self.rotate(ability);
                let function = self.abilities[ability].function;
                let job = self.functions[function].ready[priority].first;
                self.assign(now, connection, job, ability, kind, effects);
            }
            Choice::Nothing => self.say(self.id_of(connection), Response::NoJob, effects),
            Choice::Unfinished(at) => {
                self.connections[connection].pending = Some(Pending::Grab { kind, at });
                return false;
            }
        }
        true
    }

    fn assign(
        &mut self,
        now: Now,
        connection: ConnectionSlot,
        slot: u32,
        ability: AbilitySlot,
        kind: GrabKind,
        effects: &mut impl Effects,
    ) {
        let (function_slot, priority) = (self.jobs.get(slot).function, self.jobs.get(slot).priority);
        let function = &mut self.functions[function_slot];
        function.list(priority).remove(&mut self.jobs, slot);
        function.running += 1;
        function.assigned_since_load[priority.index()] += 1;
        self.publish(function_slot);
        self.measure_wait(now, slot);
        let Ability { timeout_ms, ref gauges, .. } = self.abilities[ability];
        gauges.running.bump(1);
        let deadline_us = timeout_ms.map(|timeout_ms| now.monotonic_us.saturating_add(timeout_ms.saturating_mul(1000)));
        if let Some(deadline_us) = deadline_us {
            self.deadlines.insert((deadline_us, slot));
        }
        let previous = self.connections[connection].last_run;
        let function = &mut self.functions[function_slot];
        let run = self.runs.insert(Run {
            job: slot,
            connection,
            gauges: Arc::clone(gauges),
            since_us: now.monotonic_us,
            since_unix_ms: now.unix_us / 1000,
            deadline_us,
            numerator: 0,
            denominator: 0,
            previous,
            next: RunSlot::NONE,
            next_of_function: function.first_run,
            previous_of_function: RunSlot::NONE,
        });
        let before = std::mem::replace(&mut function.first_run, run);
        if let Some(before) = self.runs.get_mut(before) {
            before.previous_of_function = run;
        }
        self.start_run(slot, run);
        let holder = &mut self.connections[connection];
        match previous {
            RunSlot::NONE => holder.first_run = run,
            previous => self.runs[previous].next = run,
        }
        let job = self.jobs.get(slot);
        holder.add_run(run);
        holder.gauges.set_job(job.prefix, job.number(), now.unix_us / 1000);
        holder.was_revoked(job.number(), true);
        let to = ConnectionId { slot: connection.number(), generation: holder.generation };
        let handle = job.handle(&self.prefixes);
        let name = self.functions[function_slot].name.as_bytes();
        let (unique, reducer, workload) = (job.unique(), job.reducer(), job.workload());
        let response = match kind {
            GrabKind::Plain => Response::JobAssign { handle, function: name, workload },
            GrabKind::All if !reducer.is_empty() => {
                Response::JobAssignAll { handle, function: name, unique, reducer, workload }
            }
            GrabKind::Unique | GrabKind::All => Response::JobAssignUniq { handle, function: name, unique, workload },
        };
        self.say(to, response, effects);
        self.read_ahead(function_slot, effects);
    }

    /// Removes a run from its function's list.
    fn unlist_run(&mut self, gone: &Run) {
        let Run { job, next_of_function, previous_of_function, .. } = *gone;
        if let Some(previous) = self.runs.get_mut(previous_of_function) {
            previous.next_of_function = next_of_function;
        } else {
            let function = self.jobs.get(job).function;
            self.functions[function].first_run = next_of_function;
        }
        if let Some(next) = self.runs.get_mut(next_of_function) {
            next.previous_of_function = previous_of_function;
        }
    }

    /// Removes a run from its connection's list, with its deadline.
    pub(super) fn remove_run(&mut self, run: RunSlot) -> Run {
        let gone = self.runs.remove(run);
        self.unlist_run(&gone);
        gone.gauges.running.set(gone.gauges.running.get().saturating_sub(1));
        if let Some(deadline_us) = gone.deadline_us {
            self.deadlines.remove(&(deadline_us, gone.job));
        }
        let connection = &mut self.connections[gone.connection];
        connection.runs -= 1;
        connection.gauges.running.set(u64::from(connection.runs));
        match gone.previous {
            RunSlot::NONE => connection.first_run = gone.next,
            previous => self.runs[previous].next = gone.next,
        }
        match gone.next {
            RunSlot::NONE => connection.last_run = gone.previous,
            next => self.runs[next].previous = gone.previous,
        }
        if connection.is_full && connection.runs < self.policy.max_jobs_per_connection {
            self.free(gone.connection);
        }
        gone
    }

    /// A job that a connection holds, and its run.
    ///
    /// `Err(None)` for a job that was revoked from it: a worker that was too slow gets no error, which
    /// libgearman would take for the answer to its next request. `is_last` says that the worker is done with
    /// the job.
    fn held_job(
        &mut self,
        connection: ConnectionSlot,
        handle: &[u8],
        is_last: bool,
        unknown: PeerError,
    ) -> Result<(u32, RunSlot), Option<PeerError>> {
        let (prefix, number) = self.prefixes.parse(handle).ok_or(Some(unknown))?;
        if let Some(job) = self.find_named(prefix, number)
            && let JobState::Running(run) = self.jobs.get(job).state
            && self.runs[run].connection == connection
        {
            return Ok((job, run));
        }
        let revoked = self.connections[connection].was_revoked(number, is_last);
        Err(if revoked { None } else { Some(unknown) })
    }

    pub(super) fn work_status(
        &mut self,
        connection: ConnectionSlot,
        handle: &[u8],
        numerator: &[u8],
        denominator: &[u8],
        effects: &mut impl Effects,
    ) -> bool {
        match self.held_job(connection, handle, false, PeerError::RESULT_FOR_UNKNOWN_JOB) {
            Ok((job, run)) => {
                let run = &mut self.runs[run];
                run.numerator = leading_count(numerator);
                run.denominator = leading_count(denominator);
                self.tell(job, connection, Said::Status { numerator, denominator }, effects)
            }
            Err(error) => self.send_error(connection, error, effects),
        }
    }

    pub(super) fn work_data(
        &mut self,
        connection: ConnectionSlot,
        handle: &[u8],
        said: Said<'_>,
        effects: &mut impl Effects,
    ) -> bool {
        match self.held_job(connection, handle, false, PeerError::DATA_FOR_UNKNOWN_JOB) {
            Ok((job, _)) => self.tell(job, connection, said, effects),
            Err(error) => self.send_error(connection, error, effects),
        }
    }

    /// Ends a job with its worker's result, notifies its clients, and removes it. Returns whether all clients
    /// are notified; if not, call again.
    pub(super) fn finish(
        &mut self,
        now: Now,
        connection: ConnectionSlot,
        handle: &[u8],
        outcome: Outcome<'_>,
        effects: &mut impl Effects,
    ) -> bool {
        let unknown = match outcome {
            Outcome::Complete(_) | Outcome::Fail => PeerError::RESULT_FOR_UNKNOWN_JOB,
            Outcome::Exception(_) => PeerError::EXCEPTION_FOR_UNKNOWN_JOB,
        };
        let job = match self.held_job(connection, handle, true, unknown) {
            Ok((job, run)) => {
                self.measure_run(now, run, &outcome);
                job
            }
            // It was revoked from this worker, which did it all the same: it counts unless the job has ended.
            Err(None) => {
                let Some(job) = self.find_handle(handle) else { return true };
                self.measure_late(connection, job, &outcome);
                self.revoke_run(job);
                job
            }
            Err(error) => return self.send_error(connection, error, effects),
        };
        let said = match outcome {
            Outcome::Complete(workload) => Said::Complete(workload),
            Outcome::Exception(workload) => Said::Exception(workload),
            Outcome::Fail => Said::Fail,
        };
        self.end_job(now, job, Some(connection), said, effects)
    }

    /// Ends a job. If its function was at its running limit, or its worker at its job limit, the next job may
    /// run now.
    fn end_job(
        &mut self,
        now: Now,
        job: u32,
        speaker: Option<ConnectionSlot>,
        said: Said<'_>,
        effects: &mut impl Effects,
    ) -> bool {
        let function = self.jobs.get(job).function;
        let is_all = self.end(job, speaker, said, effects);
        self.cover(now, function, effects);
        self.cover_freed(now, effects);
        is_all
    }

    /// Revokes the run of a job that ends without its worker's result: later packets of that worker are not
    /// answered.
    pub(super) fn revoke_run(&mut self, slot: u32) {
        let job = self.jobs.get(slot);
        if let JobState::Running(run) = job.state {
            let (holder, number) = (self.runs[run].connection, job.number());
            self.record_revoked(holder, number);
        }
    }

    /// Records that a job was revoked from a connection.
    fn record_revoked(&mut self, connection: ConnectionSlot, number: u64) {
        let is_memory_short = self.memory_use().total() > self.policy.memory_max / 16 * 15;
        let holder = &mut self.connections[connection];
        self.memory_totals.revoked -= holder.revoked_entries();
        holder.record_revoked(number, is_memory_short);
        self.memory_totals.revoked += holder.revoked_entries();
    }

    /// Sends the error, if there is one. Returns `true`: the request is complete.
    fn send_error(&self, connection: ConnectionSlot, error: Option<PeerError>, effects: &mut impl Effects) -> bool {
        if let Some(error) = error {
            self.say(self.id_of(connection), Response::Error(error), effects);
        }
        true
    }

    /// Requeues a job whose worker exceeded its timeout.
    pub(super) fn time_out(&mut self, now: Now, slot: u32, effects: &mut impl Effects) {
        let job = self.jobs.get(slot);
        if let JobState::Running(run) = job.state {
            let handle = job.handle(&self.prefixes);
            let Run { connection, since_us, deadline_us, .. } = self.runs[run];
            effects.report(Event::JobTimedOut {
                function: &self.functions[job.function].name,
                handle,
                unique: job.unique(),
                worker: self.id_of(connection),
                connection: &self.connections[connection].gauges,
                timeout_ms: deadline_us.unwrap_or(now.monotonic_us).saturating_sub(since_us) / 1000,
            });
            self.tally(job.function, |counters| &counters.timed_out);
            self.runs[run].gauges.counters.get_or_make().timed_out.bump(1);
            self.revoke(now, run, RequeueReason::TimedOut, effects);
        }
    }

    /// Revokes a job from a worker that is still connected, and may continue it.
    fn revoke(&mut self, now: Now, run: RunSlot, reason: RequeueReason, effects: &mut impl Effects) {
        let Run { job, connection, .. } = self.runs[run];
        if reason == RequeueReason::GivenBack && self.is_unbegun(run) && self.may_miss(run) {
            // This worker will send no result for it.
            return self.requeue(now, run, None, effects);
        }
        let number = self.jobs.get(job).number();
        self.record_revoked(connection, number);
        self.requeue(now, run, Some(reason), effects);
    }

    /// Requeues the job of a run, unless it is out of retries or abandoned. Without a reason the worker was
    /// probably gone before the job reached it, or has not begun it: that was no attempt.
    pub(super) fn requeue(
        &mut self,
        now: Now,
        run: RunSlot,
        reason: Option<RequeueReason>,
        effects: &mut impl Effects,
    ) {
        self.work_budget.spend(2 * price::CHANGE);
        let slot = self.runs[run].job;
        self.runs[run].gauges.counters.get_or_make().requeued.bump(1);
        let job = self.jobs.get_mut(slot);
        job.attempts = job.attempts.saturating_add(u16::from(reason.is_some()));
        let attempts = job.attempts;
        if let Some(reason) = reason
            && self.policy.job_retries.is_some_and(|retries| attempts >= retries.get())
        {
            let job = self.jobs.get(slot);
            let handle = job.handle(&self.prefixes);
            let function = &self.functions[job.function].name;
            effects.report(Event::JobDropped { function, handle, unique: job.unique(), attempts, reason });
            self.tally(job.function, |counters| &counters.dropped);
            self.end_job(now, slot, None, Said::Fail, effects);
            return;
        }
        if self.is_abandoned(slot) {
            self.tally(self.jobs.get(slot).function, |counters| &counters.abandoned);
            self.end_job(now, slot, None, Said::Nothing, effects);
            return;
        }
        let job = self.jobs.get(slot);
        let function = job.function;
        if job.residency != Residency::Memory && reason.is_some() {
            let key = job.key(&self.functions[function].name);
            effects.store(StoreOp::Attempts { key, attempts: job.attempts });
        }
        if let Some(reason) = reason {
            self.record_attempt(now, run, reason);
        }
        self.uncount(slot);
        self.remove_run(run);
        self.functions[function].running -= 1;
        self.tally(self.jobs.get(slot).function, |counters| &counters.requeued);
        // In no list until it is in the ready list.
        self.jobs.get_mut(slot).state = JobState::NOWHERE;
        self.functions[function].returns = self.functions[function].returns.wrapping_add(1);
        self.count(slot);
        self.make_ready_now(now, slot, effects);
        self.cover_freed(now, effects);
    }
}
