//! What a connection is sent: the server's own outbox, and beside it what should come out of it, told a
//! second time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::Waker;

use gearmand::outbox::Outbox;
use gearmand::protocol::Response;

use super::random::Random;

/// Something that was said to a connection.
enum Place {
    Packet(Vec<u8>),
    Gap { number: u64, weight: usize, answer: Option<Vec<u8>> },
}

/// One connection's output.
pub(crate) struct Outgoing {
    outbox: Outbox,
    /// What has not been taken out, in order.
    places: VecDeque<Place>,
    gaps: u64,
    /// Bytes that were taken out, and not said to be written yet.
    unwritten: usize,
    /// Whether the connection's task knows that there is something.
    is_told: bool,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        let outbox = Outbox::new(usize::MAX, Arc::default());
        let empty = outbox.take(0, Waker::noop()).unwrap();
        assert!(empty.is_empty());
        Self { outbox, places: VecDeque::new(), gaps: 0, unwritten: 0, is_told: false }
    }

    /// A packet comes, which the connection caused itself or not.
    pub(crate) fn send(&mut self, response: &Response<'_>, is_own: bool) {
        if is_own {
            self.outbox.answer(response);
            self.is_told = true;
        } else {
            self.is_told |= self.outbox.send(response).is_some();
        }
        self.places.push_back(Place::Packet(response.to_bytes()));
        self.check();
    }

    pub(crate) fn hold(&mut self, weight: usize) {
        self.outbox.hold(weight);
        self.places.push_back(Place::Gap { number: self.gaps, weight, answer: None });
        self.gaps += 1;
        self.check();
    }

    /// # Panics
    /// If there is no such gap, or none any more.
    pub(crate) fn fill(&mut self, gap: u64, response: &Response<'_>) {
        let place = self.places.iter_mut().find_map(|place| match place {
            Place::Gap { number, answer, .. } if *number == gap => Some(answer),
            _ => None,
        });
        let answer = place.expect("a gap was filled that was never made");
        assert_eq!(*answer, None, "a gap was filled twice");
        *answer = Some(response.to_bytes());
        self.is_told |= self.outbox.fill(gap, response).is_some();
        self.check();
    }

    /// Takes out what may leave.
    pub(crate) fn take(&mut self, random: &mut Random) -> Vec<u8> {
        let mut expected = Vec::new();
        while !self.places.front().is_none_or(Place::is_open) {
            match self.places.pop_front() {
                Some(Place::Packet(bytes) | Place::Gap { answer: Some(bytes), .. }) => expected.extend(bytes),
                Some(Place::Gap { answer: None, .. }) | None => unreachable!("an open gap is not passed"),
            }
        }
        let mut output = self.outbox.take(self.unwritten, Waker::noop()).unwrap();
        assert_eq!(output.len(), expected.len(), "other bytes leave than should");
        let mut taken = Vec::with_capacity(expected.len());
        let most = 1 + random.index(20_000);
        while !output.is_empty() {
            let written = output.write_with::<Infallible>(most, |pieces| {
                let before = taken.len();
                taken.extend(pieces.iter().flat_map(|piece| piece.iter().copied()));
                Ok(taken.len() - before)
            });
            assert!(written.unwrap() > 0, "an output that is not empty has nothing to write");
        }
        output.recycle();
        assert!(taken == expected, "bytes do not leave in the order in which they were sent");
        (self.unwritten, self.is_told) = (taken.len(), false);
        self.check();
        taken
    }

    /// Whether something may leave.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.places.front().is_none_or(Place::is_open)
    }

    pub(crate) fn has_gaps(&self) -> bool {
        let has_gaps = self.places.iter().any(Place::is_open);
        assert_eq!(self.outbox.has_gaps(), has_gaps, "what is said of gaps");
        has_gaps
    }

    fn check(&self) {
        assert!(self.is_told || !self.is_waiting(), "a connection is not told that it has something to write");
        let queued: usize = self.places.iter().map(Place::queued).sum();
        assert_eq!(self.outbox.queued(), self.unwritten + queued, "the bytes that wait are miscounted");
    }
}

impl Place {
    fn is_open(&self) -> bool {
        matches!(self, Self::Gap { answer: None, .. })
    }

    fn queued(&self) -> usize {
        match self {
            Self::Packet(bytes) | Self::Gap { answer: Some(bytes), .. } => bytes.len(),
            Self::Gap { answer: None, weight, .. } => *weight,
        }
    }
}
