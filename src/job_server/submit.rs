//! Job submission: coalescing, limits, and the waits of clients.

use super::connection::Wait;
use super::effects::{Effects, Event};
use super::ids::{ConnectionSlot, FunctionSlot, SlotId, WaitSlot};
use super::job::{JobState, Residency};
use super::stored::{NUMBER_MAX, StoreOp};
use super::{JobServer, Now, US_PER_S, price};
use crate::protocol::{PeerError, Response, Submission};

impl JobServer {
    pub(super) fn submit(
        &mut self,
        now: Now,
        from: ConnectionSlot,
        submission: &Submission<'_>,
        effects: &mut impl Effects,
    ) {
        match self.accept(now, from, submission, effects) {
            Ok(()) => {}
            Err(error) => self.say(self.id_of(from), Response::Error(error), effects),
        }
    }

    fn accept(
        &mut self,
        now: Now,
        from: ConnectionSlot,
        submission: &Submission<'_>,
        effects: &mut impl Effects,
    ) -> Result<(), PeerError> {
        if self.draining {
            return Err(PeerError::SHUTTING_DOWN);
        }
        if !submission.background && self.connections[from].waits >= self.policy.max_pending_jobs_per_connection {
            return Err(PeerError::TOO_MANY_WAITS);
        }
        self.check_account(submission)?;
        let function = self.function_slot(submission.function)?;
        let vacant = match self.jobs.find_equal(function, submission.unique, submission.workload.as_bytes()) {
            Ok(job) => {
                if !submission.background {
                    self.check_crowd(from, job)?;
                }
                return self.join_equal(from, job, submission.background, effects);
            }
            Err(vacant) => vacant,
        };
        let limit = self.functions[function].limits[submission.priority.index()];
        if limit > 0 && self.functions[function].total() >= limit {
            return Err(PeerError::JOB_QUEUE_FULL);
        }
        if self.jobs.len() >= self.policy.max_jobs {
            self.stats.memory.refused.bump(1);
            return Err(PeerError::TOO_MANY_JOBS);
        }
        if self.jobs.last_number() >= NUMBER_MAX {
            return Err(PeerError::NUMBERS_USED_UP);
        }
        let is_durable = self.policy.keeps_jobs && submission.background;
        self.check_memory(submission.workload.as_bytes().len(), is_durable)?;
        let job = self.jobs.insert(now, function, submission, vacant);
        self.count(job);
        self.report_far_due(now, job, submission.due_s.unwrap_or(0), effects);
        self.join(from, job, submission.background);
        if is_durable {
            self.store_new(from, job, effects);
        } else {
            // JOB_CREATED is sent before any other packet about the job.
            self.send_created(from, job, effects);
            self.tally(function, |counters| &counters.submitted);
            self.schedule(now, job, effects);
        }
        Ok(())
    }

    /// Joins a submission to an equal job that exists.
    fn join_equal(
        &mut self,
        from: ConnectionSlot,
        job: u32,
        background: bool,
        effects: &mut impl Effects,
    ) -> Result<(), PeerError> {
        let is_late = background && self.policy.keeps_jobs && self.jobs.get(job).residency == Residency::Memory;
        let is_hidden = matches!(self.jobs.get(job).state, JobState::Storing(_));
        if is_late {
            self.check_memory(self.jobs.get(job).workload().as_bytes().len(), true)?;
        }
        self.join(from, job, background);
        self.tally(self.jobs.get(job).function, |counters| &counters.coalesced);
        match self.pending_add_of(job) {
            Some(ticket) if background || is_hidden => self.await_reply(from, ticket, effects),
            None if is_late => self.store_late(from, job, effects),
            Some(_) | None => self.send_created(from, job, effects),
        }
        Ok(())
    }

    /// Makes a job that is in no list ready, or schedules it if it is not due yet.
    pub(super) fn schedule(&mut self, now: Now, slot: u32, effects: &mut impl Effects) {
        let job = self.jobs.get_mut(slot);
        if job.due_s().saturating_mul(US_PER_S) <= now.unix_us {
            return self.make_ready(now, slot, effects);
        }
        job.state = JobState::NOWHERE;
        if job.residency == Residency::Both && self.memory_totals.stored > self.policy.stored_workloads_max {
            self.evict(slot);
        }
        self.put_in_schedule(slot);
    }

    /// Puts a job into the schedule until it is due.
    pub(super) fn put_in_schedule(&mut self, slot: u32) {
        let job = self.jobs.get(slot);
        let (entry, function) = ((job.due_s(), job.number(), slot), job.function);
        let priority = job.priority.index();
        self.jobs.schedule.insert(entry);
        self.functions[function].scheduled[priority].push(&mut self.jobs, slot, JobState::Scheduled);
        self.publish(function);
    }

    fn send_created(&self, to: ConnectionSlot, job: u32, effects: &mut impl Effects) {
        let handle = self.jobs.get(job).handle(&self.prefixes);
        self.say(self.id_of(to), Response::JobCreated { handle }, effects);
        self.tell_accepted(job, effects);
    }

    /// Reports that a submission was answered with JOB_CREATED, if the policy asks for it.
    pub(super) fn tell_accepted(&self, job: u32, effects: &mut impl Effects) {
        if !self.policy.tells_submissions {
            return;
        }
        let job = self.jobs.get(job);
        let function = self.functions[job.function].name.as_bytes();
        effects.report(Event::Accepted { function, unique: job.unique(), due_s: job.due_s(), reducer: job.reducer() });
    }

    /// Attaches a submission to its job, new or existing: as a wait, or by making it a background job.
    fn join(&mut self, from: ConnectionSlot, job: u32, background: bool) {
        if background {
            self.jobs.get_mut(job).background = true;
            return;
        }
        let next_of_job = self.jobs.get(job).waits;
        let next_of_connection = self.connections[from].first_wait;
        let wait = self.waits.insert(Wait {
            job,
            connection: from,
            next_of_job,
            previous_of_job: WaitSlot::NONE,
            count: self.count_waits(next_of_job) + 1,
            next_of_connection,
            previous_of_connection: WaitSlot::NONE,
        });
        if next_of_job != WaitSlot::NONE {
            self.waits[next_of_job].previous_of_job = wait;
        }
        if next_of_connection != WaitSlot::NONE {
            self.waits[next_of_connection].previous_of_connection = wait;
        }
        self.jobs.get_mut(job).waits = wait;
        let connection = &mut self.connections[from];
        connection.first_wait = wait;
        connection.waits += 1;
        if !self.crowds.is_empty() {
            self.join_crowd(job, from);
        }
    }

    /// Removes a wait from both of its lists.
    pub(super) fn remove_wait(&mut self, wait: WaitSlot) -> Wait {
        self.work_budget.spend(price::ENTRY);
        let left = self.count_waits(self.jobs.get(self.waits[wait].job).waits) - 1;
        let gone = self.waits.remove(wait);
        if !self.messages.is_empty() {
            self.skip_wait(gone.job, wait, gone.next_of_job);
        }
        if !self.crowds.is_empty() {
            self.leave_crowd(gone.job, gone.connection);
        }
        match gone.previous_of_job {
            WaitSlot::NONE => self.jobs.get_mut(gone.job).waits = gone.next_of_job,
            previous => self.waits[previous].next_of_job = gone.next_of_job,
        }
        let first = self.jobs.get(gone.job).waits;
        if first != WaitSlot::NONE {
            self.waits[first].count = left;
        }
        if gone.next_of_job != WaitSlot::NONE {
            self.waits[gone.next_of_job].previous_of_job = gone.previous_of_job;
        }
        let connection = &mut self.connections[gone.connection];
        connection.waits -= 1;
        match gone.previous_of_connection {
            WaitSlot::NONE => connection.first_wait = gone.next_of_connection,
            previous => self.waits[previous].next_of_connection = gone.next_of_connection,
        }
        if gone.next_of_connection != WaitSlot::NONE {
            self.waits[gone.next_of_connection].previous_of_connection = gone.previous_of_connection;
        }
        gone
    }

    /// The number of waits of the job whose first wait is this one.
    pub(super) fn count_waits(&self, first: WaitSlot) -> u32 {
        if first == WaitSlot::NONE { 0 } else { self.waits[first].count }
    }

    /// Ends a client's wait. The job is removed if it is then abandoned and does not run.
    pub(super) fn abandon(&mut self, wait: WaitSlot, effects: &mut impl Effects) {
        let Wait { job, .. } = self.remove_wait(wait);
        let abandoned = self.jobs.get(job);
        let is_running = matches!(abandoned.state, JobState::Running(_));
        if abandoned.state == JobState::Ended {
            if abandoned.waits == WaitSlot::NONE {
                self.forget_ended(job);
            }
            return;
        }
        if abandoned.waits == WaitSlot::NONE && !abandoned.background && !is_running {
            self.tally(self.jobs.get(job).function, |counters| &counters.abandoned);
            self.remove_job(job, effects);
        }
    }

    /// Whether the job is abandoned: it has no waits and is no background job.
    pub(super) fn is_abandoned(&self, job: u32) -> bool {
        let job = self.jobs.get(job);
        job.waits == WaitSlot::NONE && !job.background
    }

    /// Removes a job in any state, with its run and its waits, which are few. Removes it from the store if
    /// the store has it or may have it.
    pub(super) fn remove_job(&mut self, slot: u32, effects: &mut impl Effects) {
        let function = self.take_down(slot, effects);
        while self.jobs.get(slot).waits != WaitSlot::NONE {
            self.remove_wait(self.jobs.get(slot).waits);
        }
        if !self.messages.is_empty() {
            self.messages.remove(&slot);
        }
        self.jobs.remove(slot);
        // Paged-out jobs may have been queued behind it.
        self.read_ahead(function, effects);
    }

    /// The same for a job with so many waits that its end is delivered to them in batches.
    pub(super) fn retire(&mut self, slot: u32, effects: &mut impl Effects) {
        let function = self.take_down(slot, effects);
        self.jobs.retire(slot);
        self.read_ahead(function, effects);
    }

    /// Removes a job from its list and from its worker. Returns its function.
    fn take_down(&mut self, slot: u32, effects: &mut impl Effects) -> FunctionSlot {
        self.work_budget.spend(2 * price::CHANGE);
        self.uncount(slot);
        let job = self.jobs.get(slot);
        let (function, priority, state) = (job.function, job.priority, job.state);
        let due = (job.due_s(), job.number(), slot);
        if job.residency != Residency::Memory {
            effects.store(StoreOp::Remove(job.key(&self.functions[function].name)));
            self.detach_pending_add(slot);
        }
        match state {
            JobState::Storing(_) => self.functions[function].storing -= 1,
            JobState::Scheduled(_) => {
                self.jobs.schedule.remove(&due);
                self.functions[function].scheduled[priority.index()].remove(&mut self.jobs, slot);
            }
            JobState::Ready(_) => self.functions[function].list(priority).remove(&mut self.jobs, slot),
            JobState::PagedOut(_) => {
                self.functions[function].paged_out[priority.index()].remove(&mut self.jobs, slot);
            }
            JobState::Loading(_) => {
                self.functions[function].loading[priority.index()].remove(&mut self.jobs, slot);
            }
            JobState::Running(run) => {
                self.remove_run(run);
                self.functions[function].running -= 1;
            }
            JobState::Ended => debug_assert!(false, "a job ended twice"),
        }
        if self.jobs.get(slot).attempts > 0 {
            self.attempt_history.forget(self.jobs.get(slot).number());
        }
        self.attempt_history.forget_misses(self.jobs.get(slot).number());
        if matches!(state, JobState::Running(_)) {
            // The queues have not changed.
            self.publish_running(function);
        } else {
            self.publish(function);
        }
        function
    }
}
