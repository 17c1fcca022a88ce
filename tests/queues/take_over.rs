//! Queues that Debian's gearmand has left are taken over with its own options, and it gets a file of ours
//! back.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gearmand::protocol::Priority;
use nix::sys::signal::Signal;

use super::peers::{Assigned, QueueFile, Worker, job, submit, text, words};
use crate::battery::Database;
use crate::common::{Server, Wire, packet, wait_for};
use crate::durable::Submission;
use crate::mariadb::MariaDb;
use crate::postgres::Postgres;
use crate::redis::Redis;

/// C++ gearmand keeps 63 of these.
const SIXTY_FOUR: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdeX";
const FUNCTIONS: &[&str] = &["plain", "other", "large", "anonymous", "dash", "with-hyphens", "later", "old"];
/// How long after it was submitted the job is due that is to wait: servers take less to change over.
const WAIT: Duration = Duration::from_secs(3);
/// Long ago.
const OVERDUE_S: u64 = 1_000_000_000;

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// Jobs of every kind, two of which C++ gearmand mistakes for others.
fn every_kind() -> Vec<Submission> {
    let every_byte: Vec<u8> = (0..=255).collect();
    let mebibyte: Vec<u8> = every_byte.iter().rev().copied().cycle().take(1 << 20).collect();
    let with = |priority, submission| Submission { priority, ..submission };
    vec![
        with(Priority::Low, job("plain", "u1", b"low")),
        job("plain", "u2", b"normal"),
        with(Priority::High, job("plain", "u3", b"high")),
        with(Priority::Low, job("other", "u4", b"another low one")),
        job("plain", "every-byte", &every_byte),
        job("plain", "empty", b""),
        job("large", "u5", &mebibyte),
        job("anonymous", "", b"the first without a unique id"),
        job("anonymous", "", b"the second without a unique id"),
        job("dash", "-", b"the first whose workload is its unique id"),
        job("dash", "-", b"the second whose workload is its unique id"),
        job("with-hyphens", "in-both", b"hyphens"),
        with(Priority::High, job("other", "u6", b"another high one")),
        job("plain", SIXTY_FOUR, b"the longest unique id"),
        with(Priority::Low, job("plain", "u7", b"the second low one")),
        with(Priority::High, job("plain", "u8", b"the second high one")),
        Submission { due_s: OVERDUE_S, ..job("later", "overdue", b"due long ago") },
        Submission { due_s: now_s() + WAIT.as_secs(), ..job("later", "due", b"due soon") },
    ]
}

/// Lets Debian's gearmand keep jobs of every kind, and ends it. Returns those that it has kept, in order.
fn left_by_debian(options: &[String], stop: Signal, keeps_due_times: bool) -> Vec<Submission> {
    let mut server = Server::debian(&words(options));
    let mut client = Wire::connect(server.addr());
    let mut kept: Vec<Submission> = Vec::new();
    for mut job in every_kind() {
        client.send_raw(&job.request());
        job.unique.truncate(63);
        let is_same = |other: &Submission| (&other.function, &other.unique) == (&job.function, &job.unique);
        match client.recv() {
            // A job of the same function and unique id has lost its place.
            (packet::JOB_CREATED, _) => {
                kept.retain(|other| !is_same(other));
                kept.push(job);
            }
            (packet::ERROR, error) => {
                let is_refused = job.due_s > 0 && !keeps_due_times || kept.iter().any(is_same);
                assert!(is_refused, "{} was refused: {}", text(&job.unique), error.escape_ascii());
            }
            (other, _) => panic!("a submission was answered with type {other}"),
        }
    }
    server.signal(stop);
    server.wait();
    kept
}

/// The next job of a worker, which is not due later.
#[track_caller]
fn next(worker: &mut Worker, expected: &[Submission]) -> Assigned {
    let assigned = worker.wait();
    let now_s = now_s();
    worker.complete();
    let due = expected.iter().find(|job| job.function == assigned.function && job.unique == assigned.unique);
    assert!(due.is_none_or(|job| job.due_s <= now_s), "{} came before it was due", text(&assigned.unique));
    assigned
}

/// Starts our server with the options of Debian's, and works on all that it has.
fn work_through(options: &[String], expected: &[Submission], is_in_order: bool) {
    let mut server = Server::ours(&words(options));
    let mut worker = Worker::connect(server.addr(), FUNCTIONS);
    let done: Vec<Assigned> = expected.iter().map(|_| next(&mut worker, expected)).collect();
    worker.expect_no_job();
    server.terminate();
    let found: Vec<&Submission> = done
        .iter()
        .map(|done| {
            let is_it = |job: &&Submission| {
                job.function == done.function && job.unique == done.unique && job.workload == done.workload
            };
            expected.iter().find(is_it).unwrap_or_else(|| {
                let Assigned { function, unique, workload, .. } = done;
                panic!("{} {} of {} bytes is not as it was", text(function), unique.escape_ascii(), workload.len())
            })
        })
        .collect();
    let missing = expected.iter().find(|job| !found.contains(job));
    assert!(missing.is_none(), "one job came twice, and another never: {:?}", missing.map(|job| text(&job.unique)));
    let at_once = found.iter().filter(|job| job.due_s <= OVERDUE_S);
    let priorities: Vec<usize> = at_once.map(|job| job.priority.index()).collect();
    assert!(priorities.is_sorted(), "by priority: {priorities:?}");
    if is_in_order {
        for function in FUNCTIONS {
            let of_function = |job: &&Submission| job.function == function.as_bytes();
            let mut sorted: Vec<&Submission> = expected.iter().filter(of_function).collect();
            sorted.sort_by_key(|job| (job.due_s > OVERDUE_S, job.priority.index()));
            let done: Vec<&Submission> = found.iter().copied().filter(of_function).collect();
            assert!(done == sorted, "the order of {function}");
        }
    }
}

fn of_database(database: &dyn Database, is_in_order: bool) {
    for (stop, name) in [(Signal::SIGTERM, "stopped"), (Signal::SIGKILL, "killed")] {
        let options = database.debian_options(name);
        let mut expected = left_by_debian(&options, stop, database.debian_keeps_due_times());
        for (function, unique, priority, due_s, workload) in database.put_beside(name) {
            expected.push(Submission { function, unique, reducer: Vec::new(), priority, due_s, workload });
        }
        assert_eq!(database.rows(name), expected.len(), "{name}: what Debian's gearmand has kept");
        work_through(&options, &expected, is_in_order);
        assert_eq!(database.rows(name), 0, "{name}: all jobs have ended");
    }
}

pub(crate) fn of_postgres() {
    of_database(&Postgres::start(), true);
}

pub(crate) fn of_mariadb() {
    of_database(&MariaDb::start(), false);
}

pub(crate) fn of_redis() {
    of_database(&Redis::start(), false);
}

/// How many jobs a file has, by SQLite's own program.
#[track_caller]
fn rows(file: &QueueFile) -> usize {
    let mut sqlite = Command::new("sqlite3");
    sqlite.args(["-batch", "-cmd", ".timeout 5000"]).arg(file.path()).arg("SELECT count(*) FROM gearman_queue");
    let output = sqlite.output().expect("sqlite3");
    text(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("sqlite3: {}", text(&output.stderr)))
}

pub(crate) fn of_sqlite() {
    for stop in [Signal::SIGTERM, Signal::SIGKILL] {
        let file = QueueFile::new();
        let options = file.options(&[]);
        let expected = left_by_debian(&options, stop, true);
        assert_eq!(rows(&file), expected.len(), "{stop}: what Debian's gearmand has kept");
        work_through(&options, &expected, true);
        assert_eq!(rows(&file), 0, "{stop}: all jobs have ended");
    }
}

/// Debian's gearmand takes a file of ours, and runs every job.
pub(crate) fn back_to_debian() {
    let file = QueueFile::new();
    let mut server = Server::ours(&words(&file.options(&[])));
    let jobs = every_kind();
    let handles = submit(&mut Wire::connect(server.addr()), &jobs);
    server.terminate();
    assert_eq!(rows(&file), jobs.len());
    let server = Server::debian(&words(&file.options(&[])));
    let mut worker = Worker::connect(server.addr(), FUNCTIONS);
    let mut done = Vec::new();
    for _ in &jobs {
        // It wakes nobody for a job that becomes due.
        let assigned = wait_for("a job", || worker.grab());
        worker.complete();
        done.push((assigned.function, assigned.unique, assigned.workload));
    }
    worker.expect_no_job();
    let handed_out = |(Submission { function, unique, workload, .. }, handle): (&Submission, &Vec<u8>)| {
        let (unique, workload) = match &unique[..] {
            b"" | b"-" => (handle.clone(), workload.clone()),
            // It takes the last byte of the longest ones, and puts a NUL before the workload.
            longest if longest.len() == 64 => (longest[..63].to_vec(), [b"\0", &workload[..]].concat()),
            own => (own.to_vec(), workload.clone()),
        };
        (function.clone(), unique, workload)
    };
    let mut expected: Vec<_> = jobs.iter().zip(&handles).map(handed_out).collect();
    done.sort();
    expected.sort();
    for (done, expected) in done.iter().zip(&expected) {
        assert!(done == expected, "{} {}", text(&expected.0), text(&expected.1));
    }
    // It does not find the row of the longest unique id again, of which it knows a part.
    wait_for("the other rows to be removed", || (rows(&file) == 1).then_some(()));
}
