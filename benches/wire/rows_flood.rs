//! The row that asks what durable submissions do to those who do not use the store.

use std::process::{Child, Command, Stdio};
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
use crate::rows::WORKLOAD;
use crate::rows_durable::{CLIENTS, WINDOW};

/// The first argument that makes the benchmark's binary a flood; the second is the port.
pub(crate) const ARGUMENT: &str = "--flood";

/// The function of the flood, which no worker does.
const FUNCTION: &str = "flood";
/// Jobs of the flood after which it is under way.
const UNDER_WAY: u64 = 1_000;
/// Niceness of a flood that takes what CPU time is left, and of one that takes as much as the server and its peers.
const YIELDING: &str = "19";
const EQUAL: &str = "0";
const START: Duration = Duration::from_secs(20);
/// Clients of foreground jobs, what each has outstanding, and their workers.
const FOREGROUND: (usize, usize, usize) = (2, 4, 4);

/// Submits background jobs to the server at the port of the second argument until it is killed.
pub(crate) fn submit_for_ever() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let Some(port) = std::env::args().nth(2).and_then(|port| port.parse().ok()) else {
        return fail("a flood needs a port");
    };
    let mut generator = Generator::of(FUNCTION.as_bytes(), port)?;
    generator.add_clients(CLIENTS, Submission::Background, WINDOW, WORKLOAD)?;
    loop {
        generator.run_count(u64::from(u32::MAX))?;
    }
}

/// The process that floods; dropped, it is killed.
struct Flood(Child);

impl Flood {
    /// Starts it. A high niceness leaves the CPUs to the server and the measured jobs, as a flood from other machines does.
    fn start(peer: &Peer, niceness: &str) -> Result<Self> {
        let mut command = Command::new("nice");
        command.args(["-n", niceness]).arg(std::env::current_exe()?).args([ARGUMENT, &peer.port.to_string()]);
        let mut flood = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        let begun = Instant::now();
        while peer.jobs_of(FUNCTION)? < UNDER_WAY {
            if let Some(status) = flood.0.try_wait()? {
                return fail(format!("the flood ended: {status}"));
            }
            if begun.elapsed() > START {
                return fail("the flood does not come");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(flood)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// The 99th hundredth of foreground latencies, and jobs a second.
fn foreground(peer: &Peer, length: Duration) -> Result<(f64, f64)> {
    let (clients, window, workers) = FOREGROUND;
    let mut generator = Generator::new(peer.port)?;
    generator.add_sleepers(workers)?;
    generator.add_clients(clients, Submission::Foreground, window, WORKLOAD)?;
    generator.run_for(length / 10)?;
    generator.tally.timed = true;
    let (begun, before) = (Instant::now(), generator.tally.ended);
    generator.run_for(length)?;
    let rate = float(generator.tally.ended - before) / begun.elapsed().as_secs_f64();
    Ok((percentile(&mut generator.tally.latencies, 99), rate))
}

/// What is measured of one server.
struct Beside {
    calm: Series,
    flooded: Series,
    /// Jobs of the flood, a second.
    flood: Series,
    /// Foreground jobs under the flood, a second.
    rate: Series,
}

impl Beside {
    fn new(names: [&'static str; 2]) -> Self {
        let series = |name| Series { name, rounds: Vec::new() };
        Self { calm: series(names[0]), flooded: series(names[1]), flood: series(names[1]), rate: series(names[1]) }
    }

    fn round(&mut self, queue: &Queue, niceness: &str, options: &Options, length: Duration) -> Result<()> {
        let peer = Peer::start_on(Kind::Ours, queue, options)?;
        self.calm.rounds.push(foreground(&peer, length)?.0);
        let flood = Flood::start(&peer, niceness)?;
        let (begun, before) = (Instant::now(), peer.jobs_of(FUNCTION)?);
        let (worst, rate) = foreground(&peer, length)?;
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

/// The latency of foreground jobs while a crowd submits durable ones, and again while it submits to memory: a control,
/// since on few CPUs the crowd takes its share of them whatever becomes of its jobs.
///
/// gearmand is not beside it: under such a flood it leaves a `status` unanswered for minutes.
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
