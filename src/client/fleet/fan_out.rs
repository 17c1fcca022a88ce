//! Fan-out: sends requests to many workers as foreground jobs over one connection, and collects their
//! answers.
//!
//! At the end the connection is closed, which also ends the jobs that no worker has taken: a worker that
//! hangs does not find a hundred requests when it recovers.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::server::{LISTING_MAX, read_line};
use crate::client::address::ServerAddress;
use crate::client::admin_text::{TextAnswer, TextConnection};
use crate::client::answer::{Answer, WorkEvent};
use crate::client::connection::{self, Connection, ConnectionError};
use crate::fleet::report::REPORT_MAX;
use crate::protocol::packet::PacketType;

/// While more than this is being sent, further requests wait, in bytes.
const UNSENT_MAX: usize = 1 << 18;

/// Longest packet that is read completely, in bytes: a monitor's longest report. Longer ones are skipped.
const PACKET_MAX: usize = REPORT_MAX + 1024;
/// Memory limit of all answers of a fan-out, in bytes.
const ANSWERS_MAX: usize = 64 << 20;

/// A request to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobRequest {
    pub(super) function: String,
    /// The server merges requests with the same function and unique id. An empty one is never merged.
    pub(super) unique: &'static str,
    pub(super) workload: Vec<u8>,
}

/// When answers are outstanding this long, the server is asked whether the functions still have workers. The
/// interval doubles each time.
const CHECK_AFTER: Duration = Duration::from_millis(200);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// No worker offers the function any more: its worker has ended.
    Gone,
    /// The reason, for people.
    Why(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "connection closed",
            Self::Why(why) => why,
        })
    }
}

/// The answer, or why there is none.
pub(super) type Answered = Result<Bytes, Unanswered>;

/// Sends all requests and returns the answers in the same order.
///
/// # Errors
/// When the connection cannot be established. If it is lost later, the answers received so far are kept.
pub(super) async fn request_all(
    server: &ServerAddress,
    connect_timeout: Duration,
    requests: &[JobRequest],
    limit: Duration,
) -> Result<Vec<Answered>, ConnectionError> {
    let end = Instant::now() + limit;
    let stream = connection::open(server, connect_timeout.min(limit)).await?;
    let mut fan_out = FanOut {
        connection: Connection::new(stream),
        created: VecDeque::new(),
        asked: HashMap::new(),
        answers: vec![None; requests.len()],
        open: requests.len(),
        held: 0,
        sent: 0,
    };
    let (sender, mut offered) = mpsc::channel(1);
    let _watcher = AbortOnDropHandle::new(tokio::spawn(watch(server.clone(), connect_timeout, sender)));
    let missing = match timeout_at(end, fan_out.run(requests, &mut offered)).await {
        Ok(Ok(())) => "no answer".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", limit.as_secs_f64()),
    };
    let missing = || Err(Unanswered::Why(missing.clone()));
    Ok(fan_out.answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect())
}

/// Reports which functions have workers, while answers take longer than usual.
async fn watch(server: ServerAddress, connect_timeout: Duration, offered: mpsc::Sender<BTreeSet<String>>) {
    let mut pause = CHECK_AFTER;
    sleep(pause).await;
    // If this cannot be determined, keep waiting for the answers.
    let Ok(stream) = connection::open(&server, connect_timeout).await else { return };
    let mut text = TextConnection::with_most(stream, LISTING_MAX);
    loop {
        let Ok(TextAnswer::Listing(lines)) = text.ask("status").await.map(|answer| answer.answer) else { return };
        let functions = lines.iter().filter_map(|line| read_line(line)).filter(|(_, known)| known.workers > 0);
        if offered.send(functions.map(|(name, _)| name).collect()).await.is_err() {
            return;
        }
        pause *= 2;
        sleep(pause).await;
    }
}

struct FanOut {
    connection: Connection,
    /// Requests without a handle yet, in the order in which they were sent.
    created: VecDeque<usize>,
    asked: HashMap<Bytes, usize>,
    answers: Vec<Option<Answered>>,
    open: usize,
    /// Size of all answers so far, in bytes.
    held: usize,
    /// Number of requests sent.
    sent: usize,
}

impl FanOut {
    async fn run(
        &mut self,
        requests: &[JobRequest],
        offered: &mut mpsc::Receiver<BTreeSet<String>>,
    ) -> Result<(), ConnectionError> {
        while self.open > 0 {
            while let Some(request) = requests.get(self.sent).filter(|_| self.connection.unsent() < UNSENT_MAX) {
                let arguments = [request.function.as_bytes(), request.unique.as_bytes(), &request.workload];
                self.connection.request(PacketType::SubmitJobHigh, &arguments)?;
                self.created.push_back(self.sent);
                self.sent += 1;
            }
            if let Some(beginning) = self.connection.try_pass_over(PACKET_MAX) {
                self.take_too_long(&beginning);
                continue;
            }
            // Not `receive`, which sends everything before it returns: further requests must not wait for
            // answers.
            if let Some(answer) = self.connection.try_receive()? {
                self.take(answer);
                continue;
            }
            tokio::select! {
                turned = self.connection.turn() => turned?,
                Some(offered) = offered.recv() => self.end_those_of_nobody(requests, &offered),
            }
        }
        Ok(())
    }

    /// Ends the requests to workers that have ended.
    fn end_those_of_nobody(&mut self, requests: &[JobRequest], offered: &BTreeSet<String>) {
        for (index, request) in requests.iter().enumerate().take(self.sent) {
            if !offered.contains(&request.function) {
                self.end(index, Err(Unanswered::Gone));
            }
        }
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::JobCreated(handle) => {
                if let Some(index) = self.created.pop_front() {
                    self.asked.insert(handle, index);
                }
            }
            Answer::Error { code, text } => {
                if let Some(index) = self.created.pop_front() {
                    self.end(index, Err(Unanswered::Why(format!("server error {code}: {text}"))));
                }
            }
            Answer::Work { handle, event } => {
                let answer = match event {
                    WorkEvent::Complete(result) => Ok(result),
                    WorkEvent::Fail => Err(Unanswered::Why("the job failed".to_owned())),
                    WorkEvent::Exception(_) => Err(Unanswered::Why("the job failed with an exception".to_owned())),
                    WorkEvent::Data(_) | WorkEvent::Warning(_) | WorkEvent::Status(..) => return,
                };
                if let Some(index) = self.asked.remove(&handle) {
                    self.end(index, answer);
                }
            }
            Answer::Noop | Answer::NoJob | Answer::JobAssign(_) | Answer::OptionRes | Answer::EchoRes => {}
        }
    }

    /// An oversized answer is skipped, but it begins with the handle.
    fn take_too_long(&mut self, beginning: &Bytes) {
        let handle = beginning.split(|byte| *byte == 0).next().unwrap_or_default();
        if let Some(index) = self.asked.remove(handle) {
            self.end(index, Err(Unanswered::Why(format!("answer exceeds {PACKET_MAX} bytes"))));
        }
    }

    fn end(&mut self, index: usize, answer: Answered) {
        if let Some(place @ None) = self.answers.get_mut(index) {
            let size = answer.as_ref().map_or(0, Bytes::len);
            *place = Some(if self.held + size > ANSWERS_MAX {
                Err(Unanswered::Why(format!("all answers together exceed {ANSWERS_MAX} bytes")))
            } else {
                self.held += size;
                answer
            });
            self.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn packet(number: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap();
        [b"\0RES", &number.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
    }

    fn request(function: &str) -> JobRequest {
        JobRequest { function: function.to_owned(), unique: "", workload: Vec::new() }
    }

    /// Runs a fan-out against a server that reads the requests and then sends this. Returns the answers in
    /// order.
    async fn told(said: Vec<u8>, count: usize) -> Vec<Answered> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).unwrap() > 0);
            // The client may close the connection early.
            let _ = stream.write_all(&said);
            let _ = stream.read(&mut buffer);
        });
        let address = ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port };
        let requests: Vec<JobRequest> = (0..count).map(|_| request("f")).collect();
        let limit = Duration::from_secs(20);
        let answers = request_all(&address, limit, &requests, limit).await.unwrap();
        server.join().unwrap();
        answers
    }

    #[tokio::test]
    async fn an_answer_of_whoever_has_ended_is_not_awaited() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut jobs, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            assert!(jobs.read(&mut buffer).unwrap() > 0);
            jobs.write_all(&[packet(8, b"H:1"), packet(8, b"H:2")].concat()).unwrap();
            let (mut text, _) = listener.accept().unwrap();
            let count = text.read(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"status\r\n");
            // The first worker has ended; the second one is still running.
            text.write_all(b"manage_a\t1\t0\t0\nmanage_b\t1\t0\t1\n.\n").unwrap();
            jobs.write_all(&packet(13, b"H:2\0fine")).unwrap();
            let _ = jobs.read(&mut buffer);
        });
        let address = ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port };
        let (limit, begin) = (Duration::from_mins(1), Instant::now());
        let answers = request_all(&address, limit, &[request("manage_a"), request("manage_b")], limit).await.unwrap();
        server.join().unwrap();
        assert_eq!(answers, [Err(Unanswered::Gone), Ok(Bytes::from_static(b"fine"))]);
        assert!(begin.elapsed() < limit / 2);
    }

    #[tokio::test]
    async fn an_answer_beyond_all_measure_does_not_touch_the_others() {
        const CREATED: u32 = 8;
        const COMPLETE: u32 = 13;
        const FAIL: u32 = 14;
        let long = [&b"H:1\0"[..], &vec![b'x'; PACKET_MAX]].concat();
        let said = [
            packet(CREATED, b"H:1"),
            packet(CREATED, b"H:2"),
            packet(19, b"QUEUE_ERROR\0no"),
            packet(CREATED, b"H:4"),
            packet(COMPLETE, &long),
            packet(COMPLETE, b"H:unknown\0x"),
            packet(FAIL, b"H:4"),
            packet(COMPLETE, b"H:2\0fine"),
        ];
        let answers = told(said.concat(), 4).await;
        assert!(answers[0].as_ref().unwrap_err().to_string().contains("answer exceeds"), "{:?}", answers[0]);
        assert_eq!(answers[1], Ok(Bytes::from_static(b"fine")));
        assert!(answers[2].as_ref().unwrap_err().to_string().contains("QUEUE_ERROR"), "{:?}", answers[2]);
        assert!(answers[3].is_err());
    }
}
