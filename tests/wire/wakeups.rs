//! Who is told of a job, and when: NOOPs.

use std::time::{Duration, Instant};

use crate::common::{Server, Wire, grab_nothing, packet};
use crate::roles::{close, complete, connect, fail_to_sleep, fall_asleep, grab, server, sleeper, submit_plain, worker};

/// Woken workers that do not come are waited for as long as any test runs: no NOOP of these tests is one for
/// them.
const PATIENT: [&str; 2] = ["--wakeup-timeout", "1h"];

/// Sleeping workers for `f`, the one that is woken next first.
#[track_caller]
fn sleepers(server: &Server, count: usize) -> Vec<Wire> {
    (0..count).map(|_| sleeper(server, "f")).collect()
}

/// Which of the workers are sent a NOOP, seen by what comes before the answer to an ECHO_REQ.
#[track_caller]
fn woken(workers: &mut [Wire]) -> Vec<usize> {
    let mut woken = Vec::new();
    for (index, worker) in workers.iter_mut().enumerate() {
        worker.send(packet::ECHO_REQ, b"");
        let mut packets = Vec::new();
        loop {
            match worker.recv() {
                (packet::ECHO_RES, _) => break,
                (packet_type, _) => packets.push(packet_type),
            }
        }
        match packets[..] {
            [] => {}
            [packet::NOOP] => woken.push(index),
            _ => panic!("worker {index} was sent packets of the types {packets:?}"),
        }
    }
    woken
}

#[test]
fn one_job_wakes_one_of_many_sleepers_by_turns() {
    let server = server(&PATIENT);
    let mut client = connect(&server);
    let mut workers = sleepers(&server, 20);
    let mut order = Vec::new();
    for _ in 0..60 {
        submit_plain(&mut client, "f", "");
        let [index] = woken(&mut workers)[..] else {
            panic!("not one of them was woken");
        };
        let handle = grab(&mut workers[index]).handle;
        complete(&mut workers[index], &handle, "");
        client.expect_type(packet::WORK_COMPLETE);
        fall_asleep(&mut workers[index]);
        order.push(index);
    }
    assert_eq!(order, (0..20).cycle().take(60).collect::<Vec<_>>());
}

#[test]
fn one_who_holds_as_many_jobs_as_it_may_is_not_woken_until_one_ends() {
    let server = server(&[&PATIENT[..], &["--max-jobs-per-connection", "1"]].concat());
    let mut client = connect(&server);
    let mut full = worker(&server, &["f", "g"]);
    submit_plain(&mut client, "f", "");
    let handle = grab(&mut full).handle;
    fall_asleep(&mut full);
    // It sleeps first in line, and would get no job.
    let mut next = sleepers(&server, 1);
    submit_plain(&mut client, "f", "");
    full.expect_nothing();
    assert_eq!(woken(&mut next), [0]);
    submit_plain(&mut client, "g", "");
    full.expect_nothing();
    // The protocol lets it sleep again, and go on in its sleep.
    full.send(packet::PRE_SLEEP, b"");
    full.expect_nothing();
    full.send(packet::WORK_COMPLETE, &packet::body(&[handle.as_bytes(), b""]));
    full.expect(packet::NOOP, b"");
    assert_eq!(grab(&mut full).function, "g");
}

#[test]
fn as_many_jobs_wake_as_many_sleepers() {
    let server = server(&PATIENT);
    let mut client = connect(&server);
    let mut workers = sleepers(&server, 8);
    for _ in 0..5 {
        submit_plain(&mut client, "f", "");
    }
    assert_eq!(woken(&mut workers), [0, 1, 2, 3, 4]);
    for _ in 0..10 {
        submit_plain(&mut client, "f", "");
    }
    assert_eq!(woken(&mut workers), [5, 6, 7]);
    for worker in &mut workers {
        grab(worker);
    }
}

#[test]
fn a_worker_that_is_awake_and_a_worker_for_something_else_are_not_woken() {
    let server = server(&PATIENT);
    let mut client = connect(&server);
    let mut awake = worker(&server, &["f"]);
    let mut other = sleeper(&server, "g");
    let mut nothing = connect(&server);
    fall_asleep(&mut nothing);
    submit_plain(&mut client, "f", "");
    for wire in [&mut awake, &mut other, &mut nothing] {
        wire.expect_nothing();
    }
    submit_plain(&mut client, "g", "");
    other.expect(packet::NOOP, b"");
}

#[test]
fn a_worker_for_many_functions_is_woken_once() {
    let server = server(&PATIENT);
    let mut client = connect(&server);
    let mut worker = worker(&server, &["f", "g", "f", "h"]);
    fall_asleep(&mut worker);
    for function in ["f", "g", "h", "f"] {
        submit_plain(&mut client, function, "");
    }
    assert_eq!(woken(std::slice::from_mut(&mut worker)), [0]);
}

#[test]
fn a_woken_worker_that_does_not_come_is_given_up_and_the_next_is_woken() {
    let server = server(&["--wakeup-timeout", "300ms"]);
    let mut client = connect(&server);
    let [mut lazy, mut next, mut last] = [(); 3].map(|()| sleeper(&server, "f"));
    let start = Instant::now();
    submit_plain(&mut client, "f", "");
    lazy.expect(packet::NOOP, b"");
    next.expect(packet::NOOP, b"");
    assert!(start.elapsed() >= Duration::from_millis(280), "after {:?}", start.elapsed());
    grab(&mut next);
    // The job is taken: nobody else is woken for it, and the late one finds nothing.
    grab_nothing(&mut lazy);
    fall_asleep(&mut lazy);
    submit_plain(&mut client, "f", "");
    last.expect(packet::NOOP, b"");
    lazy.expect(packet::NOOP, b"");
}

#[test]
fn by_default_the_next_is_woken_after_100_ms() {
    let server = server(&[]);
    let mut client = connect(&server);
    let mut workers = sleepers(&server, 4);
    let start = Instant::now();
    submit_plain(&mut client, "f", "");
    for (rounds, worker) in (0..).zip(&mut workers) {
        worker.expect(packet::NOOP, b"");
        let earliest = Duration::from_millis(100) * rounds;
        assert!(start.elapsed() + Duration::from_millis(20) >= earliest, "{rounds} rounds took {:?}", start.elapsed());
    }
}

/// A way in which a woken worker does not come. What stays of the connection is returned, so that it is not
/// its end that counts.
type Leave = fn(&Server, Wire) -> Option<Wire>;

#[test]
fn a_woken_worker_that_dies_or_declines_or_withdraws_is_replaced_at_once() {
    let ways: [(&str, Leave); 5] = [
        ("dies", |server, woken| {
            close(server, woken);
            None
        }),
        ("declines", |_, mut woken| {
            fall_asleep(&mut woken);
            Some(woken)
        }),
        ("CANT_DO", |_, mut woken| {
            woken.send(packet::CANT_DO, b"f");
            Some(woken)
        }),
        ("RESET_ABILITIES", |_, mut woken| {
            woken.send(packet::RESET_ABILITIES, b"");
            Some(woken)
        }),
        ("half-closes", |_, woken| {
            woken.finish_sending();
            Some(woken)
        }),
    ];
    for (what, leave) in ways {
        let server = server(&PATIENT);
        let mut client = connect(&server);
        let mut workers = sleepers(&server, 2);
        submit_plain(&mut client, "f", what);
        let mut woken = workers.remove(0);
        woken.expect(packet::NOOP, b"");
        let _kept = leave(&server, woken);
        workers[0].expect(packet::NOOP, b"");
        assert_eq!(grab(&mut workers[0]).workload, what);
    }
}

#[test]
fn a_woken_worker_that_takes_another_job_is_replaced() {
    let server = server(&PATIENT);
    let mut client = connect(&server);
    let mut both = worker(&server, &["f", "g"]);
    fall_asleep(&mut both);
    let mut other = sleeper(&server, "f");
    submit_plain(&mut client, "f", "for f");
    both.expect(packet::NOOP, b"");
    other.expect_nothing();
    client.send(packet::SUBMIT_JOB_HIGH, b"g\0\0for g");
    client.expect_type(packet::JOB_CREATED);
    assert_eq!(grab(&mut both).workload, "for g");
    other.expect(packet::NOOP, b"");
    assert_eq!(grab(&mut other).workload, "for f");
}

#[test]
fn one_who_wants_to_sleep_over_a_covered_job_sleeps_and_over_an_uncovered_one_does_not() {
    let server = server(&PATIENT);
    let mut client = connect(&server);
    let mut first = sleeper(&server, "f");
    submit_plain(&mut client, "f", "1");
    first.expect(packet::NOOP, b"");
    // The first is on its way: the job is covered.
    let mut second = worker(&server, &["f"]);
    fall_asleep(&mut second);
    // This one is not, and wakes the second.
    submit_plain(&mut client, "f", "2");
    second.expect(packet::NOOP, b"");
    // And for this one nobody sleeps: the third is told when it wants to.
    submit_plain(&mut client, "f", "3");
    let mut third = worker(&server, &["f"]);
    fail_to_sleep(&mut third);
    for worker in [&mut first, &mut second, &mut third] {
        grab(worker);
    }
    fall_asleep(&mut third);
}

#[test]
fn a_covered_job_whose_worker_does_not_come_wakes_one_who_slept_over_it() {
    let server = server(&["--wakeup-timeout", "200ms"]);
    let mut client = connect(&server);
    let mut first = sleeper(&server, "f");
    submit_plain(&mut client, "f", "");
    first.expect(packet::NOOP, b"");
    let mut second = worker(&server, &["f"]);
    second.send(packet::PRE_SLEEP, b"");
    second.expect(packet::NOOP, b"");
    grab(&mut second);
}

#[test]
fn a_sleeper_that_learns_a_function_is_woken_for_its_queued_job() {
    let server = server(&PATIENT);
    let mut client = connect(&server);
    let handle = submit_plain(&mut client, "f", "");
    let mut worker = sleeper(&server, "g");
    worker.send(packet::CAN_DO, b"f");
    worker.expect(packet::NOOP, b"");
    assert_eq!(grab(&mut worker).handle, handle);
}

#[test]
fn a_job_that_loses_its_worker_wakes_a_sleeper() {
    let server = server(&PATIENT);
    let mut client = connect(&server);
    let mut holder = worker(&server, &["f"]);
    let handle = submit_plain(&mut client, "f", "");
    grab(&mut holder);
    let mut next = sleeper(&server, "f");
    drop(holder);
    next.expect(packet::NOOP, b"");
    assert_eq!(grab(&mut next).handle, handle);
}

#[test]
fn worker_wakeup_sets_how_many_are_woken_for_a_job() {
    for (argument, expected) in
        [("0", vec![0, 1, 2, 3, 4, 5]), ("1", vec![0]), ("3", vec![0, 1, 2]), ("200", (0..6).collect())]
    {
        let server = server(&[&PATIENT[..], &["--worker-wakeup", argument]].concat());
        let mut client = connect(&server);
        let mut workers = sleepers(&server, 6);
        submit_plain(&mut client, "f", "");
        assert_eq!(woken(&mut workers), expected, "--worker-wakeup {argument}");
        // Those that were woken for nothing sleep again, and are woken again.
        for index in &expected {
            workers[*index].send(packet::GRAB_JOB, b"");
            let assigned = if *index == 0 { packet::JOB_ASSIGN } else { packet::NO_JOB };
            workers[*index].expect_type(assigned);
            fall_asleep(&mut workers[*index]);
        }
        submit_plain(&mut client, "f", "");
        assert_eq!(woken(&mut workers).len(), expected.len());
    }
}

#[test]
fn a_coalesced_submission_wakes_nobody() {
    let server = server(&[&PATIENT[..], &["-w", "0"]].concat());
    let mut client = connect(&server);
    let mut worker = sleeper(&server, "f");
    client.send(packet::SUBMIT_JOB_BG, b"f\0u\0");
    client.expect_type(packet::JOB_CREATED);
    worker.expect(packet::NOOP, b"");
    grab(&mut worker);
    fall_asleep(&mut worker);
    client.send(packet::SUBMIT_JOB, b"f\0u\0");
    client.expect_type(packet::JOB_CREATED);
    worker.expect_nothing();
}
