//! What single libraries do that others do not: what they send, and how long they take.

use std::time::Duration;

use crate::bindings::{self, Binding};
use crate::common::{Gate, Implementation, Program, Server, Wire, packet};
use crate::{await_jobs, await_workers, run_client};

/// A program of a library beside its usual two.
fn program(binding: Binding, file: &str, server: &Server, arguments: &[&str]) -> Program {
    Program::start(binding.other(file, server.port()).args(arguments))
}

#[test]
fn a_perl_worker_with_a_fractional_timeout_and_progress_without_a_denominator_works() {
    bindings::require_peers();
    let server = Server::under_test(&[]);
    let _worker = program(Binding::Perl, "odd_worker.pl", &server, &[]);
    await_workers(&server, &["half"], 1);
    let mut client = Wire::connect(server.addr());
    client.send(packet::SUBMIT_JOB, b"half\0u\0it");
    let handle = client.expect_type(packet::JOB_CREATED);
    client.expect(packet::WORK_STATUS, &packet::body(&[&handle, b"1", b""]));
    client.expect(packet::WORK_COMPLETE, &packet::body(&[&handle, b"done it"]));
    run_client(Binding::Perl, &server, &["run", "half", "again"], &["status 1/", "complete done again"]);
}

#[test]
fn a_gear_worker_offers_thousands_of_functions_and_survives_the_limit() {
    bindings::require_peers();
    // C++ gearmand has no limit.
    for (limit, in_use) in [("100000", 3000), ("1000", 1000)] {
        let limits = ["--max-functions-per-connection", limit];
        let server = match Implementation::under_test() {
            Implementation::Ours => Server::ours(&limits),
            Implementation::Debian => Server::debian(&[]),
        };
        let worker = program(Binding::Gear, "many.py", &server, &["3000"]);
        worker.expect_line("registered");
        await_workers(&server, &["build:0", &format!("build:{}", in_use - 1)], 1);
        let mut client = Wire::connect(server.addr());
        for number in [0, in_use / 2, in_use - 1] {
            let name = format!("build:{number}");
            client.send(packet::SUBMIT_JOB, &packet::body(&[name.as_bytes(), b"", b""]));
            let handle = client.expect_type(packet::JOB_CREATED);
            client.expect(packet::WORK_COMPLETE, &packet::body(&[&handle, name.as_bytes()]));
        }
    }
}

/// A client that is busy for longer than a dead host has, while 950 KB wait for it, gets them all.
#[test]
fn a_php_client_that_does_not_read_for_a_while_gets_all_its_results() {
    const TASKS: usize = 20;
    // This is what the client does meanwhile, and waits for nothing. Its host has two seconds to answer.
    const BUSY: Duration = Duration::from_secs(5);
    bindings::require_peers();
    let short =
        ["--keepalive-idle", "1", "--keepalive-interval", "1", "--keepalive-count", "1", "--tcp-user-timeout", "2s"];
    let server = match Implementation::under_test() {
        Implementation::Ours => Server::ours(&short),
        Implementation::Debian => Server::debian(&[]),
    };
    let mut worker = Wire::connect(server.addr());
    worker.send(packet::CAN_DO, b"large");
    worker.expect_nothing();
    let gate = Gate::new();
    let mut client = program(Binding::Php, "busy.php", &server, &[&TASKS.to_string(), gate.workload()]);
    // Not before: it submits no more once it is busy.
    await_jobs(&server, "large", TASKS);
    let result = vec![b'r'; 50_000];
    for _ in 0..TASKS {
        worker.send(packet::GRAB_JOB, b"");
        let assigned = worker.expect_type(packet::JOB_ASSIGN);
        let handle = assigned.split(|byte| *byte == 0).next().expect("a handle").to_vec();
        worker.send(packet::WORK_COMPLETE, &packet::body(&[&handle, &result]));
    }
    worker.expect_nothing();
    client.expect_line("busy");
    std::thread::sleep(BUSY);
    gate.open("");
    client.expect_end(&[&format!("done {TASKS} 0")]);
}
