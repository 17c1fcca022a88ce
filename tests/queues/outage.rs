//! A database that goes away and comes back: background jobs are refused meanwhile, everything else goes on,
//! and in the end nothing is lost and nothing comes twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::lossy::Lossy;
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
    ended: HashMap<Vec<u8>, Submission>,
}

impl Scene {
    fn start(options: &[String]) -> Self {
        let server = Server::ours(&words(options));
        let client = Wire::connect(server.addr());
        let worker = Worker::connect(server.addr(), &[FUNCTION]);
        let (left, ended) = (HashMap::new(), HashMap::new());
        Self { server, client, worker, serial: 0, slowest: Duration::ZERO, left, ended }
    }

    /// Starts the server anew, which was killed.
    #[track_caller]
    fn restart(&mut self) {
        self.server.restart();
        self.client = Wire::connect(self.server.addr());
        self.worker = Worker::connect(self.server.addr(), &[FUNCTION]);
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
        let is_taken = self.hear(job);
        self.slowest = self.slowest.max(start.elapsed());
        is_taken
    }

    /// Submits so many jobs at once. Returns how many were taken.
    #[track_caller]
    fn flood(&mut self, jobs: usize) -> usize {
        let jobs: Vec<Submission> = (0..jobs).map(|_| self.next_job()).collect();
        self.client.send_raw(&jobs.iter().flat_map(Submission::request).collect::<Vec<u8>>());
        let start = Instant::now();
        let taken = jobs.into_iter().map(|job| self.hear(job)).filter(|is_taken| *is_taken).count();
        self.slowest = self.slowest.max(start.elapsed());
        taken
    }

    /// Reads the answer to a submission.
    #[track_caller]
    fn hear(&mut self, job: Submission) -> bool {
        match self.client.recv() {
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
            assert_eq!((&unique, &workload), (&job.unique, &job.workload), "{}", text(&handle));
            self.ended.insert(handle, job);
        }
    }

    /// A worker ends all jobs that there are: all that were acknowledged and have not ended, and some of
    /// those that have. Returns how many of these.
    #[track_caller]
    fn work_off(&mut self) -> usize {
        let mut again = 0;
        while let Some(Assigned { handle, unique, workload, .. }) = self.worker.grab() {
            let left = self.left.remove(&handle);
            again += usize::from(left.is_none());
            let job = left.or_else(|| self.ended.remove(&handle));
            let job = job.unwrap_or_else(|| panic!("{} was never taken, or came twice", text(&handle)));
            assert_eq!((unique, workload), (job.unique, job.workload), "{}", text(&handle));
            self.worker.complete();
        }
        assert_eq!(self.left.len(), 0, "acknowledged and lost");
        again
    }
}

fn while_it_runs(database: &mut (impl Database + Send)) {
    let name = "outage";
    let mut scene = Scene::start(&database.debian_options(name));
    scene.submit(300);
    scene.work(50);
    let bystander = Bystander::start(&scene.server);
    let address = scene.server.addr();
    let added = counted(address, "added");
    // In the middle of it, when nobody knows what the database has kept.
    let taken = thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("jobs that are kept", || (counted(address, "added") > added + 1000).then_some(()));
            database.kill();
        });
        let floods = std::iter::repeat_with(|| scene.flood(200)).map_while(|taken| (taken == 200).then_some(taken));
        floods.sum::<usize>()
    });
    println!("{}: {taken} jobs were taken before it was lost", database.word());
    wait_for("a job that is refused", || (!scene.try_submit()).then_some(()));
    for _ in 0..20 {
        assert!(!scene.try_submit(), "acknowledged without a database");
    }
    println!("{}: the slowest refusal took {:?}", database.word(), scene.slowest);
    assert!(scene.slowest < ANSWER, "a submission was answered after {:?}", scene.slowest);
    scene.work(100);
    assert_eq!(shown(address, "state"), "failing");
    let error = shown(address, "error");
    assert!(error.contains(database.word()), "{error}");
    wait_for("the ends of jobs to be owed", || (counted(address, "pending_removals") >= 100).then_some(()));

    database.start_again();
    let start = Instant::now();
    wait_for("a job that is taken", || scene.try_submit().then_some(()));
    println!("{}: service was back {:?} after the database", database.word(), start.elapsed());
    await_shown(address, "state", "ok");
    assert_eq!(shown(address, "error"), "");
    // This is counted a moment later.
    await_shown(address, "pending_removals", "0");
    bystander.finish();
    scene.submit(100);
    scene.work(50);
    wait_for("the database to have what is left", || (database.rows(name) == scene.left.len()).then_some(()));

    scene.server.kill();
    scene.restart();
    assert!(scene.left.len() > 100, "{}", scene.left.len());
    assert_eq!(scene.work_off(), 0, "jobs came back that had ended");
    scene.server.terminate();
    assert_eq!(database.rows(name), 0);
}

/// The server is killed while the database is away, with what it has yet to say.
fn both_are_killed(database: &mut impl Database) {
    let name = "twice";
    let mut scene = Scene::start(&database.debian_options(name));
    scene.submit(100);
    scene.work(10);
    wait_for("the database to have what is left", || (database.rows(name) == 90).then_some(()));
    database.kill();
    scene.work(10);
    assert_eq!(scene.flood(100), 0, "acknowledged without a database");
    scene.server.kill();
    database.start_again();
    scene.restart();
    let again = scene.work_off();
    println!("{}: {again} jobs came twice, since nobody could say that they had ended", database.word());
    assert!(again <= 10, "{again} jobs came back that had ended");
    scene.server.terminate();
    assert_eq!(database.rows(name), 0);
}

/// The database ends the server's connection every second, under load: nobody is refused, nothing is lost,
/// and nothing comes twice.
fn sessions_are_killed(database: &mut (impl Database + Send)) {
    const KILLS: u32 = 5;
    let name = "killed_sessions";
    let mut scene = Scene::start(&database.debian_options(name));
    let address = scene.server.addr();
    scene.submit(100);
    let (kills, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let severing = scope.spawn(|| {
            let mut next = Instant::now();
            while kills.load(Ordering::SeqCst) < KILLS && !is_over.load(Ordering::SeqCst) {
                database.sever();
                let added = counted(address, "added");
                kills.fetch_add(1, Ordering::SeqCst);
                next += Duration::from_secs(1);
                thread::sleep(next.saturating_duration_since(Instant::now()));
                // The next one must not meet the same transaction, however long that takes: more than one
                // flood is kept before.
                wait_for("jobs that are kept after that", || {
                    let is_last = kills.load(Ordering::SeqCst) == KILLS || is_over.load(Ordering::SeqCst);
                    (is_last || counted(address, "added") > added + 200).then_some(())
                });
            }
        });
        while kills.load(Ordering::SeqCst) < KILLS && !severing.is_finished() {
            let taken = scene.flood(200);
            if taken < 200 {
                is_over.store(true, Ordering::SeqCst);
                panic!("{} of 200 jobs were refused: {}", 200 - taken, scene.server.log());
            }
            scene.work(150);
        }
    });
    println!("{}: the slowest answer took {:?}", database.word(), scene.slowest);
    await_shown(address, "state", "ok");
    assert_eq!(counted(address, "failures"), 0);
    wait_for("the database to have what is left", || (database.rows(name) == scene.left.len()).then_some(()));
    scene.server.kill();
    scene.restart();
    assert_eq!(scene.work_off(), 0, "jobs came back that had ended");
}

/// The database has kept jobs, and could not say so: they are kept once.
fn answers_are_lost(database: &impl Database) {
    let name = "lossy";
    let (lossy, options) = Lossy::before(&database.debian_options(name));
    let mut scene = Scene::start(&options);
    scene.submit(10);
    lossy.lose();
    let job = scene.next_job();
    scene.client.send_raw(&job.request());
    wait_for("the database to keep the job", || (database.rows(name) == 11).then_some(()));
    lossy.cut();
    assert!(scene.hear(job), "refused though the database is there");
    scene.work(5);
    assert!(scene.try_submit());
    wait_for("the database to have what is left", || (database.rows(name) == scene.left.len()).then_some(()));
    scene.server.kill();
    scene.restart();
    assert_eq!(scene.work_off(), 0, "jobs came back that had ended");
}

/// A workload that only the database has is shown, and without its answer everything else is, soon.
fn who_looks_does_not_wait_for_long(database: &impl Database) {
    let name = "looked_at";
    let (lossy, options) = Lossy::before(&database.debian_options(name));
    let server = Server::ours(&[&words(&options)[..], &["--max-workload-memory", "1MiB"]].concat());
    let mut client = Wire::connect(server.addr());
    let jobs: Vec<Submission> = (0..1500).map(|serial| job(FUNCTION, &format!("u{serial}"), &[b'x'; 1024])).collect();
    let last = text(submit(&mut client, &jobs).last().expect("a handle"));
    let show = || {
        let before = Instant::now();
        let answer = Wire::connect(server.addr()).text(&format!("show job {last}"));
        assert!(answer.starts_with(&format!("handle\t{last}\n")) && before.elapsed() < ANSWER, "{answer}");
        answer
    };
    let shown = wait_for("the workload", || Some(show()).filter(|shown| shown.contains("\nbytes\t1024\n")));
    assert!(shown.contains("\nbytes\t1024\npreview\txxxx"), "{shown}");
    lossy.lose();
    client.send_raw(&job(FUNCTION, "one more", b"w").request());
    wait_for("the database to keep the job", || (database.rows(name) == jobs.len() + 1).then_some(()));
    let shown = show();
    assert!(shown.contains("\nbytes\t-\npreview\t-\n"), "{shown}");
    // More of those who look than are let wait are answered all the same.
    thread::scope(|scope| (0..100).for_each(|_| drop(scope.spawn(show))));
    lossy.cut();
    client.expect_type(packet::JOB_CREATED);
    let shown = wait_for("the workload", || Some(show()).filter(|shown| shown.contains("\nbytes\t1024\n")));
    assert!(shown.contains("\npreview_truncated\t"), "{shown}");
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
    both_are_killed(&mut database);
    sessions_are_killed(&mut database);
    answers_are_lost(&database);
    who_looks_does_not_wait_for_long(&database);
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
