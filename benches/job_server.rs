//! Time per operation of the job server without any I/O, in nanoseconds: the best of several runs; and the
//! maximum over millions of operations.
//!
//! `cargo bench --bench job_server`; with `-- WORDS` only the rows whose names contain one of these words.
//! The figures compare two versions of this code on one machine; for a comparison with another server see
//! `benches/wire.rs`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gearmand::job_server::{ConnectionId, Effects, Event, JobServer, Now, Policy, StoreOp};
use gearmand::protocol::{GrabKind, Priority, Request, Response, Submission, Workload};
use gearmand::stats::{ConnectionGauges, Stats};

const FUNCTION: &[u8] = b"resize";
const WORKLOAD: [u8; 128] = [7; 128];
/// Operations of one run.
const OPERATIONS: u32 = 20_000;
const RUNS: usize = 7;

/// Counts the effects, so that they are not optimised away.
#[derive(Default)]
struct Counted(usize);

impl Effects for Counted {
    fn send(&mut self, _: ConnectionId, response: Response<'_>) {
        self.0 += black_box(response).workload().map_or(1, |workload| workload.as_bytes().len());
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
        self.0 += 1;
    }
}

struct World {
    server: JobServer,
    client: ConnectionId,
    worker: ConnectionId,
    effects: Counted,
    now: Now,
    submitted: u64,
    finished: u64,
}

impl World {
    /// A client and a worker, and `queued` waiting jobs.
    fn new(queued: usize) -> Self {
        let mut server = JobServer::new(Policy::default(), Arc::new(Stats::default()));
        let mut connect = || server.connect(Arc::new(ConnectionGauges::new(0, String::new())));
        let (client, worker) = (connect(), connect());
        let now = Now { monotonic_us: 0, unix_us: 1_000_000_000_000_000 };
        let mut world = Self { server, client, worker, effects: Counted::default(), now, submitted: 0, finished: 0 };
        world.work(&Request::CanDo { function: FUNCTION, timeout_ms: None });
        for _ in 0..queued {
            world.submit(true, None);
        }
        world
    }

    fn submit(&mut self, background: bool, due_s: Option<u64>) {
        self.submitted += 1;
        let unique = format!("{:036}", self.submitted);
        let submission = Submission {
            function: FUNCTION,
            unique: unique.as_bytes(),
            reducer: b"",
            priority: Priority::Normal,
            background,
            due_s,
            workload: Workload::borrowed(&WORKLOAD),
        };
        self.server.request(self.now, self.client, &Request::Submit(submission), &mut self.effects);
    }

    fn work(&mut self, request: &Request<'_>) {
        self.server.request(self.now, self.worker, request, &mut self.effects);
    }

    fn register_many(&mut self) {
        for number in 0..10_000 {
            let name = format!("build:{number}");
            self.work(&Request::CanDo { function: name.as_bytes(), timeout_ms: None });
        }
    }

    fn grab_and_complete(&mut self) {
        self.work(&Request::GrabJob(GrabKind::Unique));
        self.finished += 1;
        let handle = format!("H:localhost:{}", self.finished);
        self.work(&Request::WorkComplete { handle: handle.as_bytes(), workload: Workload::borrowed(b"done") });
    }
}

/// Whether a row is selected.
fn is_wanted(name: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}

/// Runs `operation` on a fresh world several times, and prints the best time per operation.
fn measure(name: &str, queued: usize, mut operation: impl FnMut(&mut World)) {
    if !is_wanted(name) {
        return;
    }
    let best = (0..RUNS)
        .map(|_| {
            let mut world = World::new(queued);
            let start = Instant::now();
            (0..OPERATIONS).for_each(|_| operation(&mut world));
            let elapsed = start.elapsed();
            black_box(world.effects.0);
            elapsed
        })
        .min()
        .unwrap_or(Duration::ZERO);
    println!("{name:<62} {:>7.0} ns", best.as_secs_f64() * 1e9 / f64::from(OPERATIONS));
}

/// The longest submission while the queue grows to `jobs` jobs, and the longest grab and completion while it
/// is drained: the minimum of several runs, since the machine occasionally does other work.
fn longest(jobs: u32) {
    if !is_wanted("longest") {
        return;
    }
    let runs: Vec<[Duration; 2]> = (0..3)
        .map(|_| {
            let mut world = World::new(0);
            let submission = longest_of(jobs, || world.submit(true, None));
            let taking = longest_of(jobs, || world.grab_and_complete());
            black_box(world.effects.0);
            [submission, taking]
        })
        .collect();
    for (at, name) in ["submission while growing to", "grab and completion of"].into_iter().enumerate() {
        let least = runs.iter().map(|run| run[at]).min().unwrap_or_default();
        println!("{:<62} {:>7.0} µs", format!("longest {name} {jobs} jobs"), least.as_secs_f64() * 1e6);
    }
}

fn longest_of(times: u32, mut operation: impl FnMut()) -> Duration {
    let durations = (0..times).map(|_| {
        let begun = Instant::now();
        operation();
        begun.elapsed()
    });
    durations.max().unwrap_or_default()
}

fn main() {
    // `cargo test` runs benchmarks too, to check that they compile.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    for queued in [0, 1_000_000] {
        measure(&format!("submit in the background, {queued} queued"), queued, |world| world.submit(true, None));
    }
    measure("submit, grab and complete in the foreground, none queued", 0, |world| {
        world.submit(false, None);
        world.grab_and_complete();
    });
    for queued in [20_000, 1_000_000] {
        measure(&format!("grab and complete, {queued} queued"), queued, World::grab_and_complete);
    }
    measure("sleep, be woken by a job, grab and complete it", 0, |world| {
        world.work(&Request::PreSleep);
        world.submit(true, None);
        world.grab_and_complete();
    });
    measure("ask for a job when there is none, with 10,000 functions", 0, |world| {
        if world.submitted == 0 {
            world.submitted = 1;
            world.register_many();
        }
        world.work(&Request::GrabJob(GrabKind::Unique));
    });
    measure("sleep and ask for a job, with 10,000 functions", 0, |world| {
        if world.submitted == 0 {
            world.submitted = 1;
            world.register_many();
        }
        world.work(&Request::PreSleep);
        world.work(&Request::GrabJob(GrabKind::Unique));
    });
    longest(4_000_000);
    measure("submit for tomorrow", 0, |world| world.submit(true, Some(1_000_086_400)));
    measure("ask for a job when there is none", 0, |world| world.work(&Request::GrabJob(GrabKind::Unique)));
}
