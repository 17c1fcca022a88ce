//! The command line of the benchmark and the sizes that follow from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::peers::Kind;

/// A row of the table: one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Foreground jobs, 8 clients with 32 jobs outstanding each, 8 workers.
    Foreground,
    /// One client, one worker, one job at a time.
    Latency,
    /// Background jobs submitted with 32 outstanding, then drained.
    Background,
    /// Background jobs drained by workers with 1, 4 and 32 grabs outstanding.
    Prefetch,
    /// Workloads of 1 MiB, echoed by 4 workers.
    Large,
    /// 200 sleeping workers, one job at a time.
    Sleepers,
    /// A million queued jobs.
    Depth,
    /// 5,000 idle workers.
    Idle,
    /// A hundred thousand jobs that are due tomorrow.
    Epoch,
    /// Background jobs that are on the disk when they are acknowledged, 8 clients with 64 outstanding each.
    Durable,
    /// One client, one durable job at a time.
    DurableOne,
    /// One durable job at a time, and from its submission to its end, from the first second after a start,
    /// beside beanstalkd.
    One,
    /// Durable jobs from their submission to their end, 8 clients with 64 outstanding each, 8 workers.
    Life,
    /// As durable, in PostgreSQL.
    Postgres,
    /// As durable, in MariaDB.
    Mariadb,
    /// As durable, in Redis.
    Redis,
    /// Foreground jobs while 8 clients submit durable ones as fast as they are taken.
    Flood,
    /// Foreground jobs while 8 clients submit background ones as fast as they are taken, beside the floor's.
    Fairness,
    /// A start with a million durable jobs.
    Restart,
    /// A backlog of durable jobs of 1 KiB, whose workloads are not all in memory.
    Backlog,
    /// Foreground jobs while a dashboard is open, metrics are scraped and workers are listed.
    Watched,
}

/// Server CPU per job, beside C++ gearmand.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[derive(Debug, Parser)]
#[command(name = "wire", about = "Server CPU per job, beside C++ gearmand")]
pub(crate) struct Options {
    /// Rows to measure
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) rows: Vec<Row>,
    /// Interleaved rounds per row
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Short rounds and small counts: shows that it runs, measures nothing
    #[arg(long)]
    pub(crate) quick: bool,
    /// The server under test
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_gearmand"))]
    pub(crate) ours: PathBuf,
    /// An earlier build of the server under test, for lines that compare with it
    #[arg(long, value_name = "PATH")]
    pub(crate) before: Option<PathBuf>,
    /// The C++ gearmand it is compared with
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/gearmand")]
    pub(crate) theirs: PathBuf,
    /// Where the JSON report and the servers' logs go
    #[arg(long, value_name = "DIRECTORY", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench"))]
    pub(crate) output: PathBuf,
    /// Where the stores of the durable rows are made: on the disk that is to be measured
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = std::env::temp_dir())]
    pub(crate) directory: PathBuf,
    /// Queued jobs of the row `backlog`; the bar for its memory is that of 10,000,000 jobs, about 14 GB on
    /// the disk
    #[arg(long, value_name = "JOBS", default_value_t = 1_000_000)]
    pub(crate) backlog: u64,
    /// Queued jobs of the row `restart`, 1,000,000 by default; the bars for all jobs and for memory are those
    /// of so many
    #[arg(long, value_name = "JOBS")]
    pub(crate) queued: Option<u64>,
    /// Put server and generator on one CPU in every row
    #[arg(long)]
    pub(crate) one_cpu: bool,
    /// Exit with status 1 when a bar is missed
    #[arg(long)]
    pub(crate) gate: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Amount of load of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Length of one timed round.
    pub(crate) round: Duration,
    /// Jobs of one round of the background row.
    pub(crate) background_jobs: u64,
    /// Queued jobs of the depth row; its first and last slice are a tenth of it each.
    pub(crate) depth_jobs: u64,
    /// Connections of the idle row.
    pub(crate) idle_workers: u32,
    /// Queued jobs of the epoch row.
    pub(crate) epoch_jobs: u64,
    /// Length of the window in which idle workers are measured.
    pub(crate) idle_window: Duration,
    /// Jobs of one round in a store that handles hundreds of thousands a second.
    pub(crate) many: u64,
    /// Jobs of one round in a store that handles some thousands a second.
    pub(crate) few: u64,
    /// Queued jobs of the restart row.
    pub(crate) restart_jobs: u64,
}

impl Options {
    /// The selected rows; all if none is named.
    pub(crate) fn rows(&self) -> Vec<Row> {
        if self.rows.is_empty() { Row::value_variants().to_vec() } else { self.rows.clone() }
    }

    /// The earlier build to compare with, if there is one.
    pub(crate) fn earlier(&self) -> Vec<Kind> {
        self.before.iter().map(|_| Kind::Before).collect()
    }

    /// The load of one round.
    pub(crate) fn sizes(&self) -> Sizes {
        if self.quick {
            Sizes {
                round: Duration::from_millis(200),
                background_jobs: 20_000,
                depth_jobs: 50_000,
                idle_workers: 500,
                epoch_jobs: 5_000,
                idle_window: Duration::from_millis(500),
                many: 10_000,
                few: 500,
                restart_jobs: 20_000,
            }
        } else {
            Sizes {
                round: Duration::from_millis(1500),
                background_jobs: 150_000,
                depth_jobs: 1_000_000,
                idle_workers: 5_000,
                epoch_jobs: 100_000,
                idle_window: Duration::from_secs(2),
                many: 300_000,
                few: 4_000,
                restart_jobs: 1_000_000,
            }
        }
    }
}
