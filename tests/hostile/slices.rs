//! Connections that have more to do than anybody can do at once, beside one that asks for little.
//!
//! How long the little takes is counted, not timed: in holds of the server's lock, each of which works off up
//! to 64 requests. For that the server's part runs here, on one thread, with the honest client among its
//! tasks: between two of its requests nobody but the server decides who has his turn.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gearmand::admin::{Admin, Process};
use gearmand::hub::Hub;
use gearmand::job_server::Policy;
use gearmand::net::connection::{Limits, Server, serve};
use gearmand::net::listings::Listings;
use gearmand::net::pressure::Pressure;
use gearmand::net::turn::Turns;
use gearmand::net::watch::Patience;
use gearmand::net::{Clock, runtime};
use gearmand::protocol::packet::FrameLimits;
use gearmand::stats::{ConnectionGauges, Stats};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::common::packet::{self, request};

/// Round trips of the honest client.
const ECHOES: usize = 200;

/// 16 connections that keep as much in their sockets as goes in, of the smallest requests there are. Before
/// turns were bounded, a round trip waited for 16 batches of each of them, and more where the sockets were
/// not looked at: 300 holds and more.
pub(crate) fn small_requests_without_end() {
    const HOLDS: u64 = 24;
    let requests = request(packet::ECHO_REQ, b"").repeat(4096);
    let holds = holds_between_echoes(&vec![(Vec::new(), requests); 16]);
    assert!(holds[ECHOES / 2] <= HOLDS, "{holds:?}");
    // In the beginning nobody knows which of them have so much.
    assert!(holds[ECHOES * 9 / 10] <= 4 * HOLDS, "{holds:?}");
}

/// One worker whose every request takes as long as a hold may: 20,000 functions, and PRE_SLEEP without end.
/// Before, 61 of them were worked off before the sockets were looked at.
pub(crate) fn long_requests_without_end() {
    const HOLDS: u64 = 12;
    const FUNCTIONS: usize = 20_000;
    let functions = (0..FUNCTIONS).flat_map(|name| request(packet::CAN_DO, format!("{name}").as_bytes())).collect();
    let holds = holds_between_echoes(&[(functions, request(packet::PRE_SLEEP, b"").repeat(4096))]);
    assert!(holds[ECHOES / 2] <= HOLDS, "{holds:?}");
}

/// What a peer says once in the beginning, and what it says again and again.
type Peer = (Vec<u8>, Vec<u8>);

/// Serves these peers, and an honest client. Returns how often the lock was taken between each of the
/// client's requests and its answer, in ascending order.
fn holds_between_echoes(peers: &[Peer]) -> Vec<u64> {
    let server = server();
    let pairs: Vec<_> = peers.iter().map(|_| StdStream::pair().expect("a pair of sockets")).collect();
    let (ends, others): (Vec<StdStream>, Vec<StdStream>) = pairs.into_iter().unzip();
    let (is_over, is_under_way) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)));
    let runtime = runtime::start(1).expect("a runtime");
    std::thread::scope(|scope| {
        scope.spawn(|| keep_full(&ends, peers, &is_over, &is_under_way));
        let holds = runtime.block_on(async {
            for stream in others {
                start(&server, stream);
            }
            let (client, stream) = StdStream::pair().expect("a pair of sockets");
            start(&server, stream);
            // As a task it waits in line like all others.
            tokio::spawn(echo(server, client, Arc::clone(&is_under_way))).await
        });
        is_over.store(true, Ordering::Relaxed);
        let mut holds = holds.expect("the client");
        holds.sort_unstable();
        holds
    })
}

fn server() -> Arc<Server> {
    let hub = Arc::new(Hub::new(Policy::default(), Arc::new(Stats::default()), None));
    let process = Process {
        version: "0",
        allow_shutdown: AtomicBool::new(false),
        is_read_only: AtomicBool::new(true),
        log_level: Box::new(|| "NONE"),
        shutdown: Box::new(|_| {}),
    };
    let admin = Arc::new(Admin::new(Arc::clone(&hub), process));
    let pressure = Pressure::new(Arc::clone(&hub.shared_stats().memory));
    Arc::new(Server {
        hub,
        admin,
        clock: Arc::new(Clock::start()),
        listings: Arc::new(Listings::default()),
        pressure,
        turns: Arc::new(Turns::new(1)),
    })
}

fn start(server: &Arc<Server>, stream: StdStream) {
    let limits = Limits {
        frames: FrameLimits { packet: 1 << 20, line: 1024 },
        output: 64 << 20,
        patience: Patience { reading: None, silence: None },
        first_byte_timeout: None,
    };
    let gauges = Arc::new(ConnectionGauges::new(stream.as_raw_fd(), "peer".to_owned()));
    stream.set_nonblocking(true).expect("no waiting");
    let stream = UnixStream::from_std(stream).expect("a socket of the runtime");
    tokio::spawn(serve(Arc::clone(server), limits, gauges, stream));
}

/// Writes for the peers whatever their sockets take, and reads what comes.
fn keep_full(ends: &[StdStream], peers: &[Peer], is_over: &AtomicBool, is_under_way: &AtomicBool) {
    let mut sent = vec![0; peers.len()];
    let mut answers = vec![0; 1 << 16];
    for end in ends {
        end.set_nonblocking(true).expect("no waiting");
    }
    while !is_over.load(Ordering::Relaxed) {
        let mut is_idle = true;
        for ((mut end, (first, rest)), sent) in ends.iter().zip(peers).zip(&mut sent) {
            let next = if *sent < first.len() { &first[*sent..] } else { &rest[(*sent - first.len()) % rest.len()..] };
            let done = [end.write(next), end.read(&mut answers)].map(count);
            *sent += done[0];
            is_idle &= done == [0, 0];
        }
        if sent.iter().zip(peers).all(|(sent, (first, rest))| *sent > first.len() + rest.len()) {
            is_under_way.store(true, Ordering::Relaxed);
        }
        if is_idle {
            std::thread::yield_now();
        }
    }
}

fn count(result: std::io::Result<usize>) -> usize {
    match result {
        Ok(size) => size,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}

/// One echo after the other, once the others have begun.
async fn echo(server: Arc<Server>, client: StdStream, is_under_way: Arc<AtomicBool>) -> Vec<u64> {
    client.set_nonblocking(true).expect("no waiting");
    let mut client = UnixStream::from_std(client).expect("a socket of the runtime");
    let (question, mut answer) = (request(packet::ECHO_REQ, b"honest"), [0; 18]);
    let mut holds = Vec::new();
    while holds.len() < ECHOES {
        let before = server.hub.stats().lock_acquisitions.get();
        client.write_all(&question).await.expect("ask");
        client.read_exact(&mut answer).await.expect("an answer");
        if is_under_way.load(Ordering::Relaxed) {
            holds.push(server.hub.stats().lock_acquisitions.get() - before);
        } else {
            tokio::task::yield_now().await;
        }
    }
    holds
}
