//! Crowds that ask for listings. A listing of a million jobs is long, and asking for it is not.
//!
//! With GEARMAND_FULL_SIZE=1 each attack has the size that a server must survive; without, one that a test
//! run has time for.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{DEADLINE, Wire, packet, packet::body, packet::request, wait_for};
use crate::watched::{HEAP_KIB, RETAINED_KIB, Watched, serve_a_job};

/// How many jobs one write submits.
const BATCH: usize = 1_000;

fn sized(reduced: usize, full: usize) -> usize {
    if std::env::var_os("GEARMAND_FULL_SIZE").is_some() { full } else { reduced }
}

/// Queues background jobs.
fn queue(server: &Watched, jobs: usize) {
    let mut client = server.connect();
    let submit = request(packet::SUBMIT_JOB_BG, &body(&[b"waiting", b"", b""])).repeat(BATCH);
    for _ in 0..jobs / BATCH {
        client.send_raw(&submit);
        (0..BATCH).for_each(|_| drop(client.expect_type(packet::JOB_CREATED)));
    }
}

/// A client and a worker who do one foreground job after the other.
struct Honest {
    client: Wire,
    worker: Wire,
}

impl Honest {
    fn new(server: &Watched) -> Self {
        let (mut client, mut worker) = (server.connect(), server.connect());
        serve_a_job(&mut client, &mut worker, b"good");
        Self { client, worker }
    }

    /// How long each job took, of those that are done in this time.
    fn work(&mut self, time: Duration) -> Vec<Duration> {
        let (began, mut took) = (Instant::now(), Vec::new());
        while began.elapsed() < time {
            let start = Instant::now();
            self.do_a_job();
            took.push(start.elapsed());
        }
        took.sort();
        took
    }

    fn do_a_job(&mut self) {
        let Self { client, worker } = self;
        worker.send(packet::PRE_SLEEP, b"");
        client.send(packet::SUBMIT_JOB, &body(&[b"good", b"", b"workload"]));
        let handle = client.expect_type(packet::JOB_CREATED);
        worker.expect(packet::NOOP, b"");
        worker.send(packet::GRAB_JOB, b"");
        worker.expect(packet::JOB_ASSIGN, &body(&[&handle, b"good", b"workload"]));
        worker.send(packet::WORK_COMPLETE, &body(&[&handle, b"result"]));
        client.expect(packet::WORK_COMPLETE, &body(&[&handle, b"result"]));
    }
}

/// How long the server made somebody wait with what it did meanwhile. A busy machine gives it no time for a
/// while, and then it does nothing; but also in all nobody waits for long.
fn waited<T>(server: &Watched, act: impl FnOnce() -> T) -> (Duration, T) {
    const IN_ALL: Duration = Duration::from_secs(2);
    let (start, used) = (Instant::now(), server.cpu());
    let done = act();
    let took = start.elapsed();
    assert!(took < IN_ALL, "an answer took {took:?}");
    (took.min(server.cpu().saturating_sub(used)), done)
}

fn figures(what: &str, took: &[Duration], time: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "for people to read")]
    let rate = took.len() as f64 / time.as_secs_f64();
    let at = |part: usize| took.get(took.len() * part / 1000).or(took.last()).copied().unwrap_or(time);
    eprintln!("{what}: {rate:.0} jobs/s, p50 {:?}, p99 {:?}, p99.9 {:?}", at(500), at(990), at(999));
    rate
}

/// A thousand connections ask for all jobs at once, and read what they get. Others go on working at nearly
/// their pace, short questions are answered at once, and in the end every listing is complete.
pub(crate) fn long_listings_at_once() {
    let (jobs, crowd) = (sized(20_000, 1_000_000), sized(60, 1_000));
    let time = Duration::from_secs(if sized(0, 1) == 0 { 2 } else { 15 });
    let server = Watched::start(&[]);
    let mut honest = Honest::new(&server);
    queue(&server, jobs);
    let with_jobs = server.grown_kib();
    let calm = figures("calm", &honest.work(time), time);
    let lists: Vec<Wire> = (0..crowd).map(|_| server.connect()).collect();
    let (is_over, read, complete) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let attacked = std::thread::scope(|scope| {
        let (is_over, read, complete) = (&is_over, &read, &complete);
        scope.spawn(move || read_listings(lists, jobs, is_over, read, complete));
        // Not before listings are under way.
        wait_for("the first listing", || (read.load(Ordering::Relaxed) > 0).then_some(()));
        let attacked = figures("while they list", &honest.work(time), time);
        let mut short = server.connect();
        let (took, status) = waited(&server, || short.text("status"));
        eprintln!(
            "status took {took:?}, {} MB and {} listings read",
            read.load(Ordering::Relaxed) >> 20,
            complete.load(Ordering::Relaxed)
        );
        assert!(status.ends_with("\n.\n") && status.contains("good\t0\t0\t1\n"), "{status}");
        assert!(took < Duration::from_millis(300), "a short answer took {took:?}");
        if sized(0, 1) == 0 {
            wait_for("all listings", || (complete.load(Ordering::Relaxed) == crowd).then_some(()));
        }
        is_over.store(true, Ordering::Relaxed);
        attacked
    });
    // The machine may have got other work meanwhile, of which the attack is not the cause.
    let calm = calm.min(figures("calm again", &honest.work(time), time));
    // An optimised build on a quiet machine has 0.75; a loaded one takes from both.
    assert!(attacked >= 0.4 * calm, "{attacked:.0} jobs/s, and {calm:.0} in calm");
    drop(honest);
    assert_eq!(server.connect().text("cancel jobs waiting"), format!("OK {jobs}\r\n"));
    server.assert_recovered(RETAINED_KIB + HEAP_KIB + with_jobs);
}

/// Sends `list jobs` on each connection, and reads all of them in turn, until each has had its last line or
/// it is over.
fn read_listings(lists: Vec<Wire>, jobs: usize, is_over: &AtomicBool, read: &AtomicUsize, complete: &AtomicUsize) {
    struct Reader {
        wire: Wire,
        lines: usize,
        last: [u8; 3],
        is_complete: bool,
    }
    let mut readers: Vec<Reader> =
        lists.into_iter().map(|wire| Reader { wire, lines: 0, last: [0; 3], is_complete: false }).collect();
    for reader in &mut readers {
        reader.wire.send_raw(b"list jobs\n");
        reader.wire.stream().set_nonblocking(true).expect("no waiting");
    }
    let mut buffer = vec![0; 256 * 1024];
    while !is_over.load(Ordering::Relaxed) && readers.iter().any(|reader| !reader.is_complete) {
        let mut is_idle = true;
        for reader in readers.iter_mut().filter(|reader| !reader.is_complete) {
            let Ok(size) = reader.wire.stream().read(&mut buffer) else { continue };
            assert!(size > 0, "a listing ends after {} lines", reader.lines);
            is_idle = false;
            let bytes = &buffer[..size];
            read.fetch_add(size, Ordering::Relaxed);
            reader.lines += bytes.split(|byte| *byte == b'\n').count() - 1;
            let end: Vec<u8> = reader.last.iter().chain(bytes).copied().collect();
            reader.last.copy_from_slice(&end[end.len() - 3..]);
            if reader.last == *b"\n.\n" {
                assert!(
                    reader.lines >= jobs + 2,
                    "{} lines, with column names and a dot, for {jobs} jobs",
                    reader.lines
                );
                reader.is_complete = true;
                complete.fetch_add(1, Ordering::Relaxed);
            }
        }
        if is_idle {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Hundreds ask for the status of very many functions, while functions come and go. Nobody else waits for
/// them, there is no copy of the functions for each, and each answer is in order, has all that were there,
/// and ends with its dot.
pub(crate) fn status_of_many_functions_at_once() {
    let (functions, crowd) = (sized(10_000, 99_000), sized(60, 400));
    let server = Watched::start(&[]);
    let mut owner = server.connect();
    for batch in 0..functions / BATCH {
        let names = (0..BATCH).map(|name| format!("function {:06}", batch * BATCH + name));
        owner.send_raw(&names.flat_map(|name| request(packet::CAN_DO, name.as_bytes())).collect::<Vec<u8>>());
        owner.expect_nothing();
    }
    let mut honest = Honest::new(&server);
    let time = Duration::from_secs(1);
    figures("calm", &honest.work(time), time);
    let with_functions = server.grown_kib();
    server.reset_peak();
    let (done, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let mut lists: Vec<Wire> = (0..crowd).map(|_| server.connect()).collect();
        for wire in &mut lists {
            wire.send_raw(b"status\n");
        }
        let (done, is_over, server) = (&done, &is_over, &server);
        scope.spawn(move || {
            let mut changing = server.connect();
            while !is_over.load(Ordering::Relaxed) {
                for name in ["a new one", "function 000000 and more", "the last"] {
                    changing.send(packet::CAN_DO, name.as_bytes());
                    changing.send(packet::CANT_DO, name.as_bytes());
                    changing.expect_nothing();
                    changing.text(&format!("drop function {}", name.replace(' ', "\\x20")));
                }
            }
        });
        scope.spawn(move || {
            for wire in &lists {
                check_status(wire, functions);
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        let began = Instant::now();
        let mut took = Vec::new();
        while done.load(Ordering::Relaxed) < crowd && began.elapsed() < DEADLINE {
            took.push(waited(server, || honest.do_a_job()).0);
        }
        is_over.store(true, Ordering::Relaxed);
        took.sort();
        figures("while they ask", &took, began.elapsed());
        let longest = took[took.len() - 1];
        assert!(longest < Duration::from_millis(500), "a job took {longest:?}");
    });
    assert_eq!(done.into_inner(), crowd, "answers that came in time");
    // What a connection has at most is one piece of its answer.
    let peak = server.peak_kib().saturating_sub(with_functions);
    eprintln!("{peak} KiB at most");
    let allowed = crowd as u64 * 100 + 4 * 1024;
    assert!(peak <= allowed, "{peak} KiB for {crowd} answers; {allowed} are allowed");
    drop((honest, owner));
    server.assert_recovered(RETAINED_KIB + HEAP_KIB + with_functions);
}

fn check_status(wire: &Wire, functions: usize) {
    let mut names = Vec::new();
    for line in BufReader::with_capacity(1 << 18, wire.stream()).lines() {
        let line = line.expect("a line of the status");
        if line == "." {
            break;
        }
        let name = line.split('\t').next().expect("a name").to_owned();
        assert_eq!(line.split('\t').count(), 4, "{line}");
        names.push(name);
    }
    assert!(names.is_sorted_by(|before, after| before < after), "functions in no order");
    let known = names.iter().filter(|name| name.len() == "function 000000".len() && name.starts_with("function "));
    assert_eq!(known.count(), functions, "functions that were there all the time");
}

/// Each of a crowd sends a few bytes, and reads nothing of the long answer: it is made no further than one
/// piece ahead.
pub(crate) fn listings_of_one_command_never_read() {
    let (jobs, crowd) = (sized(100_000, 1_000_000), sized(16, 60));
    let server = Watched::start(&[]);
    let mut client = server.connect();
    for batch in 0..jobs / BATCH {
        let unique = |job: usize| format!("a unique id as long as they may be: {:028}", batch * BATCH + job);
        let submit = |job| request(packet::SUBMIT_JOB_BG, &body(&[b"waiting", unique(job).as_bytes(), b""]));
        client.send_raw(&(0..BATCH).flat_map(submit).collect::<Vec<u8>>());
        (0..BATCH).for_each(|_| drop(client.expect_type(packet::JOB_CREATED)));
    }
    let with_jobs = server.grown_kib();
    server.reset_peak();
    let commands = ["show unique jobs", "show jobs", "list jobs", "list jobs function=waiting"];
    let silent: Vec<Wire> = (0..crowd)
        .map(|index| {
            let mut wire = server.connect();
            // Nothing of it fits into the socket's buffers any more.
            wire.send_raw(format!("{}\n", commands[index % commands.len()]).repeat(20).as_bytes());
            wire
        })
        .collect();
    // It rests once no answer can go on: what the kernel takes is full.
    wait_for("rest", || {
        let before = server.cpu();
        std::thread::sleep(Duration::from_millis(200));
        (server.cpu().saturating_sub(before) < Duration::from_millis(2)).then_some(())
    });
    server.serve_a_job();
    let peak = server.peak_kib().saturating_sub(with_jobs);
    eprintln!("{peak} KiB for {crowd} that read nothing");
    // A piece, its last line, and what the allocator rounds up.
    let allowed = crowd as u64 * 160 + RETAINED_KIB;
    assert!(peak <= allowed, "{peak} KiB; {allowed} are allowed");
    drop(silent);
    assert_eq!(client.text("cancel jobs waiting"), format!("OK {jobs}\r\n"));
    drop(client);
    server.assert_recovered(RETAINED_KIB + HEAP_KIB + with_jobs);
}
