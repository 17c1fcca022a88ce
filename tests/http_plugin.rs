//! gearmand's HTTP protocol plugin (`--protocol http`), from outside and to the byte.
//!
//! * `parity` has the same requests for our server and for Debian's gearmand, and the answers compared;
//! * `jobs` is about what becomes of jobs: in the background, joined, large, abandoned; with real tools at
//!   both ends;
//! * `hostile` is about requests that are late, endless or no requests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]
#![allow(clippy::print_stderr, reason = "a seed is printed where a failed test shows it")]

mod common;

#[path = "http_plugin/deviations.rs"]
mod deviations;
#[path = "http_plugin/hostile.rs"]
mod hostile;
#[path = "http_plugin/jobs.rs"]
mod jobs;
#[allow(dead_code, reason = "packets have more to mutate than requests have")]
#[path = "hostile/mutations.rs"]
mod mutations;
#[path = "http_plugin/parity.rs"]
mod parity;
#[path = "http_plugin/stage.rs"]
mod stage;
