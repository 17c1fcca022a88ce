//! Request decoder of a connection: cuts packets and lines out of the bytes it has read, and passes them on
//! in batches.
//!
//! Whole packets are parsed in place, in a read buffer that all connections share. Only a partial packet is
//! kept. A large packet gets a buffer of its own, which grows as its bytes arrive and becomes the job's
//! workload without a copy.

use std::sync::Arc;

use arrayvec::ArrayVec;
use bytes::Bytes;

use crate::hub::BATCH;
use crate::protocol::packet::{FrameLimits, FramingError, HEADER_SIZE, Header, Magic, Scan, scan};
use crate::protocol::{PeerError, Request, Workload};
use crate::stats::account::{Account, Amount, Part};

/// Packets of at least this size get a buffer of their own if they do not arrive whole, in bytes.
const LARGE_FROM: usize = 32 * 1024;
/// Largest buffer that is allocated for a large packet before its bytes arrive, in bytes: a workload of 1 MiB
/// and its arguments.
const FIRST_LARGE_BUFFER: usize = 1024 * 1024 + 8 * 1024;
/// The same while memory is not plentiful.
const FIRST_LARGE_BUFFER_IF_SHORT: usize = 64 * 1024;

/// A batch of requests in order, each of them as it was parsed.
pub type Batch<'a> = ArrayVec<Result<Request<'a>, PeerError>, BATCH>;

/// The result of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The batch is done, and the next may come.
    GoOn,
    /// The batch is done. The input behind it is kept until [`RequestDecoder::resume`].
    Hold,
    /// The first requests of the batch, this many, are done. The rest of the batch is kept too, and is passed
    /// on again.
    HoldAfter(usize),
}

/// Receives the parsed input.
pub trait Sink {
    /// Handles a batch of requests. Returns whether to continue; if not, the rest is kept until
    /// [`RequestDecoder::resume`].
    fn requests(&mut self, batch: &[Result<Request<'_>, PeerError>]) -> Progress;

    /// Handles a line of text. Returns whether to continue.
    fn line(&mut self, line: &[u8]) -> bool;
}

/// Decodes the input of one connection into requests and lines.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: FrameLimits,
    state: State,
    amount: Amount,
}

#[derive(Debug)]
enum State {
    /// A partial small packet, a partial line, or nothing.
    Partial(Vec<u8>),
    /// A partial large packet: its body so far.
    Large { header: Header, body: Vec<u8> },
    /// A whole large packet whose work takes several turns, and the bytes that were read behind it.
    Whole { header: Header, body: Bytes, rest: Vec<u8> },
    /// An oversized packet is skipped. This many of its bytes are still to come.
    Skip(u64),
    /// Bytes that were read but not processed, from this offset on. The connection yields to others, or its
    /// own output must shrink first.
    Paused { bytes: Vec<u8>, from: usize },
    /// This many of the last bytes of the current input are to be kept. Used only while that input is
    /// processed.
    Rest(usize),
}

impl State {
    /// Keeps the bytes from this offset on for later, if there are any.
    fn paused(bytes: Vec<u8>, from: usize) -> Self {
        if from == bytes.len() { Self::Partial(Vec::new()) } else { Self::Paused { bytes, from } }
    }
}

impl RequestDecoder {
    /// Creates a decoder without input. `account` counts the memory it holds.
    pub const fn new(limits: FrameLimits, account: Arc<Account>) -> Self {
        Self { limits, state: State::Partial(Vec::new()), amount: Amount::new(account, Part::Input) }
    }

    /// Whether bytes are held back. The caller should not read while they are.
    pub const fn is_paused(&self) -> bool {
        matches!(self.state, State::Paused { .. } | State::Whole { .. })
    }

    /// Memory held, in bytes.
    pub fn memory(&self) -> usize {
        match &self.state {
            State::Partial(bytes) | State::Large { body: bytes, .. } | State::Paused { bytes, .. } => bytes.capacity(),
            State::Whole { body, rest, .. } => body.len() + rest.capacity(),
            State::Skip(_) | State::Rest(_) => 0,
        }
    }

    /// Reports the memory held to the account.
    fn publish(&mut self) {
        let memory = match &self.state {
            // The packet itself is counted until its last reference is dropped.
            State::Whole { rest, .. } => rest.capacity(),
            _ => self.memory(),
        };
        self.amount.set(memory);
    }

    /// Makes room for the next read. Returns whether there is room: there is none for a large packet while
    /// memory is short.
    pub fn make_room(&mut self) -> bool {
        let account = self.amount.account();
        if let State::Large { header, body } = &mut self.state
            && body.len() == body.capacity()
        {
            let missing = header.length as usize - body.len();
            let more = missing.min(body.len().max(first_large_buffer(account)));
            if !account.may_receive(more) {
                return false;
            }
            body.reserve_exact(more);
            self.publish();
        }
        true
    }

    /// The buffer of the large packet to read into instead of the shared one, and how many bytes it still
    /// lacks.
    pub fn large_buffer(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let State::Large { header, body } = &mut self.state else {
            return None;
        };
        let missing = header.length as usize - body.len();
        Some((body, missing))
    }

    /// Continues after bytes were read into the large buffer.
    pub fn large_buffer_filled(&mut self, sink: &mut impl Sink) {
        match std::mem::replace(&mut self.state, State::Partial(Vec::new())) {
            State::Large { header, body } if body.len() == header.length as usize => {
                let body = self.amount.account().count_once(Bytes::from(body));
                self.work_off_large(header, body, Vec::new(), sink);
            }
            other => self.state = other,
        }
        self.publish();
    }

    /// Passes on a large packet, behind which `rest` was read. If its work takes several turns, the packet is
    /// kept and passed on again.
    fn work_off_large(&mut self, header: Header, body: Bytes, rest: Vec<u8>, sink: &mut impl Sink) {
        let progress = sink.requests(&[parse(header, Workload::shared(&body, &body))]);
        self.state = match progress {
            Progress::HoldAfter(0) => State::Whole { header, body, rest },
            _ if rest.is_empty() => State::Partial(rest),
            _ => State::Paused { bytes: rest, from: 0 },
        };
    }

    /// Continues with the bytes that were held back.
    ///
    /// # Errors
    /// When the stream cannot be split into packets any further.
    pub fn resume(&mut self, sink: &mut impl Sink) -> Result<(), FramingError> {
        match std::mem::replace(&mut self.state, State::Partial(Vec::new())) {
            State::Paused { bytes, from } => {
                self.cut(&bytes[from..], sink)?;
                if let State::Rest(rest) = self.state {
                    // Not copied: input that is processed in many pieces would be copied for each of them.
                    let from = bytes.len() - rest;
                    self.state = State::paused(bytes, from);
                }
            }
            State::Whole { header, body, rest } => self.work_off_large(header, body, rest, sink),
            other => self.state = other,
        }
        self.publish();
        Ok(())
    }

    /// Parses as much of `bytes` as possible, and keeps the rest.
    ///
    /// # Errors
    /// When the stream cannot be split into packets any further.
    pub fn consume(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), FramingError> {
        let result = self.cut(bytes, sink);
        if let State::Rest(rest) = self.state {
            self.state = State::paused(bytes[bytes.len() - rest..].to_vec(), 0);
        }
        self.publish();
        result
    }

    /// Like [`consume`](Self::consume), but the rest stays with the caller.
    fn cut(&mut self, mut bytes: &[u8], sink: &mut impl Sink) -> Result<(), FramingError> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Partial(partial) if partial.is_empty() => {
                    let consumed = self.consume_whole(bytes, sink)?;
                    bytes = &bytes[consumed..];
                }
                State::Partial(_) => {
                    let consumed = self.complete_partial(bytes, sink)?;
                    bytes = &bytes[consumed..];
                }
                State::Large { header, body } => {
                    let missing = header.length as usize - body.len();
                    let (more, rest) = bytes.split_at(missing.min(bytes.len()));
                    body.extend_from_slice(more);
                    bytes = rest;
                    self.large_buffer_filled(sink);
                }
                State::Skip(left) => {
                    let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= skipped as u64;
                    if *left == 0 {
                        self.state = State::Partial(Vec::new());
                    }
                    bytes = &bytes[skipped..];
                }
                State::Paused { bytes: paused, .. } | State::Whole { rest: paused, .. } => {
                    paused.extend_from_slice(bytes);
                    return Ok(());
                }
                State::Rest(rest) => {
                    *rest = bytes.len();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes whole packets and lines from the beginning of `bytes`, then stores a partial one at the end in
    /// the state.
    fn consume_whole(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, FramingError> {
        let mut batch = Batch::new();
        let (mut consumed, mut batch_start) = (0, 0);
        loop {
            let rest = &bytes[consumed..];
            if batch.is_full() {
                match sink.requests(&batch) {
                    Progress::GoOn => {}
                    Progress::Hold => return Ok(self.hold(bytes, consumed)),
                    Progress::HoldAfter(done) => return self.hold_after(bytes, batch_start, done),
                }
                batch.clear();
                batch_start = consumed;
            }
            let next = match scan(rest, &self.limits) {
                Ok(Scan::Packet { header, body }) => {
                    batch.push(parse(header, Workload::borrowed(body)));
                    consumed += header.packet_size();
                    continue;
                }
                other => other,
            };
            if !batch.is_empty() {
                match sink.requests(&batch) {
                    Progress::GoOn => {}
                    Progress::Hold => return Ok(self.hold(bytes, consumed)),
                    Progress::HoldAfter(done) => return self.hold_after(bytes, batch_start, done),
                }
            }
            batch.clear();
            match next? {
                Scan::Line { line, size } => {
                    consumed += size;
                    if !sink.line(line) {
                        return Ok(self.hold(bytes, consumed));
                    }
                    batch_start = consumed;
                }
                Scan::Oversized(header) => {
                    // The answer is small, and the body is not kept. The next request decides whether to
                    // continue.
                    sink.requests(&[Err(PeerError::PACKET_TOO_LARGE)]);
                    self.state = State::Skip(header.packet_size() as u64);
                    return Ok(consumed);
                }
                Scan::PartialPacket(size) => {
                    self.state = large_packet(rest, size, self.amount.account())
                        .unwrap_or_else(|| State::Partial(rest.to_vec()));
                    return Ok(bytes.len());
                }
                Scan::PartialLine => {
                    self.state = State::Partial(rest.to_vec());
                    return Ok(bytes.len());
                }
                // Handled above.
                Scan::Packet { .. } => {}
            }
        }
    }

    /// Keeps everything from `consumed` on for later. Returns how many of `bytes` are consumed by that: all.
    fn hold(&mut self, bytes: &[u8], consumed: usize) -> usize {
        self.state = State::Rest(bytes.len() - consumed);
        bytes.len()
    }

    /// Keeps everything behind the first `done` packets from `start` on for later.
    fn hold_after(&mut self, bytes: &[u8], start: usize, done: usize) -> Result<usize, FramingError> {
        let mut consumed = start;
        for _ in 0..done {
            if let Scan::Packet { header, .. } = scan(&bytes[consumed..], &self.limits)? {
                consumed += header.packet_size();
            }
        }
        Ok(self.hold(bytes, consumed))
    }

    /// Appends the missing bytes to the partial packet or line, and no more. Returns how many bytes it took.
    fn complete_partial(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, FramingError> {
        let State::Partial(partial) = &mut self.state else {
            return Ok(0);
        };
        let wanted = match scan(partial, &self.limits)? {
            Scan::PartialPacket(size) => size - partial.len(),
            _ => memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1),
        };
        let taken = wanted.min(bytes.len());
        partial.extend_from_slice(&bytes[..taken]);
        let mut whole = std::mem::take(partial);
        let size = whole.len();
        match scan(&whole, &self.limits)? {
            // The header is complete. The packet may be large and need a buffer of its own.
            Scan::PartialPacket(size) => {
                self.state = large_packet(&whole, size, self.amount.account()).unwrap_or_else(|| {
                    whole.reserve_exact(size - whole.len());
                    State::Partial(whole)
                });
            }
            Scan::PartialLine => self.state = State::Partial(whole),
            Scan::Packet { .. } | Scan::Line { .. } | Scan::Oversized(_) => {
                let consumed = self.consume_whole(&whole, sink)?;
                if let State::Rest(1..) = self.state {
                    // Nothing of it is processed, and it is not part of the current read.
                    self.state = State::Paused { bytes: whole, from: 0 };
                    return Ok(taken);
                }
                // An oversized packet is skipped from its body on.
                if let State::Skip(left) = &mut self.state {
                    *left -= (size - consumed) as u64;
                    if *left == 0 {
                        self.state = State::Partial(Vec::new());
                    }
                }
            }
        }
        Ok(taken)
    }
}

/// A partial packet of `size` bytes, in a buffer of its own if it is large.
fn large_packet(part: &[u8], size: usize, account: &Account) -> Option<State> {
    if size < LARGE_FROM {
        return None;
    }
    let (header, body) = part.split_first_chunk::<HEADER_SIZE>()?;
    let header = Header::parse(header).ok()?;
    let mut buffer = Vec::new();
    buffer.reserve_exact((header.length as usize).min(first_large_buffer(account).max(body.len())));
    buffer.extend_from_slice(body);
    Some(State::Large { header, body: buffer })
}

/// Initial size of the buffer for a large packet, in bytes.
fn first_large_buffer(account: &Account) -> usize {
    if account.is_plentiful() { FIRST_LARGE_BUFFER } else { FIRST_LARGE_BUFFER_IF_SHORT }
}

fn parse(header: Header, body: Workload<'_>) -> Result<Request<'_>, PeerError> {
    match header.magic {
        Magic::Request => Request::parse(header.number, body),
        Magic::Response => Err(PeerError::INVALID_MAGIC),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: FrameLimits = FrameLimits { packet: 200_000, line: 64 };

    /// Records the input that it receives. Asks to hold the rest at every third call.
    #[derive(Default)]
    struct Record {
        seen: Vec<String>,
        calls: usize,
        holds: bool,
    }

    impl Record {
        fn is_to_go_on(&mut self) -> bool {
            self.calls += 1;
            !self.holds || !self.calls.is_multiple_of(3)
        }
    }

    impl Sink for Record {
        fn requests(&mut self, batch: &[Result<Request<'_>, PeerError>]) -> Progress {
            let is_to_go_on = self.is_to_go_on();
            // An oversized packet is not passed on again.
            let done = if is_to_go_on || batch[0].is_err() { batch.len() } else { self.calls % (batch.len() + 1) };
            for request in &batch[..done] {
                self.seen.push(match request {
                    Ok(Request::Echo { workload }) => {
                        let bytes = workload.as_bytes();
                        format!("echo {} {:?}", bytes.len(), bytes.first())
                    }
                    other => format!("{other:?}"),
                });
            }
            match done {
                _ if is_to_go_on => Progress::GoOn,
                done if done < batch.len() => Progress::HoldAfter(done),
                _ => Progress::Hold,
            }
        }

        fn line(&mut self, line: &[u8]) -> bool {
            self.seen.push(format!("line {}", line.escape_ascii()));
            self.is_to_go_on()
        }
    }

    fn run(stream: &[u8], cuts: &[usize], holds: bool) -> (Vec<String>, Option<FramingError>) {
        let mut decoder = RequestDecoder::new(LIMITS, Arc::default());
        let mut record = Record { holds, ..Record::default() };
        let mut rest = stream;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).clamp(1, rest.len()));
            rest = after;
            let mut result = decoder.consume(piece, &mut record);
            while decoder.is_paused() && result.is_ok() {
                result = decoder.resume(&mut record);
            }
            if let Err(error) = result {
                return (record.seen, Some(error));
            }
        }
        (record.seen, None)
    }

    fn echo(size: usize, fill: u8) -> Vec<u8> {
        let header = Header { magic: Magic::Request, number: 16, length: u32::try_from(size).unwrap() };
        [&header.to_bytes()[..], &vec![fill; size]].concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// The parsed requests do not depend on where the stream is cut or whether input is held back.
        #[test]
        fn cuts_do_not_matter(
            frames in prop::collection::vec((0..5_u8, 0..100_usize, any::<u8>()), 1..150),
            cuts in prop::collection::vec(1..5000_usize, 1..10),
        ) {
            let mut stream = Vec::new();
            for (kind, size, fill) in frames {
                match kind {
                    0 => stream.extend(echo(size, fill)),
                    1 => stream.extend(echo(size * 700, fill)),
                    2 => stream.extend(echo(LIMITS.packet + size, fill)),
                    3 => stream.extend([&vec![b'a'; size % 60][..], b"\n"].concat()),
                    _ => stream.extend(b"\0RES\0\0\0\x10\0\0\0\0"),
                }
            }
            let whole = run(&stream, &[usize::MAX], false);
            prop_assert_eq!(&whole, &run(&stream, &cuts, false));
            prop_assert_eq!(&whole, &run(&stream, &cuts, true));
            prop_assert_eq!(whole.1, None);
        }

        /// Arbitrary bytes cause neither a panic nor an endless loop.
        #[test]
        fn any_bytes_are_survived(stream in prop::collection::vec(any::<u8>(), 0..500), cuts in prop::collection::vec(1..50_usize, 1..5)) {
            run(&stream, &cuts, true);
        }
    }

    #[test]
    fn a_header_alone_sets_aside_little() {
        let mut decoder = RequestDecoder::new(FrameLimits { packet: usize::MAX, line: 64 }, Arc::default());
        let header = Header { magic: Magic::Request, number: 16, length: u32::MAX };
        decoder.consume(&header.to_bytes(), &mut Record::default()).unwrap();
        let (buffer, missing) = decoder.large_buffer().unwrap();
        assert_eq!(missing, u32::MAX as usize);
        assert!(buffer.capacity() <= FIRST_LARGE_BUFFER);
    }
}
