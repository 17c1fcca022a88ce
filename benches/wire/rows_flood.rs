//! Rows that measure how a flood of background submissions affects foreground jobs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::disk;
use crate::failure::{Result, fail};
use crate::generator::Generator;
use crate::measuring::{float, percentile};
use crate::options::{Options, Sizes};
use crate::peers::{Kind, Peer, Queue};
use crate::report::{Bar, Line, Series};
use crate::roles::Submission;
use crate::rows::{BEST, Lives, WORKLOAD, interleave};
use crate::rows_durable::{CLIENTS, WINDOW};

/// The first argument that makes the benchmark's binary a flood; the second is the port.
pub(crate) const ARGUMENT: &str = "--flood";

/// Function of the flood, which no worker has registered.
const FUNCTION: &str = "flood";
/// After this many jobs the flood counts as started.
const UNDER_WAY: u64 = 1_000;
/// Niceness of a flood that takes only spare CPU time, and of one with the same priority as the server and
/// its peers.
const YIELDING: &str = "19";
const EQUAL: &str = "0";
const START: Duration = Duration::from_secs(20);
/// Clients of foreground jobs, outstanding jobs of each, and workers.
const FOREGROUND: (usize, usize, usize) = (2, 4, 4);

/// Submits background jobs to the server at the port of the second argument until it is killed.
pub(crate) fn submit_for_ever() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let Some(port) = std::env::args().nth(2).and_then(|port| port.parse().ok()) else {
        return fail("a flood needs a port");
    };
    let mut generator = Generator::of(FUNCTION.as_bytes(), port)?;
    generator.add_clients(CLIENTS, Submission::Background, WINDOW, WORKLOAD)?;
    generator.run_count(UNDER_WAY)?;
    println!("{UNDER_WAY} jobs were taken");
    loop {
        generator.run_count(u64::from(u32::MAX))?;
    }
}

/// The process that floods; killed when it is dropped.
struct Flood(Child);

impl Flood {
    /// Starts it. A high niceness leaves the CPUs to the server and the measured jobs, as a flood from other
    /// machines does.
    fn start(peer: &Peer, niceness: &str) -> Result<Self> {
        let mut command = Command::new("nice");
        command.args(["-n", niceness]).arg(std::env::current_exe()?).args([ARGUMENT, &peer.port.to_string()]);
        let mut flood = Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
        let Some(said) = flood.0.stdout.take() else {
            return fail("the flood cannot be heard");
        };
        let (is_under_way, under_way) = mpsc::channel();
        std::thread::spawn(move || is_under_way.send(BufReader::new(said).lines().next().is_some()));
        match under_way.recv_timeout(START) {
            Ok(true) => Ok(flood),
            Ok(false) => fail("the flood has ended"),
            Err(_) => fail("the flood does not come"),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Measurements of foreground jobs.
struct Foreground {
    /// Latency in microseconds: median and 99th percentile.
    middle: f64,
    worst: f64,
    /// Jobs per second.
    rate: f64,
}

fn foreground(peer: &Peer, length: Duration) -> Result<Foreground> {
    let (clients, window, workers) = FOREGROUND;
    let mut generator = Generator::new(peer.port)?;
    generator.add_sleepers(workers)?;
    generator.add_clients(clients, Submission::Foreground, window, WORKLOAD)?;
    generator.run_for(length / 10)?;
    generator.tally.timed = true;
    let (begun, before) = (Instant::now(), generator.tally.ended);
    generator.run_for(length)?;
    let rate = float(generator.tally.ended - before) / begun.elapsed().as_secs_f64();
    let latencies = &mut generator.tally.latencies;
    Ok(Foreground { middle: percentile(latencies, 50), worst: percentile(latencies, 99), rate })
}

/// Measurements of one server.
struct Beside {
    calm: Series,
    flooded: Series,
    /// Jobs of the flood per second.
    flood: Series,
    /// Foreground jobs per second during the flood.
    rate: Series,
}

impl Beside {
    fn new(names: [&'static str; 2]) -> Self {
        let series = |name| Series { name, rounds: Vec::new() };
        Self { calm: series(names[0]), flooded: series(names[1]), flood: series(names[1]), rate: series(names[1]) }
    }

    fn round(&mut self, queue: &Queue, niceness: &str, options: &Options, length: Duration) -> Result<()> {
        let peer = Peer::start_on(Kind::Ours, queue, options)?;
        self.calm.rounds.push(foreground(&peer, length)?.worst);
        let flood = Flood::start(&peer, niceness)?;
        let (begun, before) = (Instant::now(), peer.jobs_of(FUNCTION)?);
        let Foreground { worst, rate, .. } = foreground(&peer, length)?;
        let jobs = peer.jobs_of(FUNCTION)?.saturating_sub(before);
        drop(flood);
        peer.check_port()?;
        if jobs == 0 {
            return fail("nothing of the flood was taken meanwhile");
        }
        self.flooded.rounds.push(worst);
        self.rate.rounds.push(rate);
        self.flood.rounds.push(float(jobs) / begun.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Latency of foreground jobs while many clients submit durable ones, and again while they submit to memory.
/// The latter is a control: on few CPUs the clients take their share of them, whatever happens to their jobs.
///
/// gearmand is not measured: during such a flood it leaves a `status` unanswered for minutes.
pub(crate) fn flood(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    disk::expect_disk(&options.directory)?;
    let mut ours = Beside::new(["calm", "ours"]);
    let mut builtin = Beside::new(["builtin, calm", "builtin"]);
    let mut pressed = Beside::new(["calm", "ours"]);
    let mut builtin_pressed = Beside::new(["builtin, calm", "builtin"]);
    for _ in 0..options.rounds {
        let directory = disk::directory(options)?;
        let file = |name: &str| Queue::file(&directory.path().join(name));
        ours.round(&file("one"), YIELDING, options, sizes.round)?;
        builtin.round(&Queue::memory(), YIELDING, options, sizes.round)?;
        pressed.round(&file("two"), EQUAL, options, sizes.round)?;
        builtin_pressed.round(&Queue::memory(), EQUAL, options, sizes.round)?;
    }
    let line = |metric, ours: &Series, theirs: &Series, bar| {
        Line::new("flood", metric, ours.clone(), vec![theirs.clone()], bar)
    };
    Ok(vec![
        line("p99 µs, beside calm", &ours.flooded, &ours.calm, Bar::Ratio(2.0)),
        line("builtin's, beside calm", &builtin.flooded, &builtin.calm, Bar::Information),
        line("p99 µs, beside builtin's", &ours.flooded, &builtin.flooded, Bar::Information),
        line("flood's jobs/s, beside builtin", &ours.flood, &builtin.flood, Bar::Information),
        line("foreground jobs/s meanwhile", &ours.rate, &builtin.rate, Bar::Information),
        line("not nice: p99 µs, beside calm", &pressed.flooded, &pressed.calm, Bar::Information),
        line("not nice: builtin's", &builtin_pressed.flooded, &builtin_pressed.calm, Bar::Information),
        line("not nice: flood's jobs/s", &pressed.flood, &builtin_pressed.flood, Bar::Information),
    ])
}

/// Foreground jobs during a flood of background ones in memory: this server, an earlier build, gearmand and
/// the floor. The flood has the priority of its peers: one that yields leaves nothing to be fair about.
pub(crate) fn fairness(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let kinds = [&[Kind::Ours, Kind::Floor][..], &BEST, &options.earlier()].concat();
    let measured = interleave(options, &kinds, Lives::Short, |peer| {
        // Warm up, as after minutes of operation.
        foreground(peer, sizes.round / 4)?;
        let flood = Flood::start(peer, EQUAL)?;
        let beside = foreground(peer, sizes.round);
        drop(flood);
        let Foreground { middle, worst, rate } = match beside {
            // gearmand may not answer them as long as the flood continues.
            Err(_) if BEST.contains(&peer.kind) => {
                Foreground { middle: f64::INFINITY, worst: f64::INFINITY, rate: 0.0 }
            }
            beside => beside?,
        };
        Ok([middle, rate, worst])
    })?;
    let line = |metric, theirs: &[Kind], bar| measured.line("fairness", metric, theirs, bar);
    let mut lines = vec![
        line((0, "p50 µs, beside the floor"), &[Kind::Floor], Bar::Ratio(4.0)),
        line((1, "jobs/s, beside the floor"), &[Kind::Floor], Bar::Information),
        line((0, "p50 µs, beside gearmand"), &BEST, Bar::Information),
        line((1, "jobs/s, beside gearmand"), &BEST, Bar::Information),
        line((2, "p99 µs, beside the floor"), &[Kind::Floor], Bar::Information),
    ];
    if !options.earlier().is_empty() {
        lines.push(line((0, "p50 µs, beside before"), &[Kind::Before], Bar::Information));
        lines.push(line((1, "jobs/s, beside before"), &[Kind::Before], Bar::Times(3.0)));
    }
    Ok(lines)
}
