//! Functions that are paused and limited.

use crate::common::{Gate, Server, grab_nothing, packet};
use crate::stage::{
    KINDS, Operator, Stage, Status, expect_complete, fall_asleep, for_each, for_each_store, grab, have_one_done,
    played_sleeper, played_worker, result, start_worker, submit,
};

#[test]
fn jobs_of_a_paused_function_are_taken_and_handed_to_nobody() {
    for_each(|stage| {
        let _worker = stage.start_worker(1);
        let mut operator = stage.operator();
        let mut client = stage.client();
        operator.ok("pause order");
        let waits = submit(&mut client, packet::SUBMIT_JOB, "order", "", "later");
        let background = submit(&mut client, packet::SUBMIT_JOB_HIGH_BG, "order", "", "and this");
        stage.have_one_done();
        assert_eq!(operator.status("order"), Status { jobs: 2, running: 0, workers: 1 });
        assert_eq!(operator.function("order")["paused"], "1");
        operator.ok("resume order");
        expect_complete(&mut client, &waits, "later");
        operator.await_status("order", |status| status.jobs == 0);
        assert_eq!(operator.function("order")["paused"], "0");
        assert_eq!(operator.refused(&format!("cancel job {background}")), "UNKNOWN_JOB", "it is done");
    });
}

#[test]
fn a_sleeper_is_not_woken_for_a_paused_function_and_at_once_when_it_goes_on() {
    for_each_store(|server| {
        let mut operator = Operator::new(&server);
        // Known by that alone.
        operator.ok("pause f");
        let mut worker = played_sleeper(&server, "", &["f"]);
        let mut client = played_worker(&server, "", &[]);
        let handle = submit(&mut client, packet::SUBMIT_JOB, "f", "", "");
        worker.expect_nothing();
        grab_nothing(&mut worker);
        // Whoever wants to sleep is not kept from it.
        fall_asleep(&mut worker);
        operator.ok("resume f");
        worker.expect(packet::NOOP, b"");
        assert_eq!(grab(&mut worker), handle);
        operator.ok("pause f");
        let second = submit(&mut client, packet::SUBMIT_JOB, "f", "", "");
        // What runs goes on.
        worker.send(packet::WORK_COMPLETE, &packet::body(&[handle.as_bytes(), b"done"]));
        expect_complete(&mut client, &handle, "done");
        grab_nothing(&mut worker);
        operator.ok("resume f");
        assert_eq!(grab(&mut worker), second);
        assert_eq!(operator.refused("resume unknown"), "NO_SUCH_FUNCTION");
    });
}

#[test]
fn no_more_jobs_of_a_function_run_than_it_may() {
    for_each_store(|server| {
        let mut operator = Operator::new(&server);
        let _workers: Vec<_> = (1..).zip(KINDS).map(|(count, kind)| start_worker(&server, kind, count)).collect();
        operator.ok("limit running gate 2");
        let mut gates: Vec<_> = (0..6).map(|_| at_gate(&server)).collect();
        operator.await_status("gate", |status| status.running == 2);
        // Two of four workers are idle. They do other jobs.
        for _ in 0..4 {
            have_one_done(&server);
            assert_eq!(operator.status("gate"), Status { jobs: 6, running: 2, workers: 4 });
        }
        assert_eq!(operator.function("gate")["max_running"], "2");
        for left in [5, 4] {
            let (gate, mut client, handle) = gates.remove(0);
            gate.open("through");
            expect_complete(&mut client, &handle, "through");
            operator.await_status("gate", |status| {
                assert!(status.running <= 2, "{status:?}");
                status == Status { jobs: left, running: 2, workers: 4 }
            });
        }
        operator.ok("limit running gate 0");
        operator.await_status("gate", |status| status.running == 4);
        for (gate, mut client, handle) in gates {
            gate.open("through");
            expect_complete(&mut client, &handle, "through");
        }
    });
}

/// A foreground job that waits at a gate, or for a worker.
fn at_gate(server: &Server) -> (Gate, crate::common::Wire, String) {
    let gate = Gate::new();
    let mut client = played_worker(server, "", &[]);
    let handle = submit(&mut client, packet::SUBMIT_JOB, "gate", "", gate.workload());
    (gate, client, handle)
}

#[test]
fn sleepers_are_woken_when_a_limit_leaves_room() {
    for_each_store(|server| {
        let mut operator = Operator::new(&server);
        operator.ok("limit running f 1");
        let mut first = played_worker(&server, "", &["f"]);
        let mut client = played_worker(&server, "", &[]);
        let handles = [(); 3].map(|()| submit(&mut client, packet::SUBMIT_JOB, "f", "", ""));
        assert_eq!(grab(&mut first), handles[0]);
        grab_nothing(&mut first);
        let mut second = played_sleeper(&server, "", &["f"]);
        first.send(packet::WORK_FAIL, handles[0].as_bytes());
        assert_eq!(result(&mut client).packet_type, packet::WORK_FAIL);
        second.expect(packet::NOOP, b"");
        assert_eq!(grab(&mut second), handles[1]);
        fall_asleep(&mut first);
        operator.ok("limit running f 2");
        first.expect(packet::NOOP, b"");
        assert_eq!(grab(&mut first), handles[2]);
    });
}

#[test]
fn a_limit_of_the_queue_holds_before_the_function_exists() {
    for_each(|stage: &Stage| {
        let mut operator = stage.operator();
        let mut client = stage.client();
        operator.ok("maxqueue order 2 1 0");
        submit(&mut client, packet::SUBMIT_JOB_BG, "order", "", "one");
        client.send(packet::SUBMIT_JOB_BG, b"order\0\0two");
        client.expect_error("QUEUE_ERROR");
        submit(&mut client, packet::SUBMIT_JOB_HIGH_BG, "order", "", "two");
        client.send(packet::SUBMIT_JOB_HIGH_BG, b"order\0\0three");
        client.expect_error("QUEUE_ERROR");
        submit(&mut client, packet::SUBMIT_JOB_LOW_BG, "order", "", "three");
        let row = operator.function("order");
        assert_eq!((&*row["maxqueue_high"], &*row["maxqueue_normal"], &*row["maxqueue_low"]), ("2", "1", "0"));
        let _worker = stage.start_worker(1);
        operator.await_status("order", |status| status.jobs == 0);
        submit(&mut client, packet::SUBMIT_JOB_BG, "order", "", "there is room again");
    });
}
