//! Many concurrent requests over one client connection to the job server: one job each.
//!
//! The answers are untrusted. An answer that is too long is skipped while it arrives, and the total size of
//! all answers is limited. Other packets of a job are ignored.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::http::Interface;
use crate::http::job::connect;
use crate::protocol::packet::{HEADER_SIZE, Header, Magic, PacketType, split_arguments};

/// Maximum total size of the answers on one connection, in bytes.
pub(super) const ANSWERS_MAX: usize = 16 << 20;
/// Maximum number of submissions in flight.
const AT_ONCE: usize = 64;
/// Maximum size of a packet without its answer, in bytes: the handle.
const BESIDE: usize = 1024;
/// Read size, in bytes.
const READ: usize = 16 * 1024;

/// A request: a job whose result is the answer.
pub(super) struct JobRequest {
    /// The function that answers.
    pub(super) function: String,
    /// Unique id, so that equal requests of several clients coalesce; empty for none.
    pub(super) unique: &'static str,
    /// The request itself.
    pub(super) workload: Bytes,
    /// Maximum size of the answer, in bytes.
    pub(super) most: usize,
}

/// The outcome of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The result of the job.
    Answer(Bytes),
    /// Why there will be no answer.
    Failed(String),
}

/// Sends all requests, and calls `each` for every reply with the index of its request, until all have arrived
/// or the timeout expires. Jobs that no worker has grabbed by then vanish with the connection.
///
/// # Errors
/// The connection cannot be opened, or ends before the timeout.
pub(super) async fn fan_out(
    interface: &Interface,
    peer: String,
    requests: &[JobRequest],
    time: Duration,
    each: impl FnMut(usize, Reply) + Send,
) -> io::Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let mut connection = JobConnection::new(connect(interface, peer)?, requests);
    let requests = FanOut { all: requests, sent: 0, accepted: 0, open: HashMap::new(), held: 0, each };
    match timeout(time, requests.run(&mut connection)).await {
        Ok(done) => done,
        Err(_) => Ok(()),
    }
}

/// The state of the requests.
struct FanOut<'a, F> {
    all: &'a [JobRequest],
    sent: usize,
    /// Number of requests that were created or rejected. The job server responds in their order.
    accepted: usize,
    /// Indices of the created jobs without a reply, by handle.
    open: HashMap<Bytes, usize>,
    /// Total size of all answers so far, in bytes.
    held: usize,
    each: F,
}

impl<F: FnMut(usize, Reply)> FanOut<'_, F> {
    async fn run(mut self, connection: &mut JobConnection) -> io::Result<()> {
        while self.accepted < self.all.len() || !self.open.is_empty() {
            if self.sent == self.accepted && self.sent < self.all.len() {
                let next = &self.all[self.sent..self.all.len().min(self.sent + AT_ONCE)];
                self.sent += next.len();
                connection.submit(next).await?;
            }
            let packet = connection.next().await?;
            let is_long = packet.body.len() > READ;
            self.take(packet);
            if is_long {
                // It took a while to read. Yields, so that other connections run.
                yield_now().await;
            }
        }
        Ok(())
    }

    fn take(&mut self, Received { packet_type, body, is_cut }: Received) {
        match packet_type {
            Some(PacketType::JobCreated) => {
                self.open.insert(Bytes::copy_from_slice(&body), self.accepted);
                self.accepted += 1;
            }
            Some(PacketType::Error) => {
                let [code, text] = split_arguments::<2>(&body).unwrap_or([b"ERROR", &body]);
                let why = format!("{}: {}", String::from_utf8_lossy(code), String::from_utf8_lossy(text));
                (self.each)(self.accepted, Reply::Failed(why));
                self.accepted += 1;
            }
            Some(PacketType::WorkComplete) => {
                let Some([handle, answer]) = split_arguments::<2>(&body) else { return };
                let Some(place) = self.open.remove(handle) else { return };
                let answer = body.slice_ref(answer);
                let most = self.all.get(place).map_or(0, |request| request.most);
                let reply = if is_cut || answer.len() > most {
                    Reply::Failed(format!("answer exceeds {most} bytes"))
                } else if self.held + answer.len() > ANSWERS_MAX {
                    Reply::Failed(format!("all answers together exceed {ANSWERS_MAX} bytes"))
                } else {
                    self.held += answer.len();
                    Reply::Answer(answer)
                };
                (self.each)(place, reply);
            }
            Some(PacketType::WorkFail) => {
                if let Some(place) = self.open.remove(&body) {
                    (self.each)(place, Reply::Failed("WORK_FAIL instead of an answer".to_owned()));
                }
            }
            _ => {}
        }
    }
}

/// A packet, or the beginning of one that is too long.
struct Received {
    packet_type: Option<PacketType>,
    body: Bytes,
    is_cut: bool,
}

/// The connection.
struct JobConnection {
    stream: UnixStream,
    received: BytesMut,
    /// Maximum answer size of all requests, in bytes.
    most: usize,
    /// Number of following bytes that belong to a skipped packet.
    passed_over: usize,
}

impl JobConnection {
    fn new(stream: UnixStream, requests: &[JobRequest]) -> Self {
        let most = requests.iter().map(|request| request.most).max().unwrap_or(0);
        Self { stream, received: BytesMut::new(), most, passed_over: 0 }
    }

    /// Submits the requests as jobs. It waits only for the job server.
    async fn submit(&mut self, requests: &[JobRequest]) -> io::Result<()> {
        let mut packets = Vec::new();
        for JobRequest { function, unique, workload, .. } in requests {
            let length = function.len() + unique.len() + workload.len() + 2;
            let length = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
            let number = PacketType::SubmitJobHigh.number();
            packets.put_slice(&Header { magic: Magic::Request, number, length }.to_bytes());
            for argument in [function, *unique] {
                packets.put_slice(argument.as_bytes());
                packets.put_u8(0);
            }
            packets.put_slice(workload);
        }
        self.stream.write_all(&packets).await
    }

    /// The next packet. Cancel safe.
    async fn next(&mut self) -> io::Result<Received> {
        loop {
            let skip = self.passed_over.min(self.received.len());
            self.received.advance(skip);
            self.passed_over -= skip;
            if let Some(received) = self.cut()? {
                return Ok(received);
            }
            self.received.reserve(READ);
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Returns a packet if it is complete, or the beginning of an oversized one if that includes the handle.
    fn cut(&mut self) -> io::Result<Option<Received>> {
        if self.passed_over > 0 {
            return Ok(None);
        }
        let Some(head) = self.received.first_chunk::<HEADER_SIZE>() else { return Ok(None) };
        let header = Header::parse(head).map_err(io::Error::other)?;
        let size = header.packet_size();
        let is_cut = size > HEADER_SIZE + BESIDE + self.most;
        let wanted = if is_cut { HEADER_SIZE + BESIDE } else { size };
        if self.received.len() < wanted {
            return Ok(None);
        }
        self.passed_over = size - wanted;
        let body = self.received.split_to(wanted).freeze().slice(HEADER_SIZE..);
        Ok(Some(Received { packet_type: PacketType::from_number(header.number), body, is_cut }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::contract::ANSWER_MAX;

    fn packet(packet_type: PacketType, arguments: &[&[u8]]) -> Vec<u8> {
        let body = arguments.join(&0);
        let length = u32::try_from(body.len()).unwrap();
        let header = Header { magic: Magic::Response, number: packet_type.number(), length };
        [&header.to_bytes()[..], &body].concat()
    }

    fn requests(count: usize) -> Vec<JobRequest> {
        let request =
            |place| JobRequest { function: format!("f{place}"), unique: "", workload: Bytes::new(), most: ANSWER_MAX };
        (0..count).map(request).collect()
    }

    /// Sends `count` requests to a fake server that responds with these bytes.
    async fn asked(count: usize, said: Vec<u8>) -> (io::Result<()>, Vec<(usize, Reply)>) {
        sent_these(requests(count), said).await
    }

    async fn sent_these(all: Vec<JobRequest>, said: Vec<u8>) -> (io::Result<()>, Vec<(usize, Reply)>) {
        let (own, mut other) = UnixStream::pair().unwrap();
        let mut connection = JobConnection::new(own, &all);
        let mut replies = Vec::new();
        let each = |place, reply| replies.push((place, reply));
        let run = FanOut { all: &all, sent: 0, accepted: 0, open: HashMap::new(), held: 0, each };
        let server = async move {
            // More than the socket buffers hold may be written.
            let _ = other.write_all(&said).await;
        };
        let (done, ()) = tokio::join!(run.run(&mut connection), server);
        (done, replies)
    }

    #[tokio::test]
    async fn replies_go_to_their_questions_in_any_order() {
        let said = [
            packet(PacketType::JobCreated, &[b"H:1"]),
            packet(PacketType::Error, &[b"QUEUE_FULL", b"no room"]),
            packet(PacketType::JobCreated, &[b"H:3"]),
            packet(PacketType::WorkData, &[b"H:1", b"early"]),
            packet(PacketType::WorkComplete, &[b"H:other", b"whose?"]),
            packet(PacketType::WorkComplete, &[b"H:3", b"a\0b"]),
            packet(PacketType::WorkComplete, &[b"H:3", b"again"]),
            packet(PacketType::WorkFail, &[b"H:1"]),
        ];
        let (done, replies) = asked(3, said.concat()).await;
        done.unwrap();
        let expected = [
            (1, Reply::Failed("QUEUE_FULL: no room".to_owned())),
            (2, Reply::Answer(Bytes::from_static(b"a\0b"))),
            (0, Reply::Failed("WORK_FAIL instead of an answer".to_owned())),
        ];
        assert_eq!(replies, expected);
    }

    #[tokio::test]
    async fn what_is_too_long_is_passed_over_and_the_rest_is_read() {
        let long = vec![b'x'; ANSWER_MAX + 2 * BESIDE];
        let said = [
            packet(PacketType::JobCreated, &[b"H:1"]),
            packet(PacketType::JobCreated, &[b"H:2"]),
            packet(PacketType::WorkComplete, &[b"H:1", &long]),
            packet(PacketType::WorkComplete, &[b"H:2", b"short"]),
        ];
        let (done, replies) = asked(2, said.concat()).await;
        done.unwrap();
        let too_long = Reply::Failed(format!("answer exceeds {ANSWER_MAX} bytes"));
        assert_eq!(replies, [(0, too_long), (1, Reply::Answer(Bytes::from_static(b"short")))]);
    }

    #[tokio::test]
    async fn each_question_has_its_own_bound() {
        let mut all = requests(2);
        all[1].most = 3 * ANSWER_MAX;
        let long = vec![b'x'; 2 * ANSWER_MAX];
        let said = [
            packet(PacketType::JobCreated, &[b"H:1"]),
            packet(PacketType::JobCreated, &[b"H:2"]),
            packet(PacketType::WorkComplete, &[b"H:1", &long]),
            packet(PacketType::WorkComplete, &[b"H:2", &long]),
        ];
        let (done, replies) = sent_these(all, said.concat()).await;
        done.unwrap();
        let too_long = Reply::Failed(format!("answer exceeds {ANSWER_MAX} bytes"));
        assert_eq!(replies, [(0, too_long), (1, Reply::Answer(Bytes::from(long)))]);
    }

    #[tokio::test]
    async fn all_answers_together_are_bounded() {
        let count = 18;
        let handle = |place: usize| format!("H:{place}").into_bytes();
        let mut said: Vec<_> = (0..count).map(|place| packet(PacketType::JobCreated, &[&handle(place)])).collect();
        let long = vec![b'x'; ANSWER_MAX];
        said.extend((0..count).map(|place| packet(PacketType::WorkComplete, &[&handle(place), &long])));
        let (done, replies) = asked(count, said.concat()).await;
        done.unwrap();
        let held = replies.iter().filter(|(_, reply)| matches!(reply, Reply::Answer(_))).count();
        assert_eq!((held, replies.len()), (ANSWERS_MAX / ANSWER_MAX, count));
    }

    #[tokio::test]
    async fn an_end_or_nonsense_is_an_error() {
        for said in [Vec::new(), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
            let (done, replies) = asked(1, said).await;
            assert!(done.is_err() && replies.is_empty());
        }
    }
}
