//! What jobs and peers weigh: the job server's parts of the account, see [`crate::stats::account`].
//!
//! Weights are what one of each takes in the end, with its places in tables and what the allocator adds. The
//! part of a large table that is free is not in memory.

use self::weight::{
    ABILITY, ADDITION, CREATION, EARLIER_RUN, FORFEITED, FUNCTION, INDEX, JOB, NAMESAKES, OPERATION, RUN, TIME, WAIT,
};
use super::job::JobRef;
use super::{JobServer, Submission};
use crate::protocol::PeerError;
use crate::stats::account::{Account, CONNECTION, Part};

/// Workers may register so many functions whatever is held: so few that those of all connections weigh
/// little.
const ABILITIES_ALWAYS: usize = 4;
/// Workers may register so many functions where those with more may not register another.
const ABILITIES_LONGER: usize = 100;

/// What one of each weighs, in bytes.
pub mod weight {
    use super::super::connection::{Ability, Run, Wait};
    use super::super::job::Job;
    use super::super::storing::{Addition, Creation};
    use super::in_table;

    /// A job in its slot and in the index of numbers, and what the allocator adds to its bytes.
    pub const JOB: u64 = size_of::<Job>() as u64 + INDEX + 16;
    /// A place in an index.
    pub const INDEX: u64 = 16;
    /// The place of a job among those that are not due, or the deadline of one that runs.
    pub const TIME: u64 = 40;
    /// The links of a job to others of the same unique id, and its places in two tables.
    pub const NAMESAKES: u64 = 64;
    /// A submission that waits for the end of a job, and its share of the counts by connection.
    pub const WAIT: u64 = in_table(size_of::<Wait>()) + 16;
    /// One that waits for the store.
    pub const CREATION: u64 = in_table(size_of::<Creation>());
    /// A job that the store is asked to keep.
    pub const ADDITION: u64 = in_table(size_of::<Addition>());
    /// The operation that asks for it, in the queue of the store or with its writer.
    pub const OPERATION: u64 = 320;
    /// A job with a worker.
    pub const RUN: u64 = in_table(size_of::<Run>()) + TIME;
    /// A run that came to nothing and is remembered.
    pub const EARLIER_RUN: u64 = 240;
    /// That a worker is remembered to have lost a job.
    pub const FORFEITED: u64 = 48;
    /// That a connection can do a function: its place there and among the connection's, and what is published
    /// of it.
    pub const ABILITY: u64 = in_table(size_of::<Ability>()) + 160;
    /// A function without its name: its state and its numbers.
    pub const FUNCTION: u64 = 900;
}

/// What an entry of this size takes in a table between half full and full.
const fn in_table(size: usize) -> u64 {
    (size + size / 3) as u64
}

/// What the job server holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Jobs, with the workloads that are in memory.
    pub jobs: u64,
    /// What of it are workloads that are shared with packets, where they came in large ones.
    pub shared: u64,
    /// Submissions that wait for the end of a job or for the store.
    pub waits: u64,
    /// Jobs with workers, runs that came to nothing, and jobs that workers have lost.
    pub runs: u64,
    /// Functions, and that workers can do them.
    pub functions: u64,
    /// Connections.
    pub connections: u64,
    /// About what the store's queue holds for jobs that are to be kept.
    pub store_queue: u64,
}

impl MemoryUse {
    /// All of it, in bytes.
    pub fn total(&self) -> u64 {
        let Self { jobs, waits, runs, functions, connections, store_queue, .. } = self;
        jobs + waits + runs + functions + connections + store_queue
    }

    /// Tells the account. What the store's queue holds it says itself.
    pub fn publish(&self, account: &Account) {
        account.set(Part::Jobs, self.jobs);
        account.set_shared_by_jobs(self.shared);
        account.set(Part::Waits, self.waits);
        account.set(Part::Runs, self.runs);
        account.set(Part::Functions, self.functions);
        account.set(Part::Connections, self.connections);
    }
}

impl JobRef<'_> {
    /// What it takes beside its place among all jobs and its workload, in bytes.
    pub(super) fn head_memory(self) -> u64 {
        self.head_length() as u64 + if self.has_unique_id() { INDEX } else { 0 }
    }
}

impl JobServer {
    /// What it holds.
    pub fn memory_use(&self) -> MemoryUse {
        let count = |length: usize| length as u64;
        let [.., namesakes] = self.jobs.index_lengths();
        MemoryUse {
            jobs: self.workload_bytes()
                + self.holdings.heads
                + count(self.jobs.free_bytes())
                + count(self.jobs.len()) * JOB
                + count(self.jobs.schedule.len()) * TIME
                + count(namesakes) * NAMESAKES,
            shared: self.holdings.shared,
            waits: count(self.waits.len()) * WAIT
                + count(self.creations.len()) * CREATION
                + count(self.additions.len()) * ADDITION,
            runs: count(self.runs.len()) * RUN
                + count(self.earlier_runs.len()) * EARLIER_RUN
                + count(self.holdings.forfeited) * FORFEITED,
            functions: count(self.abilities.len()) * ABILITY
                + count(self.functions.len()) * FUNCTION
                + self.holdings.names,
            connections: count(self.connections.len()) * CONNECTION,
            store_queue: count(self.additions.len()) * OPERATION + self.holdings.storing + self.holdings.ended,
        }
    }

    /// Whether there is memory for a submission, be it of a new job or of one that is there.
    pub(super) fn check_account(&self, submission: &Submission<'_>) -> Result<(), PeerError> {
        let new = JOB + OPERATION + submission.workload.as_bytes().len() as u64;
        if self.memory_use().total().saturating_add(new) <= self.policy.memory_max / 4 * 3 {
            return Ok(());
        }
        self.stats.memory.refused.bump(1);
        Err(PeerError::MEMORY_USED_UP)
    }

    /// Whether there is memory for another function of a connection that can do so many. Connections come as
    /// long as there is any, so that no number a connection could be had without a limit.
    pub(super) fn has_memory_for_ability(&self, abilities: usize) -> bool {
        let sixteenths = match abilities {
            0..ABILITIES_ALWAYS => return true,
            ABILITIES_ALWAYS..ABILITIES_LONGER => 14,
            _ => 13,
        };
        let new = ABILITY + FUNCTION;
        self.memory_use().total().saturating_add(new) <= self.policy.memory_max / 16 * sixteenths
    }

    /// The most jobs that fit into this much memory.
    pub const fn most_jobs(memory: u64) -> u64 {
        memory / 4 * 3 / JOB
    }
}
