//! The output of one connection: packets that are queued and not yet written.
//!
//! Small packets are copied one after another into one buffer; a large workload is kept by reference between
//! them. The holder of the hub's lock appends; the connection's own task takes the output and writes it
//! without a lock. A connection without output owns no buffer.
//!
//! If an answer is not known yet, there is a gap in its place, and later packets are queued behind it.
//! JOB_CREATED names no request, so clients take the answers to their submissions in order.

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

/// The number of buffers that a thread keeps for connections that get output next.
const SPARE_BUFFERS: usize = 32;
/// The largest buffer that is kept, in bytes.
const LARGEST_SPARE: usize = 16 * 1024;
/// A list of gaps with a larger capacity is freed when it is empty.
const LARGEST_SPARE_GAPS: usize = 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The output of one connection.
#[derive(Debug)]
pub struct Outbox {
    /// The limit of queued bytes. A packet from others closes the connection if it arrives when the limit is
    /// reached.
    limit: usize,
    account: Arc<Account>,
    state: Mutex<State>,
    /// Queued bytes and the weight of gaps, for readers without the lock.
    queued: AtomicUsize,
}

#[derive(Debug)]
struct State {
    output: Output,
    /// The gaps, with the packets behind them, in order. They follow the output.
    gaps: VecDeque<Gap>,
    /// The memory of the gaps.
    gaps_memory: usize,
    /// The memory of the output that the task took last.
    taken_memory: usize,
    /// The sum as reported to the account.
    amount: Amount,
    /// The number of gaps before these.
    gaps_before: u64,
    /// Queued bytes, including those that the task has taken and not yet written.
    queued: usize,
    /// The weight of the open gaps.
    held: usize,
    /// Wakes the connection's task.
    waker: Option<Waker>,
    /// Whether the task knows that there is output, or is about to.
    is_woken: bool,
    closed: Option<CloseReason>,
}

/// The place of an answer that is not known yet, and the packets after it.
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
    /// Its peer does not read its output.
    SlowReader,
    /// Memory is short, and more is queued for its peer than for most others.
    OutOfMemory,
    /// The operator closes it immediately.
    Kicked,
    /// The server is stopping.
    Shutdown,
}

impl CloseReason {
    /// Whether queued output is dropped.
    fn is_at_once(self) -> bool {
        matches!(self, Self::SlowReader | Self::OutOfMemory | Self::Kicked)
    }
}

impl Outbox {
    /// Creates an empty outbox, in which `limit` bytes and one more packet may be queued, and whose memory
    /// `account` counts.
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

    /// Leaves a gap, which counts as `weight` queued bytes. The gaps of an outbox are numbered from 0.
    pub fn hold(&self, weight: usize) {
        let mut state = self.lock();
        let gap = Gap { weight, answer: None, after: Output::default() };
        state.gaps_memory += gap.memory();
        state.gaps.push_back(gap);
        state.held += weight;
        self.publish(&mut state);
    }

    /// Fills a gap. Returns a waker to call after all locks are released, if the connection's task must be
    /// woken.
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
            // Continue if the next gap is filled already.
            let Some(Gap { answer: Some(answer), .. }) = gaps.front() else { break };
            output.copy(answer);
        }
        if gaps.is_empty() && gaps.capacity() > LARGEST_SPARE_GAPS {
            *gaps = VecDeque::new();
        }
        self.publish(&mut state);
        state.wake()
    }

    /// Whether answers are pending.
    pub fn has_gaps(&self) -> bool {
        !self.lock().gaps.is_empty()
    }

    /// Appends a packet that others caused. Returns a waker to call after all locks are released, if the
    /// connection's task must be woken.
    pub fn send(&self, response: &Response<'_>) -> Option<Waker> {
        let mut state = self.lock();
        if state.queued >= self.limit && state.closed.is_none() {
            state.close(CloseReason::SlowReader);
        }
        let is_told = self.append(&mut state, |output| output.push(response));
        // One packet may go to very many connections, with no other check in between.
        if is_told && !self.account.may_hold(state.queued as u64) {
            state.close(CloseReason::OutOfMemory);
        }
        state.wake()
    }

    /// Appends the answer to a request of the connection's own, whose task checks the outbox by itself.
    ///
    /// Answers never close the connection, however much is queued: the task bounds them, since it then reads
    /// no more requests.
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

    /// Appends output, unless the connection is closed. Returns whether the account was told.
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

    /// Takes all queued output. `written` is the number of bytes written since, of what was taken before.
    ///
    /// The next packet calls `waker`.
    pub fn take(&self, written: usize, waker: &Waker) -> Result<Output, CloseReason> {
        let mut state = self.lock();
        state.queued = state.queued.saturating_sub(written);
        // Everything taken before is written, and this is taken now.
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

    /// The number of queued bytes, plus the weight of the gaps.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Whether the peer may send more requests: fewer than `most` bytes are queued for it, and no more than
    /// the account allows now.
    pub fn has_room(&self, most: usize) -> bool {
        let queued = self.queued();
        queued < most && self.account.may_read_from(queued as u64)
    }

    /// Why the connection is closed immediately, if it is: what was taken before need not be written either.
    pub fn closed_at_once(&self) -> Option<CloseReason> {
        self.lock().closed.filter(|reason| reason.is_at_once())
    }

    /// Closes the connection after its output is written. For an immediate reason the output is dropped.
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
            // The task was woken before, and may be blocked by the peer on what it took then.
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
    /// The copied bytes, some of which are written.
    copied: Vec<u8>,
    written: usize,
    /// Shared bytes, each with the offset in `copied` before which it is written.
    shared: VecDeque<(usize, Bytes)>,
    shared_len: usize,
}

/// The maximum number of slices per write.
const PIECES: usize = 16;

impl Output {
    /// Whether everything is written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of bytes to write.
    pub fn len(&self) -> usize {
        self.copied.len() - self.written + self.shared_len
    }

    /// The memory that it takes, in bytes. Shared bytes are counted at their source.
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

    /// Appends `other`.
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

    /// Calls `write` with the first slices, at most `most` bytes. Removes the bytes that it reports as
    /// written.
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

    /// Returns the buffer for reuse, when everything is written.
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

/// The first of these bytes, at most `left`, which is reduced by their number.
fn first<'a>(bytes: &'a [u8], left: &mut usize) -> &'a [u8] {
    let bytes = &bytes[..bytes.len().min(*left)];
    *left -= bytes.len();
    bytes
}
