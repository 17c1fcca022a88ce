//! Results of workers from whom the job was taken away: the first one counts. These tests wait for a timeout
//! of a job.

use crate::common::packet::{self, body};
use crate::common::{Server, Wire, grab_nothing, wait_for};
use crate::roles::{complete, completed, connect, counts, grab, server, status, submit, submit_plain, worker};

/// A worker for `f` that may take a second for a job.
#[track_caller]
fn hasty_worker(server: &Server) -> Wire {
    let mut worker = connect(server);
    worker.send(packet::CAN_DO_TIMEOUT, &body(&[b"f", b"1000"]));
    worker.expect_nothing();
    worker
}

/// Waits until no worker has the job any more.
#[track_caller]
fn await_timeout(observer: &mut Wire, handle: &str) {
    wait_for("the time of a job to be over", || (status(observer, handle) == "1 0 0 0").then_some(()));
}

#[test]
fn a_job_that_outlasts_its_time_ends_with_its_first_result() {
    for (packet_type, name) in
        [(packet::WORK_COMPLETE, "result"), (packet::WORK_FAIL, ""), (packet::WORK_EXCEPTION, "reason")]
    {
        let server = server(&[]);
        let mut client = connect(&server);
        client.send(packet::OPTION_REQ, b"exceptions");
        client.expect_type(packet::OPTION_RES);
        let mut slow = hasty_worker(&server);
        let handle = submit_plain(&mut client, "f", "x");
        assert_eq!(grab(&mut slow).handle, handle);
        await_timeout(&mut connect(&server), &handle);
        let result =
            if name.is_empty() { handle.clone().into_bytes() } else { body(&[handle.as_bytes(), name.as_bytes()]) };
        slow.send(packet_type, &result);
        slow.expect_nothing();
        client.expect(packet_type, &result);
        assert_eq!(status(&mut client, &handle), "0 0 0 0");
        grab_nothing(&mut slow);
        client.expect_nothing();
    }
}

#[test]
fn the_first_of_two_workers_ends_the_job_and_the_other_is_not_answered() {
    let server = server(&[]);
    let mut client = connect(&server);
    assert_eq!(client.text("limit running f 1"), "OK 0\r\n");
    let mut slow = hasty_worker(&server);
    let handle = submit_plain(&mut client, "f", "x");
    let next = submit_plain(&mut client, "f", "y");
    grab(&mut slow);
    await_timeout(&mut connect(&server), &handle);
    let mut other = worker(&server, &["f"]);
    // It stands behind the one that came after it.
    assert_eq!(grab(&mut other).handle, next);
    complete(&mut other, &next, "");
    completed(&mut client, &next, "");
    assert_eq!(grab(&mut other).handle, handle);
    let third = submit_plain(&mut client, "f", "z");
    grab_nothing(&mut other);
    complete(&mut slow, &handle, "late");
    completed(&mut client, &handle, "late");
    // The run of the other has ended with it, and the limit has room again.
    assert_eq!(counts(&mut client, "f"), "1 0 2");
    other.send(packet::WORK_DATA, &body(&[handle.as_bytes(), b"more"]));
    other.send(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), b"later"]));
    other.expect_nothing();
    client.expect_nothing();
    assert_eq!(grab(&mut other).handle, third);
}

#[test]
fn what_a_late_worker_says_before_its_result_is_not_heard() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut slow = hasty_worker(&server);
    let handle = submit_plain(&mut client, "f", "x");
    grab(&mut slow);
    await_timeout(&mut connect(&server), &handle);
    slow.send(packet::WORK_STATUS, &body(&[handle.as_bytes(), b"1", b"2"]));
    slow.send(packet::WORK_DATA, &body(&[handle.as_bytes(), b"data"]));
    slow.send(packet::WORK_WARNING, &body(&[handle.as_bytes(), b"warning"]));
    slow.expect_nothing();
    client.expect_nothing();
    complete(&mut slow, &handle, "");
    completed(&mut client, &handle, "");
}

#[test]
fn nobody_else_ends_a_job() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut slow = hasty_worker(&server);
    let handle = submit_plain(&mut client, "f", "x");
    let mut stranger = worker(&server, &["f"]);
    grab(&mut slow);
    await_timeout(&mut connect(&server), &handle);
    // Whoever was handed another job, or this number under another prefix.
    let other = submit_plain(&mut client, "f", "y");
    assert_eq!(grab(&mut stranger).handle, handle);
    assert_eq!(grab(&mut slow).handle, other);
    let mut third = worker(&server, &["f"]);
    third.send(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), b"wrong"]));
    third.expect_error("JOB_NOT_FOUND");
    slow.send(packet::WORK_COMPLETE, &body(&[handle.replace("H:t", "H:u").as_bytes(), b"wrong"]));
    slow.expect_error("JOB_NOT_FOUND");
    client.expect_nothing();
    complete(&mut stranger, &handle, "right");
    completed(&mut client, &handle, "right");
}

#[test]
fn a_stored_job_that_ended_late_does_not_come_back() {
    let mut server = server(&[]);
    let mut client = connect(&server);
    let mut slow = hasty_worker(&server);
    let handle = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "u", "x");
    grab(&mut slow);
    await_timeout(&mut client, &handle);
    complete(&mut slow, &handle, "");
    assert_eq!(status(&mut client, &handle), "0 0 0 0");
    // Once this is stored, what was asked of the store before it is done.
    submit(&mut client, packet::SUBMIT_JOB_BG, "g", "", "");
    server.kill();
    server.restart();
    assert_eq!(status(&mut connect(&server), &handle), "0 0 0 0");
    grab_nothing(&mut worker(&server, &["f"]));
}
