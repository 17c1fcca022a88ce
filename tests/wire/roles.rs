//! What clients and workers do, in one call each. Nothing is retried and nothing is skipped: an unexpected
//! packet fails the test.

use std::fs;
use std::path::PathBuf;

use crate::common::packet::{self, body};
use crate::common::{Server, Wire, wait_for};

/// The prefix of handles in these tests.
pub(crate) const PREFIX: &str = "H:t";

/// A server whose handles are `H:t:1`, `H:t:2`, ...
#[track_caller]
pub(crate) fn server(arguments: &[&str]) -> Server {
    Server::ours(&[&["--job-handle-prefix", PREFIX], arguments].concat())
}

/// A new connection.
#[track_caller]
pub(crate) fn connect(server: &Server) -> Wire {
    Wire::connect(server.addr())
}

/// A worker for these functions, the last of which is looked at first.
#[track_caller]
pub(crate) fn worker(server: &Server, functions: &[&str]) -> Wire {
    let mut wire = connect(server);
    for function in functions {
        wire.send(packet::CAN_DO, function.as_bytes());
    }
    wire.expect_nothing();
    wire
}

/// A worker for one function that has been told nothing since it sent PRE_SLEEP.
#[track_caller]
pub(crate) fn sleeper(server: &Server, function: &str) -> Wire {
    let mut wire = worker(server, &[function]);
    fall_asleep(&mut wire);
    wire
}

/// Sends PRE_SLEEP, which is not answered.
#[track_caller]
pub(crate) fn fall_asleep(worker: &mut Wire) {
    worker.send(packet::PRE_SLEEP, b"");
    worker.expect_nothing();
}

/// Sends PRE_SLEEP, which is answered by a NOOP at once.
#[track_caller]
pub(crate) fn fail_to_sleep(worker: &mut Wire) {
    worker.send(packet::PRE_SLEEP, b"");
    worker.expect(packet::NOOP, b"");
}

/// Submits a job with a packet of type `packet_type` and returns its handle.
#[track_caller]
pub(crate) fn submit(client: &mut Wire, packet_type: u32, function: &str, unique: &str, workload: &str) -> String {
    client.send(packet_type, &body(&[function.as_bytes(), unique.as_bytes(), workload.as_bytes()]));
    created(client)
}

/// Submits a foreground job of normal priority with an empty unique id.
#[track_caller]
pub(crate) fn submit_plain(client: &mut Wire, function: &str, workload: &str) -> String {
    submit(client, packet::SUBMIT_JOB, function, "", workload)
}

/// Receives JOB_CREATED and returns the handle.
#[track_caller]
pub(crate) fn created(client: &mut Wire) -> String {
    text(client.expect_type(packet::JOB_CREATED))
}

/// A job as JOB_ASSIGN_UNIQ describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) handle: String,
    pub(crate) function: String,
    pub(crate) unique: String,
    pub(crate) workload: String,
}

/// Grabs a job, which must be there.
#[track_caller]
pub(crate) fn grab(worker: &mut Wire) -> Assigned {
    worker.send(packet::GRAB_JOB_UNIQ, b"");
    let body = text(worker.expect_type(packet::JOB_ASSIGN_UNIQ));
    let mut parts = body.splitn(4, '\0').map(str::to_owned);
    let mut next = || parts.next().expect("four arguments");
    Assigned { handle: next(), function: next(), unique: next(), workload: next() }
}

/// Sends WORK_COMPLETE and sees that it is accepted.
#[track_caller]
pub(crate) fn complete(worker: &mut Wire, handle: &str, result: &str) {
    worker.send(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), result.as_bytes()]));
    worker.expect_nothing();
}

/// Receives WORK_COMPLETE for `handle` with `result`.
#[track_caller]
pub(crate) fn completed(client: &mut Wire, handle: &str, result: &str) {
    client.expect(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), result.as_bytes()]));
}

/// Asks for the status of a job: known, running, numerator and denominator, such as `1 1 3 10`.
#[track_caller]
pub(crate) fn status(wire: &mut Wire, handle: &str) -> String {
    wire.send(packet::GET_STATUS, handle.as_bytes());
    let body = text(wire.expect_type(packet::STATUS_RES));
    let (echoed, rest) = body.split_once('\0').expect("five arguments");
    assert_eq!(echoed, handle);
    rest.replace('\0', " ")
}

/// Closes a connection and waits until the server has noticed and tidied up.
///
/// The server closes its own socket last of all. Connections are not counted: one that was closed before may
/// end meanwhile.
#[track_caller]
pub(crate) fn close(server: &Server, wire: Wire) {
    let socket = wait_for("the server to accept a connection", || socket_of(server, &wire));
    drop(wire);
    let descriptors = format!("/proc/{}/fd", server.pid());
    wait_for("the server to notice the end of a connection", || {
        let open = fs::read_dir(&descriptors).expect("the server's descriptors");
        let mut targets = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.all(|target| target != socket).then_some(())
    });
}

/// The server's socket of a connection, as the links of its descriptors name it. `None` before it is
/// accepted.
fn socket_of(server: &Server, wire: &Wire) -> Option<PathBuf> {
    let peer = wire.stream().local_addr().expect("a local address");
    let [local, remote] = [server.port(), peer.port()].map(|port| format!(":{port:04X}"));
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let fields = lines.find(|fields| fields[1].ends_with(&local) && fields[2].ends_with(&remote))?;
    (fields[9] != "0").then(|| PathBuf::from(format!("socket:[{}]", fields[9])))
}

/// The line of `function` in `status`, such as `2 1 1`: jobs, running ones, workers.
#[track_caller]
pub(crate) fn counts(wire: &mut Wire, function: &str) -> String {
    let prefix = format!("{function}\t");
    let status = wire.text("status");
    let line = status.lines().find_map(|line| line.strip_prefix(&prefix));
    line.unwrap_or_else(|| panic!("no {function} in {status}")).replace('\t', " ")
}

/// Bytes that are text in these tests.
#[track_caller]
pub(crate) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}
