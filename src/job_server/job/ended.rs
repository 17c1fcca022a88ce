//! A job that has ended and whose clients are not all notified: its slot is kept for their waits.

use super::super::ids::{FunctionSlot, SlotId};
use super::{Held, JobState, Jobs, Residency};
use crate::protocol::Workload;

impl Jobs {
    /// Drops everything of a job except its slot, its handle and its waits, until its [slot is
    /// freed](Self::free_slot).
    pub(in crate::job_server) fn retire(&mut self, slot: u32) {
        self.remove_from_indexes(slot);
        let nothing = Held::new(&mut self.bodies, b"", b"", Workload::borrowed(b""));
        let job = &mut self.slots[slot as usize];
        let body = std::mem::replace(&mut job.body, nothing);
        job.state = JobState::Ended;
        job.function = FunctionSlot::NONE;
        job.residency = Residency::Memory;
        job.unique_length = 0;
        job.reducer_length = 0;
        body.free(&mut self.bodies);
    }

    /// Frees the slot of a retired job.
    pub(in crate::job_server) fn free_slot(&mut self, slot: u32) {
        self.slots.remove(slot as usize);
    }
}
