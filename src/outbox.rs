//! One connection's output: what others have said to it and it has not yet written.
//!
//! Small packets are copied one after another into one buffer; a large workload is kept by reference between them. The
//! holder of the hub's lock appends; the connection's own task takes what is there and writes it without any lock. A
//! connection with nothing to write owns no buffer.
//!
//! Where an answer is not known yet there is a gap: what comes after it waits behind it. JOB_CREATED names no request, so
//! clients take the answers to their submissions in order.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::{Buf, Bytes};

use crate::protocol::Response;
use crate::stats::account::{Account, Amount, Part};

/// How many buffers a thread keeps for the next connection that has something to write.
const SPARE_BUFFERS: usize = 32;
/// The largest buffer that is kept, in bytes.
const LARGEST_SPARE: usize = 16 * 1024;
/// A list for more gaps than these is given back when there are none.
const LARGEST_SPARE_GAPS: usize = 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The output of one connection.
#[derive(Debug)]
pub struct Outbox {
    /// Bytes that may wait; a packet from others that comes when they do closes the connection.
    limit: usize,
    account: Arc<Account>,
    state: Mutex<State>,
    /// What the state says is queued, for those who only look.
    queued: AtomicUsize,
}

#[derive(Debug)]
struct State {
    output: Output,
    /// What comes behind the output, in order.
    gaps: VecDeque<Gap>,
    /// Memory of these.
    gaps_memory: usize,
    /// Memory of what the task has taken last.
    taken_memory: usize,
    /// What the account was told of all that.
    amount: Amount,
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

impl Gap {
    fn memory(&self) -> usize {
        size_of::<Self>() + self.answer.as_ref().map_or(0, Vec::capacity) + self.after.memory()
    }
}

/// Why a connection is closed by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Its peer does not read what it is sent.
    SlowReader,
    /// Memory is short, and more waits for its peer than for most others.
    OutOfMemory,
    /// The operator wants it so, at once.
    Kicked,
    /// The server stops.
    Shutdown,
}

impl CloseReason {
    /// Whether what waits need not be written any more.
    fn is_at_once(self) -> bool {
        matches!(self, Self::SlowReader | Self::OutOfMemory | Self::Kicked)
    }
}

impl Outbox {
    /// An empty outbox, in which `limit` bytes and one packet more may wait, and whose memory `account`
    /// counts.
    pub fn new(limit: usize, account: Arc<Account>) -> Self {
        let state = State {
            output: Output::default(),
            gaps: VecDeque::new(),
            gaps_memory: 0,
            taken_memory: 0,
            amount: Amount::new(Arc::clone(&account), Part::Output),
            gaps_before: 0,
            queued: 0,
            held: 0,
            waker: None,
            is_woken: false,
            closed: None,
        };
        Self { limit, account, state: Mutex::new(state), queued: AtomicUsize::new(0) }
    }

    /// Leaves a gap, which weighs as if `weight` bytes waited. The gaps of an outbox are counted from 0.
    pub fn hold(&self, weight: usize) {
        let mut state = self.lock();
        let gap = Gap { weight, answer: None, after: Output::default() };
        state.gaps_memory += gap.memory();
        state.gaps.push_back(gap);
        state.held += weight;
        self.publish(&mut state);
    }

    /// Fills a gap. Returns a waker to call when all locks are released, if the connection's task has to be told.
    pub fn fill(&self, gap: u64, response: &Response<'_>) -> Option<Waker> {
        let mut state = self.lock();
        let State { output, gaps, gaps_memory, gaps_before, queued, held, .. } = &mut *state;
        let index = usize::try_from(gap.checked_sub(*gaps_before)?).ok()?;
        let filled = gaps.get_mut(index)?;
        *held -= std::mem::take(&mut filled.weight);
        if index > 0 {
            let answer = response.to_bytes();
            *queued += answer.len();
            *gaps_memory += answer.capacity();
            filled.answer = Some(answer);
            self.publish(&mut state);
            return None;
        }
        let before = output.len();
        output.push(response);
        *queued += output.len() - before;
        while let Some(gap) = gaps.pop_front() {
            *gaps_memory -= gap.memory();
            *gaps_before += 1;
            output.append(gap.after);
            // What waited for this one alone.
            let Some(Gap { answer: Some(answer), .. }) = gaps.front() else { break };
            output.copy(answer);
        }
        if gaps.is_empty() && gaps.capacity() > LARGEST_SPARE_GAPS {
            *gaps = VecDeque::new();
        }
        self.publish(&mut state);
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
        let is_told = self.append(&mut state, |output| output.push(response));
        // One packet may be for so many that nobody looks in between.
        if is_told && !self.account.may_hold(state.queued as u64) {
            state.close(CloseReason::OutOfMemory);
        }
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

    /// What comes after the connection was closed is dropped. Returns whether the account was told.
    fn append(&self, state: &mut State, write: impl FnOnce(&mut Output)) -> bool {
        if state.closed.is_some() {
            return false;
        }
        let State { output, gaps, gaps_memory, queued, .. } = state;
        match gaps.back_mut() {
            None => {
                let before = output.len();
                write(output);
                *queued += output.len() - before;
            }
            Some(Gap { after, .. }) => {
                let (before, memory) = (after.len(), after.memory());
                write(after);
                *queued += after.len() - before;
                *gaps_memory += after.memory() - memory;
            }
        }
        self.publish(state)
    }

    fn publish(&self, state: &mut State) -> bool {
        self.queued.store(state.queued.saturating_add(state.held), Ordering::Relaxed);
        state.amount.set(state.output.memory() + state.gaps_memory + state.taken_memory)
    }

    /// Takes all that waits, and says how many bytes of what was taken before have been written since.
    ///
    /// From now on the next packet calls `waker`.
    pub fn take(&self, written: usize, waker: &Waker) -> Result<Output, CloseReason> {
        let mut state = self.lock();
        state.queued = state.queued.saturating_sub(written);
        // Of what was taken before nothing is left, and this is taken now.
        state.taken_memory = 0;
        self.publish(&mut state);
        state.taken_memory = state.output.memory();
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

    /// Whether the peer may ask for more: less waits for it than `most` bytes, and no more than the account
    /// allows now.
    pub fn has_room(&self, most: usize) -> bool {
        let queued = self.queued();
        queued < most && self.account.may_read_from(queued as u64)
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
            self.gaps = VecDeque::new();
            (self.held, self.gaps_memory) = (0, 0);
            self.amount.set(self.taken_memory);
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

    /// The memory that it takes, in bytes. What is shared is counted where it came from.
    fn memory(&self) -> usize {
        self.copied.capacity() + self.shared.capacity() * size_of::<(usize, Bytes)>()
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
        match workload.is_kept_by_reference().then(|| workload.share()).flatten() {
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

    /// Calls `write` with the first pieces, `most` bytes of them. What it says it has written is gone.
    pub fn write_with<E>(
        &mut self,
        most: usize,
        write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let (mut count, mut left) = (0, most);
        let mut start = self.written;
        for (before, bytes) in &self.shared {
            if count + 2 > PIECES || left == 0 {
                break;
            }
            if *before > start {
                let copied = first(&self.copied[start..*before], &mut left);
                pieces[count] = IoSlice::new(copied);
                count += 1;
                start = *before;
            }
            pieces[count] = IoSlice::new(first(bytes, &mut left));
            count += 1;
        }
        let all_shared = self.shared.back().is_none_or(|(before, _)| *before <= start);
        if count < PIECES && all_shared && left > 0 && start < self.copied.len() {
            pieces[count] = IoSlice::new(first(&self.copied[start..], &mut left));
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

/// The first of these bytes, `left` at most, from which they are taken.
fn first<'a>(bytes: &'a [u8], left: &mut usize) -> &'a [u8] {
    let bytes = &bytes[..bytes.len().min(*left)];
    *left -= bytes.len();
    bytes
}
