//! Rows that measure time, and the order of rows and rounds.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use crate::failure::Result;
use crate::generator::Generator;
use crate::measuring::{float, microseconds_per, percentile};
use crate::options::{Options, Row, Sizes};
use crate::peers::{Kind, Peer};
use crate::report::{Bar, Broken, Line, Report, Series};
use crate::roles::Submission;
use crate::{
    databases, disk, rows_backlog, rows_durable, rows_flood, rows_memory, rows_one, rows_prefetch, rows_watched,
};

/// Size of a workload, where it does not matter.
pub(crate) const WORKLOAD: usize = 128;
/// The settings of gearmand that a bar is compared with: the better one counts, round by round.
pub(crate) const BEST: [Kind; 2] = [Kind::TheirsOne, Kind::TheirsFour];
const TUNED: [Kind; 2] = [Kind::TheirsOneTuned, Kind::TheirsFourTuned];
const LARGE: usize = 1 << 20;
/// Permitted cost relative to an earlier build.
const AS_BEFORE: Bar = Bar::Ratio(1.03);
/// Time limit of a program for printing its version.
const VERSION: Duration = Duration::from_secs(5);

/// The values of `N` metrics for each server and round.
pub(crate) struct Measured<const N: usize> {
    peers: Vec<(Kind, Vec<[f64; N]>)>,
}

impl<const N: usize> Measured<N> {
    /// Values of one metric of one server.
    pub(crate) fn series(&self, kind: Kind, metric: usize) -> Series {
        let rounds = self.peers.iter().find(|(peer, _)| *peer == kind).map(|(_, rounds)| rounds);
        let rounds = rounds.into_iter().flatten().map(|metrics| metrics[metric]).collect();
        Series { name: kind.name(), rounds }
    }

    /// A line that compares ours with `theirs` in one metric.
    pub(crate) fn line(
        &self,
        row: &'static str,
        (metric, name): (usize, &'static str),
        theirs: &[Kind],
        bar: Bar,
    ) -> Line {
        let theirs = theirs.iter().map(|kind| self.series(*kind, metric)).collect();
        Line::new(row, name, self.series(Kind::Ours, metric), theirs, bar)
    }
}

/// Whether servers run through all rounds of a row or are restarted for each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lives {
    /// Started once and warmed up by a round that does not count.
    Long,
    /// Started for each round: the row measures what a server accumulates from its start.
    Short,
}

/// Measures every server once per round, one after the other, so that a slow minute of the machine affects
/// all of them.
pub(crate) fn interleave<const N: usize>(
    options: &Options,
    kinds: &[Kind],
    lives: Lives,
    mut measure: impl FnMut(&Peer) -> Result<[f64; N]>,
) -> Result<Measured<N>> {
    let mut measured = Measured { peers: kinds.iter().map(|kind| (*kind, Vec::new())).collect() };
    let mut checked = |peer: &Peer| {
        peer.check_port()?;
        measure(peer)
    };
    let named = |kind: Kind| move |failure: crate::failure::Failure| failure.during(kind.name());
    let mut long = Vec::new();
    if lives == Lives::Long {
        for kind in kinds {
            let peer = Peer::start(*kind, options)?;
            checked(&peer).map_err(named(*kind))?;
            long.push(peer);
        }
    }
    for _ in 0..options.rounds {
        for (at, (kind, rounds)) in measured.peers.iter_mut().enumerate() {
            let metrics = match long.get(at) {
                Some(peer) => checked(peer),
                None => checked(&Peer::start(*kind, options)?),
            };
            rounds.push(metrics.map_err(named(*kind))?);
        }
    }
    Ok(measured)
}

/// Measures the selected rows. A row that fails is reported as such, and the other rows are still measured.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut report = Report {
        quick: options.quick,
        rounds: options.rounds,
        one_cpu: options.one_cpu,
        processors: std::thread::available_parallelism()?.get(),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        ours: version(&options.ours),
        theirs: version(&options.theirs),
        disk: disk::describe(&options.directory)?,
        ..Report::default()
    };
    eprintln!("{}", Report::heading());
    for row in options.rows() {
        let lines = if options.one_cpu { on_one_cpu(|| measure(row, options)) } else { measure(row, options) };
        match lines {
            Ok(lines) => {
                for line in &lines {
                    eprintln!("{}", line.text());
                }
                report.lines.extend(lines);
            }
            Err(failure) => {
                let broken = Broken { row: format!("{row:?}").to_lowercase(), failure: failure.to_string() };
                eprintln!("{:<12} FAILED: {}", broken.row, broken.failure);
                report.broken.push(broken);
            }
        }
    }
    Ok(report)
}

fn measure(row: Row, options: &Options) -> Result<Vec<Line>> {
    let sizes = options.sizes();
    match row {
        Row::Foreground => foreground(options, sizes),
        Row::Latency => latency(options, sizes),
        Row::Background => background(options, sizes),
        Row::Prefetch => rows_prefetch::prefetch(options, sizes),
        Row::Large => large(options, sizes),
        Row::Sleepers => sleepers(options, sizes),
        Row::Depth => rows_memory::depth(options, sizes),
        Row::Idle => rows_memory::idle(options, sizes),
        Row::Epoch => rows_memory::epoch(options, sizes),
        Row::Durable => rows_durable::submit(options, sizes),
        Row::DurableOne => rows_durable::one_at_a_time(options, sizes),
        Row::One => rows_one::one(options, sizes),
        Row::Life => rows_durable::life(options, sizes),
        Row::Postgres => rows_durable::database("postgres", databases::postgres, options, sizes),
        Row::Mariadb => rows_durable::database("mariadb", databases::mariadb, options, sizes),
        Row::Redis => rows_durable::database("redis", databases::redis, options, sizes),
        Row::Flood => rows_flood::flood(options, sizes),
        Row::Fairness => rows_flood::fairness(options, sizes),
        Row::Restart => rows_backlog::restart(options, sizes),
        Row::Backlog => rows_backlog::backlog(options, sizes),
        Row::Watched => rows_watched::watched(options, sizes),
    }
}

/// The first line of a program's version output; its path if there is none, or none in time.
fn version(path: &Path) -> String {
    version_line(path).ok().flatten().unwrap_or_else(|| path.display().to_string())
}

fn version_line(path: &Path) -> Result<Option<String>> {
    let mut child = Command::new(path).arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let end = Instant::now() + VERSION;
    while child.try_wait()?.is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Usually it has already exited.
    let _gone = child.kill();
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().find(|line| !line.is_empty()).map(str::to_owned))
}

/// Foreground jobs in a closed loop for `length`. Returns CPU microseconds per job.
fn closed_loop(peer: &Peer, generator: &mut Generator, length: Duration) -> Result<f64> {
    let before = peer.cpu()?;
    generator.run_for(length)?;
    Ok(microseconds_per(peer.cpu()?.saturating_sub(before), generator.tally.ended))
}

/// Many clients and workers at once: batches form, server and generator each fill a CPU.
///
/// On one CPU the server is never ahead of its input, so its batches are as large as the load allows: a
/// second measurement, less affected by other work of the machine.
fn foreground(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let free = closed_loops(options, sizes)?;
    let pinned = on_one_cpu(|| closed_loops(options, sizes))?;
    let line = |metric, theirs: &[Kind], bar| free.line("foreground", metric, theirs, bar);
    let second = |metric, theirs: &[Kind]| pinned.line("foregr./1cpu", metric, theirs, Bar::Information);
    let mut lines = vec![
        line((0, "CPU µs/job"), &BEST, Bar::Ratio(0.6)),
        line((0, "CPU µs/job, beside the floor"), &[Kind::Floor], Bar::Ratio(1.3)),
        line((1, "jobs/s, beside -t 1"), &[Kind::TheirsOne], Bar::Information),
        line((1, "jobs/s, beside the floor"), &[Kind::Floor], Bar::Information),
        second((0, "CPU µs/job"), &BEST),
        second((0, "CPU µs/job, beside the floor"), &[Kind::Floor]),
    ];
    for kind in options.earlier() {
        lines.push(line((0, "CPU µs/job, beside before"), &[kind], AS_BEFORE));
        lines.push(second((0, "CPU µs/job, beside before"), &[kind]));
    }
    Ok(lines)
}

fn closed_loops(options: &Options, sizes: Sizes) -> Result<Measured<2>> {
    let kinds = [&[Kind::Ours][..], &BEST, &[Kind::Floor], &options.earlier()].concat();
    interleave(options, &kinds, Lives::Long, |peer| {
        let mut generator = Generator::new(peer.port)?;
        generator.add_sleepers(8)?;
        generator.add_clients(8, Submission::Foreground, 32, WORKLOAD)?;
        let begun = Instant::now();
        let cpu = closed_loop(peer, &mut generator, sizes.round)?;
        Ok([cpu, float(generator.tally.ended) / begun.elapsed().as_secs_f64()])
    })
}

/// One job at a time, with server and generator on one CPU, and again wherever the scheduler puts them.
///
/// The load is serial, so a second CPU only adds the cost of waking it. That cost is charged to the sender,
/// on a virtual machine it exceeds the job's own, and the scheduler decides anew each time whether it is
/// paid: the same server may measure 40 and 90 µs. So the bars apply where nothing but the servers' own work
/// is measured.
fn latency(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let bars = [Bar::Ratio(0.95), Bar::Ratio(1.0)];
    let mut lines = on_one_cpu(|| one_at_a_time("latency", bars, options, sizes))?;
    lines.extend(one_at_a_time("latency/free", [Bar::Information; 2], options, sizes)?);
    Ok(lines)
}

fn one_at_a_time(row: &'static str, bars: [Bar; 2], options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let kinds = [&[Kind::Ours][..], &BEST, &[Kind::Floor]].concat();
    let measured = interleave(options, &kinds, Lives::Long, |peer| {
        let mut generator = Generator::new(peer.port)?;
        generator.tally.timed = true;
        generator.add_sleepers(1)?;
        generator.add_clients(1, Submission::Foreground, 1, WORKLOAD)?;
        let cpu = closed_loop(peer, &mut generator, sizes.round)?;
        let latencies = &mut generator.tally.latencies;
        Ok([cpu, percentile(latencies, 50), percentile(latencies, 99)])
    })?;
    let line = |metric, theirs: &[Kind], bar| measured.line(row, metric, theirs, bar);
    let floor = |metric, name| {
        let theirs = BEST.map(|kind| measured.series(kind, metric)).to_vec();
        Line::new(row, name, measured.series(Kind::Floor, metric), theirs, Bar::Information)
    };
    Ok(vec![
        line((0, "CPU µs/job"), &BEST, bars[0]),
        line((1, "p50 µs"), &BEST, bars[1]),
        line((2, "p99 µs"), &BEST, Bar::Information),
        floor(0, "floor as ours, CPU µs/job"),
        floor(1, "floor as ours, p50 µs"),
    ])
}

/// Runs `measure` with this process, and the servers that it starts, on the last CPU that it may use.
fn on_one_cpu<T>(measure: impl FnOnce() -> Result<T>) -> Result<T> {
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this)?;
    let mut one = CpuSet::new();
    let last = (0..CpuSet::count()).rev().find(|cpu| all.is_set(*cpu).unwrap_or(false));
    one.set(last.unwrap_or_default())?;
    sched_setaffinity(this, &one)?;
    let result = measure();
    sched_setaffinity(this, &all)?;
    result
}

/// Background jobs from one client, whose window determines the batches; and from eight, where batches are so
/// large that hardly anything but the job itself remains.
fn background(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let few = [&[Kind::Ours][..], &TUNED, &[Kind::Floor], &options.earlier()].concat();
    let one = submit_and_drain(1, &[&few[..], &BEST].concat(), options, sizes)?;
    let eight = submit_and_drain(8, &few, options, sizes)?;
    let line = |metric, theirs: &[Kind], bar| one.line("background", metric, theirs, bar);
    let second = |metric, theirs: &[Kind]| eight.line("backgr./8", metric, theirs, Bar::Information);
    let mut lines = vec![
        line((0, "submit, CPU µs/job"), &BEST, Bar::Ratio(0.3)),
        line((1, "drain, CPU µs/job"), &BEST, Bar::Ratio(0.4)),
        line((0, "submit, beside tuned"), &TUNED, Bar::Ratio(0.7)),
        line((1, "drain, beside tuned"), &TUNED, Bar::Information),
        line((0, "submit, beside the floor"), &[Kind::Floor], Bar::Information),
        line((1, "drain, beside the floor"), &[Kind::Floor], Bar::Information),
        second((0, "submit, beside tuned"), &TUNED),
        second((0, "submit, beside the floor"), &[Kind::Floor]),
    ];
    for kind in options.earlier() {
        lines.push(line((0, "submit, beside before"), &[kind], AS_BEFORE));
        lines.push(line((1, "drain, beside before"), &[kind], AS_BEFORE));
        lines.push(second((0, "submit, beside before"), &[kind]));
    }
    Ok(lines)
}

fn submit_and_drain(clients: usize, kinds: &[Kind], options: &Options, sizes: Sizes) -> Result<Measured<2>> {
    let jobs = sizes.background_jobs;
    interleave(options, kinds, Lives::Long, |peer| {
        let mut generator = Generator::new(peer.port)?;
        generator.add_clients(clients, Submission::Background, 32, WORKLOAD)?;
        let before = peer.cpu()?;
        generator.run_count(jobs)?;
        let submitted = peer.cpu()?;
        rows_memory::expect_jobs(peer, jobs)?;
        generator.add_workers(8)?;
        let connected = peer.cpu()?;
        generator.drain(jobs)?;
        let drained = peer.cpu()?;
        rows_memory::expect_jobs(peer, 0)?;
        let submit = microseconds_per(submitted.saturating_sub(before), jobs);
        Ok([submit, microseconds_per(drained.saturating_sub(connected), jobs)])
    })
}

fn large(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let kinds = [&[Kind::Ours][..], &BEST].concat();
    let measured = interleave(options, &kinds, Lives::Long, |peer| {
        let mut generator = Generator::new(peer.port)?;
        generator.add_sleepers(4)?;
        generator.add_clients(4, Submission::Foreground, 1, LARGE)?;
        Ok([closed_loop(peer, &mut generator, sizes.round)?])
    })?;
    Ok(vec![measured.line("large", (0, "CPU µs/job of 1 MiB"), &BEST, Bar::Ratio(1.0))])
}

fn sleepers(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let default = [Kind::TheirsDefault];
    let kinds = [&[Kind::Ours][..], &BEST, &default].concat();
    let measured = interleave(options, &kinds, Lives::Long, |peer| {
        let mut generator = Generator::new(peer.port)?;
        generator.add_sleepers(200)?;
        generator.add_clients(1, Submission::Foreground, 1, WORKLOAD)?;
        let before = peer.cpu()?;
        generator.run_for(sizes.round / 2)?;
        // Wake-ups that were sent with the last jobs count too.
        generator.linger(Duration::from_millis(150))?;
        let jobs = generator.tally.ended;
        let cpu = microseconds_per(peer.cpu()?.saturating_sub(before), jobs);
        Ok([float(generator.tally.noops) / float(jobs), cpu])
    })?;
    let line = |metric, theirs: &[Kind], bar| measured.line("sleepers", metric, theirs, bar);
    Ok(vec![
        line((0, "NOOPs/job, beside default"), &default, Bar::Absolute(1.05)),
        line((0, "NOOPs/job"), &BEST, Bar::Information),
        line((1, "CPU µs/job, beside default"), &default, Bar::Information),
        line((1, "CPU µs/job"), &BEST, Bar::Information),
    ])
}
