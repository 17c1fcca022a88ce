//! The price of the state machine's work, so that no lock hold takes long: the unit, the prices and the
//! budget.
//!
//! The unit is one entry of a list that is examined: 25 to 50 ns, depending on whether it is in the
//! processor's cache. Every loop whose length depends on a peer, or on the number of peers, jobs or
//! functions, spends as it runs, and ends when the budget of the lock hold is spent. The rest is done in
//! later lock holds.

use std::cell::Cell;

use crate::protocol::{Response, Workload};

/// A request of any kind: its lookups and its own part of the state.
pub const REQUEST: u32 = 8;
/// A packet that is sent: its head is written into an outbox, which has its own lock.
pub const PACKET: u32 = 4;
/// Each KiB of a workload or result that is copied.
pub const KIB: u32 = 2;
/// An entry that is examined: an ability, a wait, a run, a sleeper, a job, a rule, a NOOP's deadline.
pub const ENTRY: u32 = 1;
/// An entry that is changed: removed from its lists and indexes or inserted into them, with its published
/// numbers.
pub const CHANGE: u32 = 8;
/// A worker that is woken, in addition to its NOOP.
pub const WAKE: u32 = 4;
/// The budget of one lock hold, 100 to 200 us: as much as about 500 packets.
pub const BUDGET: u32 = 4096;

/// The price of a packet.
pub(super) fn of_packet(response: &Response<'_>) -> u32 {
    let copied = |workload: Workload<'_>| match workload.as_bytes().len() {
        _ if workload.is_kept_by_reference() => 0,
        size => of_bytes(size),
    };
    PACKET + response.workload().map_or(0, copied)
}

/// The price of copying these bytes.
pub(super) fn of_bytes(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024).unwrap_or(u32::MAX).saturating_mul(KIB)
}

/// The work spent since the lock hold began, and the limit.
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
