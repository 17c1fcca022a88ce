//! What `gearmand::process` does to a whole process: each test runs this same program again in a
//! *role*, as a child whose identity, descriptors and end can be watched.
//!
//! The harness is not the usual one: a role must be alone in its process, without a harness's
//! threads. Tests that need root's rights or a capability are reported as ignored without them.

// Tests say what they expect by unwrapping; without the usual harness clippy does not see that
// these functions are tests. Roles answer on standard output.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod detach;
mod pid_file;
mod privileges;
mod reports;
mod socket_activation;
mod state_directory;

use std::error::Error;
use std::fs;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::getuid;

/// Names the role that this program is to play instead of testing.
const ROLE: &str = "GEARMAND_TEST_ROLE";
/// A user that every system has, to drop privileges to.
const USER: &str = "nobody";
/// No wait in these tests is longer.
const DEADLINE: Duration = Duration::from_secs(20);

type RoleResult = Result<ExitCode, Box<dyn Error>>;

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        return play(&role, &arguments).unwrap_or_else(|error| {
            eprintln!("{error}");
            ExitCode::from(2)
        });
    }
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
        any("detach_returns_when_ready", detach::detach_returns_when_ready),
        any("detach_reports_a_failure", detach::detach_reports_a_failure),
        any("detach_reports_a_death", detach::detach_reports_a_death),
        any("detach_wants_one_thread", detach::detach_wants_one_thread),
        any("pid_file_outlives_a_kill", pid_file::pid_file_outlives_a_kill),
        root("pid_file_of_a_dropped_process", pid_file::pid_file_of_a_dropped_process),
        root("privileges_are_gone", privileges::privileges_are_gone),
        any("file_descriptor_limit", privileges::file_descriptor_limit),
        root("file_descriptor_limit_is_refused", privileges::file_descriptor_limit_is_refused),
        any("file_descriptor_limit_raises_the_hard_one", privileges::file_descriptor_limit_raises_the_hard_one)
            .with_ignored_flag(!may_raise_limits()),
        any("socket_activation", socket_activation::socket_activation),
        any("socket_activation_refuses", socket_activation::socket_activation_refuses),
        any("state_directory_is_made_once", state_directory::state_directory_is_made_once),
        any("state_directory_that_is_a_file", state_directory::state_directory_that_is_a_file),
        root("state_directory_is_handed_over", state_directory::state_directory_is_handed_over),
        root("state_directory_gives_no_linked_file_away", state_directory::state_directory_gives_no_linked_file_away),
        root("state_directory_of_another", state_directory::state_directory_of_another),
        any("log_without_its_file", reports::log_without_its_file),
        any("notify_by_environment", reports::notify_by_environment),
    ]
}

/// Whether this process has `CAP_SYS_RESOURCE`; root in a container often has not.
fn may_raise_limits() -> bool {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & CAP_SYS_RESOURCE != 0)
}

fn play(role: &str, arguments: &[String]) -> RoleResult {
    let argument = |index: usize| arguments.get(index).map_or("", String::as_str);
    match role {
        "detach_ready" => detach::role_detach_ready(argument(0)),
        "detach_failed" => detach::role_detach_failed(argument(0)),
        "detach_dies" => detach::role_detach_dies(argument(0)),
        "detach_threads" => detach::role_detach_threads(),
        "pid_file" => pid_file::role_pid_file(argument(0)),
        "pid_file_dropped" => pid_file::role_pid_file_dropped(argument(0)),
        "privileges" => privileges::role_privileges(argument(0)),
        "limit" => privileges::role_limit(),
        "limit_raised" => privileges::role_limit_raised(),
        "limit_refused" => privileges::role_limit_refused(),
        "inherited" => socket_activation::role_inherited(argument(0)),
        "state_directory" => state_directory::role_state_directory(argument(0)),
        "state_directory_denied" => state_directory::role_state_directory_denied(argument(0)),
        "log" => reports::role_log(argument(0)),
        "notify" => reports::role_notify(),
        other => Err(format!("no role {other}").into()),
    }
}

fn child(role: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role).args(arguments).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts the exit status and shows what the child said if it differs.
#[track_caller]
fn assert_exit(output: &Output, status: i32) {
    assert_eq!(
        output.status.code(),
        Some(status),
        "{} stdout: {} stderr: {}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}
