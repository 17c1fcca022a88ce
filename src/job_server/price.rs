//! What the state machine's work costs, so that no hold of the lock takes long: the unit, the prices and the
//! budget.
//!
//! The unit is one entry of a list that is looked at: 25 to 50 ns, depending on whether it is in the
//! processor's cache. Every loop whose length a peer decides, or the number of peers, jobs or functions,
//! spends as it goes, and ends when the budget of the hold is spent. What is left is done in other holds.

use std::cell::Cell;

use crate::protocol::{Response, Workload};

/// A request, whatever it asks for: its look-ups and its own part of the state.
pub const REQUEST: u32 = 8;
/// A packet that is sent: its head is written into an outbox, which has a lock of its own.
pub const PACKET: u32 = 4;
/// Each KiB of a workload or result that is copied.
pub const KIB: u32 = 2;
/// An entry that is looked at: an ability, a wait, a run, a sleeper, a job, a rule, a NOOP's deadline.
pub const ENTRY: u32 = 1;
/// An entry that is changed: taken out of its lists and its indexes, or put into them, with what is published
/// of it.
pub const CHANGE: u32 = 8;
/// A worker that is woken, beside its NOOP.
pub const WAKE: u32 = 4;
/// What one hold of the lock may spend, 100 to 200 us: as much as half a thousand packets.
pub const BUDGET: u32 = 4096;

/// What a packet costs.
pub(super) fn of_packet(response: &Response<'_>) -> u32 {
    let copied = |workload: Workload<'_>| match workload.as_bytes().len() {
        _ if workload.is_kept_by_reference() => 0,
        size => of_bytes(size),
    };
    PACKET + response.workload().map_or(0, copied)
}

/// What it costs to copy these bytes.
pub(super) fn of_bytes(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024).unwrap_or(u32::MAX).saturating_mul(KIB)
}

/// What was spent since the turn began, and how much may be.
#[derive(Debug)]
pub(super) struct WorkBudget {
    spent: Cell<u32>,
    budget: u32,
}

impl WorkBudget {
    pub(super) const fn new(budget: u32) -> Self {
        Self { spent: Cell::new(0), budget }
    }

    pub(super) fn start(&self) {
        self.spent.set(0);
    }

    pub(super) fn set_budget(&mut self, budget: u32) {
        self.budget = budget;
    }

    pub(super) fn spend(&self, price: u32) {
        self.spent.set(self.spent.get().saturating_add(price));
    }

    /// Spends the price of `entries` entries.
    pub(super) fn spend_entries(&self, entries: usize) {
        self.spend(u32::try_from(entries).unwrap_or(u32::MAX).saturating_mul(ENTRY));
    }

    pub(super) fn spent(&self) -> u32 {
        self.spent.get()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spent.get() >= self.budget
    }
}
