//! Workers with very many functions, who ask again and again.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::packet::{self, request};
use crate::watched::{RETAINED_KIB, Watched, serve_a_job};

/// So many functions each; beyond what one hold of the lock looks through.
const FUNCTIONS: usize = 3_000;
const WORKERS: usize = 10;
/// What the workers' functions cost while they are known, in KiB.
const FUNCTIONS_KIB: u64 = 16 * 1024;
/// Round trips of others meanwhile.
const JOBS: usize = 20;
/// What half of the round trips may take at most. An optimised server takes a few milliseconds; requests that
/// are worked off 64 in a row take it seconds.
const MEDIAN: Duration = Duration::from_millis(500);

/// Each worker sends GRAB_JOB and PRE_SLEEP without end. A foreground job of others is done in between.
pub(crate) fn grabs_without_end() {
    let server = Watched::start(&["--max-functions-per-connection", "3000"]);
    // A job that is ready all the time, and that none of them can do: the server is never without jobs.
    let mut client = server.connect();
    client.send(packet::SUBMIT_JOB, &packet::body(&[b"nobody's", b"", b""]));
    client.expect_type(packet::JOB_CREATED);
    let names: Vec<u8> =
        (0..FUNCTIONS).flat_map(|name| request(packet::CAN_DO, format!("{name}").as_bytes())).collect();
    let mut crowd: Vec<TcpStream> = Vec::new();
    for _ in 0..WORKERS {
        let mut wire = server.connect();
        wire.send_raw(&names);
        wire.expect_nothing();
        crowd.push(wire.stream().try_clone().expect("a second handle"));
    }
    let asked = [request(packet::PRE_SLEEP, b""), request(packet::GRAB_JOB, b"")].concat().repeat(100);
    let is_over = AtomicBool::new(false);
    let mut took = std::thread::scope(|scope| {
        for stream in &mut crowd {
            scope.spawn(|| ask_until(&is_over, stream, &asked));
        }
        let took: Vec<Duration> = (0..JOBS)
            .map(|_| {
                let (mut client, mut worker) = (server.connect(), server.connect());
                let start = Instant::now();
                serve_a_job(&mut client, &mut worker, b"good");
                start.elapsed()
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        took
    });
    took.sort();
    eprintln!("median {:?}, longest {:?}", took[JOBS / 2], took[JOBS - 1]);
    assert!(took[JOBS / 2] < MEDIAN, "{took:?}");
    drop((crowd, client));
    server.assert_recovered(RETAINED_KIB + FUNCTIONS_KIB);
}

/// Sends, and reads what is answered, without waiting for either.
pub(crate) fn ask_until(is_over: &AtomicBool, stream: &mut TcpStream, asked: &[u8]) {
    stream.set_nonblocking(true).expect("no waiting");
    let (mut sent, mut answers) = (0, [0; 16 * 1024]);
    while !is_over.load(Ordering::Relaxed) {
        let written = done(stream.write(&asked[sent..]));
        sent = (sent + written.unwrap_or(0)) % asked.len();
        if done(stream.read(&mut answers)).or(written).is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// How much was written or read, if the stream could take or give some.
fn done(result: std::io::Result<usize>) -> Option<usize> {
    match result {
        Ok(size) => Some(size),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}
