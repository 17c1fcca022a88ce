//! How the job server speaks: it has no other way to touch the world.

use super::ConnectionId;
use crate::protocol::{JobHandle, Response};

/// The world as the job server sees it.
///
/// It is a parameter of every transition and no part of [`JobServer`](super::JobServer), so that a response can borrow
/// from the state that it tells about.
pub trait Effects {
    /// Sends a packet to a connection. Packets to one connection arrive in the order in which they were sent.
    fn send(&mut self, to: ConnectionId, response: Response<'_>);

    /// Tells the operator about something that no peer is told.
    fn report(&mut self, event: Event<'_>);
}

/// What an operator may want to read in the log.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A job has failed as often as it may and is gone.
    JobDropped {
        /// The job.
        handle: JobHandle<'a>,
        /// Its unique id.
        unique: &'a [u8],
    },
    /// A worker took longer than it may; the job is for the next one.
    JobTimedOut {
        /// The job.
        handle: JobHandle<'a>,
        /// Its unique id.
        unique: &'a [u8],
    },
}
