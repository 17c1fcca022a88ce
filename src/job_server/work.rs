//! Workers: what they can do, the jobs they grab, and what they say of them.

use std::sync::Arc;

use super::connection::{Ability, Run};
use super::earlier::RunEnd;
use super::effects::{Effects, Event};
use super::index::NONE;
use super::job::{JobState, Kept};
use super::stored::StoreOp;
use super::tell::Said;
use super::{JobServer, Now, WORK_PER_CALL};
use crate::protocol::request::leading_count;
use crate::protocol::{GrabKind, NotRegistered, PeerError, Priority, Response, Workload};

/// How a job ended, by the word of its worker.
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
        connection: u32,
        name: &[u8],
        timeout_ms: Option<u64>,
        effects: &mut impl Effects,
    ) {
        let known = self.function_names.get(name).copied();
        if let Some((ability, index)) = known.and_then(|function| self.find_ability(connection, function)) {
            self.connections[connection as usize].abilities[index..].rotate_left(1);
            let Ability { timeout_ms: timeout, gauges, .. } = &mut self.abilities[ability as usize];
            *timeout = timeout_ms;
            return self.connections[connection as usize].gauges.renew_function(gauges);
        }
        if self.connections[connection as usize].abilities.len() >= self.policy.max_functions_per_connection {
            return self.refuse_function(connection, NotRegistered::TooManyOnConnection, effects);
        }
        let Ok(function) = self.function_slot(name) else {
            return self.refuse_function(connection, NotRegistered::TooManyOnServer, effects);
        };
        let withheld = self.rule_for(connection, name);
        let gauges = self.connections[connection as usize].gauges.add_function(&self.functions[function as usize].name);
        gauges.set_withheld(withheld);
        let new = Ability { connection, function, timeout_ms, gauges, withheld, previous: NONE, next: NONE };
        let ability = self.abilities.insert(new);
        let ability = u32::try_from(ability).unwrap_or(NONE);
        self.connections[connection as usize].abilities.push(ability);
        self.ability_slots.insert((connection, function), ability);
        self.functions[function as usize].workers += 1;
        self.publish(function);
        self.load_ahead(function, effects);
        if self.is_listed(ability) {
            self.append_sleeper(ability);
            self.cover(now, function, effects);
        }
    }

    pub(super) fn cant_do(&mut self, now: Now, connection: u32, name: &[u8], effects: &mut impl Effects) {
        let Some(function) = self.function_names.get(name).copied() else {
            return;
        };
        let Some((ability, index)) = self.find_ability(connection, function) else {
            return;
        };
        self.connections[connection as usize].gauges.remove_function(&self.abilities[ability as usize].gauges);
        self.remove_ability(now, connection, index, effects);
        let mut run = self.connections[connection as usize].first_run;
        while run != NONE {
            let Run { job, next, .. } = self.runs[run as usize];
            if self.jobs.get(job).function == function {
                self.take_away(now, run, RunEnd::GivenBack, effects);
            }
            run = next;
        }
    }

    /// Returns whether that is all; if not, the call is to be made again, after others had their turn.
    pub(super) fn reset_abilities(&mut self, now: Now, connection: u32, effects: &mut impl Effects) -> bool {
        if !self.remove_abilities(now, connection, effects) {
            return false;
        }
        self.connections[connection as usize].gauges.remove_all_functions();
        for _ in 0..WORK_PER_CALL {
            match self.connections[connection as usize].first_run {
                NONE => return true,
                run => self.take_away(now, run, RunEnd::GivenBack, effects),
            }
        }
        self.connections[connection as usize].first_run == NONE
    }

    /// Removes a bounded number of a connection's abilities, the last in turn first. Returns whether none is left.
    pub(super) fn remove_abilities(&mut self, now: Now, connection: u32, effects: &mut impl Effects) -> bool {
        for _ in 0..WORK_PER_CALL {
            match self.connections[connection as usize].abilities.len().checked_sub(1) {
                None => return true,
                Some(last) => self.remove_ability(now, connection, last, effects),
            }
        }
        self.connections[connection as usize].abilities.is_empty()
    }

    pub(super) fn remove_ability(&mut self, now: Now, connection: u32, index: usize, effects: &mut impl Effects) {
        let ability = self.connections[connection as usize].abilities[index];
        if self.is_listed(ability) {
            self.remove_sleeper(ability);
        }
        self.connections[connection as usize].abilities.remove(index);
        let Ability { function, .. } = self.abilities.remove(ability as usize);
        self.ability_slots.remove(&(connection, function));
        self.functions[function as usize].workers -= 1;
        self.publish(function);
        if self.stop_counting_on(connection, function) {
            self.cover(now, function, effects);
        }
    }

    /// That a connection can do a function, and the place of this among the connection's abilities.
    pub(super) fn find_ability(&self, connection: u32, function: u32) -> Option<(u32, usize)> {
        let ability = *self.ability_slots.get(&(connection, function))?;
        let abilities = &self.connections[connection as usize].abilities;
        Some((ability, abilities.iter().position(|other| *other == ability)?))
    }

    pub(super) fn grab_job(&mut self, now: Now, connection: u32, kind: GrabKind, effects: &mut impl Effects) {
        self.report_refused_functions(connection, effects);
        self.refresh_rules(now, connection, effects);
        let woken_for = self.wake_up(connection);
        if self.draining {
            self.shelve_kept(connection, effects);
        }
        let job = self.choose_job(connection);
        match job {
            Some((job, ability)) => self.assign(now, connection, job, ability, kind, effects),
            None => self.say(self.id_of(connection), Response::NoJob, effects),
        }
        if let Some(function) = woken_for {
            self.cover(now, function, effects);
        }
    }

    /// The next job for a connection, and its ability to do it: by priority, then by the connection's functions in rotation.
    fn choose_job(&mut self, connection: u32) -> Option<(u32, u32)> {
        if self.surely_has_no_job(connection) {
            return None;
        }
        self.purse.spend_entries(self.connections[connection as usize].abilities.len());
        let Self { connections, abilities, functions, policy, jobs, draining, .. } = self;
        let connection = &mut connections[connection as usize];
        if connection.runs >= policy.max_jobs_per_connection {
            return None;
        }
        // Once through the functions, of which there may be thousands: the priority of the best so far, and its place.
        let mut best = None;
        for (index, ability) in connection.abilities.iter().enumerate().rev() {
            let Ability { function, withheld, .. } = abilities[*ability as usize];
            let function = &functions[function as usize];
            let better = &function.ready[..best.map_or(Priority::ALL.len(), |(priority, _)| priority)];
            let found =
                better.iter().position(|list| list.len > 0 && !(*draining && jobs.get(list.first).kept.is_stored()));
            let Some(priority) = found.filter(|_| withheld.is_none() && function.is_open()) else { continue };
            best = Some((priority, index));
            if priority == 0 {
                break;
            }
        }
        let (priority, index) = best?;
        let ability = connection.abilities[index];
        connection.abilities[..=index].rotate_right(1);
        let function = abilities[ability as usize].function;
        Some((functions[function as usize].ready[priority].first, ability))
    }

    /// While the server drains, kept jobs at the head of a worker's functions wait for the next start.
    fn shelve_kept(&mut self, connection: u32, effects: &mut impl Effects) {
        let mut left = WORK_PER_CALL;
        for index in 0..self.connections[connection as usize].abilities.len() {
            let ability = self.connections[connection as usize].abilities[index];
            let function = self.abilities[ability as usize].function;
            for priority in Priority::ALL {
                let list = |server: &Self| server.functions[function as usize].ready[priority.index()];
                while left > 0 && list(self).len > 0 && self.jobs.get(list(self).first).kept == Kept::Both {
                    left -= 1;
                    let job = list(self).first;
                    self.functions[function as usize].list(priority).remove(&mut self.jobs, job);
                    self.park(job, effects);
                }
            }
        }
    }

    fn assign(
        &mut self,
        now: Now,
        connection: u32,
        slot: u32,
        ability: u32,
        kind: GrabKind,
        effects: &mut impl Effects,
    ) {
        let (function, priority) = (self.jobs.get(slot).function as usize, self.jobs.get(slot).priority);
        self.functions[function].list(priority).remove(&mut self.jobs, slot);
        self.functions[function].running += 1;
        self.functions[function].assigned_since_load[priority.index()] += 1;
        self.publish(self.jobs.get(slot).function);
        self.measure_wait(now, slot);
        let Ability { timeout_ms, ref gauges, .. } = self.abilities[ability as usize];
        let gauges = Arc::clone(gauges);
        let deadline_us = timeout_ms.map(|timeout_ms| now.monotonic_us.saturating_add(timeout_ms.saturating_mul(1000)));
        if let Some(deadline_us) = deadline_us {
            self.deadlines.insert((deadline_us, slot));
        }
        let previous = self.connections[connection as usize].last_run;
        let run = self.runs.insert(Run {
            job: slot,
            connection,
            gauges,
            since_us: now.monotonic_us,
            since_unix_ms: now.unix_us / 1000,
            deadline_us,
            numerator: 0,
            denominator: 0,
            previous,
            next: NONE,
        });
        let run = u32::try_from(run).unwrap_or(NONE);
        match previous {
            NONE => self.connections[connection as usize].first_run = run,
            previous => self.runs[previous as usize].next = run,
        }
        let holder = &mut self.connections[connection as usize];
        holder.last_run = run;
        holder.last_assigned = run;
        holder.runs += 1;
        holder.most_runs = holder.most_runs.max(holder.runs);
        holder.gauges.running.set(u64::from(holder.runs));
        let job = self.jobs.get(slot);
        holder.gauges.set_job(job.prefix, job.number(), now.unix_us / 1000);
        self.uncount(slot);
        self.jobs.get_mut(slot).state = JobState::Running(run);
        self.count(slot);
        let holder = &mut self.connections[connection as usize];
        let job = self.jobs.get(slot);
        holder.has_forfeited(job.number(), true);
        let handle = job.handle(&self.prefixes);
        let name = self.functions[function].name.as_bytes();
        let (unique, reducer, workload) = (job.unique(), job.reducer(), job.workload());
        let response = match kind {
            GrabKind::Plain => Response::JobAssign { handle, function: name, workload },
            GrabKind::All if !reducer.is_empty() => {
                Response::JobAssignAll { handle, function: name, unique, reducer, workload }
            }
            GrabKind::Unique | GrabKind::All => Response::JobAssignUniq { handle, function: name, unique, workload },
        };
        self.say(self.id_of(connection), response, effects);
        self.load_ahead(self.jobs.get(slot).function, effects);
    }

    /// A run is over: it leaves its connection's list, and its deadline goes with it.
    pub(super) fn remove_run(&mut self, run: u32) -> Run {
        let gone = self.runs.remove(run as usize);
        if let Some(deadline_us) = gone.deadline_us {
            self.deadlines.remove(&(deadline_us, gone.job));
        }
        let connection = &mut self.connections[gone.connection as usize];
        connection.runs -= 1;
        connection.gauges.running.set(u64::from(connection.runs));
        match gone.previous {
            NONE => connection.first_run = gone.next,
            previous => self.runs[previous as usize].next = gone.next,
        }
        match gone.next {
            NONE => connection.last_run = gone.previous,
            next => self.runs[next as usize].previous = gone.previous,
        }
        if connection.is_full && connection.runs < self.policy.max_jobs_per_connection {
            self.free(gone.connection);
        }
        gone
    }

    /// A job that a connection holds.
    ///
    /// `Err(None)` for one that was taken away from it: a worker that was too slow need not be told, and libgearman's
    /// would take an error for the answer to its next request. `is_last` says that the worker is through with the job.
    fn held_job(
        &mut self,
        connection: u32,
        handle: &[u8],
        is_last: bool,
        unknown: PeerError,
    ) -> Result<(u32, u32), Option<PeerError>> {
        let (prefix, number) = self.prefixes.parse(handle).ok_or(Some(unknown))?;
        if let Some(job) = self.find_named(prefix, number)
            && let JobState::Running(run) = self.jobs.get(job).state
            && self.runs[run as usize].connection == connection
        {
            return Ok((job, run));
        }
        let forfeited = self.connections[connection as usize].has_forfeited(number, is_last);
        Err(if forfeited { None } else { Some(unknown) })
    }

    pub(super) fn work_status(
        &mut self,
        connection: u32,
        handle: &[u8],
        numerator: &[u8],
        denominator: &[u8],
        effects: &mut impl Effects,
    ) -> bool {
        match self.held_job(connection, handle, false, PeerError::RESULT_FOR_UNKNOWN_JOB) {
            Ok((job, run)) => {
                let run = &mut self.runs[run as usize];
                run.numerator = leading_count(numerator);
                run.denominator = leading_count(denominator);
                self.tell(job, connection, Said::Status { numerator, denominator }, effects)
            }
            Err(error) => self.send_error(connection, error, effects),
        }
    }

    pub(super) fn work_data(
        &mut self,
        connection: u32,
        handle: &[u8],
        said: Said<'_>,
        effects: &mut impl Effects,
    ) -> bool {
        match self.held_job(connection, handle, false, PeerError::DATA_FOR_UNKNOWN_JOB) {
            Ok((job, _)) => self.tell(job, connection, said, effects),
            Err(error) => self.send_error(connection, error, effects),
        }
    }

    /// A worker is through with a job: its clients are told how it ended, and it is forgotten. Returns whether all are told; if
    /// not, the call is to be made again.
    pub(super) fn finish(
        &mut self,
        now: Now,
        connection: u32,
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
            // It was taken away from this worker, which has done it all the same. Nobody has ended it before.
            Err(None) => {
                let Some(job) = self.find_handle(handle) else { return true };
                self.measure_late(connection, job, &outcome);
                self.forfeit_run(job);
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

    /// Ends a job. Where not more of its function may run at once, or its worker could hold no more, the next may run now.
    fn end_job(
        &mut self,
        now: Now,
        job: u32,
        speaker: Option<u32>,
        said: Said<'_>,
        effects: &mut impl Effects,
    ) -> bool {
        let function = self.jobs.get(job).function;
        let is_all = self.end(job, speaker, said, effects);
        self.cover(now, function, effects);
        self.cover_freed(now, effects);
        is_all
    }

    /// A job ends, and not by the word of the worker that runs it, if one does: what that one still says of it is not answered.
    pub(super) fn forfeit_run(&mut self, slot: u32) {
        let job = self.jobs.get(slot);
        if let JobState::Running(run) = job.state {
            let holder = self.runs[run as usize].connection;
            self.connections[holder as usize].forfeit(job.number());
        }
    }

    /// Returns that this is all.
    fn send_error(&self, connection: u32, error: Option<PeerError>, effects: &mut impl Effects) -> bool {
        if let Some(error) = error {
            self.say(self.id_of(connection), Response::Error(error), effects);
        }
        true
    }

    /// A worker took longer than it may.
    pub(super) fn time_out(&mut self, now: Now, slot: u32, effects: &mut impl Effects) {
        let job = self.jobs.get(slot);
        if let JobState::Running(run) = job.state {
            let handle = job.handle(&self.prefixes);
            let Run { connection, since_us, deadline_us, .. } = self.runs[run as usize];
            effects.report(Event::JobTimedOut {
                function: &self.functions[job.function as usize].name,
                handle,
                unique: job.unique(),
                worker: self.id_of(connection),
                connection: &self.connections[connection as usize].gauges,
                timeout_ms: deadline_us.unwrap_or(now.monotonic_us).saturating_sub(since_us) / 1000,
            });
            self.tally(job.function, |counters| &counters.timed_out);
            self.runs[run as usize].gauges.counters.get_or_make().timed_out.bump(1);
            self.take_away(now, run, RunEnd::TimedOut, effects);
        }
    }

    /// Takes a job from a worker that is still there, and may go on with it.
    fn take_away(&mut self, now: Now, run: u32, end: RunEnd, effects: &mut impl Effects) {
        let Run { job, connection, .. } = self.runs[run as usize];
        let number = self.jobs.get(job).number();
        self.connections[connection as usize].forfeit(number);
        self.requeue(now, run, Some(end), effects);
    }

    /// A run has come to nothing: its job is for the next worker, unless it has had its last chance or nobody wants it. Without an
    /// `end` the worker was probably gone before the job reached it: that was no attempt.
    pub(super) fn requeue(&mut self, now: Now, run: u32, end: Option<RunEnd>, effects: &mut impl Effects) {
        let slot = self.runs[run as usize].job;
        self.runs[run as usize].gauges.counters.get_or_make().requeued.bump(1);
        let job = self.jobs.get_mut(slot);
        job.attempts = job.attempts.saturating_add(u16::from(end.is_some()));
        let attempts = job.attempts;
        if let Some(end) = end
            && self.policy.job_retries.is_some_and(|retries| attempts >= retries.get())
        {
            let job = self.jobs.get(slot);
            let handle = job.handle(&self.prefixes);
            let function = &self.functions[job.function as usize].name;
            effects.report(Event::JobDropped { function, handle, unique: job.unique(), attempts, end });
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
        let function = job.function as usize;
        if job.kept != Kept::Memory && end.is_some() {
            let key = job.key(&self.functions[function].name);
            effects.store(StoreOp::Attempts { key, attempts: job.attempts });
        }
        if let Some(end) = end {
            self.remember_run(now, run, end);
        }
        self.uncount(slot);
        self.remove_run(run);
        self.functions[function].running -= 1;
        self.tally(self.jobs.get(slot).function, |counters| &counters.requeued);
        // In no list, until it is in that of ready jobs.
        self.jobs.get_mut(slot).state = JobState::Scheduled;
        self.count(slot);
        self.make_ready_now(now, slot, effects);
        self.cover_freed(now, effects);
    }
}
