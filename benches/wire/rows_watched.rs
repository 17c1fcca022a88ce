//! The row that measures the cost of monitoring a server.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::failure::{Result, fail};
use crate::generator::Generator;
use crate::measuring::{microseconds_per, percentile};
use crate::options::{Options, Sizes};
use crate::peers::{Kind, Peer, Queue};
use crate::report::{Bar, Line, Series};
use crate::roles::Submission;
use crate::rows::WORKLOAD;

/// Function of the queued jobs, which no worker has registered.
const BACKLOG: &[u8] = b"backlog";
/// Function of the sleeping workers.
const IDLE: &[u8] = b"idle";
/// Intervals of `workers`, of scraping `/metrics`, and of an open dashboard's requests.
const WORKERS_INTERVAL: Duration = Duration::from_millis(100);
const METRICS_INTERVAL: Duration = Duration::from_secs(1);
const PAGE_INTERVAL: Duration = Duration::from_secs(2);
/// Requests of the dashboard's pages while they are open, in addition to the event stream.
const PAGES: [&str; 4] = [
    "/api/v1/server",
    "/api/v1/functions",
    "/api/v1/workers?limit=200",
    "/api/v1/jobs?function=backlog&state=queued&limit=50",
];
/// Number of alternations of calm and watched per round, so that other work of the machine affects both.
const TURNS: usize = 4;

/// Monitoring clients; they run until dropped.
struct Watchers {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    looks: Arc<AtomicU64>,
}

impl Watchers {
    fn start(gear: u16, http: u16) -> Self {
        let mut watchers = Self { end: Arc::default(), threads: Vec::new(), looks: Arc::default() };
        watchers.repeat(WORKERS_INTERVAL, move || ask_for_workers(gear));
        watchers.repeat(METRICS_INTERVAL, move || get(http, "/metrics"));
        watchers.repeat(PAGE_INTERVAL, move || PAGES.iter().try_for_each(|page| get(http, page)));
        let (end, looks) = (Arc::clone(&watchers.end), Arc::clone(&watchers.looks));
        watchers.threads.push(std::thread::spawn(move || follow_events(http, &end, &looks)));
        watchers
    }

    fn repeat(&mut self, interval: Duration, look: impl Fn() -> Result<()> + Send + 'static) {
        let (end, looks) = (Arc::clone(&self.end), Arc::clone(&self.looks));
        self.threads.push(std::thread::spawn(move || {
            let mut next = Instant::now();
            while !end.load(Ordering::Relaxed) {
                look()?;
                looks.fetch_add(1, Ordering::Relaxed);
                next += interval;
                while !end.load(Ordering::Relaxed) && Instant::now() < next {
                    std::thread::sleep(next.saturating_duration_since(Instant::now()).min(WORKERS_INTERVAL));
                }
            }
            Ok(())
        }));
    }

    /// Fails if one of them failed. Returns the number of their requests.
    fn stop(self) -> Result<u64> {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => return fail("one who looked at the server has panicked"),
            }
        }
        Ok(self.looks.load(Ordering::Relaxed))
    }
}

fn ask_for_workers(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"workers\n")?;
    let (mut buffer, mut last) = (vec![0; 1 << 20], [0; 3]);
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return fail("the list of workers breaks off");
        }
        for byte in &buffer[..read] {
            last = [last[1], last[2], *byte];
        }
        if last == *b"\n.\n" {
            return Ok(());
        }
    }
}

fn get(port: u16, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    fail(format!("{path} is answered with {:?}", String::from_utf8_lossy(&answer[..answer.len().min(80)])))
}

fn follow_events(port: u16, end: &AtomicBool, looks: &AtomicU64) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut buffer = vec![0; 1 << 16];
    while !end.load(Ordering::Relaxed) {
        if stream.read(&mut buffer)? == 0 {
            return fail("the events break off");
        }
        looks.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// CPU time of the server's whole process per foreground job, and the 99th percentile of latency.
fn foreground(peer: &Peer, generator: &mut Generator, length: Duration) -> Result<[f64; 2]> {
    generator.tally.latencies.clear();
    let (before, ended) = (peer.cpu()?, generator.tally.ended);
    generator.run_for(length)?;
    let cpu = peer.cpu()?.saturating_sub(before);
    Ok([microseconds_per(cpu, generator.tally.ended - ended), percentile(&mut generator.tally.latencies, 99)])
}

/// Foreground jobs beside many sleeping workers and queued jobs, first without and then with monitoring: an
/// open dashboard, a scrape of the metrics every second, `workers` ten times a second.
pub(crate) fn watched(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let series = |name| Series { name, rounds: Vec::new() };
    let (mut calm, mut watched) = ([series("calm"), series("calm")], [series("ours"), series("ours")]);
    for _ in 0..options.rounds {
        let http = free_port()?;
        let queue = Queue::memory().with_http(http);
        let peer = Peer::start_on(Kind::Ours, &queue, options)?;
        let mut backlog = Generator::of(BACKLOG, peer.port)?;
        backlog.add_clients(8, Submission::Background, 64, WORKLOAD)?;
        backlog.run_count(sizes.depth_jobs)?;
        drop(backlog);
        let mut idle = Generator::of(IDLE, peer.port)?;
        idle.add_sleepers(sizes.idle_workers as usize)?;
        let mut generator = Generator::new(peer.port)?;
        generator.add_sleepers(8)?;
        generator.add_clients(8, Submission::Foreground, 32, WORKLOAD)?;
        generator.tally.timed = true;
        foreground(&peer, &mut generator, sizes.round / 4)?;
        let mut looks = 0;
        for _ in 0..TURNS {
            for (series, value) in calm.iter_mut().zip(foreground(&peer, &mut generator, sizes.round)?) {
                series.rounds.push(value);
            }
            let watchers = Watchers::start(peer.port, http);
            for (series, value) in watched.iter_mut().zip(foreground(&peer, &mut generator, sizes.round)?) {
                series.rounds.push(value);
            }
            looks += watchers.stop()?;
        }
        if looks == 0 {
            return fail("nobody has looked");
        }
        peer.check_port()?;
    }
    let [calm_cpu, calm_p99] = calm;
    let [watched_cpu, watched_p99] = watched;
    Ok(vec![
        Line::new("watched", "CPU µs/job, beside calm", watched_cpu, vec![calm_cpu], Bar::Ratio(1.05)),
        Line::new("watched", "p99 µs, beside calm", watched_p99, vec![calm_p99], Bar::Ratio(1.1)),
    ])
}
