//! How answers that take long share the time of the thread that serves jobs.
//!
//! Such an answer is made in pieces, one piece at a time whoever asked, in turn one that has had none yet and
//! the oldest of the others, as long as their peers read. While nobody wants anything else, one piece follows
//! the other. While others have turns, the pieces take one part in `SHARE` of the time, writing them
//! included.
//!
//! `Order` decides, and has no clock; [`keep_order`] is the task that tells it the time.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::sleep;

/// The share of the time that pieces take while others have turns is one in this many.
const SHARE: u64 = 5;
/// After a piece the next one never waits longer than this, in microseconds: a piece that the system
/// interrupted only seems long.
const LONGEST_PAUSE_US: u64 = 50_000;

/// The place of an answer in the order: whether it has had a piece, and when it came.
type Place = (bool, u64);

/// Which answer makes its next piece, and when.
#[derive(Debug, Default)]
struct Order {
    /// Those that can go on.
    waiting: BTreeMap<Place, Waker>,
    /// The one whose turn it is.
    turn: Option<Place>,
    /// Whether the last turn was the first of an answer.
    gave_first: bool,
    /// Until when there is a pause.
    pause_until_us: u64,
    /// How many have come.
    count: u64,
    /// The task that waits for a change.
    keeper: Option<Waker>,
}

/// What is to happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing before something changes.
    Wait,
    /// The first of those that wait has its turn now.
    Turn,
    /// Others have their turn for so long, in microseconds.
    Pause(u64),
}

impl Order {
    /// Whether an answer that can go on does so now. If not, its waker is kept until it does.
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

    /// An answer cannot go on now, is complete, or was given up.
    fn leave(&mut self, place: Place) {
        self.waiting.remove(&place);
        self.turn.take_if(|turn| *turn == place);
    }

    /// So much time was spent on answers of this kind, until now.
    fn charge(&mut self, now_us: u64, spent_us: u64) {
        // The time in which it was spent is a part of the time of which it may be so much.
        let began_us = self.pause_until_us.max(now_us.saturating_sub(spent_us));
        let until_us = began_us.saturating_add(spent_us.saturating_mul(SHARE));
        self.pause_until_us = until_us.min(now_us.saturating_add(LONGEST_PAUSE_US));
    }

    /// `is_idle` says that nobody else has had a turn since the last piece, though all who wanted one could.
    fn next(&mut self, now_us: u64, is_idle: bool) -> Next {
        if self.turn.is_some() || self.waiting.is_empty() {
            return Next::Wait;
        }
        if is_idle {
            // Nobody else wants the time.
            self.pause_until_us = now_us;
        }
        match self.pause_until_us.saturating_sub(now_us) {
            0 => Next::Turn,
            left_us => Next::Pause(left_us),
        }
    }

    /// Gives one its turn: the first of those that have had none and the oldest of the others, alternately.
    /// However many come, those that are under way go on.
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

/// All answers that take long.
#[derive(Debug)]
pub struct Listings {
    order: Mutex<Order>,
    start: Instant,
    /// How many there are.
    open: AtomicUsize,
    /// How many turns of others there were while there were some.
    others: AtomicU64,
}

impl Default for Listings {
    fn default() -> Self {
        Self { order: Mutex::default(), start: Instant::now(), open: AtomicUsize::new(0), others: AtomicU64::new(0) }
    }
}

impl Listings {
    /// Another answer that takes long.
    pub fn enter(self: &Arc<Self>) -> Ticket {
        self.open.fetch_add(1, Ordering::Relaxed);
        let mut order = self.lock();
        order.count += 1;
        Ticket { place: (false, order.count), listings: Arc::clone(self) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// A connection without such an answer has a turn.
    pub fn note_other(&self) {
        if !self.is_empty() {
            // Approximate where several threads add: it only matters whether it changes.
            self.others.store(self.others.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// What began then was done for such an answer, and others are to have their share before more is.
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

/// An answer's place in the order, until this is dropped.
#[derive(Debug)]
pub struct Ticket {
    place: Place,
    listings: Arc<Listings>,
}

impl Ticket {
    /// Ready when the next piece may be made. It must be made then, or [`step_back`](Self::step_back) be
    /// called: nobody else makes one before.
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

    /// It has had its turn: those come first who have had none. Where nothing came of it that its peer could
    /// read, all others do.
    pub fn has_had_turn(&mut self, has_piece: bool) {
        self.step_back();
        self.place.0 = true;
        if !has_piece {
            let mut order = self.listings.lock();
            order.count += 1;
            self.place.1 = order.count;
        }
    }

    /// It cannot go on now.
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

/// Lets the answers go on in their order. Runs for ever, and sleeps while there are none.
pub async fn keep_order(listings: Arc<Listings>) {
    // What others had done when they could next have their turn.
    let mut others_before = None;
    loop {
        let others = listings.others.load(Ordering::Relaxed);
        let is_idle = others_before.replace(others) == Some(others);
        match listings.advance(is_idle) {
            Next::Turn => {
                poll_fn(|context| listings.poll_end_of_turn(context.waker())).await;
                others_before = Some(listings.others.load(Ordering::Relaxed));
                // Sockets are looked at, and all who can go on have their turn.
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
    /// Says what is next, and if that is a turn gives it.
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
            // The first one reads so quickly that it can always go on, twice.
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
        // It goes away without having used it.
        order.leave((true, 1));
        assert_eq!(order.next(0, false), Next::Turn);
        order.leave((true, 2));
        assert_eq!(order.next(0, false), Next::Wait, "nobody waits");
    }

    /// Of a second in which others have turns all the time, pieces of any length take a fifth; of one
    /// without, all.
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
                            // A part of it is spent on writing, in another turn.
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
