//! Timeouts of jobs and jobs that are due later. These tests wait for packets that the server sends by the
//! clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::packet::{self, body};
use crate::common::{Server, Wire, grab_nothing};
use crate::roles::{
    close, complete, completed, connect, counts, created, fall_asleep, grab, server, sleeper, status, submit_plain,
};

/// A server's and a test's clock are read at different moments, and the kernel's timers are coarse.
const TOLERANCE: Duration = Duration::from_millis(20);

/// A worker for `f` that may take `timeout_ms` milliseconds for a job.
#[track_caller]
fn hasty_worker(server: &Server, timeout_ms: &str) -> Wire {
    let mut worker = connect(server);
    worker.send(packet::CAN_DO_TIMEOUT, &body(&[b"f", timeout_ms.as_bytes()]));
    worker.expect_nothing();
    worker
}

/// Sends PRE_SLEEP and waits to be woken, whether the job comes back while the worker sleeps or was back
/// before.
#[track_caller]
fn sleep_until_woken(worker: &mut Wire) {
    worker.send(packet::PRE_SLEEP, b"");
    worker.expect(packet::NOOP, b"");
}

#[test]
fn a_job_is_taken_from_a_slow_worker_and_what_it_says_is_not_answered() {
    let server = server(&["--verbose", "WARNING"]);
    let mut client = connect(&server);
    let mut slow = hasty_worker(&server, "1500");
    let handle = submit_plain(&mut client, "f", "x");
    let mut next = crate::roles::worker(&server, &["f"]);
    let start = Instant::now();
    grab(&mut slow);
    sleep_until_woken(&mut next);
    assert!(start.elapsed() + TOLERANCE >= Duration::from_millis(1500), "after {:?}", start.elapsed());
    let said = " at 127.0.0.1, timeout 1500 ms (CAN_DO_TIMEOUT)";
    let begins = format!("Worker timeout reached on job, requeueing: {handle} ");
    let is_said = |line: &str| line.contains(&begins) && line.contains("function f, worker ") && line.contains(said);
    crate::common::wait_for("the log", || server.log().lines().any(is_said).then_some(()));
    client.expect_nothing();
    assert_eq!(status(&mut client, &handle), "1 0 0 0");
    assert_eq!(grab(&mut next).handle, handle);
    slow.send(packet::WORK_DATA, &body(&[handle.as_bytes(), b"late"]));
    slow.expect_nothing();
    client.expect_nothing();
    complete(&mut next, &handle, "in time");
    completed(&mut client, &handle, "in time");
    slow.send(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), b"late"]));
    slow.expect_nothing();
    client.expect_nothing();
}

#[test]
fn a_short_timeout_is_raised_to_a_second_and_a_slow_worker_may_grab_again() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut slow = hasty_worker(&server, "10");
    let handle = submit_plain(&mut client, "f", "x");
    let start = Instant::now();
    grab(&mut slow);
    // A worker may sleep while it holds a job, and is woken for the very job that it lost.
    sleep_until_woken(&mut slow);
    assert!(start.elapsed() + TOLERANCE >= Duration::from_secs(1), "after {:?}", start.elapsed());
    assert_eq!(grab(&mut slow).handle, handle);
    complete(&mut slow, &handle, "second attempt");
    completed(&mut client, &handle, "second attempt");
}

#[test]
fn a_timeout_uses_up_an_attempt() {
    let server = server(&["-j", "1"]);
    let mut client = connect(&server);
    let mut slow = hasty_worker(&server, "1000");
    let handle = submit_plain(&mut client, "f", "x");
    grab(&mut slow);
    client.expect(packet::WORK_FAIL, handle.as_bytes());
    assert_eq!(status(&mut client, &handle), "0 0 0 0");
    slow.send(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), b"late"]));
    slow.expect_nothing();
}

#[test]
fn a_timeout_ends_with_its_job_and_each_job_has_its_own() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut worker = hasty_worker(&server, "1000");
    let first = submit_plain(&mut client, "f", "1");
    let second = submit_plain(&mut client, "f", "2");
    grab(&mut worker);
    complete(&mut worker, &first, "");
    completed(&mut client, &first, "");
    let start = Instant::now();
    grab(&mut worker);
    let mut next = crate::roles::worker(&server, &["f"]);
    // The second one's timeout, and nothing of the first one's.
    sleep_until_woken(&mut next);
    assert!(start.elapsed() + TOLERANCE >= Duration::from_secs(1), "after {:?}", start.elapsed());
    assert_eq!(grab(&mut next).handle, second);
    complete(&mut next, &second, "");
    completed(&mut client, &second, "");
    assert_eq!(counts(&mut client, "f"), "0 0 2");
    client.expect_nothing();
}

#[test]
fn a_timeout_ends_with_its_worker() {
    let server = server(&["-j", "2"]);
    let mut client = connect(&server);
    let mut worker = hasty_worker(&server, "1000");
    let handle = submit_plain(&mut client, "f", "x");
    grab(&mut worker);
    close(&server, worker);
    // Without a limit of its own this one may take longer than the other's time.
    let mut patient = crate::roles::worker(&server, &["f"]);
    grab(&mut patient);
    let mut clock = hasty_worker(&server, "1000");
    let other = submit_plain(&mut client, "f", "clock");
    grab(&mut clock);
    sleep_until_woken(&mut clock);
    assert_eq!(status(&mut client, &handle), "1 1 0 0");
    assert_eq!(status(&mut client, &other), "1 0 0 0");
}

#[test]
fn a_timeout_of_zero_or_less_is_none() {
    let server = server(&[]);
    let mut client = connect(&server);
    for timeout in ["0", "-1000"] {
        let mut patient = hasty_worker(&server, timeout);
        let handle = submit_plain(&mut client, "f", timeout);
        grab(&mut patient);
        let mut clock = hasty_worker(&server, "1000");
        submit_plain(&mut client, "f", "clock");
        grab(&mut clock);
        sleep_until_woken(&mut clock);
        let other = grab(&mut clock).handle;
        complete(&mut clock, &other, "");
        completed(&mut client, &other, "");
        complete(&mut patient, &handle, "");
        completed(&mut client, &handle, "");
    }
}

/// Seconds since 1970, rounded down.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

#[track_caller]
fn submit_epoch(client: &mut Wire, unique: &str, time: &str) -> String {
    client.send(packet::SUBMIT_JOB_EPOCH, &body(&[b"f", unique.as_bytes(), time.as_bytes(), b"x"]));
    created(client)
}

#[test]
fn a_job_that_is_due_later_wakes_a_worker_when_it_is_due() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut worker = sleeper(&server, "f");
    // However slow the machine, this one is not due before the test has ended.
    let far = submit_epoch(&mut client, "far", "4000000000");
    worker.expect_nothing();
    assert_eq!(status(&mut client, &far), "1 0 0 0");
    assert_eq!(counts(&mut client, "f"), "1 0 1");
    assert_eq!(client.text("prioritystatus"), "f\t0\t1\t0\t1\n.\n");
    grab_nothing(&mut worker);
    fall_asleep(&mut worker);
    let due = unix_seconds() + 2;
    let handle = submit_epoch(&mut client, "u", &due.to_string());
    worker.expect(packet::NOOP, b"");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    assert!(now + TOLERANCE >= Duration::from_secs(due), "{now:?} is before {due}");
    assert!(now < Duration::from_secs(due + 5), "{now:?} is long after {due}");
    assert_eq!(grab(&mut worker).handle, handle);
    grab_nothing(&mut worker);
    assert_eq!(status(&mut client, &far), "1 0 0 0");
}

#[test]
fn a_job_that_was_due_is_ready_at_once() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut worker = sleeper(&server, "f");
    for time in ["0", "1", "-5", &unix_seconds().to_string()] {
        let handle = submit_epoch(&mut client, "", time);
        worker.expect(packet::NOOP, b"");
        assert_eq!(grab(&mut worker).handle, handle, "{time}");
        complete(&mut worker, &handle, "");
        fall_asleep(&mut worker);
    }
    client.expect_nothing();
}

#[test]
fn jobs_that_are_due_later_stand_in_nobodys_way_and_outlive_their_client() {
    let server = server(&[]);
    let mut client = connect(&server);
    let later = submit_epoch(&mut client, "u", "4000000000");
    let mut observer = connect(&server);
    close(&server, client);
    let now = submit_plain(&mut observer, "f", "now");
    let mut worker = crate::roles::worker(&server, &["f"]);
    assert_eq!(grab(&mut worker).handle, now);
    grab_nothing(&mut worker);
    fall_asleep(&mut worker);
    assert_eq!(status(&mut observer, &later), "1 0 0 0");
    assert_eq!(observer.text(&format!("cancel job {later}")), "OK\r\n");
    assert_eq!(status(&mut observer, &later), "0 0 0 0");
    // Seconds beyond what any clock shows are a time like others.
    submit_epoch(&mut observer, "", "9223372036854775807");
    observer.send(packet::SUBMIT_JOB_EPOCH, b"f\0\x009223372036854775808\0x");
    observer.expect_error("INVALID_ARGUMENT");
}
