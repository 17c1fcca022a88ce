//! Workers that get no jobs, and workers that are closed.

use crate::common::{Gate, Wire, grab_nothing, packet};
use crate::stage::{
    Kind, Operator, Status, await_store, expect_complete, fall_asleep, for_each, for_each_store, grab, played_sleeper,
    played_worker, submit,
};

#[test]
fn a_drained_worker_ends_its_job_and_gets_no_other() {
    for_each(|stage| {
        let _worker = stage.start_worker(1);
        let mut operator = stage.operator();
        let (mut first, mut second) = (stage.client(), stage.client());
        let gate = Gate::new();
        let running = submit(&mut first, packet::SUBMIT_JOB, "gate", "", gate.workload());
        operator.await_status("gate", |status| status.running == 1);
        let id = operator.worker_id();
        operator.ok(&format!("drain connection:{id}"));
        operator.await_state(&id, "draining");
        let waits = submit(&mut second, packet::SUBMIT_JOB, "order", "", "for whom?");
        gate.open("the last");
        expect_complete(&mut first, &running, "the last");
        operator.await_state(&id, "drained");
        assert_eq!(operator.status("order"), Status { jobs: 1, running: 0, workers: 1 });
        let rule = &operator.table("show rules")[0];
        assert_eq!((&rule["who"], &*rule["mode"]), (&format!("connection:{id}"), "draining"));
        operator.ok(&format!("enable connection:{id}"));
        expect_complete(&mut second, &waits, "for whom?");
        assert!(operator.table("show rules").is_empty());
    });
}

#[test]
fn a_worker_of_a_disabled_host_gets_no_jobs_of_that_function() {
    for_each(|stage| {
        let mut operator = stage.operator();
        let mut client = stage.client();
        operator.ok("disable host:127.0.0.1 order");
        // The worker comes after the rule.
        let _worker = stage.start_worker(1);
        let waits = submit(&mut client, packet::SUBMIT_JOB_HIGH, "order", "", "waits");
        stage.have_one_done();
        assert_eq!(operator.status("order"), Status { jobs: 1, running: 0, workers: 1 });
        operator.ok("disable host:127.0.0.1");
        let id = operator.worker_id();
        operator.await_state(&id, "disabled");
        operator.ok("enable host:127.0.0.1");
        expect_complete(&mut client, &waits, "waits");
    });
}

/// What each worker of two is sent when a job comes for both: only `expected` a NOOP.
#[track_caller]
fn expect_noop_for(workers: &mut [Wire; 2], expected: Option<usize>) {
    for (index, worker) in workers.iter_mut().enumerate() {
        if Some(index) == expected {
            worker.expect(packet::NOOP, b"");
        }
        worker.expect_nothing();
    }
}

#[test]
fn workers_are_disabled_by_connection_client_id_and_host() {
    for_each_store(|server| {
        let mut operator = Operator::new(&server);
        let mut client = played_worker(&server, "", &[]);
        let mut workers = ["a", "b"].map(|id| played_sleeper(&server, id, &["f", "g"]));
        let ids: Vec<String> = operator.workers().iter().map(|row| row["id"].clone()).collect();
        for (who, function, disabled) in [
            (format!("connection:{}", ids[0]), "", 0),
            ("client:b".to_owned(), "", 1),
            ("client:a".to_owned(), " f", 0),
            (format!("connection:{}", ids[1]), " f", 1),
        ] {
            for word in ["disable", "drain"] {
                operator.ok(&format!("{word} {who}{function}"));
                let handle = submit(&mut client, packet::SUBMIT_JOB, "f", "", "");
                expect_noop_for(&mut workers, Some(1 - disabled));
                grab_nothing(&mut workers[disabled]);
                assert_eq!(grab(&mut workers[1 - disabled]), handle);
                workers[1 - disabled].send(packet::WORK_COMPLETE, &packet::body(&[handle.as_bytes(), b""]));
                expect_complete(&mut client, &handle, "");
                workers.iter_mut().for_each(fall_asleep);
                operator.ok(&format!("enable {who}{function}"));
                workers.iter_mut().for_each(Wire::expect_nothing);
            }
        }
    });
}

#[test]
fn one_function_is_withheld_and_others_are_not() {
    for_each_store(|server| {
        let mut operator = Operator::new(&server);
        let mut client = played_worker(&server, "", &[]);
        let mut worker = played_sleeper(&server, "a", &["f", "g"]);
        operator.ok("disable client:a f");
        let withheld = submit(&mut client, packet::SUBMIT_JOB_HIGH, "f", "", "");
        worker.expect_nothing();
        let other = submit(&mut client, packet::SUBMIT_JOB_LOW, "g", "", "");
        worker.expect(packet::NOOP, b"");
        assert_eq!(grab(&mut worker), other);
        grab_nothing(&mut worker);
        operator.ok("enable client:a f");
        assert_eq!(grab(&mut worker), withheld);
    });
}

#[test]
fn rules_hold_for_connections_that_come_later_and_for_names_that_come_later() {
    for_each_store(|server| {
        let mut operator = Operator::new(&server);
        let mut client = played_worker(&server, "", &[]);
        operator.ok("disable host:127.0.0.1");
        // Nobody of that name is there.
        operator.ok("drain client:later");
        let handle = submit(&mut client, packet::SUBMIT_JOB, "f", "", "");
        let mut of_host = played_worker(&server, "", &["f"]);
        grab_nothing(&mut of_host);
        fall_asleep(&mut of_host);
        operator.ok("enable host:127.0.0.1");
        of_host.expect(packet::NOOP, b"");
        // It names itself only now.
        of_host.send(packet::SET_CLIENT_ID, b"later");
        of_host.expect_nothing();
        grab_nothing(&mut of_host);
        drop(of_host);
        operator.await_status("f", |status| status.workers == 0);
        let mut named = played_sleeper(&server, "later", &["f"]);
        grab_nothing(&mut named);
        fall_asleep(&mut named);
        operator.ok("enable client:later");
        named.expect(packet::NOOP, b"");
        assert_eq!(grab(&mut named), handle);
        // A rule for a connection goes with it.
        let id = operator.worker_id();
        operator.ok(&format!("disable connection:{id}"));
        assert_eq!(operator.table("show rules").len(), 1);
        drop(named);
        operator.await_status("f", |status| status.workers == 0);
        assert!(operator.table("show rules").is_empty());
        assert_eq!(operator.refused(&format!("disable connection:{id}")), "NO_SUCH_WORKER");
        assert_eq!(operator.refused(&format!("kick connection:{id}")), "NO_SUCH_WORKER");
    });
}

#[test]
fn all_sleepers_that_are_enabled_again_are_woken_for_what_waits() {
    for_each_store(|server| {
        let mut operator = Operator::new(&server);
        let mut client = played_worker(&server, "", &[]);
        let mut workers = [(); 3].map(|()| played_sleeper(&server, "crowd", &["f"]));
        operator.ok("disable client:crowd");
        for _ in &workers {
            submit(&mut client, packet::SUBMIT_JOB, "f", "", "");
        }
        workers.iter_mut().for_each(Wire::expect_nothing);
        operator.ok("enable client:crowd");
        for worker in &mut workers {
            worker.expect(packet::NOOP, b"");
            grab(worker);
        }
    });
}

#[test]
fn the_job_of_a_kicked_worker_is_done_by_another() {
    for_each(|stage| {
        let mut kicked = stage.start_worker(1);
        let mut operator = stage.operator();
        let id = operator.worker_id();
        let mut client = stage.client();
        let gate = Gate::new();
        let job = submit(&mut client, packet::SUBMIT_JOB, "gate", "", gate.workload());
        operator.await_status("gate", |status| status.running == 1);
        let mut heir = played_sleeper(&stage.server, "heir", &["gate"]);
        operator.ok(&format!("kick connection:{id}"));
        heir.expect(packet::NOOP, b"");
        assert_eq!(grab(&mut heir), job);
        assert_eq!(operator.value(&format!("show job {job}"), "attempts"), "1");
        heir.send(packet::WORK_COMPLETE, &packet::body(&[job.as_bytes(), b"inherited"]));
        // What the kicked one has said of its progress came before.
        expect_complete(&mut client, &job, "inherited");
        drop(heir);
        gate.open("too late");
        if matches!(stage.kind, Kind::Php | Kind::Perl) {
            // These connect anew; the tools end.
            stage.have_one_done();
        } else {
            kicked.close_stdin();
        }
        client.expect_nothing();
    });
}

#[test]
fn the_background_job_of_a_kicked_host_outlives_the_server_too() {
    let mut server = crate::stage::server(&[]);
    let mut operator = Operator::new(&server);
    let mut client = played_worker(&server, "", &[]);
    let job = submit(&mut client, packet::SUBMIT_JOB_BG, "f", "", "kept");
    let mut worker = played_worker(&server, "", &["f"]);
    assert_eq!(grab(&mut worker), job);
    operator.ok("kick host:127.0.0.1");
    worker.expect_end();
    // Who can do nothing is no worker: client and operator are still there.
    client.expect_nothing();
    operator.await_status("f", |status| status == Status { jobs: 1, running: 0, workers: 0 });
    assert_eq!(operator.refused("kick host:127.0.0.1"), "NO_SUCH_WORKER");
    await_store(&server);
    server.kill();
    server.restart();
    assert_eq!(grab(&mut played_worker(&server, "", &["f"])), job);
}
