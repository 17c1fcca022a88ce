//! The memory of jobs and peers: the job server's parts of the account, see [`crate::stats::account`].
//!
//! A weight is all that one of each takes, with its entries in tables and the overhead of the allocator. The
//! free part of a large table is not resident.

use self::weight::{
    ABILITY, FAILED_ATTEMPT, FUNCTION, INDEX, JOB, OPERATION, PENDING_ADD, PENDING_REPLY, REVOKED, RUN, TIME,
    UNIQUE_SIBLINGS, WAIT,
};
use super::job::JobRef;
use super::{JobServer, Submission};
use crate::protocol::PeerError;
use crate::stats::account::{Account, CONNECTION, Part};

/// Workers may register this many functions regardless of memory: few enough that those of all connections
/// weigh little.
const ABILITIES_ALWAYS: usize = 4;
/// Workers with fewer functions than this may register another at a higher memory use than workers with more.
const ABILITIES_LONGER: usize = 100;

/// The weight of one of each, in bytes.
pub mod weight {
    use super::super::connection::{Ability, Run, Wait};
    use super::super::job::Job;
    use super::super::pending_writes::{PendingAdd, PendingReply};
    use super::in_table;

    /// A job: its slot, its entry in the index of numbers, and the allocator's overhead for its bytes.
    pub const JOB: u64 = size_of::<Job>() as u64 + INDEX + 16;
    /// An entry in an index.
    pub const INDEX: u64 = 16;
    /// The entry of a scheduled job in the schedule, or the deadline of a running job.
    pub const TIME: u64 = 40;
    /// The links of a job to others of the same unique id, and its entries in two tables.
    pub const UNIQUE_SIBLINGS: u64 = 64;
    /// A submission that waits for the end of a job, and its share of the counts by connection.
    pub const WAIT: u64 = in_table(size_of::<Wait>()) + 16;
    /// A submission that waits for the store.
    pub const PENDING_REPLY: u64 = in_table(size_of::<PendingReply>());
    /// A job that the store was asked to add.
    pub const PENDING_ADD: u64 = in_table(size_of::<PendingAdd>());
    /// The operation that adds it, in the queue of the store or with its writer.
    pub const OPERATION: u64 = 320;
    /// A job with a worker.
    pub const RUN: u64 = in_table(size_of::<Run>()) + TIME;
    /// A failed attempt that is remembered.
    pub const FAILED_ATTEMPT: u64 = 240;
    /// A revocation of a job from a worker that is remembered.
    pub const REVOKED: u64 = 48;
    /// The ability of a connection for a function: its entries in the tables of both, and its published
    /// numbers.
    pub const ABILITY: u64 = in_table(size_of::<Ability>()) + 160;
    /// A function without its name: its state and its numbers.
    pub const FUNCTION: u64 = 900;
}

/// The memory of an entry of this size in a table between half full and full.
const fn in_table(size: usize) -> u64 {
    (size + size / 3) as u64
}

/// The memory that the job server holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Jobs, with the workloads that are in memory.
    pub jobs: u64,
    /// The part of it that is workloads shared with large packets.
    pub shared: u64,
    /// Submissions that wait for the end of a job or for the store.
    pub waits: u64,
    /// Jobs with workers, failed runs, and revocations.
    pub runs: u64,
    /// Functions, and the abilities of workers for them.
    pub functions: u64,
    /// Connections.
    pub connections: u64,
    /// An estimate of what the store's queue holds for jobs to be added.
    pub store_queue: u64,
}

impl MemoryUse {
    /// The sum, in bytes.
    pub fn total(&self) -> u64 {
        let Self { jobs, waits, runs, functions, connections, store_queue, .. } = self;
        jobs + waits + runs + functions + connections + store_queue
    }

    /// Publishes it in the account. The store's queue publishes its own part.
    pub fn publish(&self, account: &Account) {
        account.set(Part::Jobs, self.jobs);
        account.set_shared_by_jobs(self.shared);
        account.set(Part::Waits, self.waits);
        account.set(Part::Runs, self.runs);
        account.set(Part::Functions, self.functions);
        account.set(Part::Connections, self.connections);
        account.note_remembered(self.total());
    }
}

impl JobRef<'_> {
    /// The memory that it takes beside its entry in the table and its workload, in bytes.
    pub(super) fn head_memory(self) -> u64 {
        self.head_length() as u64 + if self.has_unique_id() { INDEX } else { 0 }
    }
}

impl JobServer {
    /// The memory that it holds.
    pub fn memory_use(&self) -> MemoryUse {
        let count = |length: usize| length as u64;
        let [.., siblings] = self.jobs.index_lengths();
        MemoryUse {
            jobs: self.workload_bytes()
                + self.memory_totals.heads
                + count(self.jobs.free_bytes())
                + count(self.jobs.len()) * JOB
                + count(self.jobs.schedule.len()) * TIME
                + count(siblings) * UNIQUE_SIBLINGS,
            shared: self.memory_totals.shared,
            waits: count(self.waits.len()) * WAIT
                + count(self.pending_replies.len()) * PENDING_REPLY
                + count(self.pending_adds.len()) * PENDING_ADD,
            runs: count(self.runs.len()) * RUN
                + count(self.attempt_history.len()) * FAILED_ATTEMPT
                + count(self.memory_totals.revoked) * REVOKED,
            functions: count(self.abilities.len()) * ABILITY
                + count(self.functions.len()) * FUNCTION
                + self.memory_totals.names,
            connections: count(self.connections.len()) * CONNECTION,
            store_queue: count(self.pending_adds.len()) * OPERATION
                + self.memory_totals.storing
                + self.memory_totals.ended,
        }
    }

    /// Checks that there is memory for a submission, of a new job or of an existing one.
    pub(super) fn check_account(&self, submission: &Submission<'_>) -> Result<(), PeerError> {
        let new = JOB + OPERATION + submission.workload.as_bytes().len() as u64;
        if self.memory_use().total().saturating_add(new) <= self.policy.memory_max / 4 * 3 {
            return Ok(());
        }
        self.stats.memory.refused.bump(1);
        Err(PeerError::MEMORY_USED_UP)
    }

    /// Whether there is memory for another function of a connection that has this many. Connections are
    /// accepted as long as there is memory, so no number per connection could be granted without a limit.
    pub(super) fn has_memory_for_ability(&self, abilities: usize) -> bool {
        let sixteenths = match abilities {
            0..ABILITIES_ALWAYS => return true,
            ABILITIES_ALWAYS..ABILITIES_LONGER => 14,
            _ => 13,
        };
        let new = ABILITY + FUNCTION;
        self.memory_use().total().saturating_add(new) <= self.policy.memory_max / 16 * sixteenths
    }

    /// The maximum number of jobs that fit into this much memory.
    pub const fn most_jobs(memory: u64) -> u64 {
        memory / 4 * 3 / JOB
    }
}
