//! What other programs have put into a queue, and what is left behind in its file.

use std::process::Command;

use super::peers::{Assigned, QueueFile, Worker, job, submit, text, words};
use crate::common::packet;
use crate::common::{Server, Wire, wait_for};
use crate::durable::Submission;
use crate::redis::Redis;
use crate::{battery::Database as _, site};

const FUNCTION: &str = "kept";

fn insert(file: &QueueFile, number: u64, unique: &str) {
    let raw = rusqlite::Connection::open(file.path()).expect("the file");
    raw.busy_timeout(crate::common::DEADLINE).expect("a time limit");
    let sql = "INSERT INTO gearman_queue (job_id, unique_key, function_name, priority, when_to_run, data) \
               VALUES (?1, ?2, 'kept', 1, 0, 'stranger')";
    raw.execute(sql, (i64::try_from(number).expect("a number"), unique)).expect("insert a row");
}

/// The number of a handle.
fn number(handle: &[u8]) -> u64 {
    text(handle).rsplit(':').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Rows with the numbers of the next jobs, and one near the last number, are worked on after the next start.
pub(crate) fn rows_of_others_refuse_nobody() {
    let file = QueueFile::new();
    let mut server = Server::ours(&words(&file.options(&[])));
    let mut client = Wire::connect(server.addr());
    let first = submit(&mut client, &[job(FUNCTION, "u0", b"w")]);
    for ahead in 1..=3 {
        insert(&file, number(&first[0]) + ahead, &format!("x{ahead}"));
    }
    insert(&file, 999_999_999_998, "x4");
    let jobs: Vec<Submission> = (1..=5).map(|serial| job(FUNCTION, &format!("u{serial}"), b"w")).collect();
    let handles = [first, submit(&mut client, &jobs)].concat();
    wait_for("a line in the log", || server.log().contains("another program has inserted").then_some(()));
    server.kill();
    server.restart();
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    let done = worker.work(10);
    worker.expect_no_job();
    let ours: Vec<&Assigned> = done.iter().filter(|job| job.workload == b"w").collect();
    let found: Vec<&Vec<u8>> = ours.iter().map(|job| &job.handle).collect();
    assert_eq!(found, handles.iter().collect::<Vec<_>>(), "acknowledged handles stay");
    let again = submit(&mut Wire::connect(server.addr()), &[job(FUNCTION, "u9", b"w")]);
    let highest = done.iter().map(|job| number(&job.handle)).max().expect("jobs");
    assert!((highest + 1..1_000_000).contains(&number(&again[0])), "{}", text(&again[0]));
    server.terminate();
}

/// Handles do not repeat.
pub(crate) fn at_the_last_number_jobs_are_refused() {
    const LEFT: u64 = 3;
    let file = QueueFile::new();
    Server::ours(&words(&file.options(&[]))).terminate();
    let last = 999_999_999_999 - LEFT;
    let raw = rusqlite::Connection::open(file.path()).expect("the file");
    raw.execute("UPDATE gearman_meta SET last_number = ?1", [i64::try_from(last).expect("a number")])
        .expect("an update");
    drop(raw);
    let mut server = Server::ours(&words(&file.options(&[])));
    let mut client = Wire::connect(server.addr());
    let warning = "only 3 job numbers left; submissions fail after that";
    wait_for("a line of the log", || server.log().contains(warning).then_some(()));
    let jobs: Vec<Submission> = (1..=LEFT).map(|serial| job(FUNCTION, &format!("u{serial}"), b"w")).collect();
    let handles = submit(&mut client, &jobs);
    assert_eq!(number(&handles[2]), 999_999_999_999);
    for _ in 0..2 {
        for kind in [packet::SUBMIT_JOB, packet::SUBMIT_JOB_BG] {
            client.send(kind, b"kept\0more\0w");
            let error = client.expect_error("QUEUE_ERROR");
            assert!(error.contains("job numbers exhausted"), "{error}");
        }
        server.kill();
        server.restart();
        client = Wire::connect(server.addr());
    }
    let done = Worker::connect(server.addr(), &[FUNCTION]).work(3);
    assert_eq!(done.iter().map(|job| job.handle.clone()).collect::<Vec<_>>(), handles);
}

/// The file of a backlog that was worked off gets small again while the server runs.
pub(crate) fn a_drained_backlog_leaves_no_space_behind() {
    let file = QueueFile::new();
    let server = Server::ours(&words(&file.options(&[])));
    let jobs: Vec<Submission> = (0..12_000).map(|serial| job(FUNCTION, &format!("u{serial}"), &[b'x'; 1024])).collect();
    submit(&mut Wire::connect(server.addr()), &jobs);
    let size = || std::fs::metadata(file.path()).expect("the file").len();
    // Where that takes long, the file gets small before all jobs are done.
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    let sizes = jobs.chunks(500).map(|jobs| {
        worker.work(jobs.len());
        size()
    });
    let largest = sizes.max().expect("a size");
    assert!(largest > 8 << 20, "{largest}");
    wait_for("the file to get small", || (size() < 1 << 20).then_some(()));
}

/// The log names the command that puts right what C++ gearmand cannot tell.
pub(crate) fn functions_that_were_cut_are_put_right() {
    let redis = Redis::start();
    for key in ["cut-resize-image-x1", "cut-resize-image-x2", "cut-mail-to-y1"] {
        redis.cli(&["HSET", key, "data", key, "priority", "1"]);
    }
    let server = Server::ours(&words(&redis.debian_options("cut")));
    let is_about_keys = |line: &&str| line.contains("are ambiguous");
    let log = wait_for("two lines of the log", || {
        Some(server.log()).filter(|log| log.ends_with('\n') && log.lines().filter(is_about_keys).count() >= 2)
    });
    let lines: Vec<&str> = log.lines().filter(is_about_keys).collect();
    assert_eq!(lines.len(), 2, "{log}");
    let command = "gearmand admin move-jobs resize resize-image";
    let line = lines.iter().find(|line| line.contains(command)).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("2 keys") && line.contains("cut-resize-image-x1"), "{line}");
    let address = server.addr().to_string();
    let arguments: Vec<&str> = command.split(' ').skip(1).chain(["--server", &address, "-y"]).collect();
    let done = Command::new(site::GEARMAND).args(arguments).output().expect("gearmand admin");
    assert!(done.status.success(), "{}", text(&done.stderr));
    let mut workloads: Vec<Vec<u8>> = Vec::new();
    workloads.extend(Worker::connect(server.addr(), &["resize-image"]).work(2).into_iter().map(|job| job.workload));
    workloads.sort();
    assert_eq!(workloads, [b"cut-resize-image-x1", b"cut-resize-image-x2"]);
}
