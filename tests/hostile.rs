//! Peers that mean harm, or behave as if they did: what they do must cost the server little, hurt no other peer, and
//! leave nothing behind.
//!
//! Each test has a server of its own, and ends with [`Watched::assert_recovered`]: once the peers have left, the server
//! serves others, has given back its memory and its file descriptors, and does not use the CPU.
//!
//! The harness is not the usual one, so that a test that needs root's rights is reported as ignored without them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]
#![allow(clippy::print_stderr, reason = "a seed is printed where a failed test shows it")]

mod common;

#[path = "hostile/corpus.rs"]
mod corpus;
#[path = "hostile/crowds.rs"]
mod crowds;
#[path = "hostile/descriptors.rs"]
mod descriptors;
#[path = "hostile/functions.rs"]
mod functions;
#[path = "hostile/idle.rs"]
mod idle;
#[path = "hostile/jobs.rs"]
mod jobs;
#[path = "hostile/mutations.rs"]
mod mutations;
#[path = "hostile/readers.rs"]
mod readers;
#[path = "hostile/streams.rs"]
mod streams;
#[path = "hostile/turns.rs"]
mod turns;
#[path = "hostile/vanished.rs"]
mod vanished;
#[path = "hostile/watched.rs"]
mod watched;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::getuid;

fn main() -> ExitCode {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of open files");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit of open files");
    libtest_mimic::run(&Arguments::from_args(), trials()).exit_code()
}

/// The tests, those that wait longest first.
fn trials() -> Vec<Trial> {
    let any = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    let root = |name: &str, test: fn()| any(name, test).with_ignored_flag(!getuid().is_root());
    vec![
        root("a_vanished_host_gives_its_job_back", vanished::gives_its_job_back),
        root("a_busy_reader_lives_until_its_host_vanishes", vanished::busy_reader),
        any("idle_workers", idle::idle_workers),
        any("mutated_streams", streams::mutated),
        any("mutated_streams_with_all_invariants_checked", streams::mutated_with_all_invariants_checked),
        any("mutated_streams_with_threads", streams::mutated_with_threads),
        any("accepted_sockets_are_kept_alive_by_default", vanished::sockets_are_kept_alive_by_default),
        any("half_open_connections", crowds::half_open_connections),
        any("connection_storm", crowds::connection_storm),
        any("fresh_function_names", crowds::fresh_function_names),
        any("one_byte_at_a_time", crowds::one_byte_at_a_time),
        any("echoes_never_read", readers::echoes_never_read),
        any("results_never_read", readers::results_never_read),
        any("large_results_at_once", readers::large_results_at_once),
        any("memory_comes_back", readers::memory_comes_back),
        any("a_slow_reader_is_named", readers::a_slow_reader_is_named),
        any("listings_never_read", readers::listings_never_read),
        any("a_long_listing_never_read", readers::a_long_listing_never_read),
        any("slow_but_steady", readers::slow_but_steady),
        any("a_worker_that_answers_no_noop", jobs::a_worker_that_answers_no_noop),
        any("one_job_joined_many_times", jobs::one_job_joined_many_times),
        any("large_jobs_announced_and_not_sent", jobs::large_jobs_announced_and_not_sent),
        any("no_file_descriptor_left", descriptors::none_left),
        any("few_file_descriptors", descriptors::few),
        any("many_functions_and_grabs_without_end", functions::grabs_without_end),
        any("small_requests_without_end", turns::small_requests_without_end),
        any("long_requests_without_end", turns::long_requests_without_end),
        any("max_connections", descriptors::max_connections),
    ]
}
