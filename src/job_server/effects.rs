//! The effects of the job server: its only way to reach anything outside.

use super::ConnectionId;
use super::attempt_history::RequeueReason;
use super::stored::StoreOp;
use crate::protocol::{FunctionName, JobHandle, NotRegistered, Response};
use crate::stats::ConnectionGauges;

/// The outside world as the job server sees it.
///
/// It is a parameter of every transition and not part of [`JobServer`](super::JobServer), so that a response
/// can borrow from the state that it reports.
pub trait Effects {
    /// Sends a packet to a connection. Packets to one connection arrive in the order in which they were sent.
    fn send(&mut self, to: ConnectionId, response: Response<'_>);

    /// Leaves a gap in a connection's output, for a packet that is not known yet: packets sent later arrive
    /// after it. A connection's gaps are numbered from 0. Until it is filled, the gap counts as `weight`
    /// bytes of queued output.
    fn hold(&mut self, to: ConnectionId, weight: usize);

    /// Fills a connection's gap.
    fn fill(&mut self, to: ConnectionId, gap: u64, response: Response<'_>);

    /// Queues an operation for the store. Operations reach it in the order in which they are queued.
    fn store(&mut self, operation: StoreOp);

    /// Reports an event to the operator. Peers are not told of it.
    fn report(&mut self, event: Event<'_>);
}

/// An event that an operator may want to read in the log.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A submission was answered with JOB_CREATED. Reported if [`Policy::tells_submissions`](super::Policy)
    /// is set.
    Accepted {
        /// The function of its job, which may have existed before.
        function: &'a [u8],
        /// The unique id of the job.
        unique: &'a [u8],
        /// When the job is due, in seconds since 1970; 0 means immediately.
        due_s: u64,
        /// The reducer; empty for none.
        reducer: &'a [u8],
    },
    /// A job has used up its retries and was dropped.
    JobDropped {
        /// Its function.
        function: &'a FunctionName,
        /// The job.
        handle: JobHandle<'a>,
        /// Its unique id.
        unique: &'a [u8],
        /// The number of workers it has lost.
        attempts: u16,
        /// Why the last one lost it.
        reason: RequeueReason,
    },
    /// A worker exceeded its timeout; the job is requeued.
    JobTimedOut {
        /// Its function.
        function: &'a FunctionName,
        /// The job.
        handle: JobHandle<'a>,
        /// Its unique id.
        unique: &'a [u8],
        /// The worker.
        worker: ConnectionId,
        /// The worker's published state.
        connection: &'a ConnectionGauges,
        /// The timeout, in milliseconds.
        timeout_ms: u64,
    },
    /// A stored job is missing from the store: another program has removed it. The job is dropped.
    JobMissing {
        /// Its function.
        function: &'a FunctionName,
        /// The job.
        handle: JobHandle<'a>,
        /// Its unique id.
        unique: &'a [u8],
    },
    /// The store returned two jobs of one function and unique id. The second stays in the store, and is not
    /// run.
    DuplicateUnique {
        /// The second job.
        handle: JobHandle<'a>,
        /// Their unique id.
        unique: &'a [u8],
    },
    /// A connection offered functions that were not registered. Reported once per connection.
    FunctionsRefused {
        /// The connection.
        connection: &'a ConnectionGauges,
        /// The number of functions refused so far.
        refused: u64,
        /// The number of functions registered.
        registered: usize,
        /// Why the first one was refused.
        why: NotRegistered,
    },
    /// A job is due so far ahead that its time may be in milliseconds. Reported once a minute.
    DueFarAhead {
        /// The job.
        handle: JobHandle<'a>,
        /// Its function.
        function: &'a [u8],
        /// When it is due, in seconds since 1970.
        due_s: u64,
    },
}
