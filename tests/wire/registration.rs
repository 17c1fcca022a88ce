//! What workers register: many functions, too many, and with numbers that are none. Nothing of it is ever
//! answered.

use std::time::Instant;

use crate::common::packet::{self, body, request};
use crate::common::{Server, Wire, wait_for};
use crate::roles::{connect, counts, created, grab, server, status, submit_plain, worker};

/// How many lines of the log say this.
fn logged(server: &Server, text: &str) -> usize {
    server.log().lines().filter(|line| line.contains(text)).count()
}

/// A value of `show server`.
fn shown(wire: &mut Wire, key: &str) -> String {
    let shown = wire.text("show server");
    let value = shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
    value.unwrap_or_else(|| panic!("no {key} in {shown}")).to_owned()
}

#[test]
fn functions_beyond_a_limit_are_one_warning_and_no_answer() {
    for (option, most, reason) in [
        (
            "--max-functions-per-connection",
            2,
            "function limit of the connection reached (--max-functions-per-connection)",
        ),
        ("--max-functions", 3, "function limit of the server reached (--max-functions)"),
    ] {
        let server = server(&[option, &most.to_string(), "--verbose", "WARNING"]);
        let mut observer = connect(&server);
        let mut wire = connect(&server);
        for number in 0..10 {
            wire.send(packet::CAN_DO, format!("f{number}").as_bytes());
        }
        // What is registered may be registered again.
        wire.send(packet::CAN_DO_TIMEOUT, b"f0\x001000");
        wire.send(packet::SET_CLIENT_ID, b"a builder");
        wire.expect_nothing();
        assert_eq!(logged(&server, " registered); first reason: "), 0, "it may have more to offer");
        wire.send(packet::PRE_SLEEP, b"");
        wire.expect_nothing();
        let line = format!("{} functions of 127.0.0.1 (a builder) refused ({most} registered)", 10 - most);
        wait_for("the warning", || (logged(&server, &line) == 1).then_some(()));
        assert_eq!(logged(&server, reason), 1);
        // There is one warning, whatever comes later.
        wire.send(packet::CAN_DO, b"late");
        wire.send(packet::GRAB_JOB, b"");
        wire.expect_type(packet::NO_JOB);
        drop(wire);
        wait_for("the end of the connection", || (observer.text("workers").lines().count() == 2).then_some(()));
        assert_eq!(logged(&server, " registered); first reason: "), 1);
        assert_eq!(shown(&mut observer, "functions_refused"), (11 - most).to_string());
    }
}

#[test]
fn a_sleeper_that_offers_too_much_is_reported_at_once() {
    let server = server(&["--max-functions-per-connection", "1", "--verbose", "WARNING"]);
    let mut wire = worker(&server, &["f"]);
    wire.send(packet::PRE_SLEEP, b"");
    wire.send(packet::CAN_DO, b"g");
    wire.expect_nothing();
    wait_for("the warning", || (logged(&server, "1 functions of 127.0.0.1 refused (1 registered)") == 1).then_some(()));
}

#[test]
fn a_name_that_is_too_long_and_a_timeout_that_is_out_of_range_are_not_answered() {
    let server = server(&["--verbose", "WARNING"]);
    let mut wire = connect(&server);
    wire.send(packet::CAN_DO, &[b'f'; 513]);
    wire.send(packet::CAN_DO_TIMEOUT, b"g\099999999999999999999");
    wire.send(packet::GRAB_JOB, b"");
    wire.expect_type(packet::NO_JOB);
    assert_eq!(wire.text("status"), ".\n");
    let line = "2 functions of 127.0.0.1 refused (0 registered); first reason: the name has more";
    wait_for("the warning", || (logged(&server, line) == 1).then_some(()));
}

#[test]
fn ten_thousand_functions_of_a_connection_are_registered_used_and_withdrawn() {
    const FUNCTIONS: usize = 10_000;
    let server = server(&[]);
    let mut observer = connect(&server);
    let packets = |packet_type: u32| -> Vec<u8> {
        let one = |number| request(packet_type, format!("build:job-{number}").as_bytes());
        (0..FUNCTIONS).flat_map(one).collect()
    };
    let started = Instant::now();
    let mut workers: Vec<Wire> = (0..3).map(|_| connect(&server)).collect();
    for wire in &mut workers {
        // Twice, as libraries do that reconnect.
        wire.send_raw(&packets(packet::CAN_DO));
        wire.send_raw(&packets(packet::CAN_DO));
        wire.expect_nothing();
    }
    assert_eq!(counts(&mut observer, "build:job-9999"), "0 0 3");
    let handle = submit_plain(&mut observer, "build:job-1234", "x");
    assert_eq!(grab(&mut workers[1]).handle, handle);
    workers[0].send_raw(&packets(packet::CANT_DO));
    workers[0].expect_nothing();
    assert_eq!(counts(&mut observer, "build:job-1234"), "1 1 2");
    workers.clear();
    wait_for("the end of the workers", || (counts(&mut observer, "build:job-0") == "0 0 0").then_some(()));
    // It takes a second in a debug build; a search through all functions for each took minutes.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn progress_beyond_32_bits_is_whole() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut wire = worker(&server, &["f"]);
    let handle = submit_plain(&mut client, "f", "x");
    grab(&mut wire);
    wire.send(packet::WORK_STATUS, &body(&[handle.as_bytes(), b"5000000000", b"80000000000"]));
    client.expect(packet::WORK_STATUS, &body(&[handle.as_bytes(), b"5000000000", b"80000000000"]));
    assert_eq!(status(&mut client, &handle), "1 1 5000000000 80000000000");
}

#[test]
fn a_due_date_in_milliseconds_is_taken_and_reported_once_a_minute() {
    let server = server(&["--verbose", "WARNING"]);
    let mut client = connect(&server);
    for number in 0..3 {
        client.send(packet::SUBMIT_JOB_EPOCH, &body(&[b"later", b"", b"1796025573123", &[number]]));
        let handle = created(&mut client);
        assert_eq!(status(&mut client, &handle), "1 0 0 0");
    }
    let line = "job H:t:1 of later has due time 1796025573123 (year 58883)";
    wait_for("the warning", || (logged(&server, line) == 1).then_some(()));
    assert_eq!(logged(&server, "milliseconds"), 1);
}
