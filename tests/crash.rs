//! Kills: no acknowledged job is lost, and none that was done comes back, when the server dies at any moment.
//!
//! The real server is killed in the middle of what clients, workers and operators of several kinds do to it,
//! and started again on the same file, round after round. What all peers know is kept in one book
//! (`crash/book.rs`); after each kill the file is read by the library and held against it, and after each
//! start the server's own list against the file. At the end everything is done, and the file is empty.
//!
//! That the test sees a server that acknowledges before it has committed is shown by making one: in
//! `Writer::change` of `src/store/writer.rs`, instead of `self.commit_all(additions, changes, &mut reports);`
//!
//! ```text
//! self.tell(additions.iter().map(|addition| added(addition.ticket, Ok(()))).collect());
//! self.commit_all(additions, changes, &mut Vec::new());
//! ```
//!
//! The first or second kill then loses jobs. `tests/power.rs` has such a server in every run: `--durability
//! off`.
//!
//! `GEARMAND_CRASH_ROUNDS` is the number of kills (50), `GEARMAND_CRASH_SEED` the seed of all that is random.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed expectation is how a test fails"
)]

mod common;
mod crash {
    pub(crate) mod book;
    pub(crate) mod peers;
}
mod durable;

use std::collections::HashMap;
use std::env;
use std::path::Path;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Server, Wire};
use crash::book::{Book, handles};
use crash::peers::{Foreign, Gone, Link, able, cancel, complete, grab, one_by_one, pipeline, sleep, work};
use durable::Random;
use gearmand::store::location::Access;
use tempfile::TempDir;

/// Scheduled jobs are due within a thousand seconds from so long ago: each second one is due at once.
const DUE_AGO_S: u64 = 500;

#[test]
fn kills_lose_no_acknowledged_job_and_bring_none_back() {
    let seed = number("GEARMAND_CRASH_SEED").unwrap_or_else(|| now().as_micros().try_into().expect("a time"));
    let rounds = number("GEARMAND_CRASH_ROUNDS").unwrap_or(50);
    println!("GEARMAND_CRASH_SEED={seed} GEARMAND_CRASH_ROUNDS={rounds}");
    let mut random = Random::new(seed);
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("queue.sqlite3");
    let mut server = Server::ours(&["-q", "libsqlite3", "--libsqlite3-db", &file.display().to_string()]);
    let book = Book::new();
    let mut back = 0;
    for round in 0..rounds {
        one_round(&mut server, &book, round, &mut random);
        let contents = durable::read(&file, Access::Read).expect("a file that opens");
        back += contents.jobs.len();
        if let Err(wrong) = book.settle(&contents) {
            panic!("GEARMAND_CRASH_SEED={seed}, after kill {round}:\n  {}", wrong.join("\n  "));
        }
        server.restart();
        let listed = handles(&Wire::connect(server.addr()).text("show jobs"));
        let kept = contents.jobs.iter().map(|job| job.handle.clone()).collect();
        assert_eq!(listed, kept, "GEARMAND_CRASH_SEED={seed}, after start {round}: the server's jobs, and the file's");
    }
    let (submitted, open) = book.counts();
    println!("{submitted} jobs submitted, {back} found after kills, {open} left to do");
    drain(&server, &book, &mut random).unwrap_or_else(|Gone| panic!("the server is gone"));
    assert_eq!(Wire::connect(server.addr()).text("show jobs"), ".\n", "jobs that nobody can do");
    assert!(server.terminate().success());
    assert_empty(&file);
}

/// Puts peers on the server, kills it once a number of jobs was acknowledged, and waits until all have
/// noticed.
fn one_round(server: &mut Server, book: &Book, round: u64, random: &mut Random) {
    let address = server.addr();
    let client = round * 10;
    let due_s = now().as_secs() - DUE_AGO_S;
    let seeds: Vec<u64> = (0..5).map(|_| random.next()).collect();
    let foreign = Foreign::start(round, address.port(), book, client);
    let enough = 20 + random.below(150);
    thread::scope(|scope| {
        for (place, seed) in seeds.iter().enumerate() {
            scope.spawn(move || {
                let random = &mut Random::new(*seed);
                let client = client + 1 + place as u64;
                // Each ends with its connection.
                let (Ok(()) | Err(Gone)) = match place {
                    0 | 1 => pipeline(address, book, client, due_s, random),
                    2 => one_by_one(address, book, client, due_s, random),
                    _ => work(address, book, random),
                };
            });
        }
        book.wait_for_acknowledged(enough);
        server.kill();
    });
    foreign.finish(book);
}

/// Does all that is left: cancels what is due long after the test, and works on the rest.
fn drain(server: &Server, book: &Book, random: &mut Random) -> Result<(), Gone> {
    let soon = now().as_secs() + 1;
    let mut operator = Link::connect(server.addr())?;
    for (serial, handle) in book.open_handles() {
        if book.submission(serial).due_s > soon || random.chance(5) {
            cancel(&mut operator, book, serial, &handle)?;
        }
    }
    let mut worker = able(server.addr())?;
    // Priorities count over all functions, and numbers within one of both. What is scheduled comes when it is
    // due.
    let mut last: HashMap<(Vec<u8>, u8), u64> = HashMap::new();
    let mut lowest = 0;
    loop {
        while let Some((serial, handle)) = grab(&mut worker, book)? {
            let submission = book.submission(serial);
            let (priority, number) = (submission.priority as u8, number_of(&handle));
            if submission.due_s == 0 {
                assert!(priority >= lowest, "{handle} comes after jobs of a lower priority");
                lowest = priority;
                let earlier = last.insert((submission.function, priority), number);
                assert!(earlier < Some(number), "{handle} comes after number {earlier:?} of its function and priority");
            }
            complete(&mut worker, book, serial, &handle)?;
        }
        if handles(&Wire::connect(server.addr()).text("show jobs")).is_empty() {
            let (_, open) = book.counts();
            assert_eq!(open, 0, "acknowledged jobs were never handed out");
            return Ok(());
        }
        sleep(&mut worker)?;
    }
}

fn assert_empty(file: &Path) {
    let contents = durable::read(file, Access::Read).expect("a file that opens");
    assert!(contents.jobs.is_empty(), "left in the file: {:?}", contents.jobs);
}

fn number_of(handle: &str) -> u64 {
    handle.rsplit(':').next().and_then(|digits| digits.parse().ok()).expect("a handle")
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970")
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is \"{text}\"; it must be a number")))
}
