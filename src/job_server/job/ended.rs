//! A job that has ended, and whose clients are still to be told: its slot is kept for their waits.

use super::{Body, Job, JobState, Jobs, Kept, NONE};

impl Jobs {
    /// Forgets all of a job but its slot, its handle and its waits, until it is [buried](Self::bury).
    pub(in crate::job_server) fn retire(&mut self, slot: u32) {
        let job = self.get_mut(slot);
        let nothing = Job {
            body: Body::Small(Box::default()),
            state: JobState::Ended,
            function: NONE,
            kept: Kept::Memory,
            unique_length: 0,
            reducer_length: 0,
            ..*job
        };
        let job = std::mem::replace(job, nothing);
        self.remove_from_indexes(slot, &job);
    }

    /// Gives the slot of a retired job free.
    pub(in crate::job_server) fn bury(&mut self, slot: u32) {
        self.slots.remove(slot as usize);
        if self.slots.is_empty() {
            self.slots.shrink_to_fit();
        }
    }
}
