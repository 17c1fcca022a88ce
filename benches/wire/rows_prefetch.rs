//! Prefetching workers: the server's cost per job when a worker keeps several grabs outstanding.

use crate::failure::Result;
use crate::generator::Generator;
use crate::measuring::microseconds_per;
use crate::options::{Options, Sizes};
use crate::peers::Kind;
use crate::report::{Bar, Line, Series};
use crate::roles::Submission;
use crate::rows::{Lives, WORKLOAD, interleave};
use crate::rows_memory;

/// Grabs that a worker keeps outstanding. The others are compared with the first.
const WINDOWS: [usize; 3] = [1, 4, 32];
const WORKERS: usize = 4;

/// Queued background jobs, drained by prefetching workers: CPU per job of the drain alone.
pub(crate) fn prefetch(options: &Options, sizes: Sizes) -> Result<Vec<Line>> {
    let jobs = sizes.background_jobs;
    let measured = interleave(options, &[Kind::Ours], Lives::Long, |peer| {
        let mut costs = [0.0; WINDOWS.len()];
        for (cost, window) in costs.iter_mut().zip(WINDOWS) {
            let mut generator = Generator::new(peer.port)?;
            generator.add_clients(8, Submission::Background, 64, WORKLOAD)?;
            generator.run_count(jobs)?;
            rows_memory::expect_jobs(peer, jobs)?;
            generator.add_prefetching(WORKERS, window)?;
            let before = peer.cpu()?;
            generator.drain(jobs)?;
            *cost = microseconds_per(peer.cpu()?.saturating_sub(before), jobs);
            rows_memory::expect_jobs(peer, 0)?;
        }
        Ok(costs)
    })?;
    let line = |window, metric| {
        let single = Series { name: "1 grab", ..measured.series(Kind::Ours, 0) };
        Line::new("prefetch", metric, measured.series(Kind::Ours, window), vec![single], Bar::Ratio(0.35))
    };
    Ok(vec![line(1, "4 grabs, CPU µs/job, beside 1"), line(2, "32 grabs, CPU µs/job, beside 1")])
}
