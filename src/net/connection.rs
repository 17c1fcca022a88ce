//! The task of a connection: reads requests, applies them, writes responses.
//!
//! A turn reads once and applies the requests under the lock. It leaves writing to the next turn, which comes
//! after the turns of the other ready connections: output that they produce for this connection goes out with
//! the same write. [`turn`] decides how much a turn does. An idle connection owns no buffer.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_util::io::poll_read_buf;
use tracing::{debug, info, warn};

use super::Clock;
use super::decoder::RequestDecoder;
use super::dispatcher::Dispatcher;
use super::greeting::Greeting;
use super::listings::Listings;
use super::long_answer::Running;
use super::pressure::{Pressure, Registered};
use super::turn::{self, Turn, Turns};
use super::watch::{Patience, Stuck, Watch};
use super::writer::Writer;
use crate::admin::{Admin, LISTING_PIECE};
use crate::hub::Hub;
use crate::job_server::{ConnectionEnd, ConnectionId, DisconnectProgress, Now, price};
use crate::outbox::{CloseReason, Outbox};
use crate::process::memory;
use crate::process::socket::{acknowledge_at_once, has_undelivered};
use crate::protocol::packet::{FrameLimits, FramingError};
use crate::protocol::text;
use crate::stats::ConnectionGauges;

/// Size of the read buffer that all connections of a thread share, in bytes.
const READ_BUFFER: usize = 64 * 1024;
/// How much of it a short turn uses, in bytes.
const SHORT_READ: usize = 8 * 1024;
/// The price of a line of text. A line that is not quick ends the turn.
pub(super) const LINE: u32 = turn::SHORT / 16;
/// When this many bytes of answers are queued, they are written before the rest of the input is processed.
const ANSWERS_A_WRITE: usize = 64 * 1024;
/// While this many bytes are queued for a connection, its next request is not read.
const ANSWERS_MAX: usize = 48 * 1024 * 1024;
/// While this many bytes are queued for a connection, its next line of text is not answered. A long answer is
/// made at most [`LISTING_PIECE`] ahead.
pub(super) const TEXT_AHEAD: usize = 256 * 1024;
/// How often a connection checks whether there is room for its large packet.
const ROOM_INTERVAL: Duration = Duration::from_millis(50);

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER].into_boxed_slice());
}

/// State that all connections share.
pub struct Server {
    /// The job server.
    pub hub: Arc<Hub>,
    /// The text commands.
    pub admin: Arc<Admin>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// The scheduling of long answers.
    pub listings: Arc<Listings>,
    /// The memory that is held for peers.
    pub pressure: Arc<Pressure>,
    /// The scheduling of connections.
    pub turns: Arc<Turns>,
}

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest packet and the longest line.
    pub frames: FrameLimits,
    /// Bytes that may be queued for a slow reader.
    pub output: usize,
    /// How long a peer may leave its queued output unread.
    pub patience: Patience,
    /// How long a new connection may be silent; `None` for no limit.
    pub first_byte_timeout: Option<Duration>,
}

/// Serves a connection until it ends.
pub async fn serve(
    server: Arc<Server>,
    limits: Limits,
    gauges: Arc<ConnectionGauges>,
    stream: impl AsyncRead + AsyncWrite + AsFd + Unpin,
) {
    let now_ms = server.clock.now().unix_us / 1000;
    gauges.connected_ms.set(now_ms);
    gauges.heard_ms.set(now_ms);
    let account = server.pressure.account();
    let outbox = Arc::new(Outbox::new(limits.output, Arc::clone(account)));
    let Some(id) = server.hub.connect(Arc::clone(&gauges), Arc::clone(&outbox)) else {
        return;
    };
    let mut connection = Connection {
        id,
        limits,
        gauges: Arc::clone(&gauges),
        holder: server.pressure.add_connection(Arc::clone(&outbox)),
        outbox,
        stream,
        decoder: RequestDecoder::new(limits.frames, Arc::clone(account)),
        room_timer: None,
        worked_at: None,
        writer: Writer::new(Arc::clone(&server.turns)),
        long_answer: None,
        has_text: false,
        reading: Reading::Open,
        reads_much: false,
        turn: Turn::new(Arc::clone(&server.turns)),
        budget: 0,
        timer: limits.first_byte_timeout.map(|timeout| Box::pin(sleep(timeout))),
        watch: Watch::new(limits.patience),
        greeting: Greeting::default(),
        store_timer: None,
        awaits_jobs: false,
        server: Arc::clone(&server),
    };
    // When the peer has closed, its jobs are requeued at once, even if there are answers left to write.
    let result = poll_fn(|context| connection.poll(context, Until::PeerHasClosed)).await;
    let result = connection.depart(result).await;
    let result = match result {
        Ok(()) => poll_fn(|context| connection.poll(context, Until::AllIsWritten)).await,
        Err(reason) => Err(reason),
    };
    let held = connection.outbox.queued() + connection.decoder.memory();
    memory::note_freed(held);
    match result {
        Ok(()) => debug!("Disconnected {}", gauges.peer),
        Err(End::Io(error)) => debug!("Disconnected {}: {error}", gauges.peer),
        Err(End::Closed(CloseReason::Shutdown)) => {}
        Err(End::Closed(CloseReason::Kicked)) => info!("Closed {}: kicked by operator", gauges.peer),
        Err(End::Closed(CloseReason::OutOfMemory)) => server.pressure.note_closed(gauges.name(), held as u64),
        Err(End::Closed(CloseReason::SlowReader)) => {
            server.hub.stats().slow_readers.add(1);
            let most = limits.output;
            warn!("Closed {}: slow reader: more than {most} bytes queued (--max-output-buffer)", gauges.name());
        }
        Err(End::Stuck(Stuck::NotReading)) => {
            server.hub.stats().slow_readers.add(1);
            let time = limits.patience.reading.unwrap_or_default();
            warn!("Closed {}: slow reader: read nothing for {time:?} (--write-timeout)", gauges.name());
        }
        Err(End::Stuck(Stuck::Silent)) => warn!("Closed {}: host unreachable with output pending", gauges.name()),
        Err(End::FirstByteTimeout) => {
            let time = limits.first_byte_timeout.unwrap_or_default();
            info!("Closed {}: handshake timeout: sent nothing for {time:?} (--handshake-timeout)", gauges.peer);
        }
    }
}

/// The condition on which [`Connection::poll`] is ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    PeerHasClosed,
    AllIsWritten,
}

/// Why a connection ends with output unwritten.
pub(super) enum End {
    Io(io::Error),
    Closed(CloseReason),
    Stuck(Stuck),
    FirstByteTimeout,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whether there is more to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Open,
    /// The peer has closed its side, or its stream is invalid.
    Ended,
}

struct Connection<S> {
    id: ConnectionId,
    limits: Limits,
    server: Arc<Server>,
    gauges: Arc<ConnectionGauges>,
    outbox: Arc<Outbox>,
    holder: Registered,
    stream: S,
    decoder: RequestDecoder,
    /// Runs while there is no room for the incoming large packet.
    room_timer: Option<Pin<Box<Sleep>>>,
    /// When the first request of the last read was applied, if there was one.
    worked_at: Option<Now>,
    writer: Writer,
    long_answer: Option<Running>,
    /// Whether the last input was a line of text. The input behind it waits until most of the answer is
    /// written.
    has_text: bool,
    reading: Reading,
    /// Whether the last read had more than a short turn reads.
    reads_much: bool,
    turn: Turn,
    /// What is left of the turn's budget.
    budget: u32,
    /// Runs until the peer has sent its first byte.
    timer: Option<Pin<Box<Sleep>>>,
    watch: Watch,
    greeting: Greeting,
    /// Runs while an answer waits for the store.
    store_timer: Option<Pin<Box<Sleep>>>,
    /// Whether the next request waits until all jobs are restored.
    awaits_jobs: bool,
}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Connection<S> {
    /// Runs a turn. Ready when the peer has closed and all its input is processed, or when all answers are
    /// written as well.
    fn poll(&mut self, context: &mut Context<'_>, until: Until) -> Poll<Result<(), End>> {
        // Time spent on a long answer, including writing it, is charged to all long answers.
        let began = self.long_answer.is_some().then(Instant::now);
        let result = self.poll_turn(context, until);
        match began {
            Some(began) => self.server.listings.charge(began),
            None => self.server.listings.note_other(),
        }
        result
    }

    fn poll_turn(&mut self, context: &mut Context<'_>, until: Until) -> Poll<Result<(), End>> {
        let is_flushed = !self.writes_later() && self.poll_write(context)?.is_ready();
        self.poll_timer(context)?;
        let has_more = self.poll_input(context)?;
        if has_more {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let is_done = self.reading == Reading::Ended && self.long_answer.is_none() && !self.decoder.is_paused();
        match until {
            Until::PeerHasClosed if self.reading == Reading::Ended && !self.decoder.is_paused() => Poll::Ready(Ok(())),
            Until::AllIsWritten if is_done && is_flushed => {
                Pin::new(&mut self.stream).poll_shutdown(context).map(|_| Ok(()))
            }
            Until::PeerHasClosed | Until::AllIsWritten => Poll::Pending,
        }
    }

    /// Removes the connection from its jobs, in pieces. Returns how the connection itself has ended in the
    /// meantime.
    async fn depart(&mut self, mut result: Result<(), End>) -> Result<(), End> {
        let missed_last = self.has_missed_last(&result);
        loop {
            let end = ConnectionEnd { wants_answers: result.is_ok(), missed_last };
            match self.server.hub.disconnect(self.server.clock.now(), self.id, end) {
                DisconnectProgress::Unfinished => {
                    // The rest may need the place.
                    self.writer.leave();
                    self.turn.spend_long(price::BUDGET);
                    poll_fn(|context| self.turn.poll_long(context)).await;
                }
                // Submissions that came before the end of the input are answered.
                DisconnectProgress::AwaitsAnswers => {
                    self.turn.leave();
                    result = poll_fn(|context| self.poll_answers(context)).await;
                }
                DisconnectProgress::Done => {
                    self.turn.leave();
                    return result;
                }
            }
        }
    }

    /// Whether the peer probably has not read the last bytes that were sent to it. Either it has reset the
    /// connection, as a peer does that closes with unread input or gets data after it has closed. Or its
    /// kernel has not received everything. A peer that died while it was reading looks the same.
    fn has_missed_last(&self, result: &Result<(), End>) -> bool {
        match result {
            Ok(()) => !self.writer.is_empty() || self.outbox.queued() > 0 || has_undelivered(self.stream.as_fd()),
            Err(End::Io(error)) => {
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
            Err(End::Closed(_) | End::Stuck(_) | End::FirstByteTimeout) => false,
        }
    }

    /// Writes the output, until no answer is pending in it.
    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        if let Some(answer) = &self.long_answer {
            answer.step_back();
        }
        // The rest is written later.
        let _ = self.poll_write(context)?;
        self.poll_timer(context)?;
        if self.outbox.has_gaps() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Whether writing waits until the rest of the input is processed: one write is cheaper than several.
    fn writes_later(&self) -> bool {
        self.turn.has_place()
            && self.decoder.is_paused()
            && self.has_room()
            && self.writer.is_empty()
            && self.outbox.queued() < ANSWERS_A_WRITE
    }

    /// Writes the queued output. Ready when nothing is left.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        let Self { writer, stream, outbox, holder, watch, turn, .. } = self;
        writer.poll_write(context, Pin::new(stream), outbox, holder, watch, turn)
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(context).is_ready()
        {
            return Err(End::FirstByteTimeout);
        }
        let has_more = !self.writer.is_empty();
        self.watch.poll(context, self.stream.as_fd(), has_more).map_err(End::Stuck)
    }

    /// Reads once, or continues with input that was read before. Returns whether another turn should follow
    /// at once, to write the answers or to read on.
    fn poll_input(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        if !self.has_room() {
            // This task is woken when writing makes room.
            if let Some(answer) = &self.long_answer {
                answer.step_back();
            }
            return Ok(self.leave_turn());
        }
        if self.awaits_jobs || self.long_answer.as_ref().is_some_and(Running::awaits_jobs) {
            if self.server.hub.poll_restored(self.id, context.waker()).is_pending() {
                return Ok(self.leave_turn());
            }
            self.awaits_jobs = false;
        }
        if self.long_answer.is_some() {
            let has_answers = self.leave_turn();
            return Ok(self.poll_store(context).is_ready() && self.go_on(context) || has_answers);
        }
        if self.reading == Reading::Ended && !self.decoder.is_paused() {
            return Ok(self.leave_turn());
        }
        self.poll_requests(context)
    }

    /// Gives up the place while this connection waits for something other than its turn. Returns whether it
    /// had the place. If so, its answers may have been held back to go out in one write, and should be
    /// written now.
    fn leave_turn(&mut self) -> bool {
        let had_place = self.turn.has_place();
        self.turn.leave();
        had_place
    }

    /// Handles input while no long answer is in progress.
    fn poll_requests(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let is_long = self.reads_much || self.decoder.is_paused();
        self.budget = if !is_long {
            self.turn.leave();
            turn::SHORT
        } else if let Poll::Ready(budget) = self.turn.poll_long(context) {
            budget
        } else {
            return Ok(false);
        };
        let budget = self.budget;
        if self.decoder.is_paused() {
            let result = self.with_decoder(|decoder, sink| decoder.resume(sink));
            self.holder.set_held(self.decoder.memory());
            self.end_if_broken(result);
        } else if self.poll_room(context).is_pending() {
            self.turn.leave();
            return Ok(false);
        } else if let Poll::Ready(result) = self.poll_read(context) {
            result?;
        } else {
            // Nothing to read: another connection may have the place.
            self.reads_much = false;
            self.turn.leave();
            return Ok(false);
        }
        let spent = budget - self.budget;
        if !is_long {
            self.turn.spend_short(spent);
            if !self.reads_much || self.decoder.is_paused() {
                return Ok(true);
            }
            // If no other connection has more work, all of the input is answered with one write. Otherwise
            // this part is answered at once.
            let has_more = self.turn.poll_long(context).is_ready() && self.poll_input(context)?;
            return Ok(has_more || !self.turn.has_place());
        }
        self.turn.spend_long(spent);
        // If the slice is used up, this waits for the next one.
        Ok(!self.writes_later() || self.turn.poll_long(context).is_ready())
    }

    /// Waits for the store's part of an answer, with a timeout.
    fn poll_store(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(Running { answer, .. }) = &mut self.long_answer else { return Poll::Ready(()) };
        while answer.poll_ready(context.waker()).is_pending() {
            let timer = self.store_timer.get_or_insert_with(|| Box::pin(sleep(answer.patience())));
            ready!(timer.as_mut().poll(context));
            self.store_timer = None;
            if !answer.has_progressed() {
                break;
            }
        }
        self.store_timer = None;
        Poll::Ready(())
    }

    /// Waits for room to read into.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.decoder.make_room() {
            self.server.pressure.want_room();
            let timer = self.room_timer.get_or_insert_with(|| Box::pin(sleep(ROOM_INTERVAL)));
            ready!(timer.as_mut().poll(context));
            self.room_timer = None;
        }
        self.room_timer = None;
        Poll::Ready(())
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.worked_at = None;
        // A short turn only finds out whether there is more.
        let most = if self.turn.has_place() { usize::MAX } else { SHORT_READ };
        let size = if self.decoder.large_buffer().is_some() {
            ready!(self.poll_read_large(context, most))?
        } else {
            ready!(self.poll_read_small(context, most))?
        };
        self.reads_much = size >= SHORT_READ;
        if self.decoder.large_buffer().is_some() {
            acknowledge_at_once(self.stream.as_fd());
        }
        if size == 0 {
            self.reading = Reading::Ended;
            return Poll::Ready(Ok(()));
        }
        self.holder.set_held(self.decoder.memory());
        // Usually the input held a request, for which the clock was read already.
        let now = self.worked_at.unwrap_or_else(|| self.server.clock.now());
        self.gauges.heard_ms.set(now.unix_us / 1000);
        self.timer = None;
        Poll::Ready(Ok(()))
    }

    fn poll_read_small(&mut self, context: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(&mut buffer[..most.min(READ_BUFFER)]);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            let bytes = buffer.filled();
            let result = self.with_decoder(|decoder, sink| decoder.consume(bytes, sink));
            self.end_if_broken(result);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    fn poll_read_large(&mut self, context: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let Some((body, missing)) = self.decoder.large_buffer() else {
            return Poll::Ready(Ok(0));
        };
        let size = ready!(poll_read_buf(Pin::new(&mut self.stream), context, &mut body.limit(missing.min(most))))?;
        let kib = u32::try_from(size / 1024).unwrap_or(u32::MAX);
        self.budget = self.budget.saturating_sub(kib.saturating_mul(price::KIB));
        self.with_decoder(|decoder, sink| decoder.large_buffer_filled(sink));
        self.holder.received(size);
        Poll::Ready(Ok(size))
    }

    fn end_if_broken(&mut self, result: Result<(), FramingError>) {
        if let Err(error) = result {
            debug!("a peer sent {error}");
            if error == FramingError::LineTooLong {
                self.outbox.answer_text(text::LINE_TOO_LONG);
            }
            self.reading = Reading::Ended;
        }
    }

    fn has_room(&self) -> bool {
        let ahead = match (&self.long_answer, self.has_text) {
            // A listing is made as it is read.
            (Some(_), _) => LISTING_PIECE,
            (None, true) => TEXT_AHEAD,
            (None, false) => usize::MAX,
        };
        has_room(&self.outbox, &self.limits) && self.outbox.queued() < ahead
    }

    /// Makes the next piece of a long answer, if its turn has come. Returns whether it did.
    fn go_on(&mut self, context: &Context<'_>) -> bool {
        let Some(answer) = &mut self.long_answer else { return false };
        match answer.poll_piece(&self.server, &self.outbox, context.waker()) {
            Poll::Pending => return false,
            Poll::Ready(is_complete) if is_complete => self.long_answer = None,
            Poll::Ready(_) => {}
        }
        true
    }

    fn with_decoder<R>(&mut self, act: impl FnOnce(&mut RequestDecoder, &mut Dispatcher<'_>) -> R) -> R {
        let Self { server, outbox, decoder, long_answer, has_text, id, limits, gauges, greeting, budget, .. } = self;
        let mut dispatcher = Dispatcher {
            server,
            outbox,
            long_answer,
            has_text,
            id: *id,
            gauges,
            limits,
            greeting,
            budget,
            speaks_other_protocol: false,
            awaits_jobs: false,
            worked_at: None,
        };
        let result = act(decoder, &mut dispatcher);
        self.worked_at = dispatcher.worked_at;
        self.awaits_jobs = dispatcher.awaits_jobs;
        if dispatcher.speaks_other_protocol {
            // The bytes behind the line are not Gearman.
            self.decoder = RequestDecoder::new(self.limits.frames, Arc::clone(self.server.pressure.account()));
            self.reading = Reading::Ended;
        }
        result
    }
}

/// Backpressure: a connection is not read while its queued output exceeds three quarters of its limit or its
/// share of the free memory.
///
/// Its peer has to read first. Output that other connections produce for it does not stop there.
pub(super) fn has_room(outbox: &Outbox, limits: &Limits) -> bool {
    outbox.has_room(ANSWERS_MAX.min(limits.output / 4 * 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands of workers are idle most of the time.
    #[test]
    fn a_connection_is_small() {
        let size = size_of::<Connection<tokio::net::TcpStream>>();
        assert!(size <= 896, "{size}");
    }
}
