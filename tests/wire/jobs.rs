//! Jobs before they run: their order, coalescing, limits, and whose they are.

use crate::common::packet::{self, body};
use crate::common::{grab_all, grab_nothing};
use crate::roles::{close, complete, completed, connect, counts, grab, server, status, submit, submit_plain, worker};

const FOREGROUND: [u32; 3] = [packet::SUBMIT_JOB_HIGH, packet::SUBMIT_JOB, packet::SUBMIT_JOB_LOW];
const BACKGROUND: [u32; 3] = [packet::SUBMIT_JOB_HIGH_BG, packet::SUBMIT_JOB_BG, packet::SUBMIT_JOB_LOW_BG];

#[test]
fn a_higher_priority_of_any_function_comes_first() {
    let server = server(&[]);
    let mut client = connect(&server);
    for (function, name) in [("a", "low"), ("b", "low"), ("a", "normal"), ("b", "high"), ("b", "normal"), ("a", "high")]
    {
        let place = ["high", "normal", "low"].iter().position(|known| known == &name).expect("a priority");
        for packet_type in [FOREGROUND[place], BACKGROUND[place]] {
            submit(&mut client, packet_type, function, "", &format!("{name} {function}"));
        }
    }
    let mut worker = worker(&server, &["a", "b"]);
    let order: Vec<String> =
        grab_all(&mut worker).iter().map(|workload| workload.split(' ').next().expect("a word").to_owned()).collect();
    let expected = [["high"; 4], ["normal"; 4], ["low"; 4]].concat();
    assert_eq!(order, expected);
}

#[test]
fn jobs_of_one_priority_are_handed_out_in_their_order() {
    let server = server(&[]);
    let mut client = connect(&server);
    let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    for name in &names {
        submit_plain(&mut client, "f", name);
    }
    assert_eq!(grab_all(&mut worker(&server, &["f"])), names);
}

#[test]
fn functions_take_turns_the_newest_first() {
    let server = server(&[]);
    let mut client = connect(&server);
    for function in ["a", "b", "c"] {
        for number in 1..=2 {
            submit_plain(&mut client, function, &format!("{function}{number}"));
        }
    }
    submit_plain(&mut client, "a", "a3");
    let mut worker = worker(&server, &["a", "b", "c"]);
    assert_eq!(grab_all(&mut worker), ["c1", "b1", "a1", "c2", "b2", "a2", "a3"]);
}

#[test]
fn epoch_and_reduce_jobs_are_of_normal_priority() {
    // A background job that is stored first becomes ready a moment later than a foreground one.
    let server = server(&["--queue-type", "builtin"]);
    let mut client = connect(&server);
    submit(&mut client, packet::SUBMIT_JOB_LOW, "f", "", "low");
    client.send(packet::SUBMIT_JOB_EPOCH, b"f\0\x001\0epoch");
    client.send(packet::SUBMIT_REDUCE_JOB, b"f\0\0r\0\0reduce");
    client.send(packet::SUBMIT_REDUCE_JOB_BACKGROUND, b"f\0\0r\0\0background");
    created_times(&mut client, 3);
    submit(&mut client, packet::SUBMIT_JOB_HIGH, "f", "", "high");
    assert_eq!(grab_all(&mut worker(&server, &["f"])), ["high", "epoch", "reduce", "background", "low"]);
}

/// Receives `count` JOB_CREATED.
#[track_caller]
fn created_times(client: &mut crate::common::Wire, count: usize) {
    for _ in 0..count {
        client.expect_type(packet::JOB_CREATED);
    }
}

#[test]
fn every_kind_of_submission_joins_a_queued_and_a_running_job() {
    let server = server(&[]);
    let mut worker = worker(&server, &["f"]);
    let mut first = connect(&server);
    let handle = submit(&mut first, packet::SUBMIT_JOB_LOW, "f", "u", "the first workload");
    let mut joiners = Vec::new();
    for is_running in [false, true] {
        if is_running {
            assert_eq!(grab(&mut worker).workload, "the first workload");
        }
        for packet_type in FOREGROUND.into_iter().chain(BACKGROUND) {
            let mut joiner = connect(&server);
            assert_eq!(submit(&mut joiner, packet_type, "f", "u", "another"), handle);
            joiners.push((FOREGROUND.contains(&packet_type), joiner));
        }
        for (packet_type, arguments, waits) in [
            (packet::SUBMIT_JOB_EPOCH, &[&b"f"[..], b"u", b"4000000000", b"x"][..], false),
            (packet::SUBMIT_REDUCE_JOB, &[b"f", b"u", b"r", b"", b"x"], true),
            (packet::SUBMIT_REDUCE_JOB_BACKGROUND, &[b"f", b"u", b"r", b"", b"x"], false),
        ] {
            let mut joiner = connect(&server);
            joiner.send(packet_type, &body(arguments));
            joiner.expect(packet::JOB_CREATED, handle.as_bytes());
            joiners.push((waits, joiner));
        }
    }
    grab_nothing(&mut worker);
    assert_eq!(counts(&mut first, "f"), "1 1 1");
    worker.send(packet::GET_STATUS_UNIQUE, b"u");
    worker.expect(packet::STATUS_RES_UNIQUE, b"u\x001\x001\x000\x000\x009");
    complete(&mut worker, &handle, "result");
    completed(&mut first, &handle, "result");
    for (waits, mut joiner) in joiners {
        if waits {
            completed(&mut joiner, &handle, "result");
        }
        joiner.expect_nothing();
    }
    assert_ne!(submit(&mut first, packet::SUBMIT_JOB, "f", "u", "anew"), handle);
}

#[test]
fn only_equal_uniques_of_one_function_are_one_job() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut handles = Vec::new();
    for (function, unique) in [("f", "u"), ("g", "u"), ("f", "U"), ("f", "u2"), ("F", "u"), ("f", "u ")] {
        handles.push(submit(&mut client, packet::SUBMIT_JOB_BG, function, unique, "x"));
    }
    let mut distinct = handles.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), handles.len(), "{handles:?}");
}

#[test]
fn an_empty_unique_never_joins_and_a_dash_joins_by_workload() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut submit = |function, unique, workload| submit(&mut client, packet::SUBMIT_JOB, function, unique, workload);
    assert_ne!(submit("f", "", "same"), submit("f", "", "same"));
    let dash = submit("f", "-", "same");
    assert_eq!(submit("f", "-", "same"), dash);
    assert_ne!(submit("f", "-", "other"), dash);
    assert_ne!(submit("f", "-", "same "), dash);
    assert_ne!(submit("g", "-", "same"), dash);
    assert_ne!(submit("f", "--", "same"), dash);
    assert_ne!(submit("f", "-", ""), submit("f", "-", ""), "an empty workload says nothing");
    let mut worker = worker(&server, &["g"]);
    assert_eq!(grab(&mut worker).unique, "-");
    // A job is asked for by its unique id, and a dash or nothing is none.
    for unique in [&b"-"[..], b""] {
        worker.send(packet::GET_STATUS_UNIQUE, unique);
        worker.expect(packet::STATUS_RES_UNIQUE, &[unique, b"\x000\x000\x000\x000\x000"].concat());
    }
}

#[test]
fn one_who_submits_twice_hears_twice_and_one_who_comes_late_hears_the_rest() {
    let server = server(&[]);
    let mut worker = worker(&server, &["f"]);
    let [mut twice, mut late] = [(); 2].map(|()| connect(&server));
    let handle = submit(&mut twice, packet::SUBMIT_JOB, "f", "u", "x");
    assert_eq!(submit(&mut twice, packet::SUBMIT_JOB, "f", "u", "x"), handle);
    grab(&mut worker);
    worker.send(packet::WORK_DATA, &body(&[handle.as_bytes(), b"part"]));
    for _ in 0..2 {
        twice.expect(packet::WORK_DATA, &body(&[handle.as_bytes(), b"part"]));
    }
    assert_eq!(submit(&mut late, packet::SUBMIT_JOB, "f", "u", "x"), handle);
    complete(&mut worker, &handle, "all");
    for _ in 0..2 {
        completed(&mut twice, &handle, "all");
    }
    twice.expect_nothing();
    completed(&mut late, &handle, "all");
    late.expect_nothing();
}

#[test]
fn a_foreground_job_leaves_with_its_last_client() {
    let server = server(&[]);
    let [mut first, mut second, mut observer] = [(); 3].map(|()| connect(&server));
    let handle = submit(&mut first, packet::SUBMIT_JOB, "f", "u", "x");
    assert_eq!(submit(&mut second, packet::SUBMIT_JOB, "f", "u", "x"), handle);
    close(&server, first);
    assert_eq!(status(&mut observer, &handle), "1 0 0 0");
    close(&server, second);
    assert_eq!(status(&mut observer, &handle), "0 0 0 0");
    assert_eq!(observer.text("show jobs"), ".\n");
    assert_eq!(counts(&mut observer, "f"), "0 0 0");
    grab_nothing(&mut worker(&server, &["f"]));
}

#[test]
fn a_background_job_stays_when_a_foreground_client_that_joined_it_leaves() {
    let server = server(&[]);
    for (unique, background_first) in [("background first", true), ("foreground first", false)] {
        let [mut foreground, mut background] = [(); 2].map(|()| connect(&server));
        let mut order = [(&mut background, packet::SUBMIT_JOB_BG), (&mut foreground, packet::SUBMIT_JOB)];
        if !background_first {
            order.reverse();
        }
        let handles = order.map(|(wire, packet_type)| submit(wire, packet_type, "f", unique, "x"));
        assert_eq!(handles[0], handles[1]);
        close(&server, foreground);
        let mut worker = worker(&server, &["f"]);
        assert_eq!(grab(&mut worker).handle, handles[0]);
        // A worker that dies then changes nothing either.
        close(&server, worker);
        let mut worker = crate::roles::worker(&server, &["f"]);
        assert_eq!(grab(&mut worker).handle, handles[0]);
        complete(&mut worker, &handles[0], "");
    }
}

#[test]
fn one_who_joins_an_abandoned_job_gets_its_result() {
    let server = server(&[]);
    let mut worker = worker(&server, &["f"]);
    // Queued when its client left: gone, so this is a new job.
    let [mut first, mut second, mut third, mut fourth] = [(); 4].map(|()| connect(&server));
    submit(&mut first, packet::SUBMIT_JOB, "f", "u", "x");
    close(&server, first);
    let handle = submit(&mut second, packet::SUBMIT_JOB, "f", "u", "x");
    assert_eq!(grab(&mut worker).handle, handle);
    // Running when its client left.
    close(&server, second);
    assert_eq!(status(&mut third, &handle), "1 1 0 0");
    assert_eq!(third.text("show jobs"), format!("{handle}\t0\t1\t0\n.\n"));
    assert_eq!(submit(&mut third, packet::SUBMIT_JOB, "f", "u", "x"), handle);
    complete(&mut worker, &handle, "result");
    completed(&mut third, &handle, "result");
    // And so it is when the worker is lost after that.
    let handle = submit(&mut third, packet::SUBMIT_JOB, "f", "u", "x");
    grab(&mut worker);
    close(&server, third);
    assert_eq!(submit(&mut fourth, packet::SUBMIT_JOB, "f", "u", "x"), handle);
    close(&server, worker);
    let mut worker = crate::roles::worker(&server, &["f"]);
    assert_eq!(grab(&mut worker).handle, handle);
    complete(&mut worker, &handle, "result");
    completed(&mut fourth, &handle, "result");
}

#[test]
fn a_queue_limit_counts_all_jobs_of_a_function_and_lets_others_join() {
    let server = server(&[]);
    let mut client = connect(&server);
    assert_eq!(client.text("maxqueue f 2"), "OK\r\n");
    let handle = submit(&mut client, packet::SUBMIT_JOB, "f", "u", "");
    let mut worker = worker(&server, &["f"]);
    grab(&mut worker);
    submit(&mut client, packet::SUBMIT_JOB_LOW_BG, "f", "", "");
    for packet_type in FOREGROUND.into_iter().chain(BACKGROUND) {
        client.send(packet_type, b"f\0\0x");
        assert_eq!(client.expect_error("QUEUE_ERROR"), "Job queue is full");
    }
    client.send(packet::SUBMIT_JOB_EPOCH, b"f\0\x004000000000\0x");
    client.expect_error("QUEUE_ERROR");
    client.send(packet::SUBMIT_REDUCE_JOB, b"f\0\0r\0\0x");
    client.expect_error("QUEUE_ERROR");
    assert_eq!(submit(&mut client, packet::SUBMIT_JOB, "f", "u", ""), handle, "joining a job is no new job");
    submit_plain(&mut client, "g", "");
    complete(&mut worker, &handle, "");
    completed(&mut client, &handle, "");
    completed(&mut client, &handle, "");
    submit_plain(&mut client, "f", "");
    // Without a number: no limit.
    assert_eq!(client.text("maxqueue f"), "OK\r\n");
    submit_plain(&mut client, "f", "");
}

#[test]
fn a_queue_limit_may_differ_by_priority() {
    let server = server(&[]);
    let mut client = connect(&server);
    client.text("maxqueue f 3 2 1");
    submit(&mut client, packet::SUBMIT_JOB_LOW, "f", "", "");
    client.send(packet::SUBMIT_JOB_LOW, b"f\0\0");
    client.expect_error("QUEUE_ERROR");
    submit(&mut client, packet::SUBMIT_JOB, "f", "", "");
    client.send(packet::SUBMIT_JOB, b"f\0\0");
    client.expect_error("QUEUE_ERROR");
    submit(&mut client, packet::SUBMIT_JOB_HIGH, "f", "", "");
    client.send(packet::SUBMIT_JOB_HIGH, b"f\0\0");
    client.expect_error("QUEUE_ERROR");
    // Two numbers are of high and normal; low is then without limit, as with a number below zero.
    client.text("maxqueue f 3 3");
    submit(&mut client, packet::SUBMIT_JOB_LOW, "f", "", "");
    client.text("maxqueue f 0 -1 0");
    submit(&mut client, packet::SUBMIT_JOB, "f", "", "");
    submit(&mut client, packet::SUBMIT_JOB_HIGH, "f", "", "");
}

#[test]
fn a_connection_may_take_its_own_job() {
    let server = server(&[]);
    let mut both = worker(&server, &["f"]);
    let handle = submit_plain(&mut both, "f", "own");
    assert_eq!(grab(&mut both).workload, "own");
    both.send(packet::WORK_COMPLETE, &body(&[handle.as_bytes(), b"done"]));
    completed(&mut both, &handle, "done");
}
