//! What each request costs beside very much else: 1,000,000 jobs in 100,000 functions, and 5,000 workers.
//!
//! `cargo bench --bench prices`; with `-- --gate` the exit status is 1 if a request is dearer than its price.
//! The prices are the units that the state machine counts, and times as ratios to that of a background
//! submission in the same run, so that the machine does not matter. The table stands in `benches/README.md`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gearmand::job_server::{
    ConnectionEnd, ConnectionId, Departure, Effects, Event, JobServer, Now, Policy, StoreOp, Who, Withholding,
};
use gearmand::protocol::{GrabKind, Priority, Request, Response, Submission, Workload};
use gearmand::stats::{ConnectionGauges, Stats};

const JOBS: usize = 1_000_000;
const FUNCTIONS: usize = 100_000;
const WORKERS: usize = 5_000;
const FUNCTIONS_A_WORKER: usize = 20;
/// So many are measured at a time, and the best of so many times counts.
const OPERATIONS: u32 = 2_000;
const RUNS: u32 = 7;
/// A ratio may be so many times its bar before the gate closes: caches and clocks of machines differ.
const TOLERANCE: f64 = 1.5;

/// Takes note of handles, and counts the rest, so that saying it is not optimised away.
#[derive(Default)]
struct Ears {
    said: usize,
    assigned: Vec<u64>,
}

impl Effects for Ears {
    fn send(&mut self, _: ConnectionId, response: Response<'_>) {
        self.said += black_box(response).workload().map_or(1, |workload| workload.as_bytes().len());
        if let Response::JobAssign { handle, .. } = response {
            self.assigned.push(handle.number);
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

    fn report(&mut self, _: Event<'_>) {
        self.said += 1;
    }
}

struct World {
    server: JobServer,
    ears: Ears,
    client: ConnectionId,
    /// One that can do everything.
    wide: ConnectionId,
    now: Now,
    counter: usize,
}

impl World {
    fn new() -> Self {
        let policy = Policy { max_functions: 2 * FUNCTIONS, max_waits_per_job: u32::MAX, ..Policy::default() };
        let mut server = JobServer::new(policy, Arc::new(Stats::default()));
        let mut connect = |host: &str| server.connect(Arc::new(ConnectionGauges::new(0, host.to_owned())));
        let (client, wide) = (connect("client"), connect("wide"));
        let workers: Vec<ConnectionId> = (0..WORKERS).map(|_| connect("host")).collect();
        let now = Now { monotonic_us: 0, unix_us: 1_000_000_000_000_000 };
        let mut world = Self { server, ears: Ears::default(), client, wide, now, counter: 0 };
        for (index, worker) in workers.iter().enumerate() {
            for function in 0..FUNCTIONS_A_WORKER {
                world.register(*worker, index * FUNCTIONS_A_WORKER + function);
            }
        }
        for function in 0..FUNCTIONS {
            world.register(wide, function);
        }
        for job in 0..JOBS {
            world.submit(&name(job % FUNCTIONS), b"", true);
        }
        world
    }

    fn ask(&mut self, who: ConnectionId, request: &Request<'_>) {
        while !self.server.request(self.now, who, request, &mut self.ears) {}
    }

    fn register(&mut self, who: ConnectionId, function: usize) {
        self.ask(who, &Request::CanDo { function: name(function).as_bytes(), timeout_ms: None });
    }

    fn submit(&mut self, function: &str, unique: &[u8], background: bool) {
        let submission = Submission {
            function: function.as_bytes(),
            unique,
            reducer: b"",
            priority: Priority::Normal,
            background,
            due_s: None,
            workload: Workload::borrowed(&[7; 128]),
        };
        self.ask(self.client, &Request::Submit(submission));
    }

    fn next(&mut self) -> usize {
        self.counter += 1;
        self.counter
    }

    fn grab_and_complete(&mut self, worker: ConnectionId) {
        self.ask(worker, &Request::GrabJob(GrabKind::Plain));
        let Some(number) = self.ears.assigned.pop() else { return };
        let handle = format!("H:localhost:{number}");
        self.ask(worker, &Request::WorkComplete { handle: handle.as_bytes(), workload: Workload::borrowed(b"done") });
    }
}

fn name(function: usize) -> String {
    format!("function:{function}")
}

/// What a request may cost: units, and time as a ratio to that of a background submission.
struct Row {
    name: &'static str,
    units: u32,
    ratio: f64,
    operation: fn(&mut World),
}

/// In the order in which they are measured; the first is the measure of the others.
const ROWS: &[Row] = &[
    Row { name: "SUBMIT_JOB_BG", units: 12, ratio: 1.0, operation: submit_background },
    Row {
        name: "ECHO_REQ",
        units: 12,
        ratio: 0.1,
        operation: |world| {
            world.ask(world.client, &Request::Echo { workload: Workload::borrowed(b"echo") });
        },
    },
    Row {
        name: "GET_STATUS",
        units: 12,
        ratio: 0.5,
        operation: |world| {
            let handle = format!("H:localhost:{}", 1 + world.next() * 37 % JOBS);
            world.ask(world.client, &Request::GetStatus { handle: handle.as_bytes() });
        },
    },
    Row {
        name: "GET_STATUS_UNIQUE",
        units: 12,
        ratio: 0.5,
        operation: |world| {
            let unique = format!("{:036}", world.next());
            world.ask(world.client, &Request::GetStatusUnique { unique: unique.as_bytes() });
        },
    },
    Row {
        name: "GRAB_JOB and WORK_COMPLETE, 100,000 functions",
        units: 60,
        ratio: 3.0,
        operation: |world| {
            world.grab_and_complete(world.wide);
        },
    },
    Row {
        name: "PRE_SLEEP and its NOOP, 100,000 functions",
        units: 40,
        ratio: 1.0,
        operation: |world| {
            world.ask(world.wide, &Request::PreSleep);
        },
    },
    Row {
        name: "CAN_DO again, 100,000 functions",
        units: 16,
        ratio: 1.0,
        operation: |world| {
            let function = world.next() * 37 % FUNCTIONS;
            world.register(world.wide, function);
        },
    },
    Row {
        name: "CANT_DO and CAN_DO, 100,000 functions",
        units: 40,
        ratio: 3.0,
        operation: |world| {
            let function = world.next() * 37 % FUNCTIONS;
            world.ask(world.wide, &Request::CantDo { function: name(function).as_bytes() });
            world.register(world.wide, function);
        },
    },
    Row {
        name: "SET_CLIENT_ID, 100,000 functions",
        units: 12,
        ratio: 0.3,
        operation: |world| {
            world.ask(world.wide, &Request::SetClientId { id: b"somebody" });
        },
    },
    Row {
        name: "SUBMIT_JOB that joins a job",
        units: 12,
        ratio: 1.0,
        operation: |world| {
            world.submit(&name(5), b"shared", false);
        },
    },
    Row {
        name: "a connection that comes and goes",
        units: 12,
        ratio: 1.0,
        operation: |world| {
            let guest = world.server.connect(Arc::new(ConnectionGauges::new(0, String::new())));
            let end = ConnectionEnd::default();
            while world.server.disconnect(world.now, guest, end, &mut world.ears) != Departure::Done {}
        },
    },
    Row {
        name: "a rule for one worker, and its end",
        units: 24,
        ratio: 4.0,
        operation: |world| {
            let who = Who::Connection(world.client);
            let made = world.server.withhold(world.now, &who, None, Withholding::Disabled, &mut world.ears);
            black_box(made.is_ok());
            black_box(world.server.release(world.now, &who, None, &mut world.ears).is_ok());
        },
    },
];

fn submit_background(world: &mut World) {
    let function = name(world.next() * 37 % FUNCTIONS);
    let unique = format!("{:036}", world.counter);
    world.submit(&function, unique.as_bytes(), true);
}

/// Anonymous memory of this process, in bytes.
fn memory() -> i64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let kib =
        rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0_i64) * 1024
}

fn main() -> ExitCode {
    // `cargo test` runs benchmarks too, to see that they compile.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let gate = std::env::args().any(|argument| argument == "--gate");
    let mut world = World::new();
    let mut base_ns = None;
    let mut is_too_dear = false;
    println!("| request | units | µs | ratio | bar | bytes kept |\n| --- | ---: | ---: | ---: | ---: | ---: |");
    for row in ROWS {
        let (mut best, mut units) = (Duration::MAX, 0);
        let before = memory();
        for _ in 0..RUNS {
            let start = Instant::now();
            units = 0;
            for _ in 0..OPERATIONS {
                world.server.start_turn();
                (row.operation)(&mut world);
                units += u64::from(world.server.spent());
            }
            best = best.min(start.elapsed());
        }
        let kept = (memory() - before).max(0) / i64::from(RUNS * OPERATIONS);
        let ns = best.as_secs_f64() * 1e9 / f64::from(OPERATIONS);
        let units = units.div_ceil(u64::from(OPERATIONS));
        let ratio = ns / *base_ns.get_or_insert(ns);
        let is_dear = ratio > row.ratio * TOLERANCE || units > u64::from(row.units);
        is_too_dear |= is_dear;
        let verdict = if is_dear { " **too dear**" } else { "" };
        println!(
            "| {}{verdict} | {units} of {} | {:.2} | {ratio:.2} | {:.2} | {kept} |",
            row.name,
            row.units,
            ns / 1000.0,
            row.ratio
        );
    }
    black_box(world.ears.said);
    if gate && is_too_dear { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
