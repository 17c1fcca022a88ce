//! Connections with very many functions: what they ask for is done in turns, or takes no time where there is
//! nothing to find.

use std::sync::Arc;

use gearmand::job_server::{
    ConnectionEnd, ConnectionId, DisconnectProgress, Effects, Event, JobServer, Now, Policy, StoreOp,
};
use gearmand::protocol::{GrabKind, Priority, Request, Response, Submission, Workload};
use gearmand::stats::{ConnectionGauges, Stats};

const MANY: usize = 5_000;
const START: Now = Now { monotonic_us: 1, unix_us: 1_800_000_000_000_000 };

/// Counts what is said.
#[derive(Default)]
struct Ears {
    assigned: usize,
    woken: usize,
    none: usize,
    dropped: usize,
}

impl Effects for Ears {
    fn send(&mut self, _: ConnectionId, response: Response<'_>) {
        match response {
            Response::JobAssign { .. } => self.assigned += 1,
            Response::Noop => self.woken += 1,
            Response::NoJob => self.none += 1,
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
        self.dropped += usize::from(matches!(event, Event::JobDropped { .. }));
    }
}

struct World {
    server: JobServer,
    ears: Ears,
    now: Now,
}

impl World {
    fn new(job_retries: Option<u16>) -> Self {
        let job_retries = job_retries.and_then(std::num::NonZero::new);
        let policy = Policy { job_retries, ..Policy::default() };
        Self { server: JobServer::new(policy, Arc::new(Stats::default())), ears: Ears::default(), now: START }
    }

    fn connect(&mut self) -> ConnectionId {
        self.server.connect(Arc::new(ConnectionGauges::new(0, String::new())))
    }

    fn ask(&mut self, who: ConnectionId, request: &Request<'_>) -> bool {
        self.server.request(self.now, who, request, &mut self.ears)
    }

    fn submit(&mut self, who: ConnectionId, function: &str) {
        let submission = Submission {
            function: function.as_bytes(),
            unique: b"",
            reducer: b"",
            priority: Priority::Normal,
            background: true,
            due_s: None,
            workload: Workload::borrowed(b""),
        };
        self.ask(who, &Request::Submit(submission));
    }

    fn worker(&mut self, functions: usize) -> ConnectionId {
        let worker = self.connect();
        for number in 0..functions {
            let name = format!("f{number}");
            self.ask(worker, &Request::CanDo { function: name.as_bytes(), timeout_ms: None });
        }
        worker
    }

    /// Whether so many requests of one kind fit into one turn.
    fn fit_into_a_turn(&mut self, who: ConnectionId, request: &Request<'_>, count: usize) -> bool {
        self.server.start_turn();
        (0..count).all(|_| {
            let is_all = self.ask(who, request);
            is_all && !self.server.is_turn_over()
        })
    }

    fn leave(&mut self, who: ConnectionId) {
        let end = ConnectionEnd { wants_answers: false, missed_last: true };
        while self.server.disconnect(self.now, who, end, &mut self.ears) != DisconnectProgress::Done {}
    }
}

const GRAB: Request<'_> = Request::GrabJob(GrabKind::Plain);

#[test]
fn a_grab_looks_through_no_functions_while_none_of_them_has_a_job() {
    let mut world = World::new(None);
    let worker = world.worker(MANY);
    let client = world.connect();
    assert!(world.fit_into_a_turn(worker, &GRAB, 64), "there is no job at all");
    world.submit(client, "another's");
    assert!(world.fit_into_a_turn(worker, &GRAB, 64), "there is no job for it");
    assert_eq!((world.ears.none, world.ears.assigned), (128, 0));
    world.submit(client, "f77");
    assert!(world.ask(worker, &GRAB));
    assert_eq!((world.ears.none, world.ears.assigned), (128, 1));
    world.server.check_invariants();
}

/// One with many functions sleeps, is woken and grabs for the price of one with few.
#[test]
fn many_functions_cost_no_more_than_few() {
    let mut world = World::new(None);
    let (many, few) = (world.worker(MANY), world.worker(3));
    let client = world.connect();
    for worker in [many, few] {
        world.server.start_turn();
        world.ask(worker, &Request::PreSleep);
        let slept = world.server.spent();
        world.submit(client, "f2");
        assert_eq!(std::mem::take(&mut world.ears.woken), 1);
        world.ask(worker, &GRAB);
        assert_eq!(std::mem::take(&mut world.ears.assigned), 1);
        assert!(world.server.spent() < 100, "{slept} to sleep, {} in all", world.server.spent());
    }
    for request in [GRAB, Request::PreSleep, GRAB] {
        assert!(world.fit_into_a_turn(many, &request, 64), "{request:?}");
    }
    world.server.check_invariants();
}

/// Where all functions have jobs, and those that a connection can do have none to give, there is no short
/// way: it takes several turns, and others may act between them.
#[test]
fn a_look_through_very_many_functions_takes_several_turns() {
    let mut world = World::new(None);
    let (worker, client) = (world.worker(9_000), world.connect());
    for number in 0..9_000 {
        let name = format!("f{number}");
        world.submit(client, &name);
        if number != 3 {
            world.server.pause_function(world.now, name.as_bytes(), true, &mut world.ears).unwrap();
        }
    }
    for has_job in [true, false] {
        let mut turns = 1;
        world.server.start_turn();
        while !world.ask(worker, &GRAB) {
            assert!(world.server.spent() < 4096 + 100, "{}", world.server.spent());
            world.server.start_turn();
            turns += 1;
        }
        assert!((2..6).contains(&turns), "{turns} turns");
        assert_eq!((world.ears.assigned, world.ears.none), (1, usize::from(!has_job)));
    }
    // To fall asleep does not wait for the look. A job that comes meanwhile wakes it, and so does one that it
    // finds.
    world.submit(client, "f3");
    world.server.start_turn();
    assert!(world.ask(worker, &Request::PreSleep));
    assert!(world.server.spent() < 4096 + 100, "{}", world.server.spent());
    let mut turns = 0;
    while world.ears.woken == 0 {
        assert_eq!(world.server.next_timeout(world.now), Some(world.now.monotonic_us));
        world.server.timeout(world.now, &mut world.ears);
        assert!(world.server.spent() < 4096 + 100, "{}", world.server.spent());
        turns += 1;
    }
    assert!((1..6).contains(&turns), "{turns} turns");
    assert!(!world.ask(worker, &GRAB));
    while !world.ask(worker, &GRAB) {}
    assert_eq!(world.ears.assigned, 2);
    world.server.check_invariants();
}

#[test]
fn reset_abilities_takes_several_turns() {
    let mut world = World::new(None);
    let worker = world.worker(MANY);
    let mut turns = 1;
    while !world.ask(worker, &Request::ResetAbilities) {
        world.server.check_invariants();
        world.server.start_turn();
        turns += 1;
    }
    world.server.check_invariants();
    assert!(turns > 5, "{turns} turns");
    let client = world.connect();
    world.submit(client, "f1");
    assert!(world.ask(worker, &GRAB));
    assert_eq!(world.ears.none, 1);
}

/// Workers that die of a job while they read it look like workers that were leaving. They do not do so for
/// ever.
#[test]
fn a_job_that_kills_its_workers_ends_although_they_have_not_read_it() {
    let mut world = World::new(Some(2));
    let client = world.connect();
    world.submit(client, "f0");
    let deaths = (1..=100).find(|_| {
        let worker = world.worker(1);
        world.ask(worker, &GRAB);
        world.leave(worker);
        world.ears.dropped > 0
    });
    // It is spared 16 times, and then there are its attempts.
    assert_eq!(deaths, Some(18));
    assert_eq!(world.server.job_count(), 0);
}

#[test]
fn a_worker_that_has_held_a_job_for_a_second_has_read_it() {
    for (held_us, dropped) in [(999_999, 0), (1_000_000, 1)] {
        let mut world = World::new(Some(1));
        let client = world.connect();
        world.submit(client, "f0");
        let worker = world.worker(1);
        world.ask(worker, &GRAB);
        world.now.monotonic_us += held_us;
        world.leave(worker);
        assert_eq!(world.ears.dropped, dropped, "after {held_us} us");
    }
}
