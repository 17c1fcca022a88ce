//! The order in which a connection's functions are searched for jobs, and the search.
//!
//! A connection's abilities are a linked list. A function that is registered, again or anew, moves to the
//! front; a function from which a job was taken moves to the back. So CAN_DO, CANT_DO and GRAB_JOB move one
//! ability without a walk, regardless of the number of abilities.
//!
//! A grab scans the shorter of two lists: the connection's abilities, or the functions that have ready jobs.

use super::connection::{Ability, AbilityList};
use super::effects::Effects;
use super::ids::{AbilitySlot, ConnectionSlot, SlotId};
use super::job::{JobState, Residency};
use super::{JobServer, price};
use crate::protocol::Priority;

/// Up to this many functions with ready jobs are scanned, regardless of the connection's abilities.
const FEW_READY: usize = 16;
/// More of them are scanned if the connection has this many times as many abilities.
const READY_SHARE: usize = 4;

/// The result of a search through a connection's functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Nothing,
    /// The next job of this ability's function, of this priority.
    Ability(AbilitySlot, usize),
    /// Nothing was found before this ability, and there are more to search.
    Unfinished(AbilitySlot),
}

impl JobServer {
    /// Inserts an ability at the front of the order.
    pub(super) fn put_first(&mut self, ability: AbilitySlot) {
        self.last_turn += 1;
        let connection = self.abilities[ability].connection;
        let AbilityList { first, .. } = self.connections[connection].abilities;
        let state = &mut self.abilities[ability];
        (state.turn, state.turn_previous, state.turn_next) = (-self.last_turn, AbilitySlot::NONE, first);
        let list = &mut self.connections[connection].abilities;
        match first {
            AbilitySlot::NONE => list.last = ability,
            first => self.abilities[first].turn_previous = ability,
        }
        list.first = ability;
        list.len += 1;
    }

    /// Inserts an ability at the back of the order.
    fn put_last(&mut self, ability: AbilitySlot) {
        self.last_turn += 1;
        let connection = self.abilities[ability].connection;
        let AbilityList { last, .. } = self.connections[connection].abilities;
        let state = &mut self.abilities[ability];
        (state.turn, state.turn_previous, state.turn_next) = (self.last_turn, last, AbilitySlot::NONE);
        let order = &mut self.connections[connection].abilities;
        match last {
            AbilitySlot::NONE => order.first = ability,
            last => self.abilities[last].turn_next = ability,
        }
        order.last = ability;
        order.len += 1;
    }

    /// Removes an ability from the order. Incremental passes over the abilities continue after it.
    pub(super) fn take_out_of_turn(&mut self, ability: AbilitySlot) {
        let Ability { connection, turn_previous, turn_next, .. } = self.abilities[ability];
        let owner = &mut self.connections[connection];
        if owner.rules_at == ability {
            owner.rules_at = turn_next;
        }
        if owner.cover_at == ability {
            owner.cover_at = turn_next;
        }
        let list = &mut owner.abilities;
        list.len -= 1;
        match turn_previous {
            AbilitySlot::NONE => list.first = turn_next,
            previous => self.abilities[previous].turn_next = turn_next,
        }
        match turn_next {
            AbilitySlot::NONE => list.last = turn_previous,
            next => self.abilities[next].turn_previous = turn_previous,
        }
    }

    /// Moves an ability that was used to the back of the order.
    pub(super) fn rotate(&mut self, ability: AbilitySlot) {
        let connection = self.abilities[ability].connection;
        if self.connections[connection].abilities.last != ability {
            self.take_out_of_turn(ability);
            self.put_last(ability);
        }
    }

    /// Whether to scan the functions that have ready jobs of a priority, rather than the connection's
    /// abilities.
    pub(super) fn has_few_ready(&self, connection: ConnectionSlot, priority: usize) -> bool {
        let abilities = self.connections[connection].abilities.len as usize;
        let most = (abilities / READY_SHARE).min(price::BUDGET as usize / READY_SHARE).max(FEW_READY);
        self.connections[connection].is_wide && self.functions_ready[priority].len() <= most
    }

    /// The next job for a connection: by priority, then by the order of its functions. `from` is where an
    /// unfinished search continues.
    ///
    /// A search that has spent a whole budget takes the best job that it has found by then.
    pub(super) fn choose_job(&self, connection: ConnectionSlot, from: Option<AbilitySlot>) -> Choice {
        let state = &self.connections[connection];
        if state.runs >= self.policy.max_jobs_per_connection {
            return Choice::Nothing;
        }
        let mut left = None;
        for priority in 0..Priority::ALL.len() {
            if self.functions_ready[priority].is_empty() {
                continue;
            }
            if !self.has_few_ready(connection, priority) {
                left = Some(priority);
                break;
            }
            self.work_budget.spend_entries(self.functions_ready[priority].len());
            let ready = self.functions_ready[priority].iter();
            let able = ready.filter_map(|function| self.ability_slots.get(&(connection, *function)).copied());
            let able = able.filter(|ability| self.can_take(*ability, priority));
            if let Some(ability) = able.min_by_key(|ability| self.abilities[*ability].turn) {
                return Choice::Ability(ability, priority);
            }
        }
        match left {
            Some(highest) => self.look_through(connection, highest, from),
            None => Choice::Nothing,
        }
    }

    /// Searches a connection's abilities for jobs. No ready job has a priority above `highest`.
    fn look_through(&self, connection: ConnectionSlot, highest: usize, from: Option<AbilitySlot>) -> Choice {
        let mut ability = from.unwrap_or(self.connections[connection].abilities.first);
        let is_wide = self.connections[connection].is_wide;
        let mut best: Option<(AbilitySlot, usize)> = None;
        let mut looked_at = 0;
        while ability != AbilitySlot::NONE {
            if is_wide && looked_at > 0 && self.is_turn_over() {
                break;
            }
            looked_at += 1;
            self.work_budget.spend(price::ENTRY);
            let worst = best.map_or(Priority::ALL.len(), |(_, priority)| priority);
            if let Some(priority) = (highest..worst).find(|priority| self.can_take(ability, *priority)) {
                best = Some((ability, priority));
                if priority == highest {
                    break;
                }
            }
            ability = self.abilities[ability].turn_next;
        }
        match best {
            Some((ability, priority)) => Choice::Ability(ability, priority),
            None if ability != AbilitySlot::NONE => Choice::Unfinished(ability),
            None => Choice::Nothing,
        }
    }

    /// Whether a connection may get the next job of an ability's function and this priority.
    fn can_take(&self, ability: AbilitySlot, priority: usize) -> bool {
        let Ability { function, mode, .. } = self.abilities[ability];
        let function = &self.functions[function];
        let list = &function.ready[priority];
        list.len > 0
            && mode.is_none()
            && function.is_open()
            && !(self.draining && self.jobs.get(list.first).residency.is_stored())
    }

    /// While the server drains, pages out the durable jobs at the heads of a worker's queues until the next
    /// start. Returns whether it is complete; if not, call again.
    pub(super) fn page_out_durable(&mut self, connection: ConnectionSlot, effects: &mut impl Effects) -> bool {
        let mut count = 0;
        let mut ability = self.connections[connection].abilities.first;
        while ability != AbilitySlot::NONE {
            self.work_budget.spend(price::ENTRY);
            let Ability { function, turn_next, .. } = self.abilities[ability];
            for priority in Priority::ALL {
                let head = |server: &Self| server.functions[function].ready[priority.index()].first;
                while let Some(job) = self.jobs.find(head(self)).filter(|job| job.residency == Residency::Both) {
                    if count > 0 && self.is_turn_over() {
                        return false;
                    }
                    debug_assert!(matches!(job.state, JobState::Ready(_)));
                    count += 1;
                    self.work_budget.spend(price::CHANGE);
                    let job = head(self);
                    self.functions[function].list(priority).remove(&mut self.jobs, job);
                    self.page_out(job, effects);
                }
            }
            ability = turn_next;
        }
        true
    }
}
