//! Clients and workers, for a trace that is worth cutting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::common::{Server, Wire, packet, wait_for};
use crate::durable::{Random, Submission};

const FUNCTIONS: &[&str] = &["alpha", "beta-gamma", "delta"];

/// Long after any test.
const DUE_S: u64 = 4_000_000_000;

/// How much is done in one life of a server.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Jobs of each of three clients that send ahead of the answers.
    pub(crate) pipelined: u64,
    /// Jobs of a client that waits for each answer, and cancels some of what it submitted.
    pub(crate) single: u64,
    /// Jobs that each of two workers ends. There must be more ready ones than that.
    pub(crate) ended: u64,
    /// Jobs of a megabyte, to fill SQLite's log until it is moved into the database.
    pub(crate) large: u64,
    /// Whether the store may fail. Then clients wait after a refusal until it says that it is well.
    pub(crate) may_be_refused: bool,
}

/// Numbers for all jobs of one test.
pub(crate) struct Serials(AtomicU64);

impl Serials {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(1))
    }

    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Puts the load on the server, and returns when all of it is answered.
pub(crate) fn run(server: &Server, load: Load, serials: &Serials, random: &mut Random) {
    let seeds: Vec<u64> = (0..6).map(|_| random.next()).collect();
    thread::scope(|scope| {
        for seed in &seeds[..3] {
            scope.spawn(|| pipeline(server, load, serials, Random::new(*seed)));
        }
        scope.spawn(|| one_by_one(server, load, serials, Random::new(seeds[3])));
        for seed in &seeds[4..] {
            scope.spawn(|| work(server, load.ended, Random::new(*seed)));
        }
    });
    let mut client = Wire::connect(server.addr());
    for _ in 0..load.large {
        let mut submission = Submission::any(random, serials.next(), FUNCTIONS, DUE_S);
        submission.workload = format!("{} ", serials.next()).into_bytes();
        submission.workload.resize(1_000_000, 7);
        client.send_raw(&submission.request());
        client.expect_type(packet::JOB_CREATED);
    }
}

fn pipeline(server: &Server, load: Load, serials: &Serials, mut random: Random) {
    const WINDOW: u64 = 16;
    let mut client = Wire::connect(server.addr());
    let (mut sent, mut answered) = (0, 0);
    while answered < load.pipelined {
        let burst = random.below(WINDOW + 1 - (sent - answered)).min(load.pipelined - sent);
        let mut bytes = Vec::new();
        for _ in 0..burst {
            bytes.extend(Submission::any(&mut random, serials.next(), FUNCTIONS, DUE_S).request());
        }
        client.send_raw(&bytes);
        sent += burst;
        let mut is_refused = false;
        for _ in 0..random.below(sent - answered + 1) {
            is_refused |= answer(&mut client, load).is_none();
            answered += 1;
        }
        if is_refused {
            wait_until_well(server);
        }
    }
}

fn one_by_one(server: &Server, load: Load, serials: &Serials, mut random: Random) {
    let mut client = Wire::connect(server.addr());
    let mut operator = Wire::connect(server.addr());
    let mut handles = Vec::new();
    for _ in 0..load.single {
        client.send_raw(&Submission::any(&mut random, serials.next(), FUNCTIONS, DUE_S).request());
        match answer(&mut client, load) {
            Some(handle) => handles.push(handle),
            None => wait_until_well(server),
        }
        if !handles.is_empty() && random.chance(20) {
            let handle = handles.swap_remove(random.index(handles.len()));
            operator.text(&format!("cancel job {handle}"));
        }
    }
}

/// The handle of a job, or `None` if it was refused.
fn answer(client: &mut Wire, load: Load) -> Option<String> {
    let (packet_type, body) = client.recv();
    let text = String::from_utf8(body).expect("a handle or an error");
    match packet_type {
        packet::JOB_CREATED => Some(text),
        packet::ERROR if load.may_be_refused && text.starts_with("QUEUE_ERROR") => None,
        other => panic!("a submission was answered with type {other}: {text}"),
    }
}

fn wait_until_well(server: &Server) {
    wait_for("a store that works", || {
        let shown = Wire::connect(server.addr()).text("show store");
        shown.lines().any(|line| line == "state\tok").then_some(())
    });
}

fn work(server: &Server, jobs: u64, mut random: Random) {
    let mut worker = able(server);
    let mut ended = 0;
    while ended < jobs {
        worker.send(packet::GRAB_JOB_ALL, b"");
        let (packet_type, body) = worker.recv();
        match packet_type {
            packet::JOB_ASSIGN_UNIQ | packet::JOB_ASSIGN_ALL => {
                let handle = body.split(|byte| *byte == 0).next().expect("a handle");
                match random.below(10) {
                    0 => {
                        // The job goes back.
                        worker = able(server);
                        continue;
                    }
                    1..3 => worker.send(packet::WORK_FAIL, handle),
                    _ => worker.send(packet::WORK_COMPLETE, &packet::body(&[handle, b"done"])),
                }
                ended += 1;
            }
            packet::NO_JOB => {
                worker.send(packet::PRE_SLEEP, b"");
                worker.expect(packet::NOOP, b"");
            }
            packet::NOOP => {}
            other => panic!("a worker got a packet of type {other}"),
        }
    }
    // What was said last has arrived when this is answered.
    worker.expect_nothing();
}

fn able(server: &Server) -> Wire {
    let mut worker = Wire::connect(server.addr());
    for function in FUNCTIONS {
        worker.send(packet::CAN_DO, function.as_bytes());
    }
    worker
}
