//! More peers than the server may have.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::common::{DEADLINE, Wire, packet, wait_for};
use crate::watched::{RETAINED_KIB, Watched};

/// The most CPU time in a second in which peers wait that cannot be served.
const CPU_WITHOUT_DESCRIPTORS: Duration = Duration::from_millis(50);

/// 100 peers for 64 descriptors: those that got one are served, the others are told or wait until some leave.
pub(crate) fn none_left() {
    let server = Watched::start(&[]);
    // Later than the server counts them.
    let limit = Command::new("prlimit").args(["--pid", &server.server().pid().to_string(), "--nofile=64:64"]).status();
    assert!(limit.expect("prlimit of util-linux").success());
    let mut early = server.connect();
    early.expect_nothing();
    let crowd: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(server.addr()).expect("connect")).collect();
    wait_for("the last descriptor", || (server.descriptors() >= 63).then_some(()));
    let before = server.cpu();
    std::thread::sleep(Duration::from_secs(1));
    let used = server.cpu().saturating_sub(before);
    assert!(used <= CPU_WITHOUT_DESCRIPTORS, "{used:?} of CPU time in a second without a descriptor");
    early.expect_nothing();
    let refused = wait_for("a peer that is told", || crowd.iter().find_map(first_bytes));
    assert!(refused.starts_with(b"\0RES\0\0\0\x13"), "an ERROR: {}", refused.escape_ascii());
    drop(crowd);
    // Those that were still to be accepted take descriptors once more, until they are seen to have gone: a
    // new peer may be refused meanwhile. The acceptor pauses for a second at most.
    let mut served_in_a_row = 0;
    wait_for("room for new peers", || {
        served_in_a_row = if served(&server).is_some() { served_in_a_row + 1 } else { 0 };
        (served_in_a_row == 5 && server.descriptors() < 32).then_some(())
    });
    server.serve_a_job();
    drop(early);
    server.assert_recovered(RETAINED_KIB);
}

/// 100 peers for 64 files, on the port of jobs: those beyond what is kept for the server's own files are told
/// so, and HTTP, the store and the log go on.
pub(crate) fn few() {
    let server = Watched::start(&["-f", "64", "--http-listen", "127.0.0.1:0", "--verbose", "NOTICE"]);
    wait_for("the warning", || server.server().log().contains("at most 32 connections are accepted").then_some(()));
    let mut client = server.connect();
    client.expect_nothing();
    let mut crowd: Vec<Wire> = (0..100).map(|_| server.connect()).collect();
    for wire in &mut crowd[40..] {
        assert!(wire.expect_error("COULD_NOT_CONNECT").contains("max-connections"));
    }
    for _ in 0..10 {
        assert!(http(&server, "/readyz").starts_with("HTTP/1.1 200"));
    }
    // What is kept may be read again by a new process, and the log is opened anew.
    client.send(packet::SUBMIT_JOB_BG, &packet::body(&[b"kept", b"", b"x"]));
    client.expect_type(packet::JOB_CREATED);
    server.server().signal(nix::sys::signal::Signal::SIGHUP);
    wait_for("the log", || server.server().log().contains("reopening log file").then_some(()));
    assert!(!server.server().log().contains("out of file descriptors"), "{}", server.server().log());
    client.expect_nothing();
}

/// The answer to a request over HTTP.
fn http(server: &Watched, path: &str) -> String {
    let mut stream = TcpStream::connect(server.server().http()).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// A new connection, if it is served.
fn served(server: &Watched) -> Option<Wire> {
    let mut wire = server.connect();
    wire.stream().set_read_timeout(Some(DEADLINE)).expect("SO_RCVTIMEO");
    wire.send(packet::ECHO_REQ, b"in?");
    (wire.recv_or_end()?.0 == packet::ECHO_RES).then_some(wire)
}

/// What has come, if anything has.
fn first_bytes(mut stream: &TcpStream) -> Option<Vec<u8>> {
    stream.set_nonblocking(true).expect("O_NONBLOCK");
    let mut bytes = [0; 200];
    match stream.read(&mut bytes) {
        Ok(size) if size > 0 => Some(bytes[..size].to_vec()),
        _ => None,
    }
}

/// One connection more than `--max-connections` is told so and closed; when one has left, the next is served.
pub(crate) fn max_connections() {
    const LIMIT: usize = 10;
    let server = Watched::start(&["--max-connections", &LIMIT.to_string()]);
    let mut crowd: Vec<_> = (0..LIMIT).map(|_| server.connect()).collect();
    for wire in &mut crowd {
        wire.expect_nothing();
    }
    for _ in 0..100 {
        let mut surplus = server.connect();
        assert!(surplus.expect_error("COULD_NOT_CONNECT").contains("max-connections"));
        surplus.expect_end();
    }
    crowd.iter_mut().for_each(Wire::expect_nothing);
    drop(crowd.pop());
    let mut next = wait_for("a place", || served(&server));
    next.expect_nothing();
    drop((crowd, next));
    server.assert_recovered(RETAINED_KIB);
}
