//! What the simulation is too coarse for: long pieces of work with others between their turns, and rules at
//! their limits.

use std::sync::Arc;

use bytes::Bytes;
use gearmand::job_server::{
    ConnectionEnd, ConnectionId, ControlError, Cursor, DropFunction, Effects, Event, JobServer, Now, Policy, Progress,
    Rule, StoreOp, StoreReport, WorkerMode, WorkerSelector,
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
    /// What the store was asked, where there is one.
    asked: Option<Vec<StoreOp>>,
    created: Vec<u64>,
}

impl Effects for Ears {
    fn send(&mut self, to: ConnectionId, response: Response<'_>) {
        match response {
            Response::JobAssign { handle, function, .. } => {
                self.assigned.push((handle.number, String::from_utf8(function.to_vec()).unwrap()));
            }
            Response::Noop => self.woken.push(to),
            Response::WorkFail { handle } => self.failed.push(handle.number),
            Response::JobCreated { handle } => self.created.push(handle.number),
            Response::Error(error) => panic!("{error:?}"),
            _ => {}
        }
    }

    fn hold(&mut self, _: ConnectionId, _: usize) {
        assert!(self.asked.is_some(), "there is no store to wait for");
    }

    fn fill(&mut self, _: ConnectionId, _: u64, _: Response<'_>) {
        assert!(self.asked.is_some(), "there is no store to wait for");
    }

    fn store(&mut self, operation: StoreOp) {
        self.asked.as_mut().expect("there is no store").push(operation);
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

    /// With a store, and so many bytes of memory for what it has.
    fn keeping(stored_workloads_max: u64) -> Self {
        let policy = Policy { keeps_jobs: true, stored_workloads_max, ..Policy::default() };
        let server = JobServer::new(policy, Arc::new(Stats::default()));
        Self { server, ears: Ears { asked: Some(Vec::new()), ..Ears::default() } }
    }

    /// The store does what it was asked, and has read this. Returns the numbers of the jobs that it was to
    /// read.
    fn keep(&mut self, workload: &'static [u8]) -> Vec<u64> {
        let mut read = Vec::new();
        while let Some(operation) =
            self.ears.asked.as_mut().filter(|asked| !asked.is_empty()).map(|asked| asked.remove(0))
        {
            let report = match operation {
                StoreOp::Add { ticket, .. } => StoreReport::Added { ticket, result: Ok(()) },
                StoreOp::Load { ticket, jobs } => {
                    read.extend(jobs.iter().map(|key| key.number));
                    let workloads = jobs.iter().map(|_| Some(Bytes::from_static(workload))).collect();
                    StoreReport::Loaded { ticket, result: Ok(workloads) }
                }
                _ => continue,
            };
            let mut rest = Some(report);
            while let Some(report) = rest {
                self.server.start_turn();
                rest = self.server.stored(NOW, report, &mut self.ears);
            }
        }
        self.server.check_invariants();
        read
    }

    /// A job that the store has, or one that is in memory alone.
    fn submit_work(&mut self, from: ConnectionId, function: &[u8], unique: &[u8], work: &[u8], is_kept: bool) {
        let submission = Submission {
            function,
            unique,
            reducer: b"",
            priority: Priority::Normal,
            background: is_kept,
            due_s: None,
            workload: Workload::borrowed(work),
        };
        self.request(from, &Request::Submit(submission));
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
        self.server.start_turn();
        self.server.request(NOW, from, request, &mut self.ears);
        self.server.start_turn();
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

    fn move_some(&mut self, from: &[u8], to: &[u8], cursor: Cursor) -> Progress {
        self.server.start_turn();
        let progress = self.server.move_jobs(NOW, from, to, cursor, &mut self.ears).unwrap();
        self.server.check_invariants();
        progress
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
    let (mut cursor, mut moved, mut turns, mut taken, mut added) = (Some(Cursor::default()), 0, 0, 0, 0);
    while let Some(from) = cursor {
        let progress = scene.move_some(b"from", b"to", from);
        assert!(progress.affected <= 256, "{} jobs were moved at once", progress.affected);
        (cursor, moved, turns) = (progress.next, moved + progress.affected, turns + 1);
        assert!(turns < 100, "moving does not end");
        if turns <= 2 {
            taken += usize::from(scene.grab(worker).is_some());
            scene.submit(client, b"from", b"", None);
            added += 1;
        }
    }
    assert!(turns > 3, "{turns}");
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
    let progress = scene.move_some(b"from", b"to", Cursor::default());
    let (mut cursor, mut moved) = (progress.next.unwrap(), progress.affected);
    assert_eq!(moved, 0, "a job was moved to its equal");
    // Where it stands is the 253rd of those that stay: the three lists of the high priority are empty and
    // come first.
    assert!(scene.server.cancel_job(NOW, &handle(506), &mut scene.ears));
    let mut turns = 0;
    loop {
        let progress = scene.move_some(b"from", b"to", cursor);
        moved += progress.affected;
        turns += 1;
        assert!(turns < 100, "moving does not end");
        let Some(next) = progress.next else { break };
        cursor = next;
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
    let (mut cursor, mut cancelled, mut turns) = (Some(Cursor::default()), 0, 0);
    while let Some(from) = cursor {
        scene.server.start_turn();
        let progress = scene.server.cancel_jobs(NOW, b"from", from, &mut scene.ears).unwrap();
        scene.server.check_invariants();
        assert!(progress.affected <= 256);
        (cursor, cancelled, turns) = (progress.next, cancelled + progress.affected, turns + 1);
        scene.submit(client, b"from", b"", None);
    }
    assert_eq!(u64::try_from(cancelled).unwrap(), MANY);
    assert_eq!(scene.server.job_count(), cancelled + turns, "a job of another function, or a later one, was cancelled");
    // The late result is heard by nobody, and is no mistake: the ears would panic.
    scene.request(worker, &Request::WorkComplete { handle: &handle(held), workload: Workload::borrowed(b"") });
    let unknown = scene.server.cancel_jobs(NOW, b"nobody knows it", Cursor::default(), &mut scene.ears);
    assert_eq!(unknown, Err(ControlError::NoSuchFunction));
}

#[test]
fn a_job_meets_its_equal_by_workload_though_that_of_one_is_in_the_store_alone() {
    let mut scene = Scene::keeping(0);
    let client = scene.connect("");
    scene.submit_work(client, b"from", b"-", b"same", true);
    scene.submit_work(client, b"from", b"-", b"other", true);
    assert!(scene.keep(b"").is_empty(), "nobody can do them");
    scene.submit_work(client, b"to", b"-", b"same", false);
    let Scene { server, ears } = &mut scene;
    assert_eq!(server.move_job(NOW, &handle(1), b"to", ears), Err(ControlError::JobExistsThere));
    assert_eq!(server.move_job(NOW, &handle(3), b"from", ears), Err(ControlError::JobExistsThere));
    assert_eq!(server.move_job(NOW, &handle(2), b"to", ears), Ok(()));
    server.check_invariants();
    // One that is in the store joins, and so does one that equals what was moved.
    scene.ears.created.clear();
    scene.submit_work(client, b"to", b"-", b"other", false);
    scene.submit_work(client, b"from", b"-", b"same", false);
    assert_eq!(scene.ears.created, [2, 1]);
}

#[test]
fn what_waited_behind_jobs_that_were_moved_is_read() {
    let mut scene = Scene::keeping(4);
    let client = scene.connect("");
    scene.worker("", &[b"from"]);
    scene.submit_work(client, b"from", b"a", b"workload", true);
    assert_eq!(scene.keep(b"workload"), [1], "there is a worker");
    scene.submit_work(client, b"from", b"b", b"workload", true);
    assert!(scene.keep(b"").is_empty(), "one is ready, and there is no memory for two");
    scene.submit_work(client, b"to", b"b", b"", false);
    let (mut cursor, mut moved) = (Cursor::default(), 0);
    loop {
        let progress = scene.move_some(b"from", b"to", cursor);
        moved += progress.affected;
        let Some(next) = progress.next else { break };
        cursor = next;
    }
    assert_eq!(moved, 1, "the other has its equal there");
    assert_eq!(scene.keep(b"workload"), [2], "a paged-out job is forgotten");
}

#[test]
fn late_results_of_as_many_jobs_as_a_worker_held_are_no_mistake() {
    let mut scene = Scene::new();
    let client = scene.connect("");
    let worker = scene.worker("", &[b"f"]);
    for _ in 0..3 {
        (0..200).for_each(|_| scene.submit(client, b"f", b"", None));
        let held: Vec<u64> = (0..200).filter_map(|_| scene.grab(worker)).map(|(number, _)| number).collect();
        scene.server.start_turn();
        let progress = scene.server.cancel_jobs(NOW, b"f", Cursor::default(), &mut scene.ears).unwrap();
        assert_eq!((held.len(), progress.affected), (200, 200));
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
        scene.server.set_policy(NOW, &policy, &mut scene.ears);
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
        scene.server.set_policy(NOW, &policy, &mut scene.ears);
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
    scene.server.set_policy(NOW, &Policy { max_functions: 8, ..Policy::default() }, &mut scene.ears);
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

/// All rules, in as many pieces as it takes.
fn all_rules(server: &JobServer) -> Vec<Rule> {
    let mut rules = Vec::new();
    loop {
        let page = server.list_rules(rules.last());
        assert!(page.len() <= 256, "{} rules under one hold of the lock", page.len());
        if page.is_empty() {
            return rules;
        }
        rules.extend(page);
    }
}

/// Names that somebody makes up to pause them leave room for those of jobs.
#[test]
fn settings_do_not_use_up_all_functions() {
    for (max_functions, most) in [(100_000, 10_000), (16, 14)] {
        let mut scene = Scene::new();
        scene.server.set_policy(NOW, &Policy { max_functions, ..Policy::default() }, &mut scene.ears);
        let name = |index: usize| format!("made up {index}").into_bytes();
        for index in 0..most {
            let result = match index % 3 {
                0 => scene.server.pause_function(NOW, &name(index), true, &mut scene.ears),
                1 => scene.server.limit_running(NOW, &name(index), 1, &mut scene.ears),
                _ => scene.server.limit_function(&name(index), [0, 1, 0], &mut scene.ears),
            };
            assert_eq!(result, Ok(0), "{index}");
        }
        let refused = Err(ControlError::TooManySettings);
        for known in [&b"f"[..], b"one more"] {
            scene.server.create_function(b"f").unwrap();
            assert_eq!(scene.server.pause_function(NOW, known, true, &mut scene.ears), refused);
            assert_eq!(scene.server.limit_running(NOW, known, 1, &mut scene.ears), refused);
            assert_eq!(scene.server.limit_function(known, [1, 1, 1], &mut scene.ears), refused);
        }
        // What has settings may get others, and what loses them makes room.
        scene.server.limit_running(NOW, &name(0), 1, &mut scene.ears).unwrap();
        scene.server.limit_running(NOW, b"none", 0, &mut scene.ears).unwrap();
        scene.server.pause_function(NOW, &name(0), false, &mut scene.ears).unwrap();
        assert_eq!(scene.server.pause_function(NOW, b"f", true, &mut scene.ears), refused);
        scene.server.limit_running(NOW, &name(0), 0, &mut scene.ears).unwrap();
        scene.server.pause_function(NOW, b"f", true, &mut scene.ears).unwrap();
        assert_eq!(scene.server.drop_function(b"f", &mut scene.ears), DropFunction::Dropped);
        scene.server.limit_function(b"f", [1, 1, 1], &mut scene.ears).unwrap();
        let client = scene.connect("");
        scene.submit(client, b"of a job", b"", None);
        let worker = scene.worker("", &[b"of a job"]);
        assert!(scene.grab(worker).is_some());
    }
}

#[test]
fn no_verb_takes_a_name_that_a_store_would_refuse() {
    let mut scene = Scene::new();
    let client = scene.connect("");
    scene.submit(client, b"f", b"", None);
    for (name, error) in [
        (&b"a\0b"[..], ControlError::BadName),
        (b"\0", ControlError::BadName),
        (&[b'f'; 513], ControlError::NameTooLong),
    ] {
        let Scene { server, ears } = &mut scene;
        assert_eq!(server.pause_function(NOW, name, true, ears), Err(error));
        assert_eq!(server.limit_running(NOW, name, 1, ears), Err(error));
        assert_eq!(server.move_job(NOW, &handle(1), name, ears), Err(error));
        assert_eq!(server.move_jobs(NOW, b"f", name, Cursor::default(), ears), Err(error));
        let who = WorkerSelector::Client(b"c".to_vec());
        assert_eq!(server.set_worker_mode(NOW, &who, Some(name), WorkerMode::Disabled, ears), Err(error));
        // A worker may have made it known.
        scene.worker("", &[name]);
        assert_eq!(scene.server.move_job(NOW, &handle(1), name, &mut scene.ears), Err(error));
    }
    assert_eq!(all_rules(&scene.server), []);
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
    let here = WorkerSelector::Host("here".to_owned());
    let result = scene.server.set_worker_mode(NOW, &here, None, WorkerMode::Draining, &mut scene.ears);
    assert_eq!(result, Ok(3));
    assert_eq!(scene.ears.woken, [workers[0], elsewhere]);
    assert_eq!(scene.grab(workers[0]), None);
    // One that comes later is meant as well, and one that takes another's name.
    let later = scene.worker("here", &[b"f"]);
    assert_eq!(scene.grab(later), None);
    let alice = WorkerSelector::Client(b"alice".to_vec());
    let function = Some(&b"f"[..]);
    assert_eq!(scene.server.set_worker_mode(NOW, &alice, function, WorkerMode::Disabled, &mut scene.ears), Ok(0));
    scene.request(elsewhere, &Request::SetClientId { id: b"alice" });
    assert_eq!(scene.grab(elsewhere), None);
    scene.request(elsewhere, &Request::PreSleep);
    scene.ears.woken.clear();
    assert_eq!(scene.server.enable_workers(NOW, &alice, Some(b"g"), &mut scene.ears), Err(ControlError::NoSuchRule));
    assert_eq!(all_rules(&scene.server).len(), 2);
    assert_eq!(scene.server.enable_workers(NOW, &alice, None, &mut scene.ears), Ok(1));
    assert_eq!(scene.ears.woken, [elsewhere]);
    assert!(scene.grab(elsewhere).is_some());
    assert_eq!(scene.server.enable_workers(NOW, &here, None, &mut scene.ears), Ok(4));
    assert_eq!(all_rules(&scene.server), []);
}

#[test]
fn rules_for_many_are_in_force_at_once_and_are_applied_in_pieces() {
    let functions: Vec<String> = (0..100).map(|index| format!("f{index}")).collect();
    let functions: Vec<&[u8]> = functions.iter().map(String::as_bytes).collect();
    let mut scene = Scene::new();
    let workers: Vec<ConnectionId> = (0..60).map(|_| scene.worker("here", &functions)).collect();
    let client = scene.connect("");
    let here = WorkerSelector::Host("here".to_owned());
    let is_left = |scene: &Scene| scene.server.next_timeout(NOW) == Some(NOW.monotonic_us);
    let result = scene.server.set_worker_mode(NOW, &here, None, WorkerMode::Disabled, &mut scene.ears);
    assert_eq!(result, Ok(60));
    assert!(is_left(&scene), "all were marked with one call");
    scene.submit(client, b"f7", b"", None);
    assert_eq!(scene.grab(workers[59]), None, "the rule is not in force for the last");
    scene.request(workers[58], &Request::PreSleep);
    let result = scene.server.enable_workers(NOW, &here, None, &mut scene.ears);
    assert_eq!(result, Ok(60));
    let mut turns = 0;
    while is_left(&scene) {
        scene.server.timeout(NOW, &mut scene.ears);
        scene.server.check_invariants();
        turns += 1;
        assert!(turns < 100, "it does not end");
    }
    assert!(turns > 0, "all were marked with one call");
    assert_eq!(scene.ears.woken, [workers[58]], "one who sleeps is not told that it may have jobs again");
    assert!(scene.grab(workers[59]).is_some());
}

#[test]
fn rules_are_limited_and_those_for_a_connection_end_with_it() {
    let mut scene = Scene::new();
    let worker = scene.worker("here", &[b"f"]);
    let rule_of = |index: usize| WorkerSelector::Client(format!("client {index}").into_bytes());
    for index in 0..1000 {
        scene.server.set_worker_mode(NOW, &rule_of(index), None, WorkerMode::Disabled, &mut scene.ears).unwrap();
    }
    for (who, error) in [
        (rule_of(1000), ControlError::TooManyRules),
        (WorkerSelector::Host("here".to_owned()), ControlError::TooManyRules),
        (WorkerSelector::Client(vec![b'x'; 128]), ControlError::NameTooLong),
        (
            WorkerSelector::Connection(ConnectionId { generation: worker.generation + 1, ..worker }),
            ControlError::NoSuchWorker,
        ),
    ] {
        assert_eq!(
            scene.server.set_worker_mode(NOW, &who, None, WorkerMode::Draining, &mut scene.ears),
            Err(error),
            "{who:?}"
        );
    }
    // One that is there may be changed, and there is room for connections.
    for who in [rule_of(7), WorkerSelector::Connection(worker)] {
        scene.server.set_worker_mode(NOW, &who, None, WorkerMode::Draining, &mut scene.ears).unwrap();
    }
    assert_eq!(all_rules(&scene.server).len(), 1001);
    assert_eq!(scene.server.workers_of(&WorkerSelector::Host("here".to_owned())), [worker]);
    scene.server.disconnect(NOW, worker, ConnectionEnd::default(), &mut scene.ears);
    let next = scene.worker("here", &[b"f"]);
    assert_eq!(next.slot, worker.slot);
    assert_eq!(all_rules(&scene.server).len(), 1000);
    let client = scene.connect("");
    scene.submit(client, b"f", b"", None);
    assert!(scene.grab(next).is_some(), "a rule has outlived its connection");
    let result = scene.server.enable_workers(NOW, &WorkerSelector::Connection(worker), None, &mut scene.ears);
    assert_eq!(result, Err(ControlError::NoSuchWorker));
    let result = scene.server.enable_workers(NOW, &WorkerSelector::Connection(next), None, &mut scene.ears);
    assert_eq!(result, Err(ControlError::NoSuchRule));
}
