//! A start with so many jobs that workers are served before all of them are read.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use super::peers::{QueueFile, Worker, job, shown, status_of, text, words};
use crate::common::packet::{self, body};
use crate::common::{Server, Wire, wait_for};

const FUNCTION: &str = "many";
/// So many take some seconds to read: in a build for tests, and in one for use.
const JOBS: u64 = if cfg!(debug_assertions) { 800_000 } else { 5_000_000 };

/// A server that has just begun to read its jobs, and serves.
#[track_caller]
fn start(file: &QueueFile, more: &str) -> Server {
    let mut server = Server::ours(&words(&file.options(&["--verbose", "NOTICE"])));
    assert!(server.terminate().success());
    let connection = rusqlite::Connection::open(file.path()).expect("the file");
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = OFF;
             WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {JOBS})
             INSERT INTO gearman_queue (job_id, unique_key, function_name, priority, when_to_run, handle, flags, data)
             SELECT number, 'u' || number, '{FUNCTION}', 1, 0, 'H:test:' || number, 0, 'w' FROM numbers;
             {more}"
        ))
        .expect("rows");
    drop(connection);
    server.restart();
    assert_eq!(shown(server.addr(), "state"), "restoring", "this machine reads {JOBS} jobs before it serves");
    server
}

/// Waits until all jobs are read, as long as some are read meanwhile.
#[track_caller]
fn await_restored(server: &Server) {
    let is_restoring = || shown(server.addr(), "state") == "restoring";
    while is_restoring() {
        let jobs = shown(server.addr(), "jobs");
        wait_for("more jobs to be read", || (!is_restoring() || shown(server.addr(), "jobs") != jobs).then_some(()));
    }
    assert_eq!(shown(server.addr(), "state"), "ok");
}

/// That nothing comes for a moment.
#[track_caller]
fn expect_silence(wire: &Wire) {
    wire.stream().set_read_timeout(Some(Duration::from_millis(20))).expect("SO_RCVTIMEO");
    let read = wire.stream().read(&mut [0; 1]);
    assert!(read.is_err(), "it was answered: {read:?}");
    wire.stream().set_read_timeout(Some(crate::common::DEADLINE)).expect("SO_RCVTIMEO");
}

pub(crate) fn workers_are_served_while_jobs_are_read() {
    let file = QueueFile::new();
    let invalid = format!(
        "INSERT INTO gearman_queue (job_id, unique_key, function_name, priority) VALUES ({JOBS} + 1, 'x', 'f', 9)"
    );
    let server = start(&file, &invalid);
    // What is equal to a job that is not read yet, asks for one, or means one, waits.
    let mut client = Wire::connect(server.addr());
    client.send_raw(&job(FUNCTION, &format!("u{JOBS}"), b"again").request());
    client.send_raw(&job(FUNCTION, "new", b"new").request());
    let mut curious = Wire::connect(server.addr());
    let last = format!("H:test:{JOBS}");
    curious.send(packet::GET_STATUS, last.as_bytes());
    let mut operator = Wire::connect(server.addr());
    operator.send_raw(format!("cancel job H:test:{}\n", JOBS - 1).as_bytes());
    // Workers get the oldest jobs, and what they end is gone.
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    for number in 1..=20 {
        assert_eq!(text(&worker.wait().handle), format!("H:test:{number}"));
        worker.complete();
    }
    for wire in [&client, &curious, &operator] {
        expect_silence(wire);
    }
    let shown_job = Wire::connect(server.addr()).text(&format!("show job {last}"));
    assert!(shown_job.starts_with("ERR JOB_IS_BUSY "), "{shown_job}");
    assert_eq!(shown(server.addr(), "state"), "restoring", "all was over before the workers had their jobs");
    await_restored(&server);
    worker.wire().expect_nothing();
    assert_eq!(text(&client.expect_type(packet::JOB_CREATED)), last, "it is the job that was there");
    let new = text(&client.expect_type(packet::JOB_CREATED));
    let number: u64 = new.rsplit(':').next().and_then(|number| number.parse().ok()).expect("a handle");
    assert!(number > JOBS, "{new} is a handle of before");
    let status = curious.expect_type(packet::STATUS_RES);
    assert_eq!(status, body(&[last.as_bytes(), b"1", b"0", b"0", b"0"]));
    assert_eq!(operator.text_line().trim_end(), "OK");
    let total = JOBS - 20 - 1 + 1;
    let status = Wire::connect(server.addr()).text("status");
    assert!(status.contains(&format!("{FUNCTION}\t{total}\t0\t1\n")), "{status}");
    assert!(!status_of(&mut curious, format!("H:test:{}", JOBS - 1).as_bytes()).0);
    wait_for("a line of the log", || server.log().contains("queue restored: ").then_some(()));
    // Entries that make no sense are quarantined a little later.
    let connection = rusqlite::Connection::open(file.path()).expect("the file");
    wait_for("the row to be quarantined", || {
        let count = "SELECT count(*) FROM gearman_quarantine";
        connection.query_row(count, [], |row| row.get::<_, i64>(0)).ok().filter(|count| *count == 1)
    });
}

pub(crate) fn a_stop_while_jobs_are_read_keeps_them() {
    let file = QueueFile::new();
    let mut server = start(&file, "");
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    worker.work(10);
    let mut client = Wire::connect(server.addr());
    client.send_raw(&job(FUNCTION, "late", b"late").request());
    assert_eq!(shown(server.addr(), "state"), "restoring", "all was over before the stop");
    assert!(server.terminate().success());
    client.expect_end();
    assert!(server.log().contains("stopping before all jobs were restored"), "{}", server.log());
    let count = |server: &Server| {
        await_restored(server);
        shown(server.addr(), "jobs")
    };
    server.restart();
    assert_eq!(count(&server), (JOBS - 10).to_string());
    // Nor does a crash lose any.
    server.kill();
    server.restart();
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    assert_eq!(text(&worker.wait().handle), "H:test:11");
    worker.complete();
    server.kill();
    server.restart();
    assert!([JOBS - 10, JOBS - 11].map(|jobs| jobs.to_string()).contains(&count(&server)));
}

pub(crate) fn a_queue_that_cannot_be_read_to_its_end_ends_the_server() {
    let file = QueueFile::new();
    let mut server = start(&file, "");
    assert!(server.terminate().success());
    let damaged = OpenOptions::new().write(true).open(file.path()).expect("the file");
    let length = damaged.metadata().expect("its length").len();
    damaged.write_all_at(&[0xff; 4096], length / 4096 / 8 * 7 * 4096).expect("a damage");
    server.restart();
    let mut worker = Worker::connect(server.addr(), &[FUNCTION]);
    assert_eq!(text(&worker.wait().handle), "H:test:1");
    assert!(!server.wait().success(), "who started it must see that it has failed");
    assert!(server.log().contains("cannot restore the whole queue, stopping: "), "{}", server.log());
}
