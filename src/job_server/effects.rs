//! How the job server speaks: it has no other way to touch the world.

use super::ConnectionId;
use super::earlier::RunEnd;
use super::stored::StoreOp;
use crate::protocol::{FunctionName, JobHandle, NotRegistered, Response};
use crate::stats::ConnectionGauges;

/// The world as the job server sees it.
///
/// It is a parameter of every transition and no part of [`JobServer`](super::JobServer), so that a response can borrow
/// from the state that it tells about.
pub trait Effects {
    /// Sends a packet to a connection. Packets to one connection arrive in the order in which they were sent.
    fn send(&mut self, to: ConnectionId, response: Response<'_>);

    /// Leaves a gap in what a connection is sent, for a packet that is not known yet: what is sent from now on arrives
    /// after it. A connection's gaps are counted from 0. Until it is filled the gap weighs on the connection as if
    /// `weight` bytes of output waited for it.
    fn hold(&mut self, to: ConnectionId, weight: usize);

    /// Fills a connection's gap.
    fn fill(&mut self, to: ConnectionId, gap: u64, response: Response<'_>);

    /// Asks something of the store. Operations reach it in the order in which they were asked for.
    fn store(&mut self, operation: StoreOp);

    /// Tells the operator about something that no peer is told.
    fn report(&mut self, event: Event<'_>);
}

/// What an operator may want to read in the log.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A submission was answered with JOB_CREATED. Reported where [`Policy::tells_submissions`](super::Policy) says so.
    Accepted {
        /// The function of its job, which may have been there before.
        function: &'a [u8],
        /// The unique id of the job.
        unique: &'a [u8],
        /// When the job is due, in seconds since 1970; 0 is at once.
        due_s: u64,
        /// The reducer; empty for none.
        reducer: &'a [u8],
    },
    /// A job has lost as many workers as it may and is gone.
    JobDropped {
        /// Its function.
        function: &'a FunctionName,
        /// The job.
        handle: JobHandle<'a>,
        /// Its unique id.
        unique: &'a [u8],
        /// How many workers it has lost.
        attempts: u16,
        /// How it lost the last one.
        end: RunEnd,
    },
    /// A worker took longer than it may; the job is for the next one.
    JobTimedOut {
        /// Its function.
        function: &'a FunctionName,
        /// The job.
        handle: JobHandle<'a>,
        /// Its unique id.
        unique: &'a [u8],
        /// The worker.
        worker: ConnectionId,
        /// What is known of it.
        connection: &'a ConnectionGauges,
        /// How long it might take, in milliseconds.
        timeout_ms: u64,
    },
    /// A job that the store had is not there any more: somebody else has removed it. It is gone.
    JobVanished {
        /// Its function.
        function: &'a FunctionName,
        /// The job.
        handle: JobHandle<'a>,
        /// Its unique id.
        unique: &'a [u8],
    },
    /// The store brought back two jobs of one function and unique id. The second stays in the store, and is not run.
    JobIsTwin {
        /// The second.
        handle: JobHandle<'a>,
        /// Their unique id.
        unique: &'a [u8],
    },
    /// A connection offered functions that were not registered. Reported once for a connection.
    FunctionsRefused {
        /// The connection.
        connection: &'a ConnectionGauges,
        /// How many it has offered so far that were not registered.
        refused: u64,
        /// How many are registered for it.
        registered: usize,
        /// Why the first was not.
        why: NotRegistered,
    },
    /// A job is due so late that its time may be in milliseconds. Reported once a minute.
    DueFarAhead {
        /// The job.
        handle: JobHandle<'a>,
        /// Its function.
        function: &'a [u8],
        /// When it is due, in seconds since 1970.
        due_s: u64,
    },
}
