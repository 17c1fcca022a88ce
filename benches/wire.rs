//! CPU cost of a job: this server and C++ gearmand under the same load, in the same run.
//!
//! `cargo bench --bench wire` prints one table (ours, theirs, their ratio, the bar, pass or miss) and writes
//! it as JSON. `benches/README.md` explains each row and how to read it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is this program's output")]

#[path = "wire/databases.rs"]
mod databases;
#[path = "wire/disk.rs"]
mod disk;
#[path = "wire/failure.rs"]
mod failure;
#[path = "wire/floor.rs"]
mod floor;
#[path = "wire/generator.rs"]
mod generator;
#[path = "wire/measuring.rs"]
mod measuring;
#[path = "wire/options.rs"]
mod options;
#[path = "wire/peers.rs"]
mod peers;
#[path = "wire/protocol.rs"]
mod protocol;
#[path = "wire/report.rs"]
mod report;
#[path = "wire/roles.rs"]
mod roles;
#[path = "wire/rows.rs"]
mod rows;
#[path = "wire/rows_backlog.rs"]
mod rows_backlog;
#[path = "wire/rows_durable.rs"]
mod rows_durable;
#[path = "wire/rows_flood.rs"]
mod rows_flood;
#[path = "wire/rows_memory.rs"]
mod rows_memory;
#[path = "wire/rows_one.rs"]
mod rows_one;
#[path = "wire/rows_prefetch.rs"]
mod rows_prefetch;
#[path = "wire/rows_watched.rs"]
mod rows_watched;

use std::process::ExitCode;

use clap::Parser;

use crate::options::Options;

fn main() -> ExitCode {
    let as_another = match std::env::args().nth(1).as_deref() {
        Some(floor::ARGUMENT) => Some(floor::serve()),
        Some(rows_flood::ARGUMENT) => Some(rows_flood::submit_for_ever()),
        _ => None,
    };
    if let Some(result) = as_another {
        return match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("wire: {failure}");
                ExitCode::FAILURE
            }
        };
    }
    // `cargo test --all-targets` runs benchmarks too, with the arguments of tests.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("This is a benchmark; it runs by `cargo bench --bench wire`.");
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    match rows::run(&options) {
        Ok(report) => report.conclude(&options),
        Err(failure) => {
            eprintln!("wire: {failure}");
            ExitCode::FAILURE
        }
    }
}
