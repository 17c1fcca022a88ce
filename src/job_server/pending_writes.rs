//! Jobs that the store was asked to add, and the clients that wait for its answer.
//!
//! A new background job is in the state Storing until the store has it. It is in the indexes, so that equal
//! submissions join it, and nowhere else. Each background submission of it, and each foreground one that
//! joins it meanwhile, leaves a gap in the output of its connection. When the store answers, the gaps are
//! filled with JOB_CREATED or with an ERROR, and only then is the job visible: created, then visible.
//!
//! A background submission that joins a foreground job makes that job durable. The job continues; only the
//! submission waits for the store, and it is answered even if the job has ended by then.

use super::effects::Effects;
use super::ids::ConnectionSlot;
use super::index::NONE;
use super::job::{JobState, Residency};
use super::stored::{StoreFailure, StoreOp};
use super::tell::Said;
use super::{ConnectionId, JobServer, Now, price};
use crate::protocol::{JobHandle, PeerError, Response};

/// A pending addition of a job to the store. Its slot is the ticket of the operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingAdd {
    /// The job; [`NONE`] if it has ended.
    pub(super) job: u32,
    /// Bytes of its workload, for after it has ended.
    pub(super) workload: u64,
    number: u64,
    prefix: u8,
    /// The list of the submissions that wait for it, oldest first.
    pub(super) first_reply: u32,
    last_reply: u32,
}

/// A submission that is answered with JOB_CREATED, or an ERROR, once the store has answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingReply {
    pub(super) connection: ConnectionId,
    pub(super) gap: u64,
    pub(super) next: u32,
}

/// The weight of a gap beside the workload, in bytes: about the memory of its entries.
const GAP_WEIGHT: usize = 256;

impl JobServer {
    /// Asks the store to add a job that is in no list yet. The submission of `from` waits for the answer.
    pub(super) fn store_new(&mut self, from: ConnectionSlot, job: u32, effects: &mut impl Effects) {
        let ticket = self.begin_to_store(from, job, effects);
        let job = self.jobs.get_mut(job);
        job.state = JobState::Storing(ticket);
        let function = job.function;
        self.functions[function].storing += 1;
        self.publish(function);
    }

    /// Asks the store to add a job that has been only in memory. The submission of `from` waits for the
    /// answer.
    pub(super) fn store_late(&mut self, from: ConnectionSlot, job: u32, effects: &mut impl Effects) {
        let ticket = self.begin_to_store(from, job, effects);
        self.late_adds.insert(job, ticket);
    }

    fn begin_to_store(&mut self, from: ConnectionSlot, job: u32, effects: &mut impl Effects) -> u32 {
        let added = self.jobs.get(job);
        let (number, prefix, function) = (added.number(), added.prefix, added.function);
        let name = &self.functions[function].name;
        let stored = added.to_stored(name, &self.prefixes);
        let durability = self.policy.durability_of(name);
        let workload = added.workload_memory();
        let new = PendingAdd { job, workload, number, prefix, first_reply: NONE, last_reply: NONE };
        let pending = self.pending_adds.insert(new);
        let ticket = u32::try_from(pending).unwrap_or(NONE);
        self.set_residency(job, Residency::Storing);
        self.await_reply(from, ticket, effects);
        effects.store(StoreOp::Add { ticket, durability, job: stored });
        ticket
    }

    /// The pending addition of a job.
    pub(super) fn pending_add_of(&self, job: u32) -> Option<u32> {
        match self.jobs.get(job).state {
            JobState::Storing(ticket) => Some(ticket),
            _ if self.jobs.get(job).residency == Residency::Storing => self.late_adds.get(&job).copied(),
            _ => None,
        }
    }

    /// Makes a submission of `from` wait for the answer to a pending addition.
    pub(super) fn await_reply(&mut self, from: ConnectionSlot, ticket: u32, effects: &mut impl Effects) {
        let connection = self.id_of(from);
        let pending = &mut self.pending_adds[ticket as usize];
        let weight = usize::try_from(pending.workload).unwrap_or(usize::MAX);
        let asking = &mut self.connections[from];
        let reply = self.pending_replies.insert(PendingReply { connection, gap: asking.gaps, next: NONE });
        asking.gaps += 1;
        asking.open_gaps += 1;
        let reply = u32::try_from(reply).unwrap_or(NONE);
        match std::mem::replace(&mut pending.last_reply, reply) {
            NONE => pending.first_reply = reply,
            last => self.pending_replies[last as usize].next = reply,
        }
        effects.hold(connection, weight.saturating_add(GAP_WEIGHT));
    }

    /// Processes the store's answer to a pending addition. Returns whether it is complete: with very many
    /// submissions, call again after other connections have run.
    pub(super) fn added(
        &mut self,
        now: Now,
        ticket: u32,
        result: Result<(), StoreFailure>,
        effects: &mut impl Effects,
    ) -> bool {
        let Some(pending) = self.pending_adds.get(ticket as usize) else {
            debug_assert!(false, "the store answered what it was not asked");
            return true;
        };
        let PendingAdd { job, workload, number, prefix, first_reply, .. } = *pending;
        // A job that ended before it was stored did all it was submitted for: no error.
        let error = result.err().filter(|_| job != NONE).map(peer_error);
        let (mut reply, mut count) = (first_reply, 0);
        while reply != NONE {
            if count > 0 && self.is_turn_over() {
                self.pending_adds[ticket as usize].first_reply = reply;
                return false;
            }
            count += 1;
            let PendingReply { connection, gap, next } = self.pending_replies.remove(reply as usize);
            if let Some(slot) = self.slot_of(connection) {
                self.connections[slot].open_gaps -= 1;
                let handle = JobHandle { prefix: self.prefixes.get(prefix), number };
                let answer = error.map_or(Response::JobCreated { handle }, Response::Error);
                self.work_budget.spend(price::of_packet(&answer));
                effects.fill(connection, gap, answer);
                if error.is_none() && job != NONE {
                    self.tell_accepted(job, effects);
                }
            }
            reply = next;
        }
        self.pending_adds.remove(ticket as usize);
        if job == NONE {
            self.memory_totals.ended -= workload;
        } else {
            self.settle(now, job, result.is_ok(), effects);
        }
        true
    }

    /// Continues or removes a job, according to the store's answer.
    fn settle(&mut self, now: Now, job: u32, is_stored: bool, effects: &mut impl Effects) {
        let is_new = matches!(self.jobs.get(job).state, JobState::Storing(_));
        if !is_new {
            self.late_adds.remove(&job);
        }
        self.set_residency(job, if is_stored { Residency::Both } else { Residency::Memory });
        if is_new {
            if !is_stored {
                self.end(job, None, Said::Nothing, effects);
                return;
            }
            let function = self.jobs.get(job).function;
            self.functions[function].storing -= 1;
            self.tally(function, |counters| &counters.submitted);
            self.schedule(now, job, effects);
        } else if !is_stored {
            self.jobs.get_mut(job).background = false;
            if self.is_abandoned(job) && !matches!(self.jobs.get(job).state, JobState::Running(_)) {
                self.tally(self.jobs.get(job).function, |counters| &counters.abandoned);
                self.remove_job(job, effects);
            }
        }
    }

    /// Detaches the pending addition of a job that ends: its submissions are still answered.
    pub(super) fn detach_pending_add(&mut self, job: u32) {
        if let Some(ticket) = self.pending_add_of(job) {
            self.pending_adds[ticket as usize].job = NONE;
            self.memory_totals.ended += self.pending_adds[ticket as usize].workload;
            self.late_adds.remove(&job);
        }
    }
}

/// The error that clients get for a failure of the store.
fn peer_error(failure: StoreFailure) -> PeerError {
    match failure {
        StoreFailure::Full => PeerError::STORE_FULL,
        StoreFailure::ReadOnly => PeerError::STORE_READ_ONLY,
        StoreFailure::Io => PeerError::STORE_FAILED,
        StoreFailure::Locked => PeerError::STORE_LOCKED,
        StoreFailure::Unreachable => PeerError::STORE_UNREACHABLE,
        StoreFailure::Corrupt => PeerError::STORE_CORRUPT,
        StoreFailure::Refused => PeerError::STORE_REFUSED,
    }
}
