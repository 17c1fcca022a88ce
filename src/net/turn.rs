//! Scheduling of connections: how much work one may do at a time, and which one with more work runs next.
//!
//! A connection with little work gets a **short turn** whenever its task is polled: it reads a few KiB and
//! processes them. A connection with more work needs a **place** (a run slot). There are as many places as
//! threads. The holder of a place works in time slices. After each slice it yields. It continues only after
//! the event loop has polled the sockets and run the tasks that became ready. So between two polls of the
//! sockets a thread runs one slice of long work, however many connections have more of it, and a small
//! request waits for one slice and not for all of them.
//!
//! A slice is small while other connections have short turns, and grows while there are none. If short turns
//! never end, long work still gets as much as they do: half of the time.
//!
//! Cost is counted in the unit of [`price`](crate::job_server::price). Nothing here reads a clock.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::task::yield_now;

/// Budget of a short turn, and of a slice while other connections have short turns: 25 to 50 µs.
pub const SHORT: u32 = 1024;
/// Budget of the longest slice.
const LONG: u32 = 8 * SHORT;
/// Budget after which a connection hands its place to one that waits: usually the requests in a read of 64
/// KiB.
const QUANTUM: u32 = 16 * SHORT;
/// Fixed cost of a turn besides its requests: a read, a write, and the task around them.
const TURN: u32 = 128;

/// The places (run slots) of all connections.
#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
    /// Total cost of all short turns.
    short: AtomicU64,
}

#[derive(Debug)]
struct State {
    places: Vec<Place>,
    /// Wakers of the connections that wait for a place, by ticket: the longest waiting first.
    waiting: BTreeMap<u64, Waker>,
    last_ticket: u64,
}

/// A place, and the slice that runs in it.
#[derive(Debug, Default)]
struct Place {
    /// The ticket of the holder.
    holder: Option<u64>,
    /// Budget that the holder has left before a waiting connection gets the place.
    quantum: u32,
    /// Budget that is left of the slice.
    left: u32,
    /// Budget of the slice when it began.
    slice: u32,
    /// Total cost of short turns when the slice began.
    at_slice: u64,
    /// Total cost of short turns when the holder last yielded to them, since the slice was used up.
    at_look: Option<u64>,
}

/// Whether long work may continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Continue, and spend at most this budget.
    Go(u32),
    /// Yield: poll the sockets and run other connections first.
    Look,
    /// All places are taken. The waker is called when one is free.
    Wait,
}

impl Turns {
    /// Creates the places for a runtime of `threads` threads.
    pub fn new(threads: usize) -> Self {
        let places = (0..threads.max(1)).map(|_| Place::default()).collect();
        let state = State { places, waiting: BTreeMap::new(), last_ticket: 0 };
        Self { state: Mutex::new(state), short: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn short(&self) -> u64 {
        self.short.load(Ordering::Relaxed)
    }
}

impl State {
    fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    fn place_of(&mut self, ticket: u64) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.holder == Some(ticket))
    }

    /// Whether the work of `ticket` may continue. `short` is the total cost of short turns.
    fn ask(&mut self, ticket: u64, short: u64, waker: &Waker) -> Answer {
        if let Some(place) = self.place_of(ticket) {
            return place.go_on(short);
        }
        if !self.waiting.contains_key(&ticket) {
            // No connection waits while a place is free.
            if let Some(place) = self.places.iter_mut().find(|place| place.holder.is_none()) {
                place.begin(ticket);
                return place.go_on(short);
            }
            self.waiting.insert(ticket, waker.clone());
        }
        Answer::Wait
    }

    /// Charges `price` to the work of `ticket`. If its quantum is used up and another connection waits, it
    /// loses its place; returns the waker of the connection that gets the place.
    fn spend(&mut self, ticket: u64, price: u32) -> Option<Waker> {
        let place = self.place_of(ticket)?;
        place.left = place.left.saturating_sub(price);
        place.quantum = place.quantum.saturating_sub(price);
        if place.quantum > 0 || self.waiting.is_empty() { None } else { self.leave(ticket) }
    }

    /// Gives up the place of `ticket`, or its wait for one. Returns the waker of the connection that gets the
    /// place.
    fn leave(&mut self, ticket: u64) -> Option<Waker> {
        if self.waiting.remove(&ticket).is_some() {
            return None;
        }
        let next = self.waiting.first_key_value().map(|(next, _)| *next);
        let place = self.place_of(ticket)?;
        place.holder = None;
        let next = next?;
        place.begin(next);
        self.waiting.remove(&next)
    }
}

impl Place {
    fn begin(&mut self, ticket: u64) {
        self.holder = Some(ticket);
        self.quantum = QUANTUM;
    }

    fn go_on(&mut self, short: u64) -> Answer {
        let meanwhile = short.wrapping_sub(self.at_slice);
        if meanwhile > 0 {
            self.left = self.left.min(SHORT);
        }
        if self.left > 0 {
            return Answer::Go(self.left);
        }
        // A connection that just had a short turn has an answer to write, and its peer may send more once it
        // has read it.
        let is_calm = self.at_look == Some(short);
        let is_owed = self.at_look.is_some() && meanwhile >= self.slice.into();
        if !is_calm && !is_owed {
            self.at_look = Some(short);
            return Answer::Look;
        }
        self.slice = if meanwhile == 0 { (self.slice * 2).clamp(SHORT, LONG) } else { SHORT };
        (self.left, self.at_slice, self.at_look) = (self.slice, short, None);
        Answer::Go(self.left)
    }
}

/// The scheduling state of one connection.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    /// The ticket of its place, or of its wait for one.
    ticket: Option<u64>,
    has_place: bool,
}

impl Turn {
    /// Creates the state of a connection that has no place and does not need one yet.
    pub const fn new(turns: Arc<Turns>) -> Self {
        Self { turns, ticket: None, has_place: false }
    }

    /// Charges a short turn, in addition to the fixed cost of a turn.
    pub fn spend_short(&self, price: u32) {
        // Approximate with several threads, and cheaper than an atomic addition.
        let short = &self.turns.short;
        let spent = short.load(Ordering::Relaxed).wrapping_add(u64::from(price.saturating_add(TURN)));
        short.store(spent, Ordering::Relaxed);
    }

    /// Waits until work beyond a short turn may run. Returns the budget for it.
    pub fn poll_long(&mut self, context: &mut Context<'_>) -> Poll<u32> {
        let short = self.turns.short();
        let mut state = self.turns.lock();
        let ticket = *self.ticket.get_or_insert_with(|| state.ticket());
        let answer = state.ask(ticket, short, context.waker());
        drop(state);
        self.has_place = answer != Answer::Wait;
        match answer {
            Answer::Go(budget) => Poll::Ready(budget),
            Answer::Look => {
                // The runtime wakes a yielding task after it has polled the sockets, and queues it behind the
                // tasks that are ready then.
                let _ = pin!(yield_now()).poll(context);
                Poll::Pending
            }
            Answer::Wait => Poll::Pending,
        }
    }

    /// Charges `price` to the budget that [`poll_long`](Self::poll_long) returned.
    pub fn spend_long(&mut self, price: u32) {
        let Some(ticket) = self.ticket else { return };
        let next = self.turns.lock().spend(ticket, price);
        if let Some(next) = next {
            (self.ticket, self.has_place) = (None, false);
            next.wake();
        }
    }

    /// Whether it holds a place, as opposed to waiting for one.
    pub const fn has_place(&self) -> bool {
        self.has_place
    }

    /// Gives up the place or the wait for one: no work is left beyond a short turn.
    pub fn leave(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        self.has_place = false;
        let next = self.turns.lock().leave(ticket);
        if let Some(next) = next {
            next.wake();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The places of one thread, and the cost of the short turns of other connections.
    struct Thread {
        state: State,
        short: u64,
    }

    impl Thread {
        fn new(places: usize) -> Self {
            let places = (0..places).map(|_| Place::default()).collect();
            Self { state: State { places, waiting: BTreeMap::new(), last_ticket: 0 }, short: 0 }
        }

        fn ask(&mut self, ticket: u64) -> Answer {
            self.state.ask(ticket, self.short, Waker::noop())
        }

        /// Works in pieces of this price until it must yield. Returns the cost.
        fn slice(&mut self, ticket: u64, piece: u32) -> u32 {
            let mut spent = 0;
            while let Answer::Go(budget) = self.ask(ticket) {
                assert!(budget > 0);
                self.state.spend(ticket, piece);
                spent += piece;
            }
            spent
        }

        fn holds(&self, ticket: u64) -> bool {
            self.state.places.iter().any(|place| place.holder == Some(ticket))
        }
    }

    #[test]
    fn a_slice_grows_while_nobody_else_comes_and_is_small_at_once_when_somebody_does() {
        let mut thread = Thread::new(1);
        assert_eq!(thread.ask(1), Answer::Look);
        let slices: Vec<u32> = (0..6).map(|_| thread.slice(1, 64)).collect();
        assert_eq!(slices, [1, 2, 4, 8, 8, 8].map(|times| times * SHORT));
        // In the middle of a long slice too.
        thread.state.spend(1, 64);
        assert_eq!(thread.slice(1, SHORT), LONG);
        assert!(matches!(thread.ask(1), Answer::Go(LONG)));
        thread.short += 1;
        assert_eq!(thread.ask(1), Answer::Go(SHORT));
    }

    #[test]
    fn those_with_short_turns_go_first_until_they_have_spent_as_much() {
        let mut thread = Thread::new(1);
        let (mut long, mut short) = (0, 0);
        for _ in 0..10_000 {
            // Other connections are ready at every poll of the sockets.
            thread.short += 200;
            short += 200;
            long += thread.slice(1, 16);
        }
        assert!(short < 2 * long && long < 2 * short, "{short} and {long}");
    }

    #[test]
    fn who_shares_a_place_shares_its_slice_and_has_it_in_turn() {
        let mut thread = Thread::new(1);
        assert_eq!(thread.ask(1), Answer::Look);
        let mut spent = [0; 4];
        let mut between_looks = 0;
        for _ in 0..1_000 {
            thread.short += 1;
            for ticket in 1..=3 {
                let piece = thread.slice(ticket, 256);
                spent[usize::try_from(ticket).unwrap()] += piece;
                between_looks += piece;
            }
            assert!(between_looks <= SHORT, "{between_looks} between two looks at the sockets");
            between_looks = 0;
        }
        let most = spent[1..].iter().max().unwrap();
        let least = spent[1..].iter().min().unwrap();
        assert!(most - least <= QUANTUM, "{spent:?}");
    }

    #[test]
    fn alone_it_is_not_stopped_by_its_quantum() {
        let mut thread = Thread::new(1);
        thread.ask(1);
        for _ in 0..100 {
            thread.slice(1, LONG);
            assert!(thread.holds(1));
        }
        // A connection that comes then gets the place after the next piece.
        assert_eq!(thread.ask(2), Answer::Wait);
        thread.slice(1, LONG);
        assert!(thread.holds(2) && !thread.holds(1));
    }

    proptest! {
        /// With any mix of asking, working, leaving and dropping: all places are taken while a connection
        /// waits, and the longest waiting gets the next free one.
        #[test]
        fn no_place_is_lost(places in 1..4_usize, steps in prop::collection::vec((0..4_u8, 1..8_u64, 1..QUANTUM), 1..300)) {
            let mut thread = Thread::new(places);
            for (step, ticket, price) in steps {
                let longest: Vec<u64> = thread.state.waiting.keys().copied().collect();
                let freed = match step {
                    0 | 1 => {
                        thread.ask(ticket);
                        false
                    }
                    2 => thread.state.spend(ticket, price).is_some(),
                    _ => {
                        thread.short += u64::from(price);
                        thread.state.leave(ticket).is_some()
                    }
                };
                if freed {
                    prop_assert!(thread.holds(longest[0]));
                }
                let held = thread.state.places.iter().filter(|place| place.holder.is_some()).count();
                prop_assert!(thread.state.waiting.is_empty() || held == places);
                prop_assert!(!thread.state.waiting.keys().any(|ticket| thread.holds(*ticket)));
                for place in &thread.state.places {
                    prop_assert!(place.left <= LONG && place.slice <= LONG);
                }
            }
        }
    }
}
