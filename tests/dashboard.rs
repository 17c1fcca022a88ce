//! The dashboard in a real browser (Debian's chromium, headless): its pages show true numbers while jobs run,
//! its buttons do what they say, hostile names do no harm, and it can be used by keyboard. Pictures of every
//! page are left in `target/screenshots`.
//!
//! Each test starts a server, and a script of `tests/dashboard/` that drives the browser.
//! `tests/install-peers.sh` installs what they need; without it the tests fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Program, Server, free_port};

/// How long a script may be silent. It has deadlines of its own, which say more of what went wrong.
const PATIENCE: Duration = Duration::from_mins(2);

/// Where on a loopback address HTTP is served.
const ANY_PORT: &str = "127.0.0.1:0";

fn script(test: &str, server: &Server) -> Program {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    assert!(Path::new("/usr/bin/chromium").exists(), "chromium is missing: run tests/install-peers.sh");
    assert!(
        tests.join("clients/node_modules/playwright-core").exists(),
        "playwright-core is missing: run tests/install-peers.sh"
    );
    let mut command = Command::new("node");
    command
        .arg(tests.join("dashboard/main.mjs"))
        .args([test, &format!("http://{}", server.http()), &server.port().to_string()])
        .env("GEARMAND", env!("CARGO_BIN_EXE_gearmand"))
        .env("SCREENSHOTS", Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots"));
    Program::start(&mut command).with_patience(PATIENCE)
}

/// Runs a script to its end, which is good only where it says so.
fn run(test: &str, arguments: &[&str]) {
    let server = Server::ours(&[&["--http-listen", ANY_PORT], arguments].concat());
    // Kept until the end: what it wrote to standard error is printed where the test fails.
    let mut script = script(test, &server);
    let (lines, status) = script.finish();
    assert!(status.success() && lines.last().is_some_and(|line| line == "passed"), "{test}: {status}, after {lines:?}");
}

#[test]
fn pages_show_true_numbers() {
    run("pages", &[]);
}

#[test]
fn what_matters_comes_first() {
    run("details", &[]);
}

#[test]
fn workloads_that_the_store_alone_has_are_shown() {
    run("details_stored", &["--max-workload-memory", "1MiB"]);
}

#[test]
fn buttons_do_what_they_say() {
    run("actions", &[]);
}

#[test]
fn actions_ask_for_the_token() {
    run("actions_token", &["--http-token", "token-of-the-test-1234"]);
}

#[test]
fn whoever_may_only_look_has_no_buttons() {
    run("actions_readonly", &["--http-read-only"]);
}

#[test]
fn the_fleet_is_shown_and_steered() {
    run("fleet", &[]);
}

#[test]
fn hostile_names_do_no_harm() {
    run("hostile", &[]);
}

#[test]
fn everything_can_be_used_by_keyboard() {
    run("keyboard", &[]);
}

#[test]
fn filters_and_orders_stand_in_the_address() {
    run("address", &[]);
}

#[test]
fn no_text_is_cut_at_any_width() {
    run("fits", &[]);
}

#[test]
fn every_page_looks_right() {
    run("looks", &[]);
}

#[test]
fn a_server_that_comes_back_is_found() {
    // Both servers are to listen on one port, which the first cannot choose.
    let address = format!("127.0.0.1:{}", free_port());
    let mut server = Server::ours(&["--http-listen", &address]);
    let mut script = script("lost", &server);
    script.expect_line("stop");
    server.terminate();
    script.send_line("done");
    script.expect_line("start");
    server.restart();
    script.send_line("done");
    script.expect_end(&["passed"]);
}
