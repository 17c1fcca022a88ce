//! Jobs that lose their worker.

use crate::common::packet::{self, body};
use crate::common::{Server, Wire, grab_all, grab_nothing, wait_for};
use crate::roles::{close, complete, completed, connect, counts, grab, server, status, submit, submit_plain, worker};

/// A way in which a worker gives up its jobs without a word of them. What stays of the connection is
/// returned, so that it is not its end that counts.
type GiveUp = fn(&Server, Wire) -> Option<Wire>;

const GIVING_UP: [(&str, GiveUp); 3] = [
    ("the worker dies", |server, worker| {
        close(server, worker);
        None
    }),
    ("CANT_DO", |_, mut worker| {
        worker.send(packet::CANT_DO, b"f");
        worker.expect_nothing();
        Some(worker)
    }),
    ("RESET_ABILITIES", |_, mut worker| {
        worker.send(packet::RESET_ABILITIES, b"");
        worker.expect_nothing();
        Some(worker)
    }),
];

#[test]
fn a_job_goes_to_the_next_worker_and_its_client_hears_nothing() {
    for (what, give_up) in GIVING_UP {
        let server = server(&[]);
        let mut client = connect(&server);
        let mut first = worker(&server, &["f"]);
        let handle = submit_plain(&mut client, "f", what);
        grab(&mut first);
        first.send(packet::WORK_STATUS, &body(&[handle.as_bytes(), b"1", b"2"]));
        client.expect_type(packet::WORK_STATUS);
        let _kept = give_up(&server, first);
        client.expect_nothing();
        assert_eq!(client.text("show jobs"), format!("{handle}\t1\t0\t0\n.\n"), "{what}");
        let mut second = worker(&server, &["f"]);
        assert_eq!(grab(&mut second).workload, what);
        assert_eq!(status(&mut second, &handle), "1 1 0 0", "progress starts anew");
        complete(&mut second, &handle, "result");
        completed(&mut client, &handle, "result");
    }
}

#[test]
fn a_job_that_comes_back_stands_last() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut first = worker(&server, &["f"]);
    for name in ["1", "2", "3", "4"] {
        submit_plain(&mut client, "f", name);
    }
    submit(&mut client, packet::SUBMIT_JOB_LOW, "f", "", "low");
    grab(&mut first);
    grab(&mut first);
    close(&server, first);
    assert_eq!(grab_all(&mut worker(&server, &["f"])), ["3", "4", "1", "2", "low"]);
}

#[test]
fn an_abandoned_job_does_not_come_back() {
    for (what, give_up) in GIVING_UP {
        let server = server(&[]);
        let mut client = connect(&server);
        let mut holder = worker(&server, &["f"]);
        submit_plain(&mut client, "f", "");
        grab(&mut holder);
        close(&server, client);
        let _kept = give_up(&server, holder);
        let mut observer = connect(&server);
        assert_eq!(counts(&mut observer, "f").split(' ').next(), Some("0"), "{what}");
    }
}

/// Lets workers die with a job until it does not come back, at most `most` times, and returns how often they
/// could.
#[track_caller]
fn attempts(server: &Server, most: u32) -> u32 {
    let mut client = connect(server);
    let handle = submit_plain(&mut client, "f", "");
    let background = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "", "");
    for attempt in 1..=most {
        let mut worker = worker(server, &["f"]);
        let mut held = [grab(&mut worker).handle, grab(&mut worker).handle];
        held.sort();
        assert_eq!(held, [handle.clone(), background.clone()]);
        close(server, worker);
        if status(&mut connect(server), &background) == "0 0 0 0" {
            client.expect(packet::WORK_FAIL, handle.as_bytes());
            client.expect_nothing();
            return attempt;
        }
        client.expect_nothing();
    }
    most
}

#[test]
fn a_job_may_lose_workers_without_end() {
    assert_eq!(attempts(&server(&[]), 30), 30);
    assert_eq!(attempts(&server(&["--job-retries", "-1"]), 3), 3);
    assert_eq!(attempts(&server(&["--job-retries", "0"]), 3), 3);
}

#[test]
fn a_job_fails_when_its_attempts_are_used_up() {
    for (retries, expected) in [("1", 1), ("2", 2), ("5", 5)] {
        assert_eq!(attempts(&server(&["--job-retries", retries]), 30), expected, "--job-retries {retries}");
    }
}

#[test]
fn an_attempt_is_used_up_by_cant_do_and_reset_abilities_too() {
    for (what, give_up) in GIVING_UP {
        let server = server(&["-j", "1"]);
        let mut client = connect(&server);
        let mut holder = worker(&server, &["f"]);
        let handle = submit_plain(&mut client, "f", "");
        grab(&mut holder);
        let _kept = give_up(&server, holder);
        client.expect(packet::WORK_FAIL, handle.as_bytes());
        client.expect_nothing();
        assert!(client.text("status").starts_with("f\t0\t0\t0\n"), "{what}");
    }
}

/// A worker that has grabbed ahead and stops says so: its jobs lose no attempt, however it gives them back,
/// at most 16 times.
#[test]
fn jobs_that_were_not_begun_lose_no_attempt() {
    for (what, give_up) in GIVING_UP {
        let server = server(&["-j", "1"]);
        let mut client = connect(&server);
        let handle = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "", "");
        for round in 0..16 {
            let mut holder = worker(&server, &["f"]);
            assert_eq!(grab(&mut holder).handle, handle, "{what}, {round}");
            holder.send(packet::OPTION_REQ, b"not-begun");
            holder.expect(packet::OPTION_RES, b"not-begun");
            let kept = give_up(&server, holder);
            assert_eq!(client.text("show jobs"), format!("{handle}\t0\t0\t1\n.\n"), "{what}, {round}");
            if let Some(mut worker) = kept {
                // It has no part in the job any more.
                worker.send(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), b""]));
                worker.expect_error("JOB_NOT_FOUND");
            }
        }
        let mut holder = worker(&server, &["f"]);
        grab(&mut holder);
        holder.send(packet::OPTION_REQ, b"Not-Begun");
        holder.expect(packet::OPTION_RES, b"Not-Begun");
        let _kept = give_up(&server, holder);
        assert_eq!(status(&mut client, &handle), "0 0 0 0", "{what}");
    }
}

#[test]
fn a_dropped_job_is_an_error_in_the_log_with_all_that_names_it() {
    let server = server(&["-j", "1"]);
    let mut client = connect(&server);
    let handle = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "u", "x");
    let mut holder = worker(&server, &["f"]);
    grab(&mut holder);
    close(&server, holder);
    assert_eq!(status(&mut client, &handle), "0 0 0 0");
    let is_said = |line: &&str| line.contains("Dropped job due to max retry count");
    let line = wait_for("the log", || server.log().lines().find(is_said).map(str::to_owned));
    let parts = ["ERROR", &format!("{handle} u"), "function f", "1 failed attempts", "last worker lost its connection"];
    assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    let counted = client.text("show server");
    assert!(counted.contains("dropped\t1\n"), "{counted}");
}

/// Workers that send a result and GRAB_JOB and leave: the job that they were handed has lost no attempt.
#[test]
fn a_job_that_was_handed_to_one_who_was_leaving_is_not_lost() {
    let server = server(&["-j", "1"]);
    let mut client = connect(&server);
    let handles: Vec<String> = (0..40).map(|_| submit(&mut client, packet::SUBMIT_JOB_BG, "f", "", "")).collect();
    let mut ended = Vec::new();
    for (round, expected) in handles.iter().enumerate() {
        let mut leaver = worker(&server, &["f"]);
        let handle = grab(&mut leaver).handle;
        let done = packet::request(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), b""]));
        leaver.send_raw(&[done, packet::request(packet::GRAB_JOB, b"")].concat());
        if round % 2 == 0 {
            // What was sent is there when it leaves.
            leaver.stream().peek(&mut [0]).expect("a job, or none");
        }
        close(&server, leaver);
        assert!(handles.contains(&handle) && !ended.contains(&handle), "{handle}, {expected}");
        ended.push(handle);
    }
    assert!(!server.log().contains("Dropped job"), "{}", server.log());
    assert_eq!(counts(&mut client, "f"), "0 0 0");
}

#[test]
fn a_result_before_the_end_of_the_connection_counts() {
    let server = server(&["-j", "1"]);
    let mut client = connect(&server);
    let mut worker = worker(&server, &["f"]);
    let handle = submit_plain(&mut client, "f", "");
    grab(&mut worker);
    worker.send(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), b"just in time"]));
    drop(worker);
    completed(&mut client, &handle, "just in time");
}

#[test]
fn a_withdrawn_function_gives_no_jobs_and_leaves_others_alone() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut worker = worker(&server, &["f", "g"]);
    let handle = submit_plain(&mut client, "g", "");
    grab(&mut worker);
    submit_plain(&mut client, "f", "");
    worker.send(packet::CANT_DO, b"f");
    worker.send(packet::CANT_DO, b"never heard of");
    grab_nothing(&mut worker);
    complete(&mut worker, &handle, "");
    completed(&mut client, &handle, "");
    assert_eq!(counts(&mut client, "f"), "1 0 0");
    assert_eq!(counts(&mut client, "g"), "0 0 1");
    // A function registered twice is withdrawn at once.
    worker.send(packet::CAN_DO, b"f");
    worker.send(packet::CAN_DO, b"f");
    worker.send(packet::CANT_DO, b"f");
    grab_nothing(&mut worker);
    worker.send(packet::RESET_ABILITIES, b"");
    submit_plain(&mut client, "g", "");
    grab_nothing(&mut worker);
}

#[test]
fn of_what_a_worker_says_of_a_job_that_it_gave_back_only_the_result_counts() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut holder = worker(&server, &["f"]);
    let handle = submit_plain(&mut client, "f", "");
    grab(&mut holder);
    holder.send(packet::CANT_DO, b"f");
    holder.send(packet::WORK_STATUS, &body(&[handle.as_bytes(), b"1", b"2"]));
    holder.send(packet::WORK_DATA, &body(&[handle.as_bytes(), b"late"]));
    holder.expect_nothing();
    client.expect_nothing();
    // Its result is one all the same.
    holder.send(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), b"late"]));
    holder.expect_nothing();
    completed(&mut client, &handle, "late");
    // Once it has said its last word, it knows nothing of the job any more.
    holder.send(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), b"later"]));
    holder.expect_error("JOB_NOT_FOUND");
}
