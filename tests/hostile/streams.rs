//! Mutated conversations over sockets.
//!
//! For every stream the test knows from the rules of framing alone whether the server must still understand
//! what follows it, or must end the connection; and one of both is then waited for. So a stream that upset
//! the framing, hung its connection or stopped the server is found at once, with its bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use memchr::memmem;

use crate::common::packet::{self, request};
use crate::common::{DEADLINE, Wire};
use crate::corpus::{HANDLE_PREFIX, conversations};
use crate::mutations::{End, Random, end_of, mutate};
use crate::watched::Watched;

/// Threads that send streams.
const THREADS: u64 = 2;
/// Connections of a thread, among which its streams are dealt out.
const POOL: usize = 8;
/// After so many streams a connection makes room for a fresh one.
const STREAMS_PER_CONNECTION: usize = 12;
/// After so many streams the conversations are made anew, to speak of newer jobs.
const STREAMS_PER_CORPUS: usize = 20;
/// How a JOB_CREATED begins; its length and the job's handle follow.
const JOB_CREATED: &[u8] = b"\0RES\0\0\0\x08";
/// Memory that streams may leave behind: made-up functions stay known with their counts, some KiB each, up to
/// the limit that the test sets, which the first half of the streams reaches; and of what was in use at a
/// time the allocator does not give all back. That no more is added by the second half is what tells a leak
/// from this.
const RETAINED_KIB: u64 = crate::watched::RETAINED_KIB + 3 * 1024;

/// As many streams as `GEARMAND_STREAMS` says, at the speed of the server: some minutes with 500,000.
pub(crate) fn mutated() {
    let count = std::env::var("GEARMAND_STREAMS").map_or(24_000, |count| count.parse().expect("GEARMAND_STREAMS"));
    run(count, 0x5EED_0001, &["--max-functions", "300", "--max-jobs", "1000"]);
}

/// Fewer streams, with limits under which a debug build checks its whole state after every request.
pub(crate) fn mutated_with_all_invariants_checked() {
    run(10_000, 0x5EED_0002, &["--max-functions", "60", "--max-jobs", "60", "--max-pending-jobs-per-connection", "20"]);
}

/// The same with a server whose connections run on several threads.
pub(crate) fn mutated_with_threads() {
    run(10_000, 0x5EED_0003, &["--threads", "4", "--max-functions", "200", "--max-jobs", "1000"]);
}

fn run(count: usize, first_seed: u64, limits: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    let server = Watched::start(&[&["--listen", &listen, "--job-handle-prefix", HANDLE_PREFIX], limits].concat());
    let mut seed = first_seed;
    server.assert_nothing_adds_up(RETAINED_KIB, || {
        eprintln!("seed {seed:#x}");
        let left = AtomicUsize::new(count / 2);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let sender = Sender {
                    server: &server,
                    socket: &socket,
                    random: Random::new(seed + thread),
                    corpus: Vec::new(),
                    last_job: 1,
                    pool: std::iter::repeat_with(|| None).take(POOL).collect(),
                    ends: [0; 3],
                };
                scope.spawn(|| sender.send_all(&left));
            }
        });
        seed += 0x100;
        // Not before all clients are gone, and their foreground jobs with them.
        server.await_departures();
        cancel_all_jobs(&mut server.connect());
    });
}

/// Background jobs outlive their clients.
pub(crate) fn cancel_all_jobs(admin: &mut Wire) {
    for job in admin.text("show jobs").lines().take_while(|line| *line != ".") {
        let handle = job.split('\t').next().expect("a handle");
        assert_eq!(admin.text(&format!("cancel job {handle}")), "OK\r\n", "{job}");
    }
}

struct Sender<'a> {
    server: &'a Watched,
    socket: &'a Path,
    random: Random,
    corpus: Vec<Vec<u8>>,
    /// The number of the newest job that was seen.
    last_job: u64,
    pool: Vec<Option<Connection>>,
    /// How many streams ended between frames, within one, broken.
    ends: [usize; 3],
}

struct Connection {
    stream: Box<dyn Stream>,
    streams: usize,
    received: Vec<u8>,
}

trait Stream: Read + Write + Send {
    fn finish_sending(&self);
}

impl Stream for UnixStream {
    fn finish_sending(&self) {
        // A server that has closed already is what is going to be waited for.
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for std::net::TcpStream {
    fn finish_sending(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Sender<'_> {
    fn send_all(mut self, left: &AtomicUsize) {
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            self.send_one();
        }
        let total: usize = self.ends.iter().sum();
        for count in self.ends {
            assert!(count * 50 > total, "too few streams of one kind to mean something: {:?}", self.ends);
        }
    }

    fn send_one(&mut self) {
        if self.ends.iter().sum::<usize>().is_multiple_of(STREAMS_PER_CORPUS) {
            self.corpus = conversations(self.last_job);
        }
        let mut stream = self.random.pick(&self.corpus).clone();
        let spliced = self.random.below(self.corpus.len());
        mutate(&mut self.random, &mut stream, &self.corpus[spliced]);
        let end = end_of(&stream);
        self.ends[end as usize] += 1;
        let place = self.random.below(POOL);
        let mut connection = self.pool[place].take().unwrap_or_else(|| self.connect());
        let outcome = match end {
            End::Between => self.send_and_echo(&mut connection, &stream),
            End::Within | End::Broken => self.send_and_end(&mut connection, &stream),
        };
        if let Err(why) = outcome {
            panic!("{why} after this stream, which ends {end:?}: {}", stream.escape_ascii());
        }
        self.note_job(&connection.received);
        connection.received.clear();
        connection.streams += 1;
        if end == End::Between && connection.streams < STREAMS_PER_CONNECTION {
            self.pool[place] = Some(connection);
        }
    }

    /// Every fourth connection by TCP; the ports of all would not suffice.
    ///
    /// The first it says is a packet: who begins with something else is not listened to for long.
    fn connect(&mut self) -> Connection {
        let mut stream: Box<dyn Stream> = if self.random.below(4) == 0 {
            Box::new(self.server.connect().stream().try_clone().expect("a second descriptor"))
        } else {
            let stream = UnixStream::connect(self.socket).expect("connect");
            stream.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
            stream.set_write_timeout(Some(DEADLINE)).expect("SO_SNDTIMEO");
            Box::new(stream)
        };
        stream.write_all(&request(packet::ECHO_REQ, b"a peer")).expect("send");
        Connection { stream, streams: 0, received: Vec::new() }
    }

    /// Sends in up to three pieces.
    fn send(&mut self, connection: &mut Connection, bytes: &[u8]) -> std::io::Result<()> {
        let mut rest = bytes;
        for _ in 0..self.random.below(3) {
            let (piece, after) = rest.split_at(self.random.below(rest.len()));
            connection.stream.write_all(piece)?;
            rest = after;
        }
        connection.stream.write_all(rest)
    }

    /// What follows the stream is understood, and answered after everything else.
    fn send_and_echo(&mut self, connection: &mut Connection, bytes: &[u8]) -> Result<(), String> {
        let token = format!("after the stream {:016x}", self.random.next());
        let echo = request(packet::ECHO_REQ, token.as_bytes());
        self.send(connection, &[bytes, &echo].concat()).map_err(|error| format!("cannot send: {error}"))?;
        let mut piece = [0; 16 * 1024];
        while memmem::rfind(&connection.received, token.as_bytes()).is_none() {
            match connection.stream.read(&mut piece) {
                Ok(0) => return Err("closed".to_owned()),
                Ok(size) => connection.received.extend_from_slice(&piece[..size]),
                Err(error) => return Err(format!("no answer: {error}")),
            }
        }
        Ok(())
    }

    /// The connection ends, by the peer or by the server.
    fn send_and_end(&mut self, connection: &mut Connection, bytes: &[u8]) -> Result<(), String> {
        // Broken framing may end the connection before everything is sent.
        let _ = self.send(connection, bytes);
        connection.stream.finish_sending();
        match connection.stream.read_to_end(&mut connection.received) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(format!("not closed: {error}")),
            _ => Ok(()),
        }
    }

    /// Later conversations speak of the newest job.
    fn note_job(&mut self, received: &[u8]) {
        if let Some(at) = memmem::rfind(received, JOB_CREATED) {
            let handle = received.iter().skip(at + packet::HEADER_SIZE + HANDLE_PREFIX.len() + 1);
            let digits = handle.take_while(|byte| byte.is_ascii_digit());
            self.last_job = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        }
    }
}
