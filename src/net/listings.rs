//! Scheduling of long answers: how they share the time of the thread that serves jobs.
//!
//! A long answer is made in pieces, one piece at a time for all connections together. Turns alternate between
//! an answer that has had no piece yet and the oldest of the others, as long as their peers read. While the
//! server is otherwise idle, pieces follow one another without a pause. While other connections are active,
//! pieces take one part in `SHARE` of the time, including writing them.
//!
//! `Order` decides and has no clock; [`keep_order`] is the task that passes it the time.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::sleep;

/// While other connections are active, pieces take one part in this many of the time.
const SHARE: u64 = 5;
/// The longest pause after a piece, in microseconds. A piece that the system interrupted seems longer than it
/// was.
const LONGEST_PAUSE_US: u64 = 50_000;

/// The position of an answer in the order: whether it has had a piece, and its sequence number.
type Place = (bool, u64);

/// Decides which answer makes its next piece, and when.
#[derive(Debug, Default)]
struct Order {
    /// Answers that can continue.
    waiting: BTreeMap<Place, Waker>,
    /// The answer that may make a piece now.
    turn: Option<Place>,
    /// Whether the last turn was the first of its answer.
    gave_first: bool,
    /// When the pause ends.
    pause_until_us: u64,
    /// How many answers there were so far.
    count: u64,
    /// The waker of the task that waits for a change.
    keeper: Option<Waker>,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Wait for a change.
    Wait,
    /// Let the next waiting answer make a piece now.
    Turn,
    /// Let other connections run for this long, in microseconds.
    Pause(u64),
}

impl Order {
    /// Whether an answer that can continue may do so now. If not, its waker is kept until it may.
    fn ask(&mut self, place: Place, waker: &Waker) -> bool {
        if self.turn == Some(place) {
            return true;
        }
        match self.waiting.get_mut(&place) {
            Some(known) => known.clone_from(waker),
            None => {
                self.waiting.insert(place, waker.clone());
            }
        }
        false
    }

    /// Removes an answer that cannot continue now, is complete, or was abandoned.
    fn leave(&mut self, place: Place) {
        self.waiting.remove(&place);
        self.turn.take_if(|turn| *turn == place);
    }

    /// Charges `spent_us`, which ended at `now_us`, to the long answers.
    fn charge(&mut self, now_us: u64, spent_us: u64) {
        // The time spent is itself part of the period in which the share applies.
        let began_us = self.pause_until_us.max(now_us.saturating_sub(spent_us));
        let until_us = began_us.saturating_add(spent_us.saturating_mul(SHARE));
        self.pause_until_us = until_us.min(now_us.saturating_add(LONGEST_PAUSE_US));
    }

    /// `is_idle`: no other connection has run since the last piece, although every ready one could.
    fn next(&mut self, now_us: u64, is_idle: bool) -> Next {
        if self.turn.is_some() || self.waiting.is_empty() {
            return Next::Wait;
        }
        if is_idle {
            // No other connection needs the time.
            self.pause_until_us = now_us;
        }
        match self.pause_until_us.saturating_sub(now_us) {
            0 => Next::Turn,
            left_us => Next::Pause(left_us),
        }
    }

    /// Gives a turn, alternately to the first answer without a piece and to the oldest of the others. However
    /// many new answers come, those in progress continue.
    fn give_turn(&mut self) -> Option<Waker> {
        let under_way = self.waiting.range((true, 0)..).next().map(|(place, _)| *place);
        let place = match under_way {
            Some(place) if self.gave_first => place,
            _ => *self.waiting.first_key_value()?.0,
        };
        let waker = self.waiting.remove(&place)?;
        self.gave_first = !place.0;
        self.turn = Some(place);
        Some(waker)
    }
}

/// All long answers.
#[derive(Debug)]
pub struct Listings {
    order: Mutex<Order>,
    start: Instant,
    /// How many are open.
    open: AtomicUsize,
    /// How often other connections ran while long answers were open.
    others: AtomicU64,
}

impl Default for Listings {
    fn default() -> Self {
        Self { order: Mutex::default(), start: Instant::now(), open: AtomicUsize::new(0), others: AtomicU64::new(0) }
    }
}

impl Listings {
    /// Registers a long answer.
    pub fn enter(self: &Arc<Self>) -> Ticket {
        self.open.fetch_add(1, Ordering::Relaxed);
        let mut order = self.lock();
        order.count += 1;
        Ticket { place: (false, order.count), listings: Arc::clone(self) }
    }

    /// Whether no long answer is open.
    pub fn is_empty(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Counts a turn of a connection without a long answer.
    pub fn note_other(&self) {
        if !self.is_empty() {
            // Approximate when several threads add. Only a change of the count matters.
            self.others.store(self.others.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Charges the time since `began` to the long answers: other connections get their share before the next
    /// piece.
    pub fn charge(&self, began: Instant) {
        let spent_us = micros(began.elapsed());
        let now_us = self.now_us();
        self.lock().charge(now_us, spent_us);
    }

    fn now_us(&self) -> u64 {
        micros(self.start.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// An answer's position in the order, until this is dropped.
#[derive(Debug)]
pub struct Ticket {
    place: Place,
    listings: Arc<Listings>,
}

impl Ticket {
    /// Ready when the next piece may be made. The caller must then make it or call
    /// [`step_back`](Self::step_back): until then no other answer makes one.
    pub fn poll_turn(&self, waker: &Waker) -> Poll<()> {
        let keeper = {
            let mut order = self.listings.lock();
            if order.ask(self.place, waker) {
                return Poll::Ready(());
            }
            order.keeper.take()
        };
        keeper.into_iter().for_each(Waker::wake);
        Poll::Pending
    }

    /// Ends the turn: answers without a piece take precedence over it. If `has_piece` is false, the turn
    /// produced nothing for the peer to read, and the answer goes behind all others.
    pub fn has_had_turn(&mut self, has_piece: bool) {
        self.step_back();
        self.place.0 = true;
        if !has_piece {
            let mut order = self.listings.lock();
            order.count += 1;
            self.place.1 = order.count;
        }
    }

    /// Gives up the turn or the wait for one: the answer cannot continue now.
    pub fn step_back(&self) {
        let keeper = {
            let mut order = self.listings.lock();
            order.leave(self.place);
            order.keeper.take()
        };
        keeper.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.listings.open.fetch_sub(1, Ordering::Relaxed);
        self.step_back();
    }
}

/// Schedules the long answers. Runs for ever, and sleeps while there are none.
pub async fn keep_order(listings: Arc<Listings>) {
    // The count of other connections' turns when they could last run.
    let mut others_before = None;
    loop {
        let others = listings.others.load(Ordering::Relaxed);
        let is_idle = others_before.replace(others) == Some(others);
        match listings.advance(is_idle) {
            Next::Turn => {
                poll_fn(|context| listings.poll_end_of_turn(context.waker())).await;
                others_before = Some(listings.others.load(Ordering::Relaxed));
                // The runtime polls the sockets and runs every ready task.
                yield_now().await;
            }
            Next::Pause(left_us) => sleep(Duration::from_micros(left_us)).await,
            Next::Wait => {
                poll_fn(|context| listings.poll_waiting(context.waker())).await;
                others_before = None;
            }
        }
    }
}

impl Listings {
    /// Returns the next step, and gives the turn if the step is one.
    fn advance(&self, is_idle: bool) -> Next {
        let now_us = self.now_us();
        let mut order = self.lock();
        let next = order.next(now_us, is_idle);
        let waker = if next == Next::Turn { order.give_turn() } else { None };
        drop(order);
        waker.into_iter().for_each(Waker::wake);
        next
    }

    fn poll_end_of_turn(&self, waker: &Waker) -> Poll<()> {
        let mut order = self.lock();
        if order.turn.is_none() {
            return Poll::Ready(());
        }
        order.keeper = Some(waker.clone());
        Poll::Pending
    }

    fn poll_waiting(&self, waker: &Waker) -> Poll<()> {
        let mut order = self.lock();
        if !order.waiting.is_empty() {
            return Poll::Ready(());
        }
        order.keeper = Some(waker.clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(order: &mut Order, places: &[Place]) {
        for place in places {
            assert!(!order.ask(*place, Waker::noop()), "nobody has a turn before it is given");
        }
    }

    #[test]
    fn those_that_have_had_nothing_and_the_oldest_take_turns() {
        let mut order = Order::default();
        ask(&mut order, &[(true, 2), (true, 1), (false, 4), (false, 3)]);
        let mut turns = Vec::new();
        while order.next(0, false) == Next::Turn {
            order.give_turn();
            let place = order.turn.expect("somebody has a turn");
            assert!(order.ask(place, Waker::noop()));
            // The first answer's peer reads so fast that it can continue at once, twice.
            turns.push(place);
            order.leave(place);
            if place == (true, 1) && turns.len() < 5 {
                ask(&mut order, &[place]);
            }
        }
        assert_eq!(turns, [(false, 3), (true, 1), (false, 4), (true, 1), (true, 1), (true, 2)][..turns.len()]);
        assert_eq!(turns.len(), 6);
    }

    #[test]
    fn nobody_has_a_turn_while_another_has() {
        let mut order = Order::default();
        ask(&mut order, &[(true, 1), (true, 2)]);
        order.give_turn();
        assert_eq!(order.next(0, true), Next::Wait);
        ask(&mut order, &[(true, 2)]);
        // It leaves without using its turn.
        order.leave((true, 1));
        assert_eq!(order.next(0, false), Next::Turn);
        order.leave((true, 2));
        assert_eq!(order.next(0, false), Next::Wait, "nobody waits");
    }

    /// In a second in which other connections are always active, pieces of any length take a fifth of the
    /// time. In an idle second they take all of it.
    #[test]
    fn pieces_take_a_fifth_of_the_time_or_all_of_it() {
        for (is_idle, expected_us) in [(false, 200_000), (true, 1_000_000)] {
            for piece_us in [100, 700, 3000] {
                let mut order = Order::default();
                let (mut now_us, mut spent_us) = (0, 0);
                while now_us < 1_000_000 {
                    ask(&mut order, &[(true, 1)]);
                    match order.next(now_us, is_idle) {
                        Next::Turn => {
                            order.give_turn();
                            now_us += piece_us;
                            spent_us += piece_us;
                            // A part of the time is spent on writing, in another turn.
                            order.charge(now_us - piece_us / 3, piece_us - piece_us / 3);
                            order.charge(now_us, piece_us / 3);
                            order.leave((true, 1));
                        }
                        Next::Pause(left_us) => now_us += left_us,
                        Next::Wait => panic!("somebody waits"),
                    }
                }
                assert!(spent_us.abs_diff(expected_us) <= expected_us / 50 + piece_us, "{spent_us} by {piece_us}");
            }
        }
    }

    #[test]
    fn a_piece_that_seems_very_long_stops_the_others_for_a_bounded_time() {
        let mut order = Order::default();
        for _ in 0..100 {
            order.charge(7, 60_000_000);
        }
        ask(&mut order, &[(false, 1)]);
        assert_eq!(order.next(7, false), Next::Pause(LONGEST_PAUSE_US));
    }
}
