//! Real clients and workers, unchanged: Gearman libraries for PHP, Perl, C, Python (two) and Node.js, and
//! Debian's command-line tools, doing real work through the server.
//!
//! Each library has a client and a worker program in `tests/clients/`, with one contract for all:
//!
//! * `worker HOST PORT` does the functions `reverse`, `fail`, `exception`, `progress`, `order` and `gate`;
//! * `client HOST PORT COMMAND ...` prints a line for each thing that happens to its jobs.
//!
//! `tests/install-peers.sh` installs what they need; without it the tests fail. With
//! `GEARMAND_UNDER_TEST=debian` they run against Debian's gearmand: what fails there too is not our server's
//! fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;

#[path = "clients/bindings.rs"]
mod bindings;
#[path = "clients/odd.rs"]
mod odd;

use std::process::{Command, Stdio};
use std::time::Duration;

use bindings::{Binding, LIBRARIES, SHELL};
use common::{Gate, Implementation, Program, Server, Wire, packet, wait_for};

/// The functions of every library's worker.
const FUNCTIONS: [&str; 6] = ["reverse", "fail", "exception", "progress", "order", "gate"];

/// How long a large workload may take both ways. libgearman's small send buffer holds one segment of the
/// loopback device; where the server's kernel waits 40 ms before it acknowledges each, 32 MiB take 20 s one
/// way.
const PATIENCE_FOR_LARGE: Duration = Duration::from_secs(90);

/// Runs the test for every library at the same time, each with a server of its own, and names those that
/// fail.
fn for_each_library(test: fn(Binding)) {
    bindings::require_peers();
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let threads: Vec<_> = LIBRARIES
            .iter()
            .map(|binding| {
                let thread = std::thread::Builder::new().name(binding.name().to_owned());
                (binding, thread.spawn_scoped(scope, || test(*binding)).expect("a thread"))
            })
            .collect();
        threads.into_iter().filter_map(|(binding, thread)| thread.join().is_err().then_some(binding.name())).collect()
    });
    assert!(failed.is_empty(), "failed with: {}", failed.join(", "));
}

/// Starts a worker and waits until the server knows it: `count` workers in all can do its functions.
fn start_worker(binding: Binding, server: &Server, count: usize) -> Program {
    let worker = Program::start(&mut binding.worker(server.port()));
    await_workers(server, binding.functions(), count);
    worker
}

fn await_workers(server: &Server, functions: &[&str], count: usize) {
    let mut admin = Wire::connect(server.addr());
    wait_for(&format!("{count} workers"), || {
        let status = admin.text("status");
        let known = |function: &&str| column(&status, function, 3) == Some(count);
        functions.iter().all(known).then_some(())
    });
}

/// A number of a function's line in the answer to `status`: 1 is jobs, 2 running, 3 workers.
fn column(status: &str, function: &str, column: usize) -> Option<usize> {
    status
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .find(|fields| fields[0] == function)
        .map(|fields| fields[column].parse().expect("a number"))
}

/// Waits until so many jobs of the function are queued or running.
fn await_jobs(server: &Server, function: &str, count: usize) {
    let mut admin = Wire::connect(server.addr());
    wait_for(&format!("{count} jobs of {function}"), || {
        (column(&admin.text("status"), function, 1).unwrap_or(0) == count).then_some(())
    });
}

fn start_client(binding: Binding, server: &Server, arguments: &[&str]) -> Program {
    Program::start(binding.client(server.port()).args(arguments))
}

/// Runs a client to its end and compares what it printed.
fn run_client(binding: Binding, server: &Server, arguments: &[&str], expected: &[&str]) {
    start_client(binding, server, arguments).expect_end(expected);
}

#[test]
fn every_client_is_served_by_every_worker() {
    bindings::require_peers();
    let everyone = LIBRARIES.iter().chain([&SHELL]).copied();
    std::thread::scope(|scope| {
        for worker in everyone.clone() {
            let clients = everyone.clone();
            scope.spawn(move || {
                let server = Server::under_test(&[]);
                let _worker = start_worker(worker, &server, 1);
                for client in clients {
                    let word = format!("{} to {}", client.name(), worker.name());
                    let reversed: String = word.chars().rev().collect();
                    run_client(client, &server, &["run", "reverse", &word], &[&format!("complete {reversed}")]);
                }
            });
        }
    });
}

#[test]
fn data_status_and_warning_arrive_in_order() {
    for_each_library(|binding| {
        let server = Server::under_test(&[]);
        let _worker = start_worker(binding, &server, 1);
        run_client(
            binding,
            &server,
            &["run", "progress", "x"],
            &[
                "data one",
                "status 1/3",
                "warning careful",
                "data two",
                "status 2/3",
                "data three",
                "status 3/3",
                "complete done",
            ],
        );
    });
}

#[test]
fn a_background_job_is_followed_by_its_status() {
    for_each_library(|binding| {
        let server = Server::under_test(&[]);
        let gate = Gate::new();
        let mut client = start_client(binding, &server, &["background", "gate", gate.workload()]);
        client.expect_line("queued");
        let worker = start_worker(binding, &server, 1);
        worker.expect_line("gate");
        client.expect_line("running 1/2");
        gate.open("nobody reads this");
        client.expect_end(&["finished"]);
    });
}

#[test]
fn failures_and_exceptions_reach_the_client() {
    for_each_library(|binding| {
        let server = Server::under_test(&[]);
        let _worker = start_worker(binding, &server, 1);
        run_client(binding, &server, &["run", "fail", "x"], &["fail"]);
        run_client(binding, &server, &["run-exceptions", "exception", "boom"], &["exception boom"]);
        if server.implementation() == Implementation::Ours || binding.always_wants_exceptions() {
            let event = if binding.always_wants_exceptions() { "exception boom" } else { "fail" };
            run_client(binding, &server, &["run", "exception", "boom"], &[event]);
        } else {
            expect_fault_of_debian(&server);
        }
        // The worker lives on.
        run_client(binding, &server, &["run", "reverse", "abc"], &["complete cba"]);
    });
}

/// Without the option, C++ gearmand turns an exception into a failure with a NUL behind the handle, which
/// most libraries do not recognise: they wait for ever, or break. Our server sends the bare handle.
fn expect_fault_of_debian(server: &Server) {
    let mut wire = Wire::connect(server.addr());
    wire.send(packet::SUBMIT_JOB, &packet::body(&[b"exception", b"", b"boom"]));
    let mut handle = wire.expect_type(packet::JOB_CREATED);
    handle.push(0);
    wire.expect(packet::WORK_FAIL, &handle);
}

#[test]
fn high_comes_before_normal_before_low() {
    for_each_library(|binding| {
        let server = Server::under_test(&[]);
        let mut client = start_client(binding, &server, &["priorities"]);
        await_jobs(&server, "order", 6);
        let worker = start_worker(binding, &server, 1);
        for priority in ["high", "normal", "low"] {
            // One of each was submitted to be waited for, the other to run in the background.
            let mut got = [worker.line(), worker.line()].map(Option::unwrap);
            got.sort();
            assert_eq!(got, [format!("order {priority}"), format!("order {priority} background")]);
        }
        let (mut results, status) = client.finish();
        results.sort();
        assert_eq!(results, ["complete high", "complete low", "complete normal"]);
        assert!(status.success());
    });
}

#[test]
fn clients_with_the_same_unique_share_one_run() {
    for_each_library(|binding| {
        let server = Server::under_test(&[]);
        let gate = Gate::new();
        let worker = start_worker(binding, &server, 1);
        // One of the clients speaks through another library.
        let other = binding.next();
        let submit = ["run", "gate", gate.workload(), "the same"];
        let mut first = start_client(binding, &server, &submit);
        let mut second = start_client(other, &server, &submit);
        worker.expect_line("gate");
        let mut wire = Wire::connect(server.addr());
        wait_for("two clients of one job", || {
            wire.send(packet::GET_STATUS_UNIQUE, b"the same");
            let status = wire.expect_type(packet::STATUS_RES_UNIQUE);
            (status == b"the same\x001\x001\x001\x002\x002").then_some(())
        });
        gate.open("shared");
        for client in [&mut first, &mut second] {
            let (lines, status) = client.finish();
            // Who came first also saw the status.
            let results: Vec<_> = lines.iter().filter(|line| *line != "status 1/2").collect();
            assert_eq!(results, ["complete shared"]);
            assert!(status.success());
        }
        run_client(binding, &server, &["run", "order", "next"], &["complete next"]);
        worker.expect_line("order next");
    });
}

#[test]
fn a_large_workload_goes_both_ways() {
    for_each_library(|binding| {
        let server = Server::under_test(&[]);
        let _worker = start_worker(binding, &server, 1);
        let size = binding.large_workload().to_string();
        start_client(binding, &server, &["large", &size])
            .with_patience(PATIENCE_FOR_LARGE)
            .expect_end(&[&format!("complete {size} reversed")]);
    });
}

#[test]
fn worker_and_client_come_back_after_a_restart_of_the_server() {
    for_each_library(|binding| {
        let mut server = Server::under_test(&[]);
        let _worker = start_worker(binding, &server, 1);
        let mut client = start_client(binding, &server, &["repeat"]);
        client.send_line("before");
        client.expect_line("complete erofeb");
        server.restart();
        await_workers(&server, &FUNCTIONS, 1);
        client.send_line("after");
        client.expect_line("complete retfa");
        client.expect_end(&[]);
    });
}

#[test]
fn the_job_of_a_killed_worker_runs_on_the_next() {
    for_each_library(|binding| {
        let server = Server::under_test(&[]);
        let gate = Gate::new();
        let mut doomed = start_worker(binding, &server, 1);
        let mut client = start_client(binding, &server, &["run", "gate", gate.workload()]);
        doomed.expect_line("gate");
        let heir = start_worker(binding, &server, 2);
        doomed.kill();
        heir.expect_line("gate");
        gate.open("inherited");
        // Both workers said how far they were.
        client.expect_end(&["status 1/2", "status 1/2", "complete inherited"]);
    });
}

/// Runs a tool to its end: its standard output, its standard error, whether it succeeded.
fn tool(name: &str, server: &Server, arguments: &[&str]) -> (String, String, bool) {
    let output = Command::new(name)
        .args(["-h", "127.0.0.1", "-p", &server.port().to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}: run tests/install-peers.sh"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.success())
}

#[test]
fn the_tool_gearman_submits_in_all_its_ways() {
    bindings::require_peers();
    let server = Server::under_test(&[]);
    let worker = start_worker(Binding::C, &server, 1);
    let gearman = |arguments: &[&str]| tool("gearman", &server, arguments);
    assert_eq!(gearman(&["-f", "reverse", "abc"]), ("cba".into(), String::new(), true));
    assert_eq!(gearman(&["-P", "-f", "reverse", "ab", "cd"]), ("reverse: bareverse: dc".into(), String::new(), true));
    assert_eq!(
        gearman(&["-f", "progress", "x"]),
        ("onetwothreedone33% Complete\n66% Complete\n100% Complete\n".into(), "careful".into(), true)
    );
    let (_, errors, success) = gearman(&["-f", "fail", "x"]);
    assert!(errors.contains("Job failed") && !success, "{errors}");
    for arguments in [["-b", "-I"], ["-b", "-L"], ["-u", "unique"]] {
        let (_, errors, success) = gearman(&[&arguments[..], &["-f", "order", "run"]].concat());
        assert!(success, "{errors}");
        worker.expect_line("order run");
    }
}

#[test]
fn the_tool_gearman_works() {
    bindings::require_peers();
    let server = Server::under_test(&[]);
    let worker = Program::start(
        Command::new("gearman")
            .args(["-h", "127.0.0.1", "-p", &server.port().to_string()])
            // Two jobs, then the end.
            .args(["-w", "-c", "2", "-f", "count", "--", "wc", "-c"]),
    );
    await_workers(&server, &["count"], 1);
    for (workload, length) in [("four", "4\n"), ("", "0\n")] {
        let mut wire = Wire::connect(server.addr());
        wire.send(packet::SUBMIT_JOB, &packet::body(&[b"count", b"", workload.as_bytes()]));
        let handle = wire.expect_type(packet::JOB_CREATED);
        wire.expect(packet::WORK_COMPLETE, &packet::body(&[&handle, length.as_bytes()]));
    }
    let mut worker = worker;
    worker.expect_end(&[]);
}

#[test]
fn the_tool_gearadmin_sees_and_commands() {
    bindings::require_peers();
    let server = Server::under_test(&[]);
    let gearadmin = |arguments: &[&str]| {
        let (output, errors, success) = tool("gearadmin", &server, arguments);
        assert!(success, "{errors}");
        (output, errors)
    };
    let said = |text: &str| (text.to_owned(), String::new());
    let pid = server.pid().to_string();
    assert_eq!(gearadmin(&["--getpid"]), said(&format!("{pid}\n")));
    let (version, _) = gearadmin(&["--server-version"]);
    assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    assert_eq!(version.split_whitespace().count(), 1, "{version}");
    assert_eq!(gearadmin(&["--server-verbose"]), said("ERROR\n"));
    assert_eq!(gearadmin(&["--status"]), said(".\n"));

    assert_eq!(gearadmin(&["--create-function", "queue"]), said("OK\n"));
    assert_eq!(gearadmin(&["--status"]), said("queue\t0\t0\t0\n.\n"));
    let mut wire = Wire::connect(server.addr());
    wire.send(packet::SUBMIT_JOB, &packet::body(&[b"queue", b"one", b"x"]));
    let handle = wire.expect_type(packet::JOB_CREATED);
    let name = String::from_utf8(handle.clone()).unwrap();
    assert_eq!(gearadmin(&["--status"]), said("queue\t1\t0\t0\n.\n"));
    assert_eq!(gearadmin(&["--priority-status"]), said("queue\t0\t1\t0\t0\n.\n"));
    assert_eq!(gearadmin(&["--show-jobs"]), said(&format!("{name}\t0\t0\t0\n.\n")));
    assert_eq!(gearadmin(&["--show-unique-jobs"]), said("one\n.\n"));

    assert_eq!(gearadmin(&["--cancel-job", &name]), said("OK\n"));
    wire.expect(packet::WORK_FAIL, &handle);
    let (_, errors) = gearadmin(&["--cancel-job", "H:nowhere:1"]);
    assert!(errors.contains("UNKNOWN_JOB"), "{errors}");

    wire.send(packet::SET_CLIENT_ID, b"somebody");
    wire.send(packet::CAN_DO, b"other");
    wire.expect_nothing();
    let (workers, _) = gearadmin(&["--workers"]);
    assert!(workers.contains(" 127.0.0.1 somebody : other\n"), "{workers}");
    assert!(workers.ends_with("\n.\n"), "{workers}");
    let (_, errors) = gearadmin(&["--drop-function", "other"]);
    assert!(errors.contains("there are still connected workers"), "{errors}");
    wire.send(packet::CANT_DO, b"other");
    wire.expect_nothing();
    assert_eq!(gearadmin(&["--drop-function", "other"]), said("OK\n"));
    assert!(!gearadmin(&["--status"]).0.contains("other"));
}

#[test]
fn a_half_closed_connection_gets_its_answer() {
    bindings::require_peers();
    let server = Server::under_test(&[]);
    for (commands, answer) in
        [("status\n", ".\n".to_owned()), ("getpid\nstatus\n", format!("OK {}\n.\n", server.pid()))]
    {
        let port = server.port().to_string();
        let mut nc = Program::start(Command::new("nc").args(["-N", "-w", "5", "127.0.0.1", &port]));
        for command in commands.lines() {
            nc.send_line(command);
        }
        let (lines, _) = nc.finish();
        if server.implementation() == Implementation::Ours {
            assert_eq!(lines, answer.lines().collect::<Vec<_>>());
        } else {
            // C++ gearmand takes the half-close for the end and drops what it had to say, mostly.
            assert!(lines.is_empty() || lines == answer.lines().collect::<Vec<_>>());
        }
    }
}
