//! Rows that measure memory: queued jobs, idle workers, jobs due later.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::failure::{Result, fail};
use crate::generator::Generator;
use crate::measuring::{float, microseconds_per};
use crate::options::{Options, Sizes};
use crate::peers::{Kind, Peer};
use crate::report::{Bar, Line, Series};
use crate::roles::Submission;
use crate::rows::{BEST, Lives, WORKLOAD, interleave};

/// Idle servers are left alone for this long before they are measured.
const CALM: Duration = Duration::from_millis(500);
const DAY: u64 = 24 * 60 * 60;

/// Fails unless the server itself counts `jobs`. The floor has no counter.
pub(crate) fn expect_jobs(peer: &Peer, jobs: u64) -> Result<()> {
    if peer.kind == Kind::Floor {
        return Ok(());
    }
    match peer.jobs()? {
        counted if counted == jobs => Ok(()),
        counted => fail(format!("its status says {counted} jobs instead of {jobs}")),
    }
}

/// Memory of queued jobs, and whether a submission costs more when many are queued.
pub(crate) fn depth(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let theirs = [Kind::TheirsOneTuned];
    let slice = sizes.depth_jobs / 10;
    let measured = interleave(options, &[Kind::Ours, theirs[0]], Lives::Short, |peer| {
        let mut generator = Generator::new(peer.port)?;
        generator.add_clients(8, Submission::Background, 32, WORKLOAD)?;
        let memory = peer.memory()?;
        let begun = peer.cpu()?;
        generator.run_count(slice)?;
        let first = peer.cpu()?.saturating_sub(begun);
        generator.run_count(sizes.depth_jobs - 2 * slice)?;
        let nearly = peer.cpu()?;
        generator.run_count(slice)?;
        let last = peer.cpu()?.saturating_sub(nearly);
        let grown = peer.memory()?.saturating_sub(memory);
        expect_jobs(peer, sizes.depth_jobs)?;
        Ok([float(grown) / float(sizes.depth_jobs), last.as_secs_f64() / first.as_secs_f64()])
    })?;
    let line = |metric, bar| measured.line("depth", metric, &theirs, bar);
    Ok(vec![
        line((0, "bytes/job queued"), Bar::Absolute(320.0)),
        line((1, "last tenth's CPU / first's"), Bar::Absolute(1.2)),
    ])
}

/// Memory of sleeping workers, and CPU while nothing happens.
pub(crate) fn idle(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let kinds = [&[Kind::Ours][..], &BEST].concat();
    let measured = interleave(options, &kinds, Lives::Short, |peer| {
        let memory = peer.memory()?;
        let mut generator = Generator::new(peer.port)?;
        generator.add_sleepers(sizes.idle_workers as usize)?;
        std::thread::sleep(CALM);
        let before = peer.cpu()?;
        std::thread::sleep(sizes.idle_window);
        let used = peer.cpu()?.saturating_sub(before);
        let grown = peer.memory()?.saturating_sub(memory);
        let workers = f64::from(sizes.idle_workers);
        Ok([float(grown) / workers, used.as_secs_f64() * 1e6 / sizes.idle_window.as_secs_f64()])
    })?;
    let line = |metric, bar| measured.line("idle", metric, &BEST, bar);
    Ok(vec![
        line((0, "bytes/idle worker"), Bar::Absolute(3072.0)),
        // Not quite zero, so that a clock tick once a second passes.
        line((1, "CPU µs/s while idle"), Bar::Absolute(200.0)),
    ])
}

/// Cost of a grab with jobs that are due tomorrow, compared with the same server without them.
pub(crate) fn epoch(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let due = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() + DAY;
    let mut servers = Vec::new();
    for (kind, jobs, name) in [
        (Kind::Ours, 0, "ours, none queued"),
        (Kind::Ours, sizes.epoch_jobs, "ours, queued"),
        (Kind::TheirsOneTuned, 0, "none queued"),
        (Kind::TheirsOneTuned, sizes.epoch_jobs, "queued"),
    ] {
        let peer = Peer::start(kind, options)?;
        let mut generator = Generator::new(peer.port)?;
        generator.add_clients(8, Submission::Epoch(due), 32, WORKLOAD)?;
        generator.run_count(jobs)?;
        expect_jobs(&peer, jobs)?;
        servers.push((peer, Series { name, rounds: Vec::new() }));
    }
    for round in 0..=options.rounds {
        for (peer, series) in &mut servers {
            peer.check_port()?;
            let mut generator = Generator::new(peer.port)?;
            generator.add_grabber(8)?;
            let before = peer.cpu()?;
            generator.run_for(sizes.round / 2)?;
            let grab = microseconds_per(peer.cpu()?.saturating_sub(before), generator.tally.ended);
            // The first round is a warm-up.
            if round > 0 {
                series.rounds.push(grab);
            }
        }
    }
    let [without, with, their_without, their_with] = [0, 1, 2, 3].map(|at| servers[at].1.clone());
    Ok(vec![
        Line::new("epoch", "CPU µs/grab, beside none queued", with.clone(), vec![without], Bar::Ratio(1.1)),
        Line::new("epoch", "CPU µs/grab", with, vec![their_with.clone()], Bar::Information),
        Line::new("epoch", "theirs, beside none queued", their_with, vec![their_without], Bar::Information),
    ])
}
