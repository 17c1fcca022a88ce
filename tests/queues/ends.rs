//! Jobs that end without a result leave the store, and what is known of the others comes back.

use super::peers::{QueueFile, Worker, job, status_of, submit, text, words};
use crate::common::{Server, Wire, wait_for};
use crate::durable::Submission;

const FUNCTION: &str = "kept";

fn jobs(count: usize) -> Vec<Submission> {
    (0..count).map(|serial| job(FUNCTION, &format!("u{serial}"), b"w")).collect()
}

/// For each of these jobs, which are the next ones, a worker takes it and is lost.
#[track_caller]
fn lose_workers(server: &Server, handles: &[Vec<u8>]) {
    for handle in handles {
        let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
        assert_eq!(text(&worker.grab().expect("a job").handle), text(handle));
        drop(worker);
        let mut client = Wire::connect(server.addr());
        wait_for("the loss to be noticed", || (!status_of(&mut client, handle).1).then_some(()));
    }
}

/// The attempts of each job, by `show jobs`.
#[track_caller]
fn attempts(client: &mut Wire) -> Vec<(String, u64)> {
    let listing = client.text("show jobs");
    let mut attempts: Vec<(String, u64)> = listing
        .lines()
        .filter(|line| *line != ".")
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            (columns[0].to_owned(), columns[1].parse().expect("a number"))
        })
        .collect();
    attempts.sort();
    attempts
}

#[track_caller]
fn await_attempts(client: &mut Wire, expected: &[(&[u8], u64)]) {
    let mut expected: Vec<(String, u64)> = expected.iter().map(|(handle, count)| (text(handle), *count)).collect();
    expected.sort();
    wait_for(&format!("show jobs to say {expected:?}"), || (attempts(client) == expected).then_some(()));
}

/// Jobs are cancelled while they wait, while they run, and while they are scheduled.
pub(crate) fn a_cancelled_job_leaves_the_store() {
    let file = QueueFile::new();
    let mut server = Server::ours(&words(&file.options(&[])));
    let mut client = Wire::connect(server.addr());
    let mut submissions = jobs(4);
    submissions[3].due_s = 4_000_000_000;
    let handles = submit(&mut client, &submissions);
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    assert_eq!(worker.grab().expect("a job").handle, handles[0]);
    file.await_handles(&handles);
    for index in [0, 1, 3] {
        assert_eq!(client.text(&format!("cancel job {}", text(&handles[index]))), "OK\r\n");
        assert_eq!(status_of(&mut client, &handles[index]), (false, false));
    }
    file.await_handles(&handles[2..3]);
    // The result of one that is cancelled is nobody's.
    worker.complete();
    worker.wire().expect_nothing();
    server.kill();
    server.restart();
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    assert_eq!(worker.work(1)[0].handle, handles[2]);
    worker.expect_no_job();
    file.await_handles(&[]);
}

/// The last attempt has failed.
pub(crate) fn a_dropped_job_leaves_the_store() {
    let file = QueueFile::new();
    let mut server = Server::ours(&words(&file.options(&["--job-retries", "2"])));
    let mut client = Wire::connect(server.addr());
    let handles = submit(&mut client, &jobs(3));
    lose_workers(&server, &handles);
    file.await_handles(&handles);
    lose_workers(&server, &handles[..1]);
    file.await_handles(&handles[1..]);
    assert_eq!(status_of(&mut client, &handles[0]), (false, false));
    // What counts is the sum of attempts before and after a restart.
    server.restart();
    lose_workers(&server, &handles[1..2]);
    file.await_handles(&handles[2..]);
    server.kill();
    server.restart();
    lose_workers(&server, &handles[2..]);
    file.await_handles(&[]);
    Worker::connect(server.addr(), &[FUNCTION]).expect_no_job();
}

pub(crate) fn attempts_are_kept() {
    let file = QueueFile::new();
    let mut server = Server::ours(&words(&file.options(&[])));
    let mut client = Wire::connect(server.addr());
    let handles = submit(&mut client, &jobs(3));
    let [first, second, third] = [&handles[0][..], &handles[1], &handles[2]];
    // A job whose worker was lost is the last in its queue.
    lose_workers(&server, &handles);
    lose_workers(&server, &handles[..1]);
    await_attempts(&mut client, &[(first, 2), (second, 1), (third, 1)]);
    assert_eq!(Worker::connect(server.addr(), &[FUNCTION]).work(1)[0].handle, second);
    server.restart();
    let mut client = Wire::connect(server.addr());
    await_attempts(&mut client, &[(first, 2), (third, 1)]);
    lose_workers(&server, &handles[..1]);
    // Killed, it has no time to write anything. But changes are made in their order: what is acknowledged now
    // comes after what was asked before.
    let last = submit(&mut client, &[job(FUNCTION, "last", b"w")]).remove(0);
    server.kill();
    server.restart();
    await_attempts(&mut Wire::connect(server.addr()), &[(first, 3), (third, 1), (&last, 0)]);
}
