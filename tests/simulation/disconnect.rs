//! A connection with much to undo leaves in several turns, and others act between them.

use std::sync::Arc;

use gearmand::job_server::{
    ConnectionEnd, ConnectionId, DisconnectProgress, Effects, Event, JobServer, Now, Policy, StoreOp,
};
use gearmand::protocol::{GrabKind, JobHandle, Priority, Request, Response, Submission, Workload};
use gearmand::stats::{ConnectionGauges, Stats};

const NOW: Now = Now { monotonic_us: 1, unix_us: 1_800_000_000_000_000 };

/// Hears which job is handed out.
#[derive(Default)]
struct Ears {
    assigned: Option<u64>,
}

impl Effects for Ears {
    fn send(&mut self, _: ConnectionId, response: Response<'_>) {
        match response {
            Response::JobAssign { handle, .. } => self.assigned = Some(handle.number),
            Response::Error(error) => panic!("{error:?}"),
            _ => {}
        }
    }

    fn hold(&mut self, _: ConnectionId, _: usize) {
        unreachable!("there is no store to wait for");
    }

    fn fill(&mut self, _: ConnectionId, _: u64, _: Response<'_>) {
        unreachable!("there is no store to wait for");
    }

    fn store(&mut self, operation: StoreOp) {
        unreachable!("there is no store for {operation:?}");
    }

    fn report(&mut self, event: Event<'_>) {
        panic!("{event:?}");
    }
}

fn connect(server: &mut JobServer) -> ConnectionId {
    server.connect(Arc::new(ConnectionGauges::new(0, String::new())))
}

fn submission(function: &[u8], background: bool) -> Request<'_> {
    Request::Submit(Submission {
        function,
        unique: b"",
        reducer: b"",
        priority: Priority::Normal,
        background,
        due_s: None,
        workload: Workload::borrowed(b""),
    })
}

/// Takes a job and ends it. Returns whether there was one.
fn work(server: &mut JobServer, worker: ConnectionId) -> bool {
    let mut ears = Ears::default();
    server.request(NOW, worker, &Request::GrabJob(GrabKind::Plain), &mut ears);
    let Some(number) = ears.assigned else { return false };
    let handle = JobHandle { prefix: "H:localhost", number }.to_string();
    let complete = Request::WorkComplete { handle: handle.as_bytes(), workload: Workload::borrowed(b"") };
    server.request(NOW, worker, &complete, &mut ears);
    server.check_invariants();
    true
}

#[test]
fn a_large_connection_leaves_in_turns_and_loses_no_background_job() {
    for (awaited, held) in [(600, 300), (300, 600)] {
        leave(awaited, held);
    }
}

/// One leaves who waits for so many jobs and holds so many background jobs.
fn leave(awaited: usize, held: usize) {
    let mut server = JobServer::new(Policy::default(), Arc::new(Stats::default()));
    let mut ears = Ears::default();
    let [leaver, client, worker] = [0; 3].map(|_| connect(&mut server));
    server.request(NOW, leaver, &Request::CanDo { function: b"held", timeout_ms: Some(1000) }, &mut ears);
    for _ in 0..held {
        server.request(NOW, client, &submission(b"held", true), &mut ears);
        server.request(NOW, leaver, &Request::GrabJob(GrabKind::Plain), &mut ears);
    }
    for _ in 0..awaited {
        server.request(NOW, leaver, &submission(b"awaited", false), &mut ears);
    }
    for function in [&b"held"[..], b"awaited"] {
        server.request(NOW, worker, &Request::CanDo { function, timeout_ms: None }, &mut ears);
    }
    assert_eq!(server.job_count(), awaited + held);
    let (mut turns, mut done) = (0, 0);
    server.start_turn();
    while server.disconnect(NOW, leaver, ConnectionEnd { wants_answers: true, missed_last: false }, &mut ears)
        != DisconnectProgress::Done
    {
        server.check_invariants();
        server.start_turn();
        turns += 1;
        // The worker is in turn handed what came back and what the leaver has not given up yet.
        done += (0..4).filter(|_| work(&mut server, worker)).count();
        // An operator cancels a job that the leaver holds or has just lost.
        assert!(server.cancel_job(NOW, format!("H:localhost:{}", held - turns).as_bytes(), &mut ears));
        server.check_invariants();
        server.start_turn();
    }
    server.check_invariants();
    assert!(turns >= 2, "it left in {turns} turns");
    assert_eq!(server.next_timeout(NOW), None, "a time limit is left");
    let left = server.job_count();
    assert!(left + done + turns >= held && left + turns <= held, "{left} jobs are left after {done} were done");
    while work(&mut server, worker) {}
    assert_eq!(server.job_count(), 0);
}
