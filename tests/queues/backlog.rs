//! Backlogs that are larger than the memory for them.

use std::collections::HashMap;
use std::fs;

use gearmand::protocol::Priority;

use super::peers::{Assigned, QueueFile, Worker, job, status_of, submit, text, words};
use crate::common::packet::{self, body};
use crate::common::{Server, Wire, wait_for};
use crate::durable::Submission;

const LIMIT: &[&str] = &["--max-workload-memory", "1MiB"];
const FUNCTIONS: &[&str] = &["red", "blue"];
/// Bytes of workloads.
const SIZE: usize = 1024;
/// Bytes of each workload of the large backlog. SQLite keeps up to 64 MiB of its file in memory, whatever the
/// limit is, so the backlog is larger than that.
const LARGE: usize = 8 * SIZE;
/// Background jobs of the large backlog, and foreground ones among them.
const JOBS: usize = 20_000;
const WAITED_FOR: usize = 200;

/// A workload of [`SIZE`] bytes that is like no other.
fn workload(serial: usize) -> Vec<u8> {
    workload_of(SIZE, serial)
}

fn workload_of(size: usize, serial: usize) -> Vec<u8> {
    let mut bytes = format!("{serial} \0\u{ff}").into_bytes().repeat(size / 4);
    bytes.truncate(size);
    bytes
}

/// Background jobs of both functions and all priorities.
fn backlog() -> Vec<Submission> {
    let of = |serial: usize| {
        let unique = match serial % 5 {
            0 => "-".to_owned(),
            1 => String::new(),
            _ => format!("u{serial}"),
        };
        let priority = Priority::ALL[serial / 2 % 3];
        Submission { priority, ..job(FUNCTIONS[serial % 2], &unique, &workload_of(LARGE, serial)) }
    };
    (0..JOBS).map(of).collect()
}

/// Submits foreground jobs, and returns their handles.
#[track_caller]
fn submit_and_wait(client: &mut Wire, jobs: usize) -> Vec<Vec<u8>> {
    let submit = |serial: usize| {
        let workload = format!("answer {serial}");
        client.send(packet::SUBMIT_JOB, &body(&[FUNCTIONS[serial % 2].as_bytes(), b"", workload.as_bytes()]));
        client.expect_type(packet::JOB_CREATED)
    };
    (0..jobs).map(submit).collect()
}

/// Memory of the server that is its own, in KiB.
fn anonymous_kib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server's status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of status");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}

/// Fills a server with the backlog. Returns how much memory that took, in KiB.
#[track_caller]
fn fill(server: &Server, jobs: &[Submission]) -> (u64, Vec<Vec<u8>>) {
    let mut client = Wire::connect(server.addr());
    client.expect_nothing();
    let before = anonymous_kib(server);
    let handles = submit(&mut client, jobs);
    client.expect_nothing();
    (anonymous_kib(server).saturating_sub(before), handles)
}

/// What is left of a backlog: the jobs of each function and priority, by their places.
struct Left<'a> {
    jobs: &'a [Submission],
    places: HashMap<Vec<u8>, usize>,
    last: HashMap<(Vec<u8>, usize), usize>,
}

impl<'a> Left<'a> {
    fn new(jobs: &'a [Submission], handles: Vec<Vec<u8>>) -> Self {
        let places: HashMap<_, _> = handles.into_iter().zip(0..).collect();
        assert_eq!(places.len(), jobs.len(), "each job has a handle of its own");
        Self { jobs, places, last: HashMap::new() }
    }

    /// A worker has got a job: it is as it was submitted, and later than those of its function and priority
    /// before it.
    #[track_caller]
    fn take(&mut self, assigned: &Assigned) {
        let name = text(&assigned.handle);
        let place = self.places.remove(&assigned.handle).unwrap_or_else(|| panic!("{name} was not to come"));
        let Submission { function, unique, priority, workload, .. } = &self.jobs[place];
        assert_eq!((&assigned.function, &assigned.unique), (function, unique), "{name}");
        assert!(assigned.workload == *workload, "the workload of {name}");
        let last = self.last.insert((function.clone(), priority.index()), place);
        assert!(last.is_none_or(|last| last < place), "{name} came after one that was submitted later");
    }
}

/// Workloads stay in the file, and come back in order, also after a restart.
pub(crate) fn beyond_memory() {
    let jobs = backlog();
    let file = QueueFile::new();
    let mut server = Server::ours(&words(&file.options(LIMIT)));
    let (durable_kib, handles) = fill(&server, &jobs);
    let (in_memory_kib, _) = fill(&Server::ours(&["-q", "builtin"]), &jobs);
    println!("{JOBS} jobs of {LARGE} bytes: {durable_kib} KiB in a file, {in_memory_kib} KiB in memory");
    assert!(durable_kib < in_memory_kib / 2, "{durable_kib} KiB in a file, {in_memory_kib} KiB in memory");

    let mut client = Wire::connect(server.addr());
    let mut waiting = submit_and_wait(&mut client, WAITED_FOR);
    let mut left = Left::new(&jobs, handles);
    let mut worker = Worker::connect(server.addr(), FUNCTIONS);
    // Foreground jobs have normal priority: all of them come within the first half, with or without the
    // backlog.
    while left.places.len() > JOBS / 2 || !waiting.is_empty() {
        let assigned = worker.wait();
        worker.complete();
        if waiting.contains(&assigned.handle) {
            waiting.retain(|handle| *handle != assigned.handle);
            client.expect(packet::WORK_COMPLETE, &body(&[&assigned.handle, &assigned.workload]));
        } else {
            left.take(&assigned);
        }
    }
    worker.wire().expect_nothing();
    assert!(left.places.len() > JOBS / 10, "{} jobs are left for the restart", left.places.len());
    server.restart();
    left.last.clear();
    let mut worker = Worker::connect(server.addr(), FUNCTIONS);
    for assigned in worker.work(left.places.len()) {
        left.take(&assigned);
    }
    worker.expect_no_job();
    server.terminate();
    assert_eq!(file.read().jobs.len(), 0);
}

/// What clients and operators may do to a job whose workload is in the file alone.
pub(crate) fn jobs_whose_workloads_are_only_stored() {
    let file = QueueFile::new();
    let server = Server::ours(&words(&file.options(LIMIT)));
    let mut client = Wire::connect(server.addr());
    let first: Vec<Submission> = (0..3000).map(|serial| job("red", "", &workload(serial))).collect();
    submit(&mut client, &first);
    let jobs = [
        job("red", "asked", &workload(3001)),
        job("red", "cancelled", &workload(3002)),
        job("red", "joined", &workload(3003)),
        job("red", "-", &workload(3004)),
        job("red", "last", &workload(3005)),
    ];
    let [asked, cancelled, joined, same, last] = submit(&mut client, &jobs).try_into().expect("five handles");
    assert_eq!(status_of(&mut client, &asked), (true, false));
    // A store that is slow to answer is not waited for: then there is no preview.
    let shown = wait_for("a preview", || {
        let shown = client.text(&format!("show job {}", text(&asked)));
        shown.contains(&format!("\nbytes\t{SIZE}\npreview\t")).then_some(shown)
    });
    assert!(shown.contains("\tbase64\n"), "{shown}");
    // What comes behind it on the connection waits for its answer.
    client.send_raw(format!("show job {}\nversion\n", text(&asked)).as_bytes());
    let lines: Vec<String> = (0..=shown.lines().count()).map(|_| client.text_line()).collect();
    assert!(
        lines[0] == format!("handle\t{}\n", text(&asked)) && lines[lines.len() - 1].starts_with("OK "),
        "{lines:?}"
    );
    client.send(packet::GET_STATUS_UNIQUE, b"asked");
    client.expect(packet::STATUS_RES_UNIQUE, &body(&[b"asked", b"1", b"0", b"0", b"0", b"0"]));
    assert_eq!(client.text(&format!("cancel job {}", text(&cancelled))), "OK\r\n");
    assert_eq!(status_of(&mut client, &cancelled), (false, false));
    // Whoever submits the same again joins, by unique id or by workload, in the background or waiting.
    assert_eq!(submit(&mut client, &jobs[2..4]), [joined.clone(), same.clone()]);
    let other = job("red", "-", &workload(3006));
    let other_handle = submit(&mut client, std::slice::from_ref(&other)).remove(0);
    assert_ne!(other_handle, same, "another workload");
    for (unique, handle, submission) in [(&b"joined"[..], &joined, &jobs[2]), (b"-", &same, &jobs[3])] {
        client.send(packet::SUBMIT_JOB, &body(&[b"red", unique, &submission.workload]));
        client.expect(packet::JOB_CREATED, handle);
    }
    let mut worker = Worker::connect(server.addr(), &["red"]);
    let done = worker.work(first.len() + 5);
    worker.expect_no_job();
    for (done, job) in done.iter().zip(&first) {
        assert!(done.workload == job.workload, "{}", text(&done.handle));
    }
    let expected =
        [(&asked, &jobs[0]), (&joined, &jobs[2]), (&same, &jobs[3]), (&last, &jobs[4]), (&other_handle, &other)];
    for (done, (handle, job)) in done[first.len()..].iter().zip(expected) {
        assert_eq!((&done.handle, &done.unique), (handle, &job.unique));
        assert!(done.workload == job.workload, "{}", text(handle));
    }
    for (handle, submission) in [(&joined, &jobs[2]), (&same, &jobs[3])] {
        client.expect(packet::WORK_COMPLETE, &body(&[handle, &submission.workload]));
    }
    client.expect_nothing();
    wait_for("an empty file", || file.read().jobs.is_empty().then_some(()));
}

/// A queue in memory says when it is full, and goes on when it no longer is.
pub(crate) fn a_full_memory_refuses_jobs() {
    let server = Server::ours(&[&["-q", "builtin"], LIMIT].concat());
    let mut client = Wire::connect(server.addr());
    let try_submit = |client: &mut Wire, packet_type: u32, serial: usize| {
        client.send(packet_type, &body(&[b"red", b"", &workload(serial)]));
        let (packet_type, body) = client.recv();
        (packet_type == packet::JOB_CREATED).then_some(body.clone()).ok_or(body)
    };
    let mut taken = 0;
    let refused = loop {
        match try_submit(&mut client, packet::SUBMIT_JOB_BG, taken) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken <= 1024, "more than 1 MiB was taken");
    };
    let full = b"QUEUE_ERROR\0Job queue is full: workload memory limit reached (max-workload-memory)";
    assert_eq!(text(&refused), text(full));
    assert!(taken >= 512, "full with {taken} KiB");
    // Somebody who waits is refused as well, small jobs of others are not, and the connection lives.
    assert_eq!(try_submit(&mut client, packet::SUBMIT_JOB, 0).expect_err("memory"), full);
    client.expect_nothing();
    let mut worker = Worker::connect(server.addr(), &["red"]);
    assert!(worker.work(1)[0].workload == workload(0));
    try_submit(&mut client, packet::SUBMIT_JOB_BG, taken).expect("room for one more");
    assert_eq!(try_submit(&mut client, packet::SUBMIT_JOB_BG, 0).expect_err("memory"), full);
    for (serial, done) in (1..=taken).zip(worker.work(taken)) {
        assert!(done.workload == workload(serial), "job {serial}");
    }
    worker.expect_no_job();
}

/// Neither jobs that are due later, nor those that a worker could ask for, bring large workloads into memory,
/// whatever the first of them is like.
pub(crate) fn large_workloads_stay_in_the_file() {
    const MIB: usize = 1024 * 1024;
    const EACH: usize = 80;
    let file = QueueFile::new();
    let server = Server::ours(&words(&file.options(LIMIT)));
    let mut client = Wire::connect(server.addr());
    let mut worker = Wire::connect(server.addr());
    client.expect_nothing();
    let before = anonymous_kib(&server);
    let large = vec![7; MIB];
    for serial in 0..EACH {
        client.send(packet::SUBMIT_JOB_EPOCH, &body(&[b"later", b"", b"4000000000", &large]));
        client.expect_type(packet::JOB_CREATED);
        let workload = if serial == 0 { &b""[..] } else { &large };
        client.send(packet::SUBMIT_JOB_BG, &body(&[b"now", b"", workload]));
        client.expect_type(packet::JOB_CREATED);
    }
    worker.send(packet::CAN_DO, b"now");
    worker.expect_nothing();
    wait_for("what was read ahead", || {
        worker.expect_nothing();
        // Half of it is the cache of SQLite.
        (anonymous_kib(&server).saturating_sub(before) < 70 * 1024).then_some(())
    });
    assert_eq!(worker.text("status"), format!("later\t{EACH}\t0\t0\nnow\t{EACH}\t0\t1\n.\n"));
}
