//! Power cuts: no acknowledged job is lost when everything that was not synced may be gone.
//!
//! The real server runs under a shim (`tests/shim/shim.c`) that writes down each change to its files, each
//! sync, and each byte of its sockets, in one order. Afterwards the disk is cut at hundreds of moments:
//! `power/disk.rs` makes what a disk may hold then, the library opens it as a server does when it starts, and
//! `power/check.rs` holds what comes back against what the peers had been told by then.
//!
//! `GEARMAND_POWER_CUTS` is the number of cuts (500), `GEARMAND_POWER_SEED` the seed of all that is random.
//!
//! The last two tests show that the same check finds a server that skips the sync, and one that acknowledges
//! before it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed expectation is how a test fails"
)]

mod common;
mod durable;
mod power {
    pub(crate) mod check;
    pub(crate) mod conversation;
    pub(crate) mod disk;
    pub(crate) mod load;
}
mod shim;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Server, wait_for};
use durable::Random;
use nix::errno::Errno;
use power::check::{Problem, check};
use power::conversation::Conversation;
use power::disk::Disk;
use power::load::{Load, Serials, run};
use shim::trace::{Kind, Trace};
use shim::{Class, Shim};

const SMALL: Load = Load { pipelined: 90, single: 50, ended: 60, large: 0, may_be_refused: false };

/// More than the four thousand pages after which SQLite moves its log into the database.
const LARGE: Load = Load { pipelined: 20, single: 20, ended: 10, large: 18, may_be_refused: false };

#[test]
fn a_power_cut_loses_no_acknowledged_job() {
    let seed = seed();
    let cuts = number("GEARMAND_POWER_CUTS").map_or(500, |cuts| usize::try_from(cuts).expect("a number of cuts"));
    let mut random = Random::new(seed);
    let shim = Shim::new();
    let serials = Serials::new();
    let mut server = start(&shim, &[], &[]);
    run(&server, SMALL, &serials, &mut random);
    server.restart();
    run(&server, SMALL, &serials, &mut random);
    server.kill();
    server.restart();
    run(&server, SMALL, &serials, &mut random);
    run(&server, LARGE, &serials, &mut random);
    server.terminate();

    let trace = shim.trace();
    let conversation = Conversation::read(&trace);
    let moments = moments(&trace, cuts, &mut random);
    let syncs = trace.records.iter().filter(|record| record.kind == Kind::Synced).count();
    println!(
        "{} cuts of a trace with {} records, {syncs} syncs, {} jobs, {} of them owed at the end",
        moments.len(),
        trace.records.len(),
        conversation.jobs.len(),
        conversation.owed(trace.records.len())
    );
    assert!(syncs > 200, "only {syncs} syncs: nothing to cut at");
    assert!(conversation.owed(trace.records.len()) > 300, "almost nothing is owed at the end");
    assert_nothing_lost(seed, &trace, &conversation, &shim.database(), &moments, &mut random);
}

/// Cuts the power at all these moments.
#[track_caller]
fn assert_nothing_lost(
    seed: u64,
    trace: &Trace,
    conversation: &Conversation,
    database: &Path,
    moments: &[usize],
    random: &mut Random,
) {
    for (moment, problems) in cut(trace, conversation, database, moments, random) {
        let list: Vec<String> = problems.iter().take(20).map(ToString::to_string).collect();
        assert!(
            problems.is_empty(),
            "GEARMAND_POWER_SEED={seed}, cut before record {moment} of {}: {} problems\n  {}",
            trace.records.len(),
            problems.len(),
            list.join("\n  ")
        );
    }
}

/// The log with all its zeros: 4,000 pages with their headers.
const FULL_LOG: u64 = 4000 * (4096 + 24);

/// A server that was killed and restarted under load, three times. Each start recovers and truncates the log.
fn killed_and_restarted(shim: &Shim, serials: &Serials, random: &mut Random) -> Server {
    let mut server = start(shim, &[], &[]);
    for _ in 0..3 {
        run(&server, Load { ended: 20, ..SMALL }, serials, random);
        server.kill();
        server.restart();
    }
    server
}

/// A start and the next commits write behind the log what is no frame: some of it, none, or half of a sector
/// may be there.
#[test]
fn a_power_cut_while_zeros_are_written_behind_the_log_loses_no_acknowledged_job() {
    let seed = seed();
    let mut random = Random::new(seed);
    let shim = Shim::new();
    let serials = Serials::new();
    let mut server = killed_and_restarted(&shim, &serials, &mut random);
    run(&server, Load { ended: 20, ..SMALL }, &serials, &mut random);
    server.kill();
    // Zeros are written while nothing waits for the store: up to here it was up to the machine how many there
    // are.
    server.restart();
    wait_for("all zeros", || {
        let log = fs::metadata(format!("{}-wal", shim.database().display())).ok()?;
        (log.len() >= FULL_LOG).then_some(())
    });
    server.kill();
    let trace = shim.trace();
    let conversation = Conversation::read(&trace);
    let around = around_zeros(&trace);
    println!("{} moments around zeros, {} records", around.len(), trace.records.len());
    assert!(around.len() > 200, "no zeros were written behind the log");
    let mut moments = sample(around, 100, &mut random);
    moments.sort_unstable();
    assert_nothing_lost(seed, &trace, &conversation, &shim.database(), &moments, &mut random);
}

/// A checkpoint has copied the log into the database and truncated it. If the power fails before the
/// truncation is on the disk, the log of before is there: as a whole, or not at all. A part of it would undo
/// what came after that part.
#[test]
fn a_power_cut_after_the_log_was_truncated_leaves_no_part_of_it() {
    const CUTS_AT_EACH: usize = 30;
    let seed = seed();
    let mut random = Random::new(seed);
    let shim = Shim::new();
    let serials = Serials::new();
    killed_and_restarted(&shim, &serials, &mut random).terminate();
    let trace = shim.trace();
    let conversation = Conversation::read(&trace);
    let moments = while_truncated(&trace);
    println!("{} moments after a truncation, {} records", moments.len(), trace.records.len());
    assert!(moments.len() >= 6, "the log was not truncated");
    let moments: Vec<usize> = moments.iter().flat_map(|moment| [*moment; CUTS_AT_EACH]).collect();
    assert_nothing_lost(seed, &trace, &conversation, &shim.database(), &moments, &mut random);
}

/// The changes of a log from after its truncation to its next sync.
fn while_truncated(trace: &Trace) -> Vec<usize> {
    let mut truncated = None;
    let mut moments = Vec::new();
    for (index, record) in trace.records.iter().enumerate() {
        match record.kind {
            Kind::Resized if record.offset == 0 => truncated = Some(record.inode),
            Kind::Synced if truncated == Some(record.inode) => {
                moments.push(index);
                truncated = None;
            }
            Kind::Written if truncated == Some(record.inode) => moments.push(index + 1),
            _ => {}
        }
    }
    moments
}

/// Before and after each write of zeros, their sync, and the changes after that.
fn around_zeros(trace: &Trace) -> Vec<usize> {
    const CHANGES: usize = 6;
    let mut left = 0;
    let mut moments = Vec::new();
    for (index, record) in trace.records.iter().enumerate() {
        let is_change = matches!(record.kind, Kind::Written | Kind::Resized | Kind::Synced);
        let data = trace.data(record);
        if record.kind == Kind::Written && data.len() > 8192 && data.iter().all(|byte| *byte == 0) {
            left = CHANGES;
            moments.push(index);
        } else if left > 0 && is_change {
            left -= 1;
            moments.push(index);
        }
    }
    moments.dedup();
    moments
}

#[test]
fn a_power_cut_after_failed_syncs_loses_no_acknowledged_job() {
    let seed = seed();
    let mut random = Random::new(seed);
    let shim = Shim::new();
    let serials = Serials::new();
    let mut server = start(&shim, &[], &[]);
    run(&server, Load { ended: 20, ..SMALL }, &serials, &mut random);
    for every in [8, 11, 13] {
        shim.fail(Class::Sync, every, Errno::EIO as i32);
        run(&server, Load { may_be_refused: true, ended: 20, ..SMALL }, &serials, &mut random);
        let failed = shim.failed(Class::Sync);
        println!("each {every}-th sync fails: {failed} did");
        assert!(failed > 2, "hardly any sync failed");
    }
    server.kill();
    let trace = shim.trace();
    let conversation = Conversation::read(&trace);
    let mut moments = sample(after_failures(&trace), 500, &mut random);
    moments.sort_unstable();
    assert_nothing_lost(seed, &trace, &conversation, &shim.database(), &moments, &mut random);
}

#[test]
fn a_server_that_skips_the_sync_is_found_out() {
    let found = sabotaged(&[], &[("SHIM_SKIP_SYNC", "1")]);
    assert!(found > 0, "no cut of a server without syncs lost a job: the check is blind");
}

#[test]
fn a_server_that_acknowledges_before_the_sync_is_found_out() {
    let found = sabotaged(&["--durability", "off"], &[]);
    assert!(found > 0, "no cut of a server that does not wait for the disk lost a job: the check is blind");
}

/// How many cuts of a worse server lose jobs.
fn sabotaged(arguments: &[&str], environment: &[(&str, &str)]) -> usize {
    let mut random = Random::new(seed());
    let shim = Shim::new();
    let mut server = start(&shim, arguments, environment);
    run(&server, Load { ended: 20, ..SMALL }, &Serials::new(), &mut random);
    server.kill();
    let trace = shim.trace();
    let conversation = Conversation::read(&trace);
    let moments = moments(&trace, 40, &mut random);
    let found = cut(&trace, &conversation, &shim.database(), &moments, &mut random)
        .filter(|(_, problems)| problems.iter().any(|problem| matches!(problem, Problem::Lost(_))))
        .count();
    println!("{found} of {} cuts lost acknowledged jobs", moments.len());
    found
}

fn start(shim: &Shim, arguments: &[&str], environment: &[(&str, &str)]) -> Server {
    let own = shim.arguments();
    let arguments: Vec<&str> = own.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
    let more = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let environment: Vec<(String, String)> = shim.environment().into_iter().chain(more).collect();
    Server::ours_with(&arguments, &environment)
}

/// Where to cut, in order: around each sync if there are not too many, then anywhere between.
fn moments(trace: &Trace, cuts: usize, random: &mut Random) -> Vec<usize> {
    let changes = |kind: Kind| !matches!(kind, Kind::Received | Kind::Accepted | Kind::Closed | Kind::Started);
    let (mut around, mut between) = (Vec::new(), Vec::new());
    // The large jobs make for large images: they get a share of their own.
    let large = trace.records.iter().position(|record| trace.data(record).len() > 100_000).unwrap_or(usize::MAX);
    for (index, record) in trace.records.iter().enumerate() {
        let percent = if index < large { 100 } else { 5 };
        if record.kind == Kind::Synced && random.chance(percent) {
            // Before it nothing of it is certain; after it and what it allowed to be said, all of it is.
            around.extend([index, index + 1]);
        } else if changes(record.kind) && random.chance(percent) {
            between.push(index);
        }
    }
    let mut moments = sample(around, cuts / 2, random);
    let rest = cuts - moments.len();
    moments.extend(sample(between, rest, random));
    moments.push(trace.records.len());
    moments.sort_unstable();
    moments
}

/// The next changes of the disk after each sync that failed: while the store makes good what may be missing.
fn after_failures(trace: &Trace) -> Vec<usize> {
    const CHANGES: usize = 30;
    let mut left = 0;
    let mut moments = Vec::new();
    for (index, record) in trace.records.iter().enumerate() {
        if record.kind == Kind::Synced && record.error != 0 {
            left = CHANGES;
        } else if left > 0 && matches!(record.kind, Kind::Written | Kind::Resized | Kind::Synced | Kind::Unlinked) {
            left -= 1;
            moments.push(index);
        }
    }
    moments
}

fn sample(mut from: Vec<usize>, most: usize, random: &mut Random) -> Vec<usize> {
    while from.len() > most {
        from.swap_remove(random.index(from.len()));
    }
    from
}

/// Cuts the power at these moments, one after the other, and tells what was wrong at each.
fn cut<'a>(
    trace: &'a Trace,
    conversation: &'a Conversation,
    database: &'a Path,
    moments: &'a [usize],
    random: &'a mut Random,
) -> impl Iterator<Item = (usize, Vec<Problem>)> + 'a {
    let directory = directory_for_images();
    let mut disk = Disk::new(trace, Random::new(random.next()));
    let mut applied = 0;
    moments.iter().map(move |moment| {
        for record in &trace.records[applied..*moment] {
            disk.apply(record);
        }
        applied = *moment;
        (*moment, check(&directory, &disk.cut(random), database, conversation, *moment))
    })
}

/// Images need no disk.
fn directory_for_images() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { env::temp_dir() }
}

fn seed() -> u64 {
    let seed = number("GEARMAND_POWER_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
        now.as_micros().try_into().expect("a seed")
    });
    println!("GEARMAND_POWER_SEED={seed}");
    seed
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is \"{text}\"; it must be a number")))
}
