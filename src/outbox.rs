//! One connection's output: what others have said to it and it has not yet written.
//!
//! Small packets are copied one after another into one buffer; a large workload is kept by reference between them. The
//! holder of the hub's lock appends; the connection's own task takes what is there and writes it without any lock. A
//! connection with nothing to write owns no buffer.
//!
//! Where an answer is not known yet there is a gap: what comes after it waits behind it. JOB_CREATED names no request, so
//! clients take the answers to their submissions in order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::{Buf, Bytes};

use crate::protocol::Response;

/// Workloads from this size on are kept by reference where they can be, in bytes. Below, copying is cheaper.
const SHARED_FROM: usize = 8 * 1024;
/// The same of those that several connections are sent: each reference takes 40 bytes instead of a copy.
const COMMON_FROM: usize = 512;
/// How many buffers a thread keeps for the next connection that has something to write.
const SPARE_BUFFERS: usize = 32;
/// The largest buffer that is kept, in bytes.
const LARGEST_SPARE: usize = 16 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The output of one connection.
#[derive(Debug)]
pub struct Outbox {
    /// Bytes that may wait; a packet from others that comes when they do closes the connection.
    limit: usize,
    state: Mutex<State>,
    /// What the state says is queued, for those who only look.
    queued: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    output: Output,
    /// What comes behind the output, in order.
    gaps: VecDeque<Gap>,
    /// How many gaps there were before these.
    gaps_before: u64,
    /// Bytes that wait, those that the task has taken and not yet written included.
    queued: usize,
    /// What the open gaps weigh.
    held: usize,
    /// Wakes the connection's task.
    waker: Option<Waker>,
    /// Whether the task knows that there is something, or is about to.
    is_woken: bool,
    closed: Option<CloseReason>,
}

/// A place for an answer, and what was said after it.
#[derive(Debug)]
struct Gap {
    weight: usize,
    answer: Option<Vec<u8>>,
    after: Output,
}

/// Why a connection is closed by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Its peer does not read what it is sent.
    SlowReader,
    /// The operator wants it so, at once.
    Kicked,
    /// The server stops.
    Shutdown,
}

impl CloseReason {
    /// Whether what waits need not be written any more.
    fn is_at_once(self) -> bool {
        matches!(self, Self::SlowReader | Self::Kicked)
    }
}

impl Outbox {
    /// An empty outbox, in which `limit` bytes and one packet more may wait.
    pub fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), queued: AtomicUsize::new(0) }
    }

    /// Leaves a gap, which weighs as if `weight` bytes waited. The gaps of an outbox are counted from 0.
    pub fn hold(&self, weight: usize) {
        let mut state = self.lock();
        state.gaps.push_back(Gap { weight, answer: None, after: Output::default() });
        state.held += weight;
        self.publish(&state);
    }

    /// Fills a gap. Returns a waker to call when all locks are released, if the connection's task has to be told.
    pub fn fill(&self, gap: u64, response: &Response<'_>) -> Option<Waker> {
        let mut state = self.lock();
        let State { output, gaps, gaps_before, queued, held, .. } = &mut *state;
        let index = usize::try_from(gap.checked_sub(*gaps_before)?).ok()?;
        let filled = gaps.get_mut(index)?;
        *held -= std::mem::take(&mut filled.weight);
        if index > 0 {
            let answer = response.to_bytes();
            *queued += answer.len();
            filled.answer = Some(answer);
            self.publish(&state);
            return None;
        }
        let before = output.len();
        output.push(response);
        *queued += output.len() - before;
        if let Some(Gap { after, .. }) = gaps.pop_front() {
            output.append(after);
            *gaps_before += 1;
        }
        // What waited for this one alone.
        while let Some(Gap { answer: Some(answer), .. }) = gaps.front() {
            output.copy(answer);
            if let Some(Gap { after, .. }) = gaps.pop_front() {
                output.append(after);
            }
            *gaps_before += 1;
        }
        self.publish(&state);
        state.wake()
    }

    /// Whether answers are still to come.
    pub fn has_gaps(&self) -> bool {
        !self.lock().gaps.is_empty()
    }

    /// Appends a packet that others caused. Returns a waker to call when all locks are released, if the connection's
    /// task has to be told.
    pub fn send(&self, response: &Response<'_>) -> Option<Waker> {
        let mut state = self.lock();
        if state.queued >= self.limit && state.closed.is_none() {
            state.close(CloseReason::SlowReader);
        }
        self.append(&mut state, |output| output.push(response));
        state.wake()
    }

    /// Appends the answer to a request of the connection's own, whose task looks into the outbox by itself.
    ///
    /// Answers close nothing, however much waits: the task bounds them, for it reads no more requests then.
    pub fn answer(&self, response: &Response<'_>) {
        let mut state = self.lock();
        self.append(&mut state, |output| output.push(response));
        state.is_woken = true;
    }

    /// Like [`answer`](Self::answer), for a text command.
    pub fn answer_text(&self, text: &[u8]) {
        let mut state = self.lock();
        self.append(&mut state, |output| output.copy(text));
        state.is_woken = true;
    }

    /// What comes after the connection was closed is dropped.
    fn append(&self, state: &mut State, write: impl FnOnce(&mut Output)) {
        if state.closed.is_some() {
            return;
        }
        let State { output, gaps, queued, .. } = state;
        let last = gaps.back_mut().map_or(output, |gap| &mut gap.after);
        let before = last.len();
        write(last);
        *queued += last.len() - before;
        self.publish(state);
    }

    fn publish(&self, state: &State) {
        self.queued.store(state.queued.saturating_add(state.held), Ordering::Relaxed);
    }

    /// Takes all that waits, and says how many bytes of what was taken before have been written since.
    ///
    /// From now on the next packet calls `waker`.
    pub fn take(&self, written: usize, waker: &Waker) -> Result<Output, CloseReason> {
        let mut state = self.lock();
        state.queued = state.queued.saturating_sub(written);
        self.publish(&state);
        if let Some(reason) = state.closed
            && state.output.is_empty()
        {
            return Err(reason);
        }
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        state.is_woken = false;
        Ok(std::mem::take(&mut state.output))
    }

    /// How many bytes wait, and what the gaps weigh.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Why the connection is closed at once, if it is: what was taken before need not be written either.
    pub fn closed_at_once(&self) -> Option<CloseReason> {
        self.lock().closed.filter(|reason| reason.is_at_once())
    }

    /// Closes the connection once what waits is written. What waits for a slow reader, or one who is kicked, is dropped.
    pub fn close(&self, reason: CloseReason) -> Option<Waker> {
        let mut state = self.lock();
        state.close(reason);
        state.wake()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn close(&mut self, reason: CloseReason) {
        self.closed.get_or_insert(reason);
        if reason.is_at_once() {
            self.output = Output::default();
            self.gaps_before += self.gaps.len() as u64;
            self.gaps.clear();
            self.held = 0;
            // The task was woken before, and waits for the peer with what it took then.
            self.is_woken = false;
        }
    }

    fn wake(&mut self) -> Option<Waker> {
        if std::mem::replace(&mut self.is_woken, true) { None } else { self.waker.clone() }
    }
}

/// Bytes to write, in order.
#[derive(Debug, Default)]
pub struct Output {
    /// The copied bytes, of which some are written.
    copied: Vec<u8>,
    written: usize,
    /// Shared bytes, each with the place in `copied` before which it stands.
    shared: VecDeque<(usize, Bytes)>,
    shared_len: usize,
}

/// How many pieces one write takes.
const PIECES: usize = 16;

impl Output {
    /// Whether everything is written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes are to be written.
    pub fn len(&self) -> usize {
        self.copied.len() - self.written + self.shared_len
    }

    fn push(&mut self, response: &Response<'_>) {
        if self.copied.capacity() == 0 {
            self.copied = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        response.write_head(&mut self.copied);
        let Some(workload) = response.workload() else {
            return;
        };
        let bytes = workload.as_bytes();
        let shared_from = if workload.is_common() { COMMON_FROM } else { SHARED_FROM };
        match (bytes.len() >= shared_from).then(|| workload.share()).flatten() {
            Some(shared) => {
                self.shared_len += shared.len();
                self.shared.push_back((self.copied.len(), shared));
            }
            None => self.copied.extend_from_slice(bytes),
        }
    }

    /// Puts `other` behind this.
    fn append(&mut self, other: Self) {
        if other.is_empty() {
            return other.recycle();
        }
        debug_assert_eq!(other.written, 0, "what waits behind a gap was written");
        let base = self.copied.len();
        self.copied.extend_from_slice(&other.copied);
        self.shared_len += other.shared_len;
        self.shared.extend(other.shared.into_iter().map(|(before, bytes)| (base + before, bytes)));
    }

    fn copy(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
    }

    /// Calls `write` with the first pieces. What it says it has written is gone.
    pub fn write_with<E>(&mut self, write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>) -> Result<usize, E> {
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        let mut start = self.written;
        for (before, bytes) in &self.shared {
            if count + 2 > PIECES {
                break;
            }
            if *before > start {
                pieces[count] = IoSlice::new(&self.copied[start..*before]);
                count += 1;
                start = *before;
            }
            pieces[count] = IoSlice::new(bytes);
            count += 1;
        }
        let all_shared = self.shared.back().is_none_or(|(before, _)| *before <= start);
        if count < PIECES && all_shared && start < self.copied.len() {
            pieces[count] = IoSlice::new(&self.copied[start..]);
            count += 1;
        }
        let written = write(&pieces[..count])?;
        self.advance(written);
        Ok(written)
    }

    /// Gives the buffer back for others, when everything is written.
    pub fn recycle(self) {
        let mut buffer = self.copied;
        if (1..=LARGEST_SPARE).contains(&buffer.capacity()) {
            buffer.clear();
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < SPARE_BUFFERS {
                    spare.push(buffer);
                }
            });
        }
    }

    fn advance(&mut self, mut written: usize) {
        while let Some((before, bytes)) = self.shared.front_mut() {
            let copied = written.min(*before - self.written);
            self.written += copied;
            written -= copied;
            if self.written < *before {
                return;
            }
            let shared = written.min(bytes.len());
            self.shared_len -= shared;
            written -= shared;
            bytes.advance(shared);
            if !bytes.is_empty() {
                return;
            }
            self.shared.pop_front();
        }
        self.written = (self.written + written).min(self.copied.len());
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Workload;

    proptest! {
        /// Whatever the sizes and however the socket takes the bytes, they come out in the order they went in.
        #[test]
        fn bytes_leave_in_the_order_they_came(sizes in prop::collection::vec(0..40_000_usize, 1..40), chunk in 1..70_000_usize) {
            let outbox = Outbox::new(usize::MAX);
            let mut expected = Vec::new();
            for (seed, size) in sizes.iter().enumerate() {
                let owner = Bytes::from(vec![u8::try_from(seed).unwrap(); *size]);
                let workload = Workload::shared(&owner, &owner);
                let response = Response::EchoRes { workload };
                outbox.send(&response);
                expected.extend(response.to_bytes());
            }
            prop_assert_eq!(outbox.queued(), expected.len());
            let mut output = outbox.take(0, Waker::noop()).unwrap();
            prop_assert_eq!(output.len(), expected.len());
            let mut seen = Vec::new();
            while !output.is_empty() {
                let written = output.write_with::<Infallible>(|pieces| {
                    let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).take(chunk).collect();
                    seen.extend_from_slice(&bytes);
                    Ok(bytes.len())
                });
                prop_assert!(written.unwrap() > 0);
            }
            prop_assert_eq!(seen, expected);
        }
    }

    proptest! {
        /// Whatever is said between gaps and in whatever order they are filled, everything comes out in its place.
        #[test]
        fn gaps_keep_the_order(steps in prop::collection::vec((0..3_u8, 0..30_000_usize, any::<prop::sample::Index>()), 1..120)) {
            let outbox = Outbox::new(usize::MAX);
            let echo = |seed: usize, size: usize| {
                let owner = Bytes::from(vec![u8::try_from(seed % 251).unwrap(); size]);
                Response::EchoRes { workload: Workload::shared(&owner, &owner) }.to_bytes()
            };
            let say = |bytes: &[u8]| {
                let owner = Bytes::copy_from_slice(&bytes[12..]);
                outbox.send(&Response::EchoRes { workload: Workload::shared(&owner, &owner) });
            };
            // Each packet or, for an open gap, its number.
            let mut expected: Vec<Result<Vec<u8>, u64>> = Vec::new();
            let (mut seen, mut gaps) = (Vec::new(), 0);
            let drain = |seen: &mut Vec<u8>| {
                let mut output = outbox.take(0, Waker::noop()).unwrap();
                while !output.is_empty() {
                    let write = |pieces: &[IoSlice<'_>]| {
                        seen.extend(pieces.iter().flat_map(|piece| piece.iter().copied()));
                        Ok::<_, Infallible>(pieces.iter().map(|piece| piece.len()).sum())
                    };
                    output.write_with(write).unwrap();
                }
            };
            for (seed, (action, size, index)) in steps.into_iter().enumerate() {
                let open: Vec<u64> = expected.iter().filter_map(|place| place.as_ref().err().copied()).collect();
                match action {
                    0 => {
                        let bytes = echo(seed, size);
                        say(&bytes);
                        expected.push(Ok(bytes));
                    }
                    1 => {
                        outbox.hold(size);
                        expected.push(Err(gaps));
                        gaps += 1;
                    }
                    _ if !open.is_empty() => {
                        let gap = *index.get(&open);
                        let owner = Bytes::from(vec![7; size]);
                        let answer = Response::EchoRes { workload: Workload::shared(&owner, &owner) };
                        outbox.fill(gap, &answer);
                        let place = expected.iter_mut().find(|place| **place == Err(gap)).unwrap();
                        *place = Ok(answer.to_bytes());
                    }
                    _ => drain(&mut seen),
                }
                prop_assert_eq!(outbox.has_gaps(), expected.iter().any(Result::is_err));
            }
            drain(&mut seen);
            let released: Vec<u8> = expected.iter().map_while(|place| place.as_ref().ok()).flatten().copied().collect();
            prop_assert_eq!(seen, released);
        }
    }

    #[test]
    fn one_packet_beyond_the_limit_is_taken_and_the_next_closes() {
        let outbox = Outbox::new(20);
        outbox.send(&Response::Noop);
        outbox.send(&Response::Noop);
        assert_eq!(outbox.queued(), 24);
        outbox.send(&Response::Noop);
        assert_eq!(outbox.take(0, Waker::noop()).unwrap_err(), CloseReason::SlowReader);
    }

    #[test]
    fn a_task_that_waits_for_its_peer_is_told_of_the_overflow() {
        let outbox = Outbox::new(20);
        outbox.send(&Response::Noop);
        let taken = outbox.take(0, Waker::noop()).unwrap();
        assert!(outbox.send(&Response::Noop).is_some());
        assert_eq!(outbox.closed_at_once(), None);
        assert!(outbox.send(&Response::Noop).is_some(), "nobody looks at what was taken");
        assert_eq!(outbox.closed_at_once(), Some(CloseReason::SlowReader));
        assert_eq!(taken.len(), 12);
    }

    #[test]
    fn one_who_is_kicked_is_told_nothing_more() {
        let outbox = Outbox::new(1000);
        outbox.send(&Response::Noop);
        let taken = outbox.take(0, Waker::noop()).unwrap();
        outbox.send(&Response::Noop);
        outbox.hold(7);
        assert!(outbox.close(CloseReason::Kicked).is_some(), "a task that waits for its peer is not told");
        assert_eq!(outbox.closed_at_once(), Some(CloseReason::Kicked));
        assert!(!outbox.has_gaps());
        assert_eq!(outbox.take(taken.len(), Waker::noop()).unwrap_err(), CloseReason::Kicked);
        let outbox = Outbox::new(1000);
        outbox.send(&Response::Noop);
        outbox.close(CloseReason::Shutdown);
        assert_eq!(outbox.closed_at_once(), None, "a stop lets what waits be written");
        assert_eq!(outbox.take(0, Waker::noop()).unwrap().len(), 12);
    }

    #[test]
    fn answers_to_the_connection_itself_do_not_close_it() {
        let outbox = Outbox::new(20);
        for _ in 0..10 {
            outbox.answer(&Response::Noop);
        }
        outbox.answer_text(b"OK\r\n");
        assert_eq!(outbox.take(0, Waker::noop()).unwrap().len(), 124);
        outbox.send(&Response::Noop);
        let reason = outbox.closed_at_once();
        assert_eq!(reason, Some(CloseReason::SlowReader), "what others say finds too much waiting");
    }

    #[test]
    fn what_is_written_makes_room() {
        let outbox = Outbox::new(20);
        for _ in 0..10 {
            outbox.send(&Response::Noop);
            outbox.send(&Response::Noop);
            assert_eq!(outbox.take(0, Waker::noop()).unwrap().len(), 24);
            assert!(outbox.take(24, Waker::noop()).unwrap().is_empty());
        }
    }
}
