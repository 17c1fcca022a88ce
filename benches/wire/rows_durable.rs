//! Rows of the durable queue: jobs that are on the disk when they are acknowledged.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::databases::Database;
use crate::disk;
use crate::failure::Result;
use crate::generator::Generator;
use crate::measuring::{float, microseconds_per, percentile};
use crate::options::{Options, Sizes};
use crate::peers::{Kind, Peer, Queue};
use crate::report::{Bar, Line, Series};
use crate::roles::Submission;
use crate::rows::WORKLOAD;
use crate::rows_memory::expect_jobs;

/// Number of clients, and of the jobs that each has outstanding.
pub(crate) const CLIENTS: usize = 8;
pub(crate) const WINDOW: usize = 64;
pub(crate) const WORKERS: usize = 8;
/// This fraction of a round's jobs is submitted before the measurement, as a warm-up.
const WARM_UP: u64 = 50;
/// Time after the last job has ended for its removal to be written.
const AFTERMATH: Duration = Duration::from_millis(300);

/// Where a server keeps its jobs.
#[derive(Clone, Copy)]
enum Keep<'a> {
    Memory,
    File,
    Database(&'a Database),
}

/// A server in a row, and its number of jobs per round: servers differ by a factor of hundreds.
struct Contender<'a> {
    kind: Kind,
    name: &'static str,
    keep: Keep<'a>,
    jobs: u64,
}

/// A server in a round.
struct Round<'a> {
    peer: &'a Peer,
    jobs: u64,
    directory: &'a Path,
}

/// Values measured for each contender, one per round.
struct Measured<const N: usize>(Vec<(&'static str, Vec<[f64; N]>)>);

impl<const N: usize> Measured<N> {
    fn series(&self, contender: usize, metric: usize) -> Series {
        let (name, rounds) = &self.0[contender];
        Series { name, rounds: rounds.iter().map(|metrics| metrics[metric]).collect() }
    }

    /// A line that compares the first contender with others.
    fn line(&self, row: &'static str, (metric, name): (usize, &'static str), others: &[usize], bar: Bar) -> Line {
        let others = others.iter().map(|other| self.series(*other, metric)).collect();
        Line::new(row, name, self.series(0, metric), others, bar)
    }
}

/// Ours and both settings of gearmand, with a file each.
fn with_files(many: u64, few: u64) -> Vec<Contender<'static>> {
    let keep = Keep::File;
    let theirs = |kind: Kind| Contender { kind, name: kind.name(), keep, jobs: few };
    let ours = Contender { kind: Kind::Ours, name: "ours", keep, jobs: many };
    vec![ours, theirs(Kind::TheirsOne), theirs(Kind::TheirsFour)]
}

/// Measures every contender once per round, each with a new store.
fn take_turns<const N: usize>(
    contenders: &[Contender<'_>],
    options: &Options,
    mut measure: impl FnMut(&Round<'_>) -> Result<[f64; N]>,
) -> Result<Measured<N>> {
    disk::expect_disk(&options.directory)?;
    let mut measured = Measured(contenders.iter().map(|contender| (contender.name, Vec::new())).collect());
    for round in 0..options.rounds {
        for (at, contender) in contenders.iter().enumerate() {
            let directory = disk::directory(options)?;
            let queue = match contender.keep {
                Keep::Memory => Queue::memory(),
                Keep::File => Queue::file(&directory.path().join("jobs.sqlite3")),
                Keep::Database(database) => database.queue(&format!("jobs_{at}_{round}_")),
            };
            let during = |failure: crate::failure::Failure| failure.during(contender.name);
            let peer = Peer::start_on(contender.kind, &queue, options).map_err(during)?;
            let round = Round { peer: &peer, jobs: contender.jobs, directory: directory.path() };
            measured.0[at].1.push(measure(&round).map_err(during)?);
            peer.check_port()?;
        }
    }
    Ok(measured)
}

/// Jobs per second, and the server's CPU time per job, of clients that only submit.
fn submit_all(round: &Round<'_>) -> Result<[f64; 2]> {
    let mut generator = Generator::new(round.peer.port)?;
    generator.add_clients(CLIENTS, Submission::Background, WINDOW, WORKLOAD)?;
    let warm_up = round.jobs / WARM_UP;
    generator.run_count(warm_up)?;
    let (begun, before) = (Instant::now(), round.peer.cpu()?);
    generator.run_count(round.jobs)?;
    let elapsed = begun.elapsed();
    let cpu = round.peer.cpu()?.saturating_sub(before);
    expect_jobs(round.peer, warm_up + round.jobs)?;
    Ok([float(round.jobs) / elapsed.as_secs_f64(), microseconds_per(cpu, round.jobs)])
}

/// Submissions of many clients, compared with gearmand with a file and with our own without one.
pub(crate) fn submit(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let mut contenders = with_files(sizes.many, sizes.few);
    contenders.push(Contender { kind: Kind::Ours, name: "ours, builtin", keep: Keep::Memory, jobs: sizes.many });
    let measured = take_turns(&contenders, options, submit_all)?;
    let line = |metric, others: &[usize], bar| measured.line("durable", metric, others, bar);
    Ok(vec![
        line((0, "submit, jobs/s"), &[1, 2], Bar::Times(20.0)),
        line((0, "submit, jobs/s, beside builtin"), &[3], Bar::Times(0.5)),
        line((1, "submit, CPU µs/job"), &[1, 2], Bar::Information),
        line((1, "submit, CPU, beside builtin"), &[3], Bar::Information),
    ])
}

/// One client that waits for each job: the time of a transaction with one job. Right after it, the time of a
/// disk flush.
pub(crate) fn one_at_a_time(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let contenders = with_files(0, 0);
    let measured = take_turns(&contenders, options, |round| {
        let before = disk::flush(round.directory, sizes.round / 4)?;
        let mut generator = Generator::new(round.peer.port)?;
        generator.add_clients(1, Submission::Background, 1, WORKLOAD)?;
        generator.run_for(sizes.round / 10)?;
        generator.tally.timed = true;
        let ended = generator.tally.ended;
        let begun = Instant::now();
        generator.run_for(sizes.round)?;
        let rate = float(generator.tally.ended - ended) / begun.elapsed().as_secs_f64();
        let latencies = &mut generator.tally.latencies;
        let (median, worst) = (percentile(latencies, 50), percentile(latencies, 99));
        let flush = f64::midpoint(before, disk::flush(round.directory, sizes.round / 4)?);
        Ok([rate, median, worst, median - flush, flush])
    })?;
    let line = |metric, bar| measured.line("durable-one", metric, &[1, 2], bar);
    let flushes = Series { name: "the disk", ..measured.series(0, 4) };
    Ok(vec![
        line((0, "jobs/s"), Bar::Times(3.0)),
        line((3, "p50 µs, less the disk's"), Bar::Absolute(150.0)),
        line((1, "p50 µs"), Bar::Information),
        Line::new("durable-one", "p50 µs, beside a flush", measured.series(0, 1), vec![flushes], Bar::Information),
        line((2, "p99 µs"), Bar::Information),
    ])
}

/// Jobs from their submission to their end, while others are submitted.
pub(crate) fn life(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let mut contenders = with_files(sizes.many, sizes.few / 2);
    contenders.push(Contender { kind: Kind::Ours, name: "ours, builtin", keep: Keep::Memory, jobs: sizes.many });
    let measured = take_turns(&contenders, options, |round| {
        let mut generator = Generator::new(round.peer.port)?;
        generator.add_sleepers(WORKERS)?;
        generator.add_clients(CLIENTS, Submission::Background, WINDOW, WORKLOAD)?;
        let warm_up = round.jobs / WARM_UP;
        generator.run_count(warm_up)?;
        generator.drain(warm_up)?;
        let (begun, before) = (Instant::now(), round.peer.cpu()?);
        generator.run_count(round.jobs)?;
        generator.drain(warm_up + round.jobs)?;
        let elapsed = begun.elapsed();
        generator.linger(AFTERMATH)?;
        let cpu = round.peer.cpu()?.saturating_sub(before);
        expect_jobs(round.peer, 0)?;
        Ok([float(round.jobs) / elapsed.as_secs_f64(), microseconds_per(cpu, round.jobs)])
    })?;
    let line = |metric, others: &[usize], bar| measured.line("life", metric, others, bar);
    Ok(vec![
        line((0, "jobs/s"), &[1, 2], Bar::Times(15.0)),
        line((1, "CPU µs/job"), &[1, 2], Bar::Absolute(12.0)),
        line((0, "jobs/s, beside builtin"), &[3], Bar::Information),
        line((1, "CPU µs/job, beside builtin"), &[3], Bar::Information),
    ])
}

/// Submissions of many clients with a database, compared with gearmand with the same one.
pub(crate) fn database(
    row: &'static str,
    start: fn(&Options) -> Result<Database>,
    options: &Options,
    sizes: Sizes,
) -> Result<Vec<Line>> {
    disk::expect_disk(&options.directory)?;
    let database = start(options)?;
    let keep = Keep::Database(&database);
    let mut contenders = with_files(sizes.many / 3, sizes.few);
    for contender in &mut contenders {
        contender.keep = keep;
    }
    let measured = take_turns(&contenders, options, submit_all)?;
    Ok(vec![
        measured.line(row, (0, "submit, jobs/s"), &[1, 2], Bar::Times(8.0)),
        measured.line(row, (1, "submit, CPU µs/job"), &[1, 2], Bar::Information),
    ])
}
