//! The program as its operator sees it: how it starts, where it listens, what signals do, what it says of
//! itself.
//!
//! The harness is not the usual one, so that a test that needs root's rights is reported as ignored without
//! them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]
#![allow(clippy::print_stderr, reason = "the log of a server is printed where a failed test shows it")]

mod common;

#[path = "daemon/answers.rs"]
mod answers;
#[path = "daemon/listening.rs"]
mod listening;
#[path = "daemon/log.rs"]
mod log;
#[path = "daemon/reload.rs"]
mod reload;
#[path = "daemon/site.rs"]
mod site;
#[path = "daemon/starting.rs"]
mod starting;
#[path = "daemon/stopping.rs"]
mod stopping;

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
    vec![
        any("detaches_when_it_listens", starting::detaches_when_it_listens),
        any("detaching_fails_where_the_port_is_in_use", starting::detaching_fails_where_the_port_is_in_use),
        any("a_pid_file_is_that_of_the_living", starting::a_pid_file_is_that_of_the_living),
        any("a_pid_file_of_a_server_that_locks_nothing", starting::a_pid_file_of_a_server_that_locks_nothing),
        root("privileges_are_dropped_after_binding", starting::privileges_are_dropped_after_binding),
        any("descriptor_limit", starting::descriptor_limit),
        any("every_address_is_listened_on", listening::every_address_is_listened_on),
        any("a_unix_socket_in_use_is_left_alone", listening::a_unix_socket_in_use_is_left_alone),
        any("sockets_of_a_service_manager", listening::sockets_of_a_service_manager),
        any("threads_do_each_job_once", listening::threads_do_each_job_once),
        any("terminate_and_interrupt_end_it_in_order", stopping::terminate_and_interrupt_end_it_in_order),
        any("draining_finishes_the_jobs", stopping::draining_finishes_the_jobs),
        any("draining_ends_in_time", stopping::draining_ends_in_time),
        any("terminate_ends_a_drain", stopping::terminate_ends_a_drain),
        any("hangup_opens_the_log_anew", reload::hangup_opens_the_log_anew),
        any("hangup_applies_changed_settings", reload::hangup_applies_changed_settings),
        any("hangup_changes_the_limit_of_memory", reload::hangup_changes_the_limit_of_memory),
        any("hangup_survives_a_file_that_is_a_fifo_now", reload::hangup_survives_a_file_that_is_a_fifo_now),
        any("hangup_survives_a_bad_file", reload::hangup_survives_a_bad_file),
        any("the_service_manager_is_told", reload::the_service_manager_is_told),
        any("a_pipe_that_nobody_reads", log::a_pipe_that_nobody_reads),
        any("a_fifo_that_nobody_reads", log::a_fifo_that_nobody_reads),
        any("what_is_always_written", log::what_is_always_written),
        any("submissions_are_written_where_that_is_wanted", log::submissions_are_written_where_that_is_wanted),
        any("a_terminal_sees_what_is_always_written", log::a_terminal_sees_what_is_always_written),
        any("a_hangup_as_soon_as_there_is_a_pid_file", log::a_hangup_as_soon_as_there_is_a_pid_file),
        any(
            "a_restart_behind_the_socket_of_a_service_manager",
            listening::a_restart_behind_the_socket_of_a_service_manager,
        ),
        any("logs_for_people_and_for_machines", answers::logs_for_people_and_for_machines),
        any("check_names_what_is_wrong", answers::check_names_what_is_wrong),
        any("the_sample_configuration_is_right", answers::the_sample_configuration_is_right),
        any("the_environment_of_kubernetes_is_tolerated", answers::the_environment_of_kubernetes_is_tolerated),
        any("manual_and_completions", answers::manual_and_completions),
    ]
}
