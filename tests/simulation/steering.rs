//! What the simulation is too coarse for: long pieces of work with others between their turns, and rules at their limits.

use std::sync::Arc;

use gearmand::job_server::{
    ConnectionId, ControlError, Effects, Event, JobServer, Now, Piece, Place, Policy, StoreOp, Who, Withholding,
};
use gearmand::protocol::{GrabKind, Priority, Request, Response, Submission, Workload};
use gearmand::stats::{ConnectionGauges, Stats};

pub(crate) const NOW: Now = Now { monotonic_us: 1, unix_us: 1_800_000_000_000_000 };
/// More than three calls of a long piece of work.
const MANY: u64 = 800;

/// Hears what is handed out, who is woken and which jobs failed.
#[derive(Default)]
pub(crate) struct Ears {
    assigned: Vec<(u64, String)>,
    pub(crate) woken: Vec<ConnectionId>,
    failed: Vec<u64>,
}

impl Effects for Ears {
    fn send(&mut self, to: ConnectionId, response: Response<'_>) {
        match response {
            Response::JobAssign { handle, function, .. } => {
                self.assigned.push((handle.number, String::from_utf8(function.to_vec()).unwrap()));
            }
            Response::Noop => self.woken.push(to),
            Response::WorkFail { handle } => self.failed.push(handle.number),
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

pub(crate) struct Scene {
    pub(crate) server: JobServer,
    pub(crate) ears: Ears,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { server: JobServer::new(Policy::default(), Arc::new(Stats::default())), ears: Ears::default() }
    }

    pub(crate) fn connect(&mut self, host: &str) -> ConnectionId {
        self.server.connect(Arc::new(ConnectionGauges::new(0, host.to_owned())))
    }

    /// One who can do some functions.
    pub(crate) fn worker(&mut self, host: &str, functions: &[&[u8]]) -> ConnectionId {
        let worker = self.connect(host);
        for function in functions {
            self.request(worker, &Request::CanDo { function, timeout_ms: None });
        }
        worker
    }

    pub(crate) fn request(&mut self, from: ConnectionId, request: &Request<'_>) {
        self.server.request(NOW, from, request, &mut self.ears);
    }

    pub(crate) fn submit(&mut self, from: ConnectionId, function: &[u8], unique: &[u8], due_s: Option<u64>) {
        let submission = Submission {
            function,
            unique,
            reducer: b"",
            priority: Priority::Normal,
            background: true,
            due_s,
            workload: Workload::borrowed(b""),
        };
        self.request(from, &Request::Submit(submission));
    }

    /// The number and the function of the next job.
    pub(crate) fn grab(&mut self, worker: ConnectionId) -> Option<(u64, String)> {
        self.ears.assigned.clear();
        self.request(worker, &Request::GrabJob(GrabKind::Plain));
        self.ears.assigned.pop()
    }

    fn move_piece(&mut self, from: &[u8], to: &[u8], place: Place) -> Piece {
        let piece = self.server.move_jobs(NOW, from, to, place, &mut self.ears).unwrap();
        self.server.check_invariants();
        piece
    }
}

pub(crate) fn handle(number: u64) -> Vec<u8> {
    format!("H:localhost:{number}").into_bytes()
}

#[test]
fn many_jobs_move_in_their_order_while_others_come_and_go() {
    let mut scene = Scene::new();
    let client = scene.connect("");
    let worker = scene.worker("", &[b"from"]);
    for number in 1..=MANY {
        // One in four waits for its time.
        let due_s = (number % 4 == 0).then_some(NOW.unix_us / 1_000_000 + 60);
        scene.submit(client, b"from", b"", due_s);
    }
    // The first that the walk meets stays, since it has an equal there, and is gone when the walk goes on.
    scene.submit(client, b"from", b"equal", None);
    scene.submit(client, b"to", b"equal", None);
    let (mut place, mut moved, mut turns, mut taken, mut added) = (Some(Place::default()), 0, 0, 0, 0);
    while let Some(from) = place {
        let piece = scene.move_piece(b"from", b"to", from);
        assert!(piece.affected <= 256, "{} jobs were moved at once", piece.affected);
        (place, moved, turns) = (piece.next, moved + piece.affected, turns + 1);
        assert!(turns < 100, "moving does not end");
        if turns <= 3 {
            taken += usize::from(scene.grab(worker).is_some());
            scene.submit(client, b"from", b"", None);
            added += 1;
        }
    }
    assert!(turns > 4, "{turns}");
    let left = scene.server.job_count();
    assert_eq!(left, usize::try_from(MANY).unwrap() + 2 + added, "a job is lost");
    // What came later and what equals another stays, but for what the worker has.
    assert_eq!(moved + taken, usize::try_from(MANY).unwrap(), "{taken} were taken");
    let heir = scene.worker("", &[b"to"]);
    let first = scene.grab(heir).unwrap();
    assert_eq!(first, (MANY + 2, "to".to_owned()), "the job that was there before was overtaken");
    let mut last = 0;
    for _ in 0..MANY * 3 / 4 - u64::try_from(taken).unwrap() {
        let (number, function) = scene.grab(heir).unwrap();
        assert!(number > last && number % 4 != 0 && function == "to", "{number} of {function} came after {last}");
        last = number;
    }
    assert_eq!(scene.grab(heir), None, "a scheduled job was handed out");
}

#[test]
fn a_walk_whose_place_has_gone_still_finds_the_others() {
    let mut scene = Scene::new();
    let client = scene.connect("");
    // So many that equal others stay that a call ends among them.
    for number in 0..300 {
        let unique = format!("u{number}");
        scene.submit(client, b"to", unique.as_bytes(), None);
        scene.submit(client, b"from", unique.as_bytes(), None);
    }
    for _ in 0..10 {
        scene.submit(client, b"from", b"", None);
    }
    // The high queue is empty and comes first: of it nothing was moved, nor of the parked ones.
    let (mut place, mut moved) = (Place::default(), 0);
    for _ in 0..3 {
        let piece = scene.move_piece(b"from", b"to", place);
        (place, moved) = (piece.next.unwrap(), moved + piece.affected);
    }
    assert_eq!(moved, 0, "a job was moved to its equal");
    // Where it stands is the 256th of those that stay.
    assert!(scene.server.cancel_job(NOW, &handle(512), &mut scene.ears));
    let mut turns = 0;
    loop {
        let piece = scene.move_piece(b"from", b"to", place);
        moved += piece.affected;
        turns += 1;
        assert!(turns < 100, "moving does not end");
        let Some(next) = piece.next else { break };
        place = next;
    }
    assert_eq!(moved, 10, "jobs were forgotten");
}

#[test]
fn many_jobs_are_cancelled_and_later_ones_are_not() {
    let mut scene = Scene::new();
    let client = scene.connect("");
    let worker = scene.worker("", &[b"from"]);
    for _ in 0..MANY {
        scene.submit(client, b"from", b"", None);
        scene.submit(client, b"other", b"", None);
    }
    let (held, _) = scene.grab(worker).unwrap();
    let (mut place, mut cancelled, mut turns) = (Some(Place::default()), 0, 0);
    while let Some(from) = place {
        let piece = scene.server.cancel_jobs(NOW, b"from", from, &mut scene.ears).unwrap();
        scene.server.check_invariants();
        assert!(piece.affected <= 256);
        (place, cancelled, turns) = (piece.next, cancelled + piece.affected, turns + 1);
        scene.submit(client, b"from", b"", None);
    }
    assert_eq!(u64::try_from(cancelled).unwrap(), MANY);
    assert_eq!(scene.server.job_count(), cancelled + turns, "a job of another function, or a later one, was cancelled");
    // The late result is heard by nobody, and is no mistake: the ears would panic.
    scene.request(worker, &Request::WorkComplete { handle: &handle(held), workload: Workload::borrowed(b"") });
    let unknown = scene.server.cancel_jobs(NOW, b"nobody knows it", Place::default(), &mut scene.ears);
    assert_eq!(unknown, Err(ControlError::NoSuchFunction));
}

#[test]
fn late_results_of_as_many_jobs_as_a_worker_held_are_no_mistake() {
    let mut scene = Scene::new();
    let client = scene.connect("");
    let worker = scene.worker("", &[b"f"]);
    for _ in 0..3 {
        (0..200).for_each(|_| scene.submit(client, b"f", b"", None));
        let held: Vec<u64> = (0..200).filter_map(|_| scene.grab(worker)).map(|(number, _)| number).collect();
        let piece = scene.server.cancel_jobs(NOW, b"f", Place::default(), &mut scene.ears).unwrap();
        assert_eq!((held.len(), piece.affected), (200, 200));
        // The ears would panic.
        for number in held {
            scene.request(worker, &Request::WorkFail { handle: &handle(number) });
        }
    }
}

#[test]
fn a_job_below_the_limit_wakes_one_and_the_end_of_a_run_the_next() {
    for worker_wakeup in [0, 1, 3] {
        let mut scene = Scene::new();
        let policy = Policy { worker_wakeup, ..Policy::default() };
        scene.server.set_policy(&policy);
        let client = scene.connect("");
        let workers: Vec<ConnectionId> = (0..3).map(|_| scene.worker("", &[b"f"])).collect();
        scene.server.limit_running(NOW, b"f", 1, &mut scene.ears).unwrap();
        scene.submit(client, b"f", b"", None);
        let (held, _) = scene.grab(workers[0]).unwrap();
        for worker in &workers[1..] {
            scene.request(*worker, &Request::PreSleep);
        }
        scene.submit(client, b"f", b"", None);
        assert_eq!(scene.ears.woken, [], "one is woken for a job that nobody may have (wakeup {worker_wakeup})");
        scene.request(workers[0], &Request::WorkFail { handle: &handle(held) });
        assert_eq!(scene.ears.woken, [workers[1]], "(wakeup {worker_wakeup})");
        // The same for a pause.
        let mut scene = Scene::new();
        scene.server.set_policy(&policy);
        let client = scene.connect("");
        let worker = scene.worker("", &[b"f"]);
        scene.request(worker, &Request::PreSleep);
        scene.server.pause_function(NOW, b"f", true, &mut scene.ears).unwrap();
        scene.submit(client, b"f", b"", None);
        assert_eq!((scene.ears.woken.len(), scene.grab(worker)), (0, None));
        scene.request(worker, &Request::PreSleep);
        scene.server.pause_function(NOW, b"f", false, &mut scene.ears).unwrap();
        assert_eq!(scene.ears.woken, [worker]);
        assert!(scene.grab(worker).is_some());
    }
}

#[test]
fn a_function_that_is_paused_or_limited_is_not_forgotten() {
    let mut scene = Scene::new();
    scene.server.set_policy(&Policy { max_functions: 8, ..Policy::default() });
    scene.server.pause_function(NOW, b"paused", true, &mut scene.ears).unwrap();
    scene.server.limit_running(NOW, b"limited", 2, &mut scene.ears).unwrap();
    for index in 0..100 {
        scene.server.create_function(format!("f{index}").as_bytes()).unwrap();
    }
    let client = scene.connect("");
    let worker = scene.worker("", &[b"paused", b"limited"]);
    for function in [&b"paused"[..], b"limited", b"limited", b"limited"] {
        scene.submit(client, function, b"", None);
    }
    let handed_out = (0..4).filter_map(|_| scene.grab(worker)).count();
    assert_eq!(handed_out, 2);
    let result = scene.server.pause_function(NOW, b"nobody knows it", false, &mut scene.ears);
    assert_eq!(result, Err(ControlError::NoSuchFunction));
    let result = scene.server.limit_running(NOW, &[b'f'; 513], 1, &mut scene.ears);
    assert_eq!(result, Err(ControlError::NameTooLong));
}

#[test]
fn no_verb_takes_a_name_that_a_store_would_refuse() {
    let mut scene = Scene::new();
    let client = scene.connect("");
    scene.submit(client, b"f", b"", None);
    for (name, error) in [
        (&b""[..], ControlError::BadName),
        (b"a\0b", ControlError::BadName),
        (b"\0", ControlError::BadName),
        (&[b'f'; 513], ControlError::NameTooLong),
    ] {
        let Scene { server, ears } = &mut scene;
        assert_eq!(server.pause_function(NOW, name, true, ears), Err(error));
        assert_eq!(server.limit_running(NOW, name, 1, ears), Err(error));
        assert_eq!(server.move_job(NOW, &handle(1), name, ears), Err(error));
        assert_eq!(server.move_jobs(NOW, b"f", name, Place::default(), ears), Err(error));
        let who = Who::Client(b"c".to_vec());
        assert_eq!(server.withhold(NOW, &who, Some(name), Withholding::Disabled, ears), Err(error));
        // A worker may have made it known.
        scene.worker("", &[name]);
        assert_eq!(scene.server.move_job(NOW, &handle(1), name, &mut scene.ears), Err(error));
    }
    assert_eq!(scene.server.withholdings(), []);
}

#[test]
fn workers_that_are_disabled_together_are_not_woken_one_for_the_other() {
    let mut scene = Scene::new();
    let client = scene.connect("");
    let workers: Vec<ConnectionId> = (0..3).map(|_| scene.worker("here", &[b"f"])).collect();
    let elsewhere = scene.worker("elsewhere", &[b"f"]);
    for worker in workers.iter().chain([&elsewhere]) {
        scene.request(*worker, &Request::PreSleep);
    }
    scene.submit(client, b"f", b"", None);
    assert_eq!(scene.ears.woken, [workers[0]]);
    let here = Who::Host("here".to_owned());
    let result = scene.server.withhold(NOW, &here, None, Withholding::Draining, &mut scene.ears);
    assert_eq!(result, Ok(3));
    assert_eq!(scene.ears.woken, [workers[0], elsewhere]);
    assert_eq!(scene.grab(workers[0]), None);
    // One that comes later is meant as well, and one that takes another's name.
    let later = scene.worker("here", &[b"f"]);
    assert_eq!(scene.grab(later), None);
    let alice = Who::Client(b"alice".to_vec());
    let function = Some(&b"f"[..]);
    assert_eq!(scene.server.withhold(NOW, &alice, function, Withholding::Disabled, &mut scene.ears), Ok(0));
    scene.request(elsewhere, &Request::SetClientId { id: b"alice" });
    assert_eq!(scene.grab(elsewhere), None);
    scene.request(elsewhere, &Request::PreSleep);
    scene.ears.woken.clear();
    assert_eq!(scene.server.release(NOW, &alice, Some(b"g"), &mut scene.ears), 0, "that was another function");
    assert_eq!(scene.server.withholdings().len(), 2);
    assert_eq!(scene.server.release(NOW, &alice, None, &mut scene.ears), 1);
    assert_eq!(scene.ears.woken, [elsewhere]);
    assert!(scene.grab(elsewhere).is_some());
    assert_eq!(scene.server.release(NOW, &here, None, &mut scene.ears), 4);
    assert_eq!(scene.server.withholdings(), []);
}

#[test]
fn rules_are_limited_and_those_for_a_connection_end_with_it() {
    let mut scene = Scene::new();
    let worker = scene.worker("here", &[b"f"]);
    let rule_of = |index: usize| Who::Client(format!("client {index}").into_bytes());
    for index in 0..1000 {
        scene.server.withhold(NOW, &rule_of(index), None, Withholding::Disabled, &mut scene.ears).unwrap();
    }
    for (who, error) in [
        (rule_of(1000), ControlError::TooManyRules),
        (Who::Host("here".to_owned()), ControlError::TooManyRules),
        (Who::Client(vec![b'x'; 128]), ControlError::NameTooLong),
        (Who::Connection(ConnectionId { generation: worker.generation + 1, ..worker }), ControlError::NoSuchWorker),
    ] {
        assert_eq!(
            scene.server.withhold(NOW, &who, None, Withholding::Draining, &mut scene.ears),
            Err(error),
            "{who:?}"
        );
    }
    // One that is there may be changed, and there is room for connections.
    for who in [rule_of(7), Who::Connection(worker)] {
        scene.server.withhold(NOW, &who, None, Withholding::Draining, &mut scene.ears).unwrap();
    }
    assert_eq!(scene.server.withholdings().len(), 1001);
    assert_eq!(scene.server.workers_of(&Who::Host("here".to_owned())), [worker]);
    scene.server.disconnect(NOW, worker, false, &mut scene.ears);
    let next = scene.worker("here", &[b"f"]);
    assert_eq!(next.slot, worker.slot);
    assert_eq!(scene.server.withholdings().len(), 1000);
    let client = scene.connect("");
    scene.submit(client, b"f", b"", None);
    assert!(scene.grab(next).is_some(), "a rule has outlived its connection");
    assert_eq!(scene.server.release(NOW, &Who::Connection(worker), None, &mut scene.ears), 0);
}
