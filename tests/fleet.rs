//! A fleet on three hosts, looked after by `gearmand fleet` through our server and through Debian's gearmand.
//!
//! A host is a namespace of network, processes and host name, with a cable of its own to the server's: its
//! workers have addresses and pids of their own, its plug can be pulled, and its power be cut. The tests'
//! process itself is in a network of its own, so that nothing of this is seen outside. On each host are
//! workers of `gearmand work --managed`, in PHP and in Python.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is how a test fails")]

mod common;

#[path = "fleet/burst.rs"]
mod burst;
#[path = "fleet/discovery.rs"]
mod discovery;
#[path = "fleet/faults.rs"]
mod faults;
#[path = "fleet/load.rs"]
mod load;
#[path = "fleet/rolling.rs"]
mod rolling;
#[path = "fleet/servers.rs"]
mod servers;
#[path = "fleet/strange.rs"]
mod strange;
#[path = "fleet/tools.rs"]
mod tools;
#[path = "fleet/world.rs"]
mod world;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

use common::Implementation;

/// Says that this process is in a network of its own.
const INSIDE: &str = "FLEET_TEST_INSIDE";

type Test = fn(Implementation);

const TESTS: &[(&str, Test)] = &[
    ("all_workers_are_found", discovery::all_workers_are_found),
    ("a_function_moves_to_other_hosts", discovery::a_function_moves_to_other_hosts),
    ("a_burst_brings_workers_and_quiet_takes_them", burst::a_burst_brings_workers_and_quiet_takes_them),
    ("all_workers_are_replaced_under_load", rolling::all_workers_are_replaced_under_load),
    ("a_host_is_stopped_and_started", rolling::a_host_is_stopped_and_started),
    ("killed_workers_are_replaced", faults::killed_workers_are_replaced),
    ("a_host_without_power_is_made_up_for", faults::a_host_without_power_is_made_up_for),
    ("a_host_without_network_is_made_up_for", faults::a_host_without_network_is_made_up_for),
    ("a_killed_monitor_finds_its_fleet_again", faults::a_killed_monitor_finds_its_fleet_again),
    ("a_second_monitor_stands_by", faults::a_second_monitor_stands_by),
    ("a_restarted_server_keeps_its_fleet", faults::a_restarted_server_keeps_its_fleet),
    ("a_worker_that_refuses_holds_up_nobody", strange::a_worker_that_refuses_holds_up_nobody),
    ("two_connections_are_told_from_two_workers", strange::two_connections_are_told_from_two_workers),
    ("a_host_that_comes_back_gets_its_share", faults::a_host_that_comes_back_gets_its_share),
    ("workers_that_end_as_told_are_no_failures", faults::workers_that_end_as_told_are_no_failures),
    ("a_roll_outlives_its_monitor", strange::a_roll_outlives_its_monitor),
    ("what_a_monitor_does_not_do_at_first_it_does_soon", strange::what_a_monitor_does_not_do_at_first_it_does_soon),
    ("of_two_monitors_one_gives_way", strange::of_two_monitors_one_gives_way),
    ("a_fleet_of_two_servers_outlives_one", servers::a_fleet_of_two_servers_outlives_one),
    ("one_command_does_without_a_monitor", tools::one_command_does_without_a_monitor),
    ("a_monitor_takes_another_file", tools::a_monitor_takes_another_file),
];

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_none() {
        return go_inside();
    }
    world::run(Command::new("ip").args(["link", "set", "lo", "up"]));
    let each = [("ours", Implementation::Ours), ("debian", Implementation::Debian)];
    let trials = TESTS.iter().flat_map(|(name, test)| {
        each.map(|(server, implementation)| {
            Trial::test(format!("{name}_{server}"), move || {
                test(implementation);
                Ok::<(), Failed>(())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Runs this program again where it can make networks and host names, as root or as one who looks like it to
/// itself.
fn go_inside() -> ExitCode {
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let own = std::env::current_exe().expect("the path of this program");
    let error = command.arg("--").arg(own).args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
    panic!("cannot run unshare, of Debian's package util-linux: {error}");
}
