//! The signals that end a server, at once or after its work.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::packet::{self, body};
use crate::common::{Wire, wait_for};
use crate::site::{Daemon, Site};

/// Submits a job in the foreground; its handle.
fn submit(client: &mut Wire, workload: &[u8]) -> Vec<u8> {
    client.send(packet::SUBMIT_JOB, &body(&[b"work", b"", workload]));
    client.expect_type(packet::JOB_CREATED)
}

/// A client with two jobs, and the worker that has the first of them.
fn busy(server: &Daemon) -> (Wire, Wire, [Vec<u8>; 2]) {
    let (mut client, mut worker) = (server.connect(), server.connect());
    let handles = [submit(&mut client, b"first"), submit(&mut client, b"second")];
    worker.send(packet::CAN_DO, b"work");
    worker.send(packet::GRAB_JOB, b"");
    worker.expect(packet::JOB_ASSIGN, &body(&[&handles[0], b"work", b"first"]));
    (client, worker, handles)
}

pub(crate) fn terminate_and_interrupt_end_it_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let site = Site::new();
        let mut server = site.start(&[]);
        let (mut client, mut worker, _) = busy(&server);
        let mut silent = server.connect();
        silent.expect_nothing();
        server.signal(signal);
        server.assert_ends_well();
        for wire in [&mut client, &mut worker, &mut silent] {
            wire.expect_end();
        }
        assert!(site.read("log").contains("stopping; 2 jobs in memory are lost"), "{}", site.read("log"));
        assert!(site.read("log").ends_with("stopped\n"), "{}", site.read("log"));
    }
}

pub(crate) fn draining_finishes_the_jobs() {
    let site = Site::new();
    let mut server = site.start(&[]);
    let (mut client, mut worker, [first, second]) = busy(&server);
    server.signal(Signal::SIGUSR1);
    let address = server.addr();
    wait_for("the end of listening", || match TcpStream::connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(()),
        _ => None,
    });
    client.send(packet::SUBMIT_JOB, &body(&[b"work", b"", b"third"]));
    client.expect_error("SHUTDOWN_GRACEFUL");
    client.send(packet::SUBMIT_JOB_BG, &body(&[b"work", b"", b"third"]));
    client.expect_error("SHUTDOWN_GRACEFUL");
    for (done, next) in [(&first, Some(&second)), (&second, None)] {
        worker.send(packet::WORK_COMPLETE, &body(&[done, b"done"]));
        client.expect(packet::WORK_COMPLETE, &body(&[done, b"done"]));
        if let Some(next) = next {
            worker.send(packet::GRAB_JOB, b"");
            worker.expect(packet::JOB_ASSIGN, &body(&[next, b"work", b"second"]));
        }
    }
    server.assert_ends_well();
    client.expect_end();
    worker.expect_end();
}

pub(crate) fn draining_ends_in_time() {
    let site = Site::new();
    let mut server = site.start(&["--drain-timeout", "300ms"]);
    let (mut client, _worker, _) = busy(&server);
    let start = Instant::now();
    server.signal(Signal::SIGUSR1);
    server.assert_ends_well();
    assert!(start.elapsed() >= Duration::from_millis(300), "after {:?}", start.elapsed());
    assert!(site.read("log").contains("drain-timeout"), "{}", site.read("log"));
    client.expect_end();
}

pub(crate) fn terminate_ends_a_drain() {
    let site = Site::new();
    let mut server = site.start(&["--drain-timeout", "0"]);
    let (mut client, _worker, _) = busy(&server);
    server.signal(Signal::SIGUSR1);
    server.await_log("draining");
    client.expect_nothing();
    server.terminate();
    client.expect_end();
}
