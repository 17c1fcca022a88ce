//! Requests that cost much, by those who send them without end: others are served meanwhile.
//!
//! With `HOSTILE_FULL=1` the sizes are those that an attacker would choose, and the bar is the one
//! for an optimised server on a machine that does nothing else.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::Wire;
use crate::common::packet::{self, body, request};
use crate::functions::ask_until;
use crate::watched::{Watched, serve_a_job};

/// How long an attack that has no end of its own goes on.
const ATTACK: Duration = Duration::from_secs(2);
/// As many requests as one read of the server holds.
const A_READ: usize = 1_024;

fn is_full() -> bool {
    std::env::var_os("HOSTILE_FULL").is_some()
}

/// The size of an attack, or that for every day.
fn size(full: usize, reduced: usize) -> usize {
    if is_full() { full } else { reduced }
}

/// Serves an honest client and worker while `attack` goes on, and checks how long each echo and each
/// foreground job took.
fn serve_meanwhile(what: &str, server: &Watched, attack: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    let mut took = std::thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let (mut client, mut worker) = (server.connect(), server.connect());
            let mut took = Vec::new();
            while !is_over.load(Ordering::Relaxed) || took.len() < 20 {
                let start = Instant::now();
                client.expect_nothing();
                took.push(start.elapsed());
                let start = Instant::now();
                serve_a_job(&mut client, &mut worker, b"good");
                // Six round trips.
                took.push(start.elapsed() / 6);
            }
            took
        });
        attack();
        is_over.store(true, Ordering::Relaxed);
        honest.join().expect("the honest ones are served")
    });
    took.sort();
    let (count, longest) = (took.len(), took[took.len() - 1]);
    let (median, tail) = (took[count / 2], took[count - 1 - count / 1000]);
    eprintln!("{what}: {count} round trips, median {median:?}, p99.9 {tail:?}, longest {longest:?}");
    if is_full() {
        assert!(tail <= Duration::from_millis(50), "{what}: p99.9 {tail:?}");
    } else {
        // The machine may be busy, and the server is not optimised.
        assert!(median <= Duration::from_millis(200) && longest <= Duration::from_secs(3), "{what}: {took:?}");
    }
}

/// So many connections send the same requests again and again, and read what is answered.
fn flood(crowd: &[Wire], asked: &[u8]) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for wire in crowd {
            let mut stream: TcpStream = wire.stream().try_clone().expect("a second handle");
            let is_over = &is_over;
            scope.spawn(move || ask_until(is_over, &mut stream, asked));
        }
        std::thread::sleep(ATTACK);
        is_over.store(true, Ordering::Relaxed);
    });
}

/// One who offers so many functions.
fn worker(server: &Watched, functions: usize) -> Wire {
    let mut wire = server.connect();
    let names: Vec<u8> =
        (0..functions).flat_map(|name| request(packet::CAN_DO, format!("{name}").as_bytes())).collect();
    wire.send_raw(&names);
    wire.expect_nothing();
    wire
}

fn grab(wire: &mut Wire) -> Vec<u8> {
    wire.send(packet::GRAB_JOB, b"");
    let assigned = wire.expect_type(packet::JOB_ASSIGN);
    assigned.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// Three clients wait for one job as often as they may, others each a few times, and its worker reports its
/// progress.
pub(crate) fn results_to_very_many_waits() {
    let server = Watched::start(&["--max-packet-size", "4M", "--max-output-buffer", "4M"]);
    let submissions = size(1_000_000, 20_000);
    let submit = request(packet::SUBMIT_JOB, &body(&[b"wanted", b"one", b""]));
    let mut worker = server.connect();
    worker.send(packet::CAN_DO, b"wanted");
    let mut clients: Vec<Wire> = (0..size(40, 10)).map(|_| server.connect()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        let count = if index < 3 { submissions } else { 1_000 };
        let mut stream = client.stream().try_clone().expect("a second handle");
        let submit = &submit;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..count / 1_000 {
                    stream.write_all(&submit.repeat(1_000)).expect("submit");
                }
            });
            for answer in 0..count {
                let (answered, _) = client.recv();
                let is_accepted = answered == packet::JOB_CREATED;
                assert!(is_accepted == (answer < 1_000), "submission {answer} was answered with {answered}");
            }
        });
    }
    let handle = grab(&mut worker);
    serve_meanwhile("results to very many waits", &server, || {
        let status = request(packet::WORK_STATUS, &body(&[&handle, b"1", b"2"]));
        worker.send_raw(&status.repeat(A_READ));
        worker.expect_nothing();
        worker.send(packet::WORK_COMPLETE, &body(&[&handle, b"done"]));
        worker.expect_nothing();
    });
    drop((clients, worker));
    server.await_departures();
    server.serve_a_job();
}

/// One rule for all workers, made and lifted without end.
pub(crate) fn rules_for_many_workers() {
    let server = Watched::start(&[]);
    let crowd: Vec<Wire> = (0..size(5_000, 300)).map(|_| worker(&server, 10)).collect();
    let mut operator = server.connect();
    serve_meanwhile("rules for many workers", &server, || {
        let start = Instant::now();
        while start.elapsed() < ATTACK {
            for line in ["disable host:127.0.0.1 7", "enable host:127.0.0.1 7"] {
                let answer = operator.text(line);
                assert!(answer.starts_with("OK"), "{line}: {answer}");
            }
        }
    });
    drop(crowd);
}

/// Workers with many functions ask, sleep and are woken without end, while many functions have jobs.
pub(crate) fn many_workers_with_many_functions() {
    let server = Watched::start(&[]);
    let (workers, functions) = (size(300, 20), size(1_000, 300));
    let mut client = server.connect();
    for function in 0..functions {
        client.send(packet::SUBMIT_JOB_BG, &body(&[format!("not {function}").as_bytes(), b"", b""]));
        client.expect_type(packet::JOB_CREATED);
    }
    let crowd: Vec<Wire> = (0..workers).map(|_| worker(&server, functions)).collect();
    let asked = [request(packet::PRE_SLEEP, b""), request(packet::GRAB_JOB, b"")].concat().repeat(A_READ / 2);
    serve_meanwhile("many workers with many functions", &server, || flood(&crowd, &asked));
}

/// One with as many functions as there may be sleeps and wakes without end.
pub(crate) fn sleepers_with_very_many_functions() {
    let server = Watched::start(&[]);
    let functions = size(49_000, 4_000);
    let mut client = server.connect();
    for function in 0..functions {
        client.send(packet::SUBMIT_JOB_BG, &body(&[format!("not {function}").as_bytes(), b"", b""]));
        client.expect_type(packet::JOB_CREATED);
    }
    let crowd: Vec<Wire> = (0..3).map(|_| worker(&server, functions)).collect();
    let asked = [request(packet::PRE_SLEEP, b""), request(packet::GRAB_JOB, b"")].concat().repeat(A_READ / 2);
    serve_meanwhile("sleepers with very many functions", &server, || flood(&crowd, &asked));
}

/// One that holds many jobs registers a function, and takes that back, without end.
pub(crate) fn registrations_beside_many_runs() {
    let server = Watched::start(&[]);
    let held = size(10_000, 1_000);
    let mut worker = worker(&server, 1_000);
    let mut client = server.connect();
    worker.send(packet::CAN_DO, b"held");
    for _ in 0..held {
        client.send(packet::SUBMIT_JOB_BG, &body(&[b"held", b"", b""]));
        client.expect_type(packet::JOB_CREATED);
        grab(&mut worker);
    }
    let asked = [request(packet::CAN_DO, b"5"), request(packet::CANT_DO, b"5")].concat().repeat(A_READ / 2);
    serve_meanwhile("registrations beside many runs", &server, || flood(std::slice::from_ref(&worker), &asked));
}

/// Those with many functions give themselves another name without end, and for one of the names there is a
/// rule.
pub(crate) fn names_beside_many_functions() {
    let server = Watched::start(&[]);
    let answer = server.connect().text("disable client:bad");
    assert!(answer.starts_with("OK"), "{answer}");
    let crowd: Vec<Wire> = (0..4).map(|_| worker(&server, size(1_000, 300))).collect();
    let asked = [request(packet::SET_CLIENT_ID, b"good"), request(packet::SET_CLIENT_ID, b"bad")].concat();
    serve_meanwhile("names beside many functions", &server, || flood(&crowd, &asked.repeat(A_READ / 2)));
}
