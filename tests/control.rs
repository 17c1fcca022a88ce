//! What the operator does, against real workers: libgearman's tool `gearman -w`, PHP, Perl, and `gearmand
//! work`; with jobs in memory and in SQLite.
//!
//! * `functions` pauses and limits functions;
//! * `worker_rules` disables, drains, enables and kicks workers;
//! * `jobs` cancels, moves, prioritises and starts jobs, and kills the server in between;
//! * `restarts` kills the server after that, and `committed` as soon as a word is answered;
//! * `many` does all of that often, and to many jobs at once.
//!
//! That nothing comes cannot be waited for. Instead the worker does a job that came later: then it has asked
//! for work while the one that is withheld was there. The tests speak the text protocol themselves, as an
//! operator with `nc` does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]
#![allow(clippy::print_stdout, reason = "which store a failure was with")]

mod common;

#[path = "clients/bindings.rs"]
#[allow(dead_code, reason = "only the workers of two libraries are needed")]
mod bindings;
#[path = "control/committed.rs"]
mod committed;
#[path = "control/functions.rs"]
mod functions;
#[path = "control/jobs.rs"]
mod jobs;
#[path = "control/many.rs"]
mod many;
#[path = "control/restarts.rs"]
mod restarts;
#[path = "control/stage.rs"]
mod stage;
#[path = "control/worker_rules.rs"]
mod worker_rules;

/// The functions of every worker here.
const FUNCTIONS: [&str; 3] = ["gate", "order", "reverse"];
