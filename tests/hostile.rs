//! Peers that mean harm, or behave as if they did: what they do must cost the server little, hurt no other
//! peer, and leave nothing behind.
//!
//! Each test has a server of its own, and ends with [`Watched::assert_recovered`]: once the peers have left,
//! the server serves others, has given back its memory and its file descriptors, and does not use the CPU.
//!
//! The harness is not the usual one, so that a test that needs root's rights is reported as ignored without
//! them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]
#![allow(clippy::print_stderr, reason = "a seed is printed where a failed test shows it")]

mod common;

#[path = "hostile/backlog.rs"]
mod backlog;
#[path = "hostile/corpus.rs"]
mod corpus;
#[path = "hostile/crowds.rs"]
mod crowds;
#[path = "hostile/descriptors.rs"]
mod descriptors;
#[path = "hostile/functions.rs"]
mod functions;
#[path = "hostile/group.rs"]
mod group;
#[path = "hostile/idle.rs"]
mod idle;
#[path = "hostile/jobs.rs"]
mod jobs;
#[path = "hostile/listings.rs"]
mod listings;
#[path = "hostile/memory.rs"]
mod memory;
#[path = "hostile/mutations.rs"]
mod mutations;
#[path = "hostile/readers.rs"]
mod readers;
#[path = "hostile/slices.rs"]
mod slices;
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
    let why = group::why_not();
    if let Some(why) = &why {
        eprintln!("NOT RUN: tests in a control group of memory ({why}); they are reported as ignored");
    }
    let grouped = |name: &str, test: fn()| any(name, test).with_ignored_flag(why.is_some());
    vec![
        root("a_vanished_host_gives_its_job_back", vanished::gives_its_job_back),
        root("a_busy_reader_lives_until_its_host_vanishes", vanished::busy_reader),
        any("a_backlog_in_memory", backlog::in_memory),
        any("a_durable_backlog", backlog::durable),
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
        any("long_listings_at_once", listings::long_listings_at_once),
        any("status_of_many_functions_at_once", listings::status_of_many_functions_at_once),
        any("listings_of_one_command_never_read", listings::listings_of_one_command_never_read),
        any("a_long_listing_never_read", readers::a_long_listing_never_read),
        any("slow_but_steady", readers::slow_but_steady),
        any("memory_data_for_many_waits", memory::data_for_many_waits),
        any("memory_packets_that_do_not_end", memory::packets_that_do_not_end),
        any("memory_echoes_unread", memory::echoes_unread),
        any("memory_echoes_read_slowly", memory::echoes_read_slowly),
        any("memory_a_pause_with_a_mebibyte_waiting", memory::a_pause),
        any("memory_jobs_without_workloads", memory::jobs_without_workloads),
        any("memory_jobs_for_a_store_that_hangs", memory::jobs_for_a_store_that_hangs),
        any("memory_results_unread_over_http", memory::results_unread_over_http),
        grouped("memory_group_data_for_many_waits", memory::group_data_for_many_waits),
        grouped("memory_group_packets_that_do_not_end", memory::group_packets_that_do_not_end),
        grouped("memory_group_echoes_unread", memory::group_echoes_unread),
        grouped("memory_group_jobs_without_workloads", memory::group_jobs_without_workloads),
        grouped("memory_group_many_workers_beside_jobs", memory::group_many_workers_beside_jobs),
        grouped("memory_group_jobs_for_a_store_that_hangs", memory::group_jobs_for_a_store_that_hangs),
        grouped("memory_group_results_unread_over_http", memory::group_results_unread_over_http),
        any("a_worker_that_answers_no_noop", jobs::a_worker_that_answers_no_noop),
        any("one_job_joined_many_times", jobs::one_job_joined_many_times),
        any("large_jobs_announced_and_not_sent", jobs::large_jobs_announced_and_not_sent),
        any("no_file_descriptor_left", descriptors::none_left),
        any("few_file_descriptors", descriptors::few),
        any("results_to_very_many_waits", turns::results_to_very_many_waits),
        any("rules_for_many_workers", turns::rules_for_many_workers),
        any("many_workers_with_many_functions", turns::many_workers_with_many_functions),
        any("sleepers_with_very_many_functions", turns::sleepers_with_very_many_functions),
        any("registrations_beside_many_runs", turns::registrations_beside_many_runs),
        any("names_beside_many_functions", turns::names_beside_many_functions),
        any("many_functions_and_grabs_without_end", functions::grabs_without_end),
        any("small_requests_without_end", slices::small_requests_without_end),
        any("long_requests_without_end", slices::long_requests_without_end),
        any("max_connections", descriptors::max_connections),
    ]
}
