//! Backlogs of millions of jobs: nobody else waits while tables grow, nor while they are emptied and memory
//! goes back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Wire, packet, packet::HEADER_SIZE, packet::body, packet::request};
use crate::watched::{HEAP_KIB, RETAINED_KIB, Watched};

/// Measures with as many jobs as the figures are for, instead of as many as take a few seconds.
const FULL: &str = "HOSTILE_FULL";
/// An honest client looks this often, whether the answer to its last look has come or not.
const PACE: Duration = Duration::from_millis(1);
/// Connections that submit jobs, and that take them.
const PEERS: usize = 4;
/// Jobs that each of them has outstanding.
const WINDOW: usize = 64;
const WORKLOAD: usize = 200;

/// How many jobs there are, and what an honest client's 99.9th percentile may be meanwhile. Tests that run
/// beside this one take the CPU for as long, so that the figure holds for the full size alone, on a machine
/// without other work.
struct Size {
    jobs: usize,
    longest: Duration,
}

impl Size {
    fn new(full: usize, reduced: usize) -> Self {
        if std::env::var_os(FULL).is_some() {
            Self { jobs: full, longest: Duration::from_millis(20) }
        } else {
            Self { jobs: reduced, longest: Duration::from_millis(500) }
        }
    }
}

/// In memory.
pub(crate) fn in_memory() {
    let size = Size::new(5_000_000, 100_000);
    let server = Watched::start(&[]);
    // Tables are small again, but not as small as in the beginning; what lies free between them is not given
    // back while it is little.
    server.assert_nothing_adds_up(RETAINED_KIB + 3 * HEAP_KIB, || fill_and_empty(server.addr(), &size));
}

/// In a file, where removals are written as well.
pub(crate) fn durable() {
    let size = Size::new(300_000, 20_000);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("jobs.sqlite3");
    let file = file.to_str().expect("a path");
    let server = Watched::start(&["--queue-type", "libsqlite3", "--libsqlite3-db", file]);
    fill_and_empty(server.addr(), &size);
    // The cache of the file stays.
    server.assert_recovered(RETAINED_KIB + HEAP_KIB + 16 * 1024);
}

fn fill_and_empty(server: SocketAddr, size: &Size) {
    let jobs = size.jobs / PEERS;
    for (what, peer) in [("fill", submit as fn(SocketAddr, usize, usize)), ("empty", take)] {
        let stop = AtomicBool::new(false);
        let mut waits = thread::scope(|scope| {
            let honest = scope.spawn(|| look(server, &stop));
            let peers: Vec<_> = (0..PEERS).map(|index| scope.spawn(move || peer(server, index, jobs))).collect();
            let ended: Vec<_> = peers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            stop.store(true, Ordering::Relaxed);
            for peer in ended {
                peer.expect("a peer");
            }
            honest.join().expect("the honest client")
        });
        waits.sort_unstable();
        let part = |thousandths: usize| waits[(waits.len() - 1) * thousandths / 1000];
        let figures = format!("p50 {:?}, p99 {:?}, p99.9 {:?}, most {:?}", part(500), part(990), part(999), part(1000));
        eprintln!("{what} {} jobs: {} looks, {figures}", size.jobs, waits.len());
        assert!(part(999) <= size.longest, "{what}: {figures}; {:?} are allowed", size.longest);
    }
}

/// Echoes at a fixed pace: how long each took from when it was due, since one that could not be sent waits as
/// well.
fn look(server: SocketAddr, stop: &AtomicBool) -> Vec<Duration> {
    let mut wire = Wire::connect(server);
    let mut waits = Vec::new();
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // One that oversleeps is not the server's fault, unless it had to wait for the last answer.
        let late = waits.last().is_some_and(|wait| *wait > PACE);
        let begun = if late { due } else { Instant::now() };
        wire.send(packet::ECHO_REQ, b"look");
        wire.expect(packet::ECHO_RES, b"look");
        waits.push(begun.elapsed());
        due += PACE;
    }
    waits
}

fn submit(server: SocketAddr, index: usize, jobs: usize) {
    let mut stream = connect(server);
    let workload = [b'w'; WORKLOAD];
    let mut input = Input::default();
    let (mut sent, mut kept) = (0, 0);
    let mut output = Vec::new();
    while kept < jobs {
        output.clear();
        while sent < jobs && sent - kept < WINDOW {
            let unique = format!("{index}-{sent:034}");
            output.extend(request(packet::SUBMIT_JOB_BG, &body(&[b"backlog", unique.as_bytes(), &workload])));
            sent += 1;
        }
        stream.write_all(&output).expect("submit");
        input.read(&mut stream, |kind, _| {
            assert_eq!(kind, packet::JOB_CREATED, "a job is refused");
            kept += 1;
        });
    }
}

/// Does jobs until there are none, some in hand at a time.
fn take(server: SocketAddr, _: usize, _: usize) {
    const IN_HAND: usize = 8;
    let mut stream = connect(server);
    let grab = request(packet::GRAB_JOB, b"");
    let mut input = Input::default();
    let mut output = [&request(packet::CAN_DO, b"backlog")[..], &grab.repeat(IN_HAND)].concat();
    let (mut asked, mut is_empty) = (IN_HAND, false);
    while asked > 0 {
        stream.write_all(&output).expect("work");
        output.clear();
        input.read(&mut stream, |kind, job| {
            asked -= 1;
            is_empty |= kind == packet::NO_JOB;
            if kind == packet::JOB_ASSIGN {
                let handle = job.split(|byte| *byte == 0).next().unwrap_or_default();
                output.extend(request(packet::WORK_COMPLETE, &body(&[handle, b""])));
                if !is_empty {
                    output.extend(&grab);
                    asked += 1;
                }
            }
        });
    }
    output.extend(request(packet::ECHO_REQ, b"all done"));
    stream.write_all(&output).expect("work");
    input.read(&mut stream, |kind, _| assert_eq!(kind, packet::ECHO_RES));
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("connect");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

/// What a connection has read and not looked at.
#[derive(Default)]
struct Input(Vec<u8>);

impl Input {
    /// Reads once, and shows every whole packet.
    fn read(&mut self, stream: &mut TcpStream, mut show: impl FnMut(u32, &[u8])) {
        let mut buffer = vec![0; 32 * 1024];
        let length = stream.read(&mut buffer).expect("read");
        assert_ne!(length, 0, "the server closed the connection");
        self.0.extend(&buffer[..length]);
        let mut rest = &self.0[..];
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER_SIZE>() {
            let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let Some((content, behind)) = behind.split_at_checked(word(8) as usize) else { break };
            show(word(4), content);
            rest = behind;
        }
        let left = rest.len();
        self.0.drain(..self.0.len() - left);
    }
}
