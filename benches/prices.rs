//! Cost of each request in a large state: 1,000,000 jobs in 100,000 functions, and 5,000 workers.
//!
//! `cargo bench --bench prices`; with `-- --gate` the exit status is 1 if a request costs more than its
//! price. Prices are the units that the state machine counts, and times as ratios to that of a background
//! submission in the same run, so that the machine does not matter. The table is in `benches/README.md`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use gearmand::job_server::{
    ConnectionEnd, ConnectionId, DisconnectProgress, Effects, Event, JobQuery, JobServer, Now, Policy, StoreOp,
    WorkerMode, WorkerSelector,
};
use gearmand::protocol::{GrabKind, Priority, Request, Response, Submission, Workload};
use gearmand::stats::{ConnectionGauges, Stats};

const JOBS: usize = 1_000_000;
const FUNCTIONS: usize = 100_000;
const WORKERS: usize = 5_000;
const FUNCTIONS_A_WORKER: usize = 20;
/// Maximum number of functions of a narrow worker (not wide), which has the most to do when it falls asleep.
const FUNCTIONS_OF_NARROW: usize = 63;
/// Clients waiting for one job.
const WAITS: usize = 100_000;
/// Number of rounds. Each round measures all rows in turn, and the best time of each row counts.
const ROUNDS: u32 = 7;

/// Records handles, and counts other effects, so that they are not optimised away.
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

/// Arguments of a request, made before it is measured.
#[derive(Default)]
struct Words {
    function: String,
    unique: String,
    handle: String,
}

struct World {
    server: JobServer,
    ears: Ears,
    client: ConnectionId,
    /// A worker with all functions.
    wide: ConnectionId,
    /// A worker whose functions have no jobs.
    narrow: ConnectionId,
    /// The worker that holds the job with many waits.
    speaker: ConnectionId,
    awaited: String,
    now: Now,
    counter: usize,
    is_disabled: bool,
}

impl World {
    fn new() -> Self {
        let policy = Policy {
            max_functions: 2 * FUNCTIONS,
            max_functions_per_connection: 2 * FUNCTIONS,
            max_waits_per_job: u32::MAX,
            ..Policy::default()
        };
        let mut server = JobServer::new(policy, Arc::new(Stats::default()));
        let mut connect = |host: &str| server.connect(Arc::new(ConnectionGauges::new(0, host.to_owned())));
        let [client, wide, narrow, speaker] = ["client", "wide", "narrow", "speaker"].map(&mut connect);
        let workers: Vec<ConnectionId> = (0..WORKERS).map(|_| connect("host")).collect();
        let now = Now { monotonic_us: 0, unix_us: 1_000_000_000_000_000 };
        let (ears, awaited) = (Ears::default(), String::new());
        let mut world =
            Self { server, ears, client, wide, narrow, speaker, awaited, now, counter: 0, is_disabled: false };
        let mut weights = Weights::new(&world.server);
        for (index, worker) in workers.iter().enumerate() {
            for function in 0..FUNCTIONS_A_WORKER {
                world.register(*worker, &name(index * FUNCTIONS_A_WORKER + function));
            }
        }
        for function in 0..FUNCTIONS {
            world.register(wide, &name(function));
        }
        weights.say(&world.server, "that a worker can do a function, with half a function", 2 * FUNCTIONS);
        for function in 0..FUNCTIONS_OF_NARROW {
            world.register(narrow, &format!("idle:{function}"));
        }
        world.register(speaker, "awaited");
        for _ in 0..WAITS {
            world.submit("awaited", b"awaited", false);
        }
        weights.say(&world.server, "a submission that waits for the end of a job", WAITS);
        world.ask(speaker, &Request::GrabJob(GrabKind::Plain));
        world.awaited = world.ears.assigned.pop().map(handle).unwrap_or_default();
        for job in 0..JOBS {
            world.submit(&name(job % FUNCTIONS), format!("{job:036}").as_bytes(), true);
        }
        weights.say(&world.server, "a background job of 128 bytes, with a unique id of 36", JOBS);
        println!();
        world
    }

    fn ask(&mut self, who: ConnectionId, request: &Request<'_>) {
        while !self.server.request(self.now, who, request, &mut self.ears) {}
    }

    fn register(&mut self, who: ConnectionId, function: &str) {
        self.ask(who, &Request::CanDo { function: function.as_bytes(), timeout_ms: None });
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

    /// Arguments of the next request: a function, a new unique id, and the handle of a waiting job.
    fn words(&mut self) -> Words {
        self.counter += 1;
        let at = self.counter * 37 % (JOBS / 2) + JOBS / 4;
        Words {
            function: name(at % FUNCTIONS),
            unique: format!("{:036}", JOBS + self.counter),
            handle: handle(at as u64),
        }
    }

    /// Arguments with the unique id of a waiting job.
    fn known(&mut self) -> Words {
        let words = self.words();
        Words { unique: format!("{:036}", self.counter * 37 % (JOBS / 2) + JOBS / 4), ..words }
    }

    /// Arguments with the handle of an assigned job.
    fn assigned(&mut self) -> Words {
        Words { handle: self.ears.assigned.pop().map(handle).unwrap_or_default(), ..Words::default() }
    }

    /// Arguments with a new function.
    fn new_function(&mut self) -> Words {
        let words = self.words();
        Words { function: format!("new:{}", self.counter), ..words }
    }

    /// No arguments, after the rules that earlier requests have changed are applied to all workers.
    fn rules_applied(&mut self) -> Words {
        while self.server.rules_cursor().is_some() {
            self.server.start_turn();
            self.server.go_on_with_rules(self.now, &mut self.ears);
        }
        Words::default()
    }

    fn find(&mut self, query: &JobQuery<'_>) {
        let said = &mut self.ears.said;
        let found = self.server.find_jobs(query, 0, |view| {
            *said += black_box(view).unique.len();
            ControlFlow::Continue(())
        });
        black_box(found.next);
    }
}

fn name(function: usize) -> String {
    format!("function:{function}")
}

fn handle(number: u64) -> String {
    format!("H:localhost:{number}")
}

/// Limits of a request: units, and time as a ratio to that of a background submission.
struct Row {
    name: &'static str,
    units: u32,
    ratio: f64,
    /// Number of requests per measurement.
    times: u32,
    words: fn(&mut World) -> Words,
    operation: fn(&mut World, &Words),
}

/// Number of requests per measurement of a row.
const MANY: u32 = 2_000;
/// The same for slow requests.
const FEW: u32 = 20;

fn row(name: &'static str, units: u32, ratio: f64, operation: fn(&mut World, &Words)) -> Row {
    Row { name, units, ratio, times: MANY, words: World::words, operation }
}

impl Row {
    fn with(self, words: fn(&mut World) -> Words) -> Self {
        Self { words, ..self }
    }

    fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }
}

/// Rows in the order of measurement. The first one is the reference of the others.
fn rows() -> Vec<Row> {
    let mut rows = requests();
    rows.extend(of_workers());
    rows.extend(in_pieces());
    rows
}

fn requests() -> Vec<Row> {
    vec![
        row("SUBMIT_JOB_BG", 12, 1.0, |world, words| {
            world.submit(&words.function, words.unique.as_bytes(), true);
        }),
        row("SUBMIT_JOB_BG, without unique id", 12, 1.5, |world, words| {
            world.submit(&words.function, b"", true);
        }),
        row("SUBMIT_JOB that joins a job", 12, 0.4, |world, words| {
            world.submit(&words.function, b"shared", false);
        })
        .with(|_| Words { function: name(5), ..Words::default() }),
        row("ECHO_REQ", 12, 0.05, |world, _| {
            world.ask(world.client, &Request::Echo { workload: Workload::borrowed(b"echo") });
        }),
        row("GET_STATUS", 12, 0.3, |world, words| {
            world.ask(world.client, &Request::GetStatus { handle: words.handle.as_bytes() });
        }),
        row("GET_STATUS_UNIQUE", 13, 0.7, |world, words| {
            world.ask(world.client, &Request::GetStatusUnique { unique: words.unique.as_bytes() });
        })
        .with(World::known),
        row("a connection that comes and goes", 12, 0.15, |world, _| {
            let guest = world.server.connect(Arc::new(ConnectionGauges::new(0, String::new())));
            let end = ConnectionEnd::default();
            while world.server.disconnect(world.now, guest, end, &mut world.ears) != DisconnectProgress::Done {}
        }),
        row("`list jobs unique=`", 12, 1.2, |world, words| {
            world.find(&JobQuery { unique: Some(words.unique.as_bytes()), ..JobQuery::default() });
        })
        .with(World::known),
        row("`list jobs function=`", 40, 6.0, |world, words| {
            world.find(&JobQuery { function: Some(words.function.as_bytes()), ..JobQuery::default() });
        }),
    ]
}

fn of_workers() -> Vec<Row> {
    vec![
        row("GRAB_JOB, 100,000 functions", 16, 0.5, |world, _| {
            world.ask(world.wide, &Request::GrabJob(GrabKind::Plain));
        }),
        row("WORK_COMPLETE", 24, 1.3, |world, words| {
            world.ask(
                world.wide,
                &Request::WorkComplete { handle: words.handle.as_bytes(), workload: Workload::borrowed(b"done") },
            );
        })
        .with(World::assigned),
        row("PRE_SLEEP, its NOOP, GRAB_JOB and WORK_FAIL, 100,000 functions", 60, 3.2, |world, _| {
            world.ask(world.wide, &Request::PreSleep);
            world.ask(world.wide, &Request::GrabJob(GrabKind::Plain));
            let Words { handle, .. } = world.assigned();
            world.ask(world.wide, &Request::WorkFail { handle: handle.as_bytes() });
        }),
        row("PRE_SLEEP and GRAB_JOB for nothing, 63 functions", 300, 1.6, |world, _| {
            world.ask(world.narrow, &Request::PreSleep);
            world.ask(world.narrow, &Request::GrabJob(GrabKind::Plain));
        }),
        row("CAN_DO of a new function", 40, 4.0, |world, words| {
            world.register(world.wide, &words.function);
        })
        .with(World::new_function),
        row("CAN_DO again, 100,000 functions", 16, 2.0, |world, words| {
            world.register(world.wide, &words.function);
        }),
        row("CANT_DO and CAN_DO, 100,000 functions", 40, 4.2, |world, words| {
            world.ask(world.wide, &Request::CantDo { function: words.function.as_bytes() });
            world.register(world.wide, &words.function);
        }),
        row("SET_CLIENT_ID, 100,000 functions", 12, 0.2, |world, words| {
            world.ask(world.wide, &Request::SetClientId { id: words.unique.as_bytes() });
        }),
        row("a rule for one worker, and its end", 4, 0.4, |world, _| {
            let selector = WorkerSelector::Connection(world.client);
            let made = world.server.set_worker_mode(world.now, &selector, None, WorkerMode::Disabled, &mut world.ears);
            black_box(made.is_ok());
            black_box(world.server.enable_workers(world.now, &selector, None, &mut world.ears).is_ok());
        })
        .with(World::rules_applied),
    ]
}

/// Requests that hold the lock several times: the cost of one hold.
fn in_pieces() -> Vec<Row> {
    vec![
        row("WORK_STATUS to 100,000 waits, a hold", 4200, 25.0, |world, _| {
            let status = Request::WorkStatus { handle: world.awaited.as_bytes(), numerator: b"1", denominator: b"2" };
            black_box(world.server.request(world.now, world.speaker, &status, &mut world.ears));
        })
        .times(FEW),
        row("WORK_DATA of 8 kB to 100,000 waits, a hold", 4200, 25.0, |world, _| {
            let workload = Workload::borrowed(&[1; 8192]);
            let data = Request::WorkData { handle: world.awaited.as_bytes(), workload };
            black_box(world.server.request(world.now, world.speaker, &data, &mut world.ears));
        })
        .times(FEW),
        row("`disable host:` of 5,000 workers, a hold", 10_100, 200.0, |world, _| {
            let selector = WorkerSelector::Host("host".to_owned());
            if world.server.rules_cursor().is_some() {
                world.server.go_on_with_rules(world.now, &mut world.ears);
            } else {
                world.is_disabled ^= true;
                let done = if world.is_disabled {
                    world.server.set_worker_mode(world.now, &selector, None, WorkerMode::Disabled, &mut world.ears)
                } else {
                    world.server.enable_workers(world.now, &selector, None, &mut world.ears)
                };
                black_box(done.is_ok());
            }
        })
        .times(FEW),
    ]
}

/// Anonymous memory of this process, in bytes.
fn memory() -> i64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let kib =
        rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0_i64) * 1024
}

/// Memory according to the server's own account, in bytes.
fn accounted(server: &JobServer) -> i64 {
    i64::try_from(server.memory_use().total()).unwrap_or(i64::MAX)
}

/// Memory at an earlier time, according to the kernel and to the account.
struct Weights {
    memory: i64,
    accounted: i64,
}

impl Weights {
    fn new(server: &JobServer) -> Self {
        println!("| held | bytes | in the account |\n| --- | ---: | ---: |");
        Self { memory: memory(), accounted: accounted(server) }
    }

    /// Prints the memory per item for `count` items that were added since.
    fn say(&mut self, server: &JobServer, what: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let now = Self { memory: memory(), accounted: accounted(server) };
        let (held, known) = ((now.memory - self.memory) / count, (now.accounted - self.accounted) / count);
        println!("| {what} | {held} | {known} |");
        *self = now;
    }
}

/// Result of a row: the best time of one request, the total units, and the growth of the account.
#[derive(Clone, Copy)]
struct Measured {
    ns: f64,
    units: u64,
    accounted: i64,
}

impl Measured {
    const NOTHING: Self = Self { ns: f64::INFINITY, units: 0, accounted: 0 };
}

fn measure(world: &mut World, row: &Row, measured: &mut Measured) {
    let words: Vec<Words> = (0..row.times).map(|_| (row.words)(world)).collect();
    let before = accounted(&world.server);
    let start = Instant::now();
    for words in &words {
        world.server.start_turn();
        (row.operation)(world, words);
        measured.units += u64::from(world.server.spent());
    }
    let elapsed = start.elapsed();
    measured.accounted += accounted(&world.server) - before;
    measured.ns = measured.ns.min(elapsed.as_secs_f64() * 1e9 / f64::from(row.times));
}

fn main() -> ExitCode {
    // `cargo test` runs benchmarks too, to check that they compile.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let gate = std::env::args().any(|argument| argument == "--gate");
    let mut world = World::new();
    let rows = rows();
    let mut all = vec![Measured::NOTHING; rows.len()];
    for _ in 0..ROUNDS {
        for (row, measured) in rows.iter().zip(&mut all) {
            measure(&mut world, row, measured);
        }
    }
    let base_ns = all.first().map_or(f64::NAN, |first| first.ns);
    let mut is_too_dear = false;
    println!("| request | units | of | µs | ns a unit | ratio | of | bytes |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (row, measured) in rows.iter().zip(&all) {
        let Measured { ns, units, accounted } = *measured;
        let ratio = ns / base_ns;
        let requests = row.times * ROUNDS;
        let units = units.div_ceil(u64::from(requests));
        let is_dear = ratio > row.ratio || units > u64::from(row.units);
        is_too_dear |= is_dear;
        #[allow(clippy::cast_precision_loss, reason = "it is shown with one digit")]
        let charged = measured.units as f64;
        println!(
            "| {}{} | {units} | {} | {:.2} | {:.1} | {ratio:.2} | {:.2} | {} |",
            row.name,
            if is_dear { " **too dear**" } else { "" },
            row.units,
            ns / 1000.0,
            ns * f64::from(requests) / charged,
            row.ratio,
            accounted / i64::from(requests)
        );
    }
    black_box(world.ears.said);
    if gate && is_too_dear { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
