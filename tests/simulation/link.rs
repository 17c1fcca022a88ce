//! One connection with what is under way on it, and the ear that hears what the server does in a transition.

use std::collections::VecDeque;
use std::sync::Arc;

use gearmand::job_server::{ConnectionId, Effects, Event, StoreOp};
use gearmand::protocol::{JobHandle, Response};
use gearmand::stats::ConnectionGauges;

use super::model::Outcome;
use super::outgoing::Outgoing;
use super::peer::Peer;
use super::wire::{self, Ask};

/// One connection.
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    pub(crate) number: u32,
    pub(crate) gauges: Arc<ConnectionGauges>,
    pub(crate) peer: Peer,
    /// Whether its peer sends nothing any more, and it is kept for the answers that are to come.
    pub(crate) is_leaving: bool,
    /// Sent, and not yet seen by the server.
    pub(crate) to_server: Vec<u8>,
    pub(crate) server_buffer: Vec<u8>,
    /// What the bytes mean, and how they look.
    pub(crate) asked: VecDeque<(Ask, Vec<u8>)>,
    pub(crate) outgoing: Outgoing,
    pub(crate) to_peer: Vec<u8>,
    pub(crate) peer_buffer: Vec<u8>,
}

impl Link {
    pub(crate) fn new(id: ConnectionId, number: u32, gauges: Arc<ConnectionGauges>, peer: Peer) -> Self {
        Self {
            id,
            number,
            gauges,
            peer,
            is_leaving: false,
            to_server: Vec::new(),
            server_buffer: Vec::new(),
            asked: VecDeque::new(),
            outgoing: Outgoing::new(),
            to_peer: Vec::new(),
            peer_buffer: Vec::new(),
        }
    }
}

/// What the server does in a transition.
pub(crate) struct Recorder<'a> {
    links: &'a mut [Option<Link>],
    /// The connection that asks, if one does.
    own: Option<ConnectionId>,
    has_store: bool,
    pub(crate) outcome: Outcome,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(links: &'a mut [Option<Link>], own: Option<ConnectionId>, has_store: bool) -> Self {
        Self { links, own, has_store, outcome: Outcome::default() }
    }

    fn link(&mut self, id: ConnectionId) -> &mut Link {
        let link = self.links.iter_mut().flatten().find(|link| link.id == id);
        link.expect("something was said to a connection that is gone")
    }
}

impl Effects for Recorder<'_> {
    fn send(&mut self, to: ConnectionId, response: Response<'_>) {
        let is_own = self.own == Some(to);
        let link = self.link(to);
        link.outgoing.send(&response, is_own);
        let number = link.number;
        self.outcome.sent.push((number, decode(&response)));
    }

    fn hold(&mut self, to: ConnectionId, weight: usize) {
        let link = self.link(to);
        link.outgoing.hold(weight);
        let number = link.number;
        self.outcome.held.push(number);
    }

    fn fill(&mut self, to: ConnectionId, gap: u64, response: Response<'_>) {
        let link = self.link(to);
        link.outgoing.fill(gap, &response);
        let number = link.number;
        self.outcome.filled.push((number, gap, decode(&response)));
    }

    fn store(&mut self, operation: StoreOp) {
        assert!(self.has_store, "there is no store for {operation:?}");
        self.outcome.operations.push(operation);
    }

    fn report(&mut self, event: Event<'_>) {
        match event {
            Event::Accepted { .. } => {}
            Event::JobDropped { handle, .. } => self.outcome.dropped.push(job(handle)),
            Event::JobTimedOut { handle, .. } => self.outcome.timed_out.push(job(handle)),
            Event::JobMissing { handle, .. } => self.outcome.missing.push(job(handle)),
            Event::DuplicateUnique { handle, .. } => self.outcome.duplicates.push(job(handle)),
            Event::FunctionsRefused { refused, .. } => assert!(refused > 0, "nothing was refused"),
            Event::DueFarAhead { due_s, .. } => panic!("{due_s} is not far ahead"),
        }
    }
}

fn decode(response: &Response<'_>) -> wire::Reply {
    let bytes = response.to_bytes();
    let (reply, size) = wire::decode(&bytes).expect("the server sent a part of a packet");
    assert_eq!(size, bytes.len(), "the server sent more than a packet");
    reply
}

fn job(handle: JobHandle<'_>) -> u64 {
    wire::job_of(handle.to_string().as_bytes()).expect("the server speaks of a handle that is none of its own")
}
