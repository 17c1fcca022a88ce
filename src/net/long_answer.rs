//! A connection's answer that takes more than one step.

use std::sync::Arc;
use std::task::{Poll, Waker, ready};
use std::time::{Duration, Instant};

use super::connection::Server;
use super::listings::Ticket;
use crate::admin::{LISTING_PIECE, StreamingAnswer};
use crate::outbox::Outbox;
use crate::stats::account::{Amount, Part};

/// Time limit of a piece. The step that is in progress then is completed.
const PIECE_TIME: Duration = Duration::from_micros(500);
/// Time limit of the first piece while other long answers are in progress. An answer that is complete by then
/// is short, and is sent at once.
const SHORT_TIME: Duration = Duration::from_micros(50);

/// The answer, and its position among all long answers.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) answer: StreamingAnswer,
    ticket: Ticket,
    /// Output that is less than a piece so far.
    piece: Vec<u8>,
    /// The memory of `piece` that is reported to the account.
    amount: Amount,
}

/// Makes the first piece of an answer. If the answer is complete, it is in `out`. If not, `out` is empty
/// unless it holds a full piece, which is sent at once.
pub(super) fn begin(server: &Server, mut answer: StreamingAnswer, out: &mut Vec<u8>) -> Option<Running> {
    let awaits_jobs = answer.awaits_jobs() && server.hub.is_restoring();
    if !awaits_jobs && !answer.waits_for_store() {
        let most = if server.listings.is_empty() { PIECE_TIME } else { SHORT_TIME };
        let began = Instant::now();
        let is_complete = make(server, &mut answer, began, most, out);
        server.listings.charge(began);
        if is_complete {
            return None;
        }
    }
    let amount = Amount::new(Arc::clone(server.pressure.account()), Part::Output);
    let mut running = Running { answer, ticket: server.listings.enter(), piece: Vec::new(), amount };
    if out.len() < LISTING_PIECE {
        running.piece = std::mem::take(out);
        running.amount.set(running.piece.capacity());
    } else {
        running.ticket.has_had_turn(true);
    }
    Some(running)
}

impl Running {
    /// Makes the next piece when its turn comes. Ready with whether the answer is complete.
    pub(super) fn poll_piece(&mut self, server: &Arc<Server>, outbox: &Outbox, waker: &Waker) -> Poll<bool> {
        let takes_time = self.answer.takes_time();
        if takes_time {
            ready!(self.ticket.poll_turn(waker));
        }
        let is_complete = make(server, &mut self.answer, Instant::now(), PIECE_TIME, &mut self.piece);
        let is_piece = is_complete || self.piece.len() >= LISTING_PIECE;
        if takes_time {
            self.ticket.has_had_turn(is_piece);
        }
        if is_piece {
            outbox.answer_text(&self.piece);
            self.piece = Vec::new();
        }
        self.amount.set(self.piece.capacity());
        Poll::Ready(is_complete)
    }

    /// See [`StreamingAnswer::awaits_jobs`].
    pub(super) fn awaits_jobs(&self) -> bool {
        self.answer.awaits_jobs()
    }

    /// Gives up its turn: the answer cannot continue now.
    pub(super) fn step_back(&self) {
        self.ticket.step_back();
    }
}

/// Continues until there is a piece, the answer waits for the store, or its time is used up. Returns whether
/// the answer is complete.
fn make(server: &Server, answer: &mut StreamingAnswer, began: Instant, most: Duration, piece: &mut Vec<u8>) -> bool {
    loop {
        if server.admin.resume(server.clock.now(), answer, piece) {
            return true;
        }
        if answer.waits_for_store() || piece.len() >= LISTING_PIECE || began.elapsed() >= most {
            return false;
        }
    }
}
