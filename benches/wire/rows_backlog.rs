//! Rows that measure a durable server with many queued jobs: its start, and handing the jobs out.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::disk;
use crate::failure::{Result, fail};
use crate::generator::Generator;
use crate::measuring::float;
use crate::options::{Options, Sizes};
use crate::peers::{Kind, Peer, Queue};
use crate::protocol::{CAN_DO, GRAB_JOB_ALL, JOB_ASSIGN_UNIQ, NO_JOB, REQUEST, append, response};
use crate::report::{Bar, Line, Series};
use crate::roles::{FUNCTION, Submission};
use crate::rows::WORKLOAD;
use crate::rows_durable::{CLIENTS, WINDOW, WORKERS};
use crate::rows_memory::expect_jobs;

/// Size of a workload of the backlog, in bytes.
const KIBIBYTE: usize = 1024;
/// The bar for memory applies to this many jobs.
const FULL_BACKLOG: u64 = 10_000_000;
/// Maximum number of jobs queued in memory: they take 1 KiB each, and at most half of a machine's memory may
/// be used.
const MOST_IN_MEMORY: u64 = 1_000_000;
/// Maximum number of jobs that workers run in one round.
const MOST_WORKED: u64 = 500_000;
/// Bar for the time from a start to a worker's first job, in seconds, whatever the number of jobs.
const FIRST_JOB: f64 = 1.5;
const RESTART: Duration = Duration::from_mins(3);
/// The file with the jobs, and its WAL.
const FILE: &str = "jobs.sqlite3";
const WITH_ITS_LOG: [&str; 2] = [FILE, "jobs.sqlite3-wal"];

fn fill(peer: &Peer, jobs: u64, workload: usize) -> Result<Duration> {
    let mut generator = Generator::new(peer.port)?;
    generator.add_clients(CLIENTS, Submission::Background, WINDOW, workload)?;
    let begun = Instant::now();
    generator.run_count(jobs)?;
    let elapsed = begun.elapsed();
    expect_jobs(peer, jobs)?;
    Ok(elapsed)
}

/// Seconds from a start to the first job that a worker gets, and to the first `status` that counts all jobs,
/// and the resident memory then.
///
/// Each server is killed at the end, so each start finds the file as a crash leaves it.
pub(crate) fn restart(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    disk::expect_disk(&options.directory)?;
    let directories = [disk::directory(options)?, disk::directory(options)?];
    let [ours, theirs] = directories.each_ref().map(TempDir::path);
    let jobs = options.queued.unwrap_or(sizes.restart_jobs);
    fill(&Peer::start_on(Kind::Ours, &Queue::file(&ours.join(FILE)), options)?, jobs, WORKLOAD)?;
    // gearmand would take a quarter of an hour to write them; it reads our file as it is.
    for name in WITH_ITS_LOG {
        if ours.join(name).exists() {
            fs::copy(ours.join(name), theirs.join(name))?;
        }
    }
    let mut measured = [(Kind::Ours, ours), (Kind::TheirsOneTuned, theirs)]
        .map(|(kind, directory)| (kind, directory, [Vec::new(), Vec::new(), Vec::new()]));
    for _ in 0..options.rounds {
        for (kind, directory, metrics) in &mut measured {
            let during = |failure: crate::failure::Failure| failure.during(kind.name());
            let round = start(*kind, directory, jobs, options).map_err(during)?;
            metrics.iter_mut().zip(round).for_each(|(metric, value)| metric.push(value));
        }
    }
    let [ours, theirs] = measured.map(|(kind, _, metrics)| metrics.map(|rounds| Series { name: kind.name(), rounds }));
    let line = |metric, at: usize, bar| Line::new("restart", metric, ours[at].clone(), vec![theirs[at].clone()], bar);
    Ok(vec![
        line("s until the first job", 0, Bar::Absolute(FIRST_JOB)),
        line("s until all jobs are back", 1, Bar::Absolute(5.0)),
        line("MB resident then", 2, Bar::Absolute(450.0)),
    ])
}

/// The worker keeps the first job without completing it: the next start finds it again.
fn start(kind: Kind, directory: &Path, jobs: u64, options: &Options) -> Result<[f64; 3]> {
    let begun = Instant::now();
    let peer = Peer::start_on(kind, &Queue::file(&directory.join(FILE)), options)?;
    let worker = first_job(&peer)?;
    let first = begun.elapsed();
    loop {
        match peer.jobs()? {
            counted if counted == jobs => break,
            counted if begun.elapsed() > RESTART => return fail(format!("{counted} jobs of {jobs} are back")),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    let elapsed = begun.elapsed();
    drop(worker);
    Ok([first.as_secs_f64(), elapsed.as_secs_f64(), float(peer.resident()?) / 1e6])
}

/// Connects a worker that gets a job.
fn first_job(peer: &Peer) -> Result<TcpStream> {
    let mut worker = TcpStream::connect((Ipv4Addr::LOCALHOST, peer.port))?;
    worker.set_read_timeout(Some(RESTART))?;
    let mut request = Vec::new();
    append(&mut request, REQUEST, CAN_DO, &[FUNCTION]);
    let mut input = Vec::new();
    loop {
        append(&mut request, REQUEST, GRAB_JOB_ALL, &[]);
        worker.write_all(&request)?;
        request.clear();
        input.clear();
        let kind = loop {
            let mut buffer = [0; 4096];
            let length = worker.read(&mut buffer)?;
            if length == 0 {
                return fail("the server closed the worker's connection");
            }
            input.extend_from_slice(&buffer[..length]);
            if let Some(packet) = response(&input)? {
                break packet.kind;
            }
        };
        match kind {
            JOB_ASSIGN_UNIQ => return Ok(worker),
            NO_JOB => std::thread::sleep(Duration::from_millis(1)),
            kind => return fail(format!("GRAB_JOB was answered with packet type {kind}")),
        }
    }
}

/// A backlog and the workers that drain it, a slice per round.
struct Backlog {
    peer: Peer,
    workers: Generator,
    slice: u64,
    rates: Series,
    fill_rate: f64,
    gibibytes: f64,
}

impl Backlog {
    /// Queues `jobs`, measures, and drains the first fifth: those are the jobs that are in memory.
    fn new(name: &'static str, queue: &Queue, jobs: u64, options: &Options) -> Result<Self> {
        let peer = Peer::start_on(Kind::Ours, queue, options)?;
        let filling = fill(&peer, jobs, KIBIBYTE)?;
        let gibibytes = float(peer.resident()?) / float(1 << 30);
        let mut workers = Generator::new(peer.port)?;
        workers.add_workers(WORKERS)?;
        workers.work(jobs / 5)?;
        let slice = (jobs / 2 / u64::from(options.rounds)).min(MOST_WORKED);
        let fill_rate = float(jobs) / filling.as_secs_f64();
        Ok(Self { peer, workers, slice, rates: Series { name, rounds: Vec::new() }, fill_rate, gibibytes })
    }

    fn round(&mut self) -> Result<()> {
        self.peer.check_port()?;
        let begun = Instant::now();
        self.workers.work(self.slice)?;
        self.rates.rounds.push(float(self.slice) / begun.elapsed().as_secs_f64());
        Ok(())
    }

    fn once(&self, value: f64) -> Series {
        Series { name: self.rates.name, rounds: vec![value] }
    }
}

/// Queued jobs of 1 KiB of which the durable queue keeps 128 MiB in memory, handed out to 8 workers.
pub(crate) fn backlog(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    disk::expect_disk(&options.directory)?;
    let jobs = if options.quick { sizes.restart_jobs } else { options.backlog };
    let directory = disk::directory(options)?;
    let mut durable = Backlog::new("ours", &Queue::file(&directory.path().join(FILE)), jobs, options)?;
    let mut memory = Backlog::new("ours, builtin", &Queue::memory(), jobs.min(MOST_IN_MEMORY), options)?;
    for _ in 0..options.rounds {
        durable.round()?;
        memory.round()?;
    }
    let line = |metric, ours: Series, theirs: Series, bar| Line::new("backlog", metric, ours, vec![theirs], bar);
    let bar = if jobs >= FULL_BACKLOG { Bar::Absolute(1.5) } else { Bar::Information };
    Ok(vec![
        line("drain, jobs/s, beside builtin", durable.rates.clone(), memory.rates.clone(), Bar::Times(0.5)),
        line("GiB resident", durable.once(durable.gibibytes), memory.once(memory.gibibytes), bar),
        line(
            "submit, jobs/s of 1 KiB",
            durable.once(durable.fill_rate),
            memory.once(memory.fill_rate),
            Bar::Information,
        ),
    ])
}
