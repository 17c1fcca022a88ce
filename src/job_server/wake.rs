//! Sleeping and waking: which workers are woken for a job, and what happens if they do not come.
//!
//! A function counts the workers that were sent a NOOP for one of its jobs and have not answered it. Ready
//! jobs up to that number are covered: a worker is on its way. Whenever there are more ready jobs than that,
//! or fewer such workers, the next sleepers are woken. So one job wakes one worker, and no job is forgotten
//! when that worker dies, does something else, or never comes. Jobs of a function that is paused or at its
//! running limit need no cover.
//!
//! A worker whose GRAB_JOB would get NO_JOB is not woken: one from which the operator's rules withhold the
//! function, and one at its job limit, until it has ended a job. Waking checks the same limits as GRAB_JOB.
//!
//! A connection that falls asleep joins the sleepers of each of its functions, and leaves them when it is
//! woken. With very many functions that would take long. A connection with many is *wide*: it joins only one
//! list, that of all wide sleepers, and each function knows which wide connections can do it. The order of
//! waking is the same.

use super::connection::{Ability, Connection, Sleep};
use super::effects::Effects;
use super::function::Function;
use super::ids::{AbilitySlot, ConnectionSlot, FunctionSlot, SlotId};
use super::job::JobState;
use super::{JobServer, Noop, Now, WORK_PER_CALL, price};
use crate::protocol::Response;

/// A connection that registers more abilities than this is wide.
const WIDE_FROM: u32 = 64;

/// The number of NOOPs that cost as much to scan as one other entry.
const NOOPS_AN_ENTRY: usize = 4;

impl JobServer {
    /// Makes a job ready, or pages it out until its workload is read.
    pub(super) fn make_ready(&mut self, now: Now, job: u32, effects: &mut impl Effects) {
        if self.must_page_out(job) { self.page_out(job, effects) } else { self.make_ready_now(now, job, effects) }
    }

    /// Makes a job ready whose workload is in memory.
    pub(super) fn make_ready_now(&mut self, now: Now, job: u32, effects: &mut impl Effects) {
        let (function, priority) = (self.jobs.get(job).function, self.jobs.get(job).priority);
        self.functions[function].list(priority).push(&mut self.jobs, job, JobState::Ready);
        self.publish(function);
        if !self.functions[function].is_open() {
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

    /// PRE_SLEEP. A worker that sends it in answer to a NOOP has declined: the next sleeper is woken, the
    /// worker itself last. Returns whether it is complete; if not, call again.
    pub(super) fn pre_sleep(&mut self, now: Now, connection: ConnectionSlot, effects: &mut impl Effects) -> bool {
        if self.connections[connection].sleep == Sleep::Asleep {
            return true;
        }
        self.report_refused_functions(connection, effects);
        if !self.refresh_rules(now, connection, effects) {
            return false;
        }
        let declined = self.wake_up(connection);
        let sleeper = &mut self.connections[connection];
        sleeper.set_sleep(Sleep::Asleep);
        sleeper.is_full = sleeper.runs >= self.policy.max_jobs_per_connection;
        self.join_sleepers(connection);
        if let Some(function) = declined {
            self.cover(now, function, effects);
        }
        self.cover_functions_of(now, connection, effects);
        true
    }

    /// Whether an ability is, or must be, in its function's list of sleepers.
    pub(super) fn is_listed(&self, ability: AbilitySlot) -> bool {
        let Ability { connection, mode, .. } = self.abilities[ability];
        mode.is_none() && self.connections[connection].is_ready_to_wake()
    }

    /// Lets a sleeping connection take jobs again. Its functions must be covered, see
    /// [`cover_freed`](Self::cover_freed).
    pub(super) fn free(&mut self, connection: ConnectionSlot) {
        self.connections[connection].is_full = false;
        self.join_sleepers(connection);
        self.freed.push(connection);
    }

    /// Wakes sleepers for the functions of connections that may take jobs again.
    pub(super) fn cover_freed(&mut self, now: Now, effects: &mut impl Effects) {
        while let Some(connection) = self.freed.pop() {
            self.cover_functions_of(now, connection, effects);
        }
    }

    /// Wakes a connection that has just joined the sleepers, if one of its functions has an uncovered ready
    /// job. Its other functions then need no check: no other sleeper could do them.
    fn cover_functions_of(&mut self, now: Now, connection: ConnectionSlot, effects: &mut impl Effects) {
        let counts = self.functions_ready.each_ref().map(Vec::len);
        if counts == [0; 3] {
            return;
        }
        if (0..counts.len()).all(|priority| self.has_few_ready(connection, priority)) {
            self.work_budget.spend_entries(counts.iter().sum());
            for (priority, count) in counts.into_iter().enumerate() {
                for index in 0..count {
                    let function = self.functions_ready[priority][index];
                    if self.ability_slots.contains_key(&(connection, function)) {
                        self.cover(now, function, effects);
                        if self.connections[connection].sleep != Sleep::Asleep {
                            return;
                        }
                    }
                }
            }
            return;
        }
        let first = self.connections[connection].abilities.first;
        self.connections[connection].cover_at = first;
        if !self.cover_from(now, connection, effects) {
            self.uncovered.push_back(self.id_of(connection));
        }
    }

    /// Continues the check of a sleeper's abilities at its cursor, at least one. Returns whether it is
    /// complete.
    fn cover_from(&mut self, now: Now, connection: ConnectionSlot, effects: &mut impl Effects) -> bool {
        let is_wide = self.connections[connection].is_wide;
        let mut looked_at = 0;
        loop {
            let sleeper = &self.connections[connection];
            let ability = sleeper.cover_at;
            if ability == AbilitySlot::NONE || sleeper.sleep != Sleep::Asleep {
                self.connections[connection].cover_at = AbilitySlot::NONE;
                return true;
            }
            if is_wide && looked_at > 0 && self.is_turn_over() {
                return false;
            }
            looked_at += 1;
            self.work_budget.spend(price::ENTRY);
            let Ability { function, turn_next, .. } = self.abilities[ability];
            self.connections[connection].cover_at = turn_next;
            self.cover(now, function, effects);
        }
    }

    /// Continues the check of sleepers that takes several lock holds, since they have many functions, and
    /// many functions have ready jobs.
    pub(super) fn go_on_covering(&mut self, now: Now, effects: &mut impl Effects) {
        while !self.is_turn_over()
            && let Some(id) = self.uncovered.pop_front()
        {
            if let Some(connection) = self.slot_of(id)
                && !self.cover_from(now, connection, effects)
            {
                self.uncovered.push_front(id);
            }
        }
    }

    /// Applies a changed job limit of connections: sleepers may be woken for jobs, or no longer.
    pub(super) fn apply_max_jobs(&mut self, now: Now, effects: &mut impl Effects) {
        for slot in 0..self.connections.bound() {
            let slot = ConnectionSlot::from_index(slot);
            let Some(connection) = self.connections.get(slot).filter(|connection| connection.sleep == Sleep::Asleep)
            else {
                continue;
            };
            let is_full = connection.runs >= self.policy.max_jobs_per_connection;
            match (connection.is_full, is_full) {
                (true, false) => self.free(slot),
                (false, true) => {
                    self.leave_sleepers(slot);
                    self.connections[slot].is_full = true;
                }
                (true, true) | (false, false) => {}
            }
        }
        self.cover_freed(now, effects);
    }

    /// Ends a connection's sleep. Returns the function for whose job it was woken. That function must be
    /// covered again, after the job that it takes instead, if any, is taken.
    pub(super) fn wake_up(&mut self, connection: ConnectionSlot) -> Option<FunctionSlot> {
        let before = self.connections[connection].sleep;
        if before == Sleep::Asleep {
            self.leave_sleepers(connection);
        }
        let sleeper = &mut self.connections[connection];
        sleeper.set_sleep(Sleep::Awake);
        sleeper.is_full = false;
        sleeper.cover_at = AbilitySlot::NONE;
        match before {
            Sleep::Awake | Sleep::Late | Sleep::Asleep => None,
            Sleep::Woken { function, .. } => {
                self.functions[function].waking -= 1;
                Some(function)
            }
        }
    }

    /// Wakes sleepers until every ready job of the function is covered, or no sleeper is left.
    pub(super) fn cover(&mut self, now: Now, function: FunctionSlot, effects: &mut impl Effects) {
        while self.functions[function].has_uncovered() && self.wake_next(now, function, effects) {}
    }

    /// Sends a NOOP to the sleeper that has slept longest. Returns whether there was one.
    fn wake_next(&mut self, now: Now, function: FunctionSlot, effects: &mut impl Effects) -> bool {
        let ability = loop {
            let ability = self.next_sleeper(function);
            if ability == AbilitySlot::NONE {
                return false;
            }
            let connection = self.abilities[ability].connection;
            if !self.connections[connection].has_stale_rules {
                break ability;
            }
            // Changed rules are in force even if they are not applied to this ability yet.
            self.refresh_rule(ability);
            if self.is_listed(ability) {
                break ability;
            }
        };
        let connection = self.abilities[ability].connection;
        self.work_budget.spend(price::WAKE);
        self.leave_sleepers(connection);
        self.last_noop += 1;
        let serial = self.last_noop;
        self.connections[connection].set_sleep(Sleep::Woken { function, serial });
        self.connections[connection].cover_at = AbilitySlot::NONE;
        self.functions[function].waking += 1;
        let deadline_us = now.monotonic_us.saturating_add(self.policy.wakeup_timeout_us);
        if self.noops.len() > 2 * self.connections.len() + WORK_PER_CALL {
            // A connection has at most one unanswered NOOP.
            let mut noops = std::mem::take(&mut self.noops);
            self.work_budget.spend_entries(noops.len() / NOOPS_AN_ENTRY);
            noops.retain(|noop| self.is_awaited(noop));
            self.noops = noops;
        }
        self.noops.push_back(Noop { deadline_us, connection, serial });
        self.stats.wakeups.set(self.last_noop);
        self.say(self.id_of(connection), Response::Noop, effects);
        true
    }

    /// Expires NOOPs: they no longer cover a job.
    pub(super) fn give_up_noops(&mut self, now: Now, effects: &mut impl Effects) {
        let mut given_up = 0;
        while let Some(noop) = self.noops.front().copied() {
            let is_awaited = self.is_awaited(&noop);
            if is_awaited && (noop.deadline_us > now.monotonic_us || given_up == WORK_PER_CALL || self.is_turn_over()) {
                break;
            }
            self.noops.pop_front();
            self.work_budget.spend(price::ENTRY);
            if !is_awaited {
                if self.is_turn_over() {
                    break;
                }
                continue;
            }
            given_up += 1;
            if let Some(function) = self.wake_up(noop.connection) {
                self.connections[noop.connection].set_sleep(Sleep::Late);
                self.cover(now, function, effects);
            }
        }
    }

    /// Whether the NOOP has not been answered yet.
    fn is_awaited(&self, noop: &Noop) -> bool {
        self.connections
            .get(noop.connection)
            .is_some_and(|connection| matches!(connection.sleep, Sleep::Woken { serial, .. } if serial == noop.serial))
    }

    /// Cancels the wake-up of a connection for a job of `function`, if it was woken for one: it will still
    /// come, but does not count for this function. Returns whether it was, so that the function must be
    /// covered again.
    pub(super) fn cancel_wakeup(&mut self, connection: ConnectionSlot, function: FunctionSlot) -> bool {
        let sleep = self.connections[connection].sleep;
        let is_on_its_way = matches!(sleep, Sleep::Woken { function: woken_for, .. } if woken_for == function);
        if is_on_its_way {
            self.wake_up(connection);
            self.connections[connection].set_sleep(Sleep::Late);
        }
        is_on_its_way
    }

    /// The ability of the sleeper that has slept longest, of those that can do a function;
    /// [`AbilitySlot::NONE`] if there is none.
    fn next_sleeper(&self, function: FunctionSlot) -> AbilitySlot {
        let narrow = self.functions[function].first_sleeper;
        let wide = self.next_wide_sleeper(function);
        let is_before = |one: AbilitySlot, other: AbilitySlot| self.sleeps_since(one) <= self.sleeps_since(other);
        if wide == AbilitySlot::NONE || narrow != AbilitySlot::NONE && is_before(narrow, wide) { narrow } else { wide }
    }

    /// Since when an ability is among its function's sleepers, as a counter.
    fn sleeps_since(&self, ability: AbilitySlot) -> u64 {
        let Ability { connection, since, .. } = self.abilities[ability];
        since.max(self.connections[connection].slept)
    }

    /// The same for wide sleepers: scans the shorter of two lists, the wide connections that can do the
    /// function or the wide sleepers.
    fn next_wide_sleeper(&self, function: FunctionSlot) -> AbilitySlot {
        let Function { first_wide, wide, .. } = self.functions[function];
        if wide == 0 || self.wide_sleepers == 0 {
            return AbilitySlot::NONE;
        }
        let (mut next, mut looked_at) = (AbilitySlot::NONE, 0);
        let mut next_since = u64::MAX;
        if wide <= self.wide_sleepers {
            let mut ability = first_wide;
            while ability != AbilitySlot::NONE {
                looked_at += 1;
                let since = self.sleeps_since(ability);
                if since < next_since && self.is_listed(ability) {
                    (next, next_since) = (ability, since);
                }
                ability = self.abilities[ability].next;
            }
        } else {
            let mut connection = self.first_wide_sleeper;
            // Later ones have slept less.
            while connection != ConnectionSlot::NONE && self.connections[connection].slept < next_since {
                looked_at += 1;
                if let Some(ability) = self.find_ability(connection, function)
                    && self.abilities[ability].mode.is_none()
                    && self.sleeps_since(ability) < next_since
                {
                    (next, next_since) = (ability, self.sleeps_since(ability));
                }
                connection = self.connections[connection].next_sleeper;
            }
        }
        self.work_budget.spend_entries(looked_at);
        next
    }

    /// Makes a connection wide if it is about to have more abilities than `WIDE_FROM`.
    pub(super) fn widen(&mut self, connection: ConnectionSlot) {
        let state = &self.connections[connection];
        if state.is_wide || state.abilities.len < WIDE_FROM.min(self.policy.turn_budget) {
            return;
        }
        let is_ready = state.is_ready_to_wake();
        let mut ability = state.abilities.first;
        while ability != AbilitySlot::NONE {
            self.work_budget.spend(price::ENTRY);
            if self.is_listed(ability) {
                self.remove_sleeper(ability);
            }
            self.join_wide(ability);
            ability = self.abilities[ability].turn_next;
        }
        self.connections[connection].is_wide = true;
        if is_ready {
            self.join_wide_sleepers(connection);
        }
    }

    /// Makes a wide connection narrow again, after its last ability is removed.
    pub(super) fn narrow(&mut self, connection: ConnectionSlot) {
        let state = &self.connections[connection];
        if state.is_wide && state.abilities.first == AbilitySlot::NONE {
            if state.is_ready_to_wake() {
                self.leave_wide_sleepers(connection);
            }
            self.connections[connection].is_wide = false;
        }
    }

    /// Adds an ability of a wide connection to its function's list of these.
    pub(super) fn join_wide(&mut self, ability: AbilitySlot) {
        let function = self.abilities[ability].function;
        let next = std::mem::replace(&mut self.functions[function].first_wide, ability);
        self.functions[function].wide += 1;
        let state = &mut self.abilities[ability];
        (state.previous, state.next) = (AbilitySlot::NONE, next);
        if next != AbilitySlot::NONE {
            self.abilities[next].previous = ability;
        }
    }

    /// Removes an ability of a wide connection from its function's list of these.
    pub(super) fn leave_wide(&mut self, ability: AbilitySlot) {
        let Ability { function, previous, next, .. } = self.abilities[ability];
        self.functions[function].wide -= 1;
        match previous {
            AbilitySlot::NONE => self.functions[function].first_wide = next,
            previous => self.abilities[previous].next = next,
        }
        if next != AbilitySlot::NONE {
            self.abilities[next].previous = previous;
        }
    }

    /// Inserts a connection into the list of wide sleepers: last, unless it fell asleep before it was wide.
    fn join_wide_sleepers(&mut self, connection: ConnectionSlot) {
        let slept = self.connections[connection].slept;
        let (mut previous, mut next) = (self.last_wide_sleeper, ConnectionSlot::NONE);
        while previous != ConnectionSlot::NONE && self.connections[previous].slept > slept {
            self.work_budget.spend(price::ENTRY);
            (previous, next) = (self.connections[previous].previous_sleeper, previous);
        }
        self.wide_sleepers += 1;
        let state = &mut self.connections[connection];
        (state.previous_sleeper, state.next_sleeper) = (previous, next);
        match previous {
            ConnectionSlot::NONE => self.first_wide_sleeper = connection,
            previous => self.connections[previous].next_sleeper = connection,
        }
        match next {
            ConnectionSlot::NONE => self.last_wide_sleeper = connection,
            next => self.connections[next].previous_sleeper = connection,
        }
    }

    fn leave_wide_sleepers(&mut self, connection: ConnectionSlot) {
        let Connection { previous_sleeper: previous, next_sleeper: next, .. } = self.connections[connection];
        self.wide_sleepers -= 1;
        match previous {
            ConnectionSlot::NONE => self.first_wide_sleeper = next,
            previous => self.connections[previous].next_sleeper = next,
        }
        match next {
            ConnectionSlot::NONE => self.last_wide_sleeper = previous,
            next => self.connections[next].previous_sleeper = previous,
        }
    }

    /// Adds one ability of a sleeping connection to its function's sleepers, behind the others.
    pub(super) fn join_later(&mut self, ability: AbilitySlot) {
        self.last_slept += 1;
        self.abilities[ability].since = self.last_slept;
        let connection = self.abilities[ability].connection;
        if !self.connections[connection].is_wide {
            self.append_sleeper(ability);
        }
    }

    /// Appends an ability of a sleeping connection to its function's sleepers.
    fn append_sleeper(&mut self, ability: AbilitySlot) {
        let function = self.abilities[ability].function;
        let last = std::mem::replace(&mut self.functions[function].last_sleeper, ability);
        self.abilities[ability].previous = last;
        self.abilities[ability].next = AbilitySlot::NONE;
        match last {
            AbilitySlot::NONE => self.functions[function].first_sleeper = ability,
            last => self.abilities[last].next = ability,
        }
    }

    /// Removes an ability of a sleeping connection from its function's sleepers.
    pub(super) fn remove_sleeper(&mut self, ability: AbilitySlot) {
        let Ability { function, previous, next, .. } = self.abilities[ability];
        match previous {
            AbilitySlot::NONE => self.functions[function].first_sleeper = next,
            previous => self.abilities[previous].next = next,
        }
        match next {
            AbilitySlot::NONE => self.functions[function].last_sleeper = previous,
            next => self.abilities[next].previous = previous,
        }
    }

    /// Appends a sleeping connection to the sleepers of its functions.
    fn join_sleepers(&mut self, connection: ConnectionSlot) {
        self.last_slept += 1;
        self.connections[connection].slept = self.last_slept;
        if !self.connections[connection].is_ready_to_wake() {
            return;
        }
        if self.connections[connection].is_wide {
            return self.join_wide_sleepers(connection);
        }
        let mut ability = self.connections[connection].abilities.first;
        while ability != AbilitySlot::NONE {
            self.work_budget.spend(price::ENTRY);
            if self.is_listed(ability) {
                self.append_sleeper(ability);
            }
            ability = self.abilities[ability].turn_next;
        }
    }

    /// Removes a sleeping connection from the sleepers of its functions.
    fn leave_sleepers(&mut self, connection: ConnectionSlot) {
        if !self.connections[connection].is_ready_to_wake() {
            return;
        }
        if self.connections[connection].is_wide {
            return self.leave_wide_sleepers(connection);
        }
        let mut ability = self.connections[connection].abilities.first;
        while ability != AbilitySlot::NONE {
            self.work_budget.spend(price::ENTRY);
            if self.is_listed(ability) {
                self.remove_sleeper(ability);
            }
            ability = self.abilities[ability].turn_next;
        }
    }
}
