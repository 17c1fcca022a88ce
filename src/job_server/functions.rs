//! The table of functions: lookup, creation, eviction, and the lists of ready and of unused functions.

use std::sync::Arc;

use super::function::Function;
use super::ids::FunctionSlot;
use super::index::NONE;
use super::{JobServer, price};
use crate::protocol::{FunctionName, PeerError, Priority};
use crate::stats::FunctionGauges;

/// The maximum number of unused functions that one new name evicts.
const FORGOTTEN_AT_ONCE: usize = 64;

impl JobServer {
    /// The function of this name, created if there is room for it.
    pub(super) fn function_slot(&mut self, name: &[u8]) -> Result<FunctionSlot, PeerError> {
        if let Some(slot) = self.function_names.get(name) {
            self.functions[*slot].mark_named();
            return Ok(*slot);
        }
        if self.functions.len() >= self.policy.max_functions && !self.forget_unused_functions() {
            return Err(PeerError::TOO_MANY_FUNCTIONS);
        }
        Ok(self.function_or_new(name))
    }

    /// The function of this name, created regardless of the limit.
    pub(super) fn function_or_new(&mut self, name: &[u8]) -> FunctionSlot {
        if let Some(slot) = self.function_names.get(name) {
            self.functions[*slot].mark_named();
            return *slot;
        }
        let name = FunctionName::new(name);
        self.memory_totals.names += name.as_bytes().len() as u64;
        let gauges = Arc::new(FunctionGauges::default());
        self.stats.functions.insert(name.clone(), Arc::clone(&gauges));
        let slot = self.functions.insert(Function::new(name.clone(), gauges));
        self.function_names.insert(name, slot);
        self.list_if_unused(slot);
        slot
    }

    /// Removes a function that has neither workers nor jobs.
    pub(super) fn remove_function(&mut self, slot: FunctionSlot) {
        let place = self.functions[slot].unused_place;
        if place != NONE {
            let functions = &mut self.functions;
            change_list(&mut self.functions_unused, slot, place, |moved, place| {
                functions[moved].unused_place = place;
            });
        }
        let removed = self.functions.remove(slot);
        self.memory_totals.names -= removed.name.as_bytes().len() as u64;
        self.function_names.remove(&removed.name);
        self.stats.functions.remove(&removed.name);
        self.functions_with_settings -= usize::from(removed.counted_with_settings);
    }

    /// Publishes a function that has changed, and updates the lists of functions.
    pub(super) fn publish(&mut self, slot: FunctionSlot) {
        self.functions[slot].publish(&self.jobs);
        self.count_in_use(slot);
    }

    /// Publishes a function of which only the number of running jobs has changed.
    pub(super) fn publish_running(&mut self, slot: FunctionSlot) {
        self.functions[slot].publish_running();
        self.count_in_use(slot);
    }

    fn count_in_use(&mut self, slot: FunctionSlot) {
        let function = &self.functions[slot];
        let is_listed_by_priority =
            (0..Priority::ALL.len()).all(|index| function.is_ready(index) == (function.ready_places[index] != NONE));
        let is_listed_if_unused = function.is_unused() == (function.unused_place != NONE);
        let (has_settings, is_counted) = (function.has_settings(), function.counted_with_settings);
        if !is_listed_by_priority {
            self.list_if_ready(slot);
        }
        if !is_listed_if_unused {
            self.list_if_unused(slot);
        }
        if has_settings != is_counted {
            self.functions[slot].counted_with_settings = has_settings;
            let count = self.functions_with_settings;
            self.functions_with_settings = if has_settings { count + 1 } else { count - 1 };
        }
    }

    /// Adds a function to the lists of functions with ready jobs, by priority, or removes it.
    fn list_if_ready(&mut self, slot: FunctionSlot) {
        for priority in 0..Priority::ALL.len() {
            let function = &self.functions[slot];
            let place = function.ready_places[priority];
            if function.is_ready(priority) == (place != NONE) {
                continue;
            }
            let functions = &mut self.functions;
            let new_place = change_list(&mut self.functions_ready[priority], slot, place, |moved, place| {
                functions[moved].ready_places[priority] = place;
            });
            self.functions[slot].ready_places[priority] = new_place;
        }
    }

    /// Adds a function to the list of unused functions, or removes it.
    fn list_if_unused(&mut self, slot: FunctionSlot) {
        let function = &self.functions[slot];
        let place = function.unused_place;
        if function.is_unused() == (place != NONE) {
            return;
        }
        let functions = &mut self.functions;
        let new_place = change_list(&mut self.functions_unused, slot, place, |moved, place| {
            functions[moved].unused_place = place;
        });
        self.functions[slot].unused_place = new_place;
    }

    /// At the limit, evicts functions without jobs, workers and settings. Returns whether it did.
    fn forget_unused_functions(&mut self) -> bool {
        let surplus = (self.functions.len() + 1).saturating_sub(self.policy.max_functions);
        let count = surplus.min(self.functions_unused.len()).min(FORGOTTEN_AT_ONCE);
        for _ in 0..count {
            if let Some(slot) = self.functions_unused.first().copied() {
                self.work_budget.spend(price::CHANGE);
                self.remove_function(slot);
            }
        }
        count > 0
    }
}

/// Adds `slot` to a list, or removes it if it has a place there. Returns its new place; `tell` is called with
/// the slot that was moved by a removal, and its new place.
fn change_list(
    list: &mut Vec<FunctionSlot>,
    slot: FunctionSlot,
    place: u32,
    tell: impl FnOnce(FunctionSlot, u32),
) -> u32 {
    if place == NONE {
        list.push(slot);
        return u32::try_from(list.len() - 1).unwrap_or(NONE);
    }
    list.swap_remove(place as usize);
    if let Some(moved) = list.get(place as usize) {
        tell(*moved, place);
    }
    NONE
}
