//! Jobs that go on coming while a test does something, and the account of them.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::common::{Wire, packet};
use crate::world::{PATIENCE, World};

/// So many jobs are under way at a time.
const OPEN: usize = 12;
/// How long each takes that somebody waits for, in milliseconds.
const TIME_MS: &str = "20";

/// Background jobs whose runs are lines of a file, and foreground jobs whose results are awaited.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    background: JoinHandle<usize>,
    foreground: JoinHandle<usize>,
    log: PathBuf,
}

impl Load {
    pub(crate) fn start(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (log, address) = (world.path("log"), local(world));
        let background = {
            let (stop, log) = (Arc::clone(&stop), log.clone());
            std::thread::spawn(move || write_lines(address, &log, &stop))
        };
        let foreground = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || await_results(address, &stop))
        };
        Self { stop, background, foreground, log }
    }

    /// How many lines there are.
    pub(crate) fn done(&self) -> usize {
        lines(&self.log).len()
    }

    /// Waits until so many more lines are there.
    #[track_caller]
    pub(crate) fn goes_on(&self, more: usize) {
        let (begin, end) = (self.done(), Instant::now() + PATIENCE);
        while self.done() < begin + more {
            assert!(Instant::now() < end, "no job is done any more: {} of {more}", self.done() - begin);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Ends it. Every job must have been done; how often each was, at most.
    #[track_caller]
    pub(crate) fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let submitted = self.background.join().expect("all background jobs");
        let awaited = self.foreground.join().expect("all foreground jobs");
        assert!(submitted > 0 && awaited > 0, "{submitted} and {awaited} jobs are no load");
        let mut runs: BTreeMap<usize, usize> = BTreeMap::new();
        for line in lines(&self.log) {
            *runs.entry(line).or_default() += 1;
        }
        let lost: Vec<usize> = (0..submitted).filter(|number| !runs.contains_key(number)).collect();
        assert!(lost.is_empty(), "of {submitted} jobs these were never done: {lost:?}");
        assert_eq!(runs.len(), submitted, "jobs were done that nobody submitted");
        runs.values().copied().max().unwrap_or(0)
    }
}

pub(crate) fn local(world: &World) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], world.server.port()))
}

/// The numbers of the jobs that were done.
fn lines(log: &Path) -> Vec<usize> {
    let text = fs::read_to_string(log).unwrap_or_default();
    // A line may have more after the number, such as who wrote it.
    let number = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok());
    // The last one may be half there.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| number(line).unwrap_or_else(|| panic!("a strange line: {line:?}"))).collect()
}

/// Submits background jobs until it is stopped and all are done.
fn write_lines(address: SocketAddr, log: &Path, stop: &AtomicBool) -> usize {
    let mut client = Wire::connect(address);
    let mut submitted = 0;
    let mut progress = (0, Instant::now());
    loop {
        // How many different jobs were done: one that was done twice must not hide one that was not.
        let mut done = lines(log);
        done.sort_unstable();
        done.dedup();
        let is_ending = stop.load(Ordering::Relaxed);
        if is_ending && done.len() >= submitted {
            return submitted;
        }
        if done.len() > progress.0 {
            progress = (done.len(), Instant::now());
        }
        assert!(progress.1.elapsed() < PATIENCE, "no job is done any more: {} of {submitted}", done.len());
        while !is_ending && submitted < done.len() + OPEN {
            let number = submitted.to_string();
            client.send(packet::SUBMIT_JOB_BG, &packet::body(&[b"log_line", number.as_bytes(), number.as_bytes()]));
            client.expect_type(packet::JOB_CREATED);
            submitted += 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Submits jobs and waits for each until it is stopped.
fn await_results(address: SocketAddr, stop: &AtomicBool) -> usize {
    let mut client = Wire::connect(address);
    client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        client.send(packet::SUBMIT_JOB, &packet::body(&[b"sleep_ms", b"", TIME_MS.as_bytes()]));
        client.expect_type(packet::JOB_CREATED);
        let result = client.expect_type(packet::WORK_COMPLETE);
        assert!(result.ends_with(TIME_MS.as_bytes()), "{result:?}");
        count += 1;
    }
    count
}
