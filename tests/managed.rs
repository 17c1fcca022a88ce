//! `gearmand work --managed`: what it has beyond the contract, which `tests/contract.rs` tries on it as on
//! others. The monitor is one that speaks raw packets.
//!
//! * `contract` reads answers to the letter, through our server and Debian's;
//! * `jobs` changes functions, servers and workers while jobs run;
//! * `supervisor` has processes die, retire and end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]
#![allow(clippy::print_stdout, reason = "the seed of a failure")]

mod common;

#[path = "managed/contract.rs"]
mod contract;
#[path = "managed/jobs.rs"]
mod jobs;
#[path = "managed/stage.rs"]
mod stage;
#[path = "managed/supervisor.rs"]
mod supervisor;
