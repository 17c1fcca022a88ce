//! Jobs that are cancelled, moved, prioritised and started.

use crate::common::{Gate, Wire, grab_all, grab_nothing, packet};
use crate::stage::{
    Done, Operator, Status, await_store, expect_complete, for_each, for_each_store, grab, played_sleeper,
    played_worker, result, server, submit,
};

/// A time of which these tests see nothing.
const FAR: &str = "4000000000";

/// Submits a job for a far time.
#[track_caller]
fn schedule(client: &mut Wire, function: &str, workload: &str) -> String {
    client.send(packet::SUBMIT_JOB_EPOCH, format!("{function}\0\0{FAR}\0{workload}").as_bytes());
    String::from_utf8(client.expect_type(packet::JOB_CREATED)).expect("a handle")
}

#[test]
fn a_cancelled_job_that_waits_is_gone_at_once_and_for_good() {
    for_each_store(|mut server| {
        let mut operator = Operator::new(&server);
        let mut client = played_worker(&server, "", &[]);
        let queued = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "", "queued");
        let scheduled = schedule(&mut client, "f", "scheduled");
        let waits = submit(&mut client, packet::SUBMIT_JOB, "f", "", "waits");
        for job in [&queued, &scheduled, &waits] {
            operator.ok(&format!("cancel job {job}"));
            assert_eq!(operator.refused(&format!("cancel job {job}")), "UNKNOWN_JOB");
            assert_eq!(operator.refused(&format!("show job {job}")), "NO_SUCH_JOB");
        }
        client.expect(packet::WORK_FAIL, waits.as_bytes());
        assert_eq!(operator.status("f"), Status::default());
        let is_durable = operator.value("show store", "state") == "ok";
        await_store(&server);
        server.kill();
        server.restart();
        let mut operator = Operator::new(&server);
        assert_eq!(operator.status("f"), Status::default());
        assert_eq!(operator.value("show store", "jobs"), if is_durable { "1" } else { "0" }, "but for the last one");
    });
}

#[test]
fn clients_of_a_cancelled_job_that_runs_are_told_at_once_and_its_late_result_is_dropped() {
    for_each(|stage| {
        let _worker = stage.start_worker(1);
        let mut operator = stage.operator();
        let (mut first, mut second) = (stage.client(), stage.client());
        let gate = Gate::new();
        let job = submit(&mut first, packet::SUBMIT_JOB, "gate", "the same", gate.workload());
        assert_eq!(submit(&mut second, packet::SUBMIT_JOB, "gate", "the same", gate.workload()), job);
        let kept = submit(&mut first, packet::SUBMIT_JOB_BG, "gate", "kept", gate.workload());
        operator.await_status("gate", |status| status.running == 1);
        operator.ok(&format!("cancel job {job}"));
        for client in [&mut first, &mut second] {
            let expected = Done { packet_type: packet::WORK_FAIL, handle: job.clone(), result: String::new() };
            assert_eq!(result(client), expected);
        }
        operator.ok(&format!("cancel job {kept}"));
        assert_eq!(operator.status("gate"), Status { jobs: 0, running: 0, workers: 1 });
        gate.open("too late");
        // The worker lives on, and does not get the job again.
        stage.have_one_done();
        assert_eq!(operator.status("gate"), Status { jobs: 0, running: 0, workers: 1 });
        first.expect_nothing();
        second.expect_nothing();
        assert_eq!(operator.function("gate")["cancelled"], "2");
    });
}

#[test]
fn all_jobs_of_a_function_are_cancelled_and_no_others() {
    for_each(|stage| {
        let _worker = stage.start_worker(1);
        let mut operator = stage.operator();
        let mut client = stage.client();
        let gate = Gate::new();
        let running = submit(&mut client, packet::SUBMIT_JOB, "gate", "", gate.workload());
        operator.await_status("gate", |status| status.running == 1);
        for _ in 0..600 {
            submit(&mut client, packet::SUBMIT_JOB_BG, "gate", "", gate.workload());
        }
        schedule(&mut stage.client(), "gate", gate.workload());
        let other = submit(&mut client, packet::SUBMIT_JOB_BG, "kept", "", "");
        operator.ok("cancel jobs gate");
        let expected = Done { packet_type: packet::WORK_FAIL, handle: running, result: String::new() };
        assert_eq!(result(&mut client), expected);
        assert_eq!(operator.status("gate"), Status { jobs: 0, running: 0, workers: 1 });
        gate.open("too late");
        stage.have_one_done();
        client.expect_nothing();
        assert_eq!(operator.value(&format!("show job {other}"), "state"), "queued");
        assert_eq!(operator.refused("cancel jobs unknown"), "NO_SUCH_FUNCTION");
    });
}

#[test]
fn a_moved_job_comes_to_the_other_functions_worker() {
    for_each(|stage| {
        let mut operator = stage.operator();
        let mut client = stage.client();
        let job = submit(&mut client, packet::SUBMIT_JOB, "nobody", "", "moved");
        let _worker = stage.start_worker(1);
        operator.ok(&format!("move job {job} order"));
        expect_complete(&mut client, &job, "moved");
        assert_eq!(operator.status("nobody"), Status::default());
    });
}

#[test]
fn a_sleeper_is_woken_for_what_is_moved_or_started() {
    for_each_store(|server| {
        let mut operator = Operator::new(&server);
        let mut client = played_worker(&server, "", &[]);
        let mut worker = played_sleeper(&server, "", &["f"]);
        let moved = submit(&mut client, packet::SUBMIT_JOB, "nobody", "", "");
        operator.ok(&format!("move job {moved} f"));
        worker.expect(packet::NOOP, b"");
        assert_eq!(grab(&mut worker), moved);
        crate::stage::fall_asleep(&mut worker);
        let scheduled = schedule(&mut client, "f", "");
        worker.expect_nothing();
        operator.ok(&format!("run job {scheduled}"));
        worker.expect(packet::NOOP, b"");
        assert_eq!(grab(&mut worker), scheduled);
        grab_nothing(&mut worker);
    });
}

#[test]
fn what_cannot_be_done_to_a_job_is_said() {
    for_each_store(|server| {
        let mut operator = Operator::new(&server);
        let mut client = played_worker(&server, "", &[]);
        let mut worker = played_worker(&server, "", &["f"]);
        let running = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "", "");
        assert_eq!(grab(&mut worker), running);
        let queued = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "u", "");
        submit(&mut client, packet::SUBMIT_JOB_BG, "g", "u", "");
        for (command, code) in [
            (format!("move job {running} g"), "JOB_IS_RUNNING"),
            (format!("priority job {running} high"), "JOB_IS_RUNNING"),
            (format!("run job {running}"), "JOB_IS_NOT_SCHEDULED"),
            (format!("run job {queued}"), "JOB_IS_NOT_SCHEDULED"),
            (format!("move job {queued} g"), "JOB_EXISTS_THERE"),
            (format!("move job {queued} {}", "g".repeat(513)), "NAME_TOO_LONG"),
            ("move job H:t:99 g".to_owned(), "NO_SUCH_JOB"),
            ("priority job H:t:99 high".to_owned(), "NO_SUCH_JOB"),
            ("run job H:t:99".to_owned(), "NO_SUCH_JOB"),
            ("show job H:t:99".to_owned(), "NO_SUCH_JOB"),
            ("move jobs unknown g".to_owned(), "NO_SUCH_FUNCTION"),
        ] {
            assert_eq!(operator.refused(&command), code, "{command}");
        }
        // The one that equals another stays.
        operator.ok("move jobs f g");
        assert_eq!(operator.status("f"), Status { jobs: 2, running: 1, workers: 1 });
        assert_eq!(operator.status("g").jobs, 1);
    });
}

/// Changes jobs in every way. What is done then, in order: of `a`, of `b`.
fn change(server: &crate::common::Server) -> [Vec<&'static str>; 2] {
    let mut operator = Operator::new(server);
    let mut client = played_worker(server, "", &[]);
    let mut background = |function: &str, workload| submit(&mut client, packet::SUBMIT_JOB_BG, function, "", workload);
    let jobs = ["1", "2", "3", "4", "5"].map(|workload| background("a", workload));
    for workload in ["6", "7", "8"] {
        background("c", workload);
    }
    let started = schedule(&mut client, "a", "9");
    let moved = schedule(&mut client, "c", "10");
    operator.ok(&format!("move job {} b", jobs[1]));
    operator.ok(&format!("priority job {} high", jobs[3]));
    operator.ok(&format!("priority job {} low", jobs[0]));
    operator.ok(&format!("run job {started}"));
    operator.ok("move jobs c b");
    operator.ok(&format!("run job {moved}"));
    operator.ok(&format!("cancel job {}", jobs[4]));
    assert_eq!(operator.status("c"), Status::default());
    [vec!["4", "3", "9", "1"], vec!["2", "6", "7", "8", "10"]]
}

#[test]
fn changed_jobs_come_in_the_new_order() {
    for_each_store(|server| {
        let [of_a, of_b] = change(&server);
        assert_eq!(grab_all(&mut played_worker(&server, "", &["a"])), of_a);
        assert_eq!(grab_all(&mut played_worker(&server, "", &["b"])), of_b);
    });
}

#[test]
fn changed_jobs_come_in_the_new_order_after_a_crash_too() {
    let mut server = server(&[]);
    let [of_a, of_b] = change(&server);
    await_store(&server);
    server.kill();
    server.restart();
    assert_eq!(grab_all(&mut played_worker(&server, "", &["a"])), of_a);
    assert_eq!(grab_all(&mut played_worker(&server, "", &["b"])), of_b);
    // What is done is gone, whatever was changed of it before.
    await_store(&server);
    server.kill();
    server.restart();
    let mut operator = Operator::new(&server);
    for function in ["a", "b", "c"] {
        assert_eq!(operator.status(function).jobs, 0, "{function}");
    }
}
