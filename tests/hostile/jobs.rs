//! Abuse of jobs: wake-ups that nobody answers, waits without number, workloads that never come.

use crate::common::{Wire, packet, packet::body, packet::request, wait_for};
use crate::watched::{HEAP_KIB, RETAINED_KIB, Watched, serve_a_job};

/// Workers that sleep and never ask for the job they are woken for: the next one gets it, and they are not
/// asked again.
pub(crate) fn a_worker_that_answers_no_noop() {
    const DEAF: usize = 10;
    let server = Watched::start(&["--wakeup-timeout", "50ms"]);
    let mut deaf: Vec<Wire> = (0..DEAF)
        .map(|_| {
            let mut worker = server.connect();
            worker.send(packet::CAN_DO, b"good");
            worker.send(packet::PRE_SLEEP, b"");
            worker.expect_nothing();
            worker
        })
        .collect();
    let (mut client, mut worker) = (server.connect(), server.connect());
    for _ in 0..DEAF + 3 {
        serve_a_job(&mut client, &mut worker, b"good");
    }
    for worker in &mut deaf {
        worker.expect(packet::NOOP, b"");
        worker.expect_nothing();
    }
    drop((deaf, client, worker));
    server.assert_recovered(RETAINED_KIB);
}

/// A client that joins one job 100,000 times is told 100,000 times, or leaves no trace if it goes before.
pub(crate) fn one_job_joined_many_times() {
    const JOINS: usize = 100_000;
    const BATCH: usize = 1_000;
    /// A wait and two numbers in tables; a packet of 25 bytes that is to be sent.
    const BYTES_A_JOIN: u64 = 128;
    let server = Watched::start(&["--max-waits-per-job", &JOINS.to_string()]);
    let submit = request(packet::SUBMIT_JOB, &body(&[b"joined", b"unique", b"workload"])).repeat(BATCH);
    for is_done in [true, false] {
        let mut client = server.connect();
        let mut handle = Vec::new();
        for _ in 0..JOINS / BATCH {
            client.send_raw(&submit);
            (0..BATCH).for_each(|_| handle = client.expect_type(packet::JOB_CREATED));
        }
        let status = body(&[b"unique", b"1", b"0", b"0", b"0", JOINS.to_string().as_bytes()]);
        client.send(packet::GET_STATUS_UNIQUE, b"unique");
        client.expect(packet::STATUS_RES_UNIQUE, &status);
        let grown = server.grown_kib() * 1024 / JOINS as u64;
        assert!(grown <= BYTES_A_JOIN, "{grown} bytes for each time");
        server.serve_a_job();
        if is_done {
            let mut worker = server.connect();
            worker.send(packet::CAN_DO, b"joined");
            worker.send(packet::GRAB_JOB, b"");
            worker.expect(packet::JOB_ASSIGN, &body(&[&handle, b"joined", b"workload"]));
            let result = body(&[&handle, b"result"]);
            worker.send(packet::WORK_COMPLETE, &result);
            (0..JOINS).for_each(|_| client.expect(packet::WORK_COMPLETE, &result));
        }
    }
    // Tables that were large once stay so.
    server.assert_recovered(RETAINED_KIB + BYTES_A_JOIN * JOINS as u64 / 1024);
}

/// Jobs of 60 MiB are announced, and only their first bytes come: memory is taken as it arrives.
pub(crate) fn large_jobs_announced_and_not_sent() {
    const COUNT: usize = 200;
    const SENT: usize = 100_000;
    let server = Watched::start(&[]);
    let start = body(&[b"large", b"", &vec![b'w'; SENT]]);
    let length: u32 = 60 << 20;
    let header = [&b"\0REQ"[..], &packet::SUBMIT_JOB_BG.to_be_bytes(), &length.to_be_bytes()].concat();
    let crowd: Vec<Wire> = (0..COUNT)
        .map(|index| {
            let mut wire = server.connect();
            wire.send_raw(&header);
            if index % 2 == 0 {
                wire.send_raw(&start);
            }
            wire
        })
        .collect();
    let arrived_kib = (COUNT / 2 * SENT) as u64 / 1024;
    wait_for("what was sent", || (server.grown_kib() >= arrived_kib).then_some(()));
    server.serve_a_job();
    let grown = server.grown_kib();
    assert!(grown <= arrived_kib * 5 / 4 + RETAINED_KIB, "{grown} KiB for {arrived_kib} KiB that came");
    drop(crowd);
    server.assert_recovered(RETAINED_KIB + HEAP_KIB);
}
