//! A disk without room: jobs that are queued are handed out and removed, and it comes out of that by itself.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::disks::Disk;
use crate::common::packet::{self, body};
use crate::common::{Program, Server, Wire, wait_for};
use crate::shim::{Class, Shim};

const FUNCTION: &[u8] = b"large";
/// The size of a job's workload.
const BYTES: usize = 100_000;
/// Space that comes back is noticed within this time: up to 4 s until the store is tried again, and the
/// attempt, which takes a busy disk some seconds. A store that waits for the end of its trial takes 30 s.
const NOTICED: Duration = Duration::from_secs(10);
/// So much of the workloads is in memory: most jobs have to be read from the disk.
const LITTLE_MEMORY: [&str; 2] = ["--max-workload-memory", "1MiB"];

/// A server, its client and its worker.
struct Scene {
    server: Server,
    client: Wire,
    worker: Wire,
    serial: u32,
}

impl Scene {
    fn start(arguments: &[&str], environment: &[(String, String)]) -> Self {
        let server = Server::ours_with(arguments, environment);
        let (client, worker) = Self::connect(&server);
        Self { server, client, worker, serial: 0 }
    }

    fn on(disk: &Disk, options: &[&str]) -> Self {
        let database = disk.database().display().to_string();
        let arguments = [&["-q", "libsqlite3", "--libsqlite3-db", &database], options].concat();
        Self::start(&arguments, &[])
    }

    fn connect(server: &Server) -> (Wire, Wire) {
        let (client, mut worker) = (Wire::connect(server.addr()), Wire::connect(server.addr()));
        worker.send(packet::CAN_DO, FUNCTION);
        (client, worker)
    }

    /// Stops it in order, and starts it again.
    fn restart(&mut self) {
        assert!(self.server.terminate().success());
        self.server.restart();
        (self.client, self.worker) = Self::connect(&self.server);
    }

    /// Submits a job; whether it was taken. If not, it was for want of room.
    #[track_caller]
    fn submit(&mut self) -> bool {
        let refusal = self.try_submit();
        assert!(refusal.as_deref().is_none_or(|text| text.contains("full")), "{refusal:?}");
        refusal.is_none()
    }

    /// Submits a job; the text of the error where it was refused.
    #[track_caller]
    fn try_submit(&mut self) -> Option<String> {
        self.try_submit_of(BYTES)
    }

    #[track_caller]
    fn try_submit_of(&mut self, bytes: usize) -> Option<String> {
        self.serial += 1;
        let mut workload = self.serial.to_be_bytes().to_vec();
        workload.resize(bytes, b'x');
        self.client.send(packet::SUBMIT_JOB_BG, &body(&[FUNCTION, b"", &workload]));
        match self.client.recv() {
            (packet::JOB_CREATED, _) => None,
            (packet::ERROR, text) => Some(String::from_utf8_lossy(&text).into_owned()),
            (other, _) => panic!("a submission was answered with type {other}"),
        }
    }

    /// Submits until there is no room; how many were taken.
    #[track_caller]
    fn submit_all(&mut self) -> usize {
        let mut taken = 0;
        while self.submit() {
            taken += 1;
        }
        assert!(taken > 50, "only {taken} jobs fitted");
        taken
    }

    /// Takes a job and ends it, where there is one.
    #[track_caller]
    fn work_one(&mut self) -> bool {
        self.worker.send(packet::GRAB_JOB, b"");
        let (kind, assigned) = self.worker.recv();
        if kind == packet::NO_JOB {
            return false;
        }
        assert_eq!(kind, packet::JOB_ASSIGN);
        let handle = assigned.split(|byte| *byte == 0).next().expect("a handle");
        assert!(assigned.ends_with(b"xxxx"), "the workload is not as it was");
        self.worker.send(packet::WORK_COMPLETE, &body(&[handle, b""]));
        true
    }

    /// Ends so many jobs: each comes within the time that a test waits.
    #[track_caller]
    fn work(&mut self, jobs: usize) {
        for job in 0..jobs {
            wait_for(&format!("job {job} of {jobs}"), || self.work_one().then_some(()));
        }
        assert!(!self.work_one(), "there is a job that nobody submitted");
    }

    #[track_caller]
    fn shown(&self, key: &str) -> String {
        let answer = Wire::connect(self.server.addr()).text("show store");
        let value = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
        value.unwrap_or_else(|| panic!("no {key} in {answer}")).to_owned()
    }

    #[track_caller]
    fn await_shown(&self, key: &str, value: &str) {
        wait_for(&format!("{key} {value}"), || (self.shown(key) == value).then_some(()));
    }

    /// All that was logged before: the log has a thread of its own, which may be behind. It writes in order.
    #[track_caller]
    fn whole_log(&self) -> String {
        let last_lines = |log: &str| log.matches("SIGHUP, reopening log file").count();
        let before = last_lines(&self.server.log());
        self.server.signal(Signal::SIGHUP);
        wait_for("the last line of the log", || {
            let log = self.server.log();
            (last_lines(&log) > before).then_some(log)
        })
    }

    /// Jobs are taken again, soon, and the store is well.
    #[track_caller]
    fn expect_room(&mut self) {
        let start = Instant::now();
        wait_for("room for a job", || self.try_submit().is_none().then_some(()));
        let took = start.elapsed();
        assert!(took < NOTICED, "room was noticed after {took:?}");
        self.await_shown("state", "ok");
        self.await_shown("pending_removals", "0");
        wait_for("a reserve", || (self.shown("reserve_bytes") != "0").then_some(()));
    }
}

/// Another program reads for long: the log of the WAL's size has a line, and `show store` has the size.
#[test]
fn a_write_ahead_log_that_cannot_begin_anew_is_warned_of() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let database = home.path().join("queue.sqlite3");
    let options = ["-q", "libsqlite3", "--verbose", "WARNING", "--durability", "off", "--libsqlite3-db"];
    let mut scene = Scene::start(&[&options[..], &[&database.display().to_string()]].concat(), &[]);
    assert!(scene.submit());
    let mut reader = Program::start(Command::new("sqlite3").arg("-batch").arg(&database));
    reader.send_line("BEGIN; SELECT count(*) FROM gearman_queue;");
    reader.expect_line("1");
    let workload = vec![b'x'; 8 << 20];
    for _ in 0..33 {
        scene.client.send(packet::SUBMIT_JOB_BG, &body(&[FUNCTION, b"", &workload]));
        scene.client.expect_type(packet::JOB_CREATED);
    }
    wait_for("a line of the log", || {
        let log = scene.server.log();
        log.lines().any(|line| line.contains("write-ahead log of the store has 2")).then_some(())
    });
    let bytes: u64 = scene.shown("wal_bytes").parse().expect("a count");
    assert!(bytes > 256 << 20, "{bytes}");
    reader.kill();
}

/// Fills a disk with jobs, and lets a worker end them all.
#[track_caller]
fn fills_and_drains(disk: &Disk, options: &[&str]) {
    let mut scene = Scene::on(disk, options);
    let mut least = usize::MAX;
    for round in 0..2 {
        let jobs = scene.submit_all();
        println!("round {round}: {jobs} jobs");
        // Each time there is about as much room as before.
        assert!(jobs >= least.min(jobs * 2) / 2);
        least = least.min(jobs);
        assert_eq!(scene.shown("jobs"), jobs.to_string());
        scene.work(jobs);
        scene.expect_room();
        scene.work(1);
    }
    scene.await_shown("pending_removals", "0");
    scene.restart();
    assert!(!scene.work_one(), "a job that has ended runs again");
    assert_eq!(scene.shown("jobs"), "0");
    assert!(!scene.server.log().contains("will run again"), "{}", scene.server.log());
    let jobs = scene.submit_all();
    scene.restart();
    scene.work(jobs);
    scene.restart();
    assert!(!scene.work_one(), "a job that has ended runs again");
}

#[test]
fn a_small_disk_in_memory_is_drained() {
    fills_and_drains(&Disk::tmpfs(), &LITTLE_MEMORY);
}

#[test]
fn a_small_disk_is_drained() {
    fills_and_drains(&Disk::ext4(), &[]);
    fills_and_drains(&Disk::ext4(), &LITTLE_MEMORY);
}

/// Another program takes the last byte, `times` over: also what is given back meanwhile. All jobs end, and
/// once there is room again it is noticed.
#[track_caller]
fn is_filled_by_another_program(disk: &Disk, times: usize) {
    let mut scene = Scene::on(disk, &LITTLE_MEMORY);
    for _ in 0..40 {
        assert!(scene.submit());
    }
    for _ in 0..times {
        disk.fill();
        wait_for("a job that is refused", || (!scene.submit()).then_some(()));
    }
    let taken = scene.shown("jobs").parse().expect("a count");
    scene.work(taken);
    scene.await_shown("pending_removals", "0");
    // There may be room again within the queue's own file.
    disk.relieve();
    scene.expect_room();
    scene.work(1);
    scene.restart();
    assert!(!scene.work_one(), "a job that has ended runs again");
}

#[test]
fn a_disk_that_another_program_fills_is_drained() {
    for times in [1, 3] {
        is_filled_by_another_program(&Disk::tmpfs(), times);
        is_filled_by_another_program(&Disk::ext4(), times);
    }
}

/// Jobs are handed out though they cannot be removed at all, and the log says how many will run again.
#[test]
fn jobs_that_cannot_be_removed_are_counted_in_the_log() {
    let shim = Shim::new();
    let arguments = shim.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(LITTLE_MEMORY).collect();
    let mut scene = Scene::start(&arguments, &shim.environment());
    for _ in 0..40 {
        assert!(scene.submit());
    }
    for class in [Class::Write, Class::Resize] {
        shim.fail(class, 1, Errno::ENOSPC as i32);
    }
    scene.work(40);
    scene.await_shown("pending_removals", "40");
    scene.await_shown("state", "failing");
    assert!(!scene.submit());
    assert!(scene.server.terminate().success());
    let log = scene.server.log();
    assert!(log.contains("40 finished jobs will run again"), "{log}");
    assert!(log.contains("stopping; 40 jobs are kept for the next start, 40 of them finished"), "{log}");
    shim.heal();
    scene.server.restart();
    (scene.client, scene.worker) = Scene::connect(&scene.server);
    scene.work(40);
    scene.restart();
    assert!(!scene.work_one(), "a job that has ended runs again");
}

/// Nothing is asked of a server whose file has gone: it tells all the same, and at the end how many jobs are
/// lost.
#[test]
fn a_file_that_is_gone_is_told_of_by_an_idle_server_and_at_the_end() {
    for (is_cut, is_worked_off) in [(false, false), (true, false), (false, true)] {
        let home = tempfile::tempdir().expect("a temporary directory");
        let database = home.path().join("queue.sqlite3");
        let mut scene = Scene::start(&["-q", "libsqlite3", "--libsqlite3-db", &database.display().to_string()], &[]);
        for _ in 0..5 {
            assert!(scene.submit());
        }
        if is_cut {
            File::create(&database).expect("a file");
        } else {
            fs::remove_file(&database).expect("a file to remove");
        }
        scene.await_shown("state", "failing");
        let log = scene.whole_log();
        assert!(log.contains(if is_cut { "was truncated" } else { "before you stop the server" }), "{log}");
        if is_worked_off {
            scene.work(5);
        }
        assert!(scene.server.terminate().success());
        let log = scene.server.log();
        assert_eq!(log.contains("5 acknowledged jobs are lost"), !is_worked_off, "{log}");
        assert!(!log.contains("kept for the next start") && !log.contains("run again"), "{log}");
    }
}

/// How many lines of a log have these words.
fn count_lines(log: &str, words: &str) -> usize {
    log.lines().filter(|line| line.contains(words)).count()
}

/// A store without room for small jobs is full, and tells so once; it is well again once there is room for
/// more than one.
#[test]
fn a_disk_without_room_for_small_jobs_is_full() {
    for disk in [Disk::tmpfs(), Disk::ext4()] {
        let mut scene = Scene::on(&disk, &LITTLE_MEMORY);
        let mut jobs = scene.submit_all();
        for bytes in [10_000, 1000, 50] {
            while scene.try_submit_of(bytes).is_none() {
                jobs += 1;
            }
            scene.await_shown("state", "failing");
            assert!(scene.shown("error").contains("the disk is full"), "{}", scene.shown("error"));
        }
        let log = scene.whole_log();
        assert_eq!(count_lines(&log, "the store is failing"), 1, "{log}");
        // Each job that ends is replaced at once where there is room.
        for _ in 0..jobs {
            wait_for("a job", || scene.work_one().then_some(()));
            scene.submit();
        }
        let log = scene.whole_log();
        let (fails, works) = (count_lines(&log, "the store is failing"), count_lines(&log, "the store works again"));
        assert!(fails <= 4 && works <= 4, "{log}");
        while scene.work_one() {}
        scene.expect_room();
    }
}

/// Nothing more is asked of a server whose queue was drained on a full disk: it has its reserve again once
/// there is room.
#[test]
fn the_reserve_is_made_again_while_nothing_is_asked() {
    let disk = Disk::tmpfs();
    let mut scene = Scene::on(&disk, &LITTLE_MEMORY);
    for _ in 0..40 {
        assert!(scene.submit());
    }
    for _ in 0..3 {
        disk.fill();
        wait_for("a job that is refused", || (!scene.submit()).then_some(()));
    }
    let taken = scene.shown("jobs").parse().expect("a count");
    scene.work(taken);
    disk.relieve();
    scene.await_shown("state", "ok");
    wait_for("a reserve", || (scene.shown("reserve_bytes") != "0").then_some(()));
}

#[test]
fn a_reserve_larger_than_the_disk_is_a_quarter_of_it() {
    let disk = Disk::tmpfs();
    let mut scene = Scene::on(&disk, &["--store-reserve", "100MiB", "--verbose", "WARNING"]);
    assert!(scene.submit());
    let log = scene.whole_log();
    assert_eq!(count_lines(&log, "--store-reserve asks for 100 MiB"), 1, "{log}");
    scene.await_shown("reserve_bytes", &(6 << 20).to_string());
    scene.work(1);
}

/// What cannot be written is read all the same, and jobs are removed once it can.
#[track_caller]
fn is_read_while_it_cannot_be_written(error: Errno, words: &str) {
    let shim = Shim::new();
    let arguments = shim.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(LITTLE_MEMORY).collect();
    let mut scene = Scene::start(&arguments, &shim.environment());
    for _ in 0..40 {
        assert!(scene.submit());
    }
    for class in [Class::Write, Class::Open, Class::Resize] {
        shim.fail(class, 1, error as i32);
    }
    let refused = scene.try_submit().expect("a job was taken that cannot be written");
    assert!(refused.contains(words), "{refused}");
    scene.work(40);
    scene.await_shown("state", "failing");
    assert_eq!(scene.shown("jobs"), "0");
    shim.heal();
    scene.expect_room();
    scene.work(1);
    scene.restart();
    assert!(!scene.work_one(), "a job that has ended runs again");
}

#[test]
fn a_file_system_that_is_read_only_is_read() {
    is_read_while_it_cannot_be_written(Errno::EROFS, "read");
}

#[test]
fn a_quota_that_is_reached_is_a_full_disk() {
    is_read_while_it_cannot_be_written(Errno::EDQUOT, "full");
}
