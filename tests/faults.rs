//! A store whose disk fails: clients are told, everybody else is served, service returns by itself, nothing
//! is lost.
//!
//! The real server runs under a shim (`tests/shim/shim.c`) that makes each n-th call of a kind fail, until
//! the test lets it succeed again. The trace of the shim shows that a sync that failed is not tried again on
//! its descriptor.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed expectation is how a test fails"
)]

mod common;
mod durable;
mod faults {
    mod disks;
    mod full;
    pub(crate) mod stage;
}
mod shim;

use std::process::Command;

use common::{Program, Wire, wait_for};
use durable::bystander::Bystander;
use faults::stage::{Stage, retried};
use nix::errno::Errno;
use shim::{Class, Shim};

/// How many calls fail in each test.
const FAILURES: u32 = 5;

/// Lets calls fail, looks at all that must be so meanwhile, heals them, and looks for what must be so
/// afterwards.
#[track_caller]
fn failing(class: Class, every: u32, error: Errno, words: &[&str]) {
    println!("{class:?}: each {every}-th fails with {error}");
    let mut stage = Stage::new(u64::from(every));
    assert_eq!(stage.submit(20), 20, "before anything fails");
    let bystander = Bystander::start(&stage.server);
    stage.shim.fail(class, every, error as i32);
    let mut acknowledged = 0;
    for failures in 1..=FAILURES {
        // A store that failed is left alone for a while; then it fails at another place.
        wait_for("another failure", || {
            acknowledged += stage.submit(1);
            (stage.shim.failed(class) >= failures).then_some(())
        });
        acknowledged += stage.submit(10);
        stage.end_one();
    }
    if every == 1 {
        assert_eq!(acknowledged, 0, "acknowledged, although each {class:?} fails");
        assert_failing(&stage, words);
    }
    assert_logged(&stage, words);
    stage.shim.heal();
    stage.recover();
    bystander.finish();
    stage.kill_and_judge();
}

/// The text command says that the store fails, where and why.
#[track_caller]
fn assert_failing(stage: &Stage, words: &[&str]) {
    assert_eq!(stage.shown("state").as_deref(), Some("failing"));
    let error = stage.shown("error").unwrap_or_default();
    assert!(says(&error, words), "show store says of the error: \"{error}\"");
}

/// The log says what failed and where.
#[track_caller]
fn assert_logged(stage: &Stage, words: &[&str]) {
    let path = stage.shim.database().display().to_string();
    wait_for(&format!("a line of the log with {path} and one of {words:?}"), || {
        stage.server.log().lines().any(|line| line.contains(&path) && says(line, words)).then_some(())
    });
}

fn says(text: &str, words: &[&str]) -> bool {
    let text = text.to_lowercase();
    words.iter().any(|word| text.contains(word))
}

#[test]
fn a_full_disk() {
    for every in [1, 3, 7] {
        failing(Class::Write, every, Errno::ENOSPC, &["full", "no space"]);
    }
}

#[test]
fn a_disk_that_cannot_write() {
    for every in [1, 4] {
        failing(Class::Write, every, Errno::EIO, &["i/o error", "input/output error"]);
    }
}

#[test]
fn a_disk_that_cannot_sync() {
    for every in [1, 2, 5] {
        failing(Class::Sync, every, Errno::EIO, &["i/o error", "input/output error"]);
    }
}

#[test]
fn a_disk_that_is_found_full_when_it_syncs() {
    for every in [1, 3] {
        failing(Class::Sync, every, Errno::ENOSPC, &["full", "no space", "i/o error"]);
    }
}

#[test]
fn a_server_that_is_killed_while_its_disk_fails() {
    for (class, every) in [(Class::Write, 1), (Class::Write, 5), (Class::Sync, 1), (Class::Sync, 3)] {
        println!("{class:?}: each {every}-th fails");
        let mut stage = Stage::new(50 + u64::from(every));
        assert_eq!(stage.submit(20), 20);
        stage.end_one();
        stage.shim.fail(class, every, Errno::EIO as i32);
        wait_for("failures", || {
            stage.submit(1);
            (stage.shim.failed(class) >= 3).then_some(())
        });
        stage.end_one();
        stage.submit(10);
        stage.kill_and_look();
    }
}

/// SQLite by itself goes on after a failed sync, on the descriptor that it has.
#[test]
fn a_sync_that_is_tried_again_is_seen() {
    let shim = Shim::new();
    let mut sqlite = Command::new("sqlite3");
    let mut sqlite = Program::start(sqlite.arg("-batch").arg(shim.database()).envs(shim.environment()));
    sqlite.send_line("PRAGMA journal_mode = WAL; CREATE TABLE numbers (number);");
    sqlite.expect_line("wal");
    sqlite.send_line("INSERT INTO numbers VALUES (1); SELECT count(*) FROM numbers;");
    sqlite.expect_line("1");
    shim.fail(Class::Sync, 1, Errno::EIO as i32);
    sqlite.send_line("INSERT INTO numbers VALUES (2);");
    wait_for("a sync that fails", || (shim.failed(Class::Sync) > 0).then_some(()));
    shim.heal();
    sqlite.send_line("INSERT INTO numbers VALUES (3); SELECT 'done';");
    sqlite.expect_line("done");
    sqlite.finish();
    let found = retried(&shim.trace());
    assert!(found.is_some(), "SQLite's own way is not noticed: the check is blind");
}

#[test]
fn a_file_system_that_becomes_read_only() {
    let mut stage = Stage::new(30);
    assert_eq!(stage.submit(20), 20);
    let bystander = Bystander::start(&stage.server);
    for class in [Class::Write, Class::Open, Class::Resize] {
        stage.shim.fail(class, 1, Errno::EROFS as i32);
    }
    for _ in 0..5 {
        assert_eq!(stage.submit(3), 0, "acknowledged on a file system that is read only");
    }
    let words = &["read-only", "readonly", "read only", "i/o error"];
    assert_failing(&stage, words);
    assert_logged(&stage, words);
    stage.shim.heal();
    stage.recover();
    bystander.finish();
    stage.kill_and_judge();
}

/// An operator's word is in force at once, and is not called stored before it is.
#[test]
fn a_word_of_the_operator_while_the_disk_is_full() {
    let mut stage = Stage::new(60);
    assert_eq!(stage.submit(20), 20);
    let mut operator = Wire::connect(stage.server.addr());
    stage.shim.fail(Class::Write, 1, Errno::ENOSPC as i32);
    for command in ["pause f", "maxqueue f 3"] {
        let answer = operator.text(command);
        assert!(answer.starts_with("ERR NOT_STORED Applied,+but+not+yet+stored+(the+store+"), "{answer}");
        assert!(answer.contains("(the+store+is+full)") || answer.contains("(the+store+cannot+be+written)"), "{answer}");
    }
    assert!(operator.text("show functions").lines().any(|line| line.starts_with("f\t")), "it is in force");
    stage.shim.heal();
    stage.recover();
    assert_eq!(operator.text("pause f"), "OK 0\r\n");
    stage.kill_and_judge();
}

#[test]
fn a_file_that_somebody_else_has_locked() {
    let mut stage = Stage::new(40);
    assert_eq!(stage.submit(20), 20);
    let bystander = Bystander::start(&stage.server);
    let mut sqlite = Program::start(Command::new("sqlite3").arg("-batch").arg(stage.shim.database()));
    sqlite.send_line(".timeout 5000");
    sqlite.send_line("BEGIN IMMEDIATE; SELECT 'locked';");
    sqlite.expect_line("locked");
    assert_eq!(stage.submit(3), 0, "acknowledged in a file that is locked");
    assert_failing(&stage, &["locked"]);
    assert_logged(&stage, &["locked"]);
    assert_eq!(stage.submit(3), 0, "acknowledged in a file that is locked");
    sqlite.send_line("COMMIT;");
    stage.recover();
    sqlite.expect_end(&[]);
    bystander.finish();
    stage.kill_and_judge();
}
