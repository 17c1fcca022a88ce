//! Peers that ask and do not read: what waits for them is bounded, and so is how long it waits.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::common::packet::{self, body, request};
use crate::common::{DEADLINE, Wire, wait_for};
use crate::watched::{HEAP_KIB, RETAINED_KIB, Watched};

const MIB: usize = 1 << 20;
/// More than this never waits for a connection that asks and does not read; also a limit that these tests
/// set.
const MAX_OUTPUT_KIB: u64 = 64 * 1024;
/// Short, so that the test need not wait for long; long enough for a peer that reads, and that a busy machine
/// keeps from it for a while.
const WRITE_TIMEOUT: [&str; 2] = ["--write-timeout", "2s"];

/// Connects with a receive buffer that does not swallow what the test is about.
fn connect(server: &Watched) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).expect("connect");
    SockRef::from(&stream).set_recv_buffer_size(64 * 1024).expect("SO_RCVBUF");
    stream.set_write_timeout(Some(DEADLINE)).expect("SO_SNDTIMEO");
    stream
}

/// Sends `bytes` up to `times` times, until the server ends the connection. Returns how often they were sent
/// whole.
fn send_until_closed(stream: &mut TcpStream, bytes: &[u8], times: usize) -> usize {
    for sent in 0..times {
        if let Err(error) = stream.write_all(bytes) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "neither read from nor closed");
            return sent;
        }
    }
    times
}

#[track_caller]
fn assert_peak(server: &Watched, allowed_kib: u64) {
    let peak = server.peak_kib();
    assert!(peak <= allowed_kib, "a peak of {peak} KiB; {allowed_kib} are allowed");
}

/// 400 echoes of 1 MiB from a peer that reads none of them: the server stops reading, and then ends it.
pub(crate) fn echoes_never_read() {
    let server = Watched::start(&WRITE_TIMEOUT);
    server.reset_peak();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let echo = request(packet::ECHO_REQ, &vec![b'e'; MIB]);
            let sent = send_until_closed(&mut connect(&server), &echo, 400);
            assert!(sent < 400, "the server took everything");
        });
        server.serve_a_job();
    });
    // The output's limit, a packet beyond it, and one that is being read.
    assert_peak(&server, MAX_OUTPUT_KIB + 2 * 1024 + RETAINED_KIB);
    server.assert_recovered(RETAINED_KIB + HEAP_KIB);
}

/// A client that does not read the results of its jobs is ended when too much waits for it; its worker does
/// not notice.
pub(crate) fn results_never_read() {
    const JOBS: usize = 300;
    // The limit alone ends it.
    let server = Watched::start(&["--write-timeout", "0", "--max-output-buffer", "64MiB"]);
    server.reset_peak();
    let mut worker = server.connect();
    worker.send(packet::CAN_DO, b"large");
    worker.expect_nothing();
    let mut client = server.connect();
    SockRef::from(client.stream()).set_recv_buffer_size(64 * 1024).expect("SO_RCVBUF");
    client.send_raw(&request(packet::SUBMIT_JOB, &body(&[b"large", b"", b"workload"])).repeat(JOBS));
    (0..JOBS).for_each(|_| drop(client.expect_type(packet::JOB_CREATED)));
    let result = vec![b'r'; MIB];
    for done in 0..JOBS {
        worker.send(packet::GRAB_JOB, b"");
        let (packet_type, assigned) = worker.recv();
        if packet_type == packet::NO_JOB {
            // The rest of the jobs left with their client.
            assert!(done > 60, "{done} results of 1 MiB were too many");
            break;
        }
        assert_eq!(packet_type, packet::JOB_ASSIGN);
        let handle = assigned.split(|byte| *byte == 0).next().expect("a handle");
        worker.send(packet::WORK_COMPLETE, &body(&[handle, &result]));
        worker.expect_nothing();
        if done % 100 == 1 {
            server.serve_a_job();
        }
    }
    wait_for("the end of the client", || (server.connections() == 1).then_some(()));
    assert_peak(&server, MAX_OUTPUT_KIB + 2 * 1024 + RETAINED_KIB);
    drop((client, worker));
    server.assert_recovered(RETAINED_KIB + HEAP_KIB);
}

/// Workers that finish together owe their client more than it can read at once: it is not slow, and gets
/// everything.
pub(crate) fn large_results_at_once() {
    const WORKERS: usize = 8;
    let server = Watched::start(&[]);
    let mut client = server.connect();
    client.send_raw(&request(packet::SUBMIT_JOB, &body(&[b"large", b"", b""])).repeat(WORKERS));
    (0..WORKERS).for_each(|_| drop(client.expect_type(packet::JOB_CREATED)));
    let result = vec![b'r'; 32 * MIB];
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let mut worker = server.connect();
            worker.send(packet::CAN_DO, b"large");
            worker.send(packet::GRAB_JOB, b"");
            let assigned = worker.expect_type(packet::JOB_ASSIGN);
            let handle = assigned.split(|byte| *byte == 0).next().expect("a handle").to_vec();
            let result = &result;
            scope.spawn(move || {
                worker.send(packet::WORK_COMPLETE, &body(&[&handle, result]));
                worker.expect_nothing();
            });
        }
        for _ in 0..WORKERS {
            assert!(client.expect_type(packet::WORK_COMPLETE).ends_with(&result));
        }
    });
    drop(client);
    // Each result began in a buffer of 1 MiB, which may have left free memory between what is in use.
    server.assert_recovered(RETAINED_KIB + HEAP_KIB + WORKERS as u64 * 1100);
}

/// Listings asked for without end and never read, of jobs and of connections.
pub(crate) fn listings_never_read() {
    let server = Watched::start(&WRITE_TIMEOUT);
    read_no_listings(&server);
    server.assert_recovered(RETAINED_KIB + HEAP_KIB);
    read_no_listings(&server);
    server.assert_recovered(RETAINED_KIB + HEAP_KIB);
}

fn read_no_listings(server: &Watched) {
    let mut crowd: Vec<Wire> = (0..200).map(|_| server.connect()).collect();
    let mut client = server.connect();
    let submit = request(packet::SUBMIT_JOB, &body(&[b"waiting", b"", b"workload"]));
    client.send_raw(&submit.repeat(2_000));
    (0..2_000).for_each(|_| drop(client.expect_type(packet::JOB_CREATED)));
    crowd.iter_mut().for_each(Wire::expect_nothing);
    server.reset_peak();
    std::thread::scope(|scope| {
        for lines in ["show jobs\nworkers\n", "workers\nstatus\nprioritystatus\n", "show unique jobs\n"] {
            scope.spawn(move || {
                send_until_closed(&mut connect(server), lines.repeat(1_000).as_bytes(), 4_000);
            });
        }
        server.serve_a_job();
    });
    assert_peak(server, 3 * (MAX_OUTPUT_KIB + 1024) + RETAINED_KIB);
}

/// One listing that is longer than a connection's output may be: it is made as it is read.
pub(crate) fn a_long_listing_never_read() {
    const JOBS: usize = 200_000;
    const BATCH: usize = 1_000;
    let prefix = "H:a-prefix-of-the-greatest-length-that-is-allowed--";
    let server = Watched::start(
        &[
            &WRITE_TIMEOUT[..],
            &["--max-packet-size", "1m", "--max-output-buffer", "1m", "--job-handle-prefix", &prefix[..50]],
        ]
        .concat(),
    );
    let mut client = server.connect();
    let submit = request(packet::SUBMIT_JOB, &body(&[b"waiting", b"", b""])).repeat(BATCH);
    for _ in 0..JOBS / BATCH {
        client.send_raw(&submit);
        (0..BATCH).for_each(|_| drop(client.expect_type(packet::JOB_CREATED)));
    }
    let with_jobs = server.grown_kib();
    server.reset_peak();
    let mut silent = connect(&server);
    silent.write_all(b"show jobs\n").expect("send");
    let mut reader = server.connect();
    reader.send_raw(b"show jobs\n");
    let listing = BufReader::new(reader.stream()).lines().map(|line| line.expect("a line of the listing"));
    assert_eq!(listing.take_while(|line| line != ".").count(), JOBS);
    server.serve_a_job();
    // The one that reads nothing is ended, long before it has its listing.
    wait_for("the end of the silent reader", || (server.connections() == 2).then_some(()));
    assert_peak(&server, with_jobs + 2 * 1024 + RETAINED_KIB);
    drop((client, reader));
    // Tables that were large once stay so: a job's and a wait's place, and two in indexes.
    server.assert_recovered(RETAINED_KIB + HEAP_KIB + 200 * JOBS as u64 / 1024);
}

/// A peer that reads slowly but steadily is not cut off, though it takes several times the write timeout for
/// its answer.
pub(crate) fn slow_but_steady() {
    const PIECE: usize = 64 * 1024;
    // Ten seconds in all, five times the timeout. This is the pace of a peer and waits for nothing.
    const PACE: Duration = Duration::from_millis(80);
    let server = Watched::start(&WRITE_TIMEOUT);
    let mut stream = connect(&server);
    stream.write_all(&request(packet::ECHO_REQ, &vec![b'e'; 8 * MIB])).expect("the server reads");
    let mut piece = vec![0; PIECE];
    let mut left = 8 * MIB + 12;
    while left > 0 {
        let wanted = left.min(PIECE);
        stream.read_exact(&mut piece[..wanted]).expect("the server goes on writing");
        left -= wanted;
        std::thread::sleep(PACE);
    }
    drop(stream);
    server.assert_recovered(RETAINED_KIB + HEAP_KIB);
}

/// Sends echoes until the server reads no more, which it may also do for lack of CPU as long as so much
/// memory is not taken.
fn send_until_taken(server: &Watched, mut peer: &TcpStream, kib: u64) {
    peer.set_write_timeout(Some(Duration::from_secs(2))).expect("SO_SNDTIMEO");
    let echo = request(packet::ECHO_REQ, &vec![b'e'; MIB]);
    let (began, mut sent) = (Instant::now(), 0);
    loop {
        match peer.write(&echo[sent..]) {
            Ok(size) => sent = (sent + size) % echo.len(),
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("cannot send: {error}"),
            Err(_) if server.grown_kib() > kib || began.elapsed() > DEADLINE => return,
            Err(_) => {}
        }
    }
}

/// Echoes that are not read take hundreds of MiB; when their peers have gone, the system gets them back
/// within seconds.
pub(crate) fn memory_comes_back() {
    const PEERS: usize = 6;
    // The system may have given it to others meanwhile: this is more than it takes.
    const TIME: Duration = Duration::from_secs(10);
    const TAKEN_KIB: u64 = PEERS as u64 * 40 * 1024;
    let server = Watched::start(&[]);
    let peers: Vec<TcpStream> = (0..PEERS).map(|_| connect(&server)).collect();
    std::thread::scope(|scope| {
        let server = &server;
        for peer in &peers {
            scope.spawn(move || send_until_taken(server, peer, TAKEN_KIB));
        }
    });
    let taken = server.grown_kib();
    assert!(taken > TAKEN_KIB, "only {taken} KiB were taken");
    // What the server has allocated since lies above it.
    let mut client = server.connect();
    client.send_raw(&request(packet::SUBMIT_JOB_BG, &body(&[b"later", b"", &[b'w'; 1000]])).repeat(1000));
    (0..1000).for_each(|_| drop(client.expect_type(packet::JOB_CREATED)));
    let started = Instant::now();
    drop(peers);
    wait_for("the memory", || (server.grown_kib() < HEAP_KIB + 8 * 1024).then_some(()));
    assert!(started.elapsed() < TIME, "it took {:?}", started.elapsed());
}

/// A peer that takes nothing for too long is closed, and the log says which.
pub(crate) fn a_slow_reader_is_named() {
    let server = Watched::start(&["--write-timeout", "300ms", "--verbose", "WARNING"]);
    let mut lazy = connect(&server);
    lazy.write_all(&request(packet::SET_CLIENT_ID, b"a lazy one")).expect("send");
    lazy.write_all(&request(packet::ECHO_REQ, &vec![b'e'; 16 * MIB])).expect("send");
    wait_for("its end", || (server.connections() == 0).then_some(()));
    let line = "Closed 127.0.0.1 (a lazy one): slow reader: read nothing for 300ms (--write-timeout)";
    wait_for("the line", || server.server().log().contains(line).then_some(()));
}
