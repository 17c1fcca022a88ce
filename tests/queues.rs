//! The durable queue as clients, workers and operators of the real program meet it: queues of Debian's
//! gearmand, databases that go away, backlogs larger than memory, the order of answers, starts, stops, and
//! what is left in the store.
//!
//! The harness is not the usual one, so that a test that needs root's rights is reported as ignored without
//! them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a failed expectation is how a test fails"
)]
#![cfg_attr(
    not(all(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis")),
    allow(dead_code, unused_imports, reason = "a part of this is for stores that this build does not know")
)]

mod common;
mod durable;

#[path = "queues/backlog.rs"]
mod backlog;
#[allow(dead_code, reason = "the test of the stores uses the rest")]
#[path = "databases/battery.rs"]
mod battery;
#[allow(dead_code, reason = "the test of the stores uses the rest")]
#[path = "databases/debian.rs"]
mod debian;
#[allow(dead_code, reason = "the test of the stores uses the rest")]
#[path = "databases/edits.rs"]
mod edits;
#[path = "queues/ends.rs"]
mod ends;
#[allow(dead_code, reason = "the test of the stores uses the rest")]
#[path = "databases/instance.rs"]
mod instance;
#[allow(dead_code, reason = "the test of the stores uses the rest")]
#[path = "databases/jobs.rs"]
mod jobs;
#[path = "queues/lossy.rs"]
mod lossy;
#[allow(dead_code, reason = "the test of the stores uses the rest")]
#[path = "databases/mariadb.rs"]
mod mariadb;
#[path = "queues/outage.rs"]
mod outage;
#[path = "queues/peers.rs"]
mod peers;
#[allow(dead_code, reason = "the test of the stores uses the rest")]
#[path = "databases/postgres.rs"]
mod postgres;
#[allow(dead_code, reason = "the test of the stores uses the rest")]
#[path = "databases/redis.rs"]
mod redis;
#[path = "queues/replies.rs"]
mod replies;
#[cfg(feature = "sqlite")]
#[path = "queues/restoring.rs"]
mod restoring;
#[allow(dead_code, reason = "the test of the daemon uses the rest")]
#[path = "daemon/site.rs"]
mod site;
#[path = "queues/starts.rs"]
mod starts;
#[path = "queues/stops.rs"]
mod stops;
#[path = "queues/strangers.rs"]
mod strangers;
#[path = "queues/take_over.rs"]
mod take_over;
#[allow(dead_code, reason = "the test of the stores uses the rest")]
#[path = "databases/unwritable.rs"]
mod unwritable;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::getuid;

fn main() -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials()).exit_code()
}

fn trials() -> Vec<Trial> {
    let any = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    let root = |name: &str, test: fn()| any(name, test).with_ignored_flag(!getuid().is_root());
    let mut trials = vec![
        #[cfg(feature = "postgres")]
        any("postgres_is_taken_over", take_over::of_postgres),
        #[cfg(feature = "mysql")]
        any("mariadb_is_taken_over", take_over::of_mariadb),
        #[cfg(feature = "redis")]
        any("redis_is_taken_over", take_over::of_redis),
        #[cfg(feature = "postgres")]
        any("postgres_goes_away", outage::of_postgres),
        #[cfg(feature = "mysql")]
        any("mariadb_goes_away", outage::of_mariadb),
        #[cfg(feature = "redis")]
        any("redis_goes_away", outage::of_redis),
        #[cfg(feature = "redis")]
        any("functions_that_were_cut_are_put_right", strangers::functions_that_were_cut_are_put_right),
        any("a_full_memory_refuses_jobs", backlog::a_full_memory_refuses_jobs),
    ];
    #[cfg(feature = "sqlite")]
    trials.extend([
        any("workers_are_served_while_jobs_are_read", restoring::workers_are_served_while_jobs_are_read),
        any("a_stop_while_jobs_are_read_keeps_them", restoring::a_stop_while_jobs_are_read_keeps_them),
        any(
            "a_queue_that_cannot_be_read_to_its_end_ends_the_server",
            restoring::a_queue_that_cannot_be_read_to_its_end_ends_the_server,
        ),
    ]);
    if cfg!(feature = "sqlite") {
        trials.extend([
            any("sqlite_is_taken_over", take_over::of_sqlite),
            any("sqlite_is_taken_back", take_over::back_to_debian),
            any("a_backlog_beyond_memory", backlog::beyond_memory),
            any("jobs_whose_workloads_are_only_stored", backlog::jobs_whose_workloads_are_only_stored),
            any("large_workloads_stay_in_the_file", backlog::large_workloads_stay_in_the_file),
            any("answers_keep_their_order", replies::answers_keep_their_order),
            any("a_half_closed_client_is_answered", replies::a_half_closed_client_is_answered),
            any("every_durability_survives_a_kill", replies::every_durability_survives_a_kill),
            any("durability_of_a_function", replies::durability_of_a_function),
            any("durability_is_reloaded", replies::durability_is_reloaded),
            any("draining_leaves_kept_jobs", stops::draining_leaves_kept_jobs),
            any("stopping_keeps_jobs", stops::stopping_keeps_jobs),
            any("a_queue_has_one_server", starts::a_queue_has_one_server),
            any("no_state_directory", starts::no_state_directory),
            any("state_directories_that_cannot_be_used", starts::state_directories_that_cannot_be_used),
            root("a_state_directory_that_is_mounted_read_only", starts::a_state_directory_that_is_mounted_read_only),
            any("a_corrupt_file_is_refused", starts::a_corrupt_file_is_refused),
            root("the_queue_belongs_to_the_user", starts::the_queue_belongs_to_the_user),
            any("a_cancelled_job_leaves_the_store", ends::a_cancelled_job_leaves_the_store),
            any("a_dropped_job_leaves_the_store", ends::a_dropped_job_leaves_the_store),
            any("attempts_are_kept", ends::attempts_are_kept),
            any("rows_of_others_refuse_nobody", strangers::rows_of_others_refuse_nobody),
            any("at_the_last_number_jobs_are_refused", strangers::at_the_last_number_jobs_are_refused),
            any("a_drained_backlog_leaves_no_space_behind", strangers::a_drained_backlog_leaves_no_space_behind),
        ]);
    }
    trials
}
