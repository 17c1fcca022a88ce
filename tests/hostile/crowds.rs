//! Many connections, most of which never say a whole sentence.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use socket2::SockRef;

use crate::common::packet::{self, body, request};
use crate::common::{DEADLINE, Wire, wait_for};
use crate::corpus::{HANDLE_PREFIX, conversations};
use crate::watched::{RETAINED_KIB, Watched};

/// The header of an ECHO_REQ with a body of `length` bytes, which does not follow.
fn announcement(length: u32) -> Vec<u8> {
    [&b"\0REQ"[..], &packet::ECHO_REQ.to_be_bytes(), &length.to_be_bytes()].concat()
}

/// 5,000 connections that stop in the middle: each costs the server a few KiB at most, until it goes.
pub(crate) fn half_open_connections() {
    const COUNT: usize = 5_000;
    const MEMORY_KIB_EACH: u64 = 4;
    let beginnings: [&[u8]; 5] =
        [b"", b"\0REQ\0", b"stat", &announcement(2 << 30), &request(packet::CAN_DO, b"function")[..15]];
    let server = Watched::start(&[]);
    server.assert_nothing_adds_up(COUNT as u64 * MEMORY_KIB_EACH, || {
        let crowd: Vec<TcpStream> = (0..COUNT)
            .map(|index| {
                let mut stream = TcpStream::connect(server.addr()).expect("connect");
                stream.write_all(beginnings[index % beginnings.len()]).expect("send");
                stream
            })
            .collect();
        wait_for("all connections", || (server.connections() == COUNT).then_some(()));
        server.serve_a_job();
        wait_for("the end of the good ones", || (server.connections() == COUNT).then_some(()));
        let listing = server.connect().text("workers");
        assert_eq!(listing.lines().count(), COUNT + 2, "a line each, one for ourselves, and the dot");
        server.assert_idle();
        let each = server.grown_kib() / COUNT as u64;
        assert!(each <= MEMORY_KIB_EACH, "{each} KiB for a connection; {MEMORY_KIB_EACH} are allowed");
        drop(crowd);
    });
}

/// 12,000 connections that leave at once: silently, with a reset, or with a request on their way.
pub(crate) fn connection_storm() {
    const THREADS: usize = 4;
    const COUNT: usize = 3_000;
    /// Where the server gets no time, it finds as many connections as the listener's queue holds.
    const AT_ONCE: u64 = 4096;
    const MEMORY_KIB_EACH: u64 = 4;
    let server = Watched::start(&[]);
    server.assert_nothing_adds_up(RETAINED_KIB + AT_ONCE * MEMORY_KIB_EACH, || {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| (0..COUNT).for_each(|index| connect_and_leave(&server, index)));
            }
            server.serve_a_job_of(b"meanwhile");
        });
    });
}

fn connect_and_leave(server: &Watched, index: usize) {
    let mut stream = TcpStream::connect(server.addr()).expect("connect");
    if !index.is_multiple_of(3) {
        // Fails where the server was faster.
        let _ = stream.write_all(&request(packet::SUBMIT_JOB, &body(&[b"good", b"", b"workload"])));
    }
    if index % 3 != 1 {
        SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).expect("SO_LINGER");
    }
}

/// Workers that offer 100,000 functions nobody has heard of, and more than the server will know.
pub(crate) fn fresh_function_names() {
    const WORKERS: usize = 250;
    const NAMES: usize = 420;
    const LIMIT: usize = 100_000;
    /// A function's state, its name, its published numbers, what is published of a worker's doing it, its
    /// places in three tables, and its place in the order in which functions are listed.
    const BYTES_A_FUNCTION: u64 = 920;
    let server = Watched::start(&[]);
    let refused = || {
        let shown = server.connect().text("show server");
        let count = shown.lines().find_map(|line| line.strip_prefix("functions_refused\t"));
        count.and_then(|count| count.parse::<usize>().ok()).expect("a count")
    };
    let mut crowd = Vec::new();
    for worker in 0..WORKERS {
        let mut wire = server.connect();
        let names: Vec<u8> = (0..NAMES)
            .flat_map(|name| request(packet::CAN_DO, format!("function {worker} {name}").as_bytes()))
            .collect();
        wire.send_raw(&names);
        wire.expect_nothing();
        crowd.push(wire);
    }
    // The function of the job that was served in the beginning has made room.
    assert_eq!(refused(), WORKERS * NAMES - LIMIT, "names beyond the limit");
    // A refusal costs no pass over all functions: 100,000 of them are soon had.
    let mut insistent = server.connect();
    for batch in 0..100 {
        let names = (0..1_000).flat_map(|name| request(packet::CAN_DO, format!("refused {batch} {name}").as_bytes()));
        insistent.send_raw(&names.collect::<Vec<u8>>());
        insistent.expect_nothing();
    }
    assert_eq!(refused(), WORKERS * NAMES - LIMIT + 100_000);
    drop(insistent);
    // Functions that are known go on.
    server.serve_a_job_of(b"function 0 0");
    let grown = server.grown_kib();
    assert!(grown * 1024 < LIMIT as u64 * BYTES_A_FUNCTION, "{grown} KiB for {LIMIT} functions");
    drop(crowd);
    server.await_departures();
    // At the limit, a function that nobody uses makes room for a new one.
    server.serve_a_job_of(b"one name more");
    let status = server.connect().text("status");
    assert!(status.contains("one name more\t0\t0\t0\n") && status.lines().count() == LIMIT + 1);
    // Tables that were large once stay so, and the heap keeps for the next functions what it had for these.
    server.assert_recovered(RETAINED_KIB + grown);
}

/// All conversations, whole and valid, with one byte in a write.
pub(crate) fn one_byte_at_a_time() {
    let server = Watched::start(&["--job-handle-prefix", HANDLE_PREFIX]);
    std::thread::scope(|scope| {
        for conversation in conversations(1).into_iter().filter(|conversation| conversation.len() < 10_000) {
            let server = &server;
            scope.spawn(move || {
                let mut slow = server.connect();
                let mut whole = server.connect();
                for byte in &conversation {
                    slow.send_raw(&[*byte]);
                }
                slow.finish_sending();
                whole.send_raw(&conversation);
                whole.finish_sending();
                // What they are told depends on the jobs of the others; that they are told something, and
                // ended, does not.
                let [slow, whole] = [read_to_end(&slow), read_to_end(&whole)];
                assert_eq!(slow.is_empty(), whole.is_empty(), "{}", conversation.escape_ascii());
            });
        }
    });
    let mut line = server.connect();
    for byte in b"version\n" {
        line.send_raw(&[*byte]);
    }
    assert!(line.text_line().starts_with("OK "));
    let mut client = server.connect();
    for byte in request(packet::ECHO_REQ, &[b'e'; 5_000]) {
        client.send_raw(&[byte]);
    }
    client.expect(packet::ECHO_RES, &[b'e'; 5_000]);
    crate::streams::cancel_all_jobs(&mut server.connect());
    drop((line, client));
    server.assert_recovered(RETAINED_KIB);
}

fn read_to_end(wire: &Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    match wire.stream().read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => {
            panic!("not closed within {DEADLINE:?}: {error}")
        }
        _ => bytes,
    }
}
