//! Stops, with a backlog that the next start finds.

use nix::sys::signal::Signal;

use super::peers::{QueueFile, Worker, job, submit, words};
use crate::common::packet::{self, body};
use crate::common::{Server, Wire, wait_for};
use crate::durable::Submission;

const FUNCTION: &str = "kept";
const JOBS: usize = 100;

/// A server that says what it does, and its backlog.
fn with_backlog(file: &QueueFile) -> (Server, Vec<Vec<u8>>) {
    let server = Server::ours(&words(&file.options(&["--verbose", "NOTICE", "--drain-timeout", "0"])));
    let jobs: Vec<Submission> = (0..JOBS).map(|serial| job(FUNCTION, &format!("u{serial}"), b"w")).collect();
    let handles = submit(&mut Wire::connect(server.addr()), &jobs);
    (server, handles)
}

/// That the next start has these jobs, in this order.
#[track_caller]
fn expect_after_restart(server: &mut Server, handles: &[Vec<u8>]) {
    server.restart();
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    let done: Vec<_> = worker.work(handles.len()).into_iter().map(|done| done.handle).collect();
    assert_eq!(done, handles);
    worker.expect_no_job();
}

/// A drain waits for jobs that run and for those that somebody waits for. Kept ones wait for the next start.
pub(crate) fn draining_leaves_kept_jobs() {
    let file = QueueFile::new();
    let (mut server, handles) = with_backlog(&file);
    let mut client = Wire::connect(server.addr());
    client.send(packet::SUBMIT_JOB, &body(&[FUNCTION.as_bytes(), b"", b"question"]));
    let asked = client.expect_type(packet::JOB_CREATED);
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    let mut other = Worker::connect(server.addr(), &[FUNCTION]);
    let running = worker.grab().expect("a job");
    assert_eq!(running.handle, handles[0]);
    server.signal(Signal::SIGUSR1);
    // The log says so a moment before it is so.
    wait_for("the drain", || client.text("show server").contains("\ndraining\t1\n").then_some(()));
    client.send_raw(&job(FUNCTION, "", b"late").request());
    assert!(client.expect_error("SHUTDOWN_GRACEFUL").contains("shutting down"));
    // The kept jobs before it are passed over.
    assert_eq!(other.grab().expect("a job").handle, asked);
    other.expect_no_job();
    other.complete();
    client.expect(packet::WORK_COMPLETE, &body(&[&asked, b"question"]));
    other.expect_no_job();
    // One that runs still counts.
    client.expect_nothing();
    worker.complete();
    worker.wire().expect_end();
    assert!(server.wait().success());
    let log = server.log();
    assert!(log.contains("draining: "), "what the log says");
    assert!(log.contains("stopping; 99 jobs are kept for the next start"), "what the log says");
    assert!(!log.contains("are lost"), "what the log says");
    file.await_handles(&handles[1..]);
    expect_after_restart(&mut server, &handles[1..]);
}

/// A stop leaves everything, also what runs.
pub(crate) fn stopping_keeps_jobs() {
    let file = QueueFile::new();
    let (mut server, handles) = with_backlog(&file);
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    worker.work(10);
    assert_eq!(worker.grab().expect("a job").handle, handles[10]);
    assert!(server.terminate().success());
    worker.wire().expect_end();
    assert!(server.log().contains("stopping; 90 jobs are kept for the next start"), "what the log says");
    expect_after_restart(&mut server, &handles[10..]);
    wait_for("a line of the log", || server.log().contains("90 jobs restored").then_some(()));
}
