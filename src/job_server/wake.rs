//! Sleeping and waking: who is told of a job, and what is done when they do not come.
//!
//! A function counts the workers that were sent a NOOP for one of its jobs and have not answered it. A ready job within
//! that number is covered: somebody is on the way. Whenever ready jobs become more than that, or such workers fewer, the
//! next sleepers are woken. So one job wakes one worker, and no job is forgotten when that one dies, does something else,
//! or never comes. Jobs of a function that the operator has paused, or that runs as many as it may, need no cover.
//!
//! Who would be told that there is no job is not woken: a worker from which the operator's rules withhold the function, and one
//! that holds as many jobs as it may, until it has ended one. Waking looks at the same limits as GRAB_JOB.

use super::connection::{Ability, Sleep};
use super::effects::Effects;
use super::index::NONE;
use super::job::JobState;
use super::{JobServer, Noop, Now, WORK_PER_CALL};
use crate::protocol::Response;

impl JobServer {
    /// A job may be handed out from now on, as soon as its workload is in memory.
    pub(super) fn make_ready(&mut self, now: Now, job: u32, effects: &mut impl Effects) {
        if self.must_park(job) { self.park(job, effects) } else { self.make_ready_now(now, job, effects) }
    }

    /// A job whose workload is in memory may be handed out from now on.
    pub(super) fn make_ready_now(&mut self, now: Now, job: u32, effects: &mut impl Effects) {
        let (function, priority) = (self.jobs.get(job).function, self.jobs.get(job).priority);
        self.functions[function as usize].list(priority).push(&mut self.jobs, job, JobState::Ready);
        self.publish(function);
        if !self.functions[function as usize].is_open() {
            return;
        }
        match self.policy.worker_wakeup {
            1 => self.cover(now, function, effects),
            0 => while self.wake_next(now, function, effects) {},
            most => {
                for _ in 0..most {
                    if !self.wake_next(now, function, effects) {
                        break;
                    }
                }
            }
        }
    }

    /// PRE_SLEEP. A worker that sends it in answer to a NOOP has declined: the next in turn is asked, itself last.
    pub(super) fn pre_sleep(&mut self, now: Now, connection: u32, effects: &mut impl Effects) {
        if self.connections[connection as usize].sleep == Sleep::Asleep {
            return;
        }
        self.report_refused_functions(connection, effects);
        self.refresh_rules(now, connection, effects);
        self.wake_up(connection);
        let sleeper = &mut self.connections[connection as usize];
        sleeper.set_sleep(Sleep::Asleep);
        sleeper.is_full = sleeper.runs >= self.policy.max_jobs_per_connection;
        self.join_sleepers(connection);
        self.cover_functions_of(now, connection, effects);
    }

    /// Whether an ability stands among its function's sleepers, or is to.
    pub(super) fn is_listed(&self, ability: u32) -> bool {
        let Ability { connection, withheld, .. } = self.abilities[ability as usize];
        withheld.is_none() && self.connections[connection as usize].is_ready_to_wake()
    }

    /// A connection that sleeps may take jobs again. Its functions are to be covered, see [`cover_freed`](Self::cover_freed).
    pub(super) fn free(&mut self, connection: u32) {
        self.connections[connection as usize].is_full = false;
        self.join_sleepers(connection);
        self.freed.push(connection);
    }

    /// Wakes sleepers for the functions of those that may take jobs again.
    pub(super) fn cover_freed(&mut self, now: Now, effects: &mut impl Effects) {
        while let Some(connection) = self.freed.pop() {
            self.cover_functions_of(now, connection, effects);
        }
    }

    fn cover_functions_of(&mut self, now: Now, connection: u32, effects: &mut impl Effects) {
        if self.surely_has_no_job(connection) {
            return;
        }
        self.walked += self.connections[connection as usize].abilities.len();
        for index in 0..self.connections[connection as usize].abilities.len() {
            let ability = self.connections[connection as usize].abilities[index];
            self.cover(now, self.abilities[ability as usize].function, effects);
        }
    }

    /// Connections may hold other numbers of jobs than before: those that sleep are woken for jobs, or not any more.
    pub(super) fn apply_max_jobs(&mut self, now: Now, effects: &mut impl Effects) {
        for slot in 0..self.connections.bound() {
            let Some(connection) = self.connections.get(slot).filter(|connection| connection.sleep == Sleep::Asleep)
            else {
                continue;
            };
            let is_full = connection.runs >= self.policy.max_jobs_per_connection;
            let slot = u32::try_from(slot).unwrap_or(NONE);
            match (connection.is_full, is_full) {
                (true, false) => self.free(slot),
                (false, true) => {
                    self.leave_sleepers(slot);
                    self.connections[slot as usize].is_full = true;
                }
                (true, true) | (false, false) => {}
            }
        }
        self.cover_freed(now, effects);
    }

    /// The connection no longer sleeps. Returns the function for whose job it was on its way; that one is to be covered
    /// again, once the job it takes instead, if any, is taken.
    pub(super) fn wake_up(&mut self, connection: u32) -> Option<u32> {
        let before = self.connections[connection as usize].sleep;
        if before == Sleep::Asleep {
            self.leave_sleepers(connection);
        }
        let sleeper = &mut self.connections[connection as usize];
        sleeper.set_sleep(Sleep::Awake);
        sleeper.is_full = false;
        match before {
            Sleep::Awake | Sleep::Late | Sleep::Asleep => None,
            Sleep::Woken { function, .. } => {
                self.functions[function as usize].waking -= 1;
                Some(function)
            }
        }
    }

    /// Wakes sleepers until every ready job of the function is covered, or nobody sleeps.
    pub(super) fn cover(&mut self, now: Now, function: u32, effects: &mut impl Effects) {
        while self.functions[function as usize].has_uncovered() && self.wake_next(now, function, effects) {}
    }

    /// Sends a NOOP to the one who has slept longest. Returns whether there was one.
    fn wake_next(&mut self, now: Now, function: u32, effects: &mut impl Effects) -> bool {
        let ability = self.functions[function as usize].first_sleeper;
        if ability == NONE {
            return false;
        }
        let connection = self.abilities[ability as usize].connection;
        self.leave_sleepers(connection);
        self.last_noop += 1;
        let serial = self.last_noop;
        self.connections[connection as usize].set_sleep(Sleep::Woken { function, serial });
        self.functions[function as usize].waking += 1;
        let deadline_us = now.monotonic_us.saturating_add(self.policy.wake_timeout_us);
        if self.noops.len() > 2 * self.connections.len() + WORK_PER_CALL {
            // A connection has at most one that is not answered.
            let mut noops = std::mem::take(&mut self.noops);
            noops.retain(|noop| self.is_awaited(noop));
            self.noops = noops;
        }
        self.noops.push_back(Noop { deadline_us, connection, serial });
        self.stats.wakeups.set(self.last_noop);
        effects.send(self.id_of(connection), Response::Noop);
        true
    }

    /// NOOPs whose time has passed no longer cover a job.
    pub(super) fn give_up_noops(&mut self, now: Now, effects: &mut impl Effects) {
        let mut given_up = 0;
        while let Some(noop) = self.noops.front().copied() {
            let is_awaited = self.is_awaited(&noop);
            if is_awaited && (noop.deadline_us > now.monotonic_us || given_up == WORK_PER_CALL || self.is_turn_over()) {
                break;
            }
            self.noops.pop_front();
            if !is_awaited {
                continue;
            }
            given_up += 1;
            if let Some(function) = self.wake_up(noop.connection) {
                self.connections[noop.connection as usize].set_sleep(Sleep::Late);
                self.cover(now, function, effects);
            }
        }
    }

    /// Whether the NOOP has not been answered yet.
    fn is_awaited(&self, noop: &Noop) -> bool {
        self.connections
            .get(noop.connection as usize)
            .is_some_and(|connection| matches!(connection.sleep, Sleep::Woken { serial, .. } if serial == noop.serial))
    }

    /// A connection that may be on its way for a job of `function` gets none any more. It will still come, but not for
    /// this. Returns whether it was, so that the function is to be covered again.
    pub(super) fn stop_counting_on(&mut self, connection: u32, function: u32) -> bool {
        let sleep = self.connections[connection as usize].sleep;
        let is_on_its_way = matches!(sleep, Sleep::Woken { function: woken_for, .. } if woken_for == function);
        if is_on_its_way {
            self.wake_up(connection);
            self.connections[connection as usize].set_sleep(Sleep::Late);
        }
        is_on_its_way
    }

    /// Puts an ability of a sleeping connection last among its function's sleepers.
    pub(super) fn append_sleeper(&mut self, ability: u32) {
        let function = self.abilities[ability as usize].function as usize;
        let last = std::mem::replace(&mut self.functions[function].last_sleeper, ability);
        self.abilities[ability as usize].previous = last;
        self.abilities[ability as usize].next = NONE;
        match last {
            NONE => self.functions[function].first_sleeper = ability,
            last => self.abilities[last as usize].next = ability,
        }
    }

    /// Takes an ability of a sleeping connection out of its function's sleepers.
    pub(super) fn remove_sleeper(&mut self, ability: u32) {
        let Ability { function, previous, next, .. } = self.abilities[ability as usize];
        match previous {
            NONE => self.functions[function as usize].first_sleeper = next,
            previous => self.abilities[previous as usize].next = next,
        }
        match next {
            NONE => self.functions[function as usize].last_sleeper = previous,
            next => self.abilities[next as usize].previous = previous,
        }
    }

    /// Puts a sleeping connection last among the sleepers of its functions.
    fn join_sleepers(&mut self, connection: u32) {
        self.walked += self.connections[connection as usize].abilities.len();
        for index in 0..self.connections[connection as usize].abilities.len() {
            let ability = self.connections[connection as usize].abilities[index];
            if self.is_listed(ability) {
                self.append_sleeper(ability);
            }
        }
    }

    /// Takes a sleeping connection out of the sleepers of its functions.
    fn leave_sleepers(&mut self, connection: u32) {
        self.walked += self.connections[connection as usize].abilities.len();
        for index in 0..self.connections[connection as usize].abilities.len() {
            let ability = self.connections[connection as usize].abilities[index];
            if self.is_listed(ability) {
                self.remove_sleeper(ability);
            }
        }
    }
}
