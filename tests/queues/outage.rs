//! A database that goes away and comes back: background jobs are refused meanwhile, everything else goes on, and in the end
//! nothing is lost and nothing comes twice.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use super::peers::{Assigned, Worker, await_shown, counted, job, shown, submit, text, words};
use crate::battery::Database;
use crate::common::packet;
use crate::common::{Server, Wire, wait_for};
use crate::durable::Submission;
use crate::durable::bystander::Bystander;
use crate::mariadb::MariaDb;
use crate::postgres::Postgres;
use crate::redis::Redis;
use crate::site::Site;

const FUNCTION: &str = "kept";
const UNREACHABLE: &str = "Queue error: the database cannot be reached";
/// A client hears within this time that its job cannot be kept.
const ANSWER: Duration = Duration::from_secs(3);

/// A server, and what its client knows.
struct Scene {
    server: Server,
    client: Wire,
    worker: Worker,
    serial: u64,
    slowest: Duration,
    /// What was acknowledged and has not ended: handles and jobs.
    left: HashMap<Vec<u8>, Submission>,
}

impl Scene {
    fn start(options: &[String]) -> Self {
        let server = Server::ours(&words(options));
        let client = Wire::connect(server.addr());
        let worker = Worker::connect(server.addr(), &[FUNCTION]);
        Self { server, client, worker, serial: 0, slowest: Duration::ZERO, left: HashMap::new() }
    }

    /// A job with a unique id, without one, or with its workload for one.
    fn next_job(&mut self) -> Submission {
        self.serial += 1;
        let unique = match self.serial % 4 {
            0 => String::new(),
            1 => "-".to_owned(),
            _ => format!("u{}", self.serial),
        };
        job(FUNCTION, &unique, format!("{} \0\u{ff}", self.serial).as_bytes())
    }

    #[track_caller]
    fn submit(&mut self, jobs: usize) {
        let jobs: Vec<Submission> = (0..jobs).map(|_| self.next_job()).collect();
        self.left.extend(submit(&mut self.client, &jobs).into_iter().zip(jobs));
    }

    /// Submits a job. Returns whether it was taken; if not, it was for the right reason.
    #[track_caller]
    fn try_submit(&mut self) -> bool {
        let job = self.next_job();
        let start = Instant::now();
        self.client.send_raw(&job.request());
        let answer = self.client.recv();
        self.slowest = self.slowest.max(start.elapsed());
        match answer {
            (packet::JOB_CREATED, handle) => {
                self.left.insert(handle, job);
                true
            }
            (packet::ERROR, error) => {
                assert_eq!(text(&error), format!("QUEUE_ERROR\0{UNREACHABLE}"));
                false
            }
            (other, _) => panic!("a submission was answered with type {other}"),
        }
    }

    /// A worker ends jobs, which must be those that were acknowledged, as they were.
    #[track_caller]
    fn work(&mut self, jobs: usize) {
        for Assigned { handle, unique, workload, .. } in self.worker.work(jobs) {
            let job = self.left.remove(&handle).unwrap_or_else(|| panic!("{} was not to come", text(&handle)));
            assert_eq!((unique, workload), (job.unique, job.workload), "{}", text(&handle));
        }
    }
}

fn while_it_runs(database: &mut impl Database) {
    let name = "outage";
    let mut scene = Scene::start(&database.debian_options(name));
    scene.submit(300);
    scene.work(50);
    let bystander = Bystander::start(&scene.server);
    database.kill();
    wait_for("a job that is refused", || (!scene.try_submit()).then_some(()));
    for _ in 0..20 {
        assert!(!scene.try_submit(), "acknowledged without a database");
    }
    println!("{}: the slowest refusal took {:?}", database.word(), scene.slowest);
    assert!(scene.slowest < ANSWER, "a submission was answered after {:?}", scene.slowest);
    scene.work(100);
    let address = scene.server.addr();
    assert_eq!(shown(address, "state"), "failing");
    let error = shown(address, "error");
    assert!(error.contains(database.word()), "{error}");
    wait_for("the ends of jobs to be owed", || (counted(address, "owed") >= 100).then_some(()));

    database.start_again();
    let start = Instant::now();
    wait_for("a job that is taken", || scene.try_submit().then_some(()));
    println!("{}: service was back {:?} after the database", database.word(), start.elapsed());
    await_shown(address, "state", "ok");
    assert_eq!((shown(address, "error"), counted(address, "owed")), (String::new(), 0));
    bystander.finish();
    scene.submit(100);
    scene.work(50);
    wait_for("the database to have what is left", || (database.rows(name) == scene.left.len()).then_some(()));

    scene.server.kill();
    scene.server.restart();
    scene.client = Wire::connect(address);
    scene.worker = Worker::connect(address, &[FUNCTION]);
    assert!(scene.left.len() > 100, "{}", scene.left.len());
    scene.work(scene.left.len());
    scene.worker.expect_no_job();
    scene.server.terminate();
    assert_eq!(database.rows(name), 0);
}

/// The server is there first, and waits.
fn before_it_starts(database: &mut (impl Database + Send)) {
    let options = database.debian_options("late");
    database.kill();
    let site = Site::new();
    let mut server = thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("a server that waits", || site.read("log").contains("trying again").then_some(()));
            database.start_again();
        });
        site.start(&words(&options))
    });
    let mut client = server.connect();
    let handles = submit(&mut client, &[job(FUNCTION, "u", b"w")]);
    assert_eq!(Worker::connect(server.addr(), &[FUNCTION]).work(1)[0].handle, handles[0]);
    server.terminate();
}

fn of_database(mut database: impl Database + Send) {
    while_it_runs(&mut database);
    before_it_starts(&mut database);
}

pub(crate) fn of_postgres() {
    of_database(Postgres::start());
}

pub(crate) fn of_mariadb() {
    of_database(MariaDb::start());
}

pub(crate) fn of_redis() {
    of_database(Redis::start());
}
